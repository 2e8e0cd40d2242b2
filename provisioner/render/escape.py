"""Escaping of untrusted text for Markdown, so that it is never markup, a link or a mention.

Names come from servers and files, and readers trust the page that shows them.
"""

from __future__ import annotations

from itertools import starmap
from typing import TYPE_CHECKING

from provisioner.render.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

_REFERENCE_PREFIXES = frozenset("@#!~%$&^:")
"""Characters that GitHub and GitLab turn into a mention, an issue or an emoji before a word."""

_LITERAL = frozenset(" -/,;=()'\"?")
"""Punctuation that Markdown never interprets within a line."""

_ZERO_WIDTH_SPACE = "&#8203;"
"""Separates a prefix from its word, so that the two are not read as one reference."""


def escape(text: str) -> str:
    """Return the text with everything escaped that Markdown or HTML would interpret."""
    return "".join(starmap(_escape_in_prose, _with_neighbours(visible(text))))


def inline_code(text: str) -> str:
    """Return the text as a code element; GitHub and GitLab look for no mentions in code."""
    return f"<code>{''.join(starmap(_escape_character, _with_neighbours(visible(text))))}</code>"


def truncate(text: str, longest: int) -> str:
    """Return at most `longest` characters of the text; an ellipsis marks a cut."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _with_neighbours(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield each character with the ones before and after it; a space stands in at both ends."""
    return zip(f" {text}", text, f"{text[1:]} ", strict=False)


def _escape_in_prose(before: str, char: str, after: str) -> str:
    separator = _ZERO_WIDTH_SPACE if _starts_reference(before, char, after) else ""
    return _escape_character(before, char, after) + separator


def _starts_reference(before: str, char: str, after: str) -> bool:
    """Return whether the character makes the next word a reference; `GH-1` is an issue too."""
    is_issue_number = char == "-" and before in "HhLl" and after.isdigit()
    return is_issue_number or (char in _REFERENCE_PREFIXES and (after.isalnum() or after in "_+-"))


def _escape_character(before: str, char: str, after: str) -> str:
    """Return the character, as a character reference if Markdown could interpret it."""
    literal = (
        char.isalnum()
        or char in _LITERAL
        # `www.` starts a link. An underscore inside a word starts no emphasis.
        or (char == "." and before not in "wW")
        or (char == "_" and before.isalnum() and after.isalnum())
    )
    return char if literal else f"&#{ord(char)};"
