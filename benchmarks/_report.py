"""The output of every benchmark: an aligned table, and a verdict on each requirement."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_WHOLE_FROM = 100
"""Numbers from here on are shown without decimals."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """An upper bound that the project commits to.

    Attributes:
        what: the measured quantity, with its unit.
    """

    what: str
    measured: float
    most: float

    @property
    def met(self) -> bool:
        """True if the bound was met."""
        return self.measured <= self.most


def quick(description: str | None) -> bool:
    """Parse the command line of a benchmark; return whether to do only a smoke run."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="run a few seconds with small sizes; a missed requirement does not fail the run",
    )
    return bool(parser.parse_args().quick)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print at least one row under a header, with numbers aligned to the right."""
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
    """Print which requirements were met and missed, and return the exit code.

    Args:
        requirements: the requirements with their measured values.
        smoke: whether this is a smoke run, which is too small to fail.
    """
    missed = False
    print()
    for one in requirements:
        missed = missed or not one.met
        word = "met" if one.met else "MISSED"
        print(f"{word}: {one.what}: {one.measured:.4g}, at most {one.most:g}")
    if smoke:
        print("quick run: too small for a valid verdict")
    return int(missed and not smoke)


def _shown(cell: object) -> str:
    if isinstance(cell, float) and abs(cell) < _WHOLE_FROM:
        return f"{cell:.2f}"
    return f"{cell:,.0f}".replace(",", " ") if isinstance(cell, (int, float)) else str(cell)
