"""What a look says of the keys that a run wanted to make; no I/O, the rule for everyone.

Of several new live keys of a name the first by (`createdAt`, `id`) stays. Every run follows this
rule by itself and ends only keys that it made, so that of runs that race all but one give way,
and never all of them (docs/reliability.md, "Two runs at once").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.model.observed import HiddenRoles, KnownRoles, by_name

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from provisioner.model.observed import Observation, ObservedKey


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """What this run sent for one name.

    Attributes:
        ids: of keys that are this run's, because it chose them or the server showed them.
        end: the end with the run's mark, where a key of this run may be there whose id nobody
            knows; else None.
        expected: how many keys its requests may have made; more than one where a create whose
            answer was lost had to be sent again, and the server chooses the ids.
    """

    name: str
    ids: frozenset[str]
    expires_at: datetime | None = None
    expected: int = 1

    def includes(self, key: ObservedKey) -> bool:
        """Whether a new key of this name is this run's."""
        return key.id in self.ids or (
            self.expires_at is not None and key.expires_at == self.expires_at
        )


@dataclass(frozen=True, slots=True)
class NotFound:
    """No new live key has the name."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """A new live key has the name.

    Attributes:
        key: the one that stays.
        ours: whether this run made it.
        duplicates: ids of this run's other keys of the name, which are to go.
        whole: False while the key has no role, as one that is just being created on 2.x.
        settled: whether nothing more is to be expected: no other run has made the name too,
            and every key that ours may have made is there.
    """

    key: ObservedKey
    ours: bool
    duplicates: tuple[str, ...]
    complete: bool
    final: bool


Conflict = NotFound | Resolution


class NewLiveKeys:
    """The live keys of one observation that were not there before the run.

    Attributes:
        roles_hidden: whether keys have roles that this credential may not see.

    Args:
        observation: what the workspace holds now.
        before: the ids of all keys that it held when the plan was made.
    """

    def __init__(self, observation: Observation, before: frozenset[str]) -> None:
        self._roles = isinstance(observation.roles, KnownRoles)
        self.roles_hidden = isinstance(observation.roles, HiddenRoles)
        self._new = by_name(
            key
            for key in observation.keys
            if key.id not in before and key.live(observation.server_time)
        )

    def resolve(self, sent: OwnKeys) -> Conflict:
        """Which key of a name stays, and which of this run's keys go."""
        new = self._new.get(sent.name, ())
        if not new:
            return NotFound()
        stays = new[0]
        ours = tuple(key.id for key in new if sent.includes(key))
        return Resolution(
            key=stays,
            ours=stays.id in ours,
            duplicates=tuple(id_ for id_ in ours if id_ != stays.id),
            complete=stays.role_id is not None or not self._roles,
            final=len(new) == len(ours) >= sent.expected,
        )

    def other_run_active(self, everything: Iterable[OwnKeys]) -> bool:
        """Whether a new key is there that this run did not make: another run is at work."""
        sent = {one.name: one for one in everything}
        return any(
            name not in sent or not all(map(sent[name].includes, keys))
            for name, keys in self._new.items()
        )
