"""The HTTP server: reads requests and writes answers."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from socketserver import TCPServer
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs, urlsplit

from provisioner.sandbox.exchange import Request, Response, json_answer

if TYPE_CHECKING:
    from collections.abc import Callable

STOP_SECONDS = 10.0
"""How long a stop waits for requests in progress."""

_log = logging.getLogger(__name__)


class Server(ThreadingHTTPServer):
    """An HTTP server on a loopback port that answers by calling a function.

    Args:
        port: 0 for any free port.
        answer: returns the answer to a request; if it raises a `ConnectionError`, the connection
            is closed without an answer.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, answer: Callable[[Request], Response]) -> None:
        self.answer = answer
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, close idle connections and wait for requests in progress."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._lock:
            live = dict(self._connections)
            for connection in live:
                # Under the lock: the descriptor of a closed socket may have been reused.
                with suppress(OSError):  # a killed client has closed it already
                    connection.shutdown(socket.SHUT_RD)
        deadline = time.monotonic() + STOP_SECONDS
        for thread in live.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def server_bind(self) -> None:
        """Bind without the name lookup for 127.0.0.1 that `HTTPServer` does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def process_request(self, request: object, client_address: object) -> None:
        """Serve a connection in its own thread, which `stop` can join."""
        connection = cast("socket.socket", request)  # socketserver supports datagrams too
        thread = threading.Thread(
            target=self.process_request_thread, args=(connection, client_address), daemon=True
        )
        with self._lock:
            self._connections[connection] = thread
        thread.start()

    def shutdown_request(self, request: object) -> None:
        """Close a connection."""
        connection = cast("socket.socket", request)  # socketserver supports datagrams too
        with self._lock:
            self._connections.pop(connection, None)
        super().shutdown_request(connection)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  # the base's arguments
        """Log an error of the sandbox; ignore clients that disconnect."""
        if not isinstance(sys.exception(), ConnectionError):
            _log.exception("the sandbox failed to answer")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "Twenty"
    sys_version = ""
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Log nothing: `provision` logs its own requests."""

    def exchange(self) -> None:
        """Read one request and answer it."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.close_connection = True
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return
        body = self.rfile.read(max(0, int(self.headers.get("Content-Length") or 0)))
        target = urlsplit(self.path)
        query = parse_qs(target.query, keep_blank_values=True)
        request = Request(
            method=self.command,
            path=target.path.rstrip("/"),
            query={name: values[0] for name, values in query.items()},
            authorization=self.headers.get("Authorization", ""),
            content_type=self.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
            body=body,
            started=time.time(),
        )
        self._write(self.server.answer(request))

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do_OPTIONS = exchange  # noqa: N815  # the base's names

    def _write(self, answer: Response) -> None:
        self.send_response(answer.status)  # with the `Date` that every recorded server sends
        for name, value in answer.headers:
            self.send_header(name, value)
        has_length = any(name.lower() == "content-length" for name, _ in answer.headers)
        if answer.status != HTTPStatus.NO_CONTENT and not has_length:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()


class Front:
    """A server that serves several workspaces on one loopback port, each under its own path."""

    def __init__(self) -> None:
        self._answers: dict[str, Callable[[Request], Response]] = {}
        self._numbers = count(1)
        self._server = Server(0, self._answer)

    def join(self, answer: Callable[[Request], Response]) -> str:
        """Start to serve a workspace.

        Returns:
            The address of the workspace, `http://127.0.0.1:PORT/NUMBER`.
        """
        number = str(next(self._numbers))
        self._answers[number] = answer
        return f"{self._server.url}/{number}"

    def leave(self, address: str) -> None:
        """Stop serving the workspace with this address."""
        self._answers.pop(address.rpartition("/")[2], None)

    def stop(self) -> None:
        """Stop listening and finish the requests in progress."""
        self._server.stop()

    def _answer(self, request: Request) -> Response:
        number, _, rest = request.path.lstrip("/").partition("/")
        answer = self._answers.get(number)
        if answer is None:
            return json_answer(404, {"statusCode": 404, "messages": ["no such workspace"]})
        return answer(replace(request, path=f"/{rest}" if rest else ""))
