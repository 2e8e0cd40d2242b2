"""Markdown, for a comment or the summary of a pipeline's job."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.render.report import CONTENTS, ReportFormat

if TYPE_CHECKING:
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette


def render(report: ReportInput, _: Palette) -> str:
    """Return the outcome of a command, or the problems of the manifests if there is none."""
    from provisioner.audit.key_audit import FleetAudit
    from provisioner.execution import RunResult
    from provisioner.plan import Plan
    from provisioner.render.audit.markdown import audit_markdown
    from provisioner.render.markdown import problems_markdown
    from provisioner.render.outcome.markdown import plan_markdown, result_markdown

    outcome = report.outcome
    match outcome:
        case Plan():
            return plan_markdown(outcome, report.refusal)
        case RunResult():
            return result_markdown(outcome, report.refusal)
        case FleetAudit():
            return audit_markdown(outcome)
        case None:
            return problems_markdown(report.validation)
        case _:
            assert_never(outcome)


FORMAT = ReportFormat(CONTENTS, "markup", render)
