"""Suggestions for words that people mistype."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST = 64
"""Characters of a word that are compared; the time grows with their square."""


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return a question that names the closest of the words, or an empty text."""
    close = closest(word, words)
    return f"Did you mean {close!r}?" if close else ""


def closest(word: str, words: Iterable[str], similarity: float = 0.6) -> str | None:
    """Return the word that is closest to a mistyped one; None if none is similar.

    Args:
        word: the word as typed.
        words: the words that exist.
        similarity: how similar a word has to be: 1 is the same, 0 has nothing in common.
    """
    close = get_close_matches(word[:_LONGEST], list(words), n=1, cutoff=similarity)
    return close[0] if close else None
