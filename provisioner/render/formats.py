"""What a run has to tell, in each form that may be asked for."""

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
    """What a run has to tell.

    Attributes:
        examined: the manifests, with or without problems.
        summary: a line on manifests without problems.
        outcome: what was planned, or what became of it; None where it came to neither.
        refusal: why nothing of the plan may be done, where a guard says so.
    """

    validation: ValidationResult
    summary: str = ""
    outcome: Plan | RunResult | None = None
    refusal: Failure | None = None


def render(report: ReportInput, output_format: OutputFormat, palette: Palette = PLAIN) -> str:
    """All of it as text, JSON or Markdown; the problems of the manifests in the other forms.

    No secret of this process is in it.
    """
    examined = report.validation
    match output_format:
        case "text":
            shown = _masked(_text(report, palette))
        case "json":
            shown = as_json(_document(report))
        case "markdown":
            shown = _masked(_markdown(report))
        case "github":
            shown = _masked(problems_github(examined))
        case "gitlab":
            shown = as_json(problems_gitlab(examined))
        case "junit":
            shown = _masked(problems_junit(examined))
        case "sarif":
            shown = as_json(problems_sarif(examined))
        case _:
            assert_never(output_format)
    return shown


def _masked(text: str) -> str:
    return masked(text, min_length=MIN_DATA_LENGTH)


def _text(told: ReportInput, palette: Palette) -> str:
    refused = told.refusal is not None
    why = "" if told.refusal is None else refusal_text(told.refusal, palette)
    match told.outcome:
        case Plan():
            return plan_text(told.outcome, palette) + why
        case RunResult():
            return result_text(told.outcome, palette, refused=refused) + why
        case None:
            if told.validation.problems:
                return problems_text(told.validation.problems, palette)
            return f"{told.summary}\n"
        case _:
            assert_never(told.outcome)


def _document(told: ReportInput) -> object:
    match told.outcome:
        case Plan():
            return plan_document(told.outcome, told.refusal)
        case RunResult():
            return result_document(told.outcome, told.refusal)
        case None:
            return problems_document(told.validation.problems)
        case _:
            assert_never(told.outcome)


def _markdown(told: ReportInput) -> str:
    match told.outcome:
        case Plan():
            return plan_markdown(told.outcome, told.refusal)
        case RunResult():
            return result_markdown(told.outcome, told.refusal)
        case None:
            return problems_markdown(told.validation)
        case _:
            assert_never(told.outcome)
