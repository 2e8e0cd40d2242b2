"""The log on stderr: text for people, or one JSON object a line by `schemas/log.schema.json`."""

from __future__ import annotations

import json
import logging
import sys
import time

from provisioner.cli.github_actions import without_commands
from provisioner.render.text import visible
from provisioner.runtime.log_context import log_context_of
from provisioner.secret import masked


def set_up_log(level: str, form: str, run_id: str) -> None:
    """Has everything that is logged from now on written on stderr.

    Args:
        level: the least that is written.
        form: `text` or `json`.
        run_id: what all JSON lines of the run have in common.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(run_id) if form == "json" else _Line())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level != "debug":
        # What we make of a broken connection is told; its retries are noise.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
    # On debug it tells whole answers, with secrets that nobody has wrapped yet.
    logging.getLogger("botocore").setLevel(max(logging.INFO, logging.getLogger().level))


def logs_json() -> bool:
    """Whether stderr is read by a program that wants each line to be JSON."""
    return any(isinstance(one.formatter, _JsonLines) for one in logging.getLogger().handlers)


class _JsonLines(logging.Formatter):
    """In ASCII, which every encoding can carry."""

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
            "message": masked(_told(self, record)),
            "run": self._run_id,
        }
        for name, value in log_context_of(record).items():
            entry[name] = masked(value) if isinstance(value, str) else value
        return without_commands(json.dumps(entry), "json")


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = visible(masked(_told(self, record)))
        return without_commands(f"{record.levelname.lower()}: {told}")


def _told(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The message, and the traceback where a library logs one."""
    told = record.getMessage()
    return f"{told}\n{formatter.formatException(record.exc_info)}" if record.exc_info else told
