"""The estimated cost of a plan without failures: requests, and seconds at measured speeds."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, assert_never

from provisioner.model.workspace import WITH_PERMISSIONS
from provisioner.plan.actions import (
    Clean,
    Create,
    CreatesKey,
    Deliver,
    Estimate,
    Rename,
    Revoke,
    Rotate,
    Update,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioner.model.environment import Limits
    from provisioner.model.observed import Observation
    from provisioner.plan.actions import Action

# docs/twenty-api.md, "Speed": seconds on a small server, those of the slower version.
_READ_SECONDS = 0.05
_PAGE_SIZE = 1000
_SETTLE_DELAY = 0.3
_BATCH_SECONDS = 0.06
_BATCHED_KEY_SECONDS = 0.002
_CREATE_SECONDS = 0.16
_DOCUMENT_SIZE = 20
"""Tokens that one request mints on legacy."""


def estimate(limits: Limits, observation: Observation, actions: Iterable[Action]) -> Estimate:
    """Estimate the requests and seconds of a plan, from observation to the check of its creates.

    On core this is an upper limit: 1.x accepts several creates or mints in one request, and a run
    finds out with its first create.
    """
    unblocked = [action for action in actions if action.blocked is None]
    depths = Counter(one.depth for one in unblocked if isinstance(one, CreatesKey))
    creates = depths.total()
    tokens = sum(bool(one.sinks) for one in unblocked)  # each is verified on its own
    requests = observation.requests + sum(map(_small_requests, unblocked)) + tokens
    requests += -(-tokens // _DOCUMENT_SIZE) if observation.batches else tokens
    if observation.batches:
        create_requests = sum(-(-count // limits.batch) for count in depths.values())
        create_seconds = create_requests * _BATCH_SECONDS + creates * _BATCHED_KEY_SECONDS
        checks = -(-(len(observation.keys) + creates) // _PAGE_SIZE)
    else:
        create_requests = creates + (creates > 1) + (depths[WITH_PERMISSIONS] > 0)
        create_seconds = creates * _CREATE_SECONDS
        checks = 1
    if creates:
        requests += checks
        create_seconds += _SETTLE_DELAY
    seconds = requests * _READ_SECONDS + create_seconds
    requests += create_requests
    if limits.requests_per_minute is not None:
        beyond_burst = max(0, requests - limits.requests_per_minute)
        seconds = max(seconds, beyond_burst * 60 / limits.requests_per_minute)
    return Estimate(requests, round(seconds, 2))


def _small_requests(action: Action) -> int:
    """Return the requests of an action, except those that create keys or deliver tokens."""
    match action:
        case Create() | Deliver() | Clean():
            return 0
        case Update(role_id=role_id, sets_expiry=sets_expiry):
            return (role_id is not None) + sets_expiry
        case Rotate(predecessor_changes=changes):
            return changes
        case Rename() | Revoke():
            return 1
        case _:
            assert_never(action)
