"""Which tokens are to be delivered: what the sinks hold, held against the live keys."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, assert_never

from provisioner.held import NotAToken, NoToken, TokenOf, Untold, Unusable
from provisioner.plan.model import Deliver, DeliveryUnknown, Rotate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from provisioner.address import Address
    from provisioner.desired import DesiredKey
    from provisioner.failure import Failure
    from provisioner.held import Held
    from provisioner.observed import Observation, ObservedKey
    from provisioner.plan.model import Action, DeliverReason, Finding, Planned
    from provisioner.plan.wishes import Wishes

SHORTER = timedelta(seconds=60)
"""How much earlier than its key a token may end: its own end is in whole seconds."""

_SETTLES = timedelta(seconds=5)
"""For so long after it was made a key may give way to another run's; `Date` has whole seconds."""

_NOT_ASKED = Untold(None)


def to_prepare(planned: Planned) -> tuple[Address, ...]:
    """The sinks that the plan wants to write."""
    return tuple(address for action in planned.unblocked for address in action.sinks)


def premature(planned: Planned, observation: Observation) -> bool:
    """Whether a token would go out of a key that another run may be about to end.

    Of several runs that make a key of one name at the same moment all but the first give way, so
    that the newest of several keys is not to be counted on while it is only just made.
    """
    delivered = {one.key_id for one in planned.unblocked if isinstance(one, Deliver)}
    if not delivered:
        return False
    live = [key for key in observation.keys if key.live(observation.server_time)]
    count = Counter(key.name for key in live)
    since = observation.server_time - _SETTLES
    return any(
        key.id in delivered and count[key.name] > 1 and key.created_at > since for key in live
    )


def block(planned: Planned, failures: Mapping[Address, Failure]) -> Planned:
    """The plan with those actions blocked whose sinks could not take a token.

    A successor that is due is made while one of its sinks can: the old key ends whatever becomes of
    the others, and serves them until then. What it is not delivered to is noted.
    """
    notes: list[str] = []

    def blocked(action: Action) -> Action:
        whys = [failures[address] for address in action.sinks if address in failures]
        if not whys or action.blocked is not None:
            return action
        if not isinstance(action, Rotate):
            return action._replace(blocked=whys[0])
        if action.reason == "due" and len(whys) < len(action.sinks):
            told = "; ".join(f"{why.code}: {why.message}" for why in whys)
            notes.append(f"the successor of {action.name!r} is not delivered everywhere: {told}")
            return action
        return action._replace(successor=action.successor._replace(blocked=whys[0]))

    actions = tuple(map(blocked, planned.actions))
    return replace(planned, actions=actions, notes=(*planned.notes, *notes))


def delivery(
    key: DesiredKey,
    current: ObservedKey,
    acceptable: list[ObservedKey],
    held: Mapping[Address, Held],
    wishes: Wishes,
) -> tuple[Deliver | None, Finding | None]:
    """What is to be delivered of a live key, and what cannot be known of it.

    Args:
        key: the desired key.
        current: the live key.
        acceptable: the live keys of its name whose tokens are as good as its own.
        held: what its sinks hold; of an address that is not there nothing is known.
        wishes: whether all of them get a new token whatever they hold.
    """
    lacking: list[Address] = []
    unknown: list[Address] = []
    reasons: list[DeliverReason] = []
    blocked: Failure | None = None
    for address in key.deliver:
        found = held.get(address, _NOT_ASKED)
        reason = "redeliver" if wishes.redeliver else _reason(found, current, acceptable)
        if reason == "sink_unusable" and isinstance(found, Unusable):
            blocked = blocked or found.failure
        if reason is not None:
            lacking.append(address)
            reasons.append(reason)
        elif isinstance(found, Untold) and found.updated_at is None:
            unknown.append(address)
    finding = DeliveryUnknown(key.name, (current.id,), tuple(unknown)) if unknown else None
    if not lacking:
        return None, finding
    action = Deliver(
        name=key.name,
        reason=reasons[0],
        depth=key.depth,
        expires_at=current.expires_at,
        role=current.role,
        key_id=current.id,
        sinks=tuple(lacking),
        place=key.place,
        blocked=blocked,
    )
    return action, finding


def good(held: Held, key: ObservedKey) -> bool:
    """Whether a sink is known to have a token of this very key."""
    told = not isinstance(held, Untold) or held.updated_at is not None
    return told and _reason(held, key, [key]) is None


def since(held: Held) -> datetime | None:
    """When a sink got what it holds, where it or the token tells."""
    match held:
        case TokenOf(issued=moment) | Untold(updated_at=moment):
            return moment
        case NoToken() | NotAToken() | Unusable():
            return None
        case _:
            assert_never(held)


def _reason(
    held: Held, current: ObservedKey, acceptable: list[ObservedKey]
) -> DeliverReason | None:
    """Why a sink needs a new token; None where it needs none, or nobody can tell."""
    match held:
        case NoToken():
            return "token_missing"
        case NotAToken():
            return "token_invalid"
        case TokenOf(key=key_id, ends=ends):
            key = next((one for one in acceptable if one.id.lower() == key_id.lower()), None)
            if key is None:
                return "token_dead"
            short = ends is not None and ends < key.expires_at - SHORTER
            return "token_expiring" if short else None
        case Untold(updated_at=updated_at):
            # What tells the time of a write tells it in whole seconds.
            made = current.created_at.replace(microsecond=0)
            return "token_outdated" if updated_at is not None and updated_at < made else None
        case Unusable():
            return "sink_unusable"
        case _:
            assert_never(held)
