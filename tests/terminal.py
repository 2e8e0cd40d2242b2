"""A terminal in a test: a real pseudo-terminal, and the screen that it shows.

The screen is drawn by pyte, a terminal emulator, so that columns are where a terminal puts them.
"""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyte

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

SECOND_CELL = "\0"
"""The second cell of a wide character in the lines of a screen."""


def screen_of(written: str, columns: int) -> list[str]:
    """Return the lines of a screen, a character for each cell, without spaces at their ends."""
    lines = written.count("\n") * 3 + 10
    screen = pyte.Screen(columns, lines)
    pyte.Stream(screen).feed(written)
    shown = (
        "".join(screen.buffer[line][column].data or SECOND_CELL for column in range(columns))
        for line in range(lines)
    )
    return "\n".join(line.rstrip() for line in shown).rstrip().splitlines()


class Terminal:
    """A pseudo-terminal of a fixed width.

    Attributes:
        file: the file descriptor for programs.
        written: everything that was written, once it is closed.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._own, self.file = pty.openpty()
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.written = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        data = b""
        while True:
            try:
                data += os.read(self._own, 65536)
            except OSError:  # no program has the terminal open any more
                break
        os.close(self._own)
        self.written = data.decode()

    def close(self) -> None:
        """Close the file, and wait until everything that was written has been read."""
        os.close(self.file)
        self._reader.join()

    @property
    def text(self) -> str:
        """Return the text of the screen."""
        shown = "\n".join(screen_of(self.written, self._columns))
        return shown.replace(SECOND_CELL, "") + "\n"


@contextmanager
def terminal_as_stdout(monkeypatch: pytest.MonkeyPatch, columns: int) -> Iterator[Terminal]:
    """Make a terminal the stdout of this process; its text is complete after the block."""
    terminal = Terminal(columns)
    with (
        monkeypatch.context() as patch,
        open(os.dup(terminal.file), "w", encoding="utf-8") as stdout,  # noqa: PTH123 - a descriptor
    ):
        for variable in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
            patch.delenv(variable, raising=False)
        patch.setenv("TERM", "xterm-256color")
        patch.setattr(sys, "stdout", stdout)
        yield terminal
    terminal.close()
