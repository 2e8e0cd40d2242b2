"""Plans and results for a terminal: a table of the actions of each environment, and a sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, assert_never

from provisioner.errors.pluralize import pluralize
from provisioner.execution import Executed, Skipped
from provisioner.model.expiry import parse_timestamp
from provisioner.plan import Change, Create, Drift, Expiring, Planned, Unobserved, Update
from provisioner.render.outcome.rows import (
    describe_action,
    describe_sinks,
    finding_kind,
    finding_list,
    plan_summary,
    result_summary,
    rows_of,
    total_of,
    upcoming_texts,
)
from provisioner.render.text import describe_annotations
from provisioner.render.times import without_date
from provisioner.render.view import (
    Column,
    Line,
    Section,
    Table,
    View,
    enumerate_words,
    failure_note,
)
from provisioner.render.view import Row as ViewRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from provisioner.execution import RunResult
    from provisioner.plan import Action, Finding, Plan, ReportedFinding, Upcoming
    from provisioner.render.outcome.rows import Row
    from provisioner.render.text import Tone
    from provisioner.render.times import Times

    _Part = Planned | Executed | Unobserved

_Difference = TypeVar("_Difference", Change, Drift)

_ACTION_COLUMNS = (
    Column("action"),
    Column("name", strong=True),
    Column("expires", "below", 6, shorten=without_date),
    Column("details", "below", 5, wraps=True),
    Column("role", "omit", 3),
    Column("sinks", "omit", 4, wraps=True),
    Column("depth", "omit", 1),
    Column("manifest", "omit", 2),
    Column("about", "omit", 0, wraps=True),
)

_FINDING_COLUMNS = (
    Column("finding"),
    Column("name", strong=True),
    Column("message", "below", 1, wraps=True),
)

_NOUNS = {"deliver": "token", "delivered": "token", "clean": "sink", "cleaned": "sink"}
"""What is counted where it is not keys."""


_NO_CHANGE = frozenset({"keep", "findings", "kept", "failed", "skipped", "undelivered"})
"""The counts of a summary that are not changes."""


def plan_view(plan: Plan, times: Times, *, unmanaged: bool = False) -> View:
    """Return the actions that each environment needs, and a summary.

    Args:
        plan: the plan.
        times: the way to write times.
        unmanaged: whether to list unmanaged keys instead of counting them.
    """
    sections = _sections(plan.environments, plan.created_at, times, unmanaged=unmanaged)
    return View(sections, _plan_sentence(plan))


def result_view(
    result: RunResult, times: Times, *, refused: bool = False, unmanaged: bool = False
) -> View:
    """Return the outcome of each action by environment, and a summary.

    Args:
        result: the result of a run.
        times: the way to write times.
        refused: whether a guard refused the run, so that nothing was done.
        unmanaged: whether to list unmanaged keys instead of counting them.
    """
    sections = _sections(result.environments, result.created_at, times, unmanaged=unmanaged)
    return View(sections, _result_sentence(result, refused=refused))


def _sections(
    parts: Iterable[_Part], now: datetime, times: Times, *, unmanaged: bool
) -> tuple[Section, ...]:
    return tuple(_section(part, now, times, unmanaged=unmanaged) for part in parts)


def _section(part: _Part, now: datetime, times: Times, *, unmanaged: bool) -> Section:
    if isinstance(part, Unobserved):
        note = failure_note(part.failure, "!")
        return Section(part.environment, (part.url,), (note,))
    planned = part.planned if isinstance(part, Executed) else part
    facts = planned.url, planned.generation
    blocks = tuple(_blocks(part, planned, now, times, unmanaged=unmanaged))
    return Section(planned.environment, facts, blocks)


def _blocks(
    part: Planned | Executed, planned: Planned, now: datetime, times: Times, *, unmanaged: bool
) -> Iterator[Table | Line]:
    if rows := tuple(rows_of(part)):
        yield Table(_ACTION_COLUMNS, tuple(_view_rows(rows, now, times)))
    if kept := len(planned.kept):
        verb = "stays as it is" if kept == 1 else "stay as they are"
        yield Line(f"{pluralize(kept, 'key')} {verb}", "dim", "=")
    yield from upcoming_lines(part.upcoming)
    findings = finding_list([planned], unmanaged=unmanaged)
    if findings.listed:
        listed = tuple(_finding_row(finding, now, times) for finding in findings.listed)
        yield Table(_FINDING_COLUMNS, listed)
    if findings.unlisted:
        yield Line(findings.unlisted, "warn", "?")
    if not rows and not kept and not planned.findings:
        yield Line("nothing to do", "dim", "=")


def upcoming_lines(upcoming: Iterable[Upcoming]) -> Iterator[Line]:
    """Yield a line for each of the first later revocations, and the number of the others."""
    for name, text in upcoming_texts(upcoming):
        yield Line(" ".join(filter(None, (name, text))), "dim", "*")


def _view_rows(rows: Sequence[Row], now: datetime, times: Times) -> Iterator[ViewRow]:
    """Yield the rows; a failure that several rows in turn share stands below the last of them."""
    next_failures = [*(row.failure for row in rows[1:]), None]
    for row, next_failure in zip(rows, next_failures, strict=True):
        symbol, tone = _mark(row)
        repeated = row.failure == next_failure
        below = (failure_note(row.failure),) if row.failure and not repeated else ()
        if row.status == "created by another run":
            below = (Line(row.status, "dim"),)
        yield ViewRow(symbol, tone, _cells(row, now, times), below)


def _mark(row: Row) -> tuple[str, Tone]:
    """Return the symbol and the colour of an action or its result."""
    match row.status:
        case "failed":
            return "!", "bad"
        case "skipped":
            return " ", "dim"
        case "created by another run":
            return "=", "dim"
        case "planned" | "done":
            description = describe_action(row.action)
            return description.symbol, description.tone
        case _:
            assert_never(row.status)


def _cells(row: Row, now: datetime, times: Times) -> tuple[str, ...]:
    action, description = row.action, describe_action(_with_times(row.action, times))
    place = action.place
    word = _word(row, description.kind)
    # The depth of a create has a column of its own.
    details = "" if isinstance(action, Create) else description.specifics
    if row.status in {"failed", "skipped"}:
        # The first cell does not say what was to be done.
        details = ", ".join(filter(None, (description.kind, details)))
    return (
        word,
        action.name,
        "never" if action.expires_at is None else times.distance(action.expires_at, now),
        details,
        action.role or "",
        describe_sinks(action),
        "" if action.depth is None else str(action.depth),
        f"{place.file}:{place.line}" if place else "",
        describe_annotations(action.annotations),
    )


def _with_times(action: Action, times: Times) -> Action:
    """Return an action whose expiries, which are text, are written for people."""
    if not isinstance(action, Update):
        return action
    return action._replace(changes=tuple(_for_people(change, times) for change in action.changes))


def _for_people(difference: _Difference, times: Times) -> _Difference:
    """Return a difference whose expiries are written for people; one of the role stays."""
    if difference.field != "expires":
        return difference
    actual = None if difference.actual is None else times.shortest(difference.actual)
    return replace(difference, actual=actual, desired=times.shortest(difference.desired))


def _word(row: Row, kind: str) -> str:
    """Return the word for an action or for what became of it: `create`, `created`, `failed`."""
    match row.status:
        case "planned":
            return kind
        case "done":
            return kind + ("d" if kind.endswith("e") else "ed")
        case "created by another run":
            return "kept"
        case "failed":
            return "blocked" if row.action.blocked else "failed"
        case "skipped":
            return "skipped"
        case _:
            assert_never(row.status)


def _finding_row(finding: Finding | ReportedFinding, now: datetime, times: Times) -> ViewRow:
    kind = finding_kind(finding).replace("_", " ")
    message = finding.message
    if isinstance(finding, Expiring):
        message = f"expires {times.distance(parse_timestamp(finding.expires_at), now)}"
    elif isinstance(finding, Drift):
        message = _for_people(finding, times).message
    return ViewRow("?", "warn", (kind, finding.name, message))


def _plan_sentence(plan: Plan) -> str:
    summaries = {part.environment: plan_summary(part) for part in plan.environments}
    total = total_of(summaries.values())
    planned = [part for part in plan.environments if isinstance(part, Planned)]
    sentence = _changes("Plan: ", "nothing to change", summaries) + _kept(total["keep"])
    if blocked := sum(action.blocked is not None for part in planned for action in part.actions):
        sentence += f" {pluralize(blocked, 'action')} cannot be carried out."
    findings = finding_list(planned)
    if findings.listed:
        sentence += f" {pluralize(len(findings.listed), 'finding')}."
    if findings.unmanaged:
        sentence += f" {pluralize(findings.unmanaged, 'unmanaged key')}."
    sentence += _unread(plan.environments)
    if plan.changes:
        requests = sum(part.estimate.requests for part in planned)
        seconds = max(part.estimate.seconds for part in planned)
        sentence += f" About {pluralize(requests, 'request')} and {seconds:.1f} s."
    return sentence


def _result_sentence(result: RunResult, *, refused: bool) -> str:
    summaries = {
        (part.planned if isinstance(part, Executed) else part).environment: result_summary(part)
        for part in result.environments
    }
    total = total_of(summaries.values())
    status = "Refused" if refused else "Incomplete" if result.incomplete else "Done"
    sentence = _changes(f"{status}: ", "nothing was changed", summaries) + _kept(total["kept"])
    if total["failed"]:
        sentence += f" {pluralize(total['failed'], 'action')} failed."
    if total["undelivered"]:
        sentence += f" {pluralize(total['undelivered'], 'token')} did not reach every sink."
    if total["skipped"]:
        parts = [part for part in result.environments if isinstance(part, Executed)]
        skipped = (one for part in parts for one in part.results if isinstance(one, Skipped))
        codes = ", ".join(dict.fromkeys(one.failure.code for one in skipped))
        verb = "was" if total["skipped"] == 1 else "were"
        sentence += f" {pluralize(total['skipped'], 'action')} {verb} skipped ({codes})."
    return sentence + _unread(result.environments)


def _changes(start: str, none: str, summaries: Mapping[str, dict[str, int]]) -> str:
    """Return the beginning of a sentence: what changes, and where.

    Args:
        start: the first word.
        none: the words for no change.
        summaries: the counts of each environment, by its name.
    """
    total = total_of(summaries.values())
    kinds = [kind for kind, number in total.items() if number and kind not in _NO_CHANGE]
    if not kinds:
        return start + none
    counts = [f"{kind} {pluralize(total[kind], _NOUNS.get(kind, 'key'))}" for kind in kinds]
    changing = [name for name, one in summaries.items() if any(one[kind] for kind in kinds)]
    where = changing[0] if len(changing) == 1 else f"{len(changing)} environments"
    if 1 < len(changing) < len(summaries):
        where = f"{len(changing)} of {len(summaries)} environments"
    return f"{start}{enumerate_words(counts)} in {where}"


def _kept(number: int) -> str:
    """Return the end of a sentence: the number of keys that stay as they are, if any does."""
    verb = "stays as it is" if number == 1 else "stay as they are"
    return f"; {pluralize(number, 'key')} {verb}." if number else "."


def _unread(parts: Iterable[_Part]) -> str:
    count = sum(isinstance(part, Unobserved) for part in parts)
    return f" {pluralize(count, 'environment')} could not be read." if count else ""
