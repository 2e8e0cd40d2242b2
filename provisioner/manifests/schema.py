"""The published schemas of the files that are read.

jsonschema-rs decides whether a value is valid. jsonschema, which takes seventy times longer,
explains what it rejects.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from jsonschema_rs import Draft202012Validator as FastValidator

from provisioner import schemas
from provisioner.model.expiry import parse_duration, parse_expiry, parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

    Check = Callable[[object], bool]


class Schema:
    """A published schema: a fast check, and all errors of a value that fails it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._checks: dict[str, Check] = {}
        self._validators: dict[str, Validator] = {}

    def check(self, part: str = "") -> Check:
        """Return the check for a value.

        Args:
            part: the name under `$defs`, or empty for the whole schema.
        """
        if part in self._checks:
            return self._checks[part]
        schema = self.part(part)
        is_valid = FastValidator(
            schema, validate_formats=True, ignore_unknown_formats=False, formats=_FORMATS
        ).is_valid

        def check(value: Any) -> bool:
            try:
                return is_valid(value)
            except UnicodeEncodeError:  # text with half a surrogate pair, which servers may send
                return reference(schema).is_valid(value)
            except ValueError:  # a value that JSON does not have, as an ambiguous scalar
                return False

        self._checks[part] = check
        return check

    def errors(self, value: object, part: str = "") -> Iterator[ValidationError]:
        """Yield the errors that jsonschema finds; `part` is as for `check`."""
        if part not in self._validators:
            self._validators[part] = reference(self.part(part))
        untyped: Any = value  # the type that jsonschema declares is too narrow
        return self._validators[part].iter_errors(untyped)

    def part(self, part: str) -> dict[str, Any]:
        """Return the schema of a part, or the whole schema if it is empty."""
        schema = dict(self._document)
        return {"$ref": f"#/$defs/{part}", "$defs": schema["$defs"]} if part else schema


@lru_cache(maxsize=3)
def published(name: str) -> Schema:
    """Return the schema of a file that is read."""
    return Schema(schemas.load(name))


def reference(document: Mapping[str, Any]) -> Validator:
    """Return a jsonschema validator for the same schema, with our own formats."""
    # The import takes a quarter of a second, and most runs have nothing to explain.
    from jsonschema import Draft202012Validator, FormatChecker  # noqa: PLC0415 - as above

    formats = FormatChecker(formats=())
    for name, is_valid in _FORMATS.items():
        formats.checks(name)(partial(_has_format, is_valid))
    return Draft202012Validator(document, format_checker=formats)


def _has_format(is_valid: Callable[[str], bool], value: object) -> bool:
    """Return whether a value has a format, which is only for text."""
    return not isinstance(value, str) or is_valid(value)


@lru_cache(maxsize=8192)
def _parses(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


is_expiry = partial(_parses, parse_expiry)
"""Returns whether a text is an expiry."""

_FORMATS: dict[str, Callable[[str], bool]] = {
    "expiry": is_expiry,
    "lifetime": partial(_parses, parse_duration),
    "date-time": partial(_parses, parse_timestamp),
}
"""The check of each format; jsonschema-rs calls it only for text."""
