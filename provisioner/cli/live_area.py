"""The lines at the bottom of a terminal that change while a command works.

It imports nothing that takes time, so that something moves while everything else is imported. The
cursor is never hidden and always stands below the lines, so that a killed process leaves nothing
behind that would disturb the next command.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import click

    Content = Callable[["Size"], list[str]]

_INTERVAL = 0.1
"""Seconds between two frames."""

SPINNER_WIDTH = 2
"""Columns that the spinner and a space take in front of the last line."""

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ASCII_SPINNER = "|/-\\"
_KEY = "provisioner.live_area"
_USUAL_SIZE = (80, 24)
_NO_ESCAPES = ("", "dumb", "unknown")
"""Values of TERM for terminals on which the cursor cannot move up."""


class Size(NamedTuple):
    """The size of a terminal, in columns and lines that may be used."""

    columns: int
    lines: int


class LiveArea:
    """Lines that are drawn again and again until the command ends, and then disappear.

    A thread of its own draws them. All other output has to go through `paused`.

    Args:
        stream: the terminal; None for an area that is never seen.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._content: Content | None = None
        self._height = 0
        self._frames = 0
        self._closed = threading.Event()
        self._drawer: threading.Thread | None = None
        encoding = ((stream and stream.encoding) or "").lower()
        self._spinner = _SPINNER if encoding.startswith("utf") else _ASCII_SPINNER

    @property
    def visible(self) -> bool:
        """Return whether there is a terminal to draw on."""
        return self._stream is not None

    def show(self, content: Content) -> None:
        """Draw this content from now on, at once and ten times a second.

        Args:
            content: returns the lines for a size; the last one gets the spinner in front of it.
        """
        if self._stream is None:
            return
        with self._lock:
            self._content = content
            self._draw()
            if self._drawer is None:
                self._drawer = threading.Thread(target=self._draw_often, daemon=True)
                self._drawer.start()

    def hide(self) -> None:
        """Remove the lines, until other content is shown."""
        with self._lock:
            self._content = None
            self._clear()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remove the lines while the block writes to the terminal."""
        if self._stream is None:
            yield
            return
        with self._lock:
            self._clear()
            yield

    def close(self) -> None:
        """Remove the lines for good."""
        self._closed.set()
        self.hide()

    def _draw_often(self) -> None:
        while not self._closed.wait(_INTERVAL):
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        if self._content is None or self._closed.is_set():
            return
        columns, lines = self._size()
        # One column and some lines less, so that nothing wraps or scrolls.
        *others, last = self._content(Size(max(1, columns - 1), max(1, lines - 3)))
        spinner = self._spinner[self._frames % len(self._spinner)]
        self._frames += 1
        shown = [line[: columns - 1] for line in (*others, f"{spinner} {last}")]
        self._write(self._erasure() + "".join(f"{line}\n" for line in shown))
        self._height = len(shown)

    def _size(self) -> tuple[int, int]:
        """Return the columns and lines of the terminal, which may not be that of stdout."""
        with suppress(OSError, ValueError):
            assert self._stream is not None  # noqa: S101 - nothing is drawn without one
            columns, lines = os.get_terminal_size(self._stream.fileno())
            if columns and lines:
                return columns, lines
        return _USUAL_SIZE

    def _clear(self) -> None:
        if self._height:
            self._write(self._erasure())
            self._height = 0

    def _erasure(self) -> str:
        """Return what moves the cursor to the first line and removes all from there."""
        return f"\r\x1b[{self._height}A\x1b[J" if self._height else ""

    def _write(self, text: str) -> None:
        # A terminal that has gone must not end the run.
        with suppress(OSError, ValueError):
            assert self._stream is not None  # noqa: S101 - nothing is shown without one
            self._stream.write(text)
            self._stream.flush()


@contextmanager
def opened_area(context: click.Context) -> Iterator[None]:
    """Show that a command starts, in an area that `area_of` finds again, and close it at the end.

    Only commands that read manifests take long; the area of others is never seen.
    """
    options = context.params
    wanted = (
        "manifests" in options
        and not options.get("quiet", True)
        and options["log_format"] == "text"
        and moves_cursor(sys.stderr)
    )
    area = LiveArea(sys.stderr if wanted else None)
    context.meta[_KEY] = area
    started = time.monotonic()

    def starting(_: Size) -> list[str]:
        seconds = int(time.monotonic() - started)
        return [f"loading manifests{f' for {seconds} s' if seconds else ''}"]

    area.show(starting)
    try:
        yield
    finally:
        area.close()


def area_of(context: click.Context) -> LiveArea:
    """Return the area of a command; one that is never seen if it has none."""
    found = context.meta.get(_KEY)
    return found if isinstance(found, LiveArea) else LiveArea(None)


def moves_cursor(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal that understands escape sequences."""
    if stream is None or not stream.isatty():
        return False
    # The console of Windows may show escape sequences as text.
    return os.name != "nt" and os.environ.get("TERM", "") not in _NO_ESCAPES
