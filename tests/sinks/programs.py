"""Programs that a command started, by the file into which each wrote its id."""

from __future__ import annotations

import time
from pathlib import Path

_PATIENCE = 30.0
"""Seconds; far more than any of them takes."""


def is_running(path: Path) -> bool:
    """Whether the process whose id a file has is alive; one that nobody waits for is not."""
    try:
        status = Path(f"/proc/{path.read_text().strip()}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until_started(path: Path) -> bool:
    """Whether it wrote its id, once it has or has had the time to."""
    end = time.monotonic() + _PATIENCE
    while not (path.exists() and path.read_text().endswith("\n")) and time.monotonic() < end:
        time.sleep(0.01)
    return path.exists()


def wait_until_ended(path: Path) -> bool:
    """Whether it is over, once it is or has had the time to be."""
    end = time.monotonic() + _PATIENCE
    while is_running(path) and time.monotonic() < end:
        time.sleep(0.01)
    return not is_running(path)
