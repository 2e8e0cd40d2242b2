"""The environment of an execution, and the progress of its actions.

The workers write the progress, and everybody else reads it. An action is pending until it starts,
and running until it finishes as done or failed. Until then its result is the one that it would have
if the run ended now. Each action starts at most once and finishes once.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from shlex import quote
from typing import TYPE_CHECKING, Protocol, assert_never

from provisioner.errors.exceptions import WorkspaceError
from provisioner.execution.events import (
    ActionBegun,
    ActionEnded,
    EnvironmentFinished,
    StepsSettled,
)
from provisioner.execution.results import (
    Executed,
    Failed,
    Skipped,
    Unfinished,
    is_open,
    with_failure,
)
from provisioner.plan import Clean, Create, Deliver, Rename, Revoke, Rotate, Update
from provisioner.runtime.backoff import attempts
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import run_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from provisioner.errors.failure import Failure
    from provisioner.execution.events import Event
    from provisioner.execution.results import Result
    from provisioner.model.observed import Observation
    from provisioner.model.workspace import Workspace
    from provisioner.plan import Action, Planned, Step
    from provisioner.runtime.cancellation import Cancellation

    _Key = tuple[type[Action], str]

_LOG = logging.getLogger(__name__)

_PARALLEL_REVOCATIONS = 8
"""Revocations at the same time; the workspace applies its own limit as well."""


class Emit(Protocol):
    """Receives the events of a run, from several threads; neither waits nor raises."""

    def __call__(self, event: Event, /) -> None:
        """Receive one event."""
        ...


def ignore(event: Event, /) -> None:
    """Drop an event that nobody listens for."""
    del event


class Progress:
    """The state of every action of one environment; may be used from several threads.

    Events of threads that are still running after `close` are dropped, because the result of the
    run does not include them either.

    Args:
        planned: the plan of the environment.
        emit: receives the events.
    """

    def __init__(self, planned: Planned, emit: Emit) -> None:
        self._planned = planned
        self._emit = emit
        self._lock = threading.Lock()
        self._results: dict[_Key, Result] = {
            _key(action): Skipped(action, STOPPED)
            if action.blocked is None
            else Failed(action, action.blocked)
            for action in planned.actions
        }
        self._started: set[_Key] = set()
        self._finished: set[_Key] = set()
        self._delivered_at: dict[str, datetime] = {}
        self._executed: Executed | None = None

    def result(self, action: Action) -> Result:
        """Return the result of an action, as it would be if the run ended now."""
        return self._results[_key(action)]

    def finished(self, action: Action) -> bool:
        """Return whether the result of an action is final."""
        return _key(action) in self._finished

    def start(self, action: Action, in_flight: Failure) -> None:
        """Record that the next step of an action starts, before its request is sent.

        Args:
            action: the action.
            in_flight: the failure to report if the run ends during the step.
        """
        key = _key(action)
        self.update(with_failure(self._results[key], in_flight))
        with self._lock:
            if self._executed is None and key not in self._started:
                self._started.add(key)
                self._emit(ActionBegun(self._planned.environment, action))

    def update(self, result: Result) -> None:
        """Record the result that an action has if the run ends now."""
        self._results[_key(result.action)] = _with_old_key(result)

    def finish(self, result: Result) -> None:
        """Record the final result of an action."""
        result = _with_old_key(result)
        self._results[_key(result.action)] = result
        with self._lock:
            if self._executed is None:
                self._emit_end(result)

    def record_delivery(self, name: str, delivered_at: datetime) -> None:
        """Record when the last sink of a name got its token, as a later run will see it."""
        self._delivered_at[name] = delivered_at

    def settle(self, result: Result) -> None:
        """Record a result that is final unless it says that work remains."""
        if is_open(result):
            self.update(result)
        else:
            self.finish(result)

    def fail(self, action: Action, failure: Failure) -> None:
        """Record that a step of an action failed, which ends the action."""
        self.finish(with_failure(self.result(action), failure))

    def count(self, step: Step, steps: int = 1) -> None:
        """Emit that the outcome of some steps of a kind has become known."""
        with self._lock:
            if self._executed is None:
                self._emit(StepsSettled(self._planned.environment, step, steps))

    def executed(self, fallback: Failure | None = None) -> Executed:
        """Return the current result of every action.

        Args:
            fallback: the failure of actions whose outcome is open, if a bug ended the run.
        """
        results = tuple(map(self.result, self._planned.actions))
        if fallback is not None:
            results = tuple(
                _with_old_key(with_failure(one, fallback))
                if is_open(one) and not self.finished(one.action)
                else one
                for one in results
            )
        return Executed.of(self._planned, results, self._delivered_at)

    def close(self, fallback: Failure | None = None) -> Executed:
        """Emit the results of all actions that are still open, and that the environment is done.

        Args:
            fallback: as for `executed`.

        Returns:
            The outcome of the environment, the same however often this is called.
        """
        with self._lock:
            if self._executed is None:
                executed = self.executed(fallback)
                for result in executed.results:
                    self._emit_end(result)
                self._emit(EnvironmentFinished(self._planned.environment, executed))
                self._executed = executed
            return self._executed

    def _emit_end(self, result: Result) -> None:
        key = _key(result.action)
        if key not in self._finished:
            self._finished.add(key)
            self._emit(ActionEnded(self._planned.environment, result))


def _key(action: Action) -> _Key:
    """Return the kind of an action with what distinguishes it from the others of its name."""
    match action:
        case Rename(key_id=key_id) | Revoke(key_id=key_id):
            return type(action), key_id
        case Clean(sink=sink):
            return type(action), "\0".join(sink.place)
        case Create(name=name) | Update(name=name) | Deliver(name=name):
            return type(action), name
        case Rotate():
            return type(action), action.name
        case _:
            assert_never(action)


def _with_old_key(result: Result) -> Result:
    """Return the result, with what to do about the old key of a rotation that is not complete."""
    if not (isinstance(result, Unfinished) and isinstance(result.action, Rotate)):
        return result
    action = result.action
    if action.at_once:
        advice = f"The old key is still live: run `provision rotate --now {quote(action.name)}`."
    elif result.delivered:
        command = f"provision revoke {' '.join(action.predecessors)}"
        advice = f"The new token has been delivered: run `{command}` once nothing uses the old key."
    else:
        return result
    return replace(result, failure=result.failure.advise(advice))


@dataclass(frozen=True, slots=True)
class ExecutionContext:
    """The environment that an execution works on.

    Attributes:
        environment: its name, for messages.
        workspace: the workspace to change.
        existing_ids: the ids of all keys that the workspace had when the plan was made.
        parallel: deliveries and updates at the same time.
        stop: once requested, nothing starts.
        progress: the record that the workers write.
    """

    environment: str
    workspace: Workspace
    existing_ids: frozenset[str]
    parallel: int
    stop: Cancellation
    progress: Progress

    def observe(self) -> Observation | None:
        """Observe the workspace; return None if it cannot be listed now."""
        try:
            return self.workspace.observe()
        except WorkspaceError as error:
            _LOG.info("%s: %s", self.environment, error.failure.message)
            return None


def revoke_keys(
    context: ExecutionContext,
    key_ids: Iterable[str],
    *,
    may_start: Callable[[str], bool] = lambda _: True,
    on_revoked: Callable[[str], None] = lambda _: None,
) -> dict[str, Failure | None]:
    """Revoke keys, and try each that fails again.

    Args:
        context: the environment of the keys.
        key_ids: the ids of the keys.
        may_start: called with the id of a key before each request for it; False skips the request.
        on_revoked: called with the id of each key that has been revoked.

    Returns:
        The failure of each key that was tried; None if it has been revoked.

    Raises:
        Exception: a bug that one revocation met, once all the others have been tried.
    """
    outcomes: dict[str, Failure | None] = {}

    def try_to_revoke(key_id: str) -> None:
        if not may_start(key_id):
            return
        try:
            context.workspace.revoke(key_id)
        except WorkspaceError as error:
            outcomes[key_id] = error.failure
        else:
            outcomes[key_id] = None
            on_revoked(key_id)

    remaining = tuple(key_ids)
    for _ in attempts(context.stop.sleep):
        run_all(try_to_revoke, remaining, _PARALLEL_REVOCATIONS)
        remaining = tuple(key_id for key_id in remaining if outcomes.get(key_id) is not None)
        if not remaining:
            break
    return outcomes
