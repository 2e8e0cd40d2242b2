"""Numbers of things in words."""

from __future__ import annotations


def pluralize(number: int, noun: str) -> str:
    """A number of things: `1 key`, `2 keys`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
