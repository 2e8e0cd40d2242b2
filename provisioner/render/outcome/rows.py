"""Descriptions and counts of actions, results and findings, which every report shows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple, assert_never

from provisioner.errors.pluralize import pluralize
from provisioner.execution import (
    CreatedByAnotherRun,
    Done,
    Executed,
    Failed,
    Skipped,
    Unfinished,
    created_by_this_run,
    undelivered,
)
from provisioner.model.uuids import is_uuid
from provisioner.plan import (
    Clean,
    Create,
    Deliver,
    DeliveryUnknown,
    Drift,
    Duplicate,
    Expiring,
    LeftBehind,
    MovedConflict,
    Planned,
    Rename,
    ReportedFinding,
    Revoke,
    Rotate,
    Unmanaged,
    Unobserved,
    Update,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.errors.failure import Failure
    from provisioner.execution import Result, RunResult
    from provisioner.model.workspace import Record
    from provisioner.plan import Action, EnvironmentPlan, Finding, Plan, Upcoming
    from provisioner.render.text import Tone


_PLAN_COUNTS = ("create", "update", "rename", "rotate", "deliver", "revoke", "clean", "keep")
"""The counts of a plan that its summary line shows, in this order."""

_DONE_COUNTS = (
    *("created", "updated", "renamed", "rotated", "delivered", "revoked", "cleaned"),
    *("kept", "failed"),
)
"""The counts of a result that its summary line shows, in this order."""


class Description(NamedTuple):
    """The parts of an action that its type determines.

    Attributes:
        kind: its name in reports.
        symbol: the sign before its line of text.
        tone: the colour of that line.
        key_ids: the ids of the live keys that it changes.
        details: what it does, in a few words.
    """

    kind: Literal["create", "update", "rename", "rotate", "deliver", "revoke", "clean"]
    symbol: str
    tone: Tone
    key_ids: tuple[str, ...]
    details: str

    @property
    def specifics(self) -> str:
        """Return the details without the kind, for a table that has a column for it."""
        return self.details.removeprefix(self.kind).lstrip(", ")


class Row(NamedTuple):
    """An action of a plan, or its result.

    Attributes:
        status: `planned` if it can be carried out; `failed` also if the plan blocks it.
        failure: why it failed or was skipped; None otherwise.
        id: the id of the key, if the action has one.
        record: the key as the server returned it, if it did.
    """

    action: Action
    status: Literal["planned", "done", "created by another run", "failed", "skipped"]
    failure: Failure | None = None
    id: str | None = None
    record: Record | None = None


def rows_of(part: Planned | Executed) -> Iterator[Row]:
    """Yield the actions of an environment's plan, or their results."""
    if isinstance(part, Executed):
        yield from map(describe_result, part.results)
    else:
        for action in part.actions:
            yield Row(action, "failed" if action.blocked else "planned", action.blocked)


def describe_action(action: Action) -> Description:  # noqa: PLR0911 - one a kind
    """Return the parts of an action that its type determines."""
    match action:
        case Create(depth=depth):
            return Description("create", "+", "good", (), f"depth {depth}")
        case Update(key_id=key_id, changes=changes):
            details = ", ".join(
                f"{change.field} {change.actual or 'none'} -> {change.desired}"
                for change in changes
            )
            return Description("update", "~", "change", (key_id,), details)
        case Rename(key_id=key_id, old_name=old_name):
            return Description("rename", "~", "change", (key_id,), f"rename from {old_name}")
        case Rotate(reason=reason, predecessors=key_ids, at_once=at_once):
            details = f"rotate, {reason}" + (", revoke the old key at once" if at_once else "")
            return Description("rotate", "~", "change", key_ids, details)
        case Deliver(reason=reason, key_id=key_id):
            details = f"deliver, {reason.replace('_', ' ')}"
            return Description("deliver", ">", "good", (key_id,), details)
        case Revoke(reason=reason, key_id=key_id):
            return Description("revoke", "-", "loss", (key_id,), f"revoke {key_id}, {reason}")
        case Clean(reason=reason, sink=sink, key_id=key_id):
            details = f"remove the token of {key_id} from {sink}, {reason}"
            return Description("clean", "-", "loss", (key_id,), details)
        case _:
            assert_never(action)


def describe_sinks(action: Action) -> str:
    """Return the sinks that get a token from an action; empty if it mints none."""
    no_sink = "no sink" if isinstance(action, Create | Rotate) else ""
    return ", ".join(map(str, action.sinks)) or no_sink


def describe_result(result: Result) -> Row:
    """Return the row of a result."""
    action = result.action
    match result:
        case Done(id=id_, record=record):
            return Row(action, "done", None, id_, record)
        case CreatedByAnotherRun(id=id_, record=record):
            return Row(action, "created by another run", None, id_, record)
        case Unfinished(id=id_, record=record, failure=failure):
            return Row(action, "failed", failure, id_, record)
        case Failed(failure=failure):
            return Row(action, "failed", failure)
        case Skipped(failure=failure):
            return Row(action, "skipped", failure)
        case _:
            assert_never(result)


def finding_kind(finding: Finding | ReportedFinding) -> str:  # noqa: PLR0911 - one a kind
    """Return the code of a finding, as in docs/errors.md."""
    match finding:
        case Unmanaged():
            return "unmanaged"
        case Duplicate():
            return "duplicate"
        case MovedConflict():
            return "moved_conflict"
        case Drift():
            return "drift"
        case Expiring():
            return "expiring"
        case DeliveryUnknown():
            return "delivery_unknown"
        case LeftBehind():
            return "left_behind"
        case ReportedFinding(kind=kind):
            return kind
        case _:
            assert_never(finding)


class FindingList(NamedTuple):
    """The findings of a plan for people, who rarely want to see every unmanaged key.

    Attributes:
        listed: the findings to list.
        unmanaged: the number of keys that no manifest declares.
        unlisted: that number, with the option that lists them; empty if they are listed.
    """

    listed: tuple[Finding | ReportedFinding, ...]
    unmanaged: int
    unlisted: str


def finding_list(planned: Iterable[Planned], *, unmanaged: bool = False) -> FindingList:
    """Return the findings of environments.

    Args:
        planned: the plans.
        unmanaged: whether to list the keys that no manifest declares.
    """
    findings = tuple(one for part in planned for one in part.findings)
    others = tuple(one for one in findings if finding_kind(one) != "unmanaged")
    count = sum(len(one.ids) for one in findings if finding_kind(one) == "unmanaged")
    if unmanaged or not count:
        return FindingList(findings, count, "")
    pronoun = "it" if count == 1 else "them"
    text = f"{pluralize(count, 'unmanaged key')}; list {pronoun} with --unmanaged"
    return FindingList(others, count, text)


_MAX_UPCOMING = 10
"""Later revocations of an environment that text names."""

_DAYS_FROM = 72
"""Hours from which a time is given in days."""


def describe_upcoming(upcoming: Upcoming) -> str:
    """Return what a later run does to a key, and when: `revokes 9f1c2d3e… in 31 h, …`."""
    return f"revokes {_short_id(upcoming.key_id)} {describe_end(upcoming)}"


def describe_end(upcoming: Upcoming) -> str:
    """Return when a later run revokes a key, and why, as the rest of a sentence."""
    match upcoming.waits_for, upcoming.hours_left:
        case "delivery", _:
            return f"{_hours(upcoming.overlap_hours)} after the token of its successor is delivered"
        case "proof", _:
            return "when its overlap is over and every sink is shown to have its successor's token"
        case _, int(left) if left:
            return f"in {_hours(left)}, when its overlap is over"
        case _:
            return "with the next apply, as its overlap is over"


def upcoming_texts(upcoming: Iterable[Upcoming]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of the first later revocations, then the number of the others.

    The number has no name.
    """
    later = soonest_first(upcoming)
    for one in later[:_MAX_UPCOMING]:
        yield one.name, f"later: {describe_upcoming(one)}"
    if (more := len(later) - _MAX_UPCOMING) > 0:
        yield "", f"and {pluralize(more, 'more later revocation')}"


def soonest_first(upcoming: Iterable[Upcoming]) -> list[Upcoming]:
    """Return later revocations in the order of their times, those without a time last."""
    return sorted(upcoming, key=lambda one: (one.hours_left is None, one.hours_left))


def _hours(hours: int) -> str:
    return f"{hours} h" if hours < _DAYS_FROM else f"{-(-hours // 24)} days"


def _short_id(key_id: str) -> str:
    return f"{key_id[:8]}…" if is_uuid(key_id) else key_id


def plan_summary(part: EnvironmentPlan) -> dict[str, int]:
    """Count the actions of each kind that are not blocked, the kept keys and the findings."""
    planned = part if isinstance(part, Planned) else None
    actions = planned.unblocked if planned else ()
    kinds: Counter[type[Action]] = Counter(map(type, actions))
    return {
        "create": kinds[Create],
        "update": kinds[Update],
        "rename": kinds[Rename],
        "rotate": kinds[Rotate],
        "deliver": kinds[Deliver],
        "revoke": kinds[Revoke],
        "clean": kinds[Clean],
        "keep": len(planned.kept) if planned else 0,
        "findings": len(planned.findings) if planned else 0,
    }


def result_summary(part: Executed | Unobserved) -> dict[str, int]:
    """Count the actions of each kind that were done, failed or skipped, and the kept keys.

    A key that this run created counts as created, even if its action failed afterwards.
    """
    results = part.results if isinstance(part, Executed) else ()
    done: Counter[type[Action]] = Counter(
        type(one.action) for one in results if isinstance(one, Done) or created_by_this_run(one)
    )
    outcomes: Counter[type[Result]] = Counter(map(type, results))
    kept = len(part.planned.kept) if isinstance(part, Executed) else 0
    return {
        "created": done[Create],
        "updated": done[Update],
        "renamed": done[Rename],
        "rotated": done[Rotate],
        "delivered": done[Deliver],
        "undelivered": sum(map(undelivered, results)),
        "revoked": done[Revoke],
        "cleaned": done[Clean],
        "kept": kept + outcomes[CreatedByAnotherRun],
        "failed": outcomes[Failed] + outcomes[Unfinished],
        "skipped": outcomes[Skipped],
    }


def plan_summary_line(plan: Plan) -> str:
    """Return the counts of a plan, in one line."""
    totals = total_of(map(plan_summary, plan.environments))
    planned = [part for part in plan.environments if isinstance(part, Planned)]
    blocked = sum(action.blocked is not None for part in planned for action in part.actions)
    counts = [
        f"{totals[kind]} to {kind}"
        for kind in _PLAN_COUNTS
        if totals[kind] or kind in {"create", "keep"}
    ]
    counts += [f"{blocked} blocked"] if blocked else []
    findings = finding_list(planned)
    counts += [pluralize(len(findings.listed), "finding")] if findings.listed else []
    counts += [pluralize(findings.unmanaged, "unmanaged key")] if findings.unmanaged else []
    counts += _unobserved(plan.environments)
    line = f"Plan: {', '.join(counts)}."
    if any(part.unblocked for part in planned):
        requests = sum(part.estimate.requests for part in planned)
        seconds = max(part.estimate.seconds for part in planned)
        line += f" About {pluralize(requests, 'request')} and {seconds:.1f} s."
    return line


def result_summary_line(result: RunResult, *, refused: bool) -> str:
    """Return the counts of a result, in one line.

    Args:
        result: the result of a run.
        refused: whether a guard refused the run, so that nothing was done.
    """
    totals = total_of(map(result_summary, result.environments))
    results = [
        one for part in result.environments if isinstance(part, Executed) for one in part.results
    ]
    without_token = Counter(type(one.action) for one in results if undelivered(one))
    notes = {"created": without_token[Create], "rotated": without_token[Rotate]}
    counts = [
        f"{totals[kind]} {kind}" + (f" ({notes[kind]} undelivered)" if notes.get(kind) else "")
        for kind in _DONE_COUNTS
        if totals[kind] or kind in {"created", "kept"}
    ]
    if totals["skipped"]:
        codes = dict.fromkeys(one.failure.code for one in results if isinstance(one, Skipped))
        counts.append(f"{totals['skipped']} skipped ({', '.join(codes)})")
    counts += _unobserved(result.environments)
    status = "Refused" if refused else "Incomplete" if result.incomplete else "Done"
    return f"{status}: {', '.join(counts)}."


def _unobserved(parts: Iterable[object]) -> list[str]:
    count = sum(isinstance(part, Unobserved) for part in parts)
    return [f"{pluralize(count, 'environment')} not reached"] if count else []


def total_of(summaries: Iterable[dict[str, int]]) -> Counter[str]:
    """Return the sums of summaries."""
    totals: Counter[str] = Counter()
    for summary in summaries:
        totals.update(summary)
    return totals
