"""The counts of plans and results, as numbers and as one line of text."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

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
from provisioner.plan import Create, Deliver, Planned, Revoke, Rotate, Unobserved, Update

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioner.execution import Result, RunResult
    from provisioner.plan import Action, EnvironmentPlan, Plan


def plan_summary(part: EnvironmentPlan) -> dict[str, int]:
    """Count the actions of each kind that are not blocked, the kept keys and the findings."""
    planned = part if isinstance(part, Planned) else None
    actions = planned.unblocked if planned else ()
    kinds: Counter[type[Action]] = Counter(map(type, actions))
    return {
        "create": kinds[Create],
        "update": kinds[Update],
        "rotate": kinds[Rotate],
        "deliver": kinds[Deliver],
        "revoke": kinds[Revoke],
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
        "rotated": done[Rotate],
        "delivered": done[Deliver],
        "undelivered": sum(map(undelivered, results)),
        "revoked": done[Revoke],
        "kept": kept + outcomes[CreatedByAnotherRun],
        "failed": outcomes[Failed] + outcomes[Unfinished],
        "skipped": outcomes[Skipped],
    }


def plan_summary_line(plan: Plan) -> str:
    """Return the counts of a plan, in one line."""
    totals = _totals(map(plan_summary, plan.environments))
    planned = [part for part in plan.environments if isinstance(part, Planned)]
    blocked = sum(action.blocked is not None for part in planned for action in part.actions)
    counts = [
        f"{totals[kind]} to {kind}"
        for kind in ("create", "update", "rotate", "deliver", "revoke", "keep")
        if totals[kind] or kind in {"create", "keep"}
    ]
    counts += [f"{blocked} blocked"] if blocked else []
    counts += [pluralize(totals["findings"], "finding")] if totals["findings"] else []
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
    totals = _totals(map(result_summary, result.environments))
    results = [
        one for part in result.environments if isinstance(part, Executed) for one in part.results
    ]
    without_token = Counter(type(one.action) for one in results if undelivered(one))
    notes = {"created": without_token[Create], "rotated": without_token[Rotate]}
    counts = [
        f"{totals[kind]} {kind}" + (f" ({notes[kind]} undelivered)" if notes.get(kind) else "")
        for kind in ("created", "updated", "rotated", "delivered", "revoked", "kept", "failed")
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


def _totals(summaries: Iterable[dict[str, int]]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for summary in summaries:
        totals.update(summary)
    return totals
