"""Renames of live keys, before everything else that is done to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.execution.results import Done, Skipped
from provisioner.plan import Rename
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import run_all
from provisioner.runtime.log_context import bind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from provisioner.execution.progress import ExecutionContext
    from provisioner.plan import Action

_IN_FLIGHT = Failure(
    Code.OUTCOME_UNKNOWN,
    "The run ended while the key was being renamed. The next run checks its name and finishes the "
    "rename.",
)
_NOT_RENAMED = Failure(
    Code.NOT_RENAMED,
    "Nothing else was done to the key, because it was not renamed first. Run the command again.",
)


@dataclass(frozen=True, slots=True, eq=False)
class Renames:
    """The renames of one environment; one that fails does not stop those of other names.

    Attributes:
        context: the environment.
        actions: the actions of the plan that are not blocked.
    """

    context: ExecutionContext
    actions: Sequence[Action]

    def run(self) -> None:
        """Rename every key, and skip all other actions of a name whose keys are not all renamed.

        Of several keys of a name the current one is renamed first: if the run ends before the
        others, the next one recognises them as its predecessors.

        Raises:
            Exception: a bug that one rename met, once all the others have finished.
        """
        renames = [one for one in self.actions if isinstance(one, Rename)]
        first: dict[str, Rename] = {}
        for one in renames:
            first.setdefault(one.name, one)
        self._rename_all(first.values())
        self._rename_all(
            one for one in renames if one is not first[one.name] and self._renamed(first[one.name])
        )
        failed = {one.name for one in renames if not self._renamed(one)}
        failure = STOPPED if self.context.stop.requested else _NOT_RENAMED
        for action in self.actions:
            if action.name in failed and not self.context.progress.finished(action):
                self.context.progress.finish(Skipped(action, failure))

    def _rename_all(self, renames: Iterable[Rename]) -> None:
        failures: list[tuple[Rename, Failure]] = []

        def rename(action: Rename) -> None:
            if self.context.stop.requested:
                return
            self.context.progress.start(action, _IN_FLIGHT)
            try:
                with bind(key=action.name):
                    self.context.workspace.rename(action.key_id, action.name)
            except WorkspaceError as error:
                failures.append((action, error.failure))
            else:
                self._finish(action)

        run_all(rename, renames, self.context.parallel)
        # The answer of a rename that was done may have been lost, so its failure shows nothing.
        observation = self.context.observe() if failures else None
        names = {} if observation is None else {key.id: key.name for key in observation.keys}
        for action, failure in failures:
            if names.get(action.key_id) == action.name:
                self._finish(action)
            else:
                self.context.progress.count("change")
                self.context.progress.fail(action, failure)

    def _finish(self, action: Rename) -> None:
        self.context.progress.count("change")
        self.context.progress.finish(Done(action, action.key_id, None))

    def _renamed(self, action: Rename) -> bool:
        return isinstance(self.context.progress.result(action), Done)
