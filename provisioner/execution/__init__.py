"""Execution: carries out the actions of one environment and records the result of each."""

from provisioner.execution.deliver import mint
from provisioner.execution.events import (
    ActionBegun,
    ActionEnded,
    Emit,
    EnvironmentFinished,
    EnvironmentObserved,
    Event,
    PlanMade,
    RunEnded,
    RunStarted,
    StepsSettled,
    ignore,
)
from provisioner.execution.execute import Execution
from provisioner.execution.results import (
    CreatedByAnotherRun,
    Done,
    Executed,
    Failed,
    Result,
    RunResult,
    Skipped,
    Unfinished,
    created_by_this_run,
    undelivered,
)
from provisioner.execution.run_marker import RunMarker

__all__ = [
    "ActionBegun",
    "ActionEnded",
    "CreatedByAnotherRun",
    "Done",
    "Emit",
    "EnvironmentFinished",
    "EnvironmentObserved",
    "Event",
    "Executed",
    "Execution",
    "Failed",
    "PlanMade",
    "Result",
    "RunEnded",
    "RunMarker",
    "RunResult",
    "RunStarted",
    "Skipped",
    "StepsSettled",
    "Unfinished",
    "created_by_this_run",
    "ignore",
    "mint",
    "undelivered",
]
