"""Plans and results as text: aligned rows, marked `+ ~ > - =`."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.errors.pluralize import pluralize
from provisioner.execution import Executed
from provisioner.plan import Clean, Unobserved
from provisioner.render.outcome.rows import (
    describe_action,
    describe_sinks,
    finding_kind,
    finding_list,
    plan_summary_line,
    result_summary_line,
    rows_of,
    upcoming_texts,
)
from provisioner.render.text import (
    align_columns,
    annotation_suffix,
    failure_line,
    heading,
    visible,
)
from provisioner.render.times import UTC_TIMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.execution import RunResult
    from provisioner.plan import Action, Plan, Planned, Upcoming
    from provisioner.render.outcome.rows import Row
    from provisioner.render.text import Palette
    from provisioner.render.times import Times


def plan_text(
    plan: Plan, palette: Palette, times: Times = UTC_TIMES, *, unmanaged: bool = False
) -> str:
    """Return the actions that each environment needs, and a summary line.

    Args:
        plan: the plan.
        palette: the colours.
        times: the way to write times.
        unmanaged: whether to list unmanaged keys instead of counting them.
    """
    lines = (
        _lines(part, palette, times, "to keep", unmanaged=unmanaged) for part in plan.environments
    )
    return _text(lines, plan_summary_line(plan), palette)


def result_text(
    result: RunResult,
    palette: Palette,
    times: Times = UTC_TIMES,
    *,
    refused: bool = False,
    unmanaged: bool = False,
) -> str:
    """Return the outcome of each action by environment, and a summary line.

    Args:
        result: the result.
        palette: the colours.
        times: the way to write times.
        refused: whether a guard refused the run.
        unmanaged: whether to list unmanaged keys instead of counting them.
    """
    lines = (
        _lines(part, palette, times, "kept", unmanaged=unmanaged) for part in result.environments
    )
    return _text(lines, result_summary_line(result, refused=refused), palette)


def _text(environments: Iterable[Iterable[str]], summary: str, palette: Palette) -> str:
    paragraphs = map("\n".join, environments)
    return "\n\n".join([*paragraphs, palette.paint("strong", summary)]) + "\n"


def _lines(
    part: Planned | Executed | Unobserved,
    palette: Palette,
    times: Times,
    keep: str,
    *,
    unmanaged: bool,
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
        first, *more = _row_lines(row, line, palette)
        yield first + annotation_suffix(row.action.annotations, palette)
        yield from more
    if planned.kept:
        yield palette.paint("dim", f"  = {pluralize(len(planned.kept), 'key')} {keep}")
    yield from upcoming_lines(part.upcoming, palette)
    findings = finding_list([planned], unmanaged=unmanaged)
    for finding in findings.listed:
        text = f"{finding_kind(finding)}  {visible(finding.name)}  {visible(finding.message)}"
        yield palette.paint("warn", f"  ? {text}")
    if findings.unlisted:
        yield palette.paint("warn", f"  ? {findings.unlisted}")
    if not planned.actions and not planned.kept and not planned.findings:
        yield palette.paint("dim", "  = nothing to do")


def upcoming_lines(upcoming: Iterable[Upcoming], palette: Palette) -> Iterator[str]:
    """Yield a line for each of the first later revocations, and the number of the others."""
    for name, text in upcoming_texts(upcoming):
        line = "  ".join(filter(None, (visible(name), visible(text))))
        yield palette.paint("dim", f"  * {line}")


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
    role = "" if isinstance(action, Clean) else "no role"  # a removal is not about the role
    if action.role:
        role = f"role {visible(action.role)}"
    expires = "never" if action.expires_at is None else times.exact(action.expires_at)
    return (
        visible(action.name),
        visible(describe_action(action).details),
        f"expires {expires}",
        role,
        *sinks,
        f"{visible(place.file)}:{place.line}" if place else "in no manifest",
    )
