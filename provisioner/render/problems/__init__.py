"""The problems of manifests in the formats of CI systems, code scanners and editors."""

from provisioner.render.problems.github import problems_github
from provisioner.render.problems.gitlab import problems_gitlab
from provisioner.render.problems.junit import problems_junit
from provisioner.render.problems.sarif import problems_sarif
from provisioner.render.problems.validation_result import ValidationResult

__all__ = [
    "ValidationResult",
    "problems_github",
    "problems_gitlab",
    "problems_junit",
    "problems_sarif",
]
