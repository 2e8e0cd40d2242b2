"""An expected failure of one key or one environment, as a value that reports show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.errors.exceptions import ProvisionError


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something could not be done.

    Attributes:
        code: one of the codes in docs/errors.md.
        message: what happened, where, and what to do about it; never holds a secret.
    """

    code: str
    message: str


def failure_of(error: ProvisionError) -> Failure:
    """The value for an error that concerns one key or one environment alone."""
    return Failure(error.code, f"{error.message} {error.remedy}".rstrip())
