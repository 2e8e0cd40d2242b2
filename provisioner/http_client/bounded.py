"""Answers of untrusted servers, bounded in time, in size, and in the size they unpack to.

The underlying libraries bound each read, not the whole answer. Headers that arrive byte by byte,
endless "100 Continue" responses or trailers, or a body that unpacks to a thousand times its size
would block a run, or fill its memory, for as long as the server likes.
"""

from __future__ import annotations

import io
import time
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NewConnectionError, ProxyError

from provisioner.http_client.loopback import is_localhost

if TYPE_CHECKING:
    from socket import socket

    from urllib3 import BaseHTTPResponse

_CHUNK = 64 * 1024
_MAX_SENT = 33 * 1024 * 1024
"""Bytes of an answer as it is sent, with headers, chunk sizes and trailers; more than any caller's
limit for a body."""

_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
ACCEPT_ENCODING = "gzip, deflate"
"""Value of the `Accept-Encoding` header: encodings that unpack in chunks, one at a time."""


class AnswerTooLargeError(Exception):
    """Error for an answer larger than any that the program could use."""


class NoTunnelError(ProxyError):
    """Error for a proxy that opened no tunnel, so that the server got nothing."""


def body_of(response: BaseHTTPResponse, max_bytes: int) -> bytes:
    """Return the whole body, unpacked; as sent if it has an encoding that was not requested.

    Args:
        response: of a pool in `POOL_CLASSES`, not read yet.
        max_bytes: of the body, as it is sent and unpacked.

    Raises:
        AnswerTooLargeError: the body is larger.
        urllib3.exceptions.HTTPError, OSError: the body did not arrive.
    """
    unpacked = response.headers.get("Content-Encoding", "").strip().lower() in _ENCODINGS
    raw = bytearray()
    while chunk := response.read1(_CHUNK, decode_content=unpacked):
        raw += chunk
        if max(len(raw), response.tell()) > max_bytes:
            raise AnswerTooLargeError
    return bytes(raw)


class BoundedResponse(HTTPResponse):
    """HTTP response whose bytes are bounded from the first line on."""

    def __init__(self, sock: socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Bounds(self.fp.detach(), sock))


class _Bounds(io.RawIOBase):
    """Bytes of a socket, all within the time that the socket's timeout allows for one read.

    The libraries see a `TimeoutError`, and raise their own timeout error for it. Too many bytes
    raise `AnswerTooLargeError`, which passes through them.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket) -> None:
        self._raw = raw
        self._sock = sock
        self._bytes_left = _MAX_SENT
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
            if self._bytes_left < _MAX_SENT:  # the first read has its timeout already
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


class _Connection(HTTPConnection):
    response_class = BoundedResponse

    def _new_conn(self) -> socket:
        """Connect; a name that means this machine is never looked up, since DNS may not know it."""
        name = self.host
        if not is_localhost(name):
            return super()._new_conn()
        try:
            self.host = "127.0.0.1"
            return super()._new_conn()
        except NewConnectionError:
            self.host = "::1"
            with suppress(HTTPError):
                return super()._new_conn()
            raise
        finally:
            self.host = name  # which is sent, and which the certificate must have


class _TlsConnection(_Connection, HTTPSConnection):
    def _tunnel(self) -> None:
        try:
            super()._tunnel()
        except (OSError, HTTPException) as error:
            raise NoTunnelError("no tunnel", error) from error


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


POOL_CLASSES: dict[str, type[HTTPConnectionPool]] = {"http": _Pool, "https": _TlsPool}
"""Connection pools with bounded answers, also of a proxy itself."""
