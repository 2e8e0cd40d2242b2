"""What passes through the server: a request in, an answer out, both plain values."""

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
        path: without the query, without a slash at the end.
        query: the first value of each parameter.
        authorization: the whole header, or empty.
        content_type: the media type alone, in small letters, or empty.
        started: `time.time()` when it had been read: the start of its transaction.
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

    `Date` is the server's to add, and so is `Content-Length` unless it stands in `headers`: an
    answer may promise another length than it has. `Connection: close` there ends the connection.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


Around: TypeAlias = Callable[[Request, Callable[[Request], Response]], Response]
"""What stands in front of the answers: given a request and the function that answers it.

It may answer by itself, change what comes back, or raise a `ConnectionError`, which closes the
connection without an answer. Raised after the inner call, that is after the commit.
"""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One finished exchange, for tests and benchmarks.

    Attributes:
        path: with the query, as it was asked for.
        status: of HTTP; 0 when the connection was closed without an answer.
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
    status: int, value: Json, *, headers: tuple[tuple[str, str], ...] = (), plain: bool = False
) -> Response:
    """An answer that holds JSON.

    Args:
        status: of HTTP.
        value: the body.
        headers: besides the content type.
        plain: leaves the charset out, as Twenty's middleware does (core-2.21 `004`, `135`).
    """
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(status, body, (*(_JSON_PLAIN if plain else _JSON_UTF8), *headers))
