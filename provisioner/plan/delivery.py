"""Which tokens are to be delivered: what the sinks hold, held against the live keys."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, assert_never

from provisioner.held import NotAToken, NoToken, TokenOf, Untold, Unusable
from provisioner.plan.model import Deliver, DeliveryUnknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioner.address import Address
    from provisioner.desired import DesiredKey
    from provisioner.failure import Failure
    from provisioner.held import Held
    from provisioner.observed import ObservedKey
    from provisioner.plan.model import Action, DeliverReason, Finding, Planned

SHORTER = timedelta(seconds=60)
"""How much earlier than its key a token may end: its own end is in whole seconds."""

_NOT_ASKED = Untold(None)


def to_prepare(planned: Planned) -> tuple[Address, ...]:
    """The sinks that the plan wants to write."""
    return tuple(address for action in planned.unblocked for address in action.sinks)


def block(planned: Planned, failures: Mapping[Address, Failure]) -> Planned:
    """The plan with those actions blocked whose sinks could not take a token."""

    def blocked(action: Action) -> Action:
        whys = (failures.get(address) for address in action.sinks)
        why = next(filter(None, whys), None) if action.blocked is None else None
        return action if why is None else action._replace(blocked=why)

    return replace(planned, actions=tuple(map(blocked, planned.actions))) if failures else planned


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the sinks of live keys hold.

    Attributes:
        held: by address; of an address that is not there nothing is known.
        redeliver: whether all keys get new tokens, whatever their sinks hold.
    """

    held: Mapping[Address, Held] = field(default_factory=dict)
    redeliver: bool = False


def delivery(
    key: DesiredKey, live: list[ObservedKey], holdings: Holdings
) -> tuple[Deliver | None, Finding | None]:
    """What is to be delivered of a live key, and what cannot be known of it.

    Args:
        key: the desired key.
        live: the live keys of its name, the oldest first, which is the key.
        holdings: what its sinks hold.
    """
    oldest = live[0]
    lacking: list[Address] = []
    unknown: list[Address] = []
    reasons: list[DeliverReason] = []
    blocked: Failure | None = None
    for address in key.deliver:
        found = holdings.held.get(address, _NOT_ASKED)
        reason = "redeliver" if holdings.redeliver else _reason(found, live)
        if reason == "sink_unusable" and isinstance(found, Unusable):
            blocked = blocked or found.failure
        if reason is not None:
            lacking.append(address)
            reasons.append(reason)
        elif isinstance(found, Untold) and found.updated_at is None:
            unknown.append(address)
    finding = DeliveryUnknown(key.name, (oldest.id,), tuple(unknown)) if unknown else None
    if not lacking:
        return None, finding
    action = Deliver(
        name=key.name,
        reason=reasons[0],
        depth=key.depth,
        expires_at=oldest.expires_at,
        role=oldest.role,
        key_id=oldest.id,
        sinks=tuple(lacking),
        place=key.place,
        blocked=blocked,
    )
    return action, finding


def _reason(held: Held, live: list[ObservedKey]) -> DeliverReason | None:
    """Why a sink needs a new token; None where it needs none, or nobody can tell."""
    match held:
        case NoToken():
            return "token_missing"
        case NotAToken():
            return "token_invalid"
        case TokenOf(key=key_id, ends=ends):
            key = next((one for one in live if one.id.lower() == key_id.lower()), None)
            if key is None:
                return "token_dead"
            short = ends is not None and ends < key.expires_at - SHORTER
            return "token_expiring" if short else None
        case Untold(updated_at=updated_at):
            # What tells the time of a write tells it in whole seconds.
            made = live[0].created_at.replace(microsecond=0)
            return "token_outdated" if updated_at is not None and updated_at < made else None
        case Unusable():
            return "sink_unusable"
        case _:
            assert_never(held)
