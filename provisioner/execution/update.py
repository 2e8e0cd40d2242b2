"""Updates of live keys: another role or another expiry."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.execution.results import EXPIRY_PENDING, Done, Failed, delivered
from provisioner.runtime.executor import run_all
from provisioner.runtime.log_context import bind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from provisioner.execution.progress import ExecutionContext
    from provisioner.model.observed import Observation
    from provisioner.plan import Update

_ROLE_DELAY = 1.0
"""Seconds after which a key that another run is just creating has its role."""

_IN_FLIGHT = Failure(
    Code.OUTCOME_UNKNOWN,
    "The run ended while the key was being changed. The next run checks the key and finishes the "
    "change.",
)


@dataclass(slots=True, eq=False)
class Updates:
    """The updates of one environment; one that fails does not stop the others.

    Attributes:
        context: the environment.
        updates: the updates that are not blocked.
    """

    context: ExecutionContext
    updates: tuple[Update, ...]
    _observation_lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _observation: Observation | None = field(default=None, init=False)

    def assign_roles(self) -> None:
        """Assign the roles.

        Raises:
            Exception: a bug that one update met, once all the others have finished.
        """
        self._run_all(self._assign_role, (one for one in self.updates if one.role_id is not None))

    def set_expiries(self) -> None:
        """Set the expiry of keys whose token, if it has sinks, has been delivered.

        Raises:
            Exception: as for `assign_roles`.
        """
        selected = (
            one
            for one in self.updates
            if one.sets_expiry
            and not self.context.progress.finished(one)
            and (not one.sinks or delivered(self.context.progress.result(one)))
        )
        self._run_all(self._set_expiry, selected)

    def _run_all(self, step: Callable[[Update], None], updates: Iterable[Update]) -> None:
        def run_one(update: Update) -> None:
            if self.context.stop.requested:
                return
            self.context.progress.start(update, _IN_FLIGHT)
            try:
                with bind(key=update.name):
                    step(update)
            except WorkspaceError as error:
                self.context.progress.count("change")
                self.context.progress.fail(update, error.failure)

        run_all(run_one, updates, self.context.parallel)

    def _assign_role(self, update: Update) -> None:
        if update.role_id is not None and self._needs_role(update):
            self.context.workspace.assign_role(update.key_id, update.role_id)
        if update.sets_expiry:
            self.context.progress.update(Failed(update, EXPIRY_PENDING))
        else:
            self._finish(update)

    def _set_expiry(self, update: Update) -> None:
        self.context.workspace.set_expiry(update.key_id, update.expires_at)
        self._finish(update)

    def _finish(self, update: Update) -> None:
        self.context.progress.count("change")
        self.context.progress.finish(Done(update, update.key_id, None))

    def _needs_role(self, update: Update) -> bool:
        """Return whether the key still lacks its role.

        A key that had no role in the plan may have been in the middle of its creation.
        """
        if not any(one.field == "role" and one.actual is None for one in update.changes):
            return True
        observation = self._second_observation()
        key = next((one for one in observation.keys if one.id == update.key_id), None)
        return key is None or key.role_id != update.role_id

    def _second_observation(self) -> Observation:
        """Return one observation, shared by all updates, that is later than the plan's."""
        with self._observation_lock:
            if self._observation is None:
                self.context.stop.sleep(_ROLE_DELAY)
                self._observation = self.context.workspace.observe()
            return self._observation
