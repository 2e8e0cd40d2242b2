"""The values that pass through the server: requests and responses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeAlias

from provisioner.model.workspace import Json

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
