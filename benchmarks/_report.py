"""What every benchmark prints: an aligned table, and a verdict on each requirement."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_WHOLE_FROM = 100
"""From where on a number is shown without decimals."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """An upper bound that the project holds itself to.

    Attributes:
        what: the measured thing, with its unit.
    """

    what: str
    measured: float
    most: float

    @property
    def met(self) -> bool:
        """Whether the bound was kept."""
        return self.measured <= self.most


def quick(description: str | None) -> bool:
    """Reads the command line of a benchmark: whether only a smoke run is wanted."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few seconds at small sizes; a missed requirement does not fail the run",
    )
    return bool(parser.parse_args().quick)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints rows under their header, numbers to the right; there is at least one row."""
    cells = [list(row) for row in rows]
    texts = [list(header), *([_shown(cell) for cell in row] for row in cells)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    numbers = [not isinstance(cell, str) for cell in cells[0]]
    print(f"\n{title}")
    for line in texts:
        padded = (
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, widths, numbers, strict=True)
        )
        print(f"  {'  '.join(padded)}".rstrip(), flush=True)


def verdict(requirements: Iterable[Requirement], *, smoke: bool) -> int:
    """Prints what was met and what was missed; returns the exit code.

    Args:
        requirements: each with what was measured.
        smoke: a quick run, which is too small to be failed.
    """
    missed = False
    print()
    for one in requirements:
        missed = missed or not one.met
        word = "met" if one.met else "MISSED"
        print(f"{word}: {one.what}: {one.measured:.4g}, at most {one.most:g}")
    if smoke:
        print("a quick run: too small for a verdict that counts")
    return int(missed and not smoke)


def _shown(cell: object) -> str:
    if isinstance(cell, float) and abs(cell) < _WHOLE_FROM:
        return f"{cell:.2f}"
    return f"{cell:,.0f}".replace(",", " ") if isinstance(cell, (int, float)) else str(cell)
