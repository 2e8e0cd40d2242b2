"""The layout of a terminal: views and messages, laid out for its width.

Nothing is cut off. Text is divided between words only, and a name that is wider than the terminal
after its hyphens and dots. An address or a path that is wider stays in one piece, which the
terminal itself wraps and copies as one.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, TextIO

from provisioner.cli.live_area import moves_cursor
from provisioner.render.text import visible
from provisioner.render.view import Column, Line, Row, Table
from provisioner.secret import MIN_DATA_LENGTH, masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from provisioner.render.text import Palette, Tone
    from provisioner.render.view import Section, View

_NAME_PARTS = re.compile(r"[^-._/:@ ]*[-._/:@ ]*")
"""The parts of a name, each with the signs after it."""

_BREAK = re.compile(r"(?<![0-9]) | (?!(?:d|h|min|s)\b)")
"""A space at which a line may end: not between a number and its unit, such as in `0.6 s`."""

_DEFAULT_WIDTH = 80

_MAX_PROSE_WIDTH = 100
"""Longer lines of text are hard to read."""

_MARGIN = 4
"""The width of the indentation, the symbol and the space before a row."""

_DEEP = 6
"""The indentation of the lines below a row."""

_GAP = 2
"""Spaces between columns."""

_MIN_WRAPPED = 24
"""A column that wraps is not narrower than this, unless its cells are."""

_LONG = 10
"""Of this many cells, one may be wider than its column."""

_MUCH_LONGER = 1.5
"""A cell counts as long if it is this many times as wide as the usual ones."""

_FEW = 4
"""In a table with fewer rows, every cell counts."""


def width_of(stream: TextIO | None) -> int | None:
    """Return the columns of the terminal behind a stream; None if text on it must stay plain.

    It must if the stream is a pipe or a file, or a terminal that does not understand escape
    sequences, which place the columns.
    """
    if stream is None or not moves_cursor(stream):
        return None
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _DEFAULT_WIDTH
    except (OSError, ValueError):
        return _DEFAULT_WIDTH


def lay_out(view: View, width: int, palette: Palette) -> str:
    """Return the text of a view; it is empty if there is nothing to show.

    Args:
        view: the content.
        width: the columns of the terminal.
        palette: the colours.
    """
    if not view.summary:
        return ""
    layouts = _layouts(view, width)
    paragraphs = []
    for calm, group in groupby(view.sections, key=lambda one: one.calm is not None):
        sections = tuple(group)
        if calm:
            paragraphs.append(_calm_lines(sections, width, palette))
            continue
        for section in sections:
            lines = _heading(section, width, palette)
            for block in section.blocks:
                if isinstance(block, Table):
                    lines += _table_lines(block, layouts[block.columns], width, palette)
                else:
                    lines += note_lines(block, width, palette, margin=2)
            paragraphs.append(lines)
    closing = note_lines(Line(view.summary, "strong"), width, palette)
    omitted = dict.fromkeys(label for one in layouts.values() for label in one.omitted)
    if omitted:
        hint = f"Not shown in {width} columns: {', '.join(omitted)}."
        closing = [*note_lines(Line(hint, "dim"), width, palette), *closing]
    return "\n\n".join("\n".join(lines) for lines in [*paragraphs, closing]) + "\n"


def _layouts(view: View, width: int) -> dict[tuple[Column, ...], _Layout]:
    """Return one layout for all tables with the same columns, so that they are aligned."""
    rows: dict[tuple[Column, ...], list[Row]] = {}
    for section in view.sections:
        for block in section.blocks:
            if isinstance(block, Table):
                rows.setdefault(block.columns, []).extend(block.rows)
    return {
        columns: _Layout.fitting(columns, found, width - _MARGIN) for columns, found in rows.items()
    }


def fit(message: str, stream: TextIO | None) -> str:
    """Return a message for people, divided between words if the stream is a terminal.

    Args:
        message: one line.
        stream: the stream to which it will be written.
    """
    width = width_of(stream)
    if width is None:
        return message
    return "\n  ".join(wrap(masked(message), min(width, _MAX_PROSE_WIDTH), width - 2))


def note_lines(line: Line, width: int, palette: Palette, margin: int = 0) -> list[str]:
    """Return the lines of a text that is divided between words.

    Args:
        line: the text.
        width: the columns of the terminal.
        palette: the colours.
        margin: the indentation; the second and later lines are indented further.
    """
    symbol = f"{line.symbol} " if line.symbol else ""
    label = f"{line.label}: " if line.label else ""
    hanging = margin + (len(symbol) or 2 * bool(label))
    room = min(width, _MAX_PROSE_WIDTH) - margin - len(symbol)
    text = visible(masked(f"{label}{line.text}", min_length=MIN_DATA_LENGTH))
    first, *rest = wrap(text, room, room + margin + len(symbol) - hanging)
    head = f"{symbol}{first}"
    lead = len(symbol) + len(label.rstrip())
    if line.tone in {"dim", "strong"} or not lead:
        lead = len(head)
        rest = [_paint(palette, line.tone, one) for one in rest]
    painted = _paint(palette, line.tone, head[:lead]) + head[lead:]
    return [" " * margin + painted, *(" " * hanging + one for one in rest)]


def wrap(text: str, first_width: int, width: int) -> list[str]:
    """Return the lines of a text, divided only at spaces, and never between a number and its unit.

    Args:
        text: the text, which has no control characters.
        first_width: the width of the first line; a wider word is a line of its own.
        width: the width of the other lines.
    """
    if len(text) <= first_width and text.isascii():
        return [text]
    lines: list[str] = []
    line, room, used = "", first_width, 0
    for word in _BREAK.split(text):
        wide = _width(word)
        if line and used + 1 + wide > room:
            lines.append(line)
            line, room, used = word, width, wide
        elif line:
            line, used = f"{line} {word}", used + 1 + wide
        else:
            line, used = word, wide
    return [*lines, line]


class _Cell(NamedTuple):
    text: str
    tone: Tone | None


class _Layout(NamedTuple):
    """The columns of tables, as they fit a terminal.

    Attributes:
        widths: the width of each column that is part of the row, by its index.
        short: the columns whose cells are shortened.
        below: the columns that are moved below their rows.
        omitted: the labels of the columns that are left out, although they have content.
    """

    widths: dict[int, int]
    short: frozenset[int]
    below: tuple[int, ...]
    omitted: tuple[str, ...]

    @classmethod
    def fitting(cls, columns: tuple[Column, ...], rows: Sequence[Row], room: int) -> _Layout:
        """Return the layout that shows as much as possible in the width of `room`."""
        cells = [
            [_clean(row.cells[index], column) for row in rows]
            for index, column in enumerate(columns)
        ]
        filled = {index: texts for index, texts in enumerate(cells) if any(texts)}
        sizes, short = _select(columns, filled, room)
        gone = [index for index in filled if index not in sizes]
        return cls(
            _widths(columns, filled, sizes, room),
            short,
            tuple(index for index in gone if columns[index].narrow == "below"),
            tuple(columns[index].label for index in gone if columns[index].narrow == "omit"),
        )


class _Size(NamedTuple):
    """The least and the most width that a column can use."""

    least: int
    most: int


def _select(
    columns: tuple[Column, ...], cells: Mapping[int, list[str]], room: int
) -> tuple[dict[int, _Size], frozenset[int]]:
    """Return the sizes of the columns that fit, and which of them have shortened cells."""
    sizes = {index: _size(columns[index], texts, room) for index, texts in cells.items()}
    gone: dict[int, _Size] = {}
    short = set()
    movable = [index for index in sizes if columns[index].narrow != "keep"]
    for index in sorted(movable, key=lambda index: columns[index].rank):
        if _free(sizes, room) >= 0:
            break
        column = columns[index]
        gone[index] = sizes.pop(index)
        if column.shorten is not None:
            shortened = _size(column, list(map(column.shorten, cells[index])), room)
            if shortened.least + _GAP <= _free(sizes, room):
                sizes[index] = shortened
                short.add(index)
                del gone[index]
    # A column that is narrow may fit although a more important one did not.
    for index in reversed(tuple(gone)):
        if gone[index].least + _GAP <= _free(sizes, room):
            sizes[index] = gone.pop(index)
    return sizes, frozenset(short)


def _free(sizes: Mapping[int, _Size], room: int) -> int:
    """Return the width that columns of the least width leave; negative if they do not fit."""
    return room - sum(size.least for size in sizes.values()) - _GAP * (len(sizes) - 1)


def _widths(
    columns: tuple[Column, ...],
    cells: Mapping[int, list[str]],
    sizes: Mapping[int, _Size],
    room: int,
) -> dict[int, int]:
    """Return the width of each column: names use what is left first, then columns that wrap."""
    widths, left = {index: sizes[index].least for index in sorted(sizes)}, _free(sizes, room)
    for index, least in tuple(widths.items()):
        if columns[index].strong:
            fitting = (wide for text in cells[index] if (wide := _width(text)) <= least + left)
            widths[index] = max(fitting, default=1)
            left += least - widths[index]
    for index, least in tuple(widths.items()):
        if columns[index].wraps and left > 0:
            widths[index] = min(least + left, sizes[index].most)
            left += least - widths[index]
    return widths


def _size(column: Column, texts: Sequence[str], room: int) -> _Size:
    """Return the least and the most width that a column can use.

    A few long names take a line of their own, and a few long texts more than one line, so they do
    not widen the column of all others.
    """
    widths = sorted(_width(text) for text in texts if text)
    label, most = len(column.label), max(len(column.label), widths[-1])
    if not column.wraps and not column.strong:
        return _Size(most, most)
    long = -(-len(widths) // _LONG) if len(widths) >= _FEW else 0
    least = max(width for width in widths if width <= _MUCH_LONGER * widths[-1 - long])
    limit = max(_MIN_WRAPPED, room // 3) if column.narrow == "below" else room // 2
    if column.strong and least > limit:
        # A name that does not fit takes a line of its own and needs no room here.
        least = max((width for width in widths if width <= limit), default=0)
    return _Size(max(label, min(least, limit)), most)


def _table_lines(table: Table, layout: _Layout, width: int, palette: Palette) -> list[str]:
    labels = {index: table.columns[index].label.upper() for index in layout.widths}
    head = {index: _Cell(label, "dim") for index, label in labels.items() if label}
    lines = [" " * _MARGIN + _join(layout.widths, head, palette, _MARGIN)] if head else []
    for row in table.rows:
        lines += _row_lines(row, table.columns, layout, width, palette)
    return lines


def _row_lines(
    row: Row, columns: tuple[Column, ...], layout: _Layout, width: int, palette: Palette
) -> Iterator[str]:
    """Yield the lines of a row: its cells, what is moved below it, and its own lines below."""
    below = set(layout.below)
    parts: dict[int, list[_Cell]] = {}
    for index, room in layout.widths.items():
        column = columns[index]
        text = _clean(row.cells[index], column)
        if column.shorten is not None and index in layout.short:
            text = column.shorten(text)
        lines = wrap(text, room, room) if column.wraps else [text]
        if column.wraps and max(map(_width, lines)) > room:
            below.add(index)
        else:
            parts[index] = [_Cell(line, _tone(row, index, column)) for line in lines]
    start = f"  {_paint(palette, row.tone, row.symbol)} "
    for cells in _lines_of_cells(parts, columns, layout.widths, width - _MARGIN):
        yield start + _join(layout.widths, cells, palette, _MARGIN)
        start = " " * _MARGIN
    for index in sorted(below):
        if row.cells[index]:
            line = Line(row.cells[index], "dim", "", columns[index].label)
            yield from note_lines(line, width, palette, margin=_DEEP)
    for line in row.below:
        yield from note_lines(line, width, palette, margin=_DEEP)


def _lines_of_cells(
    parts: dict[int, list[_Cell]], columns: tuple[Column, ...], widths: dict[int, int], room: int
) -> Iterator[dict[int, _Cell]]:
    """Yield the cells of each line of a row; a name that is too wide ends its line.

    If it does not even fit there, it has the next line to itself.
    """
    name = next((index for index in parts if columns[index].strong), None)
    if name is not None and (wide := _width(parts[name][0].text)) > widths[name]:
        before = {index: cells[0] for index, cells in parts.items() if index < name}
        position = sum(widths[index] + _GAP for index in before)
        if position + wide <= room:
            yield before | {name: parts[name][0]}
        else:
            if before:
                yield before
            text, tone = parts[name][0]
            yield from ({0: _Cell(line, tone)} for line in _wrapped_name(text, room))
        parts = {index: cells for index, cells in parts.items() if index > name and cells[0].text}
    for number in range(max(map(len, parts.values()), default=0)):
        yield {index: cells[number] for index, cells in parts.items() if number < len(cells)}


def _wrapped_name(name: str, room: int) -> list[str]:
    """Return the lines of a name that is wider than the terminal, divided after its signs."""
    lines = [""]
    for part in _NAME_PARTS.findall(name):
        if lines[-1] and _width(lines[-1] + part) > room:
            lines.append("")
        lines[-1] += part
    return lines


def _tone(row: Row, index: int, column: Column) -> Tone | None:
    """Return the colour of a cell: the mark and the first cell have a meaning, names stand out."""
    if row.tone == "dim":
        return "dim"
    if column.strong:
        return "strong"
    return row.tone if index == 0 else None


def _join(
    widths: Mapping[int, int], cells: Mapping[int, _Cell], palette: Palette, margin: int
) -> str:
    """Return the cells of a line, each at the position of its column.

    Terminals disagree about the width of some characters, so the cell after them is put at its
    position instead of being counted there.
    """
    line, position, start, certain = "", 0, 0, True
    for index, width in widths.items():
        if index in cells and (text := cells[index].text):
            line += " " * (start - position)
            if not certain:
                line += f"\x1b[{margin + start + 1}G"
            line += _paint(palette, cells[index].tone, text)
            position, certain = start + _width(text), text.isascii()
        start += width + _GAP
    return line


def _heading(section: Section, width: int, palette: Palette) -> list[str]:
    """Return the name of an environment, with its facts beside it or below it."""
    title, facts = visible(section.title), visible("  ".join(section.facts))
    if _width(title) + _GAP + _width(facts) <= width:
        return [f"{palette.paint('strong', title)}  {facts}".rstrip()]
    below = wrap(facts, width - 2, width - 2)
    return [palette.paint("strong", title), *(f"  {line}" for line in below)]


def _calm_lines(sections: Iterable[Section], width: int, palette: Palette) -> list[str]:
    """Return one line for each environment in which there is nothing to do."""
    rows = [
        (one.title, *(*one.facts, "", "")[:2], f"{one.calm.symbol} {one.calm.text}")
        for one in sections
        if one.calm is not None
    ]
    tones: tuple[Tone | None, ...] = ("strong", None, None, "dim")
    widths = {index: max(_width(visible(row[index])) for row in rows) for index in range(4)}
    for fact in (1, 2):
        if sum(widths.values()) + _GAP * (len(widths) - 1) > width:
            del widths[fact]
    return [
        _join(
            widths,
            {index: _Cell(visible(row[index]), tones[index]) for index in widths},
            palette,
            margin=0,
        )
        for row in rows
    ]


def _clean(text: str, column: Column) -> str:
    """Return the text of a cell without control characters.

    A secret is masked before a line break can divide it.
    """
    return visible(masked(text, min_length=MIN_DATA_LENGTH) if column.wraps else text)


def _paint(palette: Palette, tone: Tone | None, text: str) -> str:
    return palette.paint(tone, text) if tone and text else text


def _width(text: str) -> int:
    """Return the columns that a text takes; the most if terminals disagree about it."""
    return len(text) if text.isascii() else _wide(text)


@lru_cache(maxsize=2**15)
def _wide(text: str) -> int:
    # Importing it takes longer than most layouts.
    from rich.cells import cell_len, get_character_cell_size

    return max(cell_len(text), sum(map(get_character_cell_size, text)))
