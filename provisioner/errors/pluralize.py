"""Counts with their noun."""

from __future__ import annotations


def pluralize(number: int, noun: str) -> str:
    """Return a count with its noun: `1 key`, `2 keys`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
