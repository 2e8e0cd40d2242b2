"""Standard streams that cannot be written: they must not change the exit code at the end."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO


def discard_output(stream: TextIO) -> None:
    """Discard what a stream has buffered and everything that is written to it later."""
    with open(os.devnull, "w", encoding="utf-8") as devnull:  # noqa: PTH123 - not a path of ours
        os.dup2(devnull.fileno(), stream.fileno())


def flush_streams() -> None:
    """Flush stdout and stderr; the interpreter would exit with 120 if it could not do that."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # None if it was closed before the program started
                stream.flush()
        except OSError:
            discard_output(stream)
