"""The texts of the sink `file`: find the value of a variable, and replace it.

Everything else in a text is kept unchanged. A text that cannot hold the variable, or could not
return it, raises an `UnusableError` and is left unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from provisioner.sinks.sink import UnusableError, unsuitable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.secret import Secret


FileFormat = Literal["dotenv", "json", "bare"]
"""The format of a file. A bare file is one value, of a variable without a name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A place in a text where a variable has a value.

    Attributes:
        value: the value without its quotes. It is not a `Secret`, because the values of others
            would then be masked in reports.
        start: the position of the first character that a new value replaces.
        end: the position after the last of them.
        nested: True if the value is an object or an array.
        before: the whitespace before the name of a JSON member.
        colon: its colon, with the whitespace around it.
    """

    value: str = field(repr=False)
    start: int
    end: int
    nested: bool = False
    before: str = ""
    colon: str = ""


Entries = Mapping[str, tuple[Entry, ...]]
"""The entries of each variable, in their order."""


@dataclass(frozen=True, slots=True)
class FileText:
    """The text of a file, parsed.

    Attributes:
        entries: the entries of each variable.
    """

    text: str = field(repr=False)
    format: FileFormat
    entries: Entries

    @classmethod
    def of(cls, text: str, file_format: FileFormat) -> FileText:
        """Parse a text.

        Raises:
            UnusableError: it does not have the format.
        """
        return cls(text, file_format, entries_of(text, file_format))


def entries_of(text: str, file_format: FileFormat) -> Entries:
    """Return the entries of each variable."""
    if file_format == "bare":
        return {"": (Entry(text.strip(), 0, len(text)),)}
    found: dict[str, tuple[Entry, ...]] = {}
    for name, entry in _assignments(text) if file_format == "dotenv" else _members(text):
        if _SOPS_MAC.match(f"{name}={entry.value}"):
            reason = "is in a file that sops has encrypted"
            raise UnusableError(unsuitable(reason, "Write `sops` instead of `file`."))
        found[name] = (*found.get(name, ()), entry)
    return found


def effective_entry(entries: tuple[Entry, ...], file_format: FileFormat) -> Entry | None:
    """Return the entry of a variable that its readers use; None if there is none.

    Raises:
        UnusableError: the entry is ambiguous, or not a text.
    """
    if file_format == "json" and len(entries) > 1:
        reason = "appears twice in its JSON object"
        raise UnusableError(unsuitable(reason, "Remove one of the two members."))
    if not entries:
        return None
    if entries[-1].nested:
        raise UnusableError(
            unsuitable("contains an object or an array", "Choose another variable.")
        )
    return entries[-1]


def with_values(before: FileText, values: Mapping[str, Secret]) -> FileText:
    """Return a text with new values for some variables and everything else unchanged.

    Raises:
        UnusableError: the text cannot hold one of the variables, or another value would change.
    """
    if before.format == "bare":
        return FileText.of(values[""].reveal(), "bare")
    edits: list[tuple[int, int, str]] = []
    added: dict[str, str] = {}
    expected = values_of(before.entries)
    for variable, value in values.items():
        entry = effective_entry(before.entries.get(variable, ()), before.format)
        quoted = (quote_value if before.format == "dotenv" else json.dumps)(value.reveal())
        if entry is None:
            added[variable] = quoted
        else:
            edits.append((entry.start, entry.end, quoted))
        expected.setdefault(variable, [])[-1:] = [value.reveal()]
    text = before.text if before.format == "dotenv" or before.text.strip() else "{}\n"
    if added:
        add = _appended_lines if before.format == "dotenv" else _appended_members
        edits.append(add(text, before.entries, added))
    parts: list[str] = []
    done = 0
    for start, end, new in sorted(edits):
        parts += (text[done:start], new)
        done = end
    after = FileText.of("".join((*parts, text[done:])), before.format)
    # For example, a quote that is never closed may swallow the lines after it.
    if values_of(after.entries) != expected:
        reason = "cannot be added: its file has an unclosed quote"
        raise UnusableError(unsuitable(reason, "Close the quotes in the file."))
    return after


def without_value(before: FileText, variable: str, value: str) -> FileText | None:
    """Return a text without a variable if its readers get this value; None if they do not.

    Of a dotenv file, each line that assigns this value is left out. Of a JSON object, the member is
    left out.

    Raises:
        UnusableError: the text is ambiguous, or another value would change.
    """
    found = before.entries.get(variable, ())
    entry = effective_entry(found, before.format)
    if entry is None or entry.value != value:
        return None
    expected = values_of(before.entries)
    left = [one for one in expected.pop(variable) if one != value]
    if left:
        expected[variable] = left
    text = before.text
    if before.format == "json":
        cuts = [_member_span(text, before.entries, entry)]
    else:
        cuts = [_line_span(text, one) for one in found if one.value == value]
    for start, end in reversed(cuts):
        text = text[:start] + text[end:]
    try:
        after = FileText.of(text, before.format)
    except UnusableError:  # the rest has the format only together with this variable
        after = None
    if after is None or values_of(after.entries) != expected:
        reason = "cannot be removed without damaging the rest of its file"
        raise UnusableError(unsuitable(reason, "Remove it by hand."))
    return after


def values_of(entries: Entries) -> dict[str, list[str]]:
    """Return the values of each variable, without their positions."""
    return {name: [entry.value for entry in found] for name, found in entries.items()}


_SOPS_MAC = re.compile(r'sops_mac=ENC\[|sops=\{[\s\S]*"mac"\s*:\s*"ENC\[')
"""What sops adds to a dotenv or JSON file; it refuses the file after any other program's change."""

_BARE = re.compile(r"[\w.:/+@%,=-]*", re.ASCII)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"} | {char: char for char in "\\\"'$`"}

# A quoted value may have several lines; a quote that is never closed is part of the value.
_ASSIGNMENT = re.compile(
    r"""
    ^[ \t]*(?:export[ \t]+)?(?P<name>[^\s=\#'"`]+)[ \t]*=[ \t]*?
    (?P<value>
        (?P<quoted>'(?:\\'|[^'])*'|"(?:\\[\s\S]|[^"\\])*"|`[^`]*`)
        |(?:[^\s\#]|(?<==)\#)(?:[^ \t\r\n]++|\r(?!$)|[ \t]++(?!\#|\r?$))*+
        |
    )
    (?:[ \t]*(?=\r?$)|(?=[ \t]+\#))
    """,
    re.MULTILINE | re.VERBOSE,
)

_NOT_AN_ASSIGNMENT = re.compile(r"[ \t]*(?:\#.*|(?:export[ \t]+)?[A-Za-z_][A-Za-z0-9_]*)?[ \t]*\r?")
"""A line of a dotenv file that assigns nothing: an empty line, a comment or a bare name."""


def _assignments(text: str) -> Iterator[tuple[str, Entry]]:
    """Yield the assignments of a dotenv text.

    A text is refused, because an appended line would corrupt it, if it has a NUL, if it has content
    but no assignment, or if it begins like JSON, PEM or a script.
    """
    other = [line for line in text.split("\n") if not _NOT_AN_ASSIGNMENT.fullmatch(line)]
    first = other[0].lstrip("\ufeff \t") if other else ""
    assigns = _ASSIGNMENT.search(text) is not None
    if "\0" in text or (other and not assigns) or first.startswith(("{", "[", "<", "-----", "---")):
        remedy = "Choose another file, or write `format: json` if it is a JSON object."
        raise UnusableError(unsuitable("is in a file that is not a dotenv file", remedy))
    for found in _ASSIGNMENT.finditer(text):
        value = found["value"]
        if found["quoted"]:
            value = value[1:-1]
            if found["quoted"].startswith('"'):
                value = re.sub(r"\\([\s\S])", lambda match: _ESCAPES.get(match[1], match[0]), value)
        yield found["name"], Entry(value, found.start("value"), found.end())


def quote_value(value: str) -> str:
    """Return a value as a dotenv file writes it; in single quotes no character is special."""
    if _BARE.fullmatch(value):
        return value
    if not re.search(r"['\\\r\n]", value):
        return f"'{value}'"
    escaped = re.sub(r'([\\"$`])', r"\\\1", value)
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r") + '"'


# Numbers are only skipped, and Python refuses to convert a very long one to `int`.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str)
_BEFORE = re.compile(r'(?:\s*,)?(\s*)(?=")')
_COLON = re.compile(r"\s*:\s*")


def _members(text: str) -> Iterator[tuple[str, Entry]]:
    """Yield the members at the top level of a JSON object; none for an empty file."""
    if not text.strip():
        return
    try:
        is_object = isinstance(_JSON.decode(text), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        reason = "is in a file that is not a JSON object"
        raise UnusableError(unsuitable(reason, "Correct the file."))
    start = text.index("{") + 1
    value: Any
    while before := _BEFORE.match(text, start):
        name, end = _JSON.raw_decode(text, before.end())
        separator = _COLON.match(text, end)
        assert separator is not None  # noqa: S101 - the whole text was decoded before
        value, start = _JSON.raw_decode(text, separator.end())
        source = text[separator.end() : start]
        as_text = value if isinstance(value, str) else "" if value is None else source
        is_nested = isinstance(value, dict | list)
        entry = Entry(as_text, separator.end(), start, is_nested, before[1], separator[0])
        yield name, entry


def _appended_lines(text: str, _: Entries, added: Mapping[str, str]) -> tuple[int, int, str]:
    """Return the edit that adds assignments at the end of a dotenv text."""
    end = "\r\n" if "\r\n" in text else "\n"
    gap = end if text and not text.endswith("\n") else ""
    lines = (f"{variable}={quoted}{end}" for variable, quoted in added.items())
    return len(text), len(text), gap + "".join(lines)


def _line_span(text: str, entry: Entry) -> tuple[int, int]:
    """Return the positions of the line, or lines, of an assignment, with the last line break."""
    end = text.find("\n", entry.end)
    return text.rfind("\n", 0, entry.start) + 1, len(text) if end < 0 else end + 1


def _member_span(text: str, entries: Entries, entry: Entry) -> tuple[int, int]:
    """Return the positions of a JSON member, with one of the commas around it."""
    members = sorted(
        (one for found in entries.values() for one in found), key=lambda one: one.start
    )
    number = members.index(entry)
    if number:
        return members[number - 1].end, entry.end
    start = text.index("{") + 1
    return start, text.index(",", entry.end) + 1 if len(members) > 1 else text.rindex("}")


def _appended_members(
    text: str, entries: Entries, added: Mapping[str, str]
) -> tuple[int, int, str]:
    """Return the edit that adds members to a JSON object, spaced like its last one."""
    members = [entry for found in entries.values() for entry in found]
    if not members:
        new = ",".join(f"\n  {json.dumps(name)}: {quoted}" for name, quoted in added.items())
        return text.index("{") + 1, text.rindex("}"), f"{new}\n"
    last = max(members, key=lambda entry: entry.end)
    new = "".join(
        f",{last.before}{json.dumps(name)}{last.colon}{quoted}" for name, quoted in added.items()
    )
    return last.end, last.end, new
