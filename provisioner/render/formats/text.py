"""Text for people, with colours on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.audit.key_audit import FleetAudit
from provisioner.execution import RunResult
from provisioner.plan import Plan
from provisioner.render.audit.text import audit_text
from provisioner.render.outcome.text import plan_text, result_text
from provisioner.render.text import failure_line, problems_text

if TYPE_CHECKING:
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette


def render(report: ReportInput, palette: Palette) -> str:
    """Return the outcome of a command, or the problems of the manifests if there is none."""
    refusal = report.refusal
    reason = f"{failure_line(refusal, palette)}\n" if refusal else ""
    match report.outcome:
        case Plan() as plan:
            return plan_text(plan, palette) + reason
        case RunResult() as result:
            return result_text(result, palette, refused=refusal is not None) + reason
        case FleetAudit() as audit:
            return audit_text(audit, palette, quiet=report.quiet)
        case None:
            problems = report.problems
            return problems_text(problems, palette) if problems else f"{report.summary}\n"
        case other:
            assert_never(other)
