"""Text for people: aligned, marked `+ ~ - =`, coloured where a terminal shows it.

Names come from servers and files, so what is not printable is escaped before it is shown.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.pluralize import pluralize
from provisioner.execution import CreatedByAnotherRun, Done, Executed, Failed, Skipped, Unfinished
from provisioner.model.expiry import format_moment
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
    """The escape sequences of a terminal, or nothing."""

    good: str = ""
    bad: str = ""
    warn: str = ""
    dim: str = ""
    strong: str = ""
    off: str = ""

    def paint(self, colour: str, text: str) -> str:
        """The text in a colour of this palette."""
        return f"{colour}{text}{self.off}"


PLAIN = Palette()
COLOUR = Palette("\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[1m", "\x1b[0m")


def plan_text(plan: Plan, palette: Palette) -> str:
    """What would change, one environment after the other, and a summary line."""
    parts = ["\n".join(_plan_lines(part, palette)) for part in plan.environments]
    return "\n\n".join([*parts, palette.paint(palette.strong, plan_summary_line(plan))]) + "\n"


def result_text(result: RunResult, palette: Palette, *, refused: bool = False) -> str:
    """What became of it, one environment after the other, and a summary line."""
    parts = ["\n".join(_outcome_lines(part, palette)) for part in result.environments]
    verdict = palette.paint(palette.strong, result_summary_line(result, refused=refused))
    return "\n\n".join([*parts, verdict]) + "\n"


def keys_text(keys: Iterable[tuple[str, ObservedKey, datetime]], palette: Palette) -> str:
    """The observed keys as a table; each with its environment and the server's time."""
    rows = [
        (
            environment,
            visible(key.name),
            _state(key, now),
            format_moment(key.expires_at),
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
    """Why nothing may be done."""
    return f"{_failure_line(refusal, palette)}\n"


def problems_text(problems: Sequence[Problem], palette: Palette) -> str:
    """One line a problem, as compilers write them, and how many there are."""
    lines = [
        f"{palette.paint(palette.strong, visible(str(problem.place)))}: "
        f"{palette.paint(palette.bad, problem.code)}: {visible(problem.message)}"
        for problem in problems
    ]
    return "\n".join([*lines, f"{pluralize(len(lines), 'problem')}; nothing was sent."]) + "\n"


def visible(text: str) -> str:
    """The text with everything that could draw on a terminal escaped."""
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
    yield from _kept_and_findings(part, palette)


def _outcome_lines(part: Executed | Unobserved, palette: Palette) -> Iterator[str]:
    if isinstance(part, Unobserved):
        yield from _plan_lines(part, palette)
        return
    yield _heading(part.planned, palette)
    lines = _action_lines([result.action for result in part.results])
    for result, line in zip(part.results, lines, strict=True):
        yield from _result_lines(result, line, palette)
    yield from _kept_and_findings(part.planned, palette)


def _result_lines(result: Result, line: str, palette: Palette) -> Iterator[str]:
    match result:
        case Done(action=action):
            yield palette.paint(_colour(action, palette), f"  {_action_symbol(action)} {line}")
        case CreatedByAnotherRun():
            yield palette.paint(palette.dim, f"  = {line}  made by another run at this moment")
        case Unfinished(failure=failure) | Failed(failure=failure):
            yield palette.paint(palette.bad, f"  ! {line}")
            yield _failure_line(failure, palette)
        case Skipped():
            yield palette.paint(palette.dim, f"    {line}  skipped")
        case _:
            assert_never(result)


def _heading(part: EnvironmentPlan, palette: Palette) -> str:
    kind = f"  {part.generation}" if isinstance(part, Planned) else ""
    return palette.paint(palette.strong, part.environment) + f"  {visible(part.url)}{kind}"


def _action_lines(actions: Sequence[Action]) -> list[str]:
    rows = [
        (
            visible(action.name),
            describe_action(action),
            f"ends {format_moment(action.expires_at)}",
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
    """What an action does, in a few words."""
    match action:
        case Create(depth=depth):
            return f"depth {depth}"
        case Update(changes=changes):
            told = (
                f"{one.what} {visible(one.was or 'none')} to {visible(one.wanted)}"
                for one in changes
            )
            return ", ".join(told)
        case Rotate(reason=reason, at_once=at_once):
            return f"rotate, {reason}" + (", the old one ends at once" if at_once else "")
        case Deliver(reason=reason):
            return reason.replace("_", " ")
        case Revoke(reason=reason, key_id=key_id):
            return f"revoke {visible(key_id)}, {reason}"
        case _:
            assert_never(action)


def _manifest_position(place: Place | None) -> str:
    return "in no manifest" if place is None else f"{visible(place.file)}:{place.line}"


def describe_sinks(action: Action) -> str:
    """Where the token of an action goes, nothing where it makes none."""
    match action:
        case Create() | Rotate():
            return ", ".join(map(str, action.sinks)) or "no sink"
        case Update() | Deliver() | Revoke():
            return ", ".join(map(str, action.sinks))
        case _:
            assert_never(action)


def _kept_and_findings(part: Planned, palette: Palette) -> Iterator[str]:
    if part.kept:
        yield palette.paint(palette.dim, f"  = {pluralize(len(part.kept), 'key')} as declared")
    for finding in part.findings:
        yield palette.paint(palette.warn, f"  ? {_finding_line(finding)}")
    if not part.actions and not part.kept and not part.findings:
        yield palette.paint(palette.dim, "  = nothing to do")


def _finding_line(finding: Finding) -> str:
    return f"{finding_kind(finding)}  {visible(finding.name)}  {visible(finding.message)}"


def _failure_line(failure: Failure, palette: Palette) -> str:
    return palette.paint(palette.bad, f"    {failure.code}: {visible(failure.message)}")


def plan_summary_line(plan: Plan) -> str:
    """What would change, in one line."""
    totals = _totals(plan_summary(part) for part in plan.environments)
    planned = [part for part in plan.environments if isinstance(part, Planned)]
    blocked = sum(action.blocked is not None for part in planned for action in part.actions)
    words = [f"{totals['create']} to create"]
    words += [
        f"{totals[kind]} to {kind}"
        for kind in ("update", "rotate", "deliver", "revoke")
        if totals[kind]
    ]
    words += [f"{totals['keep']} as declared"]
    words += [f"{blocked} that cannot be done"] if blocked else []
    words += [pluralize(totals["findings"], "finding")] if totals["findings"] else []
    words += _failed_environments(plan.environments)
    line = f"Plan: {', '.join(words)}."
    if any(part.unblocked for part in planned):
        requests = sum(part.estimate.requests for part in planned)
        seconds = max((part.estimate.seconds for part in planned), default=0.0)
        line += f" About {pluralize(requests, 'request')} and {seconds:.1f} s."
    return line


def result_summary_line(result: RunResult, *, refused: bool) -> str:
    """What became of it, in one line.

    Args:
        result: of a run.
        refused: whether nothing was done, because it must not be.
    """
    totals = _totals(result_summary(part) for part in result.environments)
    lost = sum(map(count_undelivered, result.environments), Counter())
    without_token = {"created": lost[Create], "rotated": lost[Rotate]}
    words = [
        f"{totals[kind]} {kind}" + (f" ({number} not delivered)" if number else "")
        for kind in ("created", "updated", "rotated", "delivered", "revoked")
        if (number := without_token.get(kind, 0)) or totals[kind] or kind == "created"
    ]
    words += [f"{totals['kept']} as declared"]
    words += [f"{totals['failed']} failed"] if totals["failed"] else []
    words += [f"{totals['skipped']} skipped ({_skip_reasons(result)})"] if totals["skipped"] else []
    words += _failed_environments(result.environments)
    verdict = "Refused" if refused else "Incomplete" if result.incomplete else "Done"
    return f"{verdict}: {', '.join(words)}."


def _skip_reasons(result: RunResult) -> str:
    """Why actions were skipped, each reason once."""
    parts = [part for part in result.environments if isinstance(part, Executed)]
    skipped = (one for part in parts for one in part.results if isinstance(one, Skipped))
    return ", ".join(dict.fromkeys(one.failure.code for one in skipped))


def _failed_environments(parts: Iterable[object]) -> list[str]:
    failed = sum(isinstance(part, Unobserved) for part in parts)
    return [f"{pluralize(failed, 'environment')} not reached"] if failed else []


def _totals(summaries: Iterable[dict[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for summary in summaries:
        for word, number in summary.items():
            totals[word] = totals.get(word, 0) + number
    return totals


def _state(key: ObservedKey, now: datetime) -> str:
    if key.live(now):
        return "live"
    return "expired" if key.revoked_at is None else "revoked"


def align_columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The columns of a table, padded; one very long cell does not push the others away."""
    if not rows:
        return []
    widths = [min(_MAX_CELL_WIDTH, max(map(len, column))) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
