"""What passes through the server: a request in, an answer out, both plain values."""

from __future__ import annotations

import json
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
class Answer:
    """One answer, ready to be written; `Date` and `Content-Length` are the server's to add."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Exchange:
    """One finished exchange, for tests and benchmarks.

    Attributes:
        path: with the query, as it was asked for.
        started: `time.monotonic()` when the request line had been read.
        ended: `time.monotonic()` when the answer was ready to be written.
    """

    method: str
    path: str
    body: bytes = field(repr=False)
    status: int
    started: float
    ended: float


def json_answer(
    status: int, value: Json, *, headers: tuple[tuple[str, str], ...] = (), plain: bool = False
) -> Answer:
    """An answer that holds JSON.

    Args:
        status: of HTTP.
        value: the body.
        headers: besides the content type.
        plain: leaves the charset out, as Twenty's middleware does (core-2.21 `004`, `135`).
    """
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Answer(status, body, (*(_JSON_PLAIN if plain else _JSON_UTF8), *headers))
