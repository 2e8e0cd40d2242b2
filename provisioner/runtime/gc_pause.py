"""A pause of the garbage collector, for work that creates many objects and no cycles."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def gc_paused() -> Iterator[None]:
    """Disable the garbage collector in a block or, as a decorator, in a function.

    Loading and planning 100 000 keys takes a quarter longer with the collector enabled. When
    several threads pause it at once, the first to finish enables it again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
