"""Problems as a GitLab code quality report: a JSON array that merge requests show beside lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.render.text import visible

if TYPE_CHECKING:
    from provisioner.render.json import Document
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette


def render(report: ReportInput, _: Palette) -> list[Document]:
    """Return one entry for each problem and warning; a problem is a blocker, as no run starts."""
    return [
        {
            "description": visible(problem.message),
            "check_name": problem.code,
            "fingerprint": fingerprint,
            "severity": "minor" if warns else "blocker",
            "location": {
                "path": problem.place.file,
                "lines": {"begin": problem.place.line},
                "positions": {
                    "begin": {"line": problem.place.line, "column": problem.place.column}
                },
            },
        }
        for problem, warns, fingerprint in report.fingerprinted
    ]
