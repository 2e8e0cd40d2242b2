"""Turns the schema errors of a document into problems with a place and advice.

jsonschema reports which rule failed at which path. The schemas say what to write instead, in
annotations next to the rules:

- `x-advice`: what to write; `x-message` replaces the whole message.
- `x-code`: the code for a value of the right type that is not allowed; `invalid_value` without it.
- `x-mistyped`: the code for a value of another type; `yaml_surprise` or `wrong_type` without it.
- `x-too-many`, `x-repeated`: the code for too many items, and for an item that is listed twice.
- `x-shown`: false if a message may not show the value.
- `x-subject`: the name of the value in messages, if its key is not its name.
- `x-missing`: what to write if the key is missing.
- `x-where`: the name of a mapping, for advice about keys that are in another one; `x-parent` of a
  key replaces it.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from provisioner import schemas
from provisioner.errors.codes import Code
from provisioner.errors.did_you_mean import closest
from provisioner.errors.problem import Problem
from provisioner.manifests import characters, variables
from provisioner.manifests.document import (
    MAX_PROBLEMS,
    AmbiguousScalar,
    Document,
    Invalid,
    Mapping,
    Position,
    Sequence,
)
from provisioner.manifests.schema import published
from provisioner.model.expiry import parse_expiry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Sequence as SequenceOf

    from jsonschema import ValidationError

Path = tuple[str | int, ...]

_Annotations = dict[str, Any]
"""The schema whose annotations hold for a value."""


def schema_problems(
    document: Document, name: str, failing: SequenceOf[int] = (), part: str = ""
) -> list[Problem]:
    """Return the problems of a document that its schema rejects.

    Args:
        document: the document.
        name: the name of its schema.
        failing: the indexes of the keys of a manifest that are rejected. Only these are passed to
            jsonschema, so that one invalid key among 100 000 costs as much as one.
        part: the part of the schema that the document must have, if not the whole.
    """
    value: Any = document.root
    if (
        name == "manifest"
        and isinstance(value, Mapping)
        and isinstance(value.get("keys"), Sequence)
    ):
        # Without a failing key one valid key is kept, because an empty list is invalid too.
        failing = failing or [0][: len(value["keys"])]
        value = {**value, "keys": [value["keys"][index] for index in failing]}
    explanation = _Explanation(document, name, failing, part)
    # One mistake can break several rules with the same message.
    found: dict[Problem, None] = {}
    for error in published(name).errors(value, part):
        for problem in explanation.problems(error):
            if len(found) == MAX_PROBLEMS:
                message = f"the file has more than {MAX_PROBLEMS} problems: the rest are not shown"
                return [*found, Problem(problem.place, Code.TOO_MANY_PROBLEMS, message)]
            found[problem] = None
    return list(found)


class _Explanation:
    """Turns the errors of one document into problems.

    Args:
        document: the document.
        name: the name of its schema.
        failing: the indexes of the keys that were passed to jsonschema.
        part: the part of the schema that the document must have, if not the whole.
    """

    def __init__(self, document: Document, name: str, failing: SequenceOf[int], part: str) -> None:
        self._document = document
        self._name = name
        self._schema = published(name).part(part)
        self._failing = failing

    def problems(self, error: ValidationError) -> Iterator[Problem]:
        """Yield the problems of one error of jsonschema."""
        path = tuple(error.absolute_path)
        node, position = self._find(path)
        if isinstance(node, Invalid) or self._follows_from_another(node, error):
            return
        notes = self._annotations(error)
        schema: Any = error.schema
        match str(error.validator):
            case _ if "x-message" in notes:
                if "propertyNames" in error.absolute_schema_path:
                    position = node.key_position(str(error.instance))
                yield self._problem(position, Code(notes["x-code"]), notes["x-message"])
            case "additionalProperties":
                yield from self._unknown(node, schema)
            case "required":
                yield from self._missing(node, schema)
            case "oneOf" if self._name == "manifest":
                yield from self._environment_or_environments(node, schema)
            case "uniqueItems":
                yield from self._repeated(node, notes)
            case "type":
                expects_text = error.validator_value == "string"
                yield self._mistyped(path, node, position, notes, expects_text=expects_text)
            case "anyOf":
                yield from self._choice(path, node, position, error)
            case _:
                yield self._disallowed(path, node, position, notes, error)

    def _annotations(self, error: ValidationError) -> _Annotations:
        """Return the schema with advice that is nearest to the rule of an error."""
        node: Any = self._schema
        passed = [node]
        for step in error.absolute_schema_path:
            while isinstance(node, dict) and step not in node:
                node = self._schema["$defs"][node["$ref"].rpartition("/")[2]]
                passed.append(node)
            node = node[step]
            passed.append(node)
        advised = (one for one in reversed(passed) if isinstance(one, dict))
        return next(one for one in advised if "x-advice" in one or "x-message" in one)

    def _follows_from_another(self, node: object, error: ValidationError) -> bool:
        """Return whether an error follows from another one: an unread key, or a wrong type."""
        if error.validator not in ("required", "oneOf", "minProperties"):
            return False
        return not isinstance(node, Mapping) or node.position.index in self._document.partial

    def _unknown(self, node: Mapping, schema: _Annotations) -> Iterator[Problem]:
        known = list(schema["properties"])
        # Then the error of `oneOf` says which keys there are.
        is_another = "oneOf" in schema and node.keys().isdisjoint(known)
        for key, position in zip(node, node.positions[::2], strict=True):
            if key in known:
                continue
            elsewhere = _mappings(self._name).get(key)
            word = _FIRST_WORD.match(key)
            if node[key] is None and word is not None and word[1] in known:
                message = f"a colon and a space are missing after `{word[1]}`: add them"
            elif not _SHOWABLE.fullmatch(key):
                message = f"this key is unknown here: use {', '.join(known)}"
            elif elsewhere is not None and closest(key, known, _SAME_WORD) is None:
                if is_another:
                    continue
                message = f"`{key}` is unknown here: move it to {elsewhere}"
            elif close := closest(key, known):
                message = f"`{key}` is unknown here: did you mean `{close}`?"
            else:
                message = f"`{key}` is unknown here: use {', '.join(known)}"
            yield self._problem(position, Code.UNKNOWN_KEY, message)

    def _missing(self, node: Mapping, schema: _Annotations) -> Iterator[Problem]:
        for key in schema["required"]:
            # A key of the file that is in `defaults` is reported there as unknown.
            defaults = node.get("defaults") if node is self._document.root else None
            if key not in node and not (isinstance(defaults, Mapping) and key in defaults):
                yield self._missing_key(node, key, schema)

    def _missing_key(self, node: Mapping, key: str, schema: _Annotations) -> Problem:
        message = f"`{key}` is missing: {schema['properties'][key]['x-missing']}"
        return self._problem(node.position, Code.MISSING_KEY, message)

    def _environment_or_environments(
        self, node: Mapping, schema: _Annotations
    ) -> Iterator[Problem]:
        if "environment" in node and "environments" in node:
            first, second = sorted(
                (node.key_position("environment"), node.key_position("environments")),
                key=lambda position: position.index,
            )
            message = "the manifest has both `environment` and `environments`: keep one of them"
            yield self._problem(second, Code.ENVIRONMENT_BOTH, message, first)
        elif not isinstance(node.get("defaults"), Mapping) or "environment" not in node["defaults"]:
            yield self._missing_key(node, "environment", schema)

    def _delivery(self, node: object, error: ValidationError) -> Iterator[Problem]:
        """Yield the problems of a sink: no kind or several, or those of its kind."""
        if not isinstance(node, Mapping):
            return  # its type is reported
        branches: Any = error.validator_value
        kinds = [branch["$ref"].rpartition("/")[2] for branch in branches]
        written = [key for key in node if key in kinds]
        if len(written) == 1:
            for inner in error.context or ():
                if inner.relative_schema_path[0] == kinds.index(written[0]):
                    yield from self.problems(inner)
            return
        if written:
            position = node.key_position(written[1])
            found = " and ".join(f"`{key}`" for key in written)
        elif node.position.index not in self._document.partial:
            position, found = node.position, "none"
            first = next(iter(node), "")
            if _SHOWABLE_KIND.fullmatch(first) and first not in _mappings(self._name):
                close = closest(first, kinds)
                advice = f"did you mean `{close}`?" if close else f"use one of {_listed(kinds)}"
                message = f"there is no sink `{first}`: {advice}"
                yield self._problem(position, Code.SINK_INVALID, message)
                return
        else:
            return  # its kind may be a key that could not be read
        message = f"a sink must have exactly one of {_listed(kinds)}, and this one has {found}"
        yield self._problem(position, Code.SINK_INVALID, message)

    def _choice(
        self, path: Path, node: Any, position: Position, error: ValidationError
    ) -> Iterator[Problem]:
        """Yield the problems of the branches that accept this type, or one if none does."""
        schema: Any = error.schema
        if schema.get("title") == "Sink":
            yield from self._delivery(node, error)
            return
        inner = error.context or ()
        other = {
            each.relative_schema_path[0]
            for each in inner
            if not each.relative_path and each.validator in ("type", "const", "enum")
        }
        matching = [each for each in inner if each.relative_schema_path[0] not in other]
        for each in matching:
            yield from self.problems(each)
        if matching:
            return
        notes = self._annotations(error)
        if isinstance(node, (str, int)):
            yield self._disallowed(path, node, position, notes, error)
        else:
            yield self._mistyped(path, node, position, notes, expects_text=False)

    def _repeated(self, node: Sequence, notes: _Annotations) -> Iterator[Problem]:
        code = Code(notes["x-repeated"])
        what = "environment" if code == Code.ENVIRONMENT_DUPLICATE else "value"
        first: dict[str, Position] = {}
        for item, position in zip(node, node.positions, strict=True):
            if isinstance(item, str) and first.setdefault(item, position) is not position:
                message = f"the {what} {show(item)} is listed twice: remove one"
                yield self._problem(position, code, message, first[item])

    def _mistyped(
        self, path: Path, node: Any, position: Position, notes: _Annotations, *, expects_text: bool
    ) -> Problem:
        """Return the problem of a value with a wrong type."""
        subject, advice, code = _subject(path, notes), notes["x-advice"], notes.get("x-mistyped")
        if code == Code.SECRET_LITERAL and isinstance(node, (Mapping, Sequence)):
            code = None
        if code is None and expects_text and isinstance(node, (AmbiguousScalar, bool, int)):
            if notes.get("x-shown", True):
                text = (
                    _shortened(node.text)
                    if isinstance(node, AmbiguousScalar)
                    else self._document.text[position.index :][: len(str(node))]
                )
                message = f'`{text}` is {_kind(node)} in YAML: write "{text}" to make it text'
            else:
                message = f"{subject} is {_kind(node)} in YAML: put it in quotes to make it text"
            return self._problem(position, Code.YAML_SURPRISE, message)
        written = isinstance(node, AmbiguousScalar) and notes.get("x-shown", True)
        found = f"`{_shortened(node.text)}`" if written else _kind(node)
        message = f"{subject} is {found}: {advice}"
        return self._problem(position, Code(code or Code.WRONG_TYPE), message)

    def _disallowed(
        self, path: Path, node: Any, position: Position, notes: _Annotations, error: ValidationError
    ) -> Problem:
        """Return the problem of a value that has the right type and is not allowed."""
        code = Code(notes.get("x-code", Code.INVALID_VALUE))
        if error.validator_value == "expiry":
            if found := variables.first_variable(node):
                message = variables.not_allowed(found)
                return self._problem(position, Code.VARIABLE_INVALID, message)
            if len(node) <= _MAX_SHOWN:
                return self._problem(position, code, _expiry_fault(node))
        if error.validator in ("maxItems", "maxProperties"):
            code = Code(notes.get("x-too-many", code))
        visible = notes.get("x-shown", True) and isinstance(node, (str, int))
        shown = f" {show(node)}" if visible else ""
        state = " is empty" if node in ("", [], {}) else f"{shown} is not allowed"
        message = f"{_subject(path, notes)}{state}: {notes['x-advice']}"
        return self._problem(position, code, message)

    def _problem(
        self, position: Position, code: Code, message: str, related: Position | None = None
    ) -> Problem:
        place = None if related is None else self._document.place(related)
        return Problem(self._document.place(position), code, message, place)

    def _find(self, path: Path) -> tuple[Any, Position]:
        """Return the value at a path of keys and indexes, and its position."""
        if self._failing and path[1:] and path[0] == "keys":
            path = ("keys", self._failing[int(path[1])], *path[2:])
        node: Any = self._document.root
        position = self._document.position
        for step in path:
            if isinstance(node, Mapping):
                position = node.value_position(str(step))
            else:
                position = node.positions[step]
            node = node[step]
        return node, position


_SHOWABLE = re.compile(r"[A-Za-z_-]{1,40}", re.ASCII)
"""Unknown keys that may be shown: `{token:eyJ…}` without a space is one long key."""

_SHOWABLE_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,15}", re.ASCII)
"""Unknown kinds of sinks that may be shown, such as `s3`; a token is longer."""

_FIRST_WORD = re.compile(r"([a-z_]+)[ :]")
"""The likely key if the colon, or the space after it, is missing."""

_SAME_WORD = 0.85
"""The similarity from which a key is a misspelling and not misplaced: `role` and `roles`."""

_MAX_SHOWN = 60
"""The number of characters of a value that a message shows."""

_KINDS: dict[type, str] = {
    type(None): "empty",
    bool: "a boolean",
    int: "a number",
    str: "text",
    Mapping: "a mapping",
    Sequence: "a list",
}


@lru_cache(maxsize=2)
def _mappings(name: str) -> dict[str, str]:
    """Return the mappings that each key can be in, as a message names them."""
    found: dict[str, list[str]] = {}

    def collect(schema: object) -> None:
        if isinstance(schema, dict):
            if "x-where" in schema:
                for key, part in schema["properties"].items():
                    found.setdefault(key, []).append(part.get("x-parent", schema["x-where"]))
            for part in schema.values():
                collect(part)
        elif isinstance(schema, list):
            for part in schema:
                collect(part)

    collect(schemas.load(name))
    return {key: " or ".join(places) for key, places in found.items()}


def _expiry_fault(text: str) -> str:
    try:
        parse_expiry(text)
    except ValueError as error:
        return str(error)
    raise AssertionError("the schema rejects it")


def show(value: str | int) -> str:
    """Return a value for a message: on one line, and shortened."""
    if not isinstance(value, str):
        return _shortened(str(value).lower())
    text = _shortened(value)
    hidden = not text.isprintable() or characters.first_invisible(text) is not None
    return json.dumps(text, ensure_ascii=hidden)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def _subject(path: Path, notes: _Annotations) -> str:
    if not path:
        return "the file"
    if "x-subject" in notes:
        return str(notes["x-subject"])
    name = path[-1]
    if isinstance(name, int):
        return "this item"
    return f"`{name}`" if _SHOWABLE.fullmatch(name) else "this value"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _kind(node: object) -> str:
    return node.kind if isinstance(node, AmbiguousScalar) else _KINDS[type(node)]
