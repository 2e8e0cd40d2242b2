"""Problems as the commands by which a job marks lines of files for GitHub's runner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.render.text import visible

if TYPE_CHECKING:
    from provisioner.render.problems.validation_result import ValidationResult


def problems_github(examined: ValidationResult) -> str:
    """One line for each problem and each warning, nothing where there is none.

    GitHub shows ten of each for a step, and all in its log.
    """
    return "".join(
        f"::{'warning' if warns else 'error'} file={_property(problem.place.file)},"
        f"line={problem.place.line},col={problem.place.column},"
        f"title={_property(problem.code)}::{_data(problem.message)}\n"
        for problem, warns in examined.entries
    )


def _data(text: str) -> str:
    """Text behind `::`, in which nothing else is escaped but signs that a terminal obeys."""
    parts = text.replace("\r", "\n").split("\n")
    return "%0A".join(visible(part).replace("%", "%25") for part in parts)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
