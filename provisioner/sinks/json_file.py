"""JSON files as text: find the value of a member, and add one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from provisioner.sinks.file_entry import Entry, InvalidTextError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a JSON object, with the whitespace before its name and around its colon."""

    before: str
    name: str
    colon: str
    entry: Entry


# Numbers are only skipped, and Python refuses to convert a very long one to `int`.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str)
_BEFORE = re.compile(r'(?:\s*,)?(\s*)(?=")')
_COLON = re.compile(r"\s*:\s*")


def members(text: str) -> Iterator[Member]:
    """Yield the members at the top level of a JSON object; none for an empty file.

    Raises:
        InvalidTextError: the text is not a JSON object.
    """
    if not text.strip():
        return
    try:
        is_object = isinstance(_JSON.decode(text), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise InvalidTextError("is in a file that is not a JSON object", "Correct the file.")
    start = text.index("{") + 1
    value: Any
    while before := _BEFORE.match(text, start):
        name, end = _JSON.raw_decode(text, before.end())
        separator = _COLON.match(text, end)
        assert separator is not None  # noqa: S101 - the whole text was decoded before
        value, start = _JSON.raw_decode(text, separator.end())
        nested = isinstance(value, dict | list)
        source = text[separator.end() : start]
        as_text = value if isinstance(value, str) else "" if value is None else source
        entry = Entry(as_text, separator.end(), start, nested=nested)
        yield Member(before[1], name, separator[0], entry)


def append_member(text: str, variable: str, quoted: str) -> str:
    """Return the text with one more member, spaced like the last one."""
    name = json.dumps(variable)
    existing = tuple(members(text))
    if existing:
        last = existing[-1]
        insert_at = last.entry.end
        return f"{text[:insert_at]},{last.before}{name}{last.colon}{quoted}{text[insert_at:]}"
    text = text if text.strip() else "{}\n"
    insert_at, end = text.index("{") + 1, text.rindex("}")
    return f"{text[:insert_at]}\n  {name}: {quoted}\n{text[end:]}"
