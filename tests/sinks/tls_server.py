"""A small real HTTPS server in a thread, on which the stand-ins of vendors are built."""

from __future__ import annotations

import json
import ssl
import threading
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

import trustme

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class HttpRequest:
    """A request: the names of its path are decoded, each by itself."""

    method: str
    target: str
    headers: Mapping[str, str]
    raw: bytes

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(unquote, urlsplit(self.target).path.split("/")[1:]))

    @property
    def query(self) -> dict[str, str]:
        found = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        return {name: values[-1] for name, values in found.items()}

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw) if self.raw else {}


@dataclass(frozen=True)
class HttpResponse:
    """An answer; a body of bytes is sent as it is, another as JSON."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def raw(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Outcome = HttpResponse | Literal["drop", "lose"]
"""What becomes of a request: another answer, no answer at all, or no answer to what was done."""


class TlsServer(ABC):
    """Serves `answer`, one request at a time, until it is left.

    Attributes:
        asked: every request so far.
        turns: what becomes of the next requests; then all are answered.
        down: while it is set, every connection is broken off.
        ahead: how far its clock is ahead of that of this machine.
    """

    name = "localhost"

    def __init__(self, *, plain: bool = False, clients: trustme.CA | None = None) -> None:
        self.requests: list[HttpRequest] = []
        self.outcomes: list[Outcome] = []
        self.down = False
        self.clock_skew = timedelta(0)
        self._lock = threading.Lock()
        self._folder = TemporaryDirectory()
        self.authority = trustme.CA()
        self.ca_file = str(Path(self._folder.name) / "ca.pem")
        self.authority.cert_pem.write_to_path(self.ca_file)
        self._context: ssl.SSLContext | None = None
        if not plain:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.authority.issue_cert(self.name).configure_cert(self._context)
        if self._context and clients:
            clients.configure_trust(self._context)
            self._context.verify_mode = ssl.CERT_REQUIRED

    @abstractmethod
    def answer(self, request: HttpRequest) -> HttpResponse:
        """What the vendor would say."""

    @property
    def url(self) -> str:
        scheme = "https" if self._context else "http"
        return f"{scheme}://localhost:{self._http.server_port}"

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Meanwhile no request gets an answer, nor does anything."""
        self.down = True
        yield
        self.down = False

    def __enter__(self) -> Self:
        self._http = _server(self, self._context)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join(10)
        self._http.server_close()
        self._folder.cleanup()

    def respond(self, request: HttpRequest) -> HttpResponse | None:
        with self._lock:
            self.requests.append(request)
            turn = "drop" if self.down else self.outcomes.pop(0) if self.outcomes else None
            if isinstance(turn, HttpResponse):
                return turn
            told = self.answer(request) if turn != "drop" else None
            return None if turn == "lose" else told


def _server(owner: TlsServer, context: ssl.SSLContext | None) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30
        disable_nagle_algorithm = True
        wbufsize = -1

        def setup(self) -> None:
            if context:
                self.request = context.wrap_socket(self.request, server_side=True)
            super().setup()

        def finish(self) -> None:
            super().finish()
            self.request.close()

        def serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            told = owner.respond(HttpRequest(self.command, self.path, self.headers, raw))
            if told is None:
                self.close_connection = True
                return
            self.send_response_only(told.status)
            date = self.date_time_string((datetime.now(UTC) + owner.clock_skew).timestamp())
            usual = {"Date": date, "Content-Length": str(len(told.raw))}
            for name, value in (usual | dict(told.headers)).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(told.raw)

        do_GET = do_PUT = do_POST = do_PATCH = serve  # noqa: N815 - http.server's names

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            """Clients break connections off here, as some tests want them to."""

    return Server(("127.0.0.1", 0), Handler)
