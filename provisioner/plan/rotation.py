"""The choice of the current key of several live ones: rule 0 of docs/reliability.md; no I/O."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from provisioner.model.expiry import CLOCK_TOLERANCE, ExpiresAfter
from provisioner.model.sink_content import token_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import ObservedKey
    from provisioner.model.sink_content import SinkContent


_LONGEST_REVIEW = timedelta(days=1)
"""The longest time between a plan, from which the expiry counts, and the create that applies it."""

_HOUR = timedelta(hours=1)
_PLAN_TO_CREATE = timedelta(minutes=10)
"""The longest time between the plan and the create within one run."""


class LiveKeys(NamedTuple):
    """The live keys of one name, classified.

    Attributes:
        current: the key whose token the sinks should hold.
        predecessors: the keys that it replaced, the oldest first; they are revoked when it is
            delivered and the overlap is over.
        duplicates: all others, the oldest first; they are not delivered, and only `--dedupe` or
            `revoke` revokes them.
    """

    current: ObservedKey
    predecessors: tuple[ObservedKey, ...] = ()
    duplicates: tuple[ObservedKey, ...] = ()


def classify_live_keys(
    key: DesiredKey | None, live: Sequence[ObservedKey], sink_contents: Iterable[SinkContent]
) -> LiveKeys:
    """Classify the live keys of a name as the current key, its predecessors and duplicates.

    The search starts at the newest key whose token a sink holds, or else at the oldest key, and
    follows the keys that were created as successors. A predecessor is a key that was due for
    rotation when the next one was created.

    Args:
        key: the desired key; None for a name that no manifest declares.
        live: its live keys, the oldest first; at least one.
        sink_contents: the contents of its sinks.
    """
    if len(live) == 1:
        return LiveKeys(live[0])
    held_ids = token_ids(sink_contents)
    delivered = [index for index, one in enumerate(live) if one.id.lower() in held_ids]
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
    chain_ids = {one.id for one in chain}
    return LiveKeys(
        chain[-1], tuple(chain[:-1]), tuple(one for one in live if one.id not in chain_ids)
    )


def _was_due(older: ObservedKey, newer: ObservedKey, before: timedelta) -> bool:
    """Return whether a key was due for rotation when another one was created."""
    return older.expires_at - before <= newer.created_at + CLOCK_TOLERANCE


def _looks_like_successor(
    key: DesiredKey, older: ObservedKey, newer: ObservedKey, before: timedelta
) -> bool:
    """Return whether a key looks like the successor that a run planned for another one.

    A run writes milliseconds into each expiry, and counts the lifetime from its plan. The plan was
    made after the older key became due and before the newer key was created.
    """
    return newer.expires_at.microsecond != 0 and any(
        older.expires_at - before - CLOCK_TOLERANCE
        <= newer.expires_at - lifetime
        <= newer.created_at + CLOCK_TOLERANCE
        for lifetime in _possible_lifetimes(key, older)
    )


def _created_by_run(key: DesiredKey, one: ObservedKey) -> bool:
    """Return whether a key has the lifetime that the manifest sets, as if a run had created it."""
    if not isinstance(key.expiry, ExpiresAfter) or not one.expires_at.microsecond:
        return False
    early = one.created_at - (one.expires_at - key.expiry.lifetime)
    return -CLOCK_TOLERANCE <= early <= _LONGEST_REVIEW


def _possible_lifetimes(key: DesiredKey, older: ObservedKey) -> Iterator[timedelta]:
    """Yield the lifetimes that a successor may have, as the manifest may have changed since.

    The lifetime of the older key counts too if a manifest can set it: whole hours, less the time
    from the plan to the create.
    """
    if isinstance(key.expiry, ExpiresAfter):
        yield key.expiry.lifetime
    lifetime = older.expires_at - older.created_at
    if -lifetime % _HOUR <= _PLAN_TO_CREATE or lifetime % _HOUR <= CLOCK_TOLERANCE:
        yield lifetime
