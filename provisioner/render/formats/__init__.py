"""The report formats: one module each, listed here and imported when a report is written."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette

Content = Literal["problems", "plan", "result", "report"]
"""The contents that a format can show: the problems of manifests, a plan, its result, an audit."""

_ALL: tuple[Content, ...] = get_args(Content)


class Format(NamedTuple):
    """A format of reports.

    Attributes:
        shows: the contents that it can show. A format that shows only problems shows those of the
            manifests of any command.
        syntax: text for people, commands for a CI runner, Markdown, HTML and XML, JSON, or lines
            for programs, always in UTF-8, that have no escape for a character. It decides how a
            name is kept from being a command for a runner.
    """

    shows: tuple[Content, ...]
    syntax: Literal["text", "commands", "markup", "json", "lines"]


FORMATS = {
    "text": Format(_ALL, "text"),
    "json": Format(_ALL, "json"),
    "markdown": Format(_ALL, "markup"),
    "html": Format(("report",), "markup"),
    "openmetrics": Format(("report",), "lines"),
    "ics": Format(("report",), "lines"),
    "github": Format(("problems",), "commands"),
    "gitlab": Format(("problems",), "json"),
    "junit": Format(("problems",), "markup"),
    "sarif": Format(("problems",), "json"),
}
"""The formats in the order of the help.

Each is the module of this name, whose `render` takes a `ReportInput` and the colours of text, and
returns text, or a document for JSON.
"""


def formats_of(content: Content) -> tuple[str, ...]:
    """Return the names of the formats that can show a content."""
    return tuple(name for name, one in FORMATS.items() if content in one.shows)


def render(report: ReportInput, name: str, palette: Palette | None = None) -> str:
    """Return a report in the format of this name, with every secret of this process masked."""
    from provisioner.render.json import as_json
    from provisioner.render.text import PLAIN
    from provisioner.secret import MIN_DATA_LENGTH, masked

    rendered = import_module(f"{__name__}.{name}").render(report, palette or PLAIN)
    if isinstance(rendered, str):
        return masked(rendered, min_length=MIN_DATA_LENGTH)
    return as_json(rendered)
