"""The overlap of a rotation: when it is over, and the revocations that follow by themselves."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from provisioner.model.sink_content import Unavailable
from provisioner.plan.actions import Upcoming
from provisioner.plan.delivery import delivered_at, needs_token, shows_no_delivery

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import ObservedKey
    from provisioner.model.sink_content import SinkContent

OverlapEnd = datetime | Literal["delivery", "proof"]
"""When an overlap is over, by the server's clock, or what its start still waits for: the `delivery`
of the token to a sink, or the `proof` that it was delivered."""

_HOUR = timedelta(hours=1)


def overlap_end(
    key: DesiredKey, current: ObservedKey, contents: Sequence[SinkContent]
) -> OverlapEnd | None:
    """Return when the predecessors of a key may be revoked, or what that waits for.

    The overlap starts when the last sink got the current token. Without a sink nobody has it.

    Args:
        key: the desired key, which has a rotation.
        current: its current key.
        contents: the contents of its sinks.

    Returns:
        None if no later run can ever tell, so that predecessors are kept until they expire.
    """
    if key.rotation is None or not contents or len(contents) < len(key.deliver):
        return None
    start = current.created_at
    waits_for: set[Literal["delivery", "proof"]] = set()
    for content in contents:
        delivered = delivered_at(content, current)
        if delivered is not None:
            start = max(start, delivered)
        elif shows_no_delivery(content):
            return None
        elif isinstance(content, Unavailable) or not needs_token(content, current):
            waits_for.add("proof")
        else:
            waits_for.add("delivery")
    if waits_for:
        return "delivery" if "delivery" in waits_for else "proof"
    return start + key.rotation.overlap


def later_revocations(
    key: DesiredKey,
    predecessors: Iterable[ObservedKey],
    end: OverlapEnd | None,
    now: datetime,
    earliest: datetime,
) -> Iterator[Upcoming]:
    """Yield the revocations of predecessors that do not expire before their overlap is over.

    Args:
        key: the desired key.
        predecessors: the keys that its current key replaced.
        end: the end of their overlap; None if no later run can tell.
        now: the server's time.
        earliest: the earliest start of the overlap, if its end is not known yet.
    """
    if key.rotation is None or end is None:
        return
    overlap = key.rotation.overlap
    at = end if isinstance(end, datetime) else None
    for one in predecessors:
        if one.expires_at > (earliest + overlap if at is None else at):
            yield Upcoming(
                name=key.name,
                key_id=one.id,
                at=at,
                overlap_hours=overlap // _HOUR,
                hours_left=None if at is None else _hours_until(at, now),
                waits_for=None if isinstance(end, datetime) else end,
            )


def _hours_until(at: datetime, now: datetime) -> int:
    """Return the hours until a time, rounded; 0 only if it has come, so the next run acts on it."""
    return max(1, round((at - now) / _HOUR)) if at > now else 0


def can_show_delivery(key: DesiredKey, contents: Iterable[SinkContent]) -> bool:
    """Return whether a later run can tell when a new token was delivered to every sink of a key."""
    return (
        bool(key.deliver)
        and all(address.shows_delivery for address in key.deliver)
        and not any(map(shows_no_delivery, contents))
    )
