"""Execution of one environment's plan: rename, create, update, deliver, revoke, clean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.execution.clean import Removals
from provisioner.execution.create import BulkCreate
from provisioner.execution.deliver import REVERIFY_AFTER, TokenDeliveries
from provisioner.execution.progress import revoke_keys
from provisioner.execution.rename import Renames
from provisioner.execution.results import OLD_KEY_PENDING, Done, Failed, completed, delivered
from provisioner.execution.token_flow import Delivery
from provisioner.execution.update import Updates
from provisioner.plan import Create, Deliver, Revoke, Rotate, Update
from provisioner.runtime.executor import run_all
from provisioner.runtime.log_context import bind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from provisioner.execution.conflict import RunMarker
    from provisioner.execution.progress import ExecutionContext
    from provisioner.plan import Action, Planned
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


@dataclass(frozen=True, slots=True, eq=False)
class Execution:
    """The execution of one environment's plan; the progress has the results at any time.

    Keys get their new names first, as everything else goes by names. No key is revoked or made to
    expire earlier before its replacement is delivered: the run creates keys and assigns roles,
    delivers each token as soon as its key is settled, and sets expiries and revokes keys last. The
    next run notices an expiry that is not set, but not always a missing token. Tokens are removed
    from other sinks at the very end, if all of that succeeded for their key.

    Attributes:
        planned: the environment's plan.
        context: the environment.
        open_sink: opens the sinks of the actions.
        run_marker: the marker of this run.
        reverify_after: seconds of writing to sinks after which a token is verified once more.
    """

    planned: Planned
    context: ExecutionContext
    open_sink: OpenSink
    run_marker: RunMarker
    reverify_after: float = REVERIFY_AFTER

    def run(self) -> None:
        """Carry out every action that is not blocked."""
        Renames(self.context, self.planned.unblocked).run()
        updates = Updates(self.context, tuple(one for one in self._open if isinstance(one, Update)))
        deliveries = TokenDeliveries(self.context, self.open_sink, self.reverify_after)
        deliveries.run(self._prepare(updates))
        updates.set_expiries()
        run_all(self._expire_predecessors, self._delivered_rotations(), self.context.parallel)
        self._revoke(deliveries.former_tokens)
        Removals(self.context, self.planned, self.open_sink).run()

    @property
    def _open(self) -> tuple[Action, ...]:
        """Return the actions that can be carried out and have no final result."""
        finished = self.context.progress.finished
        return tuple(one for one in self.planned.unblocked if not finished(one))

    def _prepare(self, updates: Updates) -> Iterator[tuple[Delivery, ...]]:
        """Create keys and assign roles; yield the tokens that can be delivered meanwhile."""
        actions, progress = self._open, self.context.progress
        yield tuple(
            Delivery(one, one.key_id, one.expires_at) for one in actions if isinstance(one, Deliver)
        )
        creates = (one for one in actions if isinstance(one, Create | Rotate))
        yield from BulkCreate(self.context, self.run_marker).run(creates)
        updates.assign_roles()
        yield tuple(
            Delivery(one, one.key_id, one.expires_at)
            for one in updates.updates
            if one.sinks and not progress.finished(one)
        )

    def _delivered_rotations(self) -> list[Rotate]:
        """Return the rotations whose successor is delivered."""
        rotations = (one for one in self.planned.unblocked if isinstance(one, Rotate))
        return [one for one in rotations if delivered(self.context.progress.result(one))]

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
                    self.context.workspace.set_expiry(key_id, action.predecessor_expires_at)
        except WorkspaceError as error:
            failure = error.failure
        self.context.progress.count("change")
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
            if self.context.stop.requested:
                return False
            self.context.progress.start(actions[key_id], _REVOCATION_IN_FLIGHT)
            return True

        def on_revoked(key_id: str) -> None:
            self.context.progress.count("revoke")
            if isinstance(action := actions[key_id], Revoke):
                self.context.progress.finish(Done(action, key_id, None))

        outcomes = revoke_keys(self.context, actions, may_start=may_start, on_revoked=on_revoked)
        if failed := sum(failure is not None for failure in outcomes.values()):
            self.context.progress.count("revoke", failed)
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
        with_sinks = {one.name: one for one in self.planned.actions if one.sinks}
        yield from (rotation for rotation in self._delivered_rotations() if rotation.at_once)
        for action in self._open:
            if isinstance(action, Revoke):
                duplicate = action.reason == "duplicate"
                kept = with_sinks.get(action.name) if duplicate else None
                if kept is None or delivered(self.context.progress.result(kept)):
                    yield action
                elif not self.context.stop.requested:
                    self.context.progress.finish(Failed(action, _NOT_REPLACED))

    def _finish(self, action: Action, failure: Failure | None) -> None:
        """Record that the last step of an action failed, or that none did."""
        if failure is None:
            self.context.progress.finish(completed(self.context.progress.result(action)))
        else:
            self.context.progress.fail(action, failure)

    def _token_alive(self, key_id: str, former_tokens: Mapping[str, Secret]) -> Failure | None:
        """Return a failure if the server still accepts the known token of a revoked key."""
        token = former_tokens.get(key_id)
        if token is None:
            return None
        try:
            self.context.workspace.verify_token(token)
        except WorkspaceError:
            return None
        return Failure(
            Code.TOKEN_ALIVE,
            f"The key {key_id} was revoked, but the server still accepts its token. Check the key "
            "in Twenty.",
        )
