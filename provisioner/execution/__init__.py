"""Execution: the actions of one environment are carried out, and every outcome is kept."""

from provisioner.execution.deliver import mint
from provisioner.execution.events import (
    ActionBegun,
    ActionEnded,
    EnvironmentFinished,
    EnvironmentObserved,
    Event,
    PlanMade,
    RunEnded,
    RunStarted,
    StepsSettled,
    Tell,
    untold,
)
from provisioner.execution.execute import Execution
from provisioner.execution.results import (
    Done,
    Executed,
    Failed,
    MadeElsewhere,
    Result,
    RunResult,
    Skipped,
    Unfinished,
    made_by_this_run,
    undelivered,
)
from provisioner.execution.run_marker import Mark

__all__ = [
    "ActionBegun",
    "ActionEnded",
    "Done",
    "EnvironmentFinished",
    "EnvironmentObserved",
    "Event",
    "Executed",
    "Execution",
    "Failed",
    "MadeElsewhere",
    "Mark",
    "PlanMade",
    "Result",
    "RunEnded",
    "RunResult",
    "RunStarted",
    "Skipped",
    "StepsSettled",
    "Tell",
    "Unfinished",
    "made_by_this_run",
    "mint",
    "undelivered",
    "untold",
]
