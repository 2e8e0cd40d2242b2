"""Problems as a JUnit report: a test case for each file, which fails if the file has problems.

The report is valid by Ant's schema, the strictest in use: one failure for each test case, and no
attribute for a file or a line.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC
from html import escape
from typing import TYPE_CHECKING

from provisioner.errors.pluralize import pluralize
from provisioner.render.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from provisioner.errors.problem import Problem
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette

_SUITE = "provision validate"


def render(report: ReportInput, _: Palette) -> str:
    """Return the report; a failure lists the problems of its file, one on each line.

    JUnit has no warnings, so they are the output of the suite.
    """
    by_file: dict[str, list[Problem]] = defaultdict(list)
    for problem in report.problems:
        by_file[problem.place.file].append(problem)
    files = tuple(dict.fromkeys((*report.files, *by_file)))
    created_at = report.created_at.astimezone(UTC)
    opening = (
        f'<testsuite name="{_SUITE}" timestamp="{created_at:%Y-%m-%dT%H:%M:%S}" '
        f'hostname="localhost" tests="{len(files)}" failures="{len(by_file)}" errors="0" time="0">'
    )
    warnings = "\n".join(_escape_xml(f"warning: {warning}") for warning in report.warnings)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        opening,
        "  <properties/>",
        *(line for file in files for line in _case(file, by_file.get(file, ()))),
        f"  <system-out>{warnings}</system-out>" if warnings else "  <system-out/>",
        "  <system-err/>",
        "</testsuite>",
    ]
    return "\n".join(lines) + "\n"


def _case(file: str, problems: Sequence[Problem]) -> Iterator[str]:
    head = f'  <testcase classname="{_SUITE}" name="{_escape_xml(file)}" time="0"'
    if not problems:
        yield f"{head}/>"
        return
    message = f"{pluralize(len(problems), 'problem')} in {file}"
    lines = "\n".join(_escape_xml(str(problem)) for problem in problems)
    yield f"{head}>"
    yield f'    <failure type="problem" message="{_escape_xml(message)}">{lines}</failure>'
    yield "  </testcase>"


def _escape_xml(text: str) -> str:
    """Return text for XML, which forbids most unprintable characters."""
    return escape(visible(text))
