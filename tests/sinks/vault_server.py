"""A server that imitates Vault over real TLS, built from the vendor's API documentation.

It follows these pages of developer.hashicorp.com/vault/api-docs, which openbao.org/api-docs has
too: "KV secrets engine - version 2" (read, create and update with `cas` and `cas_required`, soft
deletion, metadata), "/sys/internal/ui/mounts" (single mount details), "/sys/capabilities-self",
"Token auth method" (lookup a token, self), "Namespaces", and "HTTP API" (headers, error shapes,
status codes).
"""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

from builders import NOW

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

UPGRADING = (
    "Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief "
    "period and will resume service shortly."
)
WAITING = (
    "Waiting for the primary to upgrade from non-versioned to versioned data. This backend will be "
    "unavailable for a brief period and will resume service when the primary is finished."
)
"""The messages of the KV plugin, with 400, while it upgrades an engine."""

CREATED = f"{NOW:%Y-%m-%dT%H:%M:%S}.000000000Z"
ALL = ("create", "read", "update", "delete", "list")
DEFAULT_POLICY = {"auth/token/lookup-self": ("read",), "sys/capabilities-self": ("update",)}


@dataclass
class Version:
    data: dict[str, Any] | None
    deleted: bool = False
    destroyed: bool = False


@dataclass
class StoredSecret:
    """A secret of the engine, its oldest version first."""

    versions: list[Version] = field(default_factory=list)
    custom_metadata: dict[str, str] | None = None


@dataclass
class Fault:
    """The outcome of one request, if its method and path match.

    Attributes:
        answer: a status and headers in place of the real answer; None for no answer at all.
        handled: whether the request is executed nevertheless.
        message: the error message of the answer.
        before: called before anything else.
        passed_on: whether the request is handled and answered normally.
    """

    method: str
    path: str = "*"
    answer: tuple[int, dict[str, str]] | None = None
    handled: bool = False
    message: str = "simulated error"
    before: Callable[[], None] | None = None
    passed_on: bool = False


@dataclass
class LoggedRequest:
    method: str
    path: str
    headers: dict[str, str]


class VaultStandIn:
    """One server; `policies` gives each token its capabilities on path patterns."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.policies: dict[str, dict[str, tuple[str, ...]]] = {}
        self.engines = {"secret/": "2", "old/": "1", "team/kv/": "2"}
        self.cas_required = False
        self.secrets: dict[tuple[str, str], StoredSecret] = {}
        self.journal: list[LoggedRequest] = []
        self.faults: deque[Fault] = deque()
        self._lock = threading.RLock()
        self._tls = tls

    def __enter__(self) -> Self:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                stand_in._serve(self)

            def do_POST(self) -> None:
                stand_in._serve(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self._server.server_address[1]}"

    def secret_at(self, path: str, namespace: str = "") -> StoredSecret:
        with self._lock:
            return self.secrets.setdefault((namespace, path), StoredSecret())

    def put(self, path: str, data: dict[str, Any], namespace: str = "") -> None:
        with self._lock:
            self.secret_at(path, namespace).versions.append(Version(data))

    def latest(self, path: str, namespace: str = "") -> dict[str, Any]:
        with self._lock:
            secret = self.secrets.get((namespace, path), StoredSecret())
            return dict(secret.versions[-1].data or {}) if secret.versions else {}

    def count(self, method: str, glob: str) -> int:
        return sum(one.method == method and fnmatchcase(one.path, glob) for one in self.journal)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        path = unquote(handler.path).removeprefix("/v1/")
        with self._lock:
            self.journal.append(LoggedRequest(handler.command, path, dict(handler.headers)))
            fault = self._fault(handler.command, path)
        if fault and fault.before:
            fault.before()
        handled = fault is None or fault.handled or fault.passed_on
        with self._lock:
            real = self._handle(handler, path, body) if handled else (0, None)
        if fault is None or fault.passed_on:
            _answer(handler, real[0], real[1], {})
        elif fault.answer is None:
            handler.close_connection = True
        else:
            _answer(handler, fault.answer[0], {"errors": [fault.message]}, fault.answer[1])

    def _fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.method == method and fnmatchcase(path, fault.path):
                self.faults.remove(fault)
                return fault
        return None

    def _handle(  # noqa: PLR0911 - one for each endpoint and refusal
        self, handler: BaseHTTPRequestHandler, path: str, raw: bytes
    ) -> tuple[int, dict[str, Any] | None]:
        policy = self.policies.get(handler.headers.get("X-Vault-Token", ""))
        namespace = handler.headers.get("X-Vault-Namespace", "").strip("/")
        body = json.loads(raw) if raw else {}
        if policy is None:
            return _errors(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
        if path.startswith("sys/internal/ui/mounts/"):
            return self._mount(policy, path.removeprefix("sys/internal/ui/mounts/"))
        if path == "auth/token/lookup-self":
            if "read" not in _granted(policy, path):
                return _errors(403, "1 error occurred:\n\t* permission denied\n\n")
            return 200, {"data": {"accessor": "x", "policies": ["default"], "ttl": 3600}}
        if path == "sys/capabilities-self":
            if "update" not in _granted(policy, path):
                return _errors(403, "1 error occurred:\n\t* permission denied\n\n")
            capabilities = {one: list(_granted(policy, one)) or ["deny"] for one in body["paths"]}
            return 200, {
                "data": capabilities,
                **capabilities,
                "capabilities": next(iter(capabilities.values())),
            }
        for engine, version in self.engines.items():
            if version == "2" and path.startswith(f"{engine}data/"):
                name = engine + path.removeprefix(f"{engine}data/")
                return self._data(
                    handler.command, policy, path, self.secret_at(name, namespace), body
                )
        return _errors(404, f'no handler for route "{path}". route entry not found.')

    def _mount(
        self, policy: dict[str, tuple[str, ...]], path: str
    ) -> tuple[int, dict[str, Any] | None]:
        for engine, version in self.engines.items():
            visible = any(rule.startswith(engine) and granted for rule, granted in policy.items())
            if f"{path}/".startswith(engine) and visible:
                options = {"version": version} if version == "2" else None
                return 200, {"data": {"path": engine, "type": "kv", "options": options}}
        return _errors(
            403,
            "preflight capability check returned 403, please ensure client's policies grant "
            f'access to path "{path}/"',
        )

    def _data(
        self,
        method: str,
        policy: dict[str, tuple[str, ...]],
        path: str,
        secret: StoredSecret,
        body: dict[str, Any],
    ) -> tuple[int, dict[str, Any] | None]:
        number = len(secret.versions)
        needed = "read" if method == "GET" else "update" if number else "create"
        if not {needed, "root"} & set(_granted(policy, path)):
            return _errors(403, "1 error occurred:\n\t* permission denied\n\n")
        if method == "GET":
            if not number:
                return 404, {"errors": []}
            version = secret.versions[-1]
            is_deleted = version.deleted or version.destroyed
            answer = {
                "data": None if is_deleted else version.data,
                "metadata": {
                    "created_time": CREATED,
                    "custom_metadata": secret.custom_metadata,
                    "deletion_time": CREATED if version.deleted else "",
                    "destroyed": version.destroyed,
                    "version": number,
                },
            }
            return (404 if is_deleted else 200), {"data": answer}
        cas = body.get("options", {}).get("cas")
        if cas is None and self.cas_required:
            return _errors(400, "check-and-set parameter required for this call")
        if cas is not None and cas != number:
            return _errors(400, "check-and-set parameter did not match the current version")
        secret.versions.append(Version(body["data"]))
        return 200, {"data": {"created_time": CREATED, "version": number + 1}}


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Ignore clients that do not trust the certificate and close the connection."""


def _granted(policy: dict[str, tuple[str, ...]], path: str) -> tuple[str, ...]:
    return next(
        (capabilities for glob, capabilities in policy.items() if fnmatchcase(path, glob)), ()
    )


def _errors(status: int, *texts: str) -> tuple[int, dict[str, Any]]:
    return status, {"errors": list(texts)}


def _answer(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: dict[str, Any] | None,
    headers: dict[str, str],
) -> None:
    raw = json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", **headers}.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(raw)))
    handler.end_headers()
    handler.wfile.write(raw)
