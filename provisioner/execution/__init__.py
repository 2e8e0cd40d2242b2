"""Execution: the actions of one environment are carried out, and every outcome is kept."""

from provisioner.execution.delivery import mint
from provisioner.execution.execution import Execution
from provisioner.execution.mark import Mark
from provisioner.execution.result import (
    Done,
    Executed,
    Failed,
    MadeElsewhere,
    Result,
    RunResult,
    Skipped,
    Unfinished,
)

__all__ = [
    "Done",
    "Executed",
    "Execution",
    "Failed",
    "MadeElsewhere",
    "Mark",
    "Result",
    "RunResult",
    "Skipped",
    "Unfinished",
    "mint",
]
