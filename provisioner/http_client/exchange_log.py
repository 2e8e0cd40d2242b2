"""The line of each request in the log, at debug level, without headers and bodies."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from provisioner.http_client.exchange import HttpAnswer
from provisioner.runtime.log_context import extra

if TYPE_CHECKING:
    from provisioner.http_client.exchange import NoAnswer
    from provisioner.runtime.log_context import LogContext

_LOG = logging.getLogger(__name__)
_KILOBYTE, _MEGABYTE = 1000, 1_000_000


def log_exchange(  # noqa: PLR0913 - all that a line shows
    server: str,
    method: str,
    path: str,
    received: HttpAnswer | NoAnswer,
    seconds: float,
    *,
    operation: str = "",
    note: str = "",
) -> None:
    """Log one exchange.

    Args:
        server: the name of the environment or of the server, for people.
        method: the HTTP method.
        path: the path with the query; it contains no secret.
        received: the answer, or why there is none.
        seconds: from sending the request to the end of its answer.
        operation: what the request asks for, if the path does not say it.
        note: what else is worth knowing about the answer.
    """
    if not _LOG.isEnabledFor(logging.DEBUG):
        return
    milliseconds = round(1000 * seconds)
    fields: LogContext = {"method": method, "path": path, "duration_ms": milliseconds}
    if operation:
        fields["operation"] = operation
    if isinstance(received, HttpAnswer):
        fields["status"], fields["bytes"] = received.status, len(received.body)
        outcome = f"{received.status} in {milliseconds} ms, {size_text(len(received.body))}"
    else:
        outcome = f"no answer in {milliseconds} ms: {received.reason}"
    request = f"{method} {path} {operation}".rstrip()
    remark = f", {note}" if note else ""
    _LOG.debug("%s: %s -> %s%s", server, request, outcome, remark, extra=extra(**fields))


def size_text(size: int) -> str:
    """Return a number of bytes for people."""
    if size < _KILOBYTE:
        return f"{size} bytes"
    if size < _MEGABYTE:
        return f"{size / _KILOBYTE:.1f} kB"
    return f"{size / _MEGABYTE:.1f} MB"
