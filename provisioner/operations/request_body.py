"""The request body of `create`: JSON text is parsed into validated records with their places.

All records are validated before any is sent, because servers create unexpected keys from bad
records: an `expiresAt` of null creates a key that expired in 1970 (docs/twenty-api.md, "Creating").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import InvalidInputError
from provisioner.errors.problem import Place, Problem
from provisioner.model.expiry import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIELDS = ("name", "expiresAt", "revokedAt", "roleId")
_WHITESPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class BodyRecord:
    """A key that the body requests.

    Attributes:
        expires_at: RFC 3339, as written in the body.
        place: the start of the record.
    """

    name: str
    expires_at: str
    revoked_at: str | None
    role_id: str | None
    place: Place


@dataclass(frozen=True, slots=True)
class RequestBody:
    """The records of a body.

    Attributes:
        single: whether the body is one object rather than an array.
    """

    records: tuple[BodyRecord, ...]
    single: bool


def read_body(text: str, file: str) -> RequestBody:
    """Parse a JSON object or array of records.

    Args:
        text: the JSON text.
        file: the name of the text in problems, a path or `-`.

    Raises:
        InvalidInputError: if the body has problems; it contains all of them with their places.
    """
    start = _skip_whitespace(text, 0)
    single = not text.startswith("[", start)
    problems: list[Problem] = []
    records: list[BodyRecord] = []
    try:
        values = list(_values(text, start, file))
    except _BadJsonError as error:
        place = _PlaceFinder(text, file).at(error.offset)
        problem = Problem(place, Code.BODY_INVALID, error.message)
        raise InvalidInputError((problem,)) from None
    for value, place in values:
        parsed = _record(value, place)
        if isinstance(parsed, BodyRecord):
            records.append(parsed)
        else:
            problems += parsed
    if not values:
        problems.append(Problem(Place(file), Code.BODY_INVALID, "The array is empty."))
    if problems:
        raise InvalidInputError(tuple(problems))
    return RequestBody(tuple(records), single)


class _BadJsonError(Exception):
    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


def _values(text: str, start: int, file: str) -> Iterator[tuple[object, Place]]:
    """Yield the object, or each element of the array, with its place."""
    place = _PlaceFinder(text, file).at
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
    if not text.startswith("[", start):
        value, end = _decode(decoder, text, start)
        _require_end(text, end)
        yield value, place(start)
        return
    at = _skip_whitespace(text, start + 1)
    if not text.startswith("]", at):
        while True:
            value, end = _decode(decoder, text, at)
            yield value, place(at)
            end = _skip_whitespace(text, end)
            if text.startswith("]", end):
                at = end
                break
            if not text.startswith(",", end):
                raise _BadJsonError(
                    "The body is not valid JSON: a comma or ] is missing here.", end
                )
            at = _skip_whitespace(text, end + 1)
    _require_end(text, at + 1)


def _decode(decoder: json.JSONDecoder, text: str, at: int) -> tuple[object, int]:
    try:
        value, end = decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _BadJsonError(f"The body is not valid JSON: {error.msg}.", error.pos) from None
    except RecursionError:
        raise _BadJsonError("The body is nested too deeply.", at) from None
    except ValueError as error:
        raise _BadJsonError(str(error), at) from None
    return value, end


def _record(value: object, place: Place) -> BodyRecord | list[Problem]:
    def problem(message: str) -> Problem:
        return Problem(place, Code.RECORD_INVALID, message)

    if not isinstance(value, dict):
        return [problem("The record is not an object. Write an object with name and expiresAt.")]
    problems = [
        problem(f"The field {field!r} is unknown. A record has the fields {', '.join(_FIELDS)}.")
        for field in value.keys() - set(_FIELDS)
    ]
    name = value.get("name")
    if not isinstance(name, str) or not name.strip():
        problems.append(problem("The name is missing, empty or not a string."))
    elif any(ord(char) < ord(" ") or "\x7f" <= char <= "\x9f" for char in name):
        problems.append(problem("The name contains control characters."))
    elif any("\ud800" <= char <= "\udfff" for char in name):
        problems.append(problem("The name contains an unpaired surrogate."))
    for field, required in (("expiresAt", True), ("revokedAt", False)):
        messages = _timestamp_problems(value, field, required=required)
        problems += [problem(message) for message in messages]
    role = value.get("roleId")
    if role is not None and (not isinstance(role, str) or not role.strip()):
        problems.append(problem("The roleId is empty or not a string."))
    if problems:
        return problems
    return BodyRecord(value["name"], value["expiresAt"], value.get("revokedAt"), role, place)


def _timestamp_problems(value: dict[str, object], field: str, *, required: bool) -> list[str]:
    timestamp = value.get(field)
    if timestamp is None:
        missing = f"The {field} is missing. Write it in the form 2027-06-30T12:00:00Z."
        return [missing] if required else []
    if not isinstance(timestamp, str):
        return [f"The {field} is not a string. Write it like 2027-06-30T12:00:00Z."]
    try:
        parse_timestamp(timestamp)
    except ValueError as error:
        return [f"The {field} {error}."]
    return []


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("A record contains the same field twice.")
    return fields


def _no_constant(name: str) -> object:
    raise ValueError(f"The body is not valid JSON: {name} is not allowed.")


def _skip_whitespace(text: str, at: int) -> int:
    while at < len(text) and text[at] in _WHITESPACE:
        at += 1
    return at


def _require_end(text: str, at: int) -> None:
    at = _skip_whitespace(text, at)
    if at < len(text):
        raise _BadJsonError("The body is not valid JSON: there is text after its end.", at)


class _PlaceFinder:
    """Finds the places of offsets in a text, which must be requested in ascending order."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._line = 1
        self._line_start = 0

    def at(self, offset: int) -> Place:
        """Return the place of an offset."""
        while (end := self._text.find("\n", self._line_start, offset)) >= 0:
            self._line += 1
            self._line_start = end + 1
        return Place(self._file, self._line, offset - self._line_start + 1)
