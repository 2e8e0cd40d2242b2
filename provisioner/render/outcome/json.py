"""Plans and results as JSON, by `schemas/plan.schema.json` and `schemas/result.schema.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.execution import Executed
from provisioner.model.expiry import format_timestamp
from provisioner.plan import Clean, Drift, Rename, ReportedFinding, Unobserved, Update
from provisioner.render.json import annotations_document, failure_document, upcoming_document
from provisioner.render.outcome.rows import (
    describe_action,
    finding_kind,
    plan_summary,
    result_summary,
    rows_of,
)

if TYPE_CHECKING:
    from provisioner.errors.failure import Failure
    from provisioner.execution import RunResult
    from provisioner.plan import Action, Finding, Plan, Planned
    from provisioner.render.json import Document
    from provisioner.render.outcome.rows import Row


def plan_document(plan: Plan, refusal: Failure | None = None) -> Document:
    """Return the document `provision/plan/v1`; a refusal says why the plan may not be applied."""
    parts = [_environment(part, plan_summary(part), "actions") for part in plan.environments]
    return _document("provision/plan/v1", plan, refusal, parts)


def result_document(result: RunResult, refusal: Failure | None = None) -> Document:
    """Return the document `provision/result/v1`; a refusal says why nothing was done."""
    parts = [_environment(part, result_summary(part), "results") for part in result.environments]
    return _document("provision/result/v1", result, refusal, parts)


def action_identity(action: Action) -> Document:
    """Return the fields that identify an action in its environment: kind, name, key ids, sink."""
    description = describe_action(action)
    identity: Document = {"action": description.kind, "name": action.name}
    identity["ids"] = list(description.key_ids)
    return identity | ({"sink": str(action.sink)} if isinstance(action, Clean) else {})


def environment_error(part: Planned | Executed | Unobserved) -> Document | None:
    """Return the error that failed a whole environment; None if it was observed."""
    return failure_document(part.failure) if isinstance(part, Unobserved) else None


def row_outcome(row: Row) -> Document:
    """Return the outcome of an action: status, id, record and error."""
    return {
        "status": row.status if row.failure else "done",
        "id": row.id,
        "record": row.record,
        "error": failure_document(row.failure),
    }


def _document(
    format_: str, outcome: Plan | RunResult, refusal: Failure | None, environments: list[Document]
) -> Document:
    return {
        "format": format_,
        "created_at": format_timestamp(outcome.created_at),
        "digest": outcome.digest,
        "refusal": failure_document(refusal),
        "environments": environments,
    }


def _environment(
    part: Planned | Executed | Unobserved, summary: dict[str, int], rows_name: str
) -> Document:
    planned = part.planned if isinstance(part, Executed) else part
    rows, findings, generation, requests, seconds = [], [], None, 0, 0.0
    if not isinstance(planned, Unobserved):
        generation = planned.generation
        findings = [_finding(finding) for finding in planned.findings]
        requests, seconds = planned.estimate.requests, planned.estimate.seconds
    if isinstance(part, Executed):
        rows = [_action(row.action) | row_outcome(row) for row in rows_of(part)]
    elif not isinstance(part, Unobserved):
        rows = [
            _action(action)
            | ({"error": failure_document(action.blocked)} if action.blocked else {})
            for action in part.actions
        ]
    return {
        "environment": planned.environment,
        "url": planned.url,
        "generation": generation,
        "error": environment_error(planned),
        "summary": summary,
        rows_name: rows,
        "findings": findings,
        "upcoming": []
        if isinstance(part, Unobserved)
        else list(map(upcoming_document, part.upcoming)),
        "estimate": {"requests": requests, "seconds": seconds},
    }


def _action(action: Action) -> Document:
    description = describe_action(action)
    place = action.place
    document: Document = {
        "action": description.kind,
        "name": action.name,
        "reason": action.reason,
        "depth": action.depth,
        "expires_at": None if action.expires_at is None else format_timestamp(action.expires_at),
        "role": action.role,
        "manifest": place.file if place else None,
        "line": place.line if place else None,
        "sinks": list(map(str, action.sinks)),
        "ids": list(description.key_ids),
        **annotations_document(action.annotations),
    }
    if isinstance(action, Rename):
        document["old_name"] = action.old_name
    if isinstance(action, Clean):
        document["sink"] = str(action.sink)
    if isinstance(action, Update):
        document["changes"] = [
            {"what": change.field, "from": change.actual, "to": change.desired}
            for change in action.changes
        ]
    return document


def _finding(finding: Finding | ReportedFinding) -> Document:
    document: Document = {
        "finding": finding_kind(finding),
        "name": finding.name,
        "ids": list(finding.ids),
        "message": finding.message,
    }
    if isinstance(finding, Drift | ReportedFinding) and document["finding"] == "drift":
        document |= {"from": finding.actual, "to": finding.desired}
    return document
