"""JSON for programs: the documents of `schemas/`."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.render.report import CONTENTS, ReportFormat

if TYPE_CHECKING:
    from provisioner.render.json import Document
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette


def render(report: ReportInput, _: Palette) -> Document:
    """Return the outcome of a command, or the problems of the manifests if there is none."""
    from provisioner.audit.key_audit import FleetAudit
    from provisioner.execution import RunResult
    from provisioner.plan import Plan
    from provisioner.render.audit.json import audit_document
    from provisioner.render.json import problems_document
    from provisioner.render.outcome.json import plan_document, result_document

    outcome = report.outcome
    match outcome:
        case Plan():
            return plan_document(outcome, report.refusal)
        case RunResult():
            return result_document(outcome, report.refusal)
        case FleetAudit():
            return audit_document(outcome)
        case None:
            return problems_document(report.validation.problems)
        case _:
            assert_never(outcome)


FORMAT = ReportFormat(CONTENTS, "json", render)
