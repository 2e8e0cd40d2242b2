"""The report as Markdown, for the summary of a pipeline's job or a wiki.

A page is never longer than such a summary may be. What does not fit is counted: first the keys
without a note go, then those with one, then the names of missing keys.
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
"""Bytes of a page. The summary of a step on GitHub has 1 MiB; the rest is for what else it says."""

_ENVIRONMENT_OVERHEAD = 1_200
"""Bytes of an environment beside its rows: headings, heads of tables, lines that count the rest."""

_MAX_CELL = 100
"""Characters of foreign text in one cell."""

_TABLE_HEAD = (
    "| | name | age | ends | left | role | rotates | token | notes | id |",
    "|---|---|---:|---|---:|---|---|---|---|---|",
)


def audit_markdown(audit: FleetAudit) -> str:
    """A table for each environment of the keys with a note; those without are folded away."""
    top = ["# API keys", "", f"{', '.join(summary_parts(audit))}."]
    found = [note for note in NOTE_MEANINGS if audit.notes[note]]
    closing = ["", "## Notes", ""] if found else []
    closing += [f"- **{note_label(note)}**: {NOTE_MEANINGS[note]}" for note in found]
    parts = audit.environments
    shown = parts[: MAX_PAGE_BYTES * 9 // 10 // _ENVIRONMENT_OVERHEAD]
    left = MAX_PAGE_BYTES - _size([*top, *closing]) - _ENVIRONMENT_OVERHEAD * (len(shown) + 1)
    missing: dict[str, list[str]] = {}
    noted: dict[str, list[str]] = {}
    calm: dict[str, list[str]] = {}
    observed = [one for one in shown if not isinstance(one, Unobserved)]
    for one in observed:
        missing[one.environment], left = _take_fitting(
            (inline_code(_truncate_cell(name)) for name in one.missing), left
        )
    for one in observed:
        noted[one.environment], left = _take_fitting(
            _rows(key for key in one.keys if key.notes), left
        )
    for one in observed:
        rows = _rows(key for key in one.keys if not key.notes)
        calm[one.environment], left = _take_fitting(rows, left)
    lines = top
    for part in shown:
        lines += ["", f"## {escape(_truncate_cell(part.environment))}", ""]
        if isinstance(part, Unobserved):
            message = escape(truncate(part.failure.message, 200))
            lines.append(f"**Not reached**, {escape(part.failure.code)}: {message}")
        else:
            name = part.environment
            lines += _environment(part, missing[name], noted[name], calm[name])
    if more := len(parts) - len(shown):
        lines += ["", f"… and {pluralize(more, 'more environment')}, not shown here."]
    return "\n".join([*lines, *closing]) + "\n"


def _environment(
    one: EnvironmentAudit, missing: list[str], noted: list[str], calm: list[str]
) -> Iterator[str]:
    keys = pluralize(len(one.keys), "key")
    yield f"{keys}, {one.due} due, {escape(_truncate_cell(one.url))}, {one.generation}."
    if one.missing:
        more = len(one.missing) - len(missing)
        yield ""
        yield f"**Missing**: {', '.join([*missing, *([f'{more} more'] if more else [])])}."
    with_note = sum(bool(key.notes) for key in one.keys)
    if with_note:
        yield ""
        yield from _table(noted, with_note)
    without = len(one.keys) - with_note
    if without:
        yield ""
        yield f"<details><summary>{pluralize(without, 'key')} without a note</summary>"
        yield ""
        yield from _table(calm, without)
        yield ""
        yield "</details>"


def _table(rows: list[str], of: int) -> Iterator[str]:
    """Yield a table of the rows that are shown, and how many are not."""
    if rows:
        yield from _TABLE_HEAD
        yield from rows
    if cut := of - len(rows):
        if rows:
            yield ""
        yield f"… and {pluralize(cut, 'more key' if rows else 'key')}, not shown here."


def _take_fitting(texts: Iterable[str], most: int) -> tuple[list[str], int]:
    """Return the first texts that take no more than so many bytes, and how many are left then."""
    fitting: list[str] = []
    for text in texts:
        size = _size([text]) + 1
        if size > most:
            return fitting, 0
        fitting.append(text)
        most -= size
    return fitting, most


def _size(lines: Iterable[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def _truncate_cell(text: str) -> str:
    return truncate(text, _MAX_CELL)


def _rows(keys: Iterable[KeyAudit]) -> Iterator[str]:
    for key in keys:
        cells = (
            "**!**" if key.due else "",
            inline_code(_truncate_cell(key.name)),
            f"{key.age} d",
            format_date(key.expires_at),
            days_left(key),
            escape(_truncate_cell(key.role or "-")),
            "-" if key.rotation is None else format_date(key.rotation),
            "-" if key.delivery == "none" else key.delivery,
            ", ".join(map(note_label, key.notes)),
            inline_code(key.id),
        )
        yield f"| {' | '.join(cells)} |"
