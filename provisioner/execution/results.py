"""The results of actions, environments and whole runs, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.plan import Clean, Create, Deliver, Rename, Revoke, Rotate, Update

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from provisioner.model.workspace import Record
    from provisioner.plan import Action, Planned, Unobserved, Upcoming


@dataclass(frozen=True, slots=True)
class Done:
    """The action is complete: the key is live on the server, and its token is in every sink.

    Attributes:
        id: the id of the key.
        record: the key as the server returned it at the manifest's depth. None for a delivery, and
            if the answer was lost, an observation found the key, and reading its record failed.
    """

    action: Action
    id: str
    record: Record | None


@dataclass(frozen=True, slots=True)
class CreatedByAnotherRun:
    """Another run created a key of the name at the same time, and that key is kept.

    Attributes:
        id: the id of the key that is kept, live on the server.
        record: as for `Done`.
    """

    action: Create | Rotate
    id: str
    record: Record | None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The key exists, but the rest of the action failed; the failure says what to do.

    Attributes:
        id: the id of the key.
        record: as for `Done`.
        failure: why the action is not complete.
        created: True if this run created the key; False if another run did or it was there before.
        delivered: True if its token reached every sink.
    """

    action: Create | Rotate | Update
    id: str
    record: Record | None
    failure: Failure
    created: bool = True
    delivered: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The action failed, or its outcome is unknown."""

    action: Action
    failure: Failure


@dataclass(frozen=True, slots=True)
class Skipped:
    """The action was not started."""

    action: Action
    failure: Failure


Result = Done | CreatedByAnotherRun | Unfinished | Failed | Skipped

EXPIRY_PENDING = Failure(
    Code.STOPPED, "The run ended before the expiry of the key was changed. The next run changes it."
)
OLD_KEY_PENDING = Failure(
    Code.STOPPED, "The run was stopped before it revoked the old key or changed its expiry."
)

_OPEN_CODES = frozenset({Code.STOPPED, Code.OUTCOME_UNKNOWN, Code.NOT_DELIVERED})
"""Codes of failures that say that the run ended too early."""


def outcome_unknown(cause: Failure) -> Failure:
    """Return the failure of a key that may or may not exist and cannot be looked up any more."""
    return Failure(
        Code.OUTCOME_UNKNOWN,
        f"{cause.text} The key may or may not exist; check with `provision list`.",
    )


def is_open(result: Result) -> bool:
    """Return whether the result says only that the run ended too early."""
    match result:
        case Done() | CreatedByAnotherRun():
            return False
        case Unfinished(failure=failure) | Failed(failure=failure) | Skipped(failure=failure):
            return failure.code in _OPEN_CODES
        case _:
            assert_never(result)


def with_failure(result: Result, failure: Failure) -> Result:
    """Return the result of an action whose next step fails."""
    match result:
        case Unfinished():
            return replace(result, failure=failure)
        case Failed(action=action) | Skipped(action=action):
            return Failed(action, failure)
        case Done() | CreatedByAnotherRun():
            return result
        case _:
            assert_never(result)


def after_delivery(result: Result) -> Result:
    """Return the result of an action whose token is now in every sink; it is open if work remains.

    Args:
        result: the result before the delivery.
    """
    match result.action:
        case Deliver(key_id=key_id) as action:
            return Done(action, key_id, None)
        case Update(key_id=key_id) as action:
            return Unfinished(action, key_id, None, EXPIRY_PENDING, created=False, delivered=True)
        case Rotate(predecessor_changes=changes) if changes and isinstance(result, Unfinished):
            return replace(result, failure=OLD_KEY_PENDING, delivered=True)
        case Create() | Rename() | Rotate() | Revoke() | Clean():
            return completed(result)
        case _:
            assert_never(result.action)


def completed(result: Result) -> Result:
    """Return the result of an action whose last step succeeded."""
    if not isinstance(result, Unfinished):
        return result
    if isinstance(result.action, Update):
        return Done(result.action, result.id, result.record)
    kind = Done if result.created else CreatedByAnotherRun
    return kind(result.action, result.id, result.record)


def delivered(result: Result) -> bool:
    """Return whether the token of an action with sinks is in every sink."""
    return isinstance(result, Done | CreatedByAnotherRun) or (
        isinstance(result, Unfinished) and result.delivered
    )


def created_by_this_run(result: Result) -> bool:
    """Return whether this run created a key for the action, even if a later step failed."""
    if not isinstance(result.action, Create | Rotate):
        return False
    return isinstance(result, Done) or (isinstance(result, Unfinished) and result.created)


def undelivered(result: Result) -> bool:
    """Return whether this run created a key whose token did not reach every sink."""
    return (
        isinstance(result, Unfinished)
        and created_by_this_run(result)
        and bool(result.action.sinks)
        and not result.delivered
    )


@dataclass(frozen=True, slots=True)
class Executed:
    """The results of one environment's plan, one for each action, in the plan's order.

    Attributes:
        bug: the unexpected exception that ended the execution; None if there was none.
        upcoming: what later runs will do by themselves after these results.
    """

    planned: Planned
    results: tuple[Result, ...]
    bug: Exception | None = None
    upcoming: tuple[Upcoming, ...] = ()

    @classmethod
    def of(
        cls,
        planned: Planned,
        results: Iterable[Result],
        delivered_at: Mapping[str, datetime] = MappingProxyType({}),
    ) -> Executed:
        """Return the results of a plan, with what later runs do after them.

        Args:
            planned: the plan.
            results: the result of each action.
            delivered_at: by name, when this run delivered the token of a key to its last sink.
        """
        every = tuple(results)
        upcoming = tuple(_upcoming(planned, every, delivered_at))
        return cls(planned, every, upcoming=upcoming)

    @classmethod
    def skipped(cls, planned: Planned, failure: Failure) -> Executed:
        """Return the result of a plan none of whose actions was started."""
        return cls.of(planned, (Skipped(action, failure) for action in planned.actions))


def _upcoming(
    planned: Planned, results: Iterable[Result], delivered_at: Mapping[str, datetime]
) -> Iterator[Upcoming]:
    """Yield the later revocations of a plan, as the results of its deliveries leave them."""
    deliveries = {
        one.action.name: one for one in results if isinstance(one.action, Rotate | Deliver)
    }
    for one in planned.upcoming:
        match deliveries.get(one.name):
            case Done() | CreatedByAnotherRun() if one.waits_for == "delivery":
                at = delivered_at.get(one.name)
                yield one._replace(waits_for="proof") if at is None else one.after_delivery(at)
            # The next run delivers the successor of a rotation that was due.
            case Unfinished(action=Rotate(reason="due")) | None:
                yield one
            # Without its successor, nothing ends the key.
            case Unfinished() | Failed(action=Rotate()) | Skipped(action=Rotate()):
                continue
            case Done() | CreatedByAnotherRun() | Failed() | Skipped():
                yield one
            case other:
                assert_never(other)


@dataclass(frozen=True, slots=True)
class RunResult:
    """The outcome of a plan.

    Attributes:
        created_at: the time of the plan.
        digest: the digest of the plan.
        environments: the outcome of each environment.
    """

    created_at: datetime
    digest: str
    environments: tuple[Executed | Unobserved, ...]

    @property
    def incomplete(self) -> bool:
        """Return whether an environment could not be observed or an action is not complete."""
        return any(
            not isinstance(part, Executed)
            or any(isinstance(result, Unfinished | Failed | Skipped) for result in part.results)
            for part in self.environments
        )
