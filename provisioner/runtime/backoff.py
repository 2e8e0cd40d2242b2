"""The delay between attempts of a run, and the number of attempts."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_ATTEMPTS = 8
"""Attempts in a row that may bring nothing new before a run gives up."""


def delay(attempts: int, first: float = 0.25, longest: float = 5.0) -> float:
    """Return the seconds to wait after so many attempts, between half of the delay and all of it.

    The delay is jittered, so that runs that started together do not all try at once.

    Args:
        attempts: made so far, the first counted as 0 or 1.
        first: seconds for 0 attempts; the delay doubles with each.
        longest: seconds at most.
    """
    return min(first * 2.0**attempts, longest) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def attempts(sleep: Callable[[float], None], shortest: float = 0.0) -> Iterator[int]:
    """Yield the numbers of `MAX_ATTEMPTS` attempts, with a growing delay between two of them.

    Args:
        sleep: sleeps for a number of seconds.
        shortest: seconds between two attempts at least.
    """
    for attempt in range(MAX_ATTEMPTS):
        if attempt:
            sleep(max(shortest, delay(attempt - 1)))
        yield attempt
