"""One check of `doctor`: ok, not checked, warning or failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from provisioner.errors.codes import Code
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
class Check:
    """One check and what it found.

    Attributes:
        status: `ok`; `not_checked` if it cannot be looked at, as the message explains; `warning` if
            the user should know or change something, though a run works; `failed` if a run would
            fail.
        remedy: what to do about it; may be empty.
        code: the code of the failure, as a plan or a result would have it; None unless it failed.
    """

    check: CheckName
    status: Literal["ok", "not_checked", "warning", "failed"]
    message: str
    remedy: str = ""
    code: Code | None = None

    @classmethod
    def failed(cls, check: CheckName, failure: Failure) -> Check:
        """Return a check that found this failure."""
        return cls(check, "failed", failure.message, failure.remedy, failure.code)


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
        return any(check.status == "failed" for check in self.checks)
