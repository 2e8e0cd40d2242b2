"""A server that means harm, a host that nobody should ever call, and a run that is measured.

A `Hostile` hands each request to its behaviour, which may write what it likes on the raw socket,
for ever if it wants to: writing ends with the peer or with the server.
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
LIMIT_MEGABYTES = 200.0
_ALONE = Path(tempfile.gettempdir(), "provision-hostile.lock")
"""Held by all runs of the machine together, or by one alone."""


def token(**claims: object) -> str:
    """A JWT as Twenty makes them, signed by nobody."""
    head = {"alg": "HS256", "typ": "JWT"}
    parts = [head, {"sub": WORKSPACE, "workspaceId": WORKSPACE, "type": "API_KEY", **claims}]
    packed = [base64.urlsafe_b64encode(json.dumps(one).encode()).decode() for one in parts]
    signature = "hostileCanary0000000000000000000000000000000"[:43]
    return ".".join([*(one.rstrip("=") for one in packed), signature])


@dataclass(frozen=True)
class Asked:
    """One request, and the socket on which to answer it."""

    head: bytes
    body: bytes
    peer: socket.socket
    over: threading.Event

    @property
    def path(self) -> str:
        """With its query."""
        return self.head.split(b" ", 2)[1].decode("latin-1")

    @property
    def words(self) -> str:
        """The body as text."""
        return self.body.decode()

    def say(self, data: bytes) -> None:
        """Writes bytes."""
        self.peer.sendall(data)

    def for_ever(self, data: bytes, *, every: float = 0.0) -> None:
        """Writes the same bytes again and again, with so many seconds in between."""
        while not self.over.wait(every):
            self.peer.sendall(data)

    def answer(
        self, body: object = b"", status: int = 200, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """A whole answer; what is no bytes is sent as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [("Content-Length", str(len(raw))), ("Connection", "close"), *headers]
        head = "".join(f"{name}: {value}\r\n" for name, value in lines)
        self.say(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + raw)


class Hostile:
    """A server on loopback whose every answer is its behaviour's doing; a context manager."""

    def __init__(self, behave: Callable[[Asked], object]) -> None:
        self.asked: list[bytes] = []
        self._behave = behave
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
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
                threading.Thread(target=self._meet, args=(peer,), daemon=True).start()

    def _meet(self, peer: socket.socket) -> None:
        with peer, suppress(OSError):
            peer.settimeout(30)
            data = b""
            while b"\r\n\r\n" not in data:
                more = peer.recv(65536)
                data += more
                if not more:
                    return
            head, _, body = data.partition(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            while len(body) < length and (more := peer.recv(65536)):
                body += more
            self.asked.append(head + b"\r\n\r\n" + body)
            self._behave(Asked(head, body, peer, self._over))


@dataclass(frozen=True)
class Ran:
    """How a process ended, and what it took.

    Attributes:
        seconds: from its start to its end.
        megabytes: the most that it had in memory.
    """

    code: int
    out: str
    err: str
    seconds: float
    megabytes: float

    @property
    def said(self) -> str:
        """Everything that it wrote."""
        return self.out + self.err


# Its own small process, so that the peak is the command's: a child starts with its parent's.
@dataclass
class Place:
    """A directory of manifests for one environment `shop`, and runs in it.

    Attributes:
        folder: holds `manifests/`, and is where commands run.
        secret: the token of the environment.
        variables: more of the process environment.
    """

    folder: Path
    secret: str
    variables: dict[str, str] = field(default_factory=dict)

    def declare(
        self,
        url: str,
        keys: tuple[Mapping[str, Any], ...] = ({"name": "svc-one"},),
        *,
        timeout: str = "400ms",
        auth: Mapping[str, str] | None = None,
        **environment: Any,
    ) -> None:
        """Writes the manifests anew."""
        shop = {
            "url": url,
            "role": "Admin",
            "limits": {"timeout": timeout, "parallel": 2},
            **environment,
        }
        if not url.startswith("sandbox:"):
            shop["auth"] = auth or {"token": "${SHOP_TOKEN}"}
        wanted = {"environment": "shop", "defaults": {"expires": "90d"}, "keys": list(keys)}
        manifests = self.folder / "manifests"
        manifests.mkdir(exist_ok=True)
        documents = {"environments": {"environments": {"shop": shop}}, "keys": wanted}
        for name, document in documents.items():
            (manifests / f"{name}.yaml").write_text(json.dumps({"version": 1, **document}))

    def environment(self) -> dict[str, str]:
        """Of the process: bare, but for what it needs."""
        found = {
            name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ
        }
        # Where the coverage of processes is measured, these say so.
        found |= {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
        return found | {"HOME": str(self.folder), "SHOP_TOKEN": self.secret} | self.variables

    def run(self, *arguments: str) -> Ran:
        """Runs a command to its end; once more without the others where it took too long."""
        with _ALONE.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            ran = self._run(*arguments)
        if ran.seconds < LIMIT_SECONDS:
            return ran
        with _ALONE.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return self._run(*arguments)

    def _run(self, *arguments: str) -> Ran:
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
        return Ran(process.returncode, out.decode(), err.decode(), seconds, process.megabytes)
