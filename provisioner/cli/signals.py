"""The signals that stop a command in an orderly way, SIGINT and SIGTERM."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING

import click

from provisioner.cli.live_area import area_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from types import FrameType

    Command = Callable[..., int]
    _Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None

_EXIT_CODE_BASE = 128
_SIGNALS_UNTIL_EXIT = 3
"""Signals until the process exits at once; cancelling a pipeline sends two."""

_CAUGHT = (signal.SIGINT, signal.SIGTERM)
_END = b"\0"


class Signals:
    """The signals that the process got, and the stop that they request."""

    def __init__(self) -> None:
        from provisioner.runtime.cancellation import Cancellation

        self.stop = Cancellation()
        self._first: int | None = None
        self._count = 0
        self._previous: dict[signal.Signals, _Handler] = {}

    @property
    def exit_code(self) -> int | None:
        """Return 130 or 143 after the first signal, None before."""
        return None if self._first is None else _EXIT_CODE_BASE + self._first

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Request a stop when a signal arrives, until the end of the block."""
        import socket
        import threading

        # A Python handler runs only when the main thread wakes up, which may take long. So a
        # thread reads the numbers of the signals from a socket.
        receiver, sender = socket.socketpair()
        sender.setblocking(False)  # noqa: FBT003 - the argument of `socket` has no name
        listener = threading.Thread(target=self._listen, args=(receiver,), daemon=True)
        listener.start()
        # Before the handlers, so that no signal is lost in between.
        descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        self._previous = {one: signal.signal(one, self._remember) for one in _CAUGHT}
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for one, handler in self._previous.items():
                signal.signal(one, handler)
            sender.send(_END)
            listener.join()
            receiver.close()
            sender.close()

    @contextmanager
    def default_handling(self) -> Iterator[None]:
        """Let signals end the command at once while the block waits for a person.

        Only within `caught`, which continues afterwards.
        """
        for one, handler in self._previous.items():
            signal.signal(one, handler)
        descriptor = signal.set_wakeup_fd(-1)
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
            for one in _CAUGHT:
                signal.signal(one, self._remember)

    def _listen(self, receiver: socket.socket) -> None:
        while (data := receiver.recv(1)) != _END:
            if (number := data[0]) not in _CAUGHT:
                continue
            self._count += 1
            if self._count >= _SIGNALS_UNTIL_EXIT:
                os._exit(_EXIT_CODE_BASE + number)
            self._first = self._first or number
            self.stop.request()

    def _remember(self, number: int, _: FrameType | None) -> None:
        """Keep the signal from ending the process, and remember it for the main thread."""
        self._first = self._first or number


def stoppable(command: Command) -> Command:
    """Catch signals while a command runs; the command gets them as its argument `signals`.

    They are caught even during its imports. An error after a signal is reported, and the exit code
    is that of the signal. An unexpected exception takes precedence over both.
    """

    @wraps(command)
    def run_stoppable(**arguments: object) -> int:
        from provisioner.errors.exceptions import ProvisionError

        context = click.get_current_context()
        signals = Signals()
        with signals.caught():
            try:
                return command(signals=signals, **arguments)
            except ProvisionError as error:
                if signals.exit_code is None:
                    raise
                from provisioner.cli.console import report_error

                area_of(context).close()
                report_error(error, context.obj)
                return signals.exit_code

    return run_stoppable
