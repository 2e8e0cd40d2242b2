"""Problems as SARIF 2.1.0, for code scanning and editors."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from provisioner import __version__
from provisioner.errors import explanations
from provisioner.errors.codes import PROBLEM_CODES, WARNINGS, Code
from provisioner.render.text import visible

if TYPE_CHECKING:
    from provisioner.errors.problem import Place, Problem
    from provisioner.render.json import Document
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)

_ROOT = "%SRCROOT%"
"""The base of relative URIs: the root of the repository."""


def render(report: ReportInput, _: Palette) -> Document:
    """Return one run with a rule for each code, and a result for each problem or warning."""
    meanings = {
        code: explanations.first_sentence(text) for code, text in explanations.load().items()
    }
    index = {code: number for number, code in enumerate(PROBLEM_CODES)}
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "provision",
                        "version": __version__,
                        "rules": [_rule(code, meanings[code]) for code in PROBLEM_CODES],
                    }
                },
                # The columns of places count code points.
                "columnKind": "unicodeCodePoints",
                "results": [
                    _result(problem, index[problem.code], fingerprint, warns=warns)
                    for problem, warns, fingerprint in report.fingerprinted
                ],
            }
        ],
    }


def _rule(code: Code, meaning: str) -> Document:
    return {
        "id": code,
        "shortDescription": {"text": meaning},
        "help": {"text": f"docs/errors.md explains {code}."},
        "defaultConfiguration": {"level": "warning" if code in WARNINGS else "error"},
    }


def _result(problem: Problem, rule: int, fingerprint: str, *, warns: bool) -> Document:
    result: Document = {
        "ruleId": problem.code,
        "ruleIndex": rule,
        "level": "warning" if warns else "error",
        "message": {"text": _message(problem.message)},
        "locations": [_location(problem.place)],
        "partialFingerprints": {"problem/v1": fingerprint},
    }
    if problem.related is not None:
        result["relatedLocations"] = [_location(problem.related)]
    return result


def _location(place: Place) -> Document:
    uri = quote(place.file.encode(errors="backslashreplace"))
    below_root = {"uri": uri, "uriBaseId": _ROOT}
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": f"file://{uri}"} if uri.startswith("/") else below_root,
            "region": {"startLine": place.line, "startColumn": place.column},
        }
    }


def _message(text: str) -> str:
    """Return text with SARIF's links and placeholders escaped."""
    escaped = visible(text).replace("{", "{{").replace("}", "}}")
    if "](" in escaped:
        escaped = escaped.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    return escaped
