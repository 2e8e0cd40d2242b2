"""The report formats: one module each, listed here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from provisioner.render.text import PLAIN

if TYPE_CHECKING:
    from provisioner.render.report import Content, ReportFormat, ReportInput
    from provisioner.render.text import Palette

NAMES = ("text", "json", "markdown", "html", "github", "gitlab", "junit", "sarif")
"""The formats in the order of the help; each is the module of this name."""

FORMATS: dict[str, ReportFormat] = {
    name: import_module(f"{__name__}.{name}").FORMAT for name in NAMES
}


def formats_of(content: Content) -> tuple[str, ...]:
    """Return the names of the formats that can show a content."""
    return tuple(name for name in NAMES if content in FORMATS[name].shows)


def render(report: ReportInput, name: str, palette: Palette = PLAIN) -> str:
    """Return a report in the format of this name, with every secret of this process masked."""
    from provisioner.render.json import as_json
    from provisioner.secret import MIN_DATA_LENGTH, masked

    rendered = FORMATS[name].render(report, palette)
    if isinstance(rendered, str):
        return masked(rendered, min_length=MIN_DATA_LENGTH)
    return as_json(rendered)
