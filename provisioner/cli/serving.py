"""Waiting for the signal that ends a server."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_SIGNALED = 128


@contextmanager
def stop_signal() -> Iterator[Callable[[], int]]:
    """Catches SIGINT and SIGTERM from here on, so that none is missed.

    Yields:
        What waits for one of them and returns the exit code that says which it was.
    """
    stopped = threading.Event()
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        stopped.set()

    def wait() -> int:
        stopped.wait()
        return _SIGNALED + received[0]

    before = {which: signal.signal(which, stop) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wait
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
