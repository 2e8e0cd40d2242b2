"""Moved names: live keys that still have a former name of a declared key."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.plan.actions import Rename
from provisioner.plan.findings import MovedConflict
from provisioner.plan.rotation import classify_live_keys

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import ObservedKey
    from provisioner.model.sink_content import SinkContent


class Move(NamedTuple):
    """The plan for the former names of a declared key.

    Attributes:
        renames: the renames, that of the current key first.
        conflict: the keys that keep a former name; None if there are none.
        live: the live keys that have the name once the renames are done, the oldest first.
    """

    renames: tuple[Rename, ...]
    conflict: MovedConflict | None
    live: tuple[ObservedKey, ...]

    @property
    def steps(self) -> tuple[Rename | MovedConflict, ...]:
        """Return the renames, and the finding about the other keys."""
        return (*self.renames, *filter(None, (self.conflict,)))

    @property
    def blocked(self) -> bool:
        """Return whether the name gets no key, because the one that it had may not be renamed."""
        return bool(self.renames) and not self.live


def former_names(desired: Iterable[DesiredKey]) -> frozenset[str]:
    """Return the former names of keys."""
    return frozenset(name for key in desired for name in key.moved_from)


def name_of_live_keys(key: DesiredKey, live: Container[str]) -> str:
    """Return the name under which a declared key is live: its own, or else its last former one.

    Args:
        key: the desired key.
        live: the names that have live keys.
    """
    return next((name for name in (key.name, *key.moved_from) if name in live), key.name)


def plan_move(
    environment: Environment,
    key: DesiredKey,
    live: Mapping[str, Sequence[ObservedKey]],
    sink_contents: Iterable[SinkContent],
) -> Move:
    """Plan the renames of live keys that have a former name of a declared key.

    If no live key has the new name, the current key of the last former name gets it. The keys that
    the current one replaces in a rotation get it too, also if it has the new name already: that is
    what is left if a run ends between the renames. No other key does, as it might be any key.

    Args:
        environment: the environment, for what it owns.
        key: the desired key, with its former names.
        live: the live keys by name, the oldest first.
        sink_contents: the contents of the sinks of the key.
    """
    own = tuple(live.get(key.name, ()))
    former = [live[name] for name in key.moved_from if name in live]
    if not former:
        return Move((), None, own)
    contents = tuple(sink_contents)
    related = tuple(own or former[0])
    keys = classify_live_keys(key, related, contents)
    for others in former if own else former[1:]:
        # A name at a time: strangers of one name must not hide the predecessors of another.
        together = _by_age((*related, *others))
        wider = classify_live_keys(key, together, contents)
        if wider.current is keys.current:
            related, keys = together, wider
    renames = tuple(
        Rename(
            name=key.name,
            old_name=one.name,
            reason="moved",
            depth=key.depth,
            expires_at=one.expires_at,
            role=one.role,
            key_id=one.id,
            place=key.place,
            blocked=_refusal(environment, key.name, one.name),
            annotations=key.annotations,
        )
        for one in (keys.current, *reversed(keys.predecessors))
        if one not in own
    )
    planned = {one.key_id for one in renames}
    renamed = {one.key_id for one in renames if one.blocked is None}
    left = [one for one in chain.from_iterable(former) if one.id not in planned]
    conflict = MovedConflict(
        key.name, tuple(one.id for one in left), tuple(dict.fromkeys(one.name for one in left))
    )
    moved = (
        replace(one, name=key.name) for one in chain.from_iterable(former) if one.id in renamed
    )
    return Move(renames, conflict if left else None, _by_age((*own, *moved)))


def _by_age(keys: Iterable[ObservedKey]) -> tuple[ObservedKey, ...]:
    """Return keys, the oldest first."""
    return tuple(sorted(keys, key=lambda one: one.creation_order))


def _refusal(environment: Environment, name: str, old_name: str) -> Failure | None:
    """Return why a key cannot be renamed; None if it can."""
    foreign = [repr(one) for one in (old_name, name) if not environment.owns_key(one)]
    if not foreign:
        return None
    return Failure(
        Code.NOT_OWNED,
        f"{' and '.join(foreign)} match{'es' if len(foreign) == 1 else ''} no pattern under `owns` "
        f"in {environment.name}, and a rename needs both names to match. Add a pattern.",
    )
