"""Dotenv files as text: find the value of a variable, and add one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from provisioner.sinks.file_entry import Entry, InvalidTextError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = re.compile(r"[\w.-]+", re.ASCII)
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


def check_dotenv(text: str) -> None:
    """Raise if a text is not a dotenv file, because an appended line would corrupt it.

    It is refused if it has a NUL, if it has content but no assignment, or if it begins like JSON,
    PEM or a script.

    Raises:
        InvalidTextError: the text is of another kind.
    """
    other = [line for line in text.split("\n") if not _NOT_AN_ASSIGNMENT.fullmatch(line)]
    first = other[0].lstrip("\ufeff \t") if other else ""
    assigns = _ASSIGNMENT.search(text) is not None
    if "\0" in text or (other and not assigns) or first.startswith(("{", "[", "<", "-----", "---")):
        raise InvalidTextError(
            "is in a file that is not a dotenv file",
            "Choose another file, or write `format: json` if it is a JSON object.",
        )


def assignments(text: str) -> Iterator[tuple[str, Entry]]:
    """Yield the assignments of a dotenv text."""
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


def append_line(text: str, variable: str, quoted: str) -> str:
    """Return the text with one more assignment, with the line endings that the text already has."""
    end = "\r\n" if "\r\n" in text else "\n"
    gap = end if text and not text.endswith("\n") else ""
    return f"{text}{gap}{variable}={quoted}{end}"
