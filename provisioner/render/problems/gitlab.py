"""Problems as GitLab's code quality report: a JSON array, shown beside the lines of a merge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.render.text import visible

if TYPE_CHECKING:
    from provisioner.render.json import Document
    from provisioner.render.problems.validation_result import ValidationResult


def problems_gitlab(examined: ValidationResult) -> list[Document]:
    """One entry for each problem, which blocks because no run begins with it, and each warning."""
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
        for (problem, warns), fingerprint in zip(
            examined.entries, examined.fingerprints, strict=True
        )
    ]
