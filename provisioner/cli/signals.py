"""The signals that end a command: SIGINT and SIGTERM, taken in without haste or loss."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from provisioner.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIGNALED = 128
_PATIENCE = 3
"""The signal that ends the process at once: a pipeline's cancelling sends two."""

_WHICH = (signal.SIGINT, signal.SIGTERM)
_ENOUGH = b"\0"


class Signals:
    """What the process was told by signals, and the stop that they ask for."""

    def __init__(self) -> None:
        self.stop = Stop()
        self._first: int | None = None
        self._count = 0

    @property
    def exit_code(self) -> int | None:
        """130 or 143 after the first signal, None before."""
        return None if self._first is None else _SIGNALED + self._first

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Has signals ask for a stop, from here to the end of the block."""
        # The kernel may give a signal to any thread, and a handler of Python runs when the main
        # thread wakes up, which it may not for long. So a thread of its own reads the numbers.
        heard, rung = socket.socketpair()
        rung.setblocking(False)  # noqa: FBT003 - the socket's own argument
        listener = threading.Thread(target=self._listen, args=(heard,), daemon=True)
        listener.start()
        handlers = {which: signal.signal(which, _nothing) for which in _WHICH}
        descriptor = signal.set_wakeup_fd(rung.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for which, handler in handlers.items():
                signal.signal(which, handler)
            rung.send(_ENOUGH)
            listener.join()
            heard.close()
            rung.close()

    def _listen(self, heard: socket.socket) -> None:
        while (told := heard.recv(1)) != _ENOUGH:
            if (number := told[0]) not in _WHICH:
                continue
            self._count += 1
            if self._count >= _PATIENCE:
                os._exit(_SIGNALED + number)
            self._first = self._first or number
            self.stop.ask()


def _nothing(*_: object) -> None:
    """Keeps the signal from ending the process."""
