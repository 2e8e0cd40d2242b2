"""Answers of servers that nobody trusts: bounded in time, in size, and in what they unfold to.

The libraries below bound each read, not the whole: a head that drips, heads of "100 Continue" or
trailers without end, and a body that unpacks to a thousand times its size would hold a run, or fill
its memory, for as long as the server likes.
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
_HEAD = 1024 * 1024
"""Bytes beside the body: heads, the sizes of chunks, trailers."""

_VALUES = 500_000
"""Values of one JSON text; an object of a few bytes takes a hundred times as many in memory."""

_DEPTH = 64
"""Levels of one JSON text, as for manifests; deeper ones could not be written out again."""

_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
ACCEPTED = "gzip, deflate"
"""What `Accept-Encoding` asks for: unpacked bit by bit, and never one within another."""


Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A decoded JSON value."""


class TooMuchError(Exception):
    """An answer is larger than any that there is a use for."""


class BoundedAdapter(HTTPAdapter):
    """Connections whose answers, head and body, come within the timeout of a read or not at all.

    Over time is a `TimeoutError` to the libraries, which tell it as their own; too many bytes are a
    `TooMuchError`, which passes through them.

    Args:
        most: bytes of a body, as they are sent.
        options: of the base.
    """

    def __init__(self, most: int, **options: Any) -> None:
        self._most = most
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Theirs, with bounded answers."""
        super().init_poolmanager(*args, **kwargs)
        _bind(self.poolmanager, self._most)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Theirs, with bounded answers, those of the proxy itself too."""
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not known:
            _bind(manager, self._most)
        return manager


def body_of(response: Response, most: int) -> bytes:
    """The whole body, unpacked; as it came where it is packed in a way that nobody asked for.

    Args:
        response: asked for with `stream`, from a `BoundedAdapter`.
        most: bytes.

    Raises:
        TooMuchError: it has more.
        requests.RequestException, urllib3.exceptions.HTTPError, OSError: it did not come.
    """
    unpacked = response.headers.get("Content-Encoding", "").strip().lower() in _ENCODINGS
    raw = bytearray()
    while chunk := response.raw.read1(_CHUNK, decode_content=unpacked):
        raw += chunk
        if len(raw) > most:
            raise TooMuchError
    return bytes(raw)


def json_of(raw: bytes, values: int = _VALUES) -> Json:
    """The value of a JSON text in UTF-8, of no more than so many values.

    Raises:
        ValueError: it is none, or one that is too large or too deep to handle, or that has a text
            which is none in Unicode.
    """
    if sum(map(raw.count, (b"{", b"[", b","))) > values:
        raise ValueError("more values than there is a use for")
    try:
        found: Json = json.loads(raw.decode("utf-8-sig"), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if _deeper(found, _DEPTH):
        raise ValueError("nested too deep")
    if b"\\ud" in raw or b"\\uD" in raw:
        json.dumps(found, ensure_ascii=False).encode()  # raises for one half of a pair
    return found


class _BoundedResponse(HTTPResponse):
    """An answer whose bytes come through the bounds, before anyone reads its first line."""

    most = 0

    def __init__(self, sock: socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_Bounds(raw, sock, self.most + _HEAD))


class _Bounds(io.RawIOBase):
    """The bytes of a socket, for as long in all as its timeout said at first for one read."""

    def __init__(self, raw: io.RawIOBase, sock: socket, most: int) -> None:
        self._raw = raw
        self._sock = sock
        self._left = most
        timeout = sock.gettimeout()
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def readable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """Of the socket."""
        return self._raw.fileno()

    def readinto(self, buffer: Any, /) -> int | None:
        """Reads what is there.

        Raises:
            TimeoutError: the time for all of it is over.
            TooMuchError: so are the bytes.
        """
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(left)
        count = self._raw.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise TooMuchError
        return count

    def close(self) -> None:
        """Lets go of the socket."""
        self._raw.close()
        super().close()


def _bind(manager: PoolManager, most: int) -> None:
    """Has the pools of a manager, of whatever kind they are, make connections with bounds."""
    answer = type("Answer", (_BoundedResponse,), {"most": most})
    pools: Mapping[str, type[HTTPConnectionPool]] = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {
        scheme: type(
            pool.__name__,
            (pool,),
            {
                "ConnectionCls": type(
                    "Connection", (pool.ConnectionCls,), {"response_class": answer}
                )
            },
        )
        for scheme, pool in pools.items()
    }


def _deeper(value: Json, levels: int) -> bool:
    """Whether containers stand within each other more often than that."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(levels + 1):
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
    raise ValueError(f"{name} is no JSON")
