"""A report in each output format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, assert_never, get_args

from provisioner.execution import RunResult
from provisioner.plan import Plan
from provisioner.render.json import as_json, plan_document, problems_document, result_document
from provisioner.render.markdown import plan_markdown, problems_markdown, result_markdown
from provisioner.render.problems import (
    problems_github,
    problems_gitlab,
    problems_junit,
    problems_sarif,
)
from provisioner.render.text import PLAIN, plan_text, problems_text, refusal_text, result_text
from provisioner.secret import MIN_DATA_LENGTH, masked

if TYPE_CHECKING:
    from provisioner.errors.failure import Failure
    from provisioner.render.problems import ValidationResult
    from provisioner.render.text import Palette

OutputFormat = Literal["text", "json", "markdown", "github", "gitlab", "junit", "sarif"]

OUTPUT_FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)


@dataclass(frozen=True, slots=True)
class ReportInput:
    """The content of a report.

    Attributes:
        validation: the manifests, with their problems.
        summary: the line that text shows for manifests without problems.
        outcome: the plan, or the result of carrying it out; None if the command did neither.
        refusal: why a guard refused the plan; None if none did.
    """

    validation: ValidationResult
    summary: str = ""
    outcome: Plan | RunResult | None = None
    refusal: Failure | None = None


def render(report: ReportInput, output_format: OutputFormat, palette: Palette = PLAIN) -> str:
    """Return a report in an output format, with every secret of this process masked.

    Text, JSON and Markdown show the outcome, or the problems of the manifests if there is no
    outcome. The other formats show only the problems of the manifests.
    """
    validation = report.validation
    match output_format:
        case "text":
            rendered = _masked(_text(report, palette))
        case "json":
            rendered = as_json(_document(report))
        case "markdown":
            rendered = _masked(_markdown(report))
        case "github":
            rendered = _masked(problems_github(validation))
        case "gitlab":
            rendered = as_json(problems_gitlab(validation))
        case "junit":
            rendered = _masked(problems_junit(validation))
        case "sarif":
            rendered = as_json(problems_sarif(validation))
        case _:
            assert_never(output_format)
    return rendered


def _masked(text: str) -> str:
    return masked(text, min_length=MIN_DATA_LENGTH)


def _text(report: ReportInput, palette: Palette) -> str:
    refused = report.refusal is not None
    reason = "" if report.refusal is None else refusal_text(report.refusal, palette)
    match report.outcome:
        case Plan():
            return plan_text(report.outcome, palette) + reason
        case RunResult():
            return result_text(report.outcome, palette, refused=refused) + reason
        case None:
            if report.validation.problems:
                return problems_text(report.validation.problems, palette)
            return f"{report.summary}\n"
        case _:
            assert_never(report.outcome)


def _document(report: ReportInput) -> object:
    match report.outcome:
        case Plan():
            return plan_document(report.outcome, report.refusal)
        case RunResult():
            return result_document(report.outcome, report.refusal)
        case None:
            return problems_document(report.validation.problems)
        case _:
            assert_never(report.outcome)


def _markdown(report: ReportInput) -> str:
    match report.outcome:
        case Plan():
            return plan_markdown(report.outcome, report.refusal)
        case RunResult():
            return result_markdown(report.outcome, report.refusal)
        case None:
            return problems_markdown(report.validation)
        case _:
            assert_never(report.outcome)
