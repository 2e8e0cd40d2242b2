"""Markdown pages that always fit where they are shown: rows that do not fit are counted instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from provisioner.errors.pluralize import pluralize
from provisioner.render.escape import escape, inline_code, truncate
from provisioner.render.text import describe_annotations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from provisioner.errors.failure import Failure
    from provisioner.errors.problem import Problem
    from provisioner.model.key import Annotations
    from provisioner.render.report import ReportInput

MAX_PAGE_BYTES = 64_000
"""Bytes of a page. A comment on GitHub holds 65 536 characters; the rest is for other text."""

_MAX_NAME = 100
"""Characters of a name in one cell."""

_MAX_MESSAGE = 400
"""Characters of a message in one cell."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Table(Generic[_Item]):
    """One table of a page.

    Attributes:
        title: the heading above the table, or empty.
        noun: the noun for one row.
        head: the column headings.
        items: one for each row.
        cells: returns the cells of a row; most rows of a large run are never shown.
    """

    title: str
    noun: str
    head: tuple[str, ...]
    items: Sequence[_Item]
    cells: Callable[[_Item], tuple[str, ...]]

    def lines(self, max_bytes: int) -> tuple[list[str], int]:
        """Return the lines with the rows that fit, and the bytes that are left."""
        if not self.items:
            return [], max_bytes
        rows, _ = take_fitting(map(row, map(self.cells, self.items)), max_bytes)
        lines = ["", f"### {self.title}"] if self.title else []
        if rows:
            lines += ["", row(self.head), "|---" * len(self.head) + "|", *rows]
        if omitted := len(self.items) - len(rows):
            noun = f"more {self.noun}" if rows else self.noun
            lines += ["", f"… and {pluralize(omitted, noun)}, not shown here."]
        return lines, max_bytes - size_of(rows)


def row(cells: Iterable[str]) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def take_fitting(lines: Iterable[str], max_bytes: int) -> tuple[list[str], int]:
    """Return the first lines that fit into `max_bytes`, and the bytes for lines after them.

    None are left if a line did not fit: what follows it is less important.
    """
    fitting: list[str] = []
    for line in lines:
        size = size_of([line])
        if size > max_bytes:
            return fitting, 0
        fitting.append(line)
        max_bytes -= size
    return fitting, max_bytes


def size_of(lines: Iterable[str]) -> int:
    """Return the bytes of lines."""
    return sum(len(line.encode()) + 1 for line in lines)


def name_cell(text: str) -> str:
    """Return the cell of a name."""
    return inline_code(truncate(text, _MAX_NAME))


def key_cell(name: str, annotations: Annotations | None) -> str:
    """Return the cell of a key: its name, and below it what its manifest says about it."""
    about = describe_annotations(annotations)
    return f"{name_cell(name)}<br>{message_cell(about)}" if about else name_cell(name)


def message_cell(text: str) -> str:
    """Return the cell of a message."""
    return escape(truncate(text, _MAX_MESSAGE))


def failure_cells(failure: Failure) -> tuple[str, str]:
    """Return the cells of a failure: its code and its text."""
    return inline_code(failure.code), message_cell(failure.text)


def problems_markdown(report: ReportInput) -> str:
    """Return the page of the problems and warnings of manifests."""
    count = len(report.problems)
    page = [
        f"## {pluralize(count, 'problem')}; nothing was sent."
        if count
        else f"## {pluralize(len(report.files), 'file')}, no problems."
    ]
    for problems, noun in ((report.problems, "problem"), (report.warnings, "warning")):
        table = Table("", noun, ("position", "code", noun), problems, _problem_cells)
        page += table.lines(MAX_PAGE_BYTES - size_of(page))[0]
    return "\n".join(page) + "\n"


def _problem_cells(problem: Problem) -> tuple[str, ...]:
    return name_cell(str(problem.place)), inline_code(problem.code), message_cell(problem.message)
