"""Escaping of untrusted text for Markdown, so that it is never markup, a link or a mention.

Names come from servers and files, and readers trust the page that shows them.
"""

from __future__ import annotations

import re

from provisioner.render.text import visible

_REFERENCE = re.compile(r"[@#!~%$&^:](?=[^\W_]|[_+-])|(?<=[HhLl])-(?=\d)")
"""A character that GitHub or GitLab turns into a mention, an issue (`GH-1` too) or an emoji."""

_INTERPRETED = re.compile(
    # `www.` starts a link. An underscore inside a word starts no emphasis.
    r"""[^\w /,;=()'"?.-]|(?<=[wW])\.|(?<![^\W_])_|_(?![^\W_])"""
)
"""A character that Markdown may interpret; other punctuation never is within a line."""

_ZERO_WIDTH_SPACE = "\u200b"
"""Separates a prefix from its word, so that the two are not read as one reference."""


def escape(text: str) -> str:
    """Return the text with everything escaped that Markdown or HTML would interpret."""
    return _escape(_REFERENCE.sub(rf"\g<0>{_ZERO_WIDTH_SPACE}", visible(text)))


def inline_code(text: str) -> str:
    """Return the text as a code element; GitHub and GitLab look for no mentions in code."""
    return f"<code>{_escape(visible(text))}</code>"


def truncate(text: str, longest: int) -> str:
    """Return at most `longest` characters of the text; an ellipsis marks a cut."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _escape(text: str) -> str:
    """Return the text with a character reference for each character to escape."""
    return _INTERPRETED.sub(lambda match: f"&#{ord(match[0])};", text)
