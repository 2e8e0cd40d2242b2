"""What a plan will cost: requests exactly, seconds from speeds measured on real servers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, assert_never

from provisioner.plan.model import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioner.desired import Depth, Limits
    from provisioner.observed import Observation
    from provisioner.plan.model import Action

# docs/twenty-api.md, "Speed": seconds on a small server, the slower one where versions differ.
_LOOK = 0.05
_BATCH = 0.06
_BATCHED_KEY = 0.002
_SINGLE = 0.16
_PERMISSIONS: Depth = 2
"""The depth whose records join the roles' permissions, one more request on core."""


def estimate(limits: Limits, observation: Observation, actions: Iterable[Action]) -> Estimate:
    """The requests of applying these actions, its own look included, and their time."""
    depths = Counter(action.depth for action in actions if action.blocked is None)
    creates = depths.total()
    match observation.generation:
        case "legacy":
            writes = sum(-(-count // limits.batch) for count in depths.values())
            working = writes * _BATCH + creates * _BATCHED_KEY
        case "core":
            writes = creates + (depths[_PERMISSIONS] > 0)
            working = creates * _SINGLE
        case _:
            assert_never(observation.generation)
    requests = observation.requests + writes
    seconds = observation.requests * _LOOK + working
    if limits.requests_per_minute is not None:
        beyond_burst = max(0, requests - limits.requests_per_minute)
        seconds = max(seconds, beyond_burst * 60 / limits.requests_per_minute)
    return Estimate(requests, round(seconds, 2))
