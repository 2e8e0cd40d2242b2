"""Execution of one environment's plan: create, update, deliver, revoke, and report the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.execution.context import ExecutionContext, revoke_keys, run_all
from provisioner.execution.create import BulkCreate
from provisioner.execution.deliver import REVERIFY_AFTER, Delivery, TokenDeliveries
from provisioner.execution.events import ignore
from provisioner.execution.progress import Progress
from provisioner.execution.results import OLD_KEY_PENDING, Done, Failed, completed, delivered
from provisioner.execution.update import Updates
from provisioner.plan import Create, Deliver, Revoke, Rotate, Update
from provisioner.runtime.log_context import bind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from provisioner.execution.conflict import RunMarker
    from provisioner.execution.events import Emit
    from provisioner.model.workspace import Workspace
    from provisioner.plan import Action, Planned
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.secret import Secret
    from provisioner.sinks.sink import OpenSink

_REVOCATION_IN_FLIGHT = Failure(
    Code.OUTCOME_UNKNOWN,
    "The run ended while the key was being revoked. Run `provision list` to see whether it was.",
)
_NOT_REPLACED = Failure(
    Code.NOT_DELIVERED,
    "This duplicate was not revoked, because the token for the key to keep was not delivered.",
)


class Execution:
    """The execution of one environment's plan; its `progress` has the results at any time.

    No key is revoked or made to expire earlier before its replacement is delivered: the run creates
    keys and assigns roles first, then delivers tokens, and sets expiries and revokes keys last. The
    next run notices an expiry that is not set, but not always a missing token.

    Args:
        planned: the environment's plan.
        existing_ids: the ids of all keys that the workspace had when the plan was made.
        workspace: the workspace to change.
        open_sink: opens the sinks of the actions.
        parallel: deliveries and updates at the same time.
        run_marker: the marker of this run.
        stop: once requested, nothing starts.
        on_progress: called with the number of steps whose outcome has become known; `Plan.steps` is
            the total.
        emit: receives the events of the actions.
        reverify_after: seconds of writing to sinks after which a token is verified once more.
    """

    def __init__(  # noqa: PLR0913 - what a run knows of one environment
        self,
        planned: Planned,
        existing_ids: frozenset[str],
        workspace: Workspace,
        open_sink: OpenSink,
        *,
        parallel: int,
        run_marker: RunMarker,
        stop: Cancellation,
        on_progress: Callable[[int], None],
        emit: Emit = ignore,
        reverify_after: float = REVERIFY_AFTER,
    ) -> None:
        self._actions = planned.unblocked
        self._with_sinks = {one.name: one for one in planned.actions if one.sinks}
        self._open_sink = open_sink
        self._run_marker = run_marker
        self._reverify_after = reverify_after
        self.progress = Progress(planned, on_progress, emit)
        self._context = ExecutionContext(
            planned.environment, workspace, existing_ids, parallel, stop, self.progress
        )

    def run(self) -> None:
        """Carry out every action that is not blocked."""
        creates = (one for one in self._actions if isinstance(one, Create | Rotate))
        updates = Updates(
            self._context, tuple(one for one in self._actions if isinstance(one, Update))
        )
        deliveries = TokenDeliveries(self._context, self._open_sink, self._reverify_after)

        created = BulkCreate(self._context, creates, self._run_marker).run()
        updates.assign_roles()
        deliveries.run((*created, *self._deliveries_of_existing_keys()))
        updates.set_expiries()
        run_all(self._expire_predecessors, self._delivered_rotations(), self._context.parallel)
        self._revoke(deliveries.former_tokens)

    def _deliveries_of_existing_keys(self) -> Iterator[Delivery]:
        """Yield the tokens of keys that existed before the run."""
        for action in self._actions:
            if (
                isinstance(action, Deliver | Update)
                and action.sinks
                and not self.progress.finished(action)
            ):
                yield Delivery(action, action.key_id, action.expires_at)

    def _delivered_rotations(self) -> list[Rotate]:
        """Return the rotations whose successor is delivered."""
        rotations = (one for one in self._actions if isinstance(one, Rotate))
        return [one for one in rotations if delivered(self.progress.result(one))]

    def _expire_predecessors(self, action: Rotate) -> None:
        """Give the predecessors of a key rotated on request an earlier expiry.

        That is how a later run recognises the successor and may revoke the old key after the
        overlap.
        """
        if action.predecessor_expires_at is None:
            return
        failure = None
        try:
            with bind(key=action.name):
                for key_id in action.predecessors:
                    self._context.workspace.set_expiry(key_id, action.predecessor_expires_at)
        except WorkspaceError as error:
            failure = error.failure
        self.progress.count()
        self._finish(action, failure)

    def _revoke(self, former_tokens: Mapping[str, Secret]) -> None:
        """Revoke the keys whose replacement is delivered, and those that need none.

        Args:
            former_tokens: tokens of predecessors, which must not work afterwards.
        """
        revoking = list(self._revoking_actions())
        actions = {
            key_id: action
            for action in revoking
            for key_id in ((action.key_id,) if isinstance(action, Revoke) else action.predecessors)
        }

        def may_start(key_id: str) -> bool:
            if self._context.stop.requested:
                return False
            self.progress.start(actions[key_id], _REVOCATION_IN_FLIGHT)
            return True

        def on_revoked(key_id: str) -> None:
            self.progress.count()
            if isinstance(action := actions[key_id], Revoke):
                self.progress.finish(Done(action, key_id, None))

        outcomes = revoke_keys(self._context, actions, may_start=may_start, on_revoked=on_revoked)
        if failed := sum(failure is not None for failure in outcomes.values()):
            self.progress.count(failed)
        for action in revoking:
            match action:
                case Revoke():
                    self._finish(action, outcomes.get(action.key_id))
                case Rotate():
                    failures = (
                        outcomes.get(key_id, OLD_KEY_PENDING)
                        or self._token_alive(key_id, former_tokens)
                        for key_id in action.predecessors
                    )
                    self._finish(action, next(filter(None, failures), None))
                case _:
                    assert_never(action)

    def _revoking_actions(self) -> Iterator[Revoke | Rotate]:
        """Yield the actions that revoke keys now, except duplicates of an undelivered key."""
        yield from (rotation for rotation in self._delivered_rotations() if rotation.at_once)
        for action in self._actions:
            if isinstance(action, Revoke):
                duplicate = action.reason == "duplicate"
                kept = self._with_sinks.get(action.name) if duplicate else None
                if kept is None or delivered(self.progress.result(kept)):
                    yield action
                elif not self._context.stop.requested:
                    self.progress.finish(Failed(action, _NOT_REPLACED))

    def _finish(self, action: Action, failure: Failure | None) -> None:
        """Record that the last step of an action failed, or that none did."""
        if failure is None:
            self.progress.finish(completed(self.progress.result(action)))
        else:
            self.progress.fail(action, failure)

    def _token_alive(self, key_id: str, former_tokens: Mapping[str, Secret]) -> Failure | None:
        """Return a failure if the server still accepts the known token of a revoked key."""
        token = former_tokens.get(key_id)
        if token is None:
            return None
        try:
            self._context.workspace.verify_token(token)
        except WorkspaceError:
            return None
        return Failure(
            Code.TOKEN_ALIVE,
            f"The key {key_id} was revoked, but the server still accepts its token. Check the key "
            "in Twenty.",
        )
