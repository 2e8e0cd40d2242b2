"""A problem in the input: its place, its code, and what to write instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from provisioner.errors.codes import Code


class Place(NamedTuple):
    """A position in a file; a named tuple because there may be 100 000 of them.

    Attributes:
        file: the path as the user would type it.
        line: the line, from 1.
        column: the column in code points, from 1.
    """

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason why the input is not valid.

    Attributes:
        place: the position in the file.
        code: one of the codes in docs/errors.md.
        message: what is wrong and what to write instead.
        related: a second place that is involved, such as the first of two equal names.
        also_in: the other files with keys affected by the same mistake.
    """

    place: Place
    code: Code
    message: str
    related: Place | None = None
    also_in: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.place}: {self.code}: {self.message}"
