"""Which of several live keys of a name is the key: rule 0 of docs/reliability.md, without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from provisioner.model.expiry import CLOCK_TOLERANCE, ExpiresAfter
from provisioner.model.sink_content import ApiKeyToken

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import ObservedKey
    from provisioner.model.sink_content import SinkContent


_LONGEST_REVIEW = timedelta(days=1)
"""How long a plan may have been reviewed before the key that it counts the end of was made."""


_HOUR = timedelta(hours=1)
_PLAN_TO_CREATE = timedelta(minutes=10)
"""How long a run may take from its plan to the making of a key."""


@dataclass(frozen=True, slots=True)
class LiveKeys:
    """The live keys of one name, told apart.

    Attributes:
        current: the key of the name, whose token its sinks are to hold.
        predecessors: the keys that it took over from, the oldest first; they end when it is
            delivered and the overlap is over.
        duplicates: every other, the oldest first: delivered nowhere, and ended by nothing but
            `--dedupe` or `revoke`.
    """

    current: ObservedKey
    predecessors: tuple[ObservedKey, ...]
    duplicates: tuple[ObservedKey, ...]


def classify_live_keys(
    key: DesiredKey | None, live: Sequence[ObservedKey], sink_contents: Iterable[SinkContent]
) -> LiveKeys:
    """Tell the key of a name from its predecessors and from duplicates.

    The key is the newest one whose token a sink holds, else the oldest; after it comes each key
    that was made as its successor. A predecessor is one that was due when the next was made.

    Args:
        key: the desired key; None for a name that no manifest wants.
        live: its live keys, the oldest first; one at least.
        sink_contents: what its sinks hold.
    """
    shown = {found.key.lower() for found in sink_contents if isinstance(found, ApiKeyToken)}
    delivered = [number for number, one in enumerate(live) if one.id.lower() in shown]
    start = delivered[-1] if delivered else 0
    chain = [live[start]]
    if key is not None and key.rotation is not None:
        before = key.rotation.before
        older = [one for one in live[:start] if _was_due(one, live[start], before)]
        if len(older) > 1:
            older = [one for one in older if _created_by_run(key, one)] or older
        chain = [*older, *chain]
        for one in live[start + 1 :]:
            if _was_due(chain[-1], one, before) and _looks_like_successor(
                key, chain[-1], one, before
            ):
                chain.append(one)
    chosen = {one.id for one in chain}
    return LiveKeys(
        chain[-1], tuple(chain[:-1]), tuple(one for one in live if one.id not in chosen)
    )


def _was_due(older: ObservedKey, newer: ObservedKey, before: timedelta) -> bool:
    """Return whether a key was due for a successor when another one was made."""
    return older.expires_at - before <= newer.created_at + CLOCK_TOLERANCE


def _looks_like_successor(
    key: DesiredKey, older: ObservedKey, newer: ObservedKey, before: timedelta
) -> bool:
    """Return whether a key looks like the successor that a run planned for another one.

    A run writes milliseconds into each end, and counts it from the moment of its plan: that lies
    between the moment when the older key was due and the making of the newer one.
    """
    return newer.expires_at.microsecond != 0 and any(
        older.expires_at - before - CLOCK_TOLERANCE
        <= newer.expires_at - lifetime
        <= newer.created_at + CLOCK_TOLERANCE
        for lifetime in _possible_lifetimes(key, older)
    )


def _created_by_run(key: DesiredKey, one: ObservedKey) -> bool:
    """Return whether a key lives as long, from its making on, as the manifest says."""
    if not isinstance(key.expiry, ExpiresAfter) or not one.expires_at.microsecond:
        return False
    early = one.created_at - (one.expires_at - key.expiry.lifetime)
    return -CLOCK_TOLERANCE <= early <= _LONGEST_REVIEW


def _possible_lifetimes(key: DesiredKey, older: ObservedKey) -> Iterator[timedelta]:
    """Yield the lifetimes that a successor may have been given: the manifest may have changed.

    That of the older key counts too, where it is one that a manifest can write: in whole hours,
    less what a run takes from its plan to the making of a key.
    """
    if isinstance(key.expiry, ExpiresAfter):
        yield key.expiry.lifetime
    lived = older.expires_at - older.created_at
    if -lived % _HOUR <= _PLAN_TO_CREATE or lived % _HOUR <= CLOCK_TOLERANCE:
        yield lived
