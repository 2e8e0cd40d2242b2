"""The delay between attempts of a run, and the number of attempts."""

from __future__ import annotations

import random

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
