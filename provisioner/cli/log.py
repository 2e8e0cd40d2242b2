"""The log on stderr: text for people, or one JSON object a line by `schemas/log.schema.json`."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, TextIO

from provisioner.cli.github_actions import without_commands
from provisioner.cli.terminal import fit
from provisioner.render.text import visible
from provisioner.runtime.log_context import log_context_of
from provisioner.secret import masked

if TYPE_CHECKING:
    from provisioner.cli.live_area import LiveArea


def set_up_log(level: str, format_: str, run_id: str, area: LiveArea) -> None:
    """Write the log to stderr from now on.

    Args:
        level: the lowest level that is written.
        format_: `text` or `json`.
        run_id: the id of the run, in every JSON line.
        area: the lines that must not be in the way.
    """
    handler = _Handler(area)
    handler.setFormatter(_JsonLines(run_id) if format_ == "json" else _Line())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # They would log each request once more, and errors of connections are reported elsewhere.
    for name in ("urllib3", "google", "azure", "msal"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # At debug level it logs whole responses, with secrets that are not masked yet.
    logging.getLogger("botocore").setLevel(max(logging.INFO, logging.getLogger().level))


def logs_json() -> bool:
    """Return whether the log on stderr is JSON."""
    return any(isinstance(one.formatter, _JsonLines) for one in logging.getLogger().handlers)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to stderr, above the lines that change."""

    def __init__(self, area: LiveArea) -> None:
        super().__init__(sys.stderr)
        self._area = area

    def emit(self, record: logging.LogRecord) -> None:
        with self._area.paused():
            super().emit(record)


class _JsonLines(logging.Formatter):
    """Lines of JSON in ASCII, which every encoding can represent."""

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.converter = time.gmtime
        self._run_id = run_id

    def format(self, record: logging.LogRecord) -> str:
        second = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        entry: dict[str, object] = {
            "time": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": masked(_message(self, record)),
            "run": self._run_id,
        }
        for name, value in log_context_of(record).items():
            entry[name] = masked(value) if isinstance(value, str) else value
        return without_commands(json.dumps(entry), "json")


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = visible(masked(_message(self, record)))
        line = fit(f"{record.levelname.lower()}: {text}", sys.stderr)
        return without_commands(line)


def _message(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Return the message, with the traceback if a library logs one."""
    text = record.getMessage()
    return f"{text}\n{formatter.formatException(record.exc_info)}" if record.exc_info else text
