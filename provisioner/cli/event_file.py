"""The stream of events: one JSON object a line, written as each happens."""

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

_CLOSE_TIMEOUT = 5.0


class EventFile:
    """A file of events; one that takes no more is left alone, and the run goes on.

    A thread of its own writes, so that a reader who is slow holds up nobody.

    Args:
        file: as it was typed.
        run_id: of the run, as its log has it.
        timeout: seconds that a reader may still take for what is written at the end.

    Raises:
        WrongUsageError: when it cannot be written.
    """

    def __init__(self, file: str, run_id: str, timeout: float = _CLOSE_TIMEOUT) -> None:
        self._patience = timeout
        self._file = file
        self._stream = open_output(file, "--events")
        self._run = run_id
        self._lock = threading.Lock()
        self._count = 0
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def emit(self, event: Event, /) -> None:
        """Takes in what happened; has it written soon."""
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
        """Waits until all is written, but not for ever."""
        self._lines.put(None)
        self._writer.join(self._patience)
        if self._writer.is_alive():
            _LOG.warning("the events in %s are not all read, and the rest is lost", self._file)

    def _write(self) -> None:
        with self._stream as stream:
            while (line := self._lines.get()) is not None:
                try:
                    write_all(stream, line)
                except OSError as error:
                    why = error.strerror
                    _LOG.warning("the events in %s end here: %s", self._file, why)
                    break
