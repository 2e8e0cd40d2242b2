"""The audit as Markdown, for the summary of a pipeline's job or a wiki.

A page always fits into a step summary. What does not fit is counted instead: first keys without a
note, then keys with one, then the names of missing keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.pluralize import pluralize
from provisioner.plan import Unobserved
from provisioner.render.audit.labels import (
    NOTE_MEANINGS,
    days_left,
    format_date,
    note_label,
    summary_parts,
)
from provisioner.render.escape import escape, inline_code, truncate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.audit.key_audit import EnvironmentAudit, FleetAudit, KeyAudit

MAX_PAGE_BYTES = 960_000
"""Bytes of a page. A step summary on GitHub holds 1 MiB; the rest is for other text of the step."""

_ENVIRONMENT_OVERHEAD = 1_200
"""Bytes of an environment without its rows: headings, table heads, counts of omitted rows."""

_MAX_CELL = 100
"""Characters of a name in one cell."""

_TABLE_HEAD = (
    "| | name | age | expires | left | role | rotation | delivered | notes | id |",
    "|---|---|---:|---|---:|---|---|---|---|---|",
)


def audit_markdown(audit: FleetAudit) -> str:
    """Return one table for each environment; keys without a note are collapsed."""
    opening = ["# API keys", "", f"{', '.join(summary_parts(audit))}."]
    notes = [note for note in NOTE_MEANINGS if audit.notes[note]]
    closing = ["", "## Notes", ""] if notes else []
    closing += [f"- **{note_label(note)}**: {NOTE_MEANINGS[note]}" for note in notes]
    parts = audit.environments
    shown = parts[: MAX_PAGE_BYTES * 9 // 10 // _ENVIRONMENT_OVERHEAD]
    free = MAX_PAGE_BYTES - _size([*opening, *closing]) - _ENVIRONMENT_OVERHEAD * (len(shown) + 1)
    missing: dict[str, list[str]] = {}
    with_notes: dict[str, list[str]] = {}
    without_notes: dict[str, list[str]] = {}
    observed = [one for one in shown if not isinstance(one, Unobserved)]
    for one in observed:
        names = (inline_code(_truncate_cell(name)) for name in one.missing)
        missing[one.environment], free = _take_fitting(names, free)
    for one in observed:
        rows = _rows(key for key in one.keys if key.notes)
        with_notes[one.environment], free = _take_fitting(rows, free)
    for one in observed:
        rows = _rows(key for key in one.keys if not key.notes)
        without_notes[one.environment], free = _take_fitting(rows, free)
    lines = opening
    for part in shown:
        lines += ["", f"## {escape(_truncate_cell(part.environment))}", ""]
        if isinstance(part, Unobserved):
            message = escape(truncate(part.failure.text, 200))
            lines.append(f"**Not reached**, {escape(part.failure.code)}: {message}")
        else:
            name = part.environment
            lines += _environment(part, missing[name], with_notes[name], without_notes[name])
    if more := len(parts) - len(shown):
        lines += ["", f"… and {pluralize(more, 'more environment')}, not shown here."]
    return "\n".join([*lines, *closing]) + "\n"


def _environment(
    one: EnvironmentAudit, missing: list[str], with_notes: list[str], without_notes: list[str]
) -> Iterator[str]:
    keys = pluralize(len(one.keys), "key")
    yield f"{keys}, {one.due} due, {escape(_truncate_cell(one.url))}, {one.generation}."
    if one.missing:
        more = len(one.missing) - len(missing)
        yield ""
        yield f"**Missing**: {', '.join([*missing, *([f'{more} more'] if more else [])])}."
    noted = sum(bool(key.notes) for key in one.keys)
    if noted:
        yield ""
        yield from _table(with_notes, noted)
    unnoted = len(one.keys) - noted
    if unnoted:
        yield ""
        yield f"<details><summary>{pluralize(unnoted, 'key')} without a note</summary>"
        yield ""
        yield from _table(without_notes, unnoted)
        yield ""
        yield "</details>"


def _table(rows: list[str], total: int) -> Iterator[str]:
    """Yield a table of the rows that fit, and the number of omitted ones."""
    if rows:
        yield from _TABLE_HEAD
        yield from rows
    if omitted := total - len(rows):
        if rows:
            yield ""
        yield f"… and {pluralize(omitted, 'more key' if rows else 'key')}, not shown here."


def _take_fitting(texts: Iterable[str], max_bytes: int) -> tuple[list[str], int]:
    """Return the first texts that fit into `max_bytes`, and the bytes that are left."""
    fitting: list[str] = []
    for text in texts:
        size = _size([text]) + 1
        if size > max_bytes:
            return fitting, 0
        fitting.append(text)
        max_bytes -= size
    return fitting, max_bytes


def _size(lines: Iterable[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def _truncate_cell(text: str) -> str:
    return truncate(text, _MAX_CELL)


def _rows(keys: Iterable[KeyAudit]) -> Iterator[str]:
    for key in keys:
        cells = (
            "**!**" if key.due else "",
            inline_code(_truncate_cell(key.name)),
            f"{key.age_days} d",
            format_date(key.expires_at),
            days_left(key),
            escape(_truncate_cell(key.role or "-")),
            "-" if key.rotation is None else format_date(key.rotation),
            "-" if key.delivery == "none" else key.delivery,
            ", ".join(map(note_label, key.notes)),
            inline_code(key.id),
        )
        yield f"| {' | '.join(cells)} |"
