"""What happens in a run, as frozen values: told one by one, as each happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from provisioner.errors.failure import Failure
    from provisioner.execution.results import Executed, Result
    from provisioner.model.observed import Observation
    from provisioner.plan import Action, Plan, Unobserved


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins to look at its environments.

    Attributes:
        command: as it is typed, without `provision`.
        environments: their names; none where the manifests kept the run from beginning.
    """

    command: str
    version: str
    environments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EnvironmentObserved:
    """An environment was looked at, or could not be."""

    environment: str
    outcome: Observation | Unobserved


@dataclass(frozen=True, slots=True)
class PlanMade:
    """All environments are planned, and nothing is changed yet."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class ActionBegun:
    """The first request for an action is about to go out."""

    environment: str
    action: Action


@dataclass(frozen=True, slots=True)
class StepsSettled:
    """The outcome of some steps has become known; a plan's `steps` are all there are."""

    environment: str
    steps: int


@dataclass(frozen=True, slots=True)
class ActionEnded:
    """What became of an action is certain: the result of the run says the same."""

    environment: str
    result: Result


@dataclass(frozen=True, slots=True)
class EnvironmentFinished:
    """Nothing more happens in an environment."""

    environment: str
    outcome: Executed | Unobserved


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run is over.

    Attributes:
        exit_code: of the process.
        refusal: why nothing of the plan may be done, where that is so.
    """

    exit_code: int
    refusal: Failure | None = None


Event = (
    RunStarted
    | EnvironmentObserved
    | PlanMade
    | ActionBegun
    | StepsSettled
    | ActionEnded
    | EnvironmentFinished
    | RunEnded
)


class Emit(Protocol):
    """Is told what happens, by several threads; it neither waits nor raises."""

    def __call__(self, event: Event, /) -> None:
        """Takes in one event."""
        ...


def ignore(event: Event, /) -> None:
    """Lets an event pass: nobody asked for it."""
    del event
