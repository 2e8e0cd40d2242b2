"""Finds out whether a program that a command started is running, by its PID file."""

from __future__ import annotations

import time
from pathlib import Path

_TIMEOUT = 30.0
"""Seconds; much longer than any of them takes."""


def is_running(path: Path) -> bool:
    """Return whether the process with the PID in a file is running; a zombie is not."""
    try:
        status = Path(f"/proc/{path.read_text().strip()}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until_started(path: Path) -> bool:
    """Wait until the process has written its PID, and return whether it has."""
    deadline = time.monotonic() + _TIMEOUT
    while not (path.exists() and path.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.01)
    return path.exists()


def wait_until_ended(path: Path) -> bool:
    """Wait until the process has terminated, and return whether it has."""
    deadline = time.monotonic() + _TIMEOUT
    while is_running(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(path)
