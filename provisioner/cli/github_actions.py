"""Output for the runner of GitHub Actions: summaries, outputs, and escaping of commands."""

from __future__ import annotations

import logging
import os
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.render.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOG = logging.getLogger("provisioner")

_MAX_SUMMARY_BYTES = 1024 * 1024
"""The longest summary of a step; GitHub shows nothing of a longer one."""


_HASH_SIGNS = {"json": r"\u0023", "markup": "&#35;", "lines": "#\u200b"}
_COLONS = {"text": r"\x3a:", "lines": ":\u200b:"}
_COMMAND = re.compile(r"^(\s*)::", re.MULTILINE)


def without_commands(text: str, format_: str = "text") -> str:
    """Return text in which the runner finds no workflow command; unchanged elsewhere.

    A runner obeys `##[...` anywhere in a line and `::` at its start, whoever prints that.

    Args:
        text: the text that a step prints.
        format_: the format of the text, which decides how a character is escaped.
    """
    if not in_github_actions():
        return text
    syntax = FORMATS[format_].syntax
    text = text.replace("##[", _HASH_SIGNS.get(syntax, r"\x23") + "#[")
    colons = _COLONS.get(syntax)
    return text if colons is None else _COMMAND.sub(lambda found: found[1] + colons, text)


def in_github_actions() -> bool:
    """Return whether this process is a step of GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def append_summary(markdown: str) -> None:
    """Append Markdown to the summary of the step."""
    _append("GITHUB_STEP_SUMMARY", f"{markdown}\n", _MAX_SUMMARY_BYTES)


def set_outputs(values: Mapping[str, str]) -> None:
    """Set outputs of the step, which later steps read as `steps.ID.outputs.NAME`."""
    # A random delimiter keeps a value from starting another output.
    parts = [
        f"{name}<<{(delimiter := uuid.uuid4())}\n{text}\n{delimiter}\n"
        for name, text in values.items()
    ]
    _append("GITHUB_OUTPUT", "".join(parts), None)


def _append(variable: str, text: str, max_bytes: int | None) -> None:
    """Append to the file that a variable names; if it cannot be written, that is a warning."""
    name = os.environ.get(variable)
    if not name:
        return
    data = text.encode(errors="surrogateescape")
    try:
        with Path(name).open("ab") as file:
            size = os.fstat(file.fileno()).st_size + len(data)
            if max_bytes is not None and size > max_bytes:
                _LOG.warning("%s was not written: it would be too long for GitHub", variable)
                return
            file.write(data)
    except OSError as error:
        _LOG.warning("%s could not be written: %s", variable, error.strerror)
