"""Text for people, with colours on a terminal.

An audit is one table for each environment, the keys that expire first on top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.audit.key_audit import FleetAudit
from provisioner.execution import RunResult
from provisioner.plan import Plan, Unobserved
from provisioner.render.audit.rows import describe_key, summary_parts
from provisioner.render.outcome.text import plan_text, result_text, upcoming_lines
from provisioner.render.text import (
    align_columns,
    annotation_suffix,
    failure_line,
    heading,
    problems_text,
    visible,
)
from provisioner.render.times import UTC_TIMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.audit.key_audit import EnvironmentAudit
    from provisioner.render.audit.rows import KeyRow
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette
    from provisioner.render.times import Times

_HEAD = ("NAME", "AGE", "EXPIRES", "LEFT", "ROLE", "ROTATION", "DELIVERED", "ID", "NOTES")


def render(report: ReportInput, palette: Palette) -> str:
    """Return the outcome of a command, or the problems of the manifests if there is none."""
    refusal = report.refusal
    reason = f"{failure_line(refusal, palette)}\n" if refusal else ""
    match report.outcome:
        case Plan() as plan:
            return plan_text(plan, palette, unmanaged=report.unmanaged) + reason
        case RunResult() as result:
            refused, unmanaged = refusal is not None, report.unmanaged
            return result_text(result, palette, refused=refused, unmanaged=unmanaged) + reason
        case FleetAudit() as audit:
            return audit_text(audit, palette, quiet=report.quiet)
        case None:
            problems = report.problems
            return problems_text(problems, palette) if problems else f"{report.summary}\n"
        case other:
            assert_never(other)


def audit_text(
    audit: FleetAudit, palette: Palette, times: Times = UTC_TIMES, *, quiet: bool
) -> str:
    """Return a table for each environment, and a summary line.

    Args:
        audit: the audit.
        palette: the colours.
        times: the way to write times.
        quiet: whether to omit keys without a note; when no key has one, the text is empty.
    """
    parts = [
        "\n".join(_environment(one, palette, times, quiet=quiet))
        for one in audit.environments
        if not quiet or isinstance(one, Unobserved) or one.missing or one.notes
    ]
    if quiet and not parts:
        return ""
    summary = palette.paint("strong", f"Report: {', '.join(summary_parts(audit))}.")
    return "\n\n".join([*parts, summary]) + "\n"


def _environment(
    one: EnvironmentAudit | Unobserved, palette: Palette, times: Times, *, quiet: bool
) -> Iterator[str]:
    if isinstance(one, Unobserved):
        yield heading(one.environment, one.url, None, palette)
        yield failure_line(one.failure, palette)
        return
    yield heading(one.environment, one.url, one.generation, palette)
    for name in one.missing:
        yield palette.paint("bad", f"  ! {visible(name)}  missing: declared, but not live")
    keys = [key for key in one.keys if key.notes or not quiet]
    if keys:
        rows = (_cells(describe_key(key, times)) for key in keys)
        head, *lines = align_columns([_HEAD, *rows])
        yield palette.paint("dim", f"    {head}")
        for key, line in zip(keys, lines, strict=True):
            if key.due:
                marked = palette.paint("bad", f"  ! {line}")
            else:
                marked = palette.paint("warn", f"  ? {line}") if key.notes else f"  = {line}"
            yield marked + annotation_suffix(key.annotations, palette)
    elif not one.missing:
        yield palette.paint("dim", "  = no live keys")
    yield from upcoming_lines(one.upcoming, palette)


def _cells(row: KeyRow) -> tuple[str, ...]:
    """Return the cells of a key, in the order of the columns."""
    cells = (row.name, row.age, row.expires, row.left, row.role, row.rotation, row.delivered)
    return tuple(map(visible, (*cells, row.id, row.notes)))
