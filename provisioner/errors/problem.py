"""A problem of the input: where it is, what it is, what to write instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """A position in a file; a named tuple because there may be 100 000 of them.

    Attributes:
        file: the path as the user would type it.
        line: counts from 1.
        column: counts from 1, in code points.
    """

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why the input cannot be used.

    Attributes:
        place: where it is.
        code: one of the codes in docs/errors.md.
        message: what is wrong and what to write instead.
        related: another place that takes part, as the first of two equal names.
        also_in: the other files that hold keys affected by the same mistake.
    """

    place: Place
    code: str
    message: str
    related: Place | None = None
    also_in: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.place}: {self.code}: {self.message}"
