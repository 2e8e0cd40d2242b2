"""What became of actions, environments and whole runs, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.plan import Create, Rotate

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.errors.failure import Failure
    from provisioner.plan import Action, Planned, Unobserved, Update
    from provisioner.twenty.workspace import Record


@dataclass(frozen=True, slots=True)
class Done:
    """The action was carried out: the key is live on the server, its token in every sink.

    Attributes:
        record: the key as the server returned it at the manifest's depth; None where the answer
            was lost, a look found the key, and its record could not be read; None for a delivery.
    """

    action: Action
    id: str
    record: Record | None


@dataclass(frozen=True, slots=True)
class CreatedByAnotherRun:
    """Another run made the key at the same moment, and its key is the one that stays.

    Attributes:
        id: of the key that stays, live on the server.
        record: as of `Done`.
    """

    action: Create | Rotate
    id: str
    record: Record | None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The key is made, and what belongs to it is not done: the next run does it.

    Attributes:
        id: of the key.
        record: as of `Done`.
        made: whether this run made the key; another run's stands for it where not.
        delivered: whether its token reached every sink.
    """

    action: Create | Rotate | Update
    id: str
    record: Record | None
    failure: Failure
    created: bool = True
    delivered: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The action was not carried out, or whether it was is unknown."""

    action: Action
    failure: Failure


@dataclass(frozen=True, slots=True)
class Skipped:
    """The action was not begun."""

    action: Action
    failure: Failure


Result = Done | CreatedByAnotherRun | Unfinished | Failed | Skipped


def created_by_this_run(result: Result) -> bool:
    """Return whether this run made a key for the action, whatever became of it afterwards."""
    if not isinstance(result.action, Create | Rotate):
        return False
    return isinstance(result, Done) or (isinstance(result, Unfinished) and result.created)


def undelivered(result: Result) -> bool:
    """Return whether this run made a key whose token did not reach every sink."""
    return (
        isinstance(result, Unfinished)
        and created_by_this_run(result)
        and bool(result.action.sinks)
        and not result.delivered
    )


@dataclass(frozen=True, slots=True)
class Executed:
    """What became of one environment's plan; one result for each action, in its order."""

    planned: Planned
    results: tuple[Result, ...]

    @classmethod
    def skipped(cls, planned: Planned, why: Failure) -> Executed:
        """The result of a plan of which nothing was begun."""
        return cls(planned, tuple(Skipped(action, why) for action in planned.actions))


@dataclass(frozen=True, slots=True)
class RunResult:
    """What became of a plan: the moment and digest of that plan, and each environment."""

    created_at: datetime
    digest: str
    environments: tuple[Executed | Unobserved, ...]

    @property
    def incomplete(self) -> bool:
        """Whether an environment could not be looked at, or an action was not done."""
        return any(
            not isinstance(part, Executed)
            or any(isinstance(result, Unfinished | Failed | Skipped) for result in part.results)
            for part in self.environments
        )
