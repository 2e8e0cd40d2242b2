"""Turns manifests into desired keys: applies defaults, expands matrices and finds conflicts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import product, repeat
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never, cast, get_args

from provisioner.errors.codes import Code
from provisioner.errors.did_you_mean import closest
from provisioner.errors.problem import Place, Problem
from provisioner.manifests import characters, variables
from provisioner.manifests.causes import Affected, Cause, Causes
from provisioner.manifests.document import Document, Mapping, Position, Sequence
from provisioner.manifests.matrix import MAX_MATRIX
from provisioner.manifests.moved import MovedEntry, Moves
from provisioner.manifests.schema import is_expiry, published
from provisioner.manifests.schema_errors import schema_problems, show
from provisioner.manifests.templates import (
    PlaceholderText,
    SinkTemplate,
    address_of,
    fill_known,
    split_placeholders,
)
from provisioner.model.expiry import (
    ExpiresAfter,
    ExpiresAt,
    ExpiresNever,
    Expiry,
    parse_duration,
    parse_expiry,
)
from provisioner.model.key import Annotations, Depth, DesiredKey, Rotation
from provisioner.sinks.registry import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from collections.abc import Sequence as SequenceOf
    from datetime import datetime

    from provisioner.manifests.environments import EnvironmentNames
    from provisioner.manifests.moved import Expansion
    from provisioner.manifests.policy_check import Breach, PolicyCheck, Rule
    from provisioner.model.sink_address import Address

MAX_KEYS = 1_000_000
"""The limit of keys in all manifests together."""

OVERLAP = "48h"
"""The default time for which a rotated key and its successor are both live, as in the schema."""

MAX_ENVIRONMENTS = 10_000
"""The limit of environments in one manifest, as in the schema."""


_NO_ANNOTATIONS = Annotations()


class _Target(NamedTuple):
    """An environment of a manifest.

    Attributes:
        name: the name of the environment.
        keys: its keys so far, by name.
        policy_check: its requirements; None if it has a problem itself.
    """

    name: str
    keys: dict[str, DesiredKey]
    policy_check: PolicyCheck | None


_Expansion = tuple[_Target, str, "SequenceOf[str]"]
"""A name in one environment, with the matrix values that give it."""

_Sinks = tuple[tuple[SinkTemplate, ...], list[Affected]]
"""The valid sinks of a list, and what the mistakes in the others affect."""


@dataclass(slots=True)
class Collection:
    """The desired keys of all manifests, and their problems.

    Attributes:
        declared: the names of the environments; None if they could not be read, so that any name
            is accepted.
        now: the time that expiries must be later than; None to accept all dates.
        policy_checks: the requirements of the environments without problems, by name.
        problems: the problems that affect only their own line, in the order found.
        keys: the keys by environment and name, in the order of the files and lines.
        causes: the causes of all other problems.
        occupied: the key whose token is delivered to each place; a place holds one token.
        containing: the first key whose token is inside each place, which can hold no token itself.
        formats: the format of each file, with the key that is the first to set it.
    """

    declared: EnvironmentNames | None
    now: datetime | None
    policy_checks: dict[str, PolicyCheck]
    problems: list[Problem]
    keys: dict[str, dict[str, DesiredKey]] = field(default_factory=dict)
    causes: Causes = field(default_factory=Causes)
    occupied: dict[tuple[str, ...], DesiredKey] = field(default_factory=dict)
    containing: dict[tuple[str, ...], DesiredKey] = field(default_factory=dict)
    formats: dict[str, tuple[str, DesiredKey]] = field(default_factory=dict)
    moves: Moves = field(init=False)

    def __post_init__(self) -> None:
        """Let mistakes in moves be causes as those in keys."""
        self.moves = Moves(self.causes)

    def add(self, document: Document) -> None:
        """Add the keys and the problems of one manifest."""
        schema = published("manifest")
        root: Any = document.root
        entries: Any = root.get("keys") if isinstance(root, Mapping) else None
        listed: SequenceOf[Mapping] = entries if isinstance(entries, Sequence) else ()
        if not schema.check()(root):
            check = schema.check("key")
            failing = [index for index, entry in enumerate(listed) if not check(entry)]
            self.problems += schema_problems(document, "manifest", failing)
            if not isinstance(entries, Sequence):
                return
            invalid = set(failing)
            listed = [entry for index, entry in enumerate(listed) if index not in invalid]
        complete = len(listed) == len(entries) and root.position.index not in document.partial
        manifest = _Manifest(self, document, root, self._targets(document, root))
        manifest.expand(listed, complete=complete)

    def _targets(self, document: Document, root: Mapping) -> list[_Target]:
        """Return the declared environments that a manifest names, without duplicates."""
        named: list[tuple[object, Position]] = []
        if "environment" in root:
            named.append((root["environment"], root.value_position("environment")))
        listed = root.get("environments")
        if isinstance(listed, Sequence):
            named += zip(listed[:MAX_ENVIRONMENTS], listed.positions, strict=False)
        targets: dict[str, _Target] = {}
        for name, position in named:
            if not isinstance(name, str) or not name:
                continue
            names = (name,) if self.declared is None else self.declared.matching(name)
            if self.declared is not None and not names:
                self.problems.append(_unknown_environment(document, name, position, self.declared))
            for one in names:
                if one not in targets:
                    keys = self.keys.setdefault(one, {})
                    targets[one] = _Target(one, keys, self.policy_checks.get(one))
        return list(targets.values())


class _Manifest:
    """One manifest, whose entries are expanded into keys."""

    def __init__(
        self, collection: Collection, document: Document, root: Mapping, targets: list[_Target]
    ) -> None:
        self._collection = collection
        self._document = document
        self._targets = targets
        # Invalid parts have been reported; the keys are still checked without them.
        check = published("manifest").check
        depth = root.get("depth", 1)
        self._depth = cast("Depth", depth if type(depth) is int and depth in get_args(Depth) else 1)
        written = root.get("defaults")
        self._defaults = defaults = written if isinstance(written, Mapping) else Mapping()
        self._roles: dict[str, str] = {}
        role = defaults.get("role")
        self._role = self._own_role(role, defaults) if isinstance(role, str) else None
        deliver = defaults.get("deliver")
        self._deliver: Sequence | None = deliver if deliver and check("deliver")(deliver) else None
        rotate = defaults.get("rotate")
        self._rotation = _rotation(rotate) if rotate and check("rotate")(rotate) else None
        self._defaults_complete = root.position.index not in document.partial and (
            "defaults" not in root
            or (
                isinstance(written, Mapping)
                and written.position.index not in document.partial
                and check("defaults")(written)
            )
        )
        self._annotations = _annotations(defaults) or _NO_ANNOTATIONS
        self._expiries: dict[str | None, Expiry] = {}
        self._default_sinks: dict[tuple[str, ...], _Sinks] = {}
        self._affected: list[Affected] = []
        moved, check_move = root.get("moved"), check("move")
        self._moved = [
            MovedEntry(
                *(one["from"], one["to"]),
                *(document.place(one.value_position(part)) for part in ("from", "to")),
            )
            for one in (moved if isinstance(moved, Sequence) else ())
            if check_move(one)
        ]
        # By its name as written, what each key stands for; only if there are moves.
        self._expansions: dict[str, list[Expansion]] = {}

    def expand(self, entries: SequenceOf[Mapping], *, complete: bool) -> None:
        """Add the keys of entries that the schema accepts.

        Args:
            entries: the entries.
            complete: whether they are all entries of the manifest.
        """
        if entries and not self._has_room(len(entries), self._document.position):
            return
        complete = self._add_entries(entries) and complete
        self._collection.moves.add(
            self._moved, self._expansions, [one.name for one in self._targets], complete=complete
        )

    def _add_entries(self, entries: SequenceOf[Mapping]) -> bool:
        """Add the keys of entries, and return whether every entry gave its keys."""
        complete = True
        file, depth, delivers = self._document.file, self._depth, self._deliver is not None
        roles, expiries, affected_by_entry = self._roles, self._expiries, self._affected
        for entry in entries:
            name = entry["name"]
            # The name is nearly always the first key, and looking up a position takes time.
            is_first = next(iter(entry)) == "name"
            position = entry.positions[1] if is_first else entry.value_position("name")
            place = _place((file, position.line + 1, position.column + 1))
            affected_by_entry.clear()
            expiry = expiries.get(entry.get("expires")) or self._expiry(entry)
            if not name.isascii():
                self._check_text("the name", name, position)
            role = self._role
            if "role" in entry:
                role = roles.get(entry["role"]) or self._own_role(entry["role"], entry)
            has_placeholders = "{" in name or "}" in name or "matrix" in entry
            expansions: Iterable[_Expansion] = (
                self._expand_names(entry, name, place)
                if has_placeholders
                else zip(self._targets, repeat(name), repeat(()))
            )
            sinks = self._sinks(entry) if delivers or "deliver" in entry else ()
            rotation = _rotation(entry["rotate"]) if "rotate" in entry else self._rotation
            if rotation is not None and expiry is not _NO_EXPIRY:
                self._check_rotation(entry, rotation, expiry)
            protect = entry.get("protect", False)
            annotations = _annotations(entry, self._annotations)
            expanded = False
            if self._moved:
                expansions = self._noted(entry, name, expansions)
            for target, full_name, values in expansions:
                expanded = True
                for affected in affected_by_entry:
                    affected.add((place, values), full_name, target.name)
                key = DesiredKey(
                    target.name,
                    full_name,
                    depth,
                    expiry,
                    role,
                    place,
                    (),
                    rotation,
                    protect,
                    annotations,
                )
                self._add_key(target, entry, key, sinks, values)
            if not expanded:
                complete = False
                # Its names or environments are unknown because of another problem.
                for affected in affected_by_entry:
                    affected.add((place, ()), name, None)
        return complete

    def _noted(
        self, entry: Mapping, name: str, expansions: Iterable[_Expansion]
    ) -> Iterator[_Expansion]:
        """Yield the expansions of a key, and note them for `moved`."""
        noted = self._expansions.setdefault(name, [])
        for expansion in expansions:
            target, _, values = expansion
            known = dict(zip(entry.get("matrix", ()), values, strict=True))
            noted.append((target.name, {"environment": target.name, **known}))
            yield expansion

    def _add_key(
        self,
        target: _Target,
        entry: Mapping,
        key: DesiredKey,
        sinks: tuple[SinkTemplate, ...],
        values: SequenceOf[str],
    ) -> None:
        """Add a key to its environment, or report that it is a duplicate."""
        addresses: dict[Place, Address] = {}
        if sinks or key.annotations is not None:
            known = dict(zip(entry.get("matrix", ()), values, strict=True))
            known |= {"environment": key.environment, "name": key.name}
            for sink in sinks:
                address, faults = address_of(sink, known)
                for fault in faults:
                    self._count(fault, key, values)
                if not faults:
                    addresses[sink.place] = address
            annotations = key.annotations and _filled(key.annotations, known)
            cleaned = {one.place for one in sinks if one.clean}
            key = key._replace(
                deliver=tuple(addresses.values()),
                clean=tuple(addresses[place] for place in addresses if place in cleaned),
                annotations=annotations,
            )
        first = target.keys.setdefault(key.name, key)
        if first is not key:
            describe = partial(_two_keys, key, first)
            self._count(Cause(Code.NAME_DUPLICATE, key.place, describe, first.place), key, values)
            return
        for written, address in addresses.items():
            self._occupy(written, address, key, values)
        check = target.policy_check
        if check is not None and (
            key.rotation is not None or check.policy is not None or check.ignore
        ):
            self._check_policy(check, entry, key, values)

    def _own_role(self, role: str, node: Mapping) -> str:
        """Check the role of a key or of `defaults`, and return one string for equal roles."""
        if "$" in role or not role.isascii():
            self._check_text("`role`", role, node.value_position("role"))
            return role
        return self._roles.setdefault(role, role)

    def _check_text(self, subject: str, text: str, position: Position) -> None:
        """Report a text that contains a variable or invisible characters."""
        if variable := variables.first_variable(text):
            self._problem(position, Code.VARIABLE_INVALID, variables.not_allowed(variable))
        if message := characters.advice(subject, text):
            self._problem(position, Code.CHARACTER_UNSEEN, message)

    def _expiry(self, entry: Mapping) -> Expiry:
        """Return the key's own expiry or the default, and keep a valid one for the next key."""
        own = entry.get("expires")
        node = self._defaults if own is None else entry
        written = node.get("expires")
        if "expires" not in node:
            # A partial mapping may have had an `expires` that could not be read.
            if entry.position.index not in self._document.partial:
                self._record(
                    Cause(
                        Code.EXPIRY_MISSING,
                        self._document.place(entry.position),
                        lambda affected: (
                            f"{affected.key} has no `expires`: add it to the key or to `defaults`, "
                            "for example 90d, 2027-06-30 or never"
                        ),
                        # One line in `defaults` fixes all keys of the manifest.
                        identity=(self._document.file, "expires"),
                    )
                )
            return _NO_EXPIRY
        if not isinstance(written, str) or not is_expiry(written):
            return _NO_EXPIRY
        expiry = parse_expiry(written)
        now = self._collection.now
        if now is not None and isinstance(expiry, ExpiresAt) and expiry.timestamp <= now:
            self._record(
                Cause(
                    Code.EXPIRY_PAST,
                    self._document.place(node.value_position("expires")),
                    lambda affected: (
                        f"{show(written)} is in the past{affected.for_keys}: write a later date, "
                        f"or remove the key{'s' if affected.for_keys else ''}"
                    ),
                )
            )
            return expiry
        self._expiries[own] = expiry
        return expiry

    def _check_rotation(self, entry: Mapping, rotation: Rotation, expiry: Expiry) -> None:
        """Report a rotation that is impossible with the expiry of the key."""
        before, advice = rotation.before, "write a lifetime, for example `expires: 90d`"
        match expiry:
            case ExpiresAfter(lifetime=lifetime, written=written) if before >= lifetime:
                what = (
                    f"`before` is not shorter than the lifetime of {written}, so each successor "
                    "is due for rotation at once"
                )
                advice = "write a shorter `before`"
            case ExpiresAfter(lifetime=lifetime, written=written):
                if before + min(before, rotation.overlap) <= lifetime:
                    return
                what = (
                    f"with this `before` and `overlap`, a key with a lifetime of {written} "
                    "is still live when its successor is replaced, so three keys are always live"
                )
                advice = "write shorter durations"
            case ExpiresAt(written=written):
                what = f"{show(written)} is a date, so each successor expires on that date too"
            case ExpiresNever():
                what = "a key that never expires is never due for rotation"
            case _:
                assert_never(expiry)
        own = [part for part in ("rotate", "expires") if part in entry]
        node = entry if own else self._defaults
        other = self._defaults if len(own) == 1 else node
        part, counterpart = ("expires", "rotate") if own == ["expires"] else ("rotate", "expires")
        self._record(
            Cause(
                Code.ROTATION_EXPIRY,
                self._document.place(node.value_position(part)),
                lambda affected: f"{what}{affected.for_keys}: {advice}, or `rotate: never`",
                self._document.place(other.value_position(counterpart)),
            )
        )

    def _check_policy(
        self, policy_check: PolicyCheck, entry: Mapping, key: DesiredKey, values: SequenceOf[str]
    ) -> None:
        """Report the requirements of an environment that a key does not meet."""
        declared = entry.get("deliver", self._deliver or ())
        # A part with another problem may meet the requirements once that is fixed.
        if (
            self._defaults_complete
            and key.expiry is not _NO_EXPIRY
            and len(key.deliver) == len(declared)
            and entry.position.index not in self._document.partial
        ):
            for breach in policy_check.breaches(key, self._collection.now):
                cause = self._cause(breach, policy_check, entry, key)
                self._count(cause, key, values, breach.rule)

    def _cause(
        self, breach: Breach, policy_check: PolicyCheck, entry: Mapping, key: DesiredKey
    ) -> Cause:
        """Return the line that has to change: of the key, of `defaults` or of the environment."""
        cause, part, rule = breach
        unowned = cause.code == Code.ROTATION_UNOWNED
        if unowned and not policy_check.owns:
            return cause._replace(
                place=policy_check.owns_place, identity="without owns", single=key.place
            )
        if part == "name" or part in entry:
            return cause
        if part == "role" and key.role is None:
            return cause._replace(place=policy_check.role_place)
        if part not in self._defaults:
            return cause._replace(identity=(self._document.file, part))
        position = self._defaults.value_position(part)
        if cause.code == Code.POLICY_SINK_FORBIDDEN and rule is not None and self._deliver:
            forbidden = rule.value or ()
            sinks = zip(self._deliver.positions, key.deliver, strict=True)
            position = next(at for at, sink in sinks if sink.kind in forbidden)
        return cause._replace(
            place=self._document.place(position), single=key.place if unowned else None
        )

    def _has_room(self, count: int, position: Position) -> bool:
        """Return whether so many keys can be added to each environment; report it if not."""
        total = sum(map(len, self._collection.keys.values()))
        if total + count * len(self._targets) <= MAX_KEYS:
            return True
        message = f"all manifests together have more than {MAX_KEYS} keys: remove some"
        place = self._document.place(position)
        self._collection.causes.add(
            Cause(Code.MATRIX_TOO_LARGE, place, lambda _: message, identity="all manifests")
        )
        return False

    def _expand_names(self, entry: Mapping, name: str, place: Place) -> Iterator[_Expansion]:
        """Yield each name in each environment, with the matrix values that give it."""
        matrix = entry.get("matrix", Mapping())
        if matrix and matrix.position.index in self._document.partial:
            return  # an axis is missing that could not be read
        parts, faults = split_placeholders(name, ("environment", *matrix), place)
        for fault in faults:
            self._collection.causes.add(fault)
        is_valid = self._check_matrix(entry, matrix, matrix if faults else parts[1::2])
        size = prod(map(len, matrix.values()))
        if faults or not is_valid or not self._has_room(size, entry.position):
            return
        for target in self._targets:
            given: dict[str, tuple[str, ...]] = {}
            for values in product(*matrix.values()):
                known = dict(zip(matrix, values, strict=True), environment=target.name)
                full_name = "".join(
                    known[part] if index % 2 else part for index, part in enumerate(parts)
                )
                earlier = given.setdefault(full_name, values)
                if earlier is values:
                    yield target, full_name, values
                else:
                    both = f"{', '.join(map(show, earlier))} and {', '.join(map(show, values))}"
                    cause = Cause(Code.MATRIX_COLLISION, place, partial(_collision, both))
                    self._collection.causes.add(cause).add((place, values), full_name, target.name)

    def _check_matrix(self, entry: Mapping, matrix: Mapping, used: Iterable[str]) -> bool:
        """Return whether a matrix gives names; report mistakes in it.

        Args:
            entry: the entry with the matrix.
            matrix: the matrix, which may be empty.
            used: the axes that the name contains.
        """
        for axis in matrix.values():
            for value, position in zip(axis, axis.positions, strict=True):
                if "$" in value or not value.isascii():
                    self._check_text("the value", value, position)
        unused = [axis for axis in matrix if axis not in used]
        for axis in unused:
            self._problem(
                matrix.key_position(axis),
                Code.MATRIX_COLLISION,
                f"the name does not contain {{{axis}}}, so all values of `{axis}` give the "
                "same name: add it to the name, or remove the axis",
            )
        size = prod(map(len, matrix.values()))
        if size > MAX_MATRIX:
            message = f"the matrix produces {size} keys, and the limit is {MAX_MATRIX}: split it"
            self._problem(entry.key_position("matrix"), Code.MATRIX_TOO_LARGE, message)
        return not unused and size <= MAX_MATRIX

    def _sinks(self, entry: Mapping) -> tuple[SinkTemplate, ...]:
        """Return the sinks of a key; those of `defaults` are parsed once for equal axes."""
        if entry.position.index in self._document.partial:
            return ()  # the entry may have had a list that could not be read
        axes = tuple(entry.get("matrix", ()))
        if "deliver" in entry:
            sinks, affected = self._parse_sinks(entry["deliver"], axes)
        else:
            if axes not in self._default_sinks:
                self._default_sinks[axes] = self._parse_sinks(self._deliver or (), axes)
            sinks, affected = self._default_sinks[axes]
        self._affected += affected
        return sinks

    def _parse_sinks(self, deliver: SequenceOf[Mapping], axes: tuple[str, ...]) -> _Sinks:
        """Return the valid sinks of a list, and what the mistakes in the others affect."""
        known = ("environment", "name", *axes)
        sinks = []
        affected: list[Affected] = []
        for sink in deliver:
            texts: dict[str, tuple[PlaceholderText, ...]] = {}
            faults: list[Cause] = []
            for option, value in sink.items():
                if option == "clean" or value is True:
                    continue
                if value is False:
                    texts[option] = ()
                    continue
                single = isinstance(value, str)
                positions = [sink.value_position(option)] if single else value.positions
                templates = []
                for text, position in zip([value] if single else value, positions, strict=True):
                    place = self._document.place(position)
                    parts, found = split_placeholders(text, known, place)
                    templates.append(PlaceholderText(tuple(parts), place))
                    faults += found
                texts[option] = tuple(templates)
            affected += map(self._collection.causes.add, faults)
            if not faults and sink.position.index not in self._document.partial:
                kind = next(kind for kind in KINDS if kind in sink)
                place = self._document.place(sink.position)
                sinks.append(SinkTemplate(kind, texts, place, sink.get("clean", False)))
        return tuple(sinks), affected

    def _occupy(
        self, written: Place, address: Address, key: DesiredKey, values: SequenceOf[str]
    ) -> None:
        """Record the place of a key's token, and report it if it has another one."""
        collection = self._collection
        if address.shared_file is not None:
            file, own_format = address.shared_file
            file_format, first = collection.formats.setdefault(file, (own_format, key))
            if file_format != own_format:
                describe = partial(_two_formats, file, own_format, file_format, first)
                identity = (written, "format")
                cause = Cause(Code.SINK_COLLISION, written, describe, first.place, identity)
                self._count(cause, key, values)
                return
        around = map(collection.occupied.get, address.containers)
        nested = next(filter(None, (collection.containing.get(address.place), *around)), None)
        if nested is not None:
            describe = partial(_nested, address, key, nested)
            self._count(Cause(Code.SINK_COLLISION, written, describe, nested.place), key, values)
            return
        for container in address.containers:
            collection.containing.setdefault(container, key)
        for place in (address.place, address.receipt_place):
            if place is None:
                continue
            if place not in collection.occupied:
                collection.occupied[place] = key
                continue
            first = collection.occupied[place]
            taken = _one_place if place == address.place else _one_receipt
            describe = partial(taken, address, key, first)
            self._count(Cause(Code.SINK_COLLISION, written, describe, first.place), key, values)
            return

    def _count(
        self, cause: Cause, key: DesiredKey, values: SequenceOf[str], rule: Rule | None = None
    ) -> None:
        """Record a failure of one key."""
        affected = self._collection.causes.add(cause)
        affected.add((key.place, values), key.name, key.environment, rule)

    def _record(self, cause: Cause) -> None:
        """Record a failure of an entry; each of its names is counted when it is known."""
        self._affected.append(self._collection.causes.add(cause))

    def _problem(self, position: Position, code: Code, message: str) -> None:
        self._collection.problems.append(Problem(self._document.place(position), code, message))


def _rotation(node: Mapping | str) -> Rotation | None:
    """Return a rotation as written; None for `never`."""
    if isinstance(node, str):
        return None
    before, overlap = node["before"], node.get("overlap", OVERLAP)
    return Rotation(
        parse_duration(before), parse_duration(overlap), f"before {before}, overlap {overlap}"
    )


def _annotations(node: Mapping, defaults: Annotations = _NO_ANNOTATIONS) -> Annotations | None:
    """Return the annotations of a key or of `defaults` as written; None if there are none.

    Args:
        node: the key or the defaults, of which invalid parts have been reported.
        defaults: the annotations of a key that does not set its own.
    """
    if node.keys().isdisjoint(Annotations._fields):
        return defaults if any(defaults) else None
    written = (node.get(name) for name in Annotations._fields)
    texts = (text.strip() if isinstance(text, str) else None for text in written)
    own = Annotations(*(text or default for text, default in zip(texts, defaults, strict=True)))
    return own if any(own) else None


def _filled(annotations: Annotations, known: dict[str, str]) -> Annotations:
    """Return annotations with their placeholders filled in; the same object if there are none."""
    if not any("{" in text or "}" in text for text in annotations if text):
        return annotations
    return Annotations(*(text and fill_known(text, known) for text in annotations))


def _describe_key(key: DesiredKey) -> str:
    return f"{show(key.name)} in {key.environment} ({key.place.file} line {key.place.line})"


def _collision(both: str, affected: Affected) -> str:
    return f"{both} both give the name {affected.key}: put a character between the axes"


def _two_keys(key: DesiredKey, first: DesiredKey, affected: Affected) -> str:
    return (
        f"{affected.key} is declared twice in {key.environment}{affected.other_environments}, "
        f"first in {first.place.file} line {first.place.line}: rename or remove one"
    )


def _two_formats(
    file: str, own_format: str, file_format: str, first: DesiredKey, affected: Affected
) -> str:
    return (
        f"the file {show(file)} is {file_format} for {_describe_key(first)}, but "
        f"{own_format} for {affected.key}: use one format per file"
    )


def _one_place(address: Address, key: DesiredKey, first: DesiredKey, affected: Affected) -> str:
    sink = show(str(address))
    if first is key:
        return f"{sink} is listed twice for {affected.key}: remove one"
    return (
        f"{affected.key} in {key.environment}{affected.other_environments} would overwrite the "
        f"token of {_describe_key(first)} in {sink}: use {{environment}} or {{name}} in the sink, "
        "or change one of them"
    )


def _nested(address: Address, key: DesiredKey, first: DesiredKey, affected: Affected) -> str:
    sink = show(str(address))
    if first is key:
        return (
            f"{sink} contains another sink of {affected.key}, or is inside it: change one of them"
        )
    return (
        f"{affected.key} in {key.environment}{affected.other_environments} would overwrite the "
        f"token of {_describe_key(first)}, because {sink} contains its place or is inside it: "
        "change one of them"
    )


def _one_receipt(address: Address, key: DesiredKey, first: DesiredKey, affected: Affected) -> str:
    return (
        f"{affected.key} in {key.environment}{affected.other_environments} would overwrite the "
        f"receipt of {_describe_key(first)} with that of {show(str(address))}: leave out "
        "`receipt`, or change one of them"
    )


def _unknown_environment(
    document: Document, name: str, position: Position, declared: EnvironmentNames
) -> Problem:
    if variable := variables.first_variable(name):
        message = variables.not_allowed(variable)
        return Problem(document.place(position), Code.VARIABLE_INVALID, message)
    close = closest(name, declared.as_written())
    advice = f"did you mean {close}?" if close else "declare it there"
    message = f"environments.yaml has no environment {show(name)}: {advice}"
    return Problem(document.place(position), Code.ENVIRONMENT_UNKNOWN, message)


# Calling the class itself takes twice as long.
_place: Callable[[tuple[str, int, int]], Place] = partial(tuple.__new__, Place)

_NO_EXPIRY = ExpiresNever()
"""Replaces an invalid expiry, which has been reported; `load` returns no key with it."""
