"""The content of a report, and the interface of a report format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.audit.key_audit import FleetAudit
    from provisioner.errors.failure import Failure
    from provisioner.execution import RunResult
    from provisioner.plan import Plan
    from provisioner.render.json import Document
    from provisioner.render.text import Palette
    from provisioner.render.validation_result import ValidationResult

Content = Literal["problems", "plan", "result", "report"]
"""The contents that a format can show: the problems of manifests, a plan, its result, an audit."""

CONTENTS: tuple[Content, ...] = get_args(Content)

Syntax = Literal["text", "commands", "markup", "json"]
"""The syntax of a format: text for people, commands for a CI runner, Markdown, HTML and XML, or
JSON. It decides how secrets are masked and how a name is kept from being a command for a runner."""


@dataclass(frozen=True, slots=True)
class ReportInput:
    """The content of a report.

    Attributes:
        validation: the manifests, with their problems.
        summary: the line that text shows for manifests without problems.
        outcome: the plan, the result of carrying it out, or the audit of live keys; None if the
            command made none of them.
        refusal: why a guard refused the plan; None if none did.
        quiet: whether text omits keys that need no attention from an audit.
    """

    validation: ValidationResult
    summary: str = ""
    outcome: Plan | RunResult | FleetAudit | None = None
    refusal: Failure | None = None
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class ReportFormat:
    """One format of reports, named as its module in `provisioner.render.formats`.

    Attributes:
        shows: the contents that it can show. A format that shows only problems shows those of the
            manifests of any command.
        syntax: the syntax of what it renders.
        render: returns the report: text, or a document for JSON. It imports what it needs when it
            runs, because the command line imports every format for its help.
    """

    shows: tuple[Content, ...]
    syntax: Syntax
    render: Callable[[ReportInput, Palette], str | Document | list[Document]]
