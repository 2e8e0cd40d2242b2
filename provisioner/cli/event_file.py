"""The file of events: one JSON object per line, written as events happen."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import TYPE_CHECKING

from provisioner.cli.github_actions import without_commands
from provisioner.cli.output_file import is_stream, open_output, write_all
from provisioner.model.expiry import format_milliseconds
from provisioner.render.events import event_document
from provisioner.secret import masked_document

if TYPE_CHECKING:
    from provisioner.execution import Event

_LOG = logging.getLogger("provisioner")


class EventFile:
    """A file of events; if it cannot be written any longer, the run continues without it.

    A thread of its own writes, so that a slow reader does not delay the run.

    Args:
        file: the path as it was typed.
        run_id: the id of the run, as in its log.
        timeout: seconds that a reader may take at the end to read the remaining events.

    Raises:
        WrongUsageError: if the file cannot be opened.
    """

    def __init__(self, file: str, run_id: str, timeout: float = 5.0) -> None:
        self._timeout = timeout
        self._file = file
        self._stream = open_output(file, "--events")
        self._run = run_id
        self._lock = threading.Lock()
        self._count = 0
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def emit(self, event: Event, /) -> None:
        """Queue an event, which the thread writes soon."""
        document = event_document(event)
        with self._lock:
            self._count += 1
            head = {
                "seq": self._count,
                "time": format_milliseconds(datetime.now(UTC)),
                "run": self._run,
            }
            line = json.dumps(masked_document(head | document))
            line = without_commands(line, "json") if is_stream(self._file) else line
            self._lines.put(f"{line}\n".encode())

    def close(self) -> None:
        """Wait until all events are written, up to the timeout."""
        self._lines.put(None)
        self._writer.join(self._timeout)
        if self._writer.is_alive():
            _LOG.warning("the reader of %s is too slow: the remaining events are lost", self._file)

    def _write(self) -> None:
        with self._stream as stream:
            while (line := self._lines.get()) is not None:
                try:
                    write_all(stream, line)
                except OSError as error:
                    _LOG.warning("cannot write events to %s: %s", self._file, error.strerror)
                    break
