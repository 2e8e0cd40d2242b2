"""Plans and results as Markdown, for a comment or the summary of a pipeline's job.

Actions are omitted first, then findings, then the summary and the failures.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from provisioner.errors.pluralize import pluralize
from provisioner.execution import Executed
from provisioner.model.expiry import format_timestamp
from provisioner.plan import Planned, Unobserved
from provisioner.render.escape import escape, inline_code
from provisioner.render.markdown import (
    MAX_PAGE_BYTES,
    Table,
    failure_cells,
    key_cell,
    message_cell,
    name_cell,
    size_of,
)
from provisioner.render.outcome.rows import (
    describe_action,
    describe_end,
    describe_sinks,
    finding_kind,
    finding_list,
    plan_summary,
    plan_summary_line,
    result_summary,
    result_summary_line,
    rows_of,
    soonest_first,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from provisioner.errors.failure import Failure
    from provisioner.execution import RunResult
    from provisioner.plan import (
        Action,
        EnvironmentPlan,
        Finding,
        Plan,
        ReportedFinding,
        Upcoming,
    )
    from provisioner.render.outcome.rows import Row

    _Part = EnvironmentPlan | Executed
    _EnvironmentRow = tuple[str, Row]

_MAX_NOTES = 20
"""Notes that a page shows."""

_TABLE_OVERHEAD = 400
"""Bytes reserved for the heading of a table and for the line that counts its omitted rows."""

_ACTION_COLUMNS = ("name", "details", "expires", "role", "sinks", "manifest")


def plan_markdown(plan: Plan, refusal: Failure | None = None, *, unmanaged: bool = False) -> str:
    """Return the page of a plan.

    Args:
        plan: the plan.
        refusal: why it may not be applied; None if it may.
        unmanaged: whether to list unmanaged keys instead of counting them.
    """
    parts = plan.environments
    rows = _rows(parts)
    actions = Table(
        "Actions",
        "action",
        ("environment", "action", *_ACTION_COLUMNS),
        [one for one in rows if one[1].status == "planned"],
        lambda one: _action_cells(one[0], one[1].action),
    )
    summaries = []
    for part in parts:
        blocked = [one for one in part.actions if one.blocked] if isinstance(part, Planned) else []
        summaries.append(plan_summary(part) | {"blocked": len(blocked)})
    line = plan_summary_line(plan)
    return _page(plan, line, summaries, rows, actions, refusal, unmanaged=unmanaged)


def result_markdown(
    result: RunResult, refusal: Failure | None = None, *, unmanaged: bool = False
) -> str:
    """Return the page of a result.

    Args:
        result: the result.
        refusal: why nothing was done; None without a refusal.
        unmanaged: whether to list unmanaged keys instead of counting them.
    """
    rows = _rows(result.environments)
    actions = Table(
        "Actions",
        "action",
        ("environment", "action", "status", *_ACTION_COLUMNS, "id"),
        rows,
        lambda one: _result_cells(*one),
    )
    line = result_summary_line(result, refused=refusal is not None)
    summaries = list(map(result_summary, result.environments))
    return _page(result, line, summaries, rows, actions, refusal, unmanaged=unmanaged)


def _rows(parts: Sequence[_Part]) -> list[_EnvironmentRow]:
    return [
        (_plan_of(part).environment, row)
        for part in parts
        if not isinstance(part, Unobserved)
        for row in rows_of(part)
    ]


def _page(  # noqa: PLR0913, PLR0917 - the parts of a page
    outcome: Plan | RunResult,
    summary_line: str,
    summaries: list[dict[str, int]],
    rows: list[_EnvironmentRow],
    actions: Table[_EnvironmentRow],
    refusal: Failure | None,
    *,
    unmanaged: bool,
) -> str:
    """Return the page of a plan or result, with five tables."""
    plans = list(map(_plan_of, outcome.environments))
    planned = [part for part in plans if isinstance(part, Planned)]
    opening = [f"## {summary_line}"]
    if refusal is not None:
        message = message_cell(refusal.message)
        opening += ["", f"**Refused**, {inline_code(refusal.code)}: {message}"]
    found = finding_list(planned, unmanaged=unmanaged)
    closing = ["", f"{escape(found.unlisted)}."] if found.unlisted else []
    closing += [*_notes(planned), "", f"Digest {inline_code(outcome.digest)}"]
    summary = Table(
        "",
        "environment",
        ("environment", *dict.fromkeys(name for one in summaries for name in one)),
        list(zip(plans, summaries, strict=True)),
        lambda one: _summary_cells(*one),
    )
    head = ("environment", "action", "name", "code", "message")
    errors = Table("Not done", "failure", head, list(_not_done(plans, rows)), lambda cells: cells)
    later = Table(
        "Later",
        "revocation",
        ("environment", "name", "revokes", "at", "when"),
        [
            (_plan_of(part).environment, one)
            for part in outcome.environments
            if not isinstance(part, Unobserved)
            for one in soonest_first(part.upcoming)
        ],
        lambda one: _upcoming_cells(*one),
    )
    findings = Table(
        "Findings",
        "finding",
        ("environment", "finding", "name", "message"),
        [
            (part.environment, finding)
            for part in planned
            for finding in finding_list([part], unmanaged=unmanaged).listed
        ],
        lambda one: _finding_cells(*one),
    )
    free = MAX_PAGE_BYTES - size_of([*opening, *closing]) - 5 * _TABLE_OVERHEAD
    # The failures may take at least half of the page, the summary the rest.
    for_errors = free // 2 - errors.lines(free // 2)[1]
    summary_lines, left = summary.lines(free - for_errors)
    error_lines, left = errors.lines(left + for_errors)
    # A tenth of the rest is reserved for findings, which get more if there are few actions.
    later_lines, unused = later.lines(left // 10)
    left -= left // 10 - unused
    for_findings = left // 10 - findings.lines(left // 10)[1]
    action_lines, left = actions.lines(left - for_findings)
    finding_lines, _ = findings.lines(left + for_findings)
    lines = [*opening, *summary_lines, *error_lines, *action_lines, *later_lines, *finding_lines]
    lines += closing
    return "\n".join(lines) + "\n"


def _plan_of(part: _Part) -> EnvironmentPlan:
    return part.planned if isinstance(part, Executed) else part


def _notes(planned: Sequence[Planned]) -> list[str]:
    """Return the lines of the notes, at most `_MAX_NOTES` of them."""
    notes = [(part.environment, note) for part in planned for note in part.notes]
    lines = [
        f"- {name_cell(environment)}: {message_cell(note)}"
        for environment, note in notes[:_MAX_NOTES]
    ]
    if more := len(notes) - len(lines):
        lines.append(f"- … and {pluralize(more, 'more note')}, not shown here.")
    return ["", *lines] if lines else []


def _summary_cells(part: EnvironmentPlan, summary: dict[str, int]) -> tuple[str, ...]:
    """Return a row of the summary; the counts of an unobserved environment are unknown."""
    numbers = (str(number) if isinstance(part, Planned) else "?" for number in summary.values())
    return (name_cell(part.environment), *numbers)


def _not_done(
    plans: Sequence[EnvironmentPlan], rows: Sequence[_EnvironmentRow]
) -> Iterator[tuple[str, ...]]:
    """Yield unobserved environments, failed actions, and each reason why some were skipped."""
    for part in plans:
        if isinstance(part, Unobserved):
            yield name_cell(part.environment), "not reached", "", *failure_cells(part.failure)
    for environment, row in rows:
        if row.status == "failed" and row.failure:
            kind, name = describe_action(row.action).kind, name_cell(row.action.name)
            yield name_cell(environment), kind, name, *failure_cells(row.failure)
    reasons = Counter((place, row.failure) for place, row in rows if row.status == "skipped")
    for (environment, failure), number in reasons.items():
        if failure:
            count = f"{pluralize(number, 'action')} skipped"
            yield name_cell(environment), count, "", *failure_cells(failure)


def _finding_cells(environment: str, finding: Finding | ReportedFinding) -> tuple[str, ...]:
    kind = finding_kind(finding).replace("_", " ")
    return name_cell(environment), kind, name_cell(finding.name), message_cell(finding.message)


def _upcoming_cells(environment: str, upcoming: Upcoming) -> tuple[str, ...]:
    return (
        name_cell(environment),
        name_cell(upcoming.name),
        inline_code(upcoming.key_id),
        "-" if upcoming.at is None else _time_cell(upcoming.at),
        message_cell(describe_end(upcoming)),
    )


def _time_cell(time: datetime) -> str:
    return format_timestamp(time).replace("T", " ").removesuffix("Z")


def _action_cells(environment: str, action: Action) -> tuple[str, ...]:
    description, sinks, place = describe_action(action), describe_sinks(action), action.place
    return (
        name_cell(environment),
        description.kind,
        key_cell(action.name, action.annotations),
        message_cell(description.details),
        "never" if action.expires_at is None else _time_cell(action.expires_at),
        name_cell(action.role) if action.role else "-",
        name_cell(sinks) if action.sinks else sinks,
        name_cell(f"{place.file}:{place.line}") if place else "-",
    )


def _result_cells(environment: str, row: Row) -> tuple[str, ...]:
    name, kind, *cells = _action_cells(environment, row.action)
    status = "**failed**" if row.status == "failed" else row.status
    return name, kind, status, *cells, "-" if row.id is None else inline_code(row.id)
