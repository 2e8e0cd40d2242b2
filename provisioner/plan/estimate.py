"""What a plan will cost where nothing goes wrong: requests, and seconds by measured speeds."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, assert_never

from provisioner.plan.actions import Create, Deliver, Estimate, Revoke, Rotate, Update

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioner.model.environment import Limits
    from provisioner.model.key import Depth
    from provisioner.model.observed import Observation
    from provisioner.plan.actions import Action

# docs/twenty-api.md, "Speed": seconds on a small server, the slower one where versions differ.
_READ_SECONDS = 0.05
_PAGE_SIZE = 60
_SETTLE_DELAY = 0.3
_BATCH_SECONDS = 0.06
_BATCHED_KEY_SECONDS = 0.002
_CREATE_SECONDS = 0.16
_DELIVERY_REQUESTS = 2
"""Requests to mint a token and to prove it."""

_DEPTH_WITH_PERMISSIONS: Depth = 2
"""The depth whose records join the roles' permissions, one more request on core."""


def estimate(limits: Limits, observation: Observation, actions: Iterable[Action]) -> Estimate:
    """The requests of applying these actions, both looks included, and their time.

    On core the most that it may be: 1.x takes several creates in one request, and whether a
    server does is asked with the first.
    """
    doable = [action for action in actions if action.blocked is None]
    depths = Counter(one.depth for one in doable if isinstance(one, Create | Rotate))
    creates = depths.total()
    deliveries = sum(bool(action.sinks) for action in doable)
    match observation.generation:
        case "legacy":
            writes = sum(-(-count // limits.batch) for count in depths.values())
            looks = -(-(len(observation.keys) + creates) // _PAGE_SIZE)
            working = writes * _BATCH_SECONDS + creates * _BATCHED_KEY_SECONDS
        case "core":
            writes = creates + (creates > 1) + (depths[_DEPTH_WITH_PERMISSIONS] > 0)
            looks = 1
            working = creates * _CREATE_SECONDS
        case _:
            assert_never(observation.generation)
    writes += deliveries * _DELIVERY_REQUESTS
    working += deliveries * _DELIVERY_REQUESTS * _READ_SECONDS
    changes = sum(_write_requests(action) for action in doable)
    writes += changes
    working += changes * _READ_SECONDS
    if creates:
        writes += looks
        working += looks * _READ_SECONDS + _SETTLE_DELAY
    requests = observation.requests + writes
    seconds = observation.requests * _READ_SECONDS + working
    if limits.requests_per_minute is not None:
        beyond_burst = max(0, requests - limits.requests_per_minute)
        seconds = max(seconds, beyond_burst * 60 / limits.requests_per_minute)
    return Estimate(requests, round(seconds, 2))


def _write_requests(action: Action) -> int:
    """The requests of an action that makes no key and delivers no token."""
    match action:
        case Update(role_id=role_id, sets_expiry=moves_end):
            return (role_id is not None) + moves_end
        case Rotate(predecessor_changes=endings):
            return endings
        case Revoke():
            return 1
        case Create() | Deliver():
            return 0
        case _:
            assert_never(action)
