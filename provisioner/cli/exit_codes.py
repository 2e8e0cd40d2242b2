"""The exit codes that commands return; those of exceptions are in `errors/exceptions.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

UNEXPECTED = 1
CHANGES = 2
INVALID = 3
INCOMPLETE = 4
USAGE = 64
INTERRUPTED = 130
TERMINATED = 143

_PRECEDENCE = (UNEXPECTED, INTERRUPTED, TERMINATED, INVALID, 6, 5, INCOMPLETE, CHANGES, 0)


def most_serious(codes: Iterable[int]) -> int:
    """Return the exit code of a run for which several apply; 0 if there are none."""
    return min(codes, key=_PRECEDENCE.index, default=0)
