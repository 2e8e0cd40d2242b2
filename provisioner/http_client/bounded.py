"""Answers of untrusted servers, bounded in time, in size, and in the size they unpack to.

The underlying libraries bound each read, not the whole answer. Headers that arrive byte by byte,
endless "100 Continue" responses or trailers, or a body that unpacks to a thousand times its size
would block a run, or fill its memory, for as long as the server likes.
"""

from __future__ import annotations

import io
import json
import time
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from socket import socket

    from requests import Response
    from urllib3 import HTTPConnectionPool, PoolManager

_CHUNK = 64 * 1024
_MAX_OVERHEAD = 1024 * 1024
"""Bytes outside the body: headers, chunk sizes, trailers."""

_MAX_VALUES = 500_000
"""Values in one JSON text; an object of a few bytes takes a hundred times as many in memory."""

_MAX_DEPTH = 64
"""Nesting levels of one JSON text, as in manifests; deeper ones could not be written again."""

_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
ACCEPT_ENCODING = "gzip, deflate"
"""Value of the `Accept-Encoding` header: encodings that unpack in chunks, one at a time."""


Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A decoded JSON value."""


class AnswerTooLargeError(Exception):
    """Error for an answer larger than any that the program could use."""


class BoundedAdapter(HTTPAdapter):
    """Connections whose answers, head and body, arrive within the read timeout or not at all.

    The libraries see a `TimeoutError`, and raise their own timeout error for it. Too many bytes
    raise `AnswerTooLargeError`, which passes through them.

    Args:
        max_bytes: of a body as it is sent, before it is unpacked.
        options: of the base class.
    """

    def __init__(self, max_bytes: int, **options: Any) -> None:
        self._max_bytes = max_bytes
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pool manager with bounded answers."""
        super().init_poolmanager(*args, **kwargs)
        _bind(self.poolmanager, self._max_bytes)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Return the manager of a proxy, with bounded answers, also of the proxy itself."""
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not known:
            _bind(manager, self._max_bytes)
        return manager


def body_of(response: Response, max_bytes: int) -> bytes:
    """Return the whole body, unpacked; as sent if it has an encoding that was not requested.

    Args:
        response: requested with `stream`, from a `BoundedAdapter`.
        max_bytes: of the unpacked body.

    Raises:
        AnswerTooLargeError: the body is larger.
        requests.RequestException, urllib3.exceptions.HTTPError, OSError: the body did not arrive.
    """
    unpacked = response.headers.get("Content-Encoding", "").strip().lower() in _ENCODINGS
    raw = bytearray()
    while chunk := response.raw.read1(_CHUNK, decode_content=unpacked):
        raw += chunk
        if len(raw) > max_bytes:
            raise AnswerTooLargeError
    return bytes(raw)


def json_of(raw: bytes, max_values: int = _MAX_VALUES) -> Json:
    """Return the value of a JSON text in UTF-8.

    Raises:
        ValueError: the text is not JSON, has more than `max_values` values, is nested too deep, or
            has a string that is not valid Unicode.
    """
    if sum(map(raw.count, (b"{", b"[", b","))) > max_values:
        raise ValueError("too many values")
    try:
        value: Json = json.loads(raw.decode("utf-8-sig"), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if _is_deeper(value, _MAX_DEPTH):
        raise ValueError("nested too deep")
    if b"\\ud" in raw or b"\\uD" in raw:
        json.dumps(value, ensure_ascii=False).encode()  # raises for half a surrogate pair
    return value


class _BoundedResponse(HTTPResponse):
    """HTTP response whose bytes are bounded from the first line on."""

    max_bytes = 0

    def __init__(self, sock: socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_Bounds(raw, sock, self.max_bytes + _MAX_OVERHEAD))


class _Bounds(io.RawIOBase):
    """Bytes of a socket, all within the time that the socket's timeout allows for one read."""

    def __init__(self, raw: io.RawIOBase, sock: socket, max_bytes: int) -> None:
        self._raw = raw
        self._sock = sock
        self._bytes_left = max_bytes
        timeout = sock.gettimeout()
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def readable(self) -> bool:
        """Return true."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor of the socket."""
        return self._raw.fileno()

    def readinto(self, buffer: Any, /) -> int | None:
        """Read the bytes that are there.

        Raises:
            TimeoutError: the time for the whole answer is over.
            AnswerTooLargeError: the answer has too many bytes.
        """
        if self._deadline is not None:
            seconds = self._deadline - time.monotonic()
            if seconds <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(seconds)
        count = self._raw.readinto(buffer)
        self._bytes_left -= count or 0
        if self._bytes_left < 0:
            raise AnswerTooLargeError
        return count

    def close(self) -> None:
        """Close the socket."""
        self._raw.close()
        super().close()


def _bind(manager: PoolManager, max_bytes: int) -> None:
    """Make all pools of a manager create bounded connections."""
    response_class = type("Response", (_BoundedResponse,), {"max_bytes": max_bytes})
    pools: Mapping[str, type[HTTPConnectionPool]] = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {
        scheme: type(
            pool.__name__,
            (pool,),
            {
                "ConnectionCls": type(
                    "Connection", (pool.ConnectionCls,), {"response_class": response_class}
                )
            },
        )
        for scheme, pool in pools.items()
    }


def _is_deeper(value: Json, max_depth: int) -> bool:
    """Return whether containers are nested deeper than `max_depth` levels."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
