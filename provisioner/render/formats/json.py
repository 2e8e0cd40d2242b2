"""JSON for programs: the documents of `schemas/`, with the one of the audit."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, assert_never, get_args

from provisioner.audit.key_audit import FleetAudit, Note
from provisioner.execution import RunResult
from provisioner.model.expiry import format_timestamp
from provisioner.plan import Plan, Unobserved
from provisioner.render.json import annotations_document, failure_document, problems_document
from provisioner.render.outcome.json import plan_document, result_document
from provisioner.render.shards import labelled

if TYPE_CHECKING:
    from collections import Counter

    from provisioner.audit.key_audit import EnvironmentAudit, KeyAudit
    from provisioner.render.json import Document
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette


def render(report: ReportInput, _: Palette) -> Document:
    """Return the outcome of a command, or the problems of the manifests if there is none."""
    match report.outcome:
        case Plan() as plan:
            document = plan_document(plan, report.refusal)
        case RunResult() as result:
            document = result_document(result, report.refusal)
        case FleetAudit() as audit:
            document = audit_document(audit)
        case None:
            return problems_document(report.problems)
        case other:
            assert_never(other)
    return document if report.shard is None else labelled(document, report.shard, report.outcome)


def audit_document(audit: FleetAudit) -> Document:
    """Return the document `provision/report/v1`."""
    return {
        "format": "provision/report/v1",
        "created_at": format_timestamp(audit.created_at),
        "within_hours": audit.within // timedelta(hours=1),
        "summary": _summary(audit.keys, audit.due, audit.missing, audit.notes),
        "environments": [_environment(one) for one in audit.environments],
    }


def _environment(one: EnvironmentAudit | Unobserved) -> Document:
    document: Document = {
        "environment": one.environment,
        "url": one.url,
        "generation": None,
        "error": None,
        "server_time": None,
        "summary": None,
        "keys": [],
        "missing": [],
    }
    if isinstance(one, Unobserved):
        return document | {"error": failure_document(one.failure)}
    return document | {
        "generation": one.generation,
        "server_time": format_timestamp(one.server_time),
        "summary": _summary(len(one.keys), one.due, len(one.missing), one.notes),
        "keys": list(map(_key, one.keys)),
        "missing": list(one.missing),
    }


def _summary(keys: int, due: int, missing: int, notes: Counter[Note]) -> Document:
    counted = {note: notes[note] for note in get_args(Note)}
    return {"keys": keys, "due": due, "missing": missing, "notes": counted}


def _key(key: KeyAudit) -> Document:
    return {
        "name": key.name,
        "id": key.id,
        "state": "declared" if key.declared else "unmanaged",
        "created_at": format_timestamp(key.created_at),
        "expires_at": format_timestamp(key.expires_at),
        "age_days": key.age_days,
        "days_left": key.days_left,
        "role": key.role,
        "delivered": key.delivery,
        "rotation_at": None if key.rotation is None else format_timestamp(key.rotation),
        "due": key.due,
        "notes": list(key.notes),
        **annotations_document(key.annotations),
    }
