"""The values that pass through the server: requests and responses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]

_JSON_UTF8 = (("Content-Type", "application/json; charset=utf-8"),)
_JSON_PLAIN = (("Content-Type", "application/json"),)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived.

    Attributes:
        path: the path without the query and without a trailing slash.
        query: the first value of each parameter.
        authorization: the whole header, or empty.
        content_type: only the media type, in lower case, or empty.
        started: `time.time()` when the request had been read; its transaction starts then.
    """

    method: str
    path: str
    query: dict[str, str]
    authorization: str
    content_type: str
    body: bytes
    started: float


@dataclass(frozen=True, slots=True)
class Response:
    """One answer, ready to be written.

    The server adds `Date`, and `Content-Length` unless `headers` has it: a test may announce a
    wrong length. `Connection: close` in `headers` closes the connection after the answer.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


Around: TypeAlias = Callable[[Request, Callable[[Request], Response]], Response]
"""A middleware: it gets a request and the function that answers it.

It may answer by itself, change the answer, or raise a `ConnectionError`, which closes the
connection without an answer. If it raises after the call, the request was committed.
"""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One finished exchange, for tests and benchmarks.

    Attributes:
        path: the path and the query as requested.
        status: the HTTP status; 0 if the connection was closed without an answer.
        started: `time.monotonic()` when the request line had been read.
        ended: `time.monotonic()` when the answer was ready to be written, or just before the
            connection was closed without one.
    """

    method: str
    path: str
    body: bytes = field(repr=False)
    status: int
    started: float
    ended: float


def json_answer(
    status: int,
    value: Json,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    without_charset: bool = False,
) -> Response:
    """Return an answer with a JSON body.

    Args:
        status: the HTTP status.
        value: the body.
        headers: the headers in addition to the content type.
        without_charset: omit the charset, as Twenty's middleware does (core-2.21 `004`, `135`).
    """
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(status, body, (*(_JSON_PLAIN if without_charset else _JSON_UTF8), *headers))
