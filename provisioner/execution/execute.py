"""Execution of one environment's plan: create, update, deliver, revoke, and report the results."""

from __future__ import annotations

from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
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
    from provisioner.model.workspace import Workspace
    from provisioner.plan import Action, Planned
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sinks.sink import OpenSink


class Execution:
    """The execution of one environment's plan; its results can be read at any time.

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
        self._planned = planned
        self._workspace = workspace
        self._stop = stop
        self._progress = Progress(planned.environment, on_progress, emit)
        # A name has at most one action of each of these kinds.
        actions = planned.unblocked
        self._create_actions = {
            one.name: one for one in actions if isinstance(one, Create | Rotate)
        }
        self._update_actions = {one.name: one for one in actions if isinstance(one, Update)}
        self._deliver_actions = {one.name: one for one in actions if one.sinks}
        self._names_with_sinks = frozenset(one.name for one in planned.actions if one.sinks)
        self._bulk_create = BulkCreate(
            planned.environment,
            tuple(_keys_to_create(planned)),
            existing_ids,
            workspace,
            run_marker=run_marker,
            stop=stop,
            on_start=self._on_start(self._create_actions),
            on_progress=self._progress.on_progress,
        )
        self._updates = Updates(
            workspace,
            parallel,
            stop,
            on_start=self._on_start(self._update_actions),
            on_progress=self._on_updated,
        )
        self._deliveries = TokenDeliveries(
            workspace,
            open_sink,
            existing_ids,
            parallel=parallel,
            stop=stop,
            on_start=self._on_start(self._deliver_actions),
            on_progress=self._on_delivered,
            reverify_after=reverify_after,
        )
        self._revoke_actions = {one.key_id: one for one in actions if isinstance(one, Revoke)}
        self._revocations = Revocations(
            workspace, stop, may_start=self._start_revocation, on_revoked=self._on_revoked
        )
        self._create_results: dict[str, Result] = {}
        self._tokens_alive: dict[str, Failure] = {}
        self._parallel = parallel
        self._expiry_outcomes: dict[str, Failure | None] = {}

    def run(self) -> None:
        """Carry out every action that is not blocked."""
        updates = tuple(self._update_actions.values())
        self._bulk_create.run()
        self._emit_created()
        self._updates.assign_roles(updates)
        self._deliveries.run(tuple(self._token_deliveries()))
        self._updates.set_expiries(
            [one for one in updates if not one.sinks or self._deliveries.delivered(one.name)]
        )
        self._expire_predecessors()
        self._revoke(tuple(self._ids_to_revoke()))

    def result(self, fallback: Failure | None = None) -> Executed:
        """Return the current result of every action.

        Args:
            fallback: the failure of actions that are not finished, if a bug ended the run.
        """
        creates = {one.action.name: one for one in self._bulk_create.results(fallback)}
        results = (
            self._current_result(action, creates, fallback) for action in self._planned.actions
        )
        return Executed(self._planned, tuple(results))

    def finish(self, fallback: Failure | None = None) -> Executed:
        """Return the result as `result` does, and emit no event after it.

        Args:
            fallback: as for `result`.
        """
        return self._progress.close(lambda: self.result(fallback))

    def _current_result(
        self, action: Action, creates: Mapping[str, Result], fallback: Failure | None
    ) -> Result:
        """Return the current result of an action, given the results of all creates."""
        if action.blocked is not None:
            return Failed(action, action.blocked)
        match action:
            case Create():
                return self._create_result(creates[action.name], fallback)
            case Rotate():
                return self._rotate_result(action, creates[action.name], fallback)
            case Update():
                return self._update_result(action, fallback)
            case Deliver():
                return self._deliver_result(action, fallback)
            case Revoke():
                return self._revoke_result(action, fallback)
            case _:
                assert_never(action)

    def _on_start(self, actions: Mapping[str, Action]) -> Callable[[str], None]:
        """Return a function that emits, given a name, that the action of that name starts."""
        return lambda name: self._progress.on_start(actions[name])

    def _emit_created(self) -> None:
        """Emit the results of creates that are final: they failed, or have no sinks."""
        self._create_results = {one.action.name: one for one in self._bulk_create.results()}
        for name, result in self._create_results.items():
            delivery_follows = (
                isinstance(result, Done | CreatedByAnotherRun) and result.action.sinks
            )
            if not (delivery_follows or isinstance(self._create_actions[name], Rotate)):
                self._progress.on_result(result)

    def _on_updated(self, name: str) -> None:
        """Record that an update is done or failed; its token was delivered before."""
        self._progress.on_progress(1)
        self._emit_result(self._update_actions[name])

    def _on_delivered(self, name: str) -> None:
        """Record that a delivery is done or failed.

        Its action is not finished while an expiry is still to be set or a key to be revoked.
        """
        self._progress.on_progress(1)
        action = self._deliver_actions[name]
        more_follows = isinstance(action, Update) or (
            isinstance(action, Rotate) and action.predecessor_changes
        )
        if not (more_follows and self._deliveries.delivered(name)):
            self._emit_result(action)

    def _emit_result(self, action: Action) -> None:
        self._progress.on_result(self._current_result(action, self._create_results, None))

    def _token_deliveries(self) -> Iterator[TokenDelivery]:
        """Yield the tokens to deliver: of created keys first, then of keys that existed before."""
        predecessor_ids = {
            one.name: one.predecessors
            for one in self._planned.unblocked
            if isinstance(one, Rotate) and one.at_once
        }
        for created in self._bulk_create.created_keys():
            name, sinks = created.action.name, created.action.sinks
            action = self._create_actions[name]
            if sinks:
                yield TokenDelivery(
                    name,
                    created.id,
                    created.expires_at,
                    sinks,
                    predecessor_ids=predecessor_ids.get(name, ()),
                    observed_expires_at=created.expires_at,
                    retires_others=isinstance(action, Rotate) and bool(action.predecessor_changes),
                    advice=delivery_advice(action),
                )
        for one in self._planned.unblocked:
            if isinstance(one, Deliver):
                yield TokenDelivery(
                    one.name,
                    one.key_id,
                    one.expires_at,
                    one.sinks,
                    observed_expires_at=one.expires_at,
                    advice=delivery_advice(one),
                )
            elif isinstance(one, Update) and one.sinks and self._updates.has_not_failed(one.name):
                yield TokenDelivery(
                    one.name, one.key_id, one.expires_at, one.sinks, advice=delivery_advice(one)
                )

    def _expire_predecessors(self) -> None:
        """Give the predecessors of keys rotated on request an earlier expiry, so that they are due.

        That is how a later run recognises the successor and may revoke the old key after the
        overlap.
        """
        delivered = [
            one
            for one in self._planned.unblocked
            if isinstance(one, Rotate)
            and one.predecessor_expires_at
            and self._deliveries.delivered(one.name)
        ]
        with ThreadExecutor(self._parallel) as threads:
            futures = [threads.submit(self._expire_predecessors_of, one) for one in delivered]
            for future in futures:
                future.result()

    def _expire_predecessors_of(self, action: Rotate) -> None:
        assert action.predecessor_expires_at is not None  # noqa: S101 - the caller selects only such actions
        try:
            with bind(key=action.name):
                for key_id in action.predecessors:
                    self._workspace.set_expiry(key_id, action.predecessor_expires_at)
            self._expiry_outcomes[action.name] = None
        except WorkspaceError as error:
            self._expiry_outcomes[action.name] = error.failure
        self._progress.on_progress(1)
        self._emit_result(action)

    def _ids_to_revoke(self) -> Iterator[str]:
        """Yield the ids of the keys to revoke now."""
        for one in self._planned.unblocked:
            match one:
                case Revoke(key_id=key_id) if self._replacement_delivered(one):
                    yield key_id
                case Rotate(at_once=True) if self._deliveries.delivered(one.name):
                    yield from one.predecessors
                case _:
                    pass

    def _replacement_delivered(self, action: Revoke) -> bool:
        """Return whether the key that replaces a duplicate is delivered, or needs no delivery."""
        if action.reason != "duplicate" or action.name not in self._names_with_sinks:
            return True
        return self._deliveries.delivered(action.name)

    def _revoke(self, key_ids: tuple[str, ...]) -> None:
        self._revocations.run(key_ids)
        self._progress.on_progress(
            sum(self._revocations.failure(one) is not None for one in key_ids)
        )
        for key_id in filter(self._revocations.revoked, key_ids):
            if (failure := self._token_alive(key_id)) is not None:
                self._tokens_alive[key_id] = failure

    def _start_revocation(self, key_id: str) -> bool:
        """Return whether a revocation may start, and if so, emit that it does."""
        if self._stop.requested:
            return False
        if (action := self._revoke_actions.get(key_id)) is not None:
            self._progress.on_start(action)
        return True

    def _on_revoked(self, key_id: str) -> None:
        """Record that a key is revoked; a rotation is not finished until all its keys are."""
        self._progress.on_progress(1)
        if (action := self._revoke_actions.get(key_id)) is not None:
            self._emit_result(action)

    def _token_alive(self, key_id: str) -> Failure | None:
        """Return a failure if the server still accepts the known token of a revoked key."""
        token = self._deliveries.former_token(key_id)
        if token is None:
            return None
        try:
            self._workspace.verify_token(token)
        except WorkspaceError:
            return None
        return Failure(
            Code.TOKEN_ALIVE,
            f"The key {key_id} was revoked, but the server still accepts its token. Check the key "
            "in Twenty.",
        )

    def _create_result(self, result: Result, fallback: Failure | None) -> Result:
        """Return the result of a create, including its delivery."""
        if not isinstance(result, Done | CreatedByAnotherRun) or not isinstance(
            result.action, Create
        ):
            return result
        if not result.action.sinks or self._deliveries.delivered(result.action.name):
            return result
        name = result.action.name
        failure = self._deliveries.failure(name, fallback) or _delivery_not_started(
            delivery_advice(self._create_actions[name])
        )
        created = isinstance(result, Done)
        return Unfinished(result.action, result.id, result.record, failure, created=created)

    def _rotate_result(self, action: Rotate, create: Result, fallback: Failure | None) -> Result:
        result = self._create_result(create, fallback)
        if isinstance(result, Done | CreatedByAnotherRun):
            failure = self._predecessor_failure(action, fallback)
            if failure is not None:
                created = isinstance(result, Done)
                result = Unfinished(
                    action, result.id, result.record, failure, created=created, delivered=True
                )
        if action.at_once and isinstance(result, Unfinished):
            result = replace(result, failure=_rotate_again(result.failure, action.name))
        return replace(result, action=action)

    def _predecessor_failure(self, action: Rotate, fallback: Failure | None) -> Failure | None:
        """Return why the predecessors of a delivered successor live longer than planned."""
        if action.at_once:
            failures = (
                self._tokens_alive.get(id_) or self._not_revoked(id_, fallback)
                for id_ in action.predecessors
            )
            return next(filter(None, failures), None)
        if action.predecessor_expires_at is None:
            return None
        failure = self._expiry_outcomes.get(action.name, fallback or _OLD_EXPIRY_NOT_SET)
        return failure and _expiry_not_set(failure, action.predecessors)

    def _not_revoked(self, key_id: str, fallback: Failure | None) -> Failure | None:
        """Return why a predecessor is not revoked; None if it is."""
        if self._revocations.revoked(key_id):
            return None
        return self._revocations.failure(key_id) or fallback or _NOT_REVOKED

    def _update_result(self, action: Update, fallback: Failure | None) -> Result:
        if self._updates.done(action.name):
            return Done(action, action.key_id, None)
        failure = self._updates.failure(action.name)
        if not action.sinks:
            failure = failure or fallback
            return Skipped(action, STOPPED) if failure is None else Failed(action, failure)
        if self._deliveries.delivered(action.name):
            failure = failure or fallback or _EXPIRY_NOT_SET
            return Unfinished(action, action.key_id, None, failure, created=False, delivered=True)
        failure = failure or self._deliveries.failure(action.name, fallback)
        return Skipped(action, STOPPED) if failure is None else Failed(action, failure)

    def _deliver_result(self, action: Deliver, fallback: Failure | None) -> Result:
        if self._deliveries.delivered(action.name):
            return Done(action, action.key_id, None)
        failure = self._deliveries.failure(action.name, fallback)
        return Skipped(action, STOPPED) if failure is None else Failed(action, failure)

    def _revoke_result(self, action: Revoke, fallback: Failure | None) -> Result:
        key_id = action.key_id
        if self._revocations.revoked(key_id):
            return Done(action, key_id, None)
        failure = self._revocations.failure(key_id) or fallback
        if failure is None and not self._stop.requested:
            failure = _NOT_REPLACED
        return Skipped(action, STOPPED) if failure is None else Failed(action, failure)


def _rotate_again(failure: Failure, name: str) -> Failure:
    """Return the failure of a rotation with `at_once`, with the command to repeat it."""
    command = f"provision rotate --now {quote(name)}"
    return failure.advise(f"The old key is still live: run `{command}`.")


def _expiry_not_set(failure: Failure, key_ids: tuple[str, ...]) -> Failure:
    """Return the failure of a predecessor that keeps its expiry, which no `apply` revokes."""
    command = f"provision revoke {' '.join(key_ids)}"
    return failure.advise(
        f"The new token has been delivered: run `{command}` once nothing uses the old key."
    )


def _delivery_not_started(advice: str) -> Failure:
    return Failure(
        Code.STOPPED,
        "The key exists, but the run was stopped before its token was delivered. "
        f"{advice or 'The next run delivers it.'}",
    )


def _keys_to_create(planned: Planned) -> Iterator[Create]:
    """Yield the keys to create, in the order of the plan."""
    for one in planned.unblocked:
        match one:
            case Create():
                yield one
            case Rotate(successor=successor):
                yield successor
            case _:
                pass


_NOT_REVOKED = Failure(
    Code.STOPPED,
    "The new token is delivered, but the run was stopped before the old key was revoked.",
)
_OLD_EXPIRY_NOT_SET = Failure(
    Code.STOPPED,
    "The run was stopped before the expiry of the old key was changed.",
)
_EXPIRY_NOT_SET = Failure(
    Code.STOPPED,
    "The token with the new expiry is delivered, but the run was stopped before the expiry of the "
    "key was changed. The next run changes it.",
)
_NOT_REPLACED = Failure(
    Code.NOT_DELIVERED,
    "This duplicate was not revoked, because the token for the key to keep was not delivered.",
)
