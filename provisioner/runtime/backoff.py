"""The delay between attempts of a run, and the number of attempts."""

from __future__ import annotations

import random

MAX_ATTEMPTS = 8
"""Observations in a row that may bring nothing new before a run gives up."""

_MIN_DELAY = 0.25
_MAX_DELAY = 5.0
"""Seconds between two observations; the delay grows from `_MIN_DELAY` to `_MAX_DELAY`."""


def delay(attempts: int) -> float:
    """Return the seconds to wait after so many attempts.

    The delay is jittered, so that runs that started together do not all observe at once.
    """
    return min(_MIN_DELAY * 2.0**attempts, _MAX_DELAY) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
