"""What a command shows on a terminal, as values; `cli/terminal.py` lays them out for its width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.errors.failure import Failure
    from provisioner.render.text import Tone


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        label: its head; empty if the cells explain themselves.
        narrow: what happens to it where the table is too wide. It is kept, or it is moved below
            its row with its label, or it is omitted.
        rank: its importance; the lowest is moved or omitted first.
        wraps: whether its cells may be divided between words.
        strong: whether its cells identify the row. Such a cell may take a line of its own.
        shorten: returns a shorter cell, which is tried before the column is moved or omitted.
    """

    label: str
    narrow: Literal["keep", "below", "omit"] = "keep"
    rank: int = 0
    wraps: bool = False
    strong: bool = False
    shorten: Callable[[str], str] | None = None


class Line(NamedTuple):
    """A line of text, which may be divided between words.

    Attributes:
        tone: the colour of the symbol and the label; of the whole line if it has neither.
        symbol: the sign before it.
        label: its first word, for example the code of a failure.
    """

    text: str
    tone: Tone | None = None
    symbol: str = ""
    label: str = ""


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        symbol: the sign before it.
        tone: the colour of the symbol and of the first cell; of the whole row if it is `dim`.
        cells: one for each column; empty if there is nothing to say.
        below: the lines that belong to it.
    """

    symbol: str
    tone: Tone | None
    cells: tuple[str, ...]
    below: tuple[Line, ...] = ()


class Table(NamedTuple):
    """Rows under labelled columns; tables of equal columns are aligned with each other."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


class Section(NamedTuple):
    """The part of one environment.

    Attributes:
        title: the name of the environment.
        facts: its address and generation, as far as they are known.
    """

    title: str
    facts: tuple[str, ...]
    blocks: tuple[Table | Line, ...]

    @property
    def calm(self) -> Line | None:
        """Return its only line if nothing is to be done; None otherwise."""
        match self.blocks:
            case (Line(symbol="=") as line,):
                return line
            case _:
                return None


class View(NamedTuple):
    """Everything that a command shows.

    Attributes:
        summary: a sentence that needs no context; empty if nothing is shown.
    """

    sections: tuple[Section, ...]
    summary: str


def failure_note(failure: Failure, symbol: str = "") -> Line:
    """Return the line that says why an environment or an action failed, and what to do."""
    return Line(failure.text, "bad", symbol, failure.code)


def enumerate_words(parts: list[str]) -> str:
    """Return parts of a sentence as `a`, `a and b` or `a, b and c`."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
