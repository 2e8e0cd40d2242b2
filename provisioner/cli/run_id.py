"""The id of a run, which its log, events and reports share."""

from __future__ import annotations

import os

_BYTES = 16


def new_run_id() -> str:
    """Return a random id of 32 hexadecimal digits."""
    return os.urandom(_BYTES).hex()
