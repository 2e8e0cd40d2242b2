"""The body of `create`: JSON text becomes checked records, each with its place in the text.

Everything is checked before anything is sent, because servers make surprising keys of bad
records: an `expiresAt` of null is a key that ended in 1970 (docs/twenty-api.md, "Creating").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.errors.exceptions import InvalidInputError
from provisioner.errors.problem import Place, Problem
from provisioner.model.expiry import parse_moment

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIELDS = ("name", "expiresAt", "revokedAt", "roleId")
_WHITESPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class BodyRecord:
    """A key as the body asks for it.

    Attributes:
        expires_at: RFC 3339, as it is written.
        place: where the record begins.
    """

    name: str
    expires_at: str
    revoked_at: str | None
    role_id: str | None
    place: Place


@dataclass(frozen=True, slots=True)
class RequestBody:
    """The records, and whether the body was one object rather than an array."""

    records: tuple[BodyRecord, ...]
    single: bool


def read_body(text: str, file: str) -> RequestBody:
    """Reads a JSON object or array of records.

    Args:
        text: the JSON text.
        file: what the text is called in problems, a path or `-`.

    Raises:
        InvalidInputError: with every problem of the body and its place.
    """
    start = _skip_whitespace(text, 0)
    single = not text.startswith("[", start)
    problems: list[Problem] = []
    records: list[BodyRecord] = []
    try:
        values = list(_values(text, start, file))
    except _BadJsonError as bad:
        problem = Problem(_PlaceFinder(text, file).at(bad.offset), "body_invalid", bad.message)
        raise InvalidInputError((problem,)) from None
    for value, place in values:
        found = _record(value, place)
        if isinstance(found, BodyRecord):
            records.append(found)
        else:
            problems += found
    if not values:
        problems.append(Problem(Place(file), "body_invalid", "The array is empty."))
    if problems:
        raise InvalidInputError(tuple(problems))
    return RequestBody(tuple(records), single)


class _BadJsonError(Exception):
    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


def _values(text: str, start: int, file: str) -> Iterator[tuple[object, Place]]:
    """The object, or each element of the array, with where it begins."""
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
                raise _BadJsonError("This is not JSON: a comma or ] is missing here.", end)
            at = _skip_whitespace(text, end + 1)
    _require_end(text, at + 1)


def _decode(decoder: json.JSONDecoder, text: str, at: int) -> tuple[object, int]:
    try:
        value, end = decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _BadJsonError(f"This is not JSON: {error.msg}.", error.pos) from None
    except RecursionError:
        raise _BadJsonError("This is nested too deeply to be a record.", at) from None
    except ValueError as error:
        raise _BadJsonError(str(error), at) from None
    return value, end


def _record(value: object, place: Place) -> BodyRecord | list[Problem]:
    def problem(message: str) -> Problem:
        return Problem(place, "record_invalid", message)

    if not isinstance(value, dict):
        return [problem("A record is an object with a name and an expiresAt.")]
    problems = [
        problem(f"A record has no field {field!r}: only {', '.join(_FIELDS)}.")
        for field in value.keys() - set(_FIELDS)
    ]
    name = value.get("name")
    if not isinstance(name, str) or not name.strip():
        problems.append(problem("The name is missing, empty or no text."))
    elif any(ord(char) < ord(" ") or "\x7f" <= char <= "\x9f" for char in name):
        problems.append(problem("The name holds control characters."))
    elif any("\ud800" <= char <= "\udfff" for char in name):
        problems.append(problem("The name holds half a character (a lone surrogate)."))
    for field, needed in (("expiresAt", True), ("revokedAt", False)):
        problems += [problem(text) for text in _timestamp_problems(value, field, needed=needed)]
    role = value.get("roleId")
    if role is not None and (not isinstance(role, str) or not role.strip()):
        problems.append(problem("The roleId is empty or no text."))
    if problems:
        return problems
    return BodyRecord(value["name"], value["expiresAt"], value.get("revokedAt"), role, place)


def _timestamp_problems(value: dict[str, object], field: str, *, needed: bool) -> list[str]:
    found = value.get(field)
    if found is None:
        return [f"The {field} is missing: write it like 2027-06-30T12:00:00Z."] if needed else []
    if not isinstance(found, str):
        return [f"The {field} is no text: write it like 2027-06-30T12:00:00Z."]
    try:
        parse_moment(found)
    except ValueError as error:
        return [f"The {field} {error}."]
    return []


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("A record names a field twice.")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"This is not JSON: {name}.")


def _skip_whitespace(text: str, at: int) -> int:
    while at < len(text) and text[at] in _WHITESPACE:
        at += 1
    return at


def _require_end(text: str, at: int) -> None:
    at = _skip_whitespace(text, at)
    if at < len(text):
        raise _BadJsonError("This is not JSON: something stands after its end.", at)


class _PlaceFinder:
    """Places in a text, each asked for further on than the one before."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._line = 1
        self._line_start = 0

    def at(self, offset: int) -> Place:
        """The place of an offset."""
        while (end := self._text.find("\n", self._line_start, offset)) >= 0:
            self._line += 1
            self._line_start = end + 1
        return Place(self._file, self._line, offset - self._line_start + 1)
