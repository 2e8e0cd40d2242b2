"""Removal of delivered tokens from sinks, after everything else that is done to their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import SinkError
from provisioner.errors.failure import Failure
from provisioner.execution.results import CreatedByAnotherRun, Done, Skipped
from provisioner.model.sink_content import ApiKeyToken, NotAToken, NoToken, Unavailable, Unreadable
from provisioner.plan import Clean
from provisioner.runtime.executor import run_all
from provisioner.runtime.log_context import bind
from provisioner.sinks.probe import content_of
from provisioner.sinks.sink import ReceiptedSink, RemovingSink, StoredValue

if TYPE_CHECKING:
    from provisioner.execution.progress import ExecutionContext
    from provisioner.plan import Planned
    from provisioner.sinks.sink import OpenSink

_IN_FLIGHT = Failure(
    Code.OUTCOME_UNKNOWN,
    "The run ended while the token was being removed. Run the command again to finish.",
)
_TOO_EARLY = Failure(
    Code.NOT_CLEANED,
    "The token was left in the sink, because another action of this key did not succeed. Run the "
    "command again once it can.",
)


@dataclass(frozen=True, slots=True, eq=False)
class Removals:
    """The removals of one environment; one that fails does not stop the others.

    Attributes:
        context: the environment.
        planned: its plan.
        open_sink: opens the sinks.
    """

    context: ExecutionContext
    planned: Planned
    open_sink: OpenSink

    def run(self) -> None:
        """Remove the tokens of names of which everything else is done, and skip the others.

        Raises:
            Exception: a bug that one removal met, once all the others have finished.
        """
        if self.context.stop.requested:
            return
        progress = self.context.progress
        incomplete = {
            action.name
            for action in self.planned.actions
            if not isinstance(action, Clean)
            and not isinstance(progress.result(action), Done | CreatedByAnotherRun)
        }
        removals: list[Clean] = []
        for action in self.planned.unblocked:
            if not isinstance(action, Clean) or progress.finished(action):
                continue
            if action.name in incomplete:
                progress.finish(Skipped(action, _TOO_EARLY))
            else:
                removals.append(action)
        run_all(self._remove, removals, self.context.parallel)

    def _remove(self, action: Clean) -> None:
        if self.context.stop.requested:
            return
        progress = self.context.progress
        progress.start(action, _IN_FLIGHT)
        try:
            with bind(key=action.name):
                failure = self._failure_to_remove(action)
        except SinkError as error:
            failure = error.failure
        progress.count("clean")
        if failure is None:
            progress.finish(Done(action, action.key_id, None))
        else:
            progress.fail(action, failure)

    def _failure_to_remove(self, action: Clean) -> Failure | None:
        """Read the sink again, and remove the token of the plan; return why it is still there."""
        sink = self.open_sink(action.sink)
        if not isinstance(sink, RemovingSink | ReceiptedSink):
            return Failure(
                Code.NOT_CLEANED,
                f"{action.sink} cannot remove a token. Remove it by hand.",
            )
        stored = sink.read()
        content = content_of(stored)
        match content:
            case NoToken(leftover=None):
                return None
            case ApiKeyToken() if isinstance(sink, RemovingSink):
                assert isinstance(stored, StoredValue)  # noqa: S101 - it is a token
                if content.has_claims_of(action.token) and sink.remove(stored.value):
                    return None
            case NoToken() | Unreadable() if isinstance(sink, ReceiptedSink):
                if sink.remove_delivered(action.token):
                    return None
            case NoToken() | ApiKeyToken() | NotAToken() | Unreadable() | Unavailable():
                pass
            case _:
                assert_never(content)
        return Failure(
            Code.NOT_CLEANED,
            f"{action.sink} has changed since the plan was made, so its content was left. Make a "
            "new plan.",
        )
