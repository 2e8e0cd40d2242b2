"""The rule for new keys that several runs may have created under one name; no I/O.

Of several new live keys of a name, the first by (`createdAt`, `id`) is kept. Every run applies this
rule on its own and revokes only keys that it created itself. So when runs race, all but one give
way, and never all of them (docs/reliability.md, "Two runs at once").
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.model.observed import HiddenRoles, KnownRoles, by_name

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from provisioner.model.observed import Observation, ObservedKey

_MAX_MILLISECONDS = 999


@dataclass(frozen=True, slots=True)
class RunMarker:
    """The milliseconds, 1 to 999, that one run writes into the expiry of the keys it creates.

    A later observation recognises the run's own keys by them. Everything else compares expiries to
    the second.
    """

    milliseconds: int

    @classmethod
    def random(cls) -> RunMarker:
        """Return a marker for a new run."""
        return cls(1 + secrets.randbelow(_MAX_MILLISECONDS))

    def apply_to(self, time: datetime) -> datetime:
        """Return the time in whole seconds plus the milliseconds of this marker."""
        return time.replace(microsecond=1000 * self.milliseconds)


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The keys that this run may have created under one name.

    Attributes:
        ids: the ids of this run's keys: it chose them, or the server returned them.
        expires_at: the expiry with the run marker, if this run may have created a key whose id is
            not known; else None.
        expected: the number of keys that its requests may have created. It is more than one if the
            server chooses the ids and a create whose answer was lost was sent again.
    """

    name: str
    ids: frozenset[str]
    expires_at: datetime | None = None
    expected: int = 1

    def includes(self, key: ObservedKey) -> bool:
        """Return whether this run created the key, given a new key of this name."""
        return key.id in self.ids or (
            self.expires_at is not None and key.expires_at == self.expires_at
        )


@dataclass(frozen=True, slots=True)
class NotFound:
    """No new live key has the name."""


@dataclass(frozen=True, slots=True)
class Found:
    """At least one new live key has the name.

    Attributes:
        key: the key to keep.
        ours: True if this run created that key.
        duplicates: the ids of this run's other keys of the name, which are to be revoked.
        complete: False if the key has no role yet. On 2.x a key is listed before it has its role.
        final: True if no later observation can change this: no other run has created a key of the
            name, and every key that this run may have created is listed.
    """

    key: ObservedKey
    ours: bool
    duplicates: tuple[str, ...]
    complete: bool
    final: bool


Conflict = NotFound | Found


class NewLiveKeys:
    """The live keys of one observation that did not exist before the run.

    Attributes:
        roles_hidden: True if keys have roles that this credential may not read.

    Args:
        observation: the current content of the workspace.
        existing_ids: the ids of all keys that the workspace had when the plan was made.
    """

    def __init__(self, observation: Observation, existing_ids: frozenset[str]) -> None:
        roles = observation.roles
        self._roles_known = isinstance(roles, KnownRoles) and roles.complete
        self.roles_hidden = isinstance(observation.roles, HiddenRoles)
        self._new_keys = by_name(
            key
            for key in observation.keys
            if key.id not in existing_ids and key.live(observation.server_time)
        )

    def resolve(self, own: OwnKeys) -> Conflict:
        """Return which key of a name is kept, and which of this run's keys are duplicates of it."""
        new = self._new_keys.get(own.name, ())
        if not new:
            return NotFound()
        kept = new[0]
        own_ids = tuple(key.id for key in new if own.includes(key))
        return Found(
            key=kept,
            ours=kept.id in own_ids,
            duplicates=tuple(id_ for id_ in own_ids if id_ != kept.id),
            complete=kept.role_id is not None or not self._roles_known,
            final=len(new) == len(own_ids) >= own.expected,
        )

    def other_run_active(self, own_keys: Iterable[OwnKeys]) -> bool:
        """Return whether another run is active: there is a new key that this run did not create."""
        by_own_name = {own.name: own for own in own_keys}
        return any(
            name not in by_own_name or not all(map(by_own_name[name].includes, keys))
            for name, keys in self._new_keys.items()
        )
