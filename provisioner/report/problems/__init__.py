"""The problems of manifests in the forms that other programs show where people look."""

from provisioner.report.problems.examined import Examined
from provisioner.report.problems.github import problems_github
from provisioner.report.problems.gitlab import problems_gitlab
from provisioner.report.problems.junit import problems_junit
from provisioner.report.problems.sarif import problems_sarif

__all__ = [
    "Examined",
    "problems_github",
    "problems_gitlab",
    "problems_junit",
    "problems_sarif",
]
