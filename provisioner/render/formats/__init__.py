"""The report formats: one module each, listed here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.render.formats import github, gitlab, html, json, junit, markdown, sarif, text
from provisioner.render.json import as_json
from provisioner.render.text import PLAIN
from provisioner.secret import MIN_DATA_LENGTH, masked

if TYPE_CHECKING:
    from provisioner.render.report import Content, ReportFormat, ReportInput
    from provisioner.render.text import Palette

_MODULES = (text, json, markdown, html, github, gitlab, junit, sarif)

FORMATS: dict[str, ReportFormat] = {one.FORMAT.name: one.FORMAT for one in _MODULES}
"""Every format by its name, in the order of the help; the first is the default."""


def formats_of(content: Content) -> tuple[str, ...]:
    """Return the names of the formats that can show a content."""
    return tuple(name for name, one in FORMATS.items() if content in one.shows)


def render(report: ReportInput, name: str, palette: Palette = PLAIN) -> str:
    """Return a report in the format of this name, with every secret of this process masked."""
    rendered = FORMATS[name].render(report, palette)
    if isinstance(rendered, str):
        return masked(rendered, min_length=MIN_DATA_LENGTH)
    return as_json(rendered)
