"""The published schemas, compiled to closures that accept or reject a value.

jsonschema takes eight seconds for 100 000 keys, the closures a quarter of a second. They support
the keywords that the schemas of input files use, and raise an error for others, so that no change
of a schema is missed. A property test compares them with jsonschema, which explains what they
reject.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard

from provisioner import schemas
from provisioner.model.expiry import parse_duration, parse_expiry, parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sized

    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

    Check = Callable[[object], bool]


class Schema:
    """A published schema: a fast check, and all errors of a value that fails it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._checks: dict[str, Check] = {}
        self._validator: Validator | None = None

    def check(self, part: str = "") -> Check:
        """Return the check for a value.

        Args:
            part: the name under `$defs`, or empty for the whole schema.
        """
        if part not in self._checks:
            schema = self._document["$defs"][part] if part else self._document
            self._checks[part] = compile_check(schema, self._document["$defs"])
        return self._checks[part]

    def defines(self, part: str, name: str) -> bool:
        """Return whether the mapping under `$defs` with this name has a member with this name."""
        return name in self._document["$defs"][part]["properties"]

    def errors(self, value: object) -> Iterator[ValidationError]:
        """Yield the errors that jsonschema finds."""
        if self._validator is None:
            self._validator = reference(self._document)
        untyped: Any = value  # the type that jsonschema declares is too narrow
        return self._validator.iter_errors(untyped)


@lru_cache(maxsize=3)
def published(name: str) -> Schema:
    """Return the schema `manifest`, `environments` or `planfile`."""
    return Schema(schemas.load(name))


def reference(document: Mapping[str, Any]) -> Validator:
    """Return a jsonschema validator for the same schema, with our own formats."""
    # The import takes 60 ms, and most runs have nothing to explain.
    from jsonschema import Draft202012Validator, FormatChecker  # noqa: PLC0415 - as above

    formats = FormatChecker(formats=())
    for name, check in _FORMATS.items():
        formats.checks(name)(check)
    return Draft202012Validator(document, format_checker=formats)


def _parsable(parse: Callable[[str], object]) -> Check:
    """Return a check for text that can be parsed; it accepts everything that is not text."""

    def parsable(value: Any) -> bool:
        if not isinstance(value, str):
            return True
        try:
            parse(value)
        except ValueError:
            return False
        return True

    return parsable


is_expiry = _parsable(parse_expiry)
is_duration = _parsable(parse_duration)
is_timestamp = _parsable(parse_timestamp)


def compile_check(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    """Compile a schema to one closure.

    Args:
        schema: a schema of draft 2020-12.
        definitions: the schemas that `#/$defs/NAME` refers to.

    Raises:
        ValueError: The schema uses a keyword, type, format or reference that is not supported.
    """
    if schema.get("type") == "string" and schema.keys() <= _TEXT_KEYWORDS:
        return _text(schema)
    return _all(tuple(_checks(schema, definitions)))


def _checks(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Check]:
    checks: list[Check] = []
    for keyword, value in sorted(schema.items(), key=lambda item: item[0] != "type"):
        match keyword:
            case _ if keyword in _ANNOTATIONS or keyword.startswith("x-"):
                pass
            case "$ref":
                checks.append(_reference(value, definitions))
            case "properties" | "additionalProperties":
                if keyword == "properties" or "properties" not in schema:
                    checks.append(_members(schema, definitions))
            case "items" | "propertyNames":
                checks.append(_each(keyword, compile_check(value, definitions)))
            case "oneOf" | "anyOf":
                branches = tuple(compile_check(branch, definitions) for branch in value)
                checks.append(_branches(keyword, branches))
            case "not" | "if":
                checks.append(_condition(keyword, schema, definitions))
            case _ if keyword in _ASSERTIONS:
                checks.append(_ASSERTIONS[keyword](value))
            case _:
                raise ValueError(f"the keyword {keyword} is not supported")
    return checks


def _reference(target: str, definitions: Mapping[str, Any]) -> Check:
    name = target.removeprefix("#/$defs/")
    if name not in definitions:
        raise ValueError(f"the reference {target} has no target")
    return compile_check(definitions[name], definitions)


def _text(schema: Mapping[str, Any]) -> Check:
    """Compile a schema of text, which most values are, to one closure instead of four."""
    minimum, maximum = schema.get("minLength", 0), schema.get("maxLength", _INFINITE)
    search = re.compile(schema.get("pattern", "")).search
    if "pattern" in schema:
        return lambda value: (
            isinstance(value, str)
            and minimum <= len(value) <= maximum
            and search(value) is not None
        )
    return lambda value: isinstance(value, str) and minimum <= len(value) <= maximum


def _all(checks: tuple[Check, ...]) -> Check:
    match checks:
        case (only,):
            return only
        case (first, second):
            return lambda value: first(value) and second(value)
        case (first, second, third):
            return lambda value: first(value) and second(value) and third(value)
        case _:

            def every(value: Any) -> bool:
                for check in checks:  # noqa: SIM110 - a generator costs more than the checks
                    if not check(value):
                        return False
                return True

            return every


def _members(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    checks = {
        name: compile_check(part, definitions)
        for name, part in schema.get("properties", {}).items()
    }
    others: Check
    match schema.get("additionalProperties", True):
        case True:
            others = _always
        case False:
            others = _never
        case part:
            others = compile_check(part, definitions)

    def members(value: Any) -> bool:
        if isinstance(value, dict):
            for name, member in value.items():
                if not checks.get(name, others)(member):
                    return False
        return True

    return members


def _each(keyword: str, check: Check) -> Check:
    # Iterating over a mapping yields its names.
    kind = list if keyword == "items" else dict

    def each(value: Any) -> bool:
        if isinstance(value, kind):
            for item in value:
                if not check(item):
                    return False
        return True

    return each


def _branches(keyword: str, branches: tuple[Check, ...]) -> Check:
    if keyword == "anyOf":
        return lambda value: any(branch(value) for branch in branches)
    return lambda value: sum(branch(value) for branch in branches) == 1


def _condition(keyword: str, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    condition = compile_check(schema[keyword], definitions)
    if keyword == "not":
        return lambda value: not condition(value)
    if_true = compile_check(schema.get("then", {}), definitions)
    if_false = compile_check(schema.get("else", {}), definitions)
    return lambda value: if_true(value) if condition(value) else if_false(value)


def _type(name: str | list[str]) -> Check:
    if isinstance(name, list):
        return _branches("anyOf", tuple(map(_type, name)))
    if name not in _TYPES:
        raise ValueError(f"the type {name} is not supported")
    return _TYPES[name]


def _is_integer(value: Any) -> bool:
    # 1.0 is an integer in JSON Schema. In our files it is ambiguous, so it is not a number.
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _required(names: list[str]) -> Check:
    needed = tuple(names)

    def required(value: Any) -> bool:
        if isinstance(value, dict):
            for name in needed:
                if name not in value:
                    return False
        return True

    return required


def _pattern(pattern: str) -> Check:
    search = re.compile(pattern).search
    return lambda value: not isinstance(value, str) or search(value) is not None


def _format(name: str) -> Check:
    if name not in _FORMATS:
        raise ValueError(f"the format {name} is not supported")
    return _FORMATS[name]


def _sized(kind: type[Sized], minimum: float, maximum: float) -> Check:
    return lambda value: not isinstance(value, kind) or minimum <= len(value) <= maximum


def _ranged(minimum: float, maximum: float) -> Check:
    return lambda value: not _is_number(value) or minimum <= value <= maximum


def _unique(required: bool) -> Check:  # noqa: FBT001 - the value of the keyword
    def unique(value: Any) -> bool:
        return not isinstance(value, list) or len(set(map(_identity, value))) == len(value)

    return unique if required else _always


def _one_of(values: Iterable[Any]) -> Check:
    known = frozenset(map(_identity, values))
    return lambda value: _identity(value) in known


def _identity(value: Any) -> Any:
    """Return equal results for equal values of JSON Schema: for 1 and 1.0, not for 1 and true."""
    match value:
        case bool():
            return (bool, value)
        case dict():
            return (dict, frozenset((name, _identity(member)) for name, member in value.items()))
        case list():
            return (list, *map(_identity, value))
        case _:
            return value


def _always(_: object) -> bool:
    return True


def _never(_: object) -> bool:
    return False


_INFINITE = float("inf")
_TEXT_KEYWORDS = {"type", "minLength", "maxLength", "pattern"} | {
    "title",
    "description",
    "examples",
}
_ANNOTATIONS = frozenset(
    {"$schema", "$id", "$defs", "title", "description", "default", "examples"}
    | {"then", "else"}  # read with their `if`
)
_TYPES: dict[str, Check] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": _is_integer,
    "number": _is_number,
    "null": lambda value: value is None,
}
_FORMATS: dict[str, Check] = {
    "expiry": is_expiry,
    "lifetime": is_duration,
    "date-time": is_timestamp,
}
_ASSERTIONS: dict[str, Callable[[Any], Check]] = {
    "type": _type,
    "const": lambda value: _one_of([value]),
    "enum": _one_of,
    "required": _required,
    "pattern": _pattern,
    "format": _format,
    "minLength": lambda value: _sized(str, value, _INFINITE),
    "maxLength": lambda value: _sized(str, 0, value),
    "minItems": lambda value: _sized(list, value, _INFINITE),
    "maxItems": lambda value: _sized(list, 0, value),
    "minProperties": lambda value: _sized(dict, value, _INFINITE),
    "maxProperties": lambda value: _sized(dict, 0, value),
    "minimum": lambda value: _ranged(value, _INFINITE),
    "maximum": lambda value: _ranged(-_INFINITE, value),
    "uniqueItems": _unique,
}
