"""Markdown, for a comment or the summary of a pipeline's job, or for an audit in a wiki.

The page of an audit always fits into a step summary. What does not fit is counted instead: first
keys without a note, then keys with one, then the names of missing keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.audit.key_audit import FleetAudit
from provisioner.errors.pluralize import pluralize
from provisioner.execution import RunResult
from provisioner.plan import Plan, Unobserved
from provisioner.render.audit.rows import NOTE_MEANINGS, describe_key, note_label, summary_parts
from provisioner.render.escape import escape, inline_code, truncate
from provisioner.render.markdown import (
    key_cell,
    name_cell,
    problems_markdown,
    row,
    size_of,
    take_fitting,
)
from provisioner.render.outcome.markdown import plan_markdown, result_markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from provisioner.audit.key_audit import EnvironmentAudit, KeyAudit
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette

_MAX_AUDIT_BYTES = 960_000
"""Bytes of the page of an audit. A step summary on GitHub holds 1 MiB; the rest is for others."""

_ENVIRONMENT_OVERHEAD = 1_200
"""Bytes of an environment without its rows: headings, table heads, counts of omitted rows."""

_TABLE_HEAD = (
    "| | name | age | expires | left | role | rotation | delivered | notes | id |",
    "|---|---|---:|---|---:|---|---|---|---|---|",
)


def render(report: ReportInput, _: Palette) -> str:
    """Return the outcome of a command, or the problems of the manifests if there is none."""
    match report.outcome:
        case Plan() as plan:
            return plan_markdown(plan, report.refusal)
        case RunResult() as result:
            return result_markdown(result, report.refusal)
        case FleetAudit() as audit:
            return audit_markdown(audit)
        case None:
            return problems_markdown(report)
        case other:
            assert_never(other)


def audit_markdown(audit: FleetAudit) -> str:
    """Return one table for each environment; keys without a note are collapsed."""
    lines = ["# API keys", "", f"{', '.join(summary_parts(audit))}."]
    notes = [note for note in NOTE_MEANINGS if audit.notes[note]]
    closing = ["", "## Notes", ""] if notes else []
    closing += [f"- **{note_label(note)}**: {NOTE_MEANINGS[note]}" for note in notes]
    shown = audit.environments[: _MAX_AUDIT_BYTES * 9 // 10 // _ENVIRONMENT_OVERHEAD]
    free = _MAX_AUDIT_BYTES - size_of([*lines, *closing]) - _ENVIRONMENT_OVERHEAD * (len(shown) + 1)
    observed = [one for one in shown if not isinstance(one, Unobserved)]
    fitting: dict[str, list[list[str]]] = {one.environment: [] for one in observed}
    for lines_of in _LINES_BY_IMPORTANCE:
        for one in observed:
            fits, free = take_fitting(lines_of(one), free)
            fitting[one.environment].append(fits)
    for part in shown:
        lines += ["", f"## {escape(truncate(part.environment, 100))}", ""]
        if isinstance(part, Unobserved):
            message = escape(truncate(part.failure.text, 200))
            lines.append(f"**Not reached**, {escape(part.failure.code)}: {message}")
        else:
            lines += _environment(part, *fitting[part.environment])
    if more := len(audit.environments) - len(shown):
        lines += ["", f"… and {pluralize(more, 'more environment')}, not shown here."]
    return "\n".join([*lines, *closing]) + "\n"


def _environment(
    one: EnvironmentAudit, missing: list[str], with_notes: list[str], without_notes: list[str]
) -> Iterator[str]:
    keys, url = pluralize(len(one.keys), "key"), escape(truncate(one.url, 100))
    yield f"{keys}, {one.due} due, {url}, {one.generation}."
    if one.missing:
        more = len(one.missing) - len(missing)
        names = " ".join([*missing, f"{more} more" if more else ""]).rstrip(" ,")
        yield ""
        yield f"**Missing**: {names}."
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


def _row(key: KeyAudit) -> str:
    name, age, expires, left, role, rotation, delivered, id_, notes = describe_key(key)
    return row(
        (
            "**!**" if key.due else "",
            key_cell(name, key.annotations),
            age,
            expires,
            left,
            escape(truncate(role, 100)),
            rotation,
            delivered,
            notes,
            inline_code(id_),
        )
    )


_LINES_BY_IMPORTANCE: tuple[Callable[[EnvironmentAudit], Iterable[str]], ...] = (
    lambda one: (f"{name_cell(name)}," for name in one.missing),
    lambda one: (_row(key) for key in one.keys if key.notes),
    lambda one: (_row(key) for key in one.keys if not key.notes),
)
"""The lines of an environment: the names of missing keys, and rows with and without notes."""
