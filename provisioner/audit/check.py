"""One check of `doctor` and its result: ok, warning or failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from provisioner.errors.failure import Failure
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
"""The checks, in this order: whether the server answers; its generation; the credential; whether
keys can be listed, roles assigned and keys written; its clock; its limits; the sinks; the tokens of
live keys in them."""


@dataclass(frozen=True, slots=True)
class CheckOk:
    """A check that found no problem."""

    check: CheckName
    message: str


@dataclass(frozen=True, slots=True)
class CheckWarning:
    """A check that found something the user should know or change; a run works."""

    check: CheckName
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class CheckFailed:
    """A check that found a problem which makes a run fail.

    Attributes:
        failure: as a plan or a result would have it.
    """

    check: CheckName
    failure: Failure


Check = CheckOk | CheckWarning | CheckFailed


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The checks of one environment.

    Attributes:
        generation: None if the server was not reached.
    """

    environment: str
    url: str
    generation: Generation | None
    checks: tuple[Check, ...]

    @property
    def failed(self) -> bool:
        """Return whether any check failed."""
        return any(isinstance(check, CheckFailed) for check in self.checks)
