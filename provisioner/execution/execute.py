"""One environment's plan carried out: keys made, changed, delivered, ended, and reported."""

from __future__ import annotations

from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure, failure_of
from provisioner.execution.create import BulkCreate
from provisioner.execution.deliver import (
    REVERIFY_AFTER,
    TokenDeliveries,
    TokenDelivery,
    delivery_advice,
)
from provisioner.execution.events import ignore
from provisioner.execution.progress import Progress
from provisioner.execution.results import (
    CreatedByAnotherRun,
    Done,
    Executed,
    Failed,
    Skipped,
    Unfinished,
)
from provisioner.execution.revoke import Revocations
from provisioner.execution.update import Updates
from provisioner.plan import Create, Deliver, Revoke, Rotate, Update
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import ThreadExecutor
from provisioner.runtime.log_context import bind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from provisioner.execution.events import Emit
    from provisioner.execution.results import Result
    from provisioner.execution.run_marker import RunMarker
    from provisioner.plan import Action, Planned
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sinks.sink import OpenSink
    from provisioner.twenty.workspace import Workspace


class Execution:
    """The actions of one environment on their way; what became of them can be asked at any time.

    Nothing ends before what takes its place is delivered: keys are made and get their roles first,
    then tokens are delivered, and only then are ends moved and keys revoked. An end that is not yet
    moved is seen by the next run, a token that did not arrive need not be.

    Args:
        planned: the environment's plan.
        before: the ids of all keys that the workspace held when it was planned.
        workspace: where to carry it out.
        open_sink: opens the sinks of the actions.
        parallel: deliveries and changes at once.
        mark: of this run.
        stop: once it is asked for, nothing begins.
        on_progress: called with the number of steps whose outcome has become known, of the plan's
            `steps`.
        emit: is told what happens.
        long: seconds on the way to its sinks after which a token is proven once more.
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
        self._planned = planned
        self._workspace = workspace
        self._stop = stop
        self._progress = Progress(planned.environment, on_progress, emit)
        # Of one name there may be a change beside a successor or a delivery, and no two of a kind.
        actions = planned.unblocked
        self._makes = {one.name: one for one in actions if isinstance(one, Create | Rotate)}
        self._changes = {one.name: one for one in actions if isinstance(one, Update)}
        self._delivers = {one.name: one for one in actions if one.sinks}
        self._sinking = frozenset(one.name for one in planned.actions if one.sinks)
        self._creation = BulkCreate(
            planned.environment,
            tuple(_creates(planned)),
            existing_ids,
            workspace,
            run_marker=run_marker,
            stop=stop,
            on_start=self._on_start(self._makes),
            on_progress=self._progress.on_progress,
        )
        self._changing = Updates(
            workspace,
            parallel,
            stop,
            on_start=self._on_start(self._changes),
            on_progress=self._changed,
        )
        self._delivery = TokenDeliveries(
            workspace,
            open_sink,
            existing_ids,
            parallel=parallel,
            stop=stop,
            on_start=self._on_start(self._delivers),
            on_progress=self._arrived,
            reverify_after=reverify_after,
        )
        self._revokes = {one.key_id: one for one in actions if isinstance(one, Revoke)}
        self._revoking = Revocations(
            workspace, stop, may_start=self._may_revoke, on_revoked=self._has_ended
        )
        self._made: dict[str, Result] = {}
        self._alive: dict[str, Failure] = {}
        self._parallel = parallel
        self._marked: dict[str, Failure | None] = {}

    def run(self) -> None:
        """Carries out every action that is not blocked."""
        updates = tuple(self._changes.values())
        self._creation.run()
        self._emit_created()
        self._changing.assign_roles(updates)
        self._delivery.run(tuple(self._deliveries()))
        self._changing.set_expiries(
            [one for one in updates if not one.sinks or self._delivery.delivered(one.name)]
        )
        self._mark_due()
        self._revoke(tuple(self._ending()))

    def result(self, fallback: Failure | None = None) -> Executed:
        """What is known now of every action.

        Args:
            otherwise: the failure of actions that are still open, where a bug ended the run.
        """
        made = {one.action.name: one for one in self._creation.results(fallback)}
        results = (self._known(action, made, fallback) for action in self._planned.actions)
        return Executed(self._planned, tuple(results))

    def finish(self, fallback: Failure | None = None) -> Executed:
        """As `result`, and the last word: what happens afterwards is told to nobody."""
        return self._progress.close(lambda: self.result(fallback))

    def _known(
        self, action: Action, made: Mapping[str, Result], otherwise: Failure | None
    ) -> Result:
        """What is known now of an action, given what became of all creates."""
        if action.blocked is not None:
            return Failed(action, action.blocked)
        match action:
            case Create():
                return self._delivered(made[action.name], otherwise)
            case Rotate():
                return self._rotated(action, made[action.name], otherwise)
            case Update():
                return self._updated(action, otherwise)
            case Deliver():
                return self._redelivered(action, otherwise)
            case Revoke():
                return self._revoked(action, otherwise)
            case _:
                assert_never(action)

    def _on_start(self, actions: Mapping[str, Action]) -> Callable[[str], None]:
        """What tells that one of these actions begins, by its name."""
        return lambda name: self._progress.on_start(actions[name])

    def _emit_created(self) -> None:
        """Tells of the creates that nothing more comes of: they failed, or go to no sink."""
        self._made = {one.action.name: one for one in self._creation.results()}
        for name, result in self._made.items():
            going_on = isinstance(result, Done | CreatedByAnotherRun) and result.action.sinks
            if not (going_on or isinstance(self._makes[name], Rotate)):
                self._progress.on_result(result)

    def _changed(self, name: str) -> None:
        """Takes in that a change is done or failed; its token is delivered before that."""
        self._progress.on_progress(1)
        self._emit_result(self._changes[name])

    def _arrived(self, name: str) -> None:
        """Takes in that a delivery has ended; an end may still be to move, or a key to end."""
        self._progress.on_progress(1)
        action = self._delivers[name]
        going_on = isinstance(action, Update) or (isinstance(action, Rotate) and action.endings)
        if not (going_on and self._delivery.delivered(name)):
            self._emit_result(action)

    def _emit_result(self, action: Action) -> None:
        self._progress.on_result(self._known(action, self._made, None))

    def _deliveries(self) -> Iterator[TokenDelivery]:
        """The tokens that are to reach sinks."""
        former = {
            one.name: one.predecessors
            for one in self._planned.unblocked
            if isinstance(one, Rotate) and one.at_once
        }
        for made in self._creation.created_keys():
            name, sinks = made.action.name, made.action.sinks
            action = self._makes[name]
            if sinks:
                yield TokenDelivery(
                    name,
                    made.id,
                    made.expires_at,
                    sinks,
                    predecessor_ids=former.get(name, ()),
                    observed_expires_at=made.expires_at,
                    retires_others=isinstance(action, Rotate) and bool(action.endings),
                    advice=delivery_advice(action),
                )
        for one in self._planned.unblocked:
            if isinstance(one, Deliver):
                end = one.expires_at
                yield TokenDelivery(
                    one.name,
                    one.key_id,
                    end,
                    one.sinks,
                    observed_expires_at=end,
                    advice=delivery_advice(one),
                )
            elif isinstance(one, Update) and one.sinks and self._changing.has_not_failed(one.name):
                yield TokenDelivery(
                    one.name, one.key_id, one.expires_at, one.sinks, advice=delivery_advice(one)
                )

    def _mark_due(self) -> None:
        """Has keys that were rotated on request end earlier, so that they were due for it.

        By that a later run knows the successor for one, and may end the old key after its overlap.
        """
        delivered = [
            one
            for one in self._planned.unblocked
            if isinstance(one, Rotate) and one.due_at and self._delivery.delivered(one.name)
        ]
        with ThreadExecutor(self._parallel) as threads:
            for work in [threads.submit(self._mark_one_due, one) for one in delivered]:
                work.result()

    def _mark_one_due(self, action: Rotate) -> None:
        assert action.due_at is not None  # noqa: S101 - whoever asks has looked
        try:
            with bind(key=action.name):
                for key_id in action.predecessors:
                    self._workspace.set_expiry(key_id, action.due_at)
            self._marked[action.name] = None
        except WorkspaceError as error:
            self._marked[action.name] = failure_of(error)
        self._progress.on_progress(1)
        self._emit_result(action)

    def _ending(self) -> Iterator[str]:
        """The ids of keys that are to end now."""
        for one in self._planned.unblocked:
            match one:
                case Revoke(key_id=key_id) if self._may_end(one):
                    yield key_id
                case Rotate(at_once=True) if self._delivery.delivered(one.name):
                    yield from one.predecessors
                case _:
                    pass

    def _may_end(self, action: Revoke) -> bool:
        """Whether what is to take the place of a surplus key is delivered, where it has to be."""
        if action.reason != "duplicate" or action.name not in self._sinking:
            return True
        return self._delivery.delivered(action.name)

    def _revoke(self, key_ids: tuple[str, ...]) -> None:
        self._revoking.run(key_ids)
        self._progress.on_progress(sum(self._revoking.failure(one) is not None for one in key_ids))
        for key_id in filter(self._revoking.revoked, key_ids):
            if (why := self._still_alive(key_id)) is not None:
                self._alive[key_id] = why

    def _may_revoke(self, key_id: str) -> bool:
        """Whether a revocation may begin, which is told of then."""
        if self._stop.asked:
            return False
        if (action := self._revokes.get(key_id)) is not None:
            self._progress.on_start(action)
        return True

    def _has_ended(self, key_id: str) -> None:
        """Takes in that a key has ended; that of a rotation is told of when all have."""
        self._progress.on_progress(1)
        if (action := self._revokes.get(key_id)) is not None:
            self._emit_result(action)

    def _still_alive(self, key_id: str) -> Failure | None:
        """What is wrong where the server still accepts the known token of a revoked key."""
        token = self._delivery.former_token(key_id)
        if token is None:
            return None
        try:
            self._workspace.verify_token(token)
        except WorkspaceError:
            return None
        return Failure(
            "token_alive",
            f"The key {key_id} was revoked, and its token is still accepted. Look at it in Twenty.",
        )

    def _delivered(self, result: Result, otherwise: Failure | None) -> Result:
        """What became of a create, its delivery included."""
        if not isinstance(result, Done | CreatedByAnotherRun) or not isinstance(
            result.action, Create
        ):
            return result
        if not result.action.sinks or self._delivery.delivered(result.action.name):
            return result
        name = result.action.name
        why = self._delivery.failure(name, otherwise) or _not_begun(
            delivery_advice(self._makes[name])
        )
        made = isinstance(result, Done)
        return Unfinished(result.action, result.id, result.record, why, created=made)

    def _rotated(self, action: Rotate, made: Result, otherwise: Failure | None) -> Result:
        result = self._delivered(made, otherwise)
        if isinstance(result, Done | CreatedByAnotherRun):
            why = self._not_followed(action, otherwise)
            if why is not None:
                ours = isinstance(result, Done)
                result = Unfinished(
                    action, result.id, result.record, why, created=ours, delivered=True
                )
        if action.at_once and isinstance(result, Unfinished):
            result = replace(result, failure=_once_more(result.failure, action.name))
        return replace(result, action=action)

    def _not_followed(self, action: Rotate, otherwise: Failure | None) -> Failure | None:
        """Why the older keys of a delivered successor live on longer than they are to."""
        if action.at_once:
            whys = (
                self._alive.get(id_) or self._left(id_, otherwise) for id_ in action.predecessors
            )
            return next(filter(None, whys), None)
        if action.due_at is None:
            return None
        why = self._marked.get(action.name, otherwise or _NOT_ENDED)
        return why and _not_marked(why, action.predecessors)

    def _left(self, key_id: str, otherwise: Failure | None) -> Failure | None:
        """Why a predecessor has not ended; None where it has."""
        if self._revoking.revoked(key_id):
            return None
        return self._revoking.failure(key_id) or otherwise or _NOT_ENDED

    def _updated(self, action: Update, otherwise: Failure | None) -> Result:
        if self._changing.done(action.name):
            return Done(action, action.key_id, None)
        why = self._changing.failure(action.name)
        if not action.sinks:
            why = why or otherwise
            return Skipped(action, STOPPED) if why is None else Failed(action, why)
        if self._delivery.delivered(action.name):
            why = why or otherwise or _NOT_MOVED
            return Unfinished(action, action.key_id, None, why, created=False, delivered=True)
        why = why or self._delivery.failure(action.name, otherwise)
        return Skipped(action, STOPPED) if why is None else Failed(action, why)

    def _redelivered(self, action: Deliver, otherwise: Failure | None) -> Result:
        if self._delivery.delivered(action.name):
            return Done(action, action.key_id, None)
        why = self._delivery.failure(action.name, otherwise)
        return Skipped(action, STOPPED) if why is None else Failed(action, why)

    def _revoked(self, action: Revoke, otherwise: Failure | None) -> Result:
        key_id = action.key_id
        if self._revoking.revoked(key_id):
            return Done(action, key_id, None)
        why = self._revoking.failure(key_id) or otherwise
        if why is None and not self._stop.asked:
            why = _NOT_REPLACED
        return Skipped(action, STOPPED) if why is None else Failed(action, why)


def _once_more(failure: Failure, name: str) -> Failure:
    """A failure that leaves an old key alive that was to end at once: no `apply` sees that."""
    again = f"provision rotate --now {quote(name)}"
    return Failure(failure.code, f"{failure.message} The old key is still live: run `{again}`.")


def _not_marked(failure: Failure, key_ids: tuple[str, ...]) -> Failure:
    """A failure that leaves an old key as long a life as it had: no `apply` ends it."""
    command = f"provision revoke {' '.join(key_ids)}"
    return Failure(
        failure.code,
        f"{failure.message} The successor is delivered: run `{command}` when nothing uses the old "
        "key any more.",
    )


def _not_begun(again: str) -> Failure:
    return Failure(
        "stopped",
        "The key is made, and the run was told to stop before its token was delivered. "
        f"{again or 'The next run delivers it.'}",
    )


def _creates(planned: Planned) -> Iterator[Create]:
    """The keys that are to be made, in the order of the plan."""
    for one in planned.unblocked:
        match one:
            case Create():
                yield one
            case Rotate(successor=successor):
                yield successor
            case _:
                pass


_NOT_ENDED = Failure(
    "stopped",
    "The successor is delivered, and the run was told to stop before the old key was revoked.",
)
_NOT_MOVED = Failure(
    "stopped",
    "The token with the new end is delivered, and the run was told to stop before the key's own "
    "end was moved. The next run moves it.",
)
_NOT_REPLACED = Failure(
    "not_delivered",
    "The key stays, because the token of the one that stays could not be delivered first.",
)
