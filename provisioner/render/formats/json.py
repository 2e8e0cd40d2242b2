"""JSON for programs: the documents of `schemas/`."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.audit.key_audit import FleetAudit
from provisioner.execution import RunResult
from provisioner.plan import Plan
from provisioner.render.audit.json import audit_document
from provisioner.render.json import problems_document
from provisioner.render.outcome.json import plan_document, result_document

if TYPE_CHECKING:
    from provisioner.render.json import Document
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette


def render(report: ReportInput, _: Palette) -> Document:
    """Return the outcome of a command, or the problems of the manifests if there is none."""
    match report.outcome:
        case Plan() as plan:
            return plan_document(plan, report.refusal)
        case RunResult() as result:
            return result_document(result, report.refusal)
        case FleetAudit() as audit:
            return audit_document(audit)
        case None:
            return problems_document(report.problems)
        case other:
            assert_never(other)
