"""One HTML page without scripts and network requests, for the audit of live keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.render.report import ReportFormat

if TYPE_CHECKING:
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette


def render(report: ReportInput, _: Palette) -> str:
    """Return the page of an audit."""
    from provisioner.audit.key_audit import FleetAudit
    from provisioner.render.audit.html import audit_html

    if not isinstance(report.outcome, FleetAudit):
        raise TypeError
    return audit_html(report.outcome)


FORMAT = ReportFormat(("report",), "markup", render)
