"""Manifests to desired keys: defaults, matrix, placeholders, and who named a key first."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from functools import partial
from itertools import product, repeat
from math import prod
from sys import intern
from typing import TYPE_CHECKING, Any, assert_never, cast, get_args

from provisioner.errors.problem import Place, Problem
from provisioner.manifests import characters, variables
from provisioner.manifests.causes import Affected, Cause, Causes
from provisioner.manifests.document import Document, Mapping, Position, Sequence
from provisioner.manifests.schema import is_expiry, published
from provisioner.manifests.schema_errors import manifest_problems, show
from provisioner.manifests.templates import (
    ADDRESSES,
    Fault,
    Filled,
    PlaceholderText,
    SinkTemplate,
    parts_of,
)
from provisioner.model.expiry import (
    ExpiresAfter,
    ExpiresAt,
    ExpiresNever,
    Expiry,
    parse_duration,
    parse_expiry,
)
from provisioner.model.key import Depth, DesiredKey, Rotation
from provisioner.model.sink_address import Address, FileAddress

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator
    from collections.abc import Sequence as SequenceOf
    from datetime import datetime

    from provisioner.manifests.causes import Describe
    from provisioner.manifests.policy_check import Breach, PolicyCheck

MAX_MATRIX = 10_000
"""Keys that one matrix may give in one environment."""

MAX_KEYS = 1_000_000
"""Keys that all manifests together may give."""

OVERLAP = "48h"
"""How long a rotated key lives on beside its successor; the schema says so too."""

MAX_ENVIRONMENTS = 10_000
"""Environments that one manifest may name; the schema says so too."""


@dataclass(frozen=True, slots=True)
class _Target:
    """One environment of a manifest, and its keys so far by name."""

    name: str
    keys: dict[str, DesiredKey]
    policy_check: PolicyCheck | None


@dataclass(slots=True)
class Collection:
    """The desired keys of all manifests, and what is wrong with them.

    Attributes:
        declared: the names of the environments; None when environments.yaml could not be read,
            and every name is taken as it is.
        now: an expiry that is not after it is a problem; None where that is not looked at.
        policy_check: of the environments without a problem, by their names.
        keys: by environment and by name, in the order of the files and lines.
        problems: those with a cause of their own, in the order found.
        causes: of all other problems.
        holders: of each place that holds one token, the key that is delivered there.
        formats: of each file that is delivered to, its format and the key that says so first.
    """

    declared: frozenset[str] | None
    now: datetime | None
    policy_check: dict[str, PolicyCheck] = field(default_factory=dict)
    keys: dict[str, dict[str, DesiredKey]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    causes: Causes = field(default_factory=Causes)
    holders: dict[tuple[str, ...], DesiredKey] = field(default_factory=dict)
    formats: dict[str, tuple[str, DesiredKey]] = field(default_factory=dict)

    def add(self, document: Document) -> None:
        """Takes up one manifest."""
        schema = published("manifest")
        root: Any = document.root
        entries: Any = root.get("keys") if isinstance(root, Mapping) else None
        sound: list[int] | None = None
        if not schema.check()(root):
            check = schema.check("key")
            listed = entries if isinstance(entries, Sequence) else ()
            failing = [index for index, entry in enumerate(listed) if not check(entry)]
            self.problems += manifest_problems(document, failing)
            if not isinstance(root, Mapping) or not isinstance(entries, Sequence):
                return
            left_out = set(failing)
            sound = [index for index in range(len(entries)) if index not in left_out]
        _Manifest(self, document, root, self._targets(document, root)).expand(
            entries if sound is None else [entries[index] for index in sound]
        )

    def desired(self, names: tuple[str, ...]) -> dict[str, tuple[DesiredKey, ...]]:
        """The keys of each environment, in the order of the files and lines."""
        return {name: tuple(self.keys.get(name, {}).values()) for name in names}

    def _targets(self, document: Document, root: Mapping) -> list[_Target]:
        """The environments that a manifest names and that are declared, each once."""
        named: list[tuple[object, Position]] = []
        if "environment" in root:
            named.append((root["environment"], root.value_position("environment")))
        listed = root.get("environments")
        if isinstance(listed, Sequence):
            named += zip(listed[:MAX_ENVIRONMENTS], listed.positions, strict=False)
        targets: dict[str, _Target] = {}
        for name, position in named:
            if not isinstance(name, str) or not name or name in targets:
                continue
            if self.declared is not None and name not in self.declared:
                self.problems.append(_unknown_environment(document, name, position, self.declared))
                continue
            targets[name] = _Target(
                name, self.keys.setdefault(name, {}), self.policy_check.get(name)
            )
        return list(targets.values())


class _Manifest:
    """The expansion of one manifest."""

    def __init__(
        self, collection: Collection, document: Document, root: Mapping, targets: list[_Target]
    ) -> None:
        self._collection = collection
        self._document = document
        self._targets = targets
        depth = root.get("depth", 1)
        # A wrong depth is a problem already; the keys are still looked at.
        self._depth = cast("Depth", depth if type(depth) is int and depth in get_args(Depth) else 1)
        defaults = root.get("defaults")
        self._defaults = defaults if isinstance(defaults, Mapping) else Mapping()
        role = self._defaults.get("role")
        self._role = self._own_role(role, self._defaults) if isinstance(role, str) else None
        self._expiries: dict[str | None, Expiry] = {}
        deliver = self._defaults.get("deliver")
        # One with a problem is told of already, and delivers nowhere.
        sound = deliver and published("manifest").check("deliver")(deliver)
        self._deliver: Sequence | None = deliver if sound else None
        rotate = self._defaults.get("rotate")
        # As with `deliver`.
        self._rotation = (
            _rotation(rotate)
            if rotate is not None and published("manifest").check("rotate")(rotate)
            else None
        )
        self._whole = root.position.index not in document.partial and (
            "defaults" not in root
            or (
                isinstance(defaults, Mapping)
                and defaults.position.index not in document.partial
                and published("manifest").check("defaults")(defaults)
            )
        )
        self._default_sinks: dict[
            tuple[str, ...], tuple[tuple[SinkTemplate, ...], list[Affected]]
        ] = {}
        self._affected: list[Affected] = []

    def expand(self, entries: SequenceOf[Mapping]) -> None:  # noqa: C901, PLR0912 - one loop, calls cost
        """Takes up keys that the schema accepts."""
        file, depth, targets, expiries, default_role, delivers, default_rotation = (
            self._document.file, self._depth, self._targets, self._expiries, self._role,
            self._deliver is not None, self._rotation,
        )  # fmt: skip
        no_values: repeat[SequenceOf[str]] = repeat(())
        if entries and not self._room(len(entries), self._document.position):
            return
        for entry in entries:
            name = entry["name"]
            position = (
                entry.positions[1] if next(iter(entry)) == "name" else entry.value_position("name")
            )
            place = Place(file, position.line + 1, position.column + 1)
            affected, expanded = self._affected, False
            affected.clear()
            expiry = expiries.get(entry.get("expires")) or self._expiry(entry)
            if not name.isascii():
                self._check_text("the name", name, position)
            role = entry.get("role")
            role = default_role if role is None else self._own_role(role, entry)
            named: Iterable[tuple[_Target, str, SequenceOf[str]]]
            if "{" in name or "}" in name or "matrix" in entry:
                named = self._expanded(entry, name, place)
            else:
                named = zip(targets, repeat(name), no_values)
            sinks = self._sinks(entry) if delivers or "deliver" in entry else ()
            rotation = _rotation(entry["rotate"]) if "rotate" in entry else default_rotation
            if rotation is not None:
                self._fit(entry, rotation, expiry)
            protect = entry.get("protect", False)
            for target, each, values in named:
                key = DesiredKey(
                    target.name, each, depth, expiry, role, place, (), rotation, protect
                )
                if affected:
                    expanded = True
                    for one in affected:
                        one.add((place, values), each, target.name)
                if sinks:
                    found = self._addresses(sinks, entry, key, values)
                    key = key._replace(deliver=tuple(found.values()))
                first = target.keys.setdefault(each, key)
                if first is not key:
                    self._named_twice(key, values, first)
                    continue
                if sinks:
                    self._hold(key, values, found)
                policy_check = target.policy_check
                if policy_check is not None and (
                    rotation is not None or policy_check.policy is not None
                ):
                    self._hold_to(policy_check, entry, key, values)
            if affected and not expanded:
                self._count_unexpanded(place, name)

    def _count_unexpanded(self, place: Place, name: str) -> None:
        """Count an entry that another problem leaves without a name or an environment."""
        for affected in self._affected:
            affected.add((place, ()), name, None)

    def _own_role(self, role: str, node: Mapping) -> str:
        """Return the role that a key or `defaults` name, one string for all that name it."""
        if "$" in role or not role.isascii():
            self._check_text("`role`", role, node.value_position("role"))
        return intern(role)

    def _check_text(self, subject: str, text: str, position: Position) -> None:
        """Tell of a text that holds a variable, or characters that are not seen."""
        if variable := variables.written_in(text):
            self._problem(position, "variable_invalid", variables.only_in_environments(variable))
        if message := characters.advice(subject, text):
            self._problem(position, "character_unseen", message)

    def _expiry(self, entry: Mapping) -> Expiry:
        """The key's own expiry or the default; one without a problem is kept for the next key."""
        own = entry.get("expires")
        node = self._defaults if own is None else entry
        written = node.get("expires")
        if "expires" not in node:
            # A mapping that lost a key to a problem may have had it.
            if entry.position.index not in self._document.partial:
                # One line in `defaults` is enough for all keys that lack it.
                self._record(
                    Cause(
                        "expiry_missing",
                        self._document.place(entry.position),
                        (self._document.file, "expires"),
                    ),
                    lambda affected: (
                        f"{affected.key} has no `expires`: write it here or in `defaults`, as in "
                        "90d, 2027-06-30 or never"
                    ),
                )
            return _NO_EXPIRY
        if not isinstance(written, str) or not is_expiry(written):
            return _NO_EXPIRY
        expiry = parse_expiry(written)
        now = self._collection.now
        if now is not None and isinstance(expiry, ExpiresAt) and expiry.timestamp <= now:
            self._record(
                Cause("expiry_past", self._document.place(node.value_position("expires"))),
                lambda affected: (
                    f"{show(written)} has passed{affected.for_keys}: write a later date, or remove "
                    f"the key{'s' if affected.for_keys else ''}"
                ),
            )
            return expiry
        self._expiries[own] = expiry
        return expiry

    def _fit(self, entry: Mapping, rotation: Rotation, expiry: Expiry) -> None:
        """Tells of a rotation that cannot go with the expiry of the key."""
        match expiry:
            case ExpiresAfter(lifetime=lifetime, written=written) if rotation.before < lifetime:
                lives_on = min(rotation.before, rotation.overlap)
                if rotation.before + lives_on <= lifetime:
                    return
                what = (
                    f"with this `before` and `overlap` a key of {written} lives on until its "
                    "successor has one itself, so that three are always live"
                )
                advice = "write less"
            case ExpiresAfter(written=written):
                what = (
                    f"`before` is not shorter than {written}, the lifetime, so that each successor "
                    "would be due for the next at once"
                )
                advice = "write less"
            case ExpiresAt(written=written):
                what = f"{show(written)} is a date, and each successor would end then too"
                advice = "write a lifetime, as in `expires: 90d`"
            case ExpiresNever():
                if expiry is _NO_EXPIRY:
                    return
                what = "a key that never ends is never due for rotation"
                advice = "write `expires: 90d` or so"
            case _:
                assert_never(expiry)
        own = [word for word in ("rotate", "expires") if word in entry]
        node = entry if own else self._defaults
        other = self._defaults if len(own) == 1 else node
        word, counterpart = ("expires", "rotate") if own == ["expires"] else ("rotate", "expires")
        self._record(
            Cause("rotation_expiry", self._document.place(node.value_position(word))),
            lambda affected: f"{what}{affected.for_keys}: {advice}, or `rotate: never`",
            self._document.place(other.value_position(counterpart)),
        )

    def _hold_to(
        self, policy_check: PolicyCheck, entry: Mapping, key: DesiredKey, axes: SequenceOf[str]
    ) -> None:
        """Tells of what an environment demands of a key and does not get."""
        wanted = entry.get("deliver", self._deliver or ())
        # What a problem was told about may be as it must be when that is mended.
        if (
            self._whole
            and key.expiry is not _NO_EXPIRY
            and len(key.deliver) == len(wanted)
            and entry.position.index not in self._document.partial
        ):
            for breach in policy_check.breaches(key, self._collection.now):
                cause = self._cause(breach, policy_check, entry, key)
                self._collection.causes.add(
                    cause, breach.describe, breach.related, rank=breach.rank
                ).add((key.place, axes), key.name, key.environment, breach.rule)

    def _cause(
        self, breach: Breach, policy_check: PolicyCheck, entry: Mapping, key: DesiredKey
    ) -> Cause:
        """Return the line that has to change: of the key, of `defaults` or of the environment."""
        code, part = breach.code, breach.part
        unowned = code == "rotation_unowned"
        if unowned and not policy_check.owns:
            return Cause(code, policy_check.owns_place, "without owns", single=key.place)
        if part == "name" or part in entry:
            return Cause(code, key.place)
        if part == "role" and key.role is None:
            return Cause(code, policy_check.role_place)
        if part not in self._defaults:
            return Cause(code, key.place, (self._document.file, part))
        position = self._defaults.value_position(part)
        if code == "policy_sink_forbidden" and breach.rule is not None and self._deliver:
            forbidden = breach.rule.value or ()
            sinks = zip(self._deliver.positions, key.deliver, strict=True)
            position = next(at for at, sink in sinks if sink.place[0] in forbidden)
        return Cause(code, self._document.place(position), single=key.place if unowned else None)

    def _room(self, count: int, position: Position) -> bool:
        """Whether that many keys more in each environment are not too many."""
        taken = sum(map(len, self._collection.keys.values()))
        if taken + count * len(self._targets) <= MAX_KEYS:
            return True
        message = f"more than {MAX_KEYS} keys in all manifests: leave some out"
        cause = Cause("matrix_too_large", self._document.place(position), "all manifests")
        self._collection.causes.add(cause, lambda _: message)
        return False

    def _expanded(
        self, entry: Mapping, name: str, place: Place
    ) -> Iterator[tuple[_Target, str, SequenceOf[str]]]:
        """The names that placeholders or a matrix give in each environment, and their values."""
        matrix = entry.get("matrix", Mapping())
        if matrix and matrix.position.index in self._document.partial:
            return  # the axis that it lost to a problem may be any
        parts: list[str] | None
        parts, faults = parts_of(name, ("environment", *matrix), place)
        for fault in faults:
            cause = Cause(fault.code, place, (place, fault.what))
            self._collection.causes.add(cause, fault.describe)
        if faults:
            parts = None
        self._check_values(matrix)
        used = set(matrix if parts is None else parts[1::2])
        for axis in matrix:
            if axis not in used:
                self._problem(
                    matrix.key_position(axis),
                    "matrix_collision",
                    f"the name does not hold {{{axis}}}, so every value of `{axis}` gives the "
                    "same names: put it into the name, or remove the axis",
                )
                parts = None
        size = prod(len(values) for values in matrix.values())
        if size > MAX_MATRIX:
            message = f"the matrix gives {size} keys, more than {MAX_MATRIX}: split it"
            self._problem(entry.key_position("matrix"), "matrix_too_large", message)
            parts = None
        if parts is None or not self._room(size, entry.position):
            return
        for target in self._targets:
            for each, values in self._names(parts, matrix, target, place).items():
                yield target, each, values

    def _check_values(self, matrix: Mapping) -> None:
        """Tell of values of a matrix that hold a variable, or characters that are not seen."""
        for axis in matrix.values():
            for value, position in zip(axis, axis.positions, strict=True):
                if "$" in value or not value.isascii():
                    self._check_text("the value", value, position)

    def _names(
        self, parts: list[str], matrix: dict[str, list[str]], target: _Target, place: Place
    ) -> dict[str, tuple[str, ...]]:
        given: dict[str, tuple[str, ...]] = {}
        for values in product(*matrix.values()):
            known = dict(zip(matrix, values, strict=True), environment=target.name)
            name = "".join(known[part] if index % 2 else part for index, part in enumerate(parts))
            earlier = given.setdefault(name, values)
            if earlier is not values:
                both = f"{', '.join(map(show, earlier))} and {', '.join(map(show, values))}"
                self._collection.causes.add(
                    Cause("matrix_collision", place),
                    partial(_collision, both),
                ).add((place, values), name, target.name)
        return given

    def _sinks(self, entry: Mapping) -> tuple[SinkTemplate, ...]:
        """Where the key is delivered; what `defaults` say is taken apart once for one matrix."""
        if entry.position.index in self._document.partial:
            return ()  # the list that it lost to a problem may be any
        axes = tuple(entry.get("matrix", ()))
        if "deliver" in entry:
            sinks, affected = self._taken_apart(entry["deliver"], axes)
        else:
            if axes not in self._default_sinks:
                self._default_sinks[axes] = self._taken_apart(self._deliver or (), axes)
            sinks, affected = self._default_sinks[axes]
        self._affected += affected
        return sinks

    def _taken_apart(
        self, deliver: SequenceOf[Mapping], axes: tuple[str, ...]
    ) -> tuple[tuple[SinkTemplate, ...], list[Affected]]:
        """The sinks of a list, and what problems with the others affect."""
        known = ("environment", "name", *axes)
        sinks = []
        affected: list[Affected] = []
        for sink in deliver:
            texts: dict[str, tuple[PlaceholderText, ...]] = {}
            faults: list[Fault] = []
            for option, value in sink.items():
                alone = isinstance(value, str)
                positions = [sink.value_position(option)] if alone else value.positions
                templates = []
                for text, position in zip([value] if alone else value, positions, strict=True):
                    place = self._document.place(position)
                    parts, found = parts_of(text, known, place)
                    templates.append(PlaceholderText(tuple(parts), place))
                    faults += found
                texts[option] = tuple(templates)
            # Two placeholders of one text may both be unknown.
            affected += [self._fault(fault, (fault.place, fault.what)) for fault in faults]
            if not faults and sink.position.index not in self._document.partial:
                kind = next(kind for kind in ADDRESSES if kind in sink)
                sinks.append(SinkTemplate(kind, texts, self._document.place(sink.position)))
        return tuple(sinks), affected

    def _addresses(
        self,
        sinks: tuple[SinkTemplate, ...],
        entry: Mapping,
        key: DesiredKey,
        axes: SequenceOf[str],
    ) -> dict[Place, Address]:
        """Where one key is delivered, by the place of the sink; one with a problem is left out."""
        values = dict(zip(entry.get("matrix", ()), axes, strict=True))
        values |= {"environment": key.environment, "name": key.name}
        addresses = {}
        for sink in sinks:
            filled = Filled(sink, values)
            address = ADDRESSES[sink.kind](filled)
            for fault in filled.faults:
                self._fault(fault).add((key.place, axes), key.name, key.environment)
            if not filled.faults:
                addresses[sink.place] = address
        return addresses

    def _fault(self, fault: Fault, identity: Hashable = None) -> Affected:
        """Record a mistake in a sink, and return what it affects."""
        cause = Cause(fault.code, fault.place, identity)
        return self._collection.causes.add(cause, fault.describe)

    def _hold(
        self, key: DesiredKey, axes: SequenceOf[str], addresses: dict[Place, Address]
    ) -> None:
        """Notes what holds the key's token, and tells of what holds another already."""
        holders, formats = self._collection.holders, self._collection.formats
        for written, address in addresses.items():
            place = address.place
            if isinstance(address, FileAddress):
                form, first = formats.setdefault(address.file, (address.format, key))
                if form != address.format:
                    describe = partial(_two_formats, address, form, first)
                    cause = Cause("sink_collision", written, (written, "format"))
                    self._collide(cause, describe, key, axes, first)
                    continue
            if place not in holders:
                holders[place] = key
                continue
            first = holders[place]
            describe = partial(_one_place, address, key, first)
            self._collide(Cause("sink_collision", written), describe, key, axes, first)

    def _collide(
        self,
        cause: Cause,
        describe: Describe,
        key: DesiredKey,
        axes: SequenceOf[str],
        first: DesiredKey,
    ) -> None:
        affected = self._collection.causes.add(cause, describe, first.place)
        affected.add((key.place, axes), key.name, key.environment)

    def _named_twice(self, key: DesiredKey, axes: SequenceOf[str], first: DesiredKey) -> None:
        self._collide(
            Cause("name_duplicate", key.place), partial(_two_keys, key, first), key, axes, first
        )

    def _record(self, cause: Cause, describe: Describe, related: Place | None = None) -> None:
        """Record a failure of an entry; each of its names is counted when it is known."""
        self._affected.append(self._collection.causes.add(cause, describe, related))

    def _problem(self, position: Position, code: str, message: str) -> None:
        self._collection.problems.append(Problem(self._document.place(position), code, message))


def _rotation(node: Mapping | str) -> Rotation | None:
    """The rotation that is written; None for `never`."""
    if isinstance(node, str):
        return None
    before, overlap = node["before"], node.get("overlap", OVERLAP)
    return Rotation(
        parse_duration(before), parse_duration(overlap), f"before {before}, overlap {overlap}"
    )


def _whose(key: DesiredKey) -> str:
    return f"{show(key.name)} of {key.environment} ({key.place.file} line {key.place.line})"


def _collision(both: str, affected: Affected) -> str:
    return f"{both} both give the name {affected.key}: put a character between the axes"


def _two_keys(key: DesiredKey, first: DesiredKey, affected: Affected) -> str:
    return (
        f"{affected.key} is named twice in {key.environment}{affected.other_environments}, first "
        f"in {first.place.file} line {first.place.line}: a name stands for one key"
    )


def _two_formats(address: FileAddress, form: str, first: DesiredKey, affected: Affected) -> str:
    return (
        f"the file {show(address.file)} is {form} for {_whose(first)}, and {address.format} for "
        f"{affected.key}: a file has one format"
    )


def _one_place(address: Address, key: DesiredKey, first: DesiredKey, affected: Affected) -> str:
    what = show(str(address))
    if first is key:
        return f"{what} is listed twice for {affected.key}: remove one"
    return (
        f"{what} is where {affected.key} of {key.environment}{affected.other_environments} goes, "
        f"and {_whose(first)}: put {{environment}} or {{name}} into it, or name another place in "
        "one of them"
    )


def _unknown_environment(
    document: Document, name: str, position: Position, declared: frozenset[str]
) -> Problem:
    if variable := variables.written_in(name):
        message = variables.only_in_environments(variable)
        return Problem(document.place(position), "variable_invalid", message)
    close = difflib.get_close_matches(name[:64], sorted(declared), n=1)
    advice = f"did you mean {close[0]}?" if close else "declare it there"
    message = f"environments.yaml has no environment {show(name)}: {advice}"
    return Problem(document.place(position), "environment_unknown", message)


_NO_EXPIRY = ExpiresNever()
"""Stands in for an expiry that a problem was told about; such keys leave `load` never."""
