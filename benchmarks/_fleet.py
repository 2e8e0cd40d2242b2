"""Many simulated workspaces in one process, and the baseline for a fleet: a bare loop of requests.

As a program, `_fleet.py serve` prints its port and serves until stdin is closed, and `_fleet.py
loop` reads the requests of each workspace from stdin and sends them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, ClassVar, Self

import urllib3
from _manifests import ROLE

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_LATENCY = 0.02
"""Seconds from a request to its answer."""

_THREADS = 64
_CREATED_AT = "2026-01-01T00:00:00.000Z"
_NEVER = "2126-01-01T00:00:00.000Z"
_ROLE = {"id": str(uuid.UUID(int=1)), "label": ROLE, "canBeAssignedToApiKeys": True}
_LIST = (
    "{apiKeys{id name expiresAt revokedAt createdAt updatedAt} "
    "getRoles{id label canBeAssignedToApiKeys apiKeys{id}}}"
)


class Fleet:
    """Simulated workspaces of 2.x, each with an address and a key `svc-0`, in another process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def manifests(self, directory: Path, count: int, keys: int) -> None:
        """Write manifests of `count` environments, with the keys `svc-0`, `svc-1` and so on."""
        tokens = directory.parent / f"{directory.name}-tokens"
        tokens.mkdir()
        directory.mkdir()
        lines = ["version: 1", "environments:"]
        for number in range(count):
            (tokens / str(number)).write_text(_token(number), encoding="ascii")
            lines += [f"  {_name(number)}:", f"    url: {self._url(number)}", f"    role: {ROLE}"]
            lines += [f"    auth: {{token_file: {tokens.name}/{number}}}"]
        (directory / "environments.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        names = ", ".join(map(_name, range(count)))
        lines = ["version: 1", f"environments: [{names}]", "defaults: {expires: never}", "keys:"]
        lines += [f"  - name: svc-{number}" for number in range(keys)]
        (directory / "keys.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def loop_input(self, count: int) -> str:
        """Return the input of the bare loop for `count` workspaces."""
        return json.dumps([(self._url(number), _token(number)) for number in range(count)])

    def _url(self, number: int) -> str:
        return f"http://127.0.0.1:{self._port}/{_name(number)}"


def _name(number: int) -> str:
    return f"crm-{number}"


def _token(number: int) -> str:
    claims = {"sub": "someone", "workspaceId": str(uuid.UUID(int=number + 1)), "type": "ACCESS"}
    parts = ({"alg": "ES256", "typ": "JWT"}, claims)
    packed = [base64.urlsafe_b64encode(json.dumps(one).encode()).decode() for one in parts]
    signature = base64.urlsafe_b64encode(uuid.uuid4().bytes * 4).decode()
    return ".".join(one.rstrip("=") for one in (*packed, signature))


def _loop() -> None:
    """Detect the generation of each workspace and list its keys, as `apply` does."""

    def observe(workspace: tuple[str, str]) -> None:
        url, token = workspace
        with urllib3.PoolManager(headers={"Authorization": f"Bearer {token}"}) as manager:
            manager.request("GET", f"{url}/rest/apiKeys?limit=60", retries=False).json()
            manager.request("POST", f"{url}/metadata", json={"query": _LIST}, retries=False).json()

    with ThreadPoolExecutor(_THREADS) as threads:
        for _ in threads.map(observe, json.load(sys.stdin)):
            pass


def _key(name: str, expires_at: str = _NEVER) -> dict[str, Any]:
    times = {"createdAt": _CREATED_AT, "updatedAt": _CREATED_AT, "revokedAt": None}
    return {"id": str(uuid.uuid4()), "name": name, "expiresAt": expires_at, **times}


def _answer(keys: list[dict[str, Any]], method: str, body: bytes) -> object:
    """Return the document for a request to a workspace; what is imitated was recorded on 2.21."""
    if method == "GET":
        return keys
    document = json.loads(body)
    match document:
        case {"query": str(query), "variables": {"k0": wanted}} if "createApiKey" in query:
            keys.append(_key(wanted["name"], wanted["expiresAt"]))
            return {"data": {"k0": {**keys[-1], "role": _ROLE}}}
        case {"query": str(query)} if "apiKeys" in query and "getRoles" in query:
            ids = [{"id": key["id"]} for key in keys]
            return {"data": {"apiKeys": keys, "getRoles": [{**_ROLE, "apiKeys": ids}]}}
        case _:
            return {"data": {"getRoles": [{"id": _ROLE["id"], "universalIdentifier": None}]}}


class _Connection(asyncio.Protocol):
    """One connection; its requests come one after the other."""

    workspaces: ClassVar[dict[str, list[dict[str, Any]]]] = {}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        if not end or len(body) < int(headers.get("content-length", 0)):
            return
        self._received = b""
        method, path = line.split(" ")[:2]
        keys = self.workspaces.setdefault(path.split("/")[1], [_key("svc-0")])
        content = json.dumps(_answer(keys, method, body)).encode()
        head_lines = (
            "HTTP/1.1 200 OK",
            "Content-Type: application/json",
            f"Date: {formatdate(usegmt=True)}",
            f"Content-Length: {len(content)}",
        )
        answer = ("\r\n".join(head_lines) + "\r\n\r\n").encode() + content
        asyncio.get_running_loop().call_later(_LATENCY, self._transport.write, answer)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(_serve())
    else:
        _loop()
