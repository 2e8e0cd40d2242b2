"""Problems as a JUnit report: a test case for each file, failed where the file has problems.

Written so that Ant's schema, the strictest of those in use, finds it valid: it knows one failure
for each test case, and no attribute for a file or a line.
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
    from provisioner.render.problems.validation_result import ValidationResult

_SUITE = "provision validate"


def problems_junit(examined: ValidationResult) -> str:
    """The report; the problems of a file are the lines of its failure, as compilers write them.

    JUnit knows no warnings: they are the output of the suite.
    """
    by_file: dict[str, list[Problem]] = defaultdict(list)
    for problem in examined.problems:
        by_file[problem.place.file].append(problem)
    files = tuple(dict.fromkeys((*examined.files, *by_file)))
    moment = examined.checked_at.astimezone(UTC)
    opening = (
        f'<testsuite name="{_SUITE}" timestamp="{moment:%Y-%m-%dT%H:%M:%S}" hostname="localhost" '
        f'tests="{len(files)}" failures="{len(by_file)}" errors="0" time="0">'
    )
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        opening,
        "  <properties/>",
        *(line for file in files for line in _case(file, by_file.get(file, ()))),
        _output(examined.warnings),
        "  <system-err/>",
        "</testsuite>",
    ]
    return "\n".join(lines) + "\n"


def _output(warnings: Sequence[Problem]) -> str:
    told = "\n".join(_escape_xml(f"warning: {warning}") for warning in warnings)
    return f"  <system-out>{told}</system-out>" if told else "  <system-out/>"


def _case(file: str, problems: Sequence[Problem]) -> Iterator[str]:
    head = f'  <testcase classname="{_SUITE}" name="{_escape_xml(file)}" time="0"'
    if not problems:
        yield f"{head}/>"
        return
    message = f"{pluralize(len(problems), 'problem')} in {file}"
    told = "\n".join(_escape_xml(str(problem)) for problem in problems)
    yield f"{head}>"
    yield f'    <failure type="problem" message="{_escape_xml(message)}">{told}</failure>'
    yield "  </testcase>"


def _escape_xml(text: str) -> str:
    """Text of which XML takes every character: it forbids most that are not printable."""
    return escape(visible(text))
