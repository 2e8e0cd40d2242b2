"""Text for people, with colours on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.render.report import CONTENTS, ReportFormat
from provisioner.render.text import failure_line, problems_text

if TYPE_CHECKING:
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette


def render(report: ReportInput, palette: Palette) -> str:
    """Return the outcome of a command, or the problems of the manifests if there is none."""
    from provisioner.audit.key_audit import FleetAudit
    from provisioner.execution import RunResult
    from provisioner.plan import Plan
    from provisioner.render.audit.text import audit_text
    from provisioner.render.outcome.text import plan_text, result_text

    outcome, refusal = report.outcome, report.refusal
    reason = "" if refusal is None else f"{failure_line(refusal, palette)}\n"
    match outcome:
        case Plan():
            return plan_text(outcome, palette) + reason
        case RunResult():
            return result_text(outcome, palette, refused=refusal is not None) + reason
        case FleetAudit():
            return audit_text(outcome, palette, quiet=report.quiet)
        case None:
            problems = report.validation.problems
            return problems_text(problems, palette) if problems else f"{report.summary}\n"
        case _:
            assert_never(outcome)


FORMAT = ReportFormat(CONTENTS, "text", render)
