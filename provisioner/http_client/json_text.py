"""JSON texts of untrusted servers, bounded in what they become in memory."""

from __future__ import annotations

import json

_MAX_VALUES = 500_000
"""Values in one JSON text; an object of a few bytes takes a hundred times as many in memory."""

_MAX_DEPTH = 64
"""Nesting levels of one JSON text, as in manifests; deeper ones could not be written again."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A decoded JSON value."""


def json_of(raw: bytes, max_values: int = _MAX_VALUES) -> Json:
    """Return the value of a JSON text in UTF-8.

    Raises:
        ValueError: the text is not JSON, has more than `max_values` values, is nested too deep, or
            has a string that is not valid Unicode.
    """
    if sum(map(raw.count, (b"{", b"[", b","))) > max_values:
        raise ValueError("too many values")
    try:
        value: Json = json.loads(raw.decode("utf-8-sig"), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if _is_deeper(value, _MAX_DEPTH):
        raise ValueError("nested too deep")
    if b"\\ud" in raw or b"\\uD" in raw:
        json.dumps(value, ensure_ascii=False).encode()  # raises for half a surrogate pair
    return value


def _is_deeper(value: Json, max_depth: int) -> bool:
    """Return whether containers are nested deeper than `max_depth` levels."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
