"""Plans, results and problems as Markdown, for a comment or the summary of a pipeline's job.

A page always fits into a comment. Rows that do not fit are counted instead: actions first, then
findings, then the summary and the failures.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.pluralize import pluralize
from provisioner.execution import CreatedByAnotherRun, Done, Executed, Failed, Skipped, Unfinished
from provisioner.model.expiry import format_timestamp
from provisioner.plan import Planned, Unobserved
from provisioner.render.escape import escape, inline_code, truncate
from provisioner.render.json import action_kind, finding_kind, plan_summary, result_summary
from provisioner.render.text import (
    describe_action,
    describe_sinks,
    plan_summary_line,
    result_summary_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from provisioner.errors.failure import Failure
    from provisioner.errors.problem import Problem
    from provisioner.execution import Result, RunResult
    from provisioner.plan import Action, EnvironmentPlan, Finding, Plan
    from provisioner.render.problems import ValidationResult

MAX_PAGE_BYTES = 64_000
"""Bytes of a page. A comment on GitHub holds 65 536 characters; the rest is for other text."""

_MAX_CELL = 100
"""Characters of a name in one cell."""

_MAX_MESSAGE = 400
"""Characters of a message in one cell."""

_MAX_NOTES = 20
"""Notes that a page shows."""

_TABLE_OVERHEAD = 400
"""Bytes reserved for the heading of a table and for the line that counts its omitted rows."""

_ACTION_COLUMNS = ("name", "details", "expires", "role", "sinks", "manifest")


@dataclass(frozen=True, slots=True)
class _Table:
    """One table of a page.

    Attributes:
        title: the heading above the table, or empty.
        head: the column headings.
        size: the number of rows.
        rows: yields the rows one by one, since most rows of a large run are never shown.
        noun: the noun for one row.
    """

    title: str
    head: tuple[str, ...]
    size: int
    rows: Callable[[], Iterator[tuple[str, ...]]]
    noun: str


def plan_markdown(plan: Plan, refusal: Failure | None = None) -> str:
    """Return the page of a plan; a refusal says why the plan may not be applied."""
    parts = plan.environments
    planned = [part for part in parts if isinstance(part, Planned)]
    actions = [(part.environment, action) for part in planned for action in part.actions]
    summary = _Table(
        "",
        ("environment", *plan_summary(parts[0]), "blocked") if parts else ("environment",),
        len(parts),
        lambda: (_plan_row(part) for part in parts),
        "environment",
    )
    errors = [
        *_unobserved_rows(parts),
        *(
            (
                _name(environment),
                action_kind(action),
                _name(action.name),
                *_failure_cells(action.blocked),
            )
            for environment, action in actions
            if action.blocked is not None
        ),
    ]
    unblocked = [(environment, action) for environment, action in actions if not action.blocked]
    opening = [f"## {plan_summary_line(plan)}"]
    opening += _refusal_lines(refusal)
    tables = (
        summary,
        _errors(errors),
        _Table(
            "Actions",
            ("environment", "action", *_ACTION_COLUMNS),
            len(unblocked),
            lambda: (
                (_name(environment), action_kind(action), *_action_cells(action))
                for environment, action in unblocked
            ),
            "action",
        ),
        _findings(planned),
    )
    return _page(opening, tables, [*_note_lines(planned), "", f"Digest {inline_code(plan.digest)}"])


def result_markdown(result: RunResult, refusal: Failure | None = None) -> str:
    """Return the page of a result; a refusal says why nothing was done."""
    parts = result.environments
    executed = [part for part in parts if isinstance(part, Executed)]
    results = [(part.planned.environment, one) for part in executed for one in part.results]
    summary = _Table(
        "",
        ("environment", *result_summary(parts[0])) if parts else ("environment",),
        len(parts),
        lambda: (_result_row(part) for part in parts),
        "environment",
    )
    unobserved = [part for part in parts if isinstance(part, Unobserved)]
    tables = (
        summary,
        _errors([*_unobserved_rows(unobserved), *_failed_rows(results), *_skipped_rows(results)]),
        _Table(
            "Actions",
            ("environment", "action", "status", *_ACTION_COLUMNS, "id"),
            len(results),
            lambda: (
                (
                    _name(environment),
                    action_kind(one.action),
                    _status(one),
                    *_action_cells(one.action),
                    _id(one),
                )
                for environment, one in results
            ),
            "action",
        ),
        _findings([part.planned for part in executed]),
    )
    opening = [
        f"## {result_summary_line(result, refused=refusal is not None)}",
        *_refusal_lines(refusal),
    ]
    notes = _note_lines(part.planned for part in executed)
    return _page(opening, tables, [*notes, "", f"Digest {inline_code(result.digest)}"])


def problems_markdown(validation: ValidationResult) -> str:
    """Return the page of the problems and warnings of manifests."""
    problems = validation.problems
    opening = (
        f"## {pluralize(len(problems), 'problem')}; nothing was sent."
        if problems
        else f"## {pluralize(len(validation.files), 'file')}, no problems."
    )
    lines = [opening]
    for found, noun in ((problems, "problem"), (validation.warnings, "warning")):
        rows = partial(map, _problem_row, found)
        table = _Table("", ("position", "code", noun), len(found), rows, noun)
        lines += _table_lines(table, MAX_PAGE_BYTES - _size(lines))[0]
    return "\n".join(lines) + "\n"


def _refusal_lines(refusal: Failure | None) -> list[str]:
    """Return the lines that say why a guard refused the run."""
    if refusal is None:
        return []
    return ["", f"**Refused**, {inline_code(refusal.code)}: {_message(refusal.message)}"]


def _note_lines(planned: Iterable[Planned]) -> list[str]:
    """Return the lines of the notes, at most `_MAX_NOTES` of them."""
    notes = [(part.environment, note) for part in planned for note in part.notes]
    lines = [
        f"- {_name(environment)}: {_message(note)}" for environment, note in notes[:_MAX_NOTES]
    ]
    if more := len(notes) - len(lines):
        lines.append(f"- … and {pluralize(more, 'more note')}, not shown here.")
    return ["", *lines] if lines else []


def _page(
    opening: list[str], tables: tuple[_Table, _Table, _Table, _Table], closing: list[str]
) -> str:
    """Return a page of four tables: the summary, the failures, the actions and the findings."""
    summary, errors, actions, findings = tables
    free = MAX_PAGE_BYTES - _size([*opening, *closing]) - 4 * _TABLE_OVERHEAD
    # The failures may take at least half of the page, the summary the rest.
    _, reserved = _table_lines(errors, free // 2)
    summary_lines, used = _table_lines(summary, free - reserved)
    free -= used
    error_lines, used = _table_lines(errors, free)
    free -= used
    # A tenth of the rest is reserved for findings, which get more if there are few actions.
    _, reserved = _table_lines(findings, free // 10)
    action_lines, used = _table_lines(actions, free - reserved)
    free -= used
    finding_lines, _ = _table_lines(findings, free)
    lines = [*opening, *summary_lines, *error_lines, *action_lines, *finding_lines, *closing]
    return "\n".join(lines) + "\n"


def _table_lines(table: _Table, max_bytes: int) -> tuple[list[str], int]:
    """Return the lines of a table with the rows that fit, and the bytes that those rows take."""
    if table.size == 0:
        return [], 0
    rows: list[str] = []
    used = 0
    for cells in table.rows():
        row = f"| {' | '.join(cells)} |"
        if used + _size([row]) > max_bytes:
            break
        rows.append(row)
        used += _size([row])
    lines = ["", f"### {table.title}"] if table.title else []
    if rows:
        lines += ["", f"| {' | '.join(table.head)} |", "|---" * len(table.head) + "|", *rows]
    if omitted := table.size - len(rows):
        noun = f"more {table.noun}" if rows else table.noun
        lines += ["", f"… and {pluralize(omitted, noun)}, not shown here."]
    return lines, used


def _size(lines: Iterable[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def _plan_row(part: EnvironmentPlan) -> tuple[str, ...]:
    actions = part.actions if isinstance(part, Planned) else ()
    blocked = sum(one.blocked is not None for one in actions)
    numbers = (*plan_summary(part).values(), blocked)
    return _summary_row(part.environment, numbers, observed=isinstance(part, Planned))


def _result_row(part: Executed | Unobserved) -> tuple[str, ...]:
    environment = part.planned.environment if isinstance(part, Executed) else part.environment
    numbers = tuple(result_summary(part).values())
    return _summary_row(environment, numbers, observed=isinstance(part, Executed))


def _summary_row(environment: str, numbers: tuple[int, ...], *, observed: bool) -> tuple[str, ...]:
    """Return a row of the summary; the counts of an unobserved environment are unknown."""
    return (_name(environment), *(str(number) if observed else "?" for number in numbers))


def _errors(rows: Sequence[tuple[str, ...]]) -> _Table:
    head = ("environment", "action", "name", "code", "message")
    return _Table("Not done", head, len(rows), lambda: iter(rows), "failure")


def _unobserved_rows(parts: Iterable[EnvironmentPlan]) -> Iterator[tuple[str, ...]]:
    for part in parts:
        if isinstance(part, Unobserved):
            yield _name(part.environment), "not reached", "", *_failure_cells(part.failure)


def _failed_rows(results: Iterable[tuple[str, Result]]) -> Iterator[tuple[str, ...]]:
    for environment, one in results:
        if isinstance(one, Failed | Unfinished):
            kind, name = action_kind(one.action), _name(one.action.name)
            yield _name(environment), kind, name, *_failure_cells(one.failure)


def _skipped_rows(results: Iterable[tuple[str, Result]]) -> Iterator[tuple[str, ...]]:
    """Yield one row for each reason why actions of an environment were skipped."""
    reasons = Counter(
        (environment, one.failure) for environment, one in results if isinstance(one, Skipped)
    )
    for (environment, reason), number in reasons.items():
        count = f"{pluralize(number, 'action')} skipped"
        yield _name(environment), count, "", *_failure_cells(reason)


def _findings(planned: Sequence[Planned]) -> _Table:
    def rows() -> Iterator[tuple[str, ...]]:
        for part in planned:
            for one in part.findings:
                yield _finding_row(part.environment, one)

    head = ("environment", "finding", "name", "message")
    size = sum(len(part.findings) for part in planned)
    return _Table("Findings", head, size, rows, "finding")


def _finding_row(environment: str, finding: Finding) -> tuple[str, ...]:
    kind = finding_kind(finding).replace("_", " ")
    return _name(environment), kind, _name(finding.name), _message(finding.message)


def _action_cells(action: Action) -> tuple[str, ...]:
    place = action.place
    return (
        _name(action.name),
        _message(describe_action(action)),
        format_timestamp(action.expires_at).replace("T", " ").removesuffix("Z"),
        _name(action.role) if action.role else "-",
        _name(describe_sinks(action)) if action.sinks else describe_sinks(action),
        "-" if place is None else _name(f"{place.file}:{place.line}"),
    )


def _problem_row(problem: Problem) -> tuple[str, ...]:
    return _name(str(problem.place)), inline_code(problem.code), _message(problem.message)


def _failure_cells(failure: Failure) -> tuple[str, str]:
    return inline_code(failure.code), _message(failure.text)


def _status(result: Result) -> str:
    match result:
        case Done():
            return "done"
        case CreatedByAnotherRun():
            return "created by another run"
        case Failed() | Unfinished():
            return "**failed**"
        case Skipped():
            return "skipped"
        case _:
            assert_never(result)


def _id(result: Result) -> str:
    return "-" if isinstance(result, Failed | Skipped) else inline_code(result.id)


def _name(text: str) -> str:
    return inline_code(truncate(text, _MAX_CELL))


def _message(text: str) -> str:
    return escape(truncate(text, _MAX_MESSAGE))
