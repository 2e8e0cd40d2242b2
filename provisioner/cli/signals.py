"""The signals that end a command: SIGINT and SIGTERM, taken in without haste or loss."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from provisioner.runtime.cancellation import Cancellation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    _Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None

_SIGNALED = 128
_SIGNALS_UNTIL_EXIT = 3
"""The signal that ends the process at once: a pipeline's cancelling sends two."""

_WHICH = (signal.SIGINT, signal.SIGTERM)
_ENOUGH = b"\0"


class Signals:
    """What the process was told by signals, and the stop that they ask for."""

    def __init__(self) -> None:
        self.stop = Cancellation()
        self._first: int | None = None
        self._count = 0
        self._before: dict[signal.Signals, _Handler] = {}

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
        # First, so that no signal is swallowed unheard.
        descriptor = signal.set_wakeup_fd(rung.fileno(), warn_on_full_buffer=False)
        self._before = {which: signal.signal(which, self._note) for which in _WHICH}
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for which, handler in self._before.items():
                signal.signal(which, handler)
            rung.send(_ENOUGH)
            listener.join()
            heard.close()
            rung.close()

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Have signals end the command at once to the end of the block, which waits for a person.

        Only within `caught`, which goes on afterwards.
        """
        for which, handler in self._before.items():
            signal.signal(which, handler)
        descriptor = signal.set_wakeup_fd(-1)
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
            for which in _WHICH:
                signal.signal(which, self._note)

    def _listen(self, heard: socket.socket) -> None:
        while (told := heard.recv(1)) != _ENOUGH:
            if (number := told[0]) not in _WHICH:
                continue
            self._count += 1
            if self._count >= _SIGNALS_UNTIL_EXIT:
                os._exit(_SIGNALED + number)
            self._first = self._first or number
            self.stop.ask()

    def _note(self, number: int, _: FrameType | None) -> None:
        """Keeps the signal from ending the process; the main thread knows of it from here on."""
        self._first = self._first or number
