"""Problems as workflow commands, which GitHub shows as annotations on lines of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.render.text import visible

if TYPE_CHECKING:
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette


def render(report: ReportInput, _: Palette) -> str:
    """Return one command for each problem and warning.

    GitHub shows the first ten of each as annotations, and all of them in the log of the step.
    """
    return "".join(
        f"::{'warning' if warns else 'error'} file={_property(problem.place.file)},"
        f"line={problem.place.line},col={problem.place.column},"
        f"title={_property(problem.code)}::{_data(problem.message)}\n"
        for problem, warns in report.entries
    )


def _data(text: str) -> str:
    """Return text for the part after `::`, with line breaks, `%` and control characters escaped."""
    parts = text.replace("\r", "\n").split("\n")
    return "%0A".join(visible(part).replace("%", "%25") for part in parts)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
