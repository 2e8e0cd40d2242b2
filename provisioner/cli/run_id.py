"""The name of one run, the same in everything that it says of itself."""

from __future__ import annotations

import os

_BYTES = 16


def new_run_id() -> str:
    """A random name, 32 signs of 0-9 and a-f."""
    return os.urandom(_BYTES).hex()
