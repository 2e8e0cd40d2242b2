"""JSON objects as text: where a member has its value, and the same text with another member."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from provisioner.sinks.file_entry import Entry, UnfitTextError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a JSON object, with the blanks before its name and around its colon."""

    before: str
    name: str
    colon: str
    entry: Entry


# Numbers are only passed over, and Python refuses to make an `int` of a very long one.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str)
_BEFORE = re.compile(r'(?:\s*,)?(\s*)(?=")')
_COLON = re.compile(r"\s*:\s*")


def members(text: str) -> Iterator[Member]:
    """The members at the top level of a JSON object; none of an empty file."""
    if not text.strip():
        return
    try:
        sound = isinstance(_JSON.decode(text), dict)
    except (ValueError, RecursionError):
        sound = False
    if not sound:
        raise UnfitTextError("stands in no JSON object", "Mend the file.")
    at = text.index("{") + 1
    value: Any
    while before := _BEFORE.match(text, at):
        name, end = _JSON.raw_decode(text, before.end())
        colon = _COLON.match(text, end)
        assert colon is not None  # noqa: S101 - the whole text was decoded before
        value, at = _JSON.raw_decode(text, colon.end())
        nested = isinstance(value, dict | list)
        shown = value if isinstance(value, str) else "" if value is None else text[colon.end() : at]
        yield Member(before[1], name, colon[0], Entry(shown, colon.end(), at, nested=nested))


def append_member(text: str, variable: str, quoted: str) -> str:
    """Return the text with one more member, spaced like the last one."""
    name = json.dumps(variable)
    there = tuple(members(text))
    if there:
        last = there[-1]
        at = last.entry.end
        return f"{text[:at]},{last.before}{name}{last.colon}{quoted}{text[at:]}"
    text = text if text.strip() else "{}\n"
    start, end = text.index("{") + 1, text.rindex("}")
    return f"{text[:start]}\n  {name}: {quoted}\n{text[end:]}"
