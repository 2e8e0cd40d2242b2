"""The texts of the sink `file`: where a variable has its value, and the same text with another.

All else in a text is kept as it is. A text that cannot have the variable, or could not have it
back, is an `UnfitTextError` and is left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, assert_never

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.secret import Secret


class UnfitTextError(Exception):
    """Why a text cannot hold a variable.

    Attributes:
        what: the rest of a sentence that begins with the sink's address.
        remedy: what to do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


Form = Literal["dotenv", "json", "bare"]
"""A bare text is one value, of a variable without a name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One place of a text at which a variable has a value.

    Attributes:
        value: without its quotes; no `Secret`, since others' values would be masked in reports.
        start: the first character that a new value takes the place of.
        end: the first one after them.
        nested: whether it is an object or an array.
    """

    value: str = field(repr=False)
    start: int
    end: int
    nested: bool = False


Entries = Mapping[str, tuple[Entry, ...]]


def demand_name(variable: str, form: Form) -> None:
    """Holds a name to what the form can have.

    Raises:
        UnfitTextError: when no such text can have the variable.
    """
    if form == "dotenv" and not _NAME.fullmatch(variable):
        raise UnfitTextError(
            "has a name that no dotenv file can have",
            "Choose one of letters, digits and underscores.",
        )


def entries_of(text: str, form: Form) -> Entries:
    """The values of each variable, in their order."""
    pairs: Iterable[tuple[str, Entry]]
    match form:
        case "dotenv":
            _demand_dotenv(text)
            pairs = _assignments(text)
        case "bare":
            pairs = (("", Entry(text.strip(), 0, len(text))),)
        case "json":
            pairs = ((member.name, member.entry) for member in _members(text))
        case _:
            assert_never(form)
    found: dict[str, tuple[Entry, ...]] = {}
    for name, entry in pairs:
        found[name] = (*found.get(name, ()), entry)
    return found


def only_entry(entries: tuple[Entry, ...], form: Form) -> Entry | None:
    """The entry of a variable that counts, None where there is none."""
    if form == "json" and len(entries) > 1:
        raise UnfitTextError("stands there twice", "Take one of the two out.")
    if not entries:
        return None
    if entries[-1].nested:
        raise UnfitTextError("holds an object or an array", "Choose another variable.")
    return entries[-1]


def with_value(text: str, variable: str, value: Secret, form: Form) -> str:
    """The text in which a variable has a value, and all else is as it was."""
    before = entries_of(text, form)
    entry = only_entry(before.get(variable, ()), form)
    match form:
        case "dotenv":
            written, append = quoted(value.reveal()), _append_line
        case "bare":
            return value.reveal()
        case "json":
            written, append = json.dumps(value.reveal()), _append_member
        case _:
            assert_never(form)
    if entry is None:
        new = append(text, variable, written)
    else:
        new = text[: entry.start] + written + text[entry.end :]
    wanted = values_of(before)
    wanted.setdefault(variable, [])[-1:] = [value.reveal()]
    # A quote that is never closed, for one, may swallow what comes after it.
    if values_of(entries_of(new, form)) != wanted:
        raise UnfitTextError("cannot stand in its file as it is", "Close the quotes in the file.")
    return new


def values_of(entries: Entries) -> dict[str, list[str]]:
    """The values of each variable, without where they stand."""
    return {name: [entry.value for entry in those] for name, those in entries.items()}


_NAME = re.compile(r"[\w.-]+", re.ASCII)
_BARE = re.compile(r"[\w.:/+@%,=-]*", re.ASCII)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"} | {sign: sign for sign in "\\\"'$`"}

# What stands in quotes may have several lines; quotes that nothing closes are part of the value.
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


_OF_NO_VARIABLE = re.compile(r"[ \t]*(?:\#.*|(?:export[ \t]+)?[A-Za-z_][A-Za-z0-9_]*)?[ \t]*\r?")
"""A line of a dotenv file that assigns nothing: blank, a comment or a name alone."""


def _demand_dotenv(text: str) -> None:
    """Refuses a text of another kind, which an appended line would spoil.

    It has a NUL, or says something and assigns nothing, or begins as JSON, PEM or a script do.
    """
    said = [line for line in text.split("\n") if not _OF_NO_VARIABLE.fullmatch(line)]
    first = said[0].lstrip("\ufeff \t") if said else ""
    assigns = _ASSIGNMENT.search(text) is not None
    if "\0" in text or (said and not assigns) or first.startswith(("{", "[", "<", "-----", "---")):
        raise UnfitTextError(
            "stands in a file that is no dotenv file",
            "Choose another file, or write `format: json` where it is a JSON object.",
        )


def _assignments(text: str) -> Iterator[tuple[str, Entry]]:
    """The assignments of a dotenv text."""
    for found in _ASSIGNMENT.finditer(text):
        value = found["value"]
        if found["quoted"]:
            value = value[1:-1]
            if found["quoted"].startswith('"'):
                value = re.sub(r"\\([\s\S])", lambda sign: _ESCAPES.get(sign[1], sign[0]), value)
        yield found["name"], Entry(value, found.start("value"), found.end())


def quoted(value: str) -> str:
    """A value as a dotenv file has it; in single quotes no character has a meaning."""
    if _BARE.fullmatch(value):
        return value
    if not re.search(r"['\\\r\n]", value):
        return f"'{value}'"
    escaped = re.sub(r'([\\"$`])', r"\\\1", value)
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r") + '"'


def _append_line(text: str, variable: str, quoted: str) -> str:
    end = "\r\n" if "\r\n" in text else "\n"
    gap = end if text and not text.endswith("\n") else ""
    return f"{text}{gap}{variable}={quoted}{end}"


@dataclass(frozen=True, slots=True)
class _Member:
    """One member of a JSON object, with the blanks before its name and around its colon."""

    before: str
    name: str
    colon: str
    entry: Entry


# Numbers are only passed over, and Python refuses to make an `int` of a very long one.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str)
_BEFORE = re.compile(r'(?:\s*,)?(\s*)(?=")')
_COLON = re.compile(r"\s*:\s*")


def _members(text: str) -> Iterator[_Member]:
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
        yield _Member(before[1], name, colon[0], Entry(shown, colon.end(), at, nested=nested))


def _append_member(text: str, variable: str, quoted: str) -> str:
    name = json.dumps(variable)
    members = tuple(_members(text))
    if members:
        last = members[-1]
        at = last.entry.end
        return f"{text[:at]},{last.before}{name}{last.colon}{quoted}{text[at:]}"
    text = text if text.strip() else "{}\n"
    start, end = text.index("{") + 1, text.rindex("}")
    return f"{text[:start]}\n  {name}: {quoted}\n{text[end:]}"
