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
    from collections.abc import Iterable, Iterator

_FIELDS = ("name", "expiresAt", "revokedAt", "role", "roleId")
_WHITESPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class BodyRecord:
    """A key that the body requests.

    Attributes:
        expires_at: RFC 3339, as written in the body.
        role: the label or id of a role, to be looked up; None if `role_id` is set.
        role_id: the id of a role, sent as it is.
        place: the start of the record.
    """

    name: str
    expires_at: str
    revoked_at: str | None
    role: str | None
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
    try:
        values = tuple(_values(text))
    except json.JSONDecodeError as error:
        place = Place(file, error.lineno, error.colno)
        message = f"The body is not valid JSON: {error.msg}."
        raise InvalidInputError((Problem(place, Code.BODY_INVALID, message),)) from None
    problems: list[Problem] = []
    records: list[BodyRecord] = []
    places = _places(text, file, (offset for _, offset in values))
    for (value, _), place in zip(values, places, strict=True):
        messages = tuple(_record_problems(value))
        problems += [Problem(place, Code.RECORD_INVALID, message) for message in messages]
        if isinstance(value, dict) and not messages:
            name, expires_at = value["name"], value["expiresAt"]
            revoked_at, role, role_id = map(value.get, ("revokedAt", "role", "roleId"))
            records.append(BodyRecord(name, expires_at, revoked_at, role, role_id, place))
    if not values:
        problems.append(Problem(Place(file), Code.BODY_INVALID, "The array is empty."))
    if problems:
        raise InvalidInputError(tuple(problems))
    return RequestBody(tuple(records), single=not text.lstrip(_WHITESPACE).startswith("["))


def _values(text: str) -> Iterator[tuple[object, int]]:
    """Yield the object, or each element of the array, with its offset.

    Raises:
        json.JSONDecodeError: if the text is anything else.
    """
    at = _skip_whitespace(text, 0)
    if not text.startswith("[", at):
        value, end = _decode(text, at)
        yield value, at
    else:
        at = _skip_whitespace(text, at + 1)
        end = at + 1
        more = not text.startswith("]", at)
        while more:
            value, end = _decode(text, at)
            yield value, at
            at = _skip_whitespace(text, end)
            more = text.startswith(",", at)
            if not more and not text.startswith("]", at):
                raise json.JSONDecodeError("a comma or ] is missing here", text, at)
            end = at + 1
            at = _skip_whitespace(text, end)
    end = _skip_whitespace(text, end)
    if end < len(text):
        raise json.JSONDecodeError("there is text after its end", text, end)


def _decode(text: str, at: int) -> tuple[object, int]:
    """Return the value at an offset, and the offset of its end."""
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", text, at) from None
    except ValueError as error:
        raise json.JSONDecodeError(str(error), text, at) from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a record contains the same field twice")
    return fields


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not allowed")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _skip_whitespace(text: str, at: int) -> int:
    while at < len(text) and text[at] in _WHITESPACE:
        at += 1
    return at


def _places(text: str, file: str, offsets: Iterable[int]) -> Iterator[Place]:
    """Yield the place of each offset; the offsets ascend."""
    line, line_start, previous = 1, 0, 0
    for offset in offsets:
        line += text.count("\n", previous, offset)
        line_start = max(line_start, text.rfind("\n", previous, offset) + 1)
        previous = offset
        yield Place(file, line, offset - line_start + 1)


def _record_problems(value: object) -> Iterator[str]:
    """Yield a message for each problem of a record."""
    if not isinstance(value, dict):
        yield "The record is not an object. Write an object with name and expiresAt."
        return
    for field in (one for one in value if one not in _FIELDS):
        yield f"The field {field!r} is unknown. A record has the fields {', '.join(_FIELDS)}."
    name = value.get("name")
    if not isinstance(name, str) or not name.strip():
        yield "The name is missing, empty or not a string."
    elif any(ord(char) < ord(" ") or "\x7f" <= char <= "\x9f" for char in name):
        yield "The name contains control characters."
    elif any("\ud800" <= char <= "\udfff" for char in name):
        yield "The name contains an unpaired surrogate."
    if value.get("expiresAt") is None:
        yield "The expiresAt is missing. Write it like 2027-06-30T12:00:00Z."
    for field in ("expiresAt", "revokedAt"):
        if (timestamp := value.get(field)) is not None:
            yield from _timestamp_problems(field, timestamp)
    yield from _role_problems(value)


def _role_problems(record: dict[str, object]) -> Iterator[str]:
    roles = {one: record[one] for one in ("role", "roleId") if record.get(one) is not None}
    for field, role in roles.items():
        if not isinstance(role, str) or not role.strip():
            yield f"The {field} is empty or not a string."
    if len(roles) > 1:
        yield "The record has both role and roleId. Write one of them."


def _timestamp_problems(field: str, timestamp: object) -> Iterator[str]:
    if not isinstance(timestamp, str):
        yield f"The {field} is not a string. Write it like 2027-06-30T12:00:00Z."
        return
    try:
        parse_timestamp(timestamp)
    except ValueError as error:
        yield f"The {field} {error}."
