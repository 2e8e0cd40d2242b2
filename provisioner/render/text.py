"""Plans, results, keys and problems as text: aligned rows, marked `+ ~ > - =`, and coloured.

Names come from servers and files, so unprintable characters in them are escaped.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.pluralize import pluralize
from provisioner.execution import CreatedByAnotherRun, Done, Executed, Failed, Skipped, Unfinished
from provisioner.model.expiry import format_timestamp
from provisioner.plan import Create, Deliver, Planned, Revoke, Rotate, Unobserved, Update
from provisioner.render.json import count_undelivered, finding_kind, plan_summary, result_summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from provisioner.errors.failure import Failure
    from provisioner.errors.problem import Place, Problem
    from provisioner.execution import Result, RunResult
    from provisioner.model.observed import ObservedKey
    from provisioner.plan import Action, EnvironmentPlan, Finding, Plan

_MAX_CELL_WIDTH = 60


@dataclass(frozen=True, slots=True)
class Palette:
    """Escape sequences of a terminal; all empty without colours."""

    good: str = ""
    bad: str = ""
    warn: str = ""
    dim: str = ""
    strong: str = ""
    off: str = ""

    def paint(self, colour: str, text: str) -> str:
        """Return the text in a colour of this palette."""
        return f"{colour}{text}{self.off}"


PLAIN = Palette()
COLOUR = Palette("\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[1m", "\x1b[0m")


def plan_text(plan: Plan, palette: Palette) -> str:
    """Return the actions that each environment needs, and a summary line."""
    parts = ["\n".join(_plan_lines(part, palette)) for part in plan.environments]
    return "\n\n".join([*parts, palette.paint(palette.strong, plan_summary_line(plan))]) + "\n"


def result_text(result: RunResult, palette: Palette, *, refused: bool = False) -> str:
    """Return the outcome of each action by environment, and a summary line."""
    parts = ["\n".join(_outcome_lines(part, palette)) for part in result.environments]
    summary = palette.paint(palette.strong, result_summary_line(result, refused=refused))
    return "\n\n".join([*parts, summary]) + "\n"


def keys_text(keys: Iterable[tuple[str, ObservedKey, datetime]], palette: Palette) -> str:
    """Return a table of observed keys; each comes with its environment and the server's time."""
    rows = [
        (
            environment,
            visible(key.name),
            _state(key, now),
            format_timestamp(key.expires_at),
            visible(key.role or "-"),
            visible(key.id),
        )
        for environment, key, now in keys
    ]
    if not rows:
        return "no keys\n"
    head = ("ENVIRONMENT", "NAME", "STATE", "EXPIRES", "ROLE", "ID")
    first, *rest = align_columns([head, *rows])
    return "\n".join([palette.paint(palette.strong, first), *rest]) + "\n"


def refusal_text(refusal: Failure, palette: Palette) -> str:
    """Return the line that says why a guard refused the run."""
    return f"{_failure_line(refusal, palette)}\n"


def problems_text(problems: Sequence[Problem], palette: Palette) -> str:
    """Return one line for each problem, as compilers print them, and their count."""
    lines = [
        f"{palette.paint(palette.strong, visible(str(problem.place)))}: "
        f"{palette.paint(palette.bad, problem.code)}: {visible(problem.message)}"
        for problem in problems
    ]
    return "\n".join([*lines, f"{pluralize(len(lines), 'problem')}; nothing was sent."]) + "\n"


def visible(text: str) -> str:
    """Return the text with unprintable characters escaped, so that it cannot control a terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _plan_lines(part: EnvironmentPlan, palette: Palette) -> Iterator[str]:
    yield _heading(part, palette)
    if isinstance(part, Unobserved):
        yield _failure_line(part.failure, palette)
        return
    for action, line in zip(part.actions, _action_lines(part.actions), strict=True):
        if action.blocked is None:
            yield palette.paint(_colour(action, palette), f"  {_action_symbol(action)} {line}")
        else:
            yield palette.paint(palette.bad, f"  ! {line}")
            yield _failure_line(action.blocked, palette)
    yield from _kept_and_findings(part, palette, keep="to keep")


def _outcome_lines(part: Executed | Unobserved, palette: Palette) -> Iterator[str]:
    if isinstance(part, Unobserved):
        yield from _plan_lines(part, palette)
        return
    yield _heading(part.planned, palette)
    lines = _action_lines([result.action for result in part.results])
    for result, line in zip(part.results, lines, strict=True):
        yield from _result_lines(result, line, palette)
    yield from _kept_and_findings(part.planned, palette, keep="kept")


def _result_lines(result: Result, line: str, palette: Palette) -> Iterator[str]:
    match result:
        case Done(action=action):
            yield palette.paint(_colour(action, palette), f"  {_action_symbol(action)} {line}")
        case CreatedByAnotherRun():
            yield palette.paint(palette.dim, f"  = {line}  created by another run")
        case Unfinished(failure=failure) | Failed(failure=failure):
            yield palette.paint(palette.bad, f"  ! {line}")
            yield _failure_line(failure, palette)
        case Skipped():
            yield palette.paint(palette.dim, f"    {line}  skipped")
        case _:
            assert_never(result)


def _heading(part: EnvironmentPlan, palette: Palette) -> str:
    generation = f"  {part.generation}" if isinstance(part, Planned) else ""
    name = palette.paint(palette.strong, part.environment)
    return f"{name}  {visible(part.url)}{generation}"


def _action_lines(actions: Sequence[Action]) -> list[str]:
    rows = [
        (
            visible(action.name),
            describe_action(action),
            f"expires {format_timestamp(action.expires_at)}",
            f"role {visible(action.role)}" if action.role else "no role",
            *((visible(describe_sinks(action)),) if any(one.sinks for one in actions) else ()),
            _manifest_position(action.place),
        )
        for action in actions
    ]
    return align_columns(rows)


def _action_symbol(action: Action) -> str:
    match action:
        case Create():
            return "+"
        case Update() | Rotate():
            return "~"
        case Deliver():
            return ">"
        case Revoke():
            return "-"
        case _:
            assert_never(action)


def _colour(action: Action, palette: Palette) -> str:
    match action:
        case Create() | Deliver():
            return palette.good
        case Update() | Rotate():
            return palette.warn
        case Revoke():
            return palette.bad
        case _:
            assert_never(action)


def describe_action(action: Action) -> str:
    """Return what an action does, in a few words."""
    match action:
        case Create(depth=depth):
            return f"depth {depth}"
        case Update(changes=changes):
            return ", ".join(
                f"{change.field} {visible(change.actual or 'none')} -> {visible(change.desired)}"
                for change in changes
            )
        case Rotate(reason=reason, at_once=at_once):
            return f"rotate, {reason}" + (", revoke the old key at once" if at_once else "")
        case Deliver(reason=reason):
            return f"deliver, {reason.replace('_', ' ')}"
        case Revoke(reason=reason, key_id=key_id):
            return f"revoke {visible(key_id)}, {reason}"
        case _:
            assert_never(action)


def _manifest_position(place: Place | None) -> str:
    return "in no manifest" if place is None else f"{visible(place.file)}:{place.line}"


def describe_sinks(action: Action) -> str:
    """Return the sinks that get a token from an action; empty if it mints none."""
    match action:
        case Create() | Rotate():
            return ", ".join(map(str, action.sinks)) or "no sink"
        case Update() | Deliver() | Revoke():
            return ", ".join(map(str, action.sinks))
        case _:
            assert_never(action)


def _kept_and_findings(part: Planned, palette: Palette, *, keep: str) -> Iterator[str]:
    if part.kept:
        yield palette.paint(palette.dim, f"  = {pluralize(len(part.kept), 'key')} {keep}")
    for finding in part.findings:
        yield palette.paint(palette.warn, f"  ? {_finding_line(finding)}")
    if not part.actions and not part.kept and not part.findings:
        yield palette.paint(palette.dim, "  = nothing to do")


def _finding_line(finding: Finding) -> str:
    return f"{finding_kind(finding)}  {visible(finding.name)}  {visible(finding.message)}"


def _failure_line(failure: Failure, palette: Palette) -> str:
    return palette.paint(palette.bad, f"    {failure.code}: {visible(failure.text)}")


def plan_summary_line(plan: Plan) -> str:
    """Return the counts of a plan, in one line."""
    totals = _totals(plan_summary(part) for part in plan.environments)
    planned = [part for part in plan.environments if isinstance(part, Planned)]
    blocked = sum(action.blocked is not None for part in planned for action in part.actions)
    counts = [f"{totals['create']} to create"]
    counts += [
        f"{totals[kind]} to {kind}"
        for kind in ("update", "rotate", "deliver", "revoke")
        if totals[kind]
    ]
    counts += [f"{totals['keep']} to keep"]
    counts += [f"{blocked} blocked"] if blocked else []
    counts += [pluralize(totals["findings"], "finding")] if totals["findings"] else []
    counts += _failed_environments(plan.environments)
    line = f"Plan: {', '.join(counts)}."
    if any(part.unblocked for part in planned):
        requests = sum(part.estimate.requests for part in planned)
        seconds = max((part.estimate.seconds for part in planned), default=0.0)
        line += f" About {pluralize(requests, 'request')} and {seconds:.1f} s."
    return line


def result_summary_line(result: RunResult, *, refused: bool) -> str:
    """Return the counts of a result, in one line.

    Args:
        result: the result of a run.
        refused: whether a guard refused the run, so that nothing was done.
    """
    totals = _totals(result_summary(part) for part in result.environments)
    undelivered = sum(map(count_undelivered, result.environments), Counter())
    without_token = {"created": undelivered[Create], "rotated": undelivered[Rotate]}
    counts = [
        f"{totals[kind]} {kind}" + (f" ({number} undelivered)" if number else "")
        for kind in ("created", "updated", "rotated", "delivered", "revoked")
        if (number := without_token.get(kind, 0)) or totals[kind] or kind == "created"
    ]
    counts += [f"{totals['kept']} kept"]
    counts += [f"{totals['failed']} failed"] if totals["failed"] else []
    if totals["skipped"]:
        counts.append(f"{totals['skipped']} skipped ({_skip_reasons(result)})")
    counts += _failed_environments(result.environments)
    status = "Refused" if refused else "Incomplete" if result.incomplete else "Done"
    return f"{status}: {', '.join(counts)}."


def _skip_reasons(result: RunResult) -> str:
    """Return the codes of why actions were skipped, each once."""
    parts = [part for part in result.environments if isinstance(part, Executed)]
    skipped = (one for part in parts for one in part.results if isinstance(one, Skipped))
    return ", ".join(dict.fromkeys(one.failure.code for one in skipped))


def _failed_environments(parts: Iterable[object]) -> list[str]:
    failed = sum(isinstance(part, Unobserved) for part in parts)
    return [f"{pluralize(failed, 'environment')} not reached"] if failed else []


def _totals(summaries: Iterable[dict[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for summary in summaries:
        for kind, number in summary.items():
            totals[kind] = totals.get(kind, 0) + number
    return totals


def _state(key: ObservedKey, now: datetime) -> str:
    if key.live(now):
        return "live"
    return "expired" if key.revoked_at is None else "revoked"


def align_columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the rows with padded columns; a very long cell does not widen its column."""
    if not rows:
        return []
    widths = [min(_MAX_CELL_WIDTH, max(map(len, column))) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
