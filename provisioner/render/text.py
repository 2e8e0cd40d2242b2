"""Text for people: coloured and aligned, with unprintable characters escaped.

Names come from servers and files, so unprintable characters in them are escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from provisioner.errors.pluralize import pluralize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from provisioner.errors.failure import Failure
    from provisioner.errors.problem import Problem
    from provisioner.model.key import Annotations

_MAX_CELL_WIDTH = 60
_MAX_ANNOTATION_WIDTH = 40

Tone = Literal["good", "change", "loss", "warn", "bad", "dim", "strong"]
"""The meaning of a colour: a gain, a change, a loss that is wanted, something to look at, a failure
or a refusal, what is not important, and what is."""

_COLOURS: Mapping[Tone, int] = {
    "good": 32,
    "change": 36,
    "loss": 35,
    "warn": 33,
    "bad": 31,
    "dim": 2,
    "strong": 1,
}
"""The parameter of the escape sequence of each tone."""


class Palette(NamedTuple):
    """The colours of a terminal, or none."""

    coloured: bool

    def paint(self, tone: Tone, text: str) -> str:
        """Return the text in a colour of this palette."""
        return f"\x1b[{_COLOURS[tone]}m{text}\x1b[0m" if self.coloured else text


PLAIN, COLOUR = Palette(coloured=False), Palette(coloured=True)


def visible(text: str) -> str:
    """Return the text with unprintable characters escaped, so that it cannot control a terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def describe_annotations(annotations: Annotations | None) -> str:
    """Return what a manifest says about a key, on one line; empty if it says nothing.

    `Nightly export (payments, OPS-7)`: the description, then the owner and the ticket.
    """
    if annotations is None:
        return ""
    description = " ".join((annotations.description or "").split())
    others = ", ".join(filter(None, (annotations.owner, annotations.ticket)))
    if not description or not others:
        return description or others
    return f"{description} ({others})"


def annotation_suffix(annotations: Annotations | None, palette: Palette) -> str:
    """Return what a manifest says about a key, for the end of its line; at most 40 characters."""
    text = visible(describe_annotations(annotations))
    if len(text) > _MAX_ANNOTATION_WIDTH:
        text = f"{text[: _MAX_ANNOTATION_WIDTH - 1]}…"
    return f"  {palette.paint('dim', text)}" if text else ""


def heading(environment: str, url: str, generation: str | None, palette: Palette) -> str:
    """Return the line above the rows of an environment."""
    parts = (palette.paint("strong", environment), visible(url), generation)
    return "  ".join(filter(None, parts))


def failure_line(failure: Failure, palette: Palette) -> str:
    """Return the indented line that says why an environment or an action failed."""
    return palette.paint("bad", f"    {failure.code}: {visible(failure.text)}")


def problems_text(problems: Sequence[Problem], palette: Palette) -> str:
    """Return one line for each problem, as compilers print them, and their count."""
    lines = [
        f"{palette.paint('strong', visible(str(problem.place)))}: "
        f"{palette.paint('bad', problem.code)}: {visible(problem.message)}"
        for problem in problems
    ]
    return "\n".join([*lines, f"{pluralize(len(lines), 'problem')}; nothing was sent."]) + "\n"


def align_columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the rows with padded columns; a very long cell does not widen its column."""
    widths = [min(_MAX_CELL_WIDTH, max(map(len, column))) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
