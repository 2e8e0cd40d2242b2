"""The events of a run, as frozen values, emitted one by one as they happen.

Each class has the name of its event in `schemas/events.schema.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.errors.failure import Failure
    from provisioner.execution.results import Executed, Result
    from provisioner.model.observed import Observation
    from provisioner.plan import Action, Plan, Step, Unobserved


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run starts to observe its environments.

    Attributes:
        command: the command as typed, without `provision`.
        version: the version of this tool.
        environments: their names; empty if the manifests have problems and the run does not start.
    """

    command: str
    version: str
    environments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EnvironmentObserved:
    """An environment was observed, or could not be."""

    environment: str
    outcome: Observation | Unobserved


@dataclass(frozen=True, slots=True)
class PlanMade:
    """All environments are planned, and nothing has changed yet."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class ActionBegun:
    """The first request for an action is about to be sent."""

    environment: str
    action: Action


@dataclass(frozen=True, slots=True)
class StepsSettled:
    """The outcome of some steps of a kind has become known; `Planned.steps` is the total."""

    environment: str
    step: Step
    steps: int


@dataclass(frozen=True, slots=True)
class ActionEnded:
    """The result of an action is final, and the same as in the result of the run."""

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
        exit_code: the exit code of the process.
        refusal: why a guard refused the whole plan; None if no guard did.
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
