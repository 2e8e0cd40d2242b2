"""The lines that change, on a real terminal whose screen is rebuilt from what arrives there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import threading
import tty
from typing import TYPE_CHECKING

import pytest

from provisioner.cli.live_area import LiveArea, Size

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARTS = re.compile(r"\x1b\[(\d*)([AJ])|\r|\n|[^\x1b\r\n]")


def screen(output: str) -> list[str]:
    """Return the lines that a terminal shows, the last one being that of the cursor."""
    rows, row, column = [""], 0, 0
    for part in _PARTS.finditer(output):
        match part[0], part[2]:
            case _, "A":
                row -= int(part[1] or 1)
            case _, "J":
                del rows[row + 1 :]
                rows[row] = rows[row][:column]
            case "\r", _:
                column = 0
            case "\n", _:
                row, column = row + 1, 0
                rows += [""] * (row - len(rows) + 1)
            case text, _:
                rows[row] = rows[row][:column].ljust(column) + text + rows[row][column + 1 :]
                column += 1
    assert row == len(rows) - 1
    return rows


class Terminal:
    """A pseudo-terminal, and all that was written to it."""

    def __init__(self, columns: int = 40, lines: int = 10) -> None:
        self._parent, child = pty.openpty()
        tty.setraw(child)
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.stream = os.fdopen(child, "w", encoding="utf-8")
        self.output = ""

    def read(self) -> list[str]:
        """Return the screen, once something was written."""
        self.output += os.read(self._parent, 65536).decode()
        return screen(self.output)

    def close(self) -> None:
        self.stream.close()
        os.close(self._parent)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    one = Terminal()
    yield one
    one.close()


def test_lines_are_drawn_at_once_and_leave_nothing_behind(terminal: Terminal) -> None:
    """The cursor stands below them all the time, and where it was at the end."""
    area = LiveArea(terminal.stream)
    area.show(lambda _: ["one", "two"])
    assert terminal.read() == ["one", "⠋ two", ""]
    area.close()
    assert terminal.read() == [""]
    assert "\x1b[?" not in terminal.output  # nothing that a kill could leave switched off


def test_something_moves_although_nothing_happens(terminal: Terminal) -> None:
    """The spinner turns while the content stays as it is."""
    area = LiveArea(terminal.stream)
    area.show(lambda _: ["two"])
    seen = {terminal.read()[0]}
    while len(seen) < 4:
        seen.add(terminal.read()[0])
    area.close()
    assert {line[1:] for line in seen if line} == {" two"}


def test_other_output_stays_above(terminal: Terminal) -> None:
    """What is written in a pause is not mixed with the lines, however often they are drawn."""
    area = LiveArea(terminal.stream)
    area.show(lambda _: ["one", "two"])

    def write() -> None:
        for number in range(20):
            with area.paused():
                terminal.stream.write(f"line {number}\n")
                terminal.stream.flush()

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    area.close()
    terminal.stream.write("end\n")
    terminal.stream.flush()
    while (shown := terminal.read())[-2:] != ["end", ""]:
        pass
    assert sorted(shown[:-2]) == sorted([f"line {number}" for number in range(20)] * 3)


def test_no_line_wraps_and_no_frame_scrolls(terminal: Terminal) -> None:
    """Content gets the size that it may use, and longer lines are cut."""
    sizes = []

    def content(size: tuple[int, int]) -> list[str]:
        sizes.append(size)
        return ["x" * 100, "y" * 100]

    area = LiveArea(terminal.stream)
    area.show(content)
    assert terminal.read() == ["x" * 39, "⠋ " + "y" * 37, ""]
    area.close()
    assert set(sizes) == {(39, 7)}


def test_a_hidden_area_writes_nothing(terminal: Terminal) -> None:
    """A person who answers a question is not disturbed."""
    area = LiveArea(terminal.stream)
    area.show(lambda _: ["one"])
    assert terminal.read() == ["⠋ one", ""]
    area.hide()
    assert terminal.read() == [""]
    before = terminal.output
    area._draw()
    terminal.stream.write("?")
    terminal.stream.flush()
    assert terminal.read() == ["?"]
    assert terminal.output == f"{before}?"
    area.close()


def test_a_terminal_that_has_gone_does_not_end_the_run() -> None:
    """Errors of the terminal are ignored."""
    terminal = Terminal()
    area = LiveArea(terminal.stream)
    terminal.close()
    asked: list[Size] = []
    area.show(lambda size: asked.append(size) or ["one"])
    with area.paused():
        pass
    area.close()
    assert asked, "nothing was drawn, so no error was met"
