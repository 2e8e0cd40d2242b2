"""The published schemas, compiled to plain closures that say yes or no.

jsonschema takes eight seconds for 100 000 keys, the closures take a quarter of one. They know
the keywords that the schemas of what is read use and refuse to compile any other, so that they
cannot fall behind a schema; a property test holds them equal to jsonschema, which is asked for the
errors of what they turn down.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard

from provisioner import schemas
from provisioner.model.expiry import parse_duration, parse_expiry, parse_moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sized

    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

    Check = Callable[[object], bool]


class Schema:
    """One published schema: a quick verdict, and all errors where that is no."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._checks: dict[str, Check] = {}
        self._validator: Validator | None = None

    def check(self, part: str = "") -> Check:
        """The verdict on a value: whether it is valid.

        Args:
            part: the name under `$defs`, or empty for the whole.
        """
        if part not in self._checks:
            schema = self._document["$defs"][part] if part else self._document
            self._checks[part] = compile_check(schema, self._document["$defs"])
        return self._checks[part]

    def errors(self, value: object) -> Iterator[ValidationError]:
        """What jsonschema finds wrong."""
        if self._validator is None:
            self._validator = reference(self._document)
        read: Any = value  # jsonschema asks for less than it takes
        return self._validator.iter_errors(read)


@lru_cache(maxsize=3)
def published(name: str) -> Schema:
    """The schema `manifest`, `environments` or `planfile`."""
    return Schema(schemas.load(name))


def reference(document: Mapping[str, Any]) -> Validator:
    """The same schema as jsonschema checks it, with our own format."""
    # Imported here: most runs have nothing to explain and save its 60 ms.
    from jsonschema import Draft202012Validator, FormatChecker  # noqa: PLC0415 - as said

    formats = FormatChecker(formats=())
    for name, check in _FORMATS.items():
        formats.checks(name)(check)
    return Draft202012Validator(document, format_checker=formats)


def _readable(read: Callable[[str], object]) -> Check:
    """Whether a text can be read; anything but text is left to `type`."""

    def readable(value: Any) -> bool:
        if not isinstance(value, str):
            return True
        try:
            read(value)
        except ValueError:
            return False
        return True

    return readable


is_expiry = _readable(parse_expiry)
is_duration = _readable(parse_duration)
is_moment = _readable(parse_moment)


def compile_check(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    """Makes one closure of a schema.

    Args:
        schema: in draft 2020-12.
        definitions: what `#/$defs/NAME` refers to.

    Raises:
        ValueError: it uses a keyword, a type, a format or a reference that is not known here.
    """
    if schema.get("type") == "string" and schema.keys() <= _OF_TEXT:
        return _text(schema)
    return _all(tuple(_checks(schema, definitions)))


def _checks(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Check]:
    checks: list[Check] = []
    for keyword, value in sorted(schema.items(), key=lambda item: item[0] != "type"):
        match keyword:
            case _ if keyword in _SAYS_NOTHING:
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
                raise ValueError(f"the keyword {keyword} is not known here")
    return checks


def _reference(target: str, definitions: Mapping[str, Any]) -> Check:
    name = target.removeprefix("#/$defs/")
    if name not in definitions:
        raise ValueError(f"the reference {target} leads nowhere")
    return compile_check(definitions[name], definitions)


def _text(schema: Mapping[str, Any]) -> Check:
    """One closure in place of four: most values of a manifest are text."""
    least, most = schema.get("minLength", 0), schema.get("maxLength", _INFINITE)
    search = re.compile(schema.get("pattern", "")).search
    if "pattern" in schema:
        return lambda value: (
            isinstance(value, str) and least <= len(value) <= most and search(value) is not None
        )
    return lambda value: isinstance(value, str) and least <= len(value) <= most


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
    # The names of a mapping are what iterating over it gives.
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
    which = compile_check(schema[keyword], definitions)
    if keyword == "not":
        return lambda value: not which(value)
    then = compile_check(schema.get("then", {}), definitions)
    otherwise = compile_check(schema.get("else", {}), definitions)
    return lambda value: then(value) if which(value) else otherwise(value)


def _type(name: str | list[str]) -> Check:
    if isinstance(name, list):
        return _branches("anyOf", tuple(map(_type, name)))
    if name not in _TYPES:
        raise ValueError(f"the type {name} is not known here")
    return _TYPES[name]


def _is_integer(value: Any) -> bool:
    # 1.0 is an integer in JSON Schema; in our files it is Odd, and so no number at all.
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _required(names: list[str]) -> Check:
    wanted = tuple(names)

    def required(value: Any) -> bool:
        if isinstance(value, dict):
            for name in wanted:
                if name not in value:
                    return False
        return True

    return required


def _pattern(pattern: str) -> Check:
    search = re.compile(pattern).search
    return lambda value: not isinstance(value, str) or search(value) is not None


def _format(name: str) -> Check:
    if name not in _FORMATS:
        raise ValueError(f"the format {name} is not known here")
    return _FORMATS[name]


def _sized(kind: type[Sized], least: float, most: float) -> Check:
    return lambda value: not isinstance(value, kind) or least <= len(value) <= most


def _ranged(least: float, most: float) -> Check:
    return lambda value: not _is_number(value) or least <= value <= most


def _unique(wanted: bool) -> Check:  # noqa: FBT001 - the value of the keyword
    def unique(value: Any) -> bool:
        return not isinstance(value, list) or len(set(map(_identity, value))) == len(value)

    return unique if wanted else _always


def _one_of(values: Iterable[Any]) -> Check:
    known = frozenset(map(_identity, values))
    return lambda value: _identity(value) in known


def _identity(value: Any) -> Any:
    """Equal for values that JSON Schema calls equal: 1 and 1.0 are, 1 and true are not."""
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
_OF_TEXT = {"type", "minLength", "maxLength", "pattern"} | {"title", "description", "examples"}
_SAYS_NOTHING = frozenset(
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
    "date-time": is_moment,
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
