"""A small real HTTPS server in a thread, the base of the servers that imitate vendors."""

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
    """A request. The names of its path are decoded one by one."""

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
    """A response. A body of bytes is sent unchanged, any other as JSON."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def raw(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Outcome = HttpResponse | Literal["drop", "lose"]
"""The outcome of a request: another answer, no answer at all, or a lost answer after the request
was handled."""


class TlsServer(ABC):
    """Serve `answer`, one request at a time, until the context is left.

    Attributes:
        requests: every request so far.
        outcomes: the outcomes of the next requests; later requests are answered normally.
        down: while True, every connection is closed.
        clock_skew: how far its clock is ahead of the clock of this machine.
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
        """Return the answer of the vendor."""

    @property
    def url(self) -> str:
        scheme = "https" if self._context else "http"
        return f"{scheme}://localhost:{self._http.server_port}"

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Answer no request for a while."""
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
            outcome = "drop" if self.down else self.outcomes.pop(0) if self.outcomes else None
            if isinstance(outcome, HttpResponse):
                return outcome
            answer = self.answer(request) if outcome != "drop" else None
            return None if outcome == "lose" else answer


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
            answer = owner.respond(HttpRequest(self.command, self.path, self.headers, raw))
            if answer is None:
                self.close_connection = True
                return
            self.send_response_only(answer.status)
            date = self.date_time_string((datetime.now(UTC) + owner.clock_skew).timestamp())
            default_headers = {"Date": date, "Content-Length": str(len(answer.raw))}
            for name, value in (default_headers | dict(answer.headers)).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.raw)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = serve  # noqa: N815 - http.server's names

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            """Ignore connections that clients close, as some tests want them to."""

    return Server(("127.0.0.1", 0), Handler)
