"""Execution: the actions of one environment are carried out, and every outcome is kept."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from provisioner.twenty.workspace import Created, NewKey, NotCreated, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from provisioner.failure import Failure
    from provisioner.plan import Action, Planned, Unobserved
    from provisioner.twenty.workspace import Outcome, Record, Workspace

_MARKS = 999


@dataclass(frozen=True, slots=True)
class Done:
    """The action was carried out, and the server said so.

    Attributes:
        record: the key as the server returned it at the manifest's depth.
    """

    action: Action
    id: str
    record: Record


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


Result = Done | Failed | Skipped


@dataclass(frozen=True, slots=True)
class Executed:
    """What became of one environment's plan; one result for each action, in its order."""

    planned: Planned
    results: tuple[Result, ...]


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
            or any(not isinstance(result, Done) for result in part.results)
            for part in self.environments
        )


@dataclass(frozen=True, slots=True)
class Mark:
    """The milliseconds, 1 to 999, that one run writes into the ends of the keys it makes.

    A later look tells the run's own keys from others by them; ends are compared to the second.
    """

    milliseconds: int

    @classmethod
    def random(cls) -> Mark:
        """A mark for a new run."""
        return cls(1 + secrets.randbelow(_MARKS))

    def write(self, moment: datetime) -> str:
        """RFC 3339 with this mark for its milliseconds."""
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{self.milliseconds:03d}Z"


def execute(
    planned: Planned, workspace: Workspace, mark: Mark, settled: Callable[[int], None]
) -> Executed:
    """Carries out the actions of one environment.

    Args:
        planned: its plan.
        workspace: where to carry it out.
        mark: of this run.
        settled: called with the number of actions whose outcome has become known.
    """
    possible = [action for action in planned.actions if action.blocked is None]
    settled(len(planned.actions) - len(possible))
    keys = [_new_key(action, mark) for action in possible]
    outcomes = iter(workspace.create_many(keys, settled) if keys else ())
    results = tuple(
        _result(action, next(outcomes))
        if action.blocked is None
        else Failed(action, action.blocked)
        for action in planned.actions
    )
    return Executed(planned, results)


def skip(planned: Planned, why: Failure) -> Executed:
    """The result of a plan that a guard stopped before its first write."""
    return Executed(planned, tuple(Skipped(action, why) for action in planned.actions))


def _new_key(action: Action, mark: Mark) -> NewKey:
    return NewKey(
        id=str(uuid.uuid4()),
        name=action.name,
        expires_at=mark.write(action.expires_at),
        depth=action.depth,
        role_id=action.role_id,
    )


def _result(action: Action, outcome: Outcome) -> Result:
    match outcome:
        case Created(id=id_, record=record):
            return Done(action, id_, record)
        case NotCreated(failure=failure) | Unknown(failure=failure):
            return Failed(action, failure)
        case _:
            assert_never(outcome)
