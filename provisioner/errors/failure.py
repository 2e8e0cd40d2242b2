"""An expected failure of one key or one environment, as a value that reports show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.errors.codes import Code


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure with what to do about it; never contains a secret.

    Attributes:
        code: the code, which docs/errors.md explains.
        message: what happened, and where.
        remedy: what to do about it; may be empty.
    """

    code: Code
    message: str
    remedy: str = ""

    @property
    def text(self) -> str:
        """Return the message with the remedy."""
        return f"{self.message} {self.remedy}".rstrip()

    def advise(self, remedy: str) -> Failure:
        """Return this failure with one more sentence of advice."""
        return Failure(self.code, self.text, remedy)
