"""What a line of the log is about, beside its words: fields for `--log-format json`.

The environment and the key are bound where work on them begins and go along into its threads, so
that the lines of libraries have them too. What a single line knows goes with its call.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator


class LogContext(TypedDict, total=False):
    """What a line may be about.

    Attributes:
        environment: its name in environments.yaml.
        key: the name of an API key.
        code: of docs/errors.md.
        attempt: which try of one request this is, from 1.
        method: of the request.
        path: of the request, with its query.
        status: of its answer, absent where no whole answer came.
        duration_ms: from sending it to the end of its answer.
    """

    environment: str
    key: str
    code: str
    attempt: int
    method: str
    path: str
    status: int
    duration_ms: int


_CONTEXT: ContextVar[LogContext] = ContextVar("subject")
_EXTRA = "subject"


@contextmanager
def bind(**fields: Unpack[LogContext]) -> Iterator[None]:
    """Has all lines be about this, from here to the end of the block."""
    token = _CONTEXT.set(_merged(_CONTEXT.get({}), fields))
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def extra(**fields: Unpack[LogContext]) -> dict[str, object]:
    """What one line is about, as the `extra` of its call."""
    return {_EXTRA: fields}


def log_context_of(record: logging.LogRecord) -> LogContext:
    """What a line is about, asked in the thread that wrote it."""
    return _merged(_CONTEXT.get({}), cast("LogContext", getattr(record, _EXTRA, {})))


def _merged(outer: LogContext, inner: LogContext) -> LogContext:
    # In the order of the class, whoever knew what.
    both = cast("LogContext", {**outer, **inner})
    return cast(
        "LogContext", {name: both.get(name) for name in LogContext.__annotations__ if name in both}
    )
