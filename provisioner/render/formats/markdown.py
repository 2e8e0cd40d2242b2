"""Markdown, for a comment or the summary of a pipeline's job."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.audit.key_audit import FleetAudit
from provisioner.execution import RunResult
from provisioner.plan import Plan
from provisioner.render.audit.markdown import audit_markdown
from provisioner.render.markdown import problems_markdown
from provisioner.render.outcome.markdown import plan_markdown, result_markdown

if TYPE_CHECKING:
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette


def render(report: ReportInput, _: Palette) -> str:
    """Return the outcome of a command, or the problems of the manifests if there is none."""
    match report.outcome:
        case Plan() as plan:
            return plan_markdown(plan, report.refusal)
        case RunResult() as result:
            return result_markdown(result, report.refusal)
        case FleetAudit() as audit:
            return audit_markdown(audit)
        case None:
            return problems_markdown(report)
        case other:
            assert_never(other)
