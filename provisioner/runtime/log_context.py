"""Context of log lines: the fields of `--log-format json` next to the message.

The environment and the key are bound where work on them starts and are passed on to its threads,
so that the lines of libraries have them too. Fields of a single line are passed with its call.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

    from provisioner.errors.codes import Code


class LogContext(TypedDict, total=False):
    """Fields that a log line may have.

    Attributes:
        environment: its name in environments.yaml.
        key: the name of an API key.
        code: an error code of docs/errors.md.
        attempt: the number of this attempt of a request, from 1.
        method: of the request.
        path: of the request, with its query.
        operation: the operation that a GraphQL request asks for.
        status: of the answer; absent if no complete answer came.
        bytes: of the body of the answer, unpacked.
        duration_ms: from sending the request to the end of its answer.
    """

    environment: str
    key: str
    code: Code
    attempt: int
    method: str
    path: str
    operation: str
    status: int
    bytes: int
    duration_ms: int


_CONTEXT: ContextVar[LogContext] = ContextVar("log_context")
_EXTRA = "log_context"


@contextmanager
def bind(**fields: Unpack[LogContext]) -> Iterator[None]:
    """Add these fields to all log lines until the end of the block."""
    token = _CONTEXT.set(_CONTEXT.get({}) | fields)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def extra(**fields: Unpack[LogContext]) -> dict[str, object]:
    """Return the `extra` argument of a logging call that adds these fields to its line."""
    return {_EXTRA: fields}


def log_context_of(record: logging.LogRecord) -> LogContext:
    """Return the fields of a line; call it in the thread that wrote the line."""
    return _CONTEXT.get({}) | cast("LogContext", getattr(record, _EXTRA, {}))
