"""The plan of deliveries: compares the contents of sinks with the live keys."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, assert_never

from provisioner.model.expiry import CLOCK_TOLERANCE
from provisioner.model.sink_content import (
    ApiKeyToken,
    NotAToken,
    NoToken,
    Receipt,
    Unavailable,
    Unreadable,
)
from provisioner.plan.actions import Deliver, Rotate
from provisioner.plan.findings import DeliveryUnknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from provisioner.errors.failure import Failure
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan.actions import Action, DeliverReason, Planned
    from provisioner.plan.rotation import LiveKeys

EXPIRY_TOLERANCE = timedelta(seconds=60)
"""The time that a token may expire before its key, as its own expiry is in whole seconds."""

_CONFLICT_WINDOW = timedelta(seconds=5)
"""The time after its create in which a key may yield to another run's; `Date` has whole seconds."""

_PROOF_DEADLINE = timedelta(minutes=10)
"""The age of a successor up to which a sink's timestamp need not prove its delivery."""

_NOT_READ = Unreadable(None)


def sinks_to_check(planned: Planned) -> tuple[Address, ...]:
    """Return the sinks that the plan will write."""
    return tuple(address for action in planned.unblocked for address in action.sinks)


def delivers_too_early(planned: Planned, observation: Observation) -> bool:
    """Return whether the plan delivers a token of a key that another run may be about to revoke.

    If several runs create a key of the same name at once, all except the first revoke their own.
    So a key that was just created beside another one may still disappear.
    """
    delivered_ids = {one.key_id for one in planned.unblocked if isinstance(one, Deliver)}
    if not delivered_ids:
        return False
    live = [key for key in observation.keys if key.live(observation.server_time)]
    count = Counter(key.name for key in live)
    conflict_start = observation.server_time - _CONFLICT_WINDOW
    return any(
        key.id in delivered_ids and count[key.name] > 1 and key.created_at > conflict_start
        for key in live
    )


def block_actions(planned: Planned, failures: Mapping[Address, Failure]) -> Planned:
    """Block the actions whose sinks could not take a token.

    A due rotation goes ahead if at least one of its sinks works: the old key expires anyway, and
    serves the other sinks until then. The note names the sinks that are not delivered.
    """
    actions: list[Action] = []
    notes: list[str] = []
    for action in planned.actions:
        found = [failures[address] for address in action.sinks if address in failures]
        if not found or action.blocked is not None:
            actions.append(action)
        elif not isinstance(action, Rotate):
            actions.append(action._replace(blocked=found[0]))
        elif action.reason == "due" and len(found) < len(action.sinks):
            reasons = "; ".join(f"{one.code}: {one.text}" for one in found)
            notes.append(
                f"the successor of {action.name!r} has not been delivered to every sink: {reasons}"
            )
            actions.append(action)
        else:
            actions.append(action._replace(successor=action.successor._replace(blocked=found[0])))
    return replace(planned.with_actions(actions), notes=(*planned.notes, *notes))


def on_server_clock(
    sink_contents: Mapping[Address, SinkContent], server_ahead: timedelta | None
) -> Mapping[Address, SinkContent]:
    """Return the contents of sinks with timestamps by the server's clock, which also dates keys.

    Args:
        sink_contents: the contents of sinks, with timestamps by this machine's clock.
        server_ahead: how far the server's clock is ahead of this machine's; None if unknown.
    """
    if not server_ahead:
        return sink_contents
    return {
        address: replace(content, updated_at=content.updated_at + server_ahead)
        if isinstance(content, Unreadable) and content.updated_at is not None
        else content
        for address, content in sink_contents.items()
    }


def plan_delivery(  # noqa: PLR0913 - all inputs of a delivery
    key: DesiredKey,
    keys: LiveKeys,
    acceptable: Sequence[ObservedKey],
    sink_contents: Mapping[Address, SinkContent],
    server_time: datetime,
    *,
    redeliver: bool,
) -> Iterator[Deliver | DeliveryUnknown]:
    """Yield the delivery that a live key needs, and the finding about sinks of unknown content.

    Args:
        key: the desired key.
        keys: its live keys.
        acceptable: the live keys whose tokens its sinks may hold.
        sink_contents: the contents of its sinks, with timestamps by the server's clock; a missing
            address was not read.
        server_time: the server's time.
        redeliver: whether every sink gets a new token, whatever it holds.
    """
    current, predecessors = keys.current, keys.predecessors
    proof_due = bool(predecessors) and server_time - current.created_at > _PROOF_DEADLINE
    reasons: dict[Address, DeliverReason] = {}
    unknown: list[Address] = []
    blocked: Failure | None = None
    for address in key.deliver:
        content = sink_contents.get(address, _NOT_READ)
        reason = "redeliver" if redeliver else _reason(content, current, acceptable)
        if (
            reason is None
            and proof_due
            and isinstance(content, Unreadable)
            and not shows_no_delivery(content)
            and delivered_at(content, current) is None
        ):
            reason = "token_unproven"  # another write would prove it
        if reason is not None:
            reasons[address] = reason
        elif shows_no_delivery(content):
            unknown.append(address)
        if reason == "sink_unusable" and isinstance(content, Unavailable):
            blocked = blocked or content.failure
    if reasons:
        yield Deliver(
            name=key.name,
            reason=next(iter(reasons.values())),
            depth=key.depth,
            expires_at=current.expires_at,
            role=current.role,
            key_id=current.id,
            sinks=tuple(reasons),
            place=key.place,
            blocked=blocked,
            annotations=key.annotations,
        )
    if unknown:
        kept_ids = tuple(one.id for one in predecessors)
        yield DeliveryUnknown(key.name, (current.id,), tuple(unknown), kept_ids)


def holds_good_token(sink_content: SinkContent, key: ObservedKey) -> bool:
    """Return whether a sink's content is known and needs no new token."""
    return not shows_no_delivery(sink_content) and _reason(sink_content, key, [key]) is None


def needs_token(sink_content: SinkContent, key: ObservedKey) -> bool:
    """Return whether the next run writes a token of this key to a sink, by its content."""
    return _reason(sink_content, key, [key]) is not None


def delivered_at(sink_content: SinkContent, key: ObservedKey) -> datetime | None:
    """Return when a sink got a token of this key; None if that is not proven.

    A token that is read back proves it, and so does a receipt after which the sink has not changed.
    Without a receipt, the timestamp of the last write proves it if it is more than a minute after
    the create of the key; clocks may differ by a minute.
    """
    match sink_content:
        case ApiKeyToken(issued_at=issued_at):
            current = _reason(sink_content, key, [key]) is None
            return (issued_at or key.created_at) if current else None
        case Unreadable(updated_at=updated_at, receipt=Receipt()):
            token = sink_content.proven_token
            proven = None if token is None else delivered_at(token, key)
            return (updated_at or proven) if proven else None
        case Unreadable(updated_at=datetime() as updated_at, only_writes=True):
            return updated_at if updated_at > key.created_at + CLOCK_TOLERANCE else None
        case Unreadable() | NoToken() | NotAToken() | Unavailable():
            return None
        case _:
            assert_never(sink_content)


def shows_no_delivery(sink_content: SinkContent) -> bool:
    """Return whether a sink cannot prove, even after another write, that it got a token."""
    return (
        isinstance(sink_content, Unreadable)
        and sink_content.receipt is None
        and (sink_content.updated_at is None or not sink_content.only_writes)
    )


def _reason(  # noqa: PLR0911 - one a reason
    sink_content: SinkContent, current: ObservedKey, acceptable: Sequence[ObservedKey]
) -> DeliverReason | None:
    """Return why a sink needs a new token; None if it needs none, or that is unknown."""
    match sink_content:
        case NoToken():
            return "token_missing"
        case NotAToken():
            return "token_invalid"
        case ApiKeyToken(key=key_id, expires_at=expires_at, accepted=accepted):
            key = next((one for one in acceptable if one.id.lower() == key_id.lower()), None)
            if key is None or not accepted:
                return "token_dead"
            too_early = expires_at is not None and expires_at < key.expires_at - EXPIRY_TOLERANCE
            return "token_expiring" if too_early else None
        case Unreadable(receipt=Receipt(token=token)):
            return "token_unproven" if token is None else _reason(token, current, acceptable)
        case Unreadable(updated_at=updated_at):
            created_at = current.created_at - CLOCK_TOLERANCE
            return "token_outdated" if updated_at is not None and updated_at < created_at else None
        case Unavailable():
            return "sink_unusable"
        case _:
            assert_never(sink_content)
