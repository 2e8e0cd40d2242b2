"""Which tokens are to be delivered: what the sinks hold, held against the live keys."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, assert_never

from provisioner.model.expiry import CLOCK_TOLERANCE
from provisioner.model.sink_content import ApiKeyToken, NotAToken, NoToken, Unavailable, Unreadable
from provisioner.plan.actions import Deliver, Rotate
from provisioner.plan.findings import DeliveryUnknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from provisioner.errors.failure import Failure
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan.actions import Action, DeliverReason, Planned
    from provisioner.plan.findings import Finding
    from provisioner.plan.options import PlanOptions
    from provisioner.plan.rotation import LiveKeys

EXPIRY_TOLERANCE = timedelta(seconds=60)
"""How much earlier than its key a token may end: its own end is in whole seconds."""

_CONFLICT_WINDOW = timedelta(seconds=5)
"""For so long after it was made a key may give way to another run's; `Date` has whole seconds."""

_PROOF_DEADLINE = timedelta(minutes=10)
"""For so long after its making the time of a sink need not show that a successor arrived."""

_NOT_READ = Unreadable(None)


def sinks_to_check(planned: Planned) -> tuple[Address, ...]:
    """The sinks that the plan wants to write."""
    return tuple(address for action in planned.unblocked for address in action.sinks)


def delivers_too_early(planned: Planned, observation: Observation) -> bool:
    """Whether a token would go out of a key that another run may be about to end.

    Of several runs that make a key of one name at the same moment all but the first give way, so
    that the newest of several keys is not to be counted on while it is only just made.
    """
    delivered = {one.key_id for one in planned.unblocked if isinstance(one, Deliver)}
    if not delivered:
        return False
    live = [key for key in observation.keys if key.live(observation.server_time)]
    count = Counter(key.name for key in live)
    since = observation.server_time - _CONFLICT_WINDOW
    return any(
        key.id in delivered and count[key.name] > 1 and key.created_at > since for key in live
    )


def block_actions(planned: Planned, failures: Mapping[Address, Failure]) -> Planned:
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


def on_server_clock(
    sink_content: Mapping[Address, SinkContent], ahead: timedelta | None
) -> Mapping[Address, SinkContent]:
    """Return what sinks hold, with times by the clock that dates the keys of the workspace.

    Args:
        sink_content: what sinks hold, with times by this machine's clock.
        ahead: how far the server's clock is ahead of this machine's; None where it does not tell.
    """
    if not ahead:
        return sink_content
    return {
        address: replace(found, updated_at=found.updated_at + ahead)
        if isinstance(found, Unreadable) and found.updated_at is not None
        else found
        for address, found in sink_content.items()
    }


def plan_delivery(  # noqa: PLR0913, PLR0917 - all that a delivery follows from
    key: DesiredKey,
    keys: LiveKeys,
    acceptable: Sequence[ObservedKey],
    sink_content: Mapping[Address, SinkContent],
    options: PlanOptions,
    server_time: datetime,
) -> tuple[Deliver | None, Finding | None]:
    """Return what is to be delivered of a live key, and what cannot be known of it.

    Args:
        key: the desired key.
        keys: its live keys.
        acceptable: those whose tokens are as good as that of the current one.
        sink_content: of its sinks, by the server's clock; a missing address was not read.
        options: whether all of them get a new token whatever they hold.
        server_time: of the plan.
    """
    current, waiting = keys.current, keys.predecessors
    old_enough = server_time - current.created_at > _PROOF_DEADLINE
    lacking: list[Address] = []
    unknown: list[Address] = []
    reasons: list[DeliverReason] = []
    blocked: Failure | None = None
    for address in key.deliver:
        found = sink_content.get(address, _NOT_READ)
        reason = "redeliver" if options.redeliver else _reason(found, current, acceptable)
        if reason == "sink_unusable" and isinstance(found, Unavailable):
            blocked = blocked or found.failure
        if reason is None and waiting and old_enough and _another_write_would_prove(found, current):
            reason = "token_unproven"
        if reason is not None:
            lacking.append(address)
            reasons.append(reason)
        elif isinstance(found, Unreadable) and (
            found.updated_at is None or (waiting and not found.only_writes)
        ):
            unknown.append(address)
    finding = None
    if unknown:
        old = tuple(one.id for one in waiting)
        finding = DeliveryUnknown(key.name, (current.id,), tuple(unknown), old)
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


def holds_good_token(sink_content: SinkContent, key: ObservedKey) -> bool:
    """Return whether nothing speaks against a sink that tells anything: it needs no new token."""
    told = not isinstance(sink_content, Unreadable) or sink_content.updated_at is not None
    return told and _reason(sink_content, key, [key]) is None


def proves_delivery(sink_content: SinkContent, key: ObservedKey) -> bool:
    """Return whether a sink is proven to hold a token of this very key, so that others may end.

    A token that is read back proves it. So does a time that nothing but a write moves, more than a
    minute after the making of the key: clocks may differ by that.
    """
    match sink_content:
        case ApiKeyToken():
            return _reason(sink_content, key, [key]) is None
        case Unreadable(updated_at=updated_at, only_writes=only_writes):
            return (
                only_writes
                and updated_at is not None
                and updated_at > key.created_at + CLOCK_TOLERANCE
            )
        case NoToken() | NotAToken() | Unavailable():
            return False
        case _:
            assert_never(sink_content)


def delivered_at(sink_content: SinkContent) -> datetime | None:
    """Return when a sink got what it holds, where it or the token tells."""
    match sink_content:
        case ApiKeyToken(issued_at=moment) | Unreadable(updated_at=moment):
            return moment
        case NoToken() | NotAToken() | Unavailable():
            return None
        case _:
            assert_never(sink_content)


def _another_write_would_prove(sink_content: SinkContent, key: ObservedKey) -> bool:
    """Return whether another write would prove what the time of the last one does not."""
    told = (
        isinstance(sink_content, Unreadable)
        and sink_content.only_writes
        and sink_content.updated_at is not None
    )
    return told and not proves_delivery(sink_content, key)


def _reason(
    sink_content: SinkContent, current: ObservedKey, acceptable: Sequence[ObservedKey]
) -> DeliverReason | None:
    """Return why a sink needs a new token; None where it needs none, or nobody can tell."""
    match sink_content:
        case NoToken():
            return "token_missing"
        case NotAToken():
            return "token_invalid"
        case ApiKeyToken(key=key_id, expires_at=expires_at):
            key = next((one for one in acceptable if one.id.lower() == key_id.lower()), None)
            if key is None:
                return "token_dead"
            short = expires_at is not None and expires_at < key.expires_at - EXPIRY_TOLERANCE
            return "token_expiring" if short else None
        case Unreadable(updated_at=updated_at):
            made = current.created_at - CLOCK_TOLERANCE
            return "token_outdated" if updated_at is not None and updated_at < made else None
        case Unavailable():
            return "sink_unusable"
        case _:
            assert_never(sink_content)
