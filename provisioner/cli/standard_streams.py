"""Standard streams that take no more: nothing is to go wrong because of them at the very end."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO


def lead_nowhere(stream: TextIO) -> None:
    """Has a stream swallow what it still holds and all that follows."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - no path of ours
        os.dup2(nowhere.fileno(), stream.fileno())


def settle_streams() -> None:
    """Empties stdout and stderr; the interpreter exits with 120 where it cannot do that itself."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # as where it was closed before we began
                stream.flush()
        except OSError:
            lead_nowhere(stream)
