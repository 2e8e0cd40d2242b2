"""How often and how soon a run tries again what it cannot do without."""

from __future__ import annotations

import random

MAX_ATTEMPTS = 8
"""Looks in a row that may bring nothing new before a run gives up."""

_SHORTEST = 0.25
_LONGEST = 5.0
"""Seconds between two looks, growing from the one to the other."""


def delay(rounds: int) -> float:
    """Seconds, jittered, so that several runs do not look at the same moment."""
    return min(_SHORTEST * 2.0**rounds, _LONGEST) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
