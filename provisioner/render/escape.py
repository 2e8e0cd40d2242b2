"""Foreign text inside Markdown: shown as it is, and never markup, a link or a mention.

Names come from servers and files, and whoever reads the page trusts the one that wrote it.
"""

from __future__ import annotations

from itertools import starmap
from typing import TYPE_CHECKING

from provisioner.render.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

_REFERENCE_PREFIXES = frozenset("@#!~%$&^:")
"""Signs before a word by which GitHub and GitLab call people, name issues and draw faces."""

_LITERAL = frozenset(" -/,;=()'\"?")
"""Signs that are nothing but themselves within a line, whatever stands beside them."""

_ZERO_WIDTH_SPACE = "&#8203;"
"""A blank without width: what stands behind it is no word of the sign before."""


def escape(text: str) -> str:
    """Text in which nothing is Markdown or HTML: references to characters are never either."""
    return "".join(
        f"{_escape_character(before, char, after)}{_ZERO_WIDTH_SPACE if _starts_reference(before, char, after) else ''}"
        for before, char, after in _with_neighbours(visible(text))
    )


def _starts_reference(before: str, char: str, after: str) -> bool:
    """Whether a sign would make more than itself of the word behind it; `GH-1` is an issue too."""
    numbered = char == "-" and before in "HhLl" and after.isdigit()
    return numbered or (char in _REFERENCE_PREFIXES and after.isalnum())


def inline_code(text: str) -> str:
    """Text as code, in which nobody looks for mentions."""
    return f"<code>{''.join(starmap(_escape_character, _with_neighbours(visible(text))))}</code>"


def truncate(text: str, longest: int) -> str:
    """The text, or as much of it as fits into `longest` characters, with a sign that it is cut."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _with_neighbours(text: str) -> Iterator[tuple[str, str, str]]:
    """Each character between the one before and the one behind it."""
    return zip(f" {text}", text, f"{text[1:]} ", strict=False)


def _escape_character(before: str, char: str, after: str) -> str:
    """One character as it is, or a reference to it where it might be more than itself."""
    bare = (
        char.isalnum()
        or char in _LITERAL
        # A dot makes a link of a word behind `www`, and a line within a word is no emphasis.
        or (char == "." and before not in "wW")
        or (char == "_" and before.isalnum() and after.isalnum())
    )
    return char if bare else f"&#{ord(char)};"
