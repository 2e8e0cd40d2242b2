"""The JSON documents on stdout, each by its schema in `schemas/`, without secrets."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, assert_never

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
from provisioner.model.expiry import format_timestamp
from provisioner.plan import (
    Create,
    Deliver,
    DeliveryUnknown,
    Drift,
    Duplicate,
    Expiring,
    Planned,
    Revoke,
    Rotate,
    Unmanaged,
    Unobserved,
    Update,
)
from provisioner.secret import masked_document

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from provisioner.errors.failure import Failure
    from provisioner.errors.problem import Problem
    from provisioner.execution import Result, RunResult
    from provisioner.model.observed import ObservedKey
    from provisioner.plan import Action, EnvironmentPlan, Finding, Plan

Document = dict[str, object]


def as_json(document: object) -> str:
    """Return a document as JSON text, with secrets masked, in ASCII so that any stdout takes it."""
    return json.dumps(masked_document(document), indent=2) + "\n"


def plan_document(plan: Plan, refusal: Failure | None = None) -> Document:
    """Return the document `provision/plan/v1`; a refusal says why the plan may not be applied."""
    return {
        "format": "provision/plan/v1",
        "created_at": format_timestamp(plan.created_at),
        "digest": plan.digest,
        "refusal": refusal_document(refusal),
        "environments": [_environment_plan(part) for part in plan.environments],
    }


def result_document(result: RunResult, refusal: Failure | None = None) -> Document:
    """Return the document `provision/result/v1`; a refusal says why nothing was done."""
    return {
        "format": "provision/result/v1",
        "created_at": format_timestamp(result.created_at),
        "digest": result.digest,
        "refusal": refusal_document(refusal),
        "environments": [_environment_result(part) for part in result.environments],
    }


def problems_document(problems: Iterable[Problem]) -> Document:
    """Return the document `provision/problems/v1`."""
    return {
        "format": "provision/problems/v1",
        "problems": [
            {
                "file": problem.place.file,
                "line": problem.place.line,
                "column": problem.place.column,
                "code": problem.code,
                "message": problem.message,
            }
            for problem in problems
        ],
    }


def key_document(environment: str, key: ObservedKey, now: datetime) -> Document:
    """Return one entry of `list --format json`; `now` is the server's time."""
    return {
        "environment": environment,
        "id": key.id,
        "name": key.name,
        "live": key.live(now),
        "expires_at": format_timestamp(key.expires_at),
        "revoked_at": None if key.revoked_at is None else format_timestamp(key.revoked_at),
        "created_at": format_timestamp(key.created_at),
        "role": key.role,
    }


def plan_summary(plan: EnvironmentPlan) -> dict[str, int]:
    """Count the actions of each kind that are not blocked, the kept keys and the findings."""
    kinds: Counter[type[Action]] = Counter()
    kept, findings = 0, 0
    if isinstance(plan, Planned):
        kinds.update(type(action) for action in plan.unblocked)
        kept, findings = len(plan.kept), len(plan.findings)
    return {
        "create": kinds[Create],
        "update": kinds[Update],
        "rotate": kinds[Rotate],
        "deliver": kinds[Deliver],
        "revoke": kinds[Revoke],
        "keep": kept,
        "findings": findings,
    }


def result_summary(result: Executed | Unobserved) -> dict[str, int]:
    """Count the actions of each kind that were done, failed or skipped, and the kept keys.

    A key that this run created counts as created, even if its action failed afterwards.
    """
    done: Counter[type[Action]] = Counter()
    kinds: Counter[type[Result]] = Counter()
    kept = 0
    if isinstance(result, Executed):
        done.update(
            type(one.action)
            for one in result.results
            if isinstance(one, Done) or created_by_this_run(one)
        )
        kinds.update(type(one) for one in result.results)
        kept = len(result.planned.kept) + kinds[CreatedByAnotherRun]
    return {
        "created": done[Create],
        "updated": done[Update],
        "rotated": done[Rotate],
        "delivered": done[Deliver],
        "undelivered": sum(count_undelivered(result).values()),
        "revoked": done[Revoke],
        "kept": kept,
        "failed": kinds[Failed] + kinds[Unfinished],
        "skipped": kinds[Skipped],
    }


def count_undelivered(result: Executed | Unobserved) -> Counter[type[Action]]:
    """Count the created keys whose token did not reach every sink, by kind of action."""
    results = result.results if isinstance(result, Executed) else ()
    return Counter(type(one.action) for one in results if undelivered(one))


def _environment_plan(plan: EnvironmentPlan) -> Document:
    match plan:
        case Planned():
            actions = [
                _action(action) | ({"error": _error(action.blocked)} if action.blocked else {})
                for action in plan.actions
            ]
            return (
                _environment_fields(plan, plan_summary(plan))
                | {"actions": actions}
                | _findings_and_estimate(plan)
            )
        case Unobserved():
            return (
                _environment_fields(plan, plan_summary(plan))
                | {"actions": []}
                | _findings_and_estimate(plan)
            )
        case _:
            assert_never(plan)


def _environment_result(result: Executed | Unobserved) -> Document:
    match result:
        case Executed(planned=planned):
            results = [_result(one) for one in result.results]
            return (
                _environment_fields(planned, result_summary(result))
                | {"results": results}
                | _findings_and_estimate(planned)
            )
        case Unobserved():
            return (
                _environment_fields(result, result_summary(result))
                | {"results": []}
                | _findings_and_estimate(result)
            )
        case _:
            assert_never(result)


def _environment_fields(plan: EnvironmentPlan, summary: dict[str, int]) -> Document:
    match plan:
        case Planned(generation=generation):
            observed: Document = {"generation": generation, "error": None}
        case Unobserved(failure=failure):
            observed = {"generation": None, "error": _error(failure)}
        case _:
            assert_never(plan)
    return {"environment": plan.environment, "url": plan.url, **observed, "summary": summary}


def _findings_and_estimate(plan: EnvironmentPlan) -> Document:
    if isinstance(plan, Unobserved):
        return {"findings": [], "estimate": {"requests": 0, "seconds": 0.0}}
    return {
        "findings": [_finding(finding) for finding in plan.findings],
        "estimate": {"requests": plan.estimate.requests, "seconds": plan.estimate.seconds},
    }


def _action(action: Action) -> Document:
    place = action.place
    document: Document = {
        "action": action_kind(action),
        "name": action.name,
        "reason": action.reason,
        "depth": action.depth,
        "expires_at": format_timestamp(action.expires_at),
        "role": action.role,
        "manifest": None if place is None else place.file,
        "line": None if place is None else place.line,
        "sinks": list(map(str, action.sinks)),
    }
    document["ids"] = action_identity(action)["ids"]
    if isinstance(action, Update):
        document["changes"] = [
            {"what": change.field, "from": change.actual, "to": change.desired}
            for change in action.changes
        ]
    return document


def action_kind(action: Action) -> str:
    """Return the name of an action in reports."""
    match action:
        case Create():
            return "create"
        case Update():
            return "update"
        case Rotate():
            return "rotate"
        case Deliver():
            return "deliver"
        case Revoke():
            return "revoke"
        case _:
            assert_never(action)


def action_identity(action: Action) -> Document:
    """Return the fields that identify an action in its environment: kind, name and key ids."""
    match action:
        case Create():
            ids: tuple[str, ...] = ()
        case Rotate(predecessors=predecessors):
            ids = predecessors
        case Update() | Deliver() | Revoke():
            ids = (action.key_id,)
        case _:
            assert_never(action)
    return {"action": action_kind(action), "name": action.name, "ids": list(ids)}


def environment_error(outcome: EnvironmentPlan | Executed) -> dict[str, str] | None:
    """Return the error that failed a whole environment; None if it was observed."""
    return _error(outcome.failure) if isinstance(outcome, Unobserved) else None


def _result(result: Result) -> Document:
    return _action(result.action) | result_outcome(result)


def result_outcome(result: Result) -> Document:
    """Return the outcome of an action: status, id, record and error."""
    match result:
        case Done() | CreatedByAnotherRun():
            outcome: Document = {"status": "done", "id": result.id, "record": result.record}
            outcome["error"] = None
        case Unfinished(failure=failure):
            outcome = {"status": "failed", "id": result.id, "record": result.record}
            outcome["error"] = _error(failure)
        case Failed() | Skipped():
            status = "failed" if isinstance(result, Failed) else "skipped"
            outcome = {"status": status, "id": None, "record": None}
            outcome["error"] = _error(result.failure)
        case _:
            assert_never(result)
    return outcome


def _finding(finding: Finding) -> Document:
    document: Document = {
        "finding": finding_kind(finding),
        "name": finding.name,
        "ids": list(finding.ids),
        "message": finding.message,
    }
    if isinstance(finding, Drift):
        document |= {"from": finding.actual, "to": finding.desired}
    return document


def finding_kind(finding: Finding) -> str:
    """Return the code of a finding, as in docs/errors.md."""
    match finding:
        case Unmanaged():
            return "unmanaged"
        case Duplicate():
            return "duplicate"
        case Drift():
            return "drift"
        case Expiring():
            return "expiring"
        case DeliveryUnknown():
            return "delivery_unknown"
        case _:
            assert_never(finding)


def refusal_document(refusal: Failure | None) -> dict[str, str] | None:
    """Return why a guard refused a plan; None if none did."""
    return None if refusal is None else _error(refusal)


def _error(failure: Failure) -> dict[str, str]:
    return {"code": failure.code, "message": failure.text}
