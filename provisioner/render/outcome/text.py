"""Plans and results as text: aligned rows, marked `+ ~ > - =`."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.errors.pluralize import pluralize
from provisioner.execution import Executed
from provisioner.plan import Unobserved
from provisioner.render.outcome.rows import (
    describe_action,
    describe_sinks,
    finding_kind,
    plan_summary_line,
    result_summary_line,
    rows_of,
)
from provisioner.render.text import align_columns, failure_line, heading, visible
from provisioner.render.times import UTC_TIMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.execution import RunResult
    from provisioner.plan import Action, Plan, Planned
    from provisioner.render.outcome.rows import Row
    from provisioner.render.text import Palette
    from provisioner.render.times import Times


def plan_text(plan: Plan, palette: Palette, times: Times = UTC_TIMES) -> str:
    """Return the actions that each environment needs, and a summary line."""
    return _text(plan.environments, plan_summary_line(plan), palette, times, keep="to keep")


def result_text(
    result: RunResult, palette: Palette, times: Times = UTC_TIMES, *, refused: bool = False
) -> str:
    """Return the outcome of each action by environment, and a summary line."""
    summary = result_summary_line(result, refused=refused)
    return _text(result.environments, summary, palette, times, keep="kept")


def _text(
    parts: Iterable[Planned | Executed | Unobserved],
    summary: str,
    palette: Palette,
    times: Times,
    *,
    keep: str,
) -> str:
    paragraphs = ["\n".join(_lines(part, palette, times, keep=keep)) for part in parts]
    return "\n\n".join([*paragraphs, palette.paint("strong", summary)]) + "\n"


def _lines(
    part: Planned | Executed | Unobserved, palette: Palette, times: Times, *, keep: str
) -> Iterator[str]:
    if isinstance(part, Unobserved):
        yield heading(part.environment, part.url, None, palette)
        yield failure_line(part.failure, palette)
        return
    planned = part.planned if isinstance(part, Executed) else part
    yield heading(planned.environment, planned.url, planned.generation, palette)
    rows = tuple(rows_of(part))
    any_sinks = any(row.action.sinks for row in rows)
    lines = align_columns([_cells(row.action, times, any_sinks=any_sinks) for row in rows])
    for row, line in zip(rows, lines, strict=True):
        yield from _row_lines(row, line, palette)
    if planned.kept:
        yield palette.paint("dim", f"  = {pluralize(len(planned.kept), 'key')} {keep}")
    for finding in planned.findings:
        text = f"{finding_kind(finding)}  {visible(finding.name)}  {visible(finding.message)}"
        yield palette.paint("warn", f"  ? {text}")
    if not planned.actions and not planned.kept and not planned.findings:
        yield palette.paint("dim", "  = nothing to do")


def _row_lines(row: Row, line: str, palette: Palette) -> Iterator[str]:
    match row.status:
        case "planned" | "done":
            description = describe_action(row.action)
            yield palette.paint(description.tone, f"  {description.symbol} {line}")
        case "created by another run":
            yield palette.paint("dim", f"  = {line}  created by another run")
        case "failed":
            yield palette.paint("bad", f"  ! {line}")
            if row.failure is not None:
                yield failure_line(row.failure, palette)
        case "skipped":
            yield palette.paint("dim", f"    {line}  skipped")
        case _:
            assert_never(row.status)


def _cells(action: Action, times: Times, *, any_sinks: bool) -> tuple[str, ...]:
    sinks = (visible(describe_sinks(action)),) if any_sinks else ()
    place = action.place
    return (
        visible(action.name),
        visible(describe_action(action).details),
        f"expires {times.exact(action.expires_at)}",
        f"role {visible(action.role)}" if action.role else "no role",
        *sinks,
        f"{visible(place.file)}:{place.line}" if place else "in no manifest",
    )
