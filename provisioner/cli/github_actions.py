"""What a step of GitHub Actions tells its runner without being asked."""

from __future__ import annotations

import logging
import os
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOG = logging.getLogger("provisioner")

_LARGEST = 1024 * 1024
"""Bytes of a step's summary; GitHub shows nothing at all of a longer one."""


_MARKS = dict.fromkeys(("json", "sarif", "gitlab"), r"\u0023")
_MARKS |= dict.fromkeys(("markdown", "html", "junit"), "&#35;")
_COMMAND = re.compile(r"^(\s*)::", re.MULTILINE)


def without_commands(text: str, form: str = "text") -> str:
    """Text in which a runner that reads along finds no command; elsewhere as it is.

    It takes `##[…` anywhere in a line, and `::` where a line begins, whatever program says it.

    Args:
        text: what a step prints.
        form: of the text, by which a sign may be written otherwise.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return text
    text = text.replace("##[", _MARKS.get(form, r"\x23") + "#[")
    return _COMMAND.sub(r"\1\\x3a:", text) if form == "text" else text


class Runner:
    """The runner of a job, by the files that it names to each step.

    What cannot be told is a warning: it is no failure of the run.

    Args:
        variables: of the process.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    @property
    def there(self) -> bool:
        """Whether this is a step of GitHub Actions."""
        return self._variables.get("GITHUB_ACTIONS") == "true"

    def summarize(self, markdown: str) -> None:
        """Appends Markdown to the summary of the step."""
        self._append("GITHUB_STEP_SUMMARY", f"{markdown}\n", _LARGEST)

    def put_out(self, values: Mapping[str, str]) -> None:
        """Gives values to later steps, as `steps.ID.outputs.NAME`."""
        # By the form with an end of its own, in which no value can begin another one.
        parts = [
            f"{name}<<{(end := uuid.uuid4())}\n{text}\n{end}\n" for name, text in values.items()
        ]
        self._append("GITHUB_OUTPUT", "".join(parts), None)

    def _append(self, variable: str, text: str, largest: int | None) -> None:
        name = self._variables.get(variable)
        if not name:
            return
        data = text.encode(errors="surrogateescape")
        try:
            with Path(name).open("ab") as file:
                if largest is not None and os.fstat(file.fileno()).st_size + len(data) > largest:
                    _LOG.warning("%s would be longer than GitHub takes: left as it is", variable)
                    return
                file.write(data)
        except OSError as error:
            _LOG.warning("%s could not be written: %s", variable, error.strerror)
