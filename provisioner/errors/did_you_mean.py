"""Suggestions for words that people mistype."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return a question that names the closest of the words, or an empty text."""
    close = get_close_matches(word, words, n=1)
    return f"Did you mean {close[0]!r}?" if close else ""
