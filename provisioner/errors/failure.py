"""An expected failure of one key or one environment, as a value that reports show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.errors.exceptions import ProvisionError


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why something failed.

    Attributes:
        code: one of the codes in docs/errors.md.
        message: what happened, where, and what to do about it; never contains a secret.
    """

    code: str
    message: str


def failure_of(error: ProvisionError) -> Failure:
    """Return the failure for an error that affects only one key or one environment."""
    return Failure(error.code, f"{error.message} {error.remedy}".rstrip())
