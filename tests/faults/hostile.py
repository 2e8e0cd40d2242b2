"""A hostile server, and runs whose time and memory are measured.

A `HostileServer` passes each request to its behaviour, a function that may write anything to the
raw socket, even forever: writing ends when the peer disconnects or the server stops.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from processes import Provision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WORKSPACE = "20202020-1c25-4d02-bf25-6aeccf7ea419"
LIMIT_SECONDS = 10.0
PATIENT = "9s"
"""The timeout of an environment that answers: how busy the machine is must not decide."""
IMPATIENT = "400ms"
"""The timeout of an environment whose answers never end."""
LIMIT_MEGABYTES = 200.0
_LOCK_FILE = Path(tempfile.gettempdir(), "provision-hostile.lock")
"""A lock that all runs on this machine share, or that one run holds exclusively."""


def token(**claims: object) -> str:
    """Return a JWT like Twenty's, with an invalid signature."""
    head = {"alg": "HS256", "typ": "JWT"}
    parts = [head, {"sub": WORKSPACE, "workspaceId": WORKSPACE, "type": "API_KEY", **claims}]
    packed = [base64.urlsafe_b64encode(json.dumps(one).encode()).decode() for one in parts]
    signature = "hostileCanary0000000000000000000000000000000"[:43]
    return ".".join([*(one.rstrip("=") for one in packed), signature])


@dataclass(frozen=True)
class HostileRequest:
    """A request, and the socket for its answer."""

    head: bytes
    body: bytes
    peer: socket.socket
    stopped: threading.Event

    @property
    def path(self) -> str:
        """The path with the query."""
        return self.head.split(b" ", 2)[1].decode("latin-1")

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def send(self, data: bytes) -> None:
        """Write bytes."""
        self.peer.sendall(data)

    def send_forever(self, data: bytes, *, every: float = 0.0) -> None:
        """Write the same bytes repeatedly, every `every` seconds."""
        while not self.stopped.wait(every):
            self.peer.sendall(data)

    def answer(
        self, body: object = b"", status: int = 200, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """Send a complete answer; a body that is not bytes is sent as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [("Content-Length", str(len(raw))), ("Connection", "close"), *headers]
        head = "".join(f"{name}: {value}\r\n" for name, value in lines)
        self.send(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + raw)


class HostileServer:
    """A server on loopback that answers every request with its behaviour; a context manager."""

    def __init__(self, behave: Callable[[HostileRequest], object]) -> None:
        self.received: list[bytes] = []
        self._behave = behave
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                threading.Thread(target=self._handle, args=(peer,), daemon=True).start()

    def _handle(self, peer: socket.socket) -> None:
        with peer, suppress(OSError):
            peer.settimeout(30)
            data = b""
            while b"\r\n\r\n" not in data:
                chunk = peer.recv(65536)
                data += chunk
                if not chunk:
                    return
            head, _, body = data.partition(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            while len(body) < length and (chunk := peer.recv(65536)):
                body += chunk
            self.received.append(head + b"\r\n\r\n" + body)
            self._behave(HostileRequest(head, body, peer, self._stopped))


@dataclass(frozen=True)
class Completed:
    """The result of a process, and its time and memory.

    Attributes:
        seconds: the duration of the process.
        megabytes: the peak memory of the process.
    """

    code: int
    out: str
    err: str
    seconds: float
    megabytes: float

    @property
    def output(self) -> str:
        """The text on stdout and stderr."""
        return self.out + self.err


@dataclass
class Workdir:
    """A directory with manifests for the environment `shop`, and runs in it.

    Attributes:
        folder: the parent of `manifests/` and the working directory of the commands.
        secret: the token of the environment.
        variables: additional variables for the processes.
    """

    folder: Path
    secret: str
    variables: dict[str, str] = field(default_factory=dict)

    def write_manifests(
        self,
        url: str,
        keys: tuple[Mapping[str, Any], ...] = ({"name": "svc-one"},),
        *,
        timeout: str = PATIENT,
        auth: Mapping[str, str] | None = None,
        **environment: Any,
    ) -> None:
        """Write the manifests."""
        shop = {
            "url": url,
            "role": "Admin",
            "limits": {"timeout": timeout, "parallel": 2},
            **environment,
        }
        if not url.startswith("sandbox:"):
            shop["auth"] = auth or {"token": "${SHOP_TOKEN}"}
        keys_document = {"environment": "shop", "defaults": {"expires": "90d"}, "keys": list(keys)}
        manifests = self.folder / "manifests"
        manifests.mkdir(exist_ok=True)
        documents = {"environments": {"environments": {"shop": shop}}, "keys": keys_document}
        for name, document in documents.items():
            (manifests / f"{name}.yaml").write_text(json.dumps({"version": 1, **document}))

    def environment(self) -> dict[str, str]:
        """Return the variables of the process: only the necessary ones."""
        variables = {
            name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ
        }
        # These measure the coverage of processes.
        variables |= {
            name: value for name, value in os.environ.items() if name.startswith("COVERAGE")
        }
        return variables | {"HOME": str(self.folder), "SHOP_TOKEN": self.secret} | self.variables

    def run(self, *arguments: str) -> Completed:
        """Run a command; if it took too long, run it once more while no other runs."""
        with _LOCK_FILE.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            ran = self._run(*arguments)
        if ran.seconds < LIMIT_SECONDS:
            return ran
        with _LOCK_FILE.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return self._run(*arguments)

    def _run(self, *arguments: str) -> Completed:
        started = time.monotonic()
        with Provision(
            *arguments,
            address_space=4 << 30,
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=3 * LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        seconds = time.monotonic() - started
        return Completed(process.returncode, out.decode(), err.decode(), seconds, process.megabytes)
