"""The form of a UUID, which the ids of Twenty have."""

from __future__ import annotations

import re

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def is_uuid(text: str) -> bool:
    """Return whether a text is a UUID with hyphens, in capitals or not."""
    return _UUID.fullmatch(text) is not None
