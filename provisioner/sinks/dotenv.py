"""Dotenv texts: where a variable has its value, and a new line for another one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from provisioner.sinks.file_entry import Entry, UnfitTextError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = re.compile(r"[\w.-]+", re.ASCII)
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


def demand_dotenv(text: str) -> None:
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


def assignments(text: str) -> Iterator[tuple[str, Entry]]:
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


def append_line(text: str, variable: str, quoted: str) -> str:
    """Return the text with one more assignment, in the line endings that it has."""
    end = "\r\n" if "\r\n" in text else "\n"
    gap = end if text and not text.endswith("\n") else ""
    return f"{text}{gap}{variable}={quoted}{end}"
