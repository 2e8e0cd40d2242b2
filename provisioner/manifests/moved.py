"""The `moved` lists of manifests: the former names of keys.

Entries can be resolved only when all keys are known, as a key may move from one manifest to
another: each says only which name a key had and which one came next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from provisioner.errors.codes import Code
from provisioner.errors.did_you_mean import closest
from provisioner.manifests.causes import Cause
from provisioner.manifests.schema_errors import show
from provisioner.manifests.templates import split_placeholders

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from provisioner.errors.problem import Place
    from provisioner.manifests.causes import Affected, Causes, Describe
    from provisioner.model.key import DesiredKey


class MovedEntry(NamedTuple):
    """An entry of `moved` as written.

    Attributes:
        old_name: its `from`, with placeholders.
        new_name: its `to`, with placeholders.
        old_place: the place of its `from`.
        new_place: the place of its `to`.
    """

    old_name: str
    new_name: str
    old_place: Place
    new_place: Place


class _Move(NamedTuple):
    """An entry of `moved` in one environment, with the values of its placeholders.

    Attributes:
        entry: the entry as written.
        complete: whether all keys of its manifest could be read.
    """

    old_name: str
    new_name: str
    entry: MovedEntry
    complete: bool


Expansion = tuple[str, dict[str, str]]
"""An environment, and the values of the placeholders there, `environment` among them."""


@dataclass(slots=True)
class Moves:
    """The moves of all manifests, by environment.

    Attributes:
        causes: receives the mistakes.
    """

    causes: Causes
    _by_environment: dict[str, list[_Move]] = field(default_factory=dict)

    def add(
        self,
        entries: Iterable[MovedEntry],
        expansions: Mapping[str, list[Expansion]],
        environments: Iterable[str],
        *,
        complete: bool,
    ) -> None:
        """Add the entries of one manifest.

        Args:
            entries: the entries.
            expansions: by the name of a key as written, what it stands for.
            environments: the environments of the manifest.
            complete: whether all of its keys could be read.
        """
        by_old = {entry.old_name: entry for entry in entries}
        in_each: list[Expansion] = [(one, {"environment": one}) for one in environments]
        for entry in entries:
            # A name between two others is not declared, and has the placeholders of the last one.
            last, passed = entry.new_name, {entry.old_name}
            while last not in expansions and last in by_old and last not in passed:
                passed.add(last)
                last = by_old[last].new_name
            found = expansions.get(last, in_each)
            if not found:
                continue  # the key has another problem
            known = tuple(found[0][1])
            new, faults = split_placeholders(entry.new_name, known, entry.new_place)
            old, more = split_placeholders(entry.old_name, known, entry.old_place)
            if faults and last not in expansions:
                describe = partial(_unknown, entry.new_name, tuple(expansions))
                self._report(None, entry.new_place, describe)
                continue
            for fault in (*faults, *more):
                self.causes.add(fault)
            if faults or more:
                continue
            for environment, values in found:
                move = _Move(_filled(old, values), _filled(new, values), entry, complete)
                self._by_environment.setdefault(environment, []).append(move)

    def resolve(self, keys: Mapping[str, dict[str, DesiredKey]]) -> None:
        """Give every key its former names, and report what is wrong with entries.

        Args:
            keys: the keys by environment and name; they are replaced there.
        """
        for environment, moves in self._by_environment.items():
            self._resolve(environment, moves, keys.get(environment, {}))

    def _resolve(self, environment: str, moves: list[_Move], keys: dict[str, DesiredKey]) -> None:
        by_old: dict[str, _Move] = {}
        by_new: dict[str, _Move] = {}
        for move in moves:
            first = by_old.setdefault(move.old_name, move)
            if first != move:
                place, related = move.entry.old_place, first.entry.old_place
                describe = partial(_two_moves, "from", move.old_name, place, related)
                self._report(environment, place, describe, related)
            first = by_new.setdefault(move.new_name, move)
            if first != move:
                place, related = move.entry.new_place, first.entry.new_place
                describe = partial(_two_moves, "to", move.new_name, place, related)
                self._report(environment, place, describe, related)
        for move in moves:
            self._check(environment, move, by_old, keys)
        for name in by_new.keys() & keys.keys():
            former: list[str] = []
            last = name
            while last in by_new and by_new[last].old_name not in former:
                last = by_new[last].old_name
                former.append(last)
            keys[name] = keys[name]._replace(moved_from=tuple(former))

    def _check(
        self,
        environment: str,
        move: _Move,
        by_old: Mapping[str, _Move],
        keys: Mapping[str, DesiredKey],
    ) -> None:
        """Report an entry whose names are declared where they must not be, or are not declared."""
        old, new, entry, complete = move
        names = [old]
        while new in by_old and new not in names:
            names.append(new)
            new = by_old[new].new_name
        if new in names:
            self._report(
                environment,
                entry.old_place,
                partial(_circle, tuple(names)),
                identity=("circle", frozenset(names)),
            )
        elif old in keys:
            describe = partial(_still_declared, keys[old])
            self._report(environment, entry.old_place, describe, keys[old].place)
        elif len(names) > 1:
            return  # the entry that continues is checked
        elif new not in keys and complete:
            known = [name for name, key in keys.items() if key.place.file == entry.new_place.file]
            self._report(environment, entry.new_place, partial(_unknown, new, known))
        elif new in keys and keys[new].place.file != entry.new_place.file:
            describe = partial(_declared_elsewhere, keys[new])
            self._report(environment, entry.new_place, describe, keys[new].place)

    def _report(
        self,
        environment: str | None,
        place: Place,
        describe: Describe,
        related: Place | None = None,
        identity: Hashable = None,
    ) -> None:
        cause = Cause(Code.MOVED_INVALID, place, describe, related, identity)
        self.causes.add(cause).add(None, "", environment)


def _filled(parts: list[str], values: Mapping[str, str]) -> str:
    return "".join(values[part] if index % 2 else part for index, part in enumerate(parts))


def _two_moves(part: str, name: str, place: Place, first: Place, affected: Affected) -> str:
    if place == first:
        return (
            f"`{part}` is {show(name)} for several keys{affected.in_environments}: put every axis "
            "of the `matrix` in it"
        )
    return (
        f"another entry has the same `{part}`, {show(name)}{affected.in_environments}, in "
        f"{first.file} line {first.line}: remove one"
    )


def _circle(names: tuple[str, ...], affected: Affected) -> str:
    if len(names) == 1:
        return f"`from` and `to` are the same name{affected.in_environments}: remove this entry"
    circle = " to ".join(map(show, (*names, names[0])))
    return f"these entries move {circle}{affected.in_environments}: remove one of them"


def _still_declared(key: DesiredKey, affected: Affected) -> str:
    return (
        f"{show(key.name)} is still the name of a key{affected.in_environments}, in "
        f"{key.place.file} line {key.place.line}: remove that key, or this entry"
    )


def _unknown(name: str, names: Iterable[str], affected: Affected) -> str:
    close = closest(name, names)
    advice = f"did you mean {show(close)}?" if close else "write the name of one of its keys"
    return f"this manifest has no key {show(name)}{affected.in_environments}: {advice}"


def _declared_elsewhere(key: DesiredKey, affected: Affected) -> str:
    return (
        f"{show(key.name)} is declared in {key.place.file} line {key.place.line}"
        f"{affected.in_environments}: write this entry there"
    )
