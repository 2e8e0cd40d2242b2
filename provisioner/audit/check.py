"""One thing that was looked at, and what was found: fine, doubtful or broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from provisioner.errors.exceptions import ProvisionError
    from provisioner.model.environment import Generation

CheckName = Literal[
    "reached",
    "generation",
    "credential",
    "keys",
    "roles",
    "writes",
    "clock",
    "limits",
    "sinks",
    "tokens",
]
"""What is looked at: that the server answers; its dialect; what opens it; whether keys can be
listed, roles be given and keys be written; its clock; its limits; the places of tokens; the
tokens of live keys in them."""


@dataclass(frozen=True, slots=True)
class CheckOk:
    """Nothing to do."""

    check: CheckName
    message: str


@dataclass(frozen=True, slots=True)
class CheckWarning:
    """It works, and someone should know or do something."""

    check: CheckName
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class CheckFailed:
    """A run would fail by it.

    Attributes:
        code: as a plan or a result would say it, one of those in docs/errors.md.
    """

    check: CheckName
    code: str
    message: str
    remedy: str


Check = CheckOk | CheckWarning | CheckFailed


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found of one environment.

    Attributes:
        generation: None where it was not reached.
    """

    environment: str
    url: str
    generation: Generation | None
    checks: tuple[Check, ...]

    @property
    def failed(self) -> bool:
        """Whether anything is broken."""
        return any(isinstance(check, CheckFailed) for check in self.checks)


def failed_check(check: CheckName, error: ProvisionError) -> CheckFailed:
    """The check that an error of a workspace or a sink breaks."""
    return CheckFailed(check, error.code, error.message, error.remedy)
