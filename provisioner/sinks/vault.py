"""The sink `vault`: fields of secrets in a KV version 2 engine of HashiCorp Vault or OpenBao.

A write changes one field and keeps the other fields of its secret. It names the version that it is
based on (check-and-set), so the server refuses it if another writer was faster, and a write whose
answer was lost can be sent again.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote, urlsplit

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import SinkError
from provisioner.http_client.exchange import Route, ca_path_of, json_of
from provisioner.model.sink_address import Address
from provisioner.model.sink_content import NoToken
from provisioner.secret import Secret
from provisioner.sinks.http import TIMEOUTS, Api, Credential, Reply
from provisioner.sinks.kind import CLEAN, NO_DOTS, Allowed, Option, SinkKind
from provisioner.sinks.sink import SinkFailure, StoredValue, UnusableError, unsuitable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from provisioner.http_client.exchange import HttpAnswer
    from provisioner.sinks.kind import OptionValues
    from provisioner.sinks.sink import Content, Sink

_LOG = logging.getLogger(__name__)

_MAX_WRITES = 8
_MAX_RETRY_AFTER = 30.0
_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_TRANSIENT_STATUSES = frozenset({HTTPStatus.PRECONDITION_FAILED, HTTPStatus.TOO_MANY_REQUESTS})
_REDIRECTS = range(300, 400)
_RETURNED = frozenset({HTTPStatus.FORBIDDEN})
_UPGRADING_TEXT = "from non-versioned to versioned data"
_NO_ROUTE_TEXT = "no handler for route"
_MISMATCH_TEXT = "check-and-set parameter did not match"


@dataclass(frozen=True, slots=True)
class VaultAddress(Address):
    """A field of a secret in a KV version 2 engine of HashiCorp Vault or OpenBao.

    Attributes:
        path: the path of the secret in the engine, without the mount of the engine.
    """

    kind: ClassVar[str] = "vault"
    mount: str
    path: str
    field: str = "token"

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the path of the secret."""
        return (f"{self.mount}/{self.path}",)

    @property
    def removes(self) -> bool:
        """Return True: the sink can remove a token."""
        return True

    def __str__(self) -> str:
        return f"vault {self.mount}/{self.path} {self.field}"


class VaultServer:
    """The Vault or OpenBao server of a run. Its sinks may be used from several threads.

    Relies on: every variable is read as `BAO_…`, then as `VAULT_…` (OpenBao, `api/env.go`); the
    CLIs of both keep their token in `~/.vault-token` (docs, "Token helpers"); every login method
    returns a token that can be sent unchanged (docs, "Tokens"); `sys/internal/ui/mounts/:path`
    names the engine of a path to every token that has any permission there, and is what the CLIs
    ask first (API docs, "/sys/internal/ui/mounts"). A redirect of a standby is not followed,
    because it would send the token to another host.

    Args:
        environment: the environment variables of the process; proxies come from the real
            environment.
        sleep: waits for a number of seconds.
        timeout: seconds to connect, and for the whole answer.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        sleep: Callable[[float], None] = time.sleep,
        timeout: tuple[float, float] = TIMEOUTS,
    ) -> None:
        self._lookup_lock = threading.Lock()
        self._engines: set[str] = set()
        self._server_failure: SinkFailure | None = None
        self._write_locks: dict[str, threading.Lock] = {}
        try:
            self._api = _open(environment, sleep, timeout)
        except UnusableError as error:
            self._server_failure = error.failure

    def sink(self, address: VaultAddress) -> Sink:
        """Return the sink of an address; a problem with the server is reported when it is used."""
        return _Field(self, address)

    def call(
        self,
        address: VaultAddress,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
    ) -> Reply:
        """Send a request whose repetition changes nothing, and repeat it while that may help.

        Args:
            address: the sink, for messages.
            method: the HTTP method.
            path: the part after `v1/`, not yet quoted.
            body: sent as JSON.

        Raises:
            SinkError: there is no answer of Vault itself.
        """
        path = f"/v1/{quote(path)}"
        return self._api.call(address, method, path, body, returned_statuses=_RETURNED)

    def wait(self, attempt: int) -> None:
        """Wait after a write that another writer prevented."""
        self._api.wait(attempt)

    def engine(self, address: VaultAddress) -> str:
        """Return the mount of the KV version 2 engine of a sink, with its final slash.

        It is looked up once for all paths of the engine. An unavailable server is also remembered.

        Raises:
            SinkError: there is no such engine, or it may not be used.
        """
        path = f"{address.mount}/{address.path}"
        with self._lookup_lock:
            if self._server_failure is not None:
                raise self._server_failure.error(address)
            for engine in self._engines:  # engines are never nested
                if path.startswith(engine):
                    return engine
            try:
                engine = self._find_engine(address, path)
            except SinkError as error:
                if error.code is Code.SINK_UNAVAILABLE:
                    reason = error.message.removeprefix(f"{address} ").removesuffix(".")
                    self._server_failure = SinkFailure(error.code, reason, error.remedy)
                raise
            self._engines.add(engine)
            return engine

    def write_lock(self, path: str) -> threading.Lock:
        """Return the lock for writes to a secret, so that threads of one run never conflict."""
        return self._write_locks.setdefault(path, threading.Lock())

    def _find_engine(self, address: VaultAddress, path: str) -> str:
        reply = self.call(address, "GET", f"sys/internal/ui/mounts/{path}")
        if reply.status == HTTPStatus.FORBIDDEN:
            # A token that may not see the engine may not be valid either.
            token = self.call(address, "GET", "auth/token/lookup-self")
            if token.status != HTTPStatus.OK:
                raise _BAD_TOKEN.error(address)
            reason = "cannot be accessed: the Vault token is valid but has no access to this engine"
            remedy = "Check the mount, VAULT_NAMESPACE and the policies of the token."
            raise SinkFailure(Code.SINK_DENIED, reason, remedy).error(address)
        if reply.status == HTTPStatus.NOT_FOUND:
            reason = "does not exist: the server has no engine or namespace with this name"
            remedy = "Check the mount, VAULT_ADDR and VAULT_NAMESPACE."
            raise SinkFailure(Code.SINK_MISSING, reason, remedy).error(address)
        engine = _at(reply, "data", "path")
        if reply.status != HTTPStatus.OK or not isinstance(engine, str):
            raise _unexpected(reply.status).error(address)
        version = _at(reply, "data", "options", "version")
        if _at(reply, "data", "type") != "kv" or version != "2" or not path.startswith(engine):
            reason = (
                "is not in a KV version 2 engine, and no other engine keeps a secret's other fields"
            )
            remedy = "Use the mount of a KV version 2 engine, or upgrade this engine to version 2."
            raise unsuitable(reason, remedy).error(address)
        return engine


class _Field:
    """One field of one secret.

    Relies on (API docs, "KV secrets engine - version 2" and "/sys/capabilities-self"): a read of a
    deleted version is a 404 that includes its number; a write with `cas` 0 is for a secret without
    versions; a new version has exactly the fields that were sent, while custom metadata belongs to
    the secret.
    """

    def __init__(self, server: VaultServer, address: VaultAddress) -> None:
        self._server = server
        self._address = address

    def check(self) -> None:
        """Check that the engine has version 2, and that the token may read and write there."""
        path = self._data_path()
        body = {"paths": [path]}
        reply = self._server.call(self._address, "POST", "sys/capabilities-self", body)
        granted = _at(reply, path) or _at(reply, "data", path) or _at(reply, "capabilities")
        if reply.status != HTTPStatus.OK or not isinstance(granted, list):
            # A token may lack the permission to look up its own permissions.
            self._latest_version(path)
        elif "root" not in granted and not (
            "read" in granted and {"create", "update"}.intersection(granted)
        ):
            raise _denied(path).error(self._address)

    def read(self) -> Content:
        """Return the field in the latest version; a value that is not a text as JSON."""
        _, fields = self._latest_version(self._data_path(), _READ_DENIED)
        value = fields.get(self._address.field)
        if value is None:
            return NoToken()
        return StoredValue(Secret.received(value if isinstance(value, str) else json.dumps(value)))

    def write(self, token: Secret) -> None:
        """Create a version that differs from the latest one only in this field."""
        name, value = self._address.field, token.reveal()

        def changed(fields: Mapping[str, object], attempt: int) -> dict[str, object] | None:
            is_written = attempt > 1 and fields.get(name) == value
            return None if is_written else {**fields, name: value}

        self._change(changed)

    def remove(self, token: Secret) -> bool:
        """Create a version without this field; one without any fields if it was the only one.

        Older versions keep the token, as they keep the other fields of their time.
        """
        name, value = self._address.field, token.reveal()

        def changed(fields: Mapping[str, object], _attempt: int) -> dict[str, object] | None:
            if fields.get(name) != value:
                return None
            return {field: other for field, other in fields.items() if field != name}

        return self._change(changed).get(name) is None

    def _change(
        self, changed: Callable[[Mapping[str, object], int], dict[str, object] | None]
    ) -> Mapping[str, object]:
        """Create a version, based on the latest one, and return its fields.

        Args:
            changed: returns the new fields for those of the latest version and the number of the
                attempt, from 1; None to leave them as they are.

        Raises:
            SinkError: the version was not created, or may not have been.
        """
        path = self._data_path()
        with self._server.write_lock(path):
            for attempt in range(1, _MAX_WRITES + 1):
                number, fields = self._latest_version(path)
                new = changed(fields, attempt)
                if new is None:
                    return fields
                body = {"data": new, "options": {"cas": number}}
                reply = self._server.call(self._address, "POST", path, body)
                if reply.status in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
                    return new
                if _MISMATCH_TEXT not in str(_at(reply, "errors")):
                    if reply.status == HTTPStatus.FORBIDDEN:
                        raise _denied(path).error(self._address)
                    reason = (
                        f"was not written: the server refused it with HTTP status {reply.status}"
                    )
                    remedy = "Check the server's log, and the size limit of the engine."
                    raise SinkFailure(Code.SINK_FAILED, reason, remedy).error(self._address)
                self._server.wait(attempt)
            _, fields = self._latest_version(path)
            if changed(fields, _MAX_WRITES + 1) is not None:
                reason = f"was not written: another writer changed the secret {_MAX_WRITES} times"
                remedy = "Run the command again once nothing else is writing to this secret."
                raise SinkFailure(Code.SINK_FAILED, reason, remedy).error(self._address)
            return fields

    def _latest_version(
        self, path: str, denied: SinkFailure | None = None
    ) -> tuple[int, dict[str, object]]:
        """Return its number, 0 for a secret without versions, and its fields, none if deleted."""
        reply = self._server.call(self._address, "GET", path)
        if reply.status == HTTPStatus.FORBIDDEN:
            raise (denied or _denied(path)).error(self._address)
        number = _at(reply, "data", "metadata", "version")
        fields = _at(reply, "data", "data")
        if reply.status == HTTPStatus.NOT_FOUND:
            return number if isinstance(number, int) else 0, {}
        if reply.status != HTTPStatus.OK or not isinstance(number, int):
            raise _unexpected(reply.status).error(self._address)
        return number, fields if isinstance(fields, dict) else {}

    def _data_path(self) -> str:
        """Return the API path of the versions of the secret."""
        path = f"{self._address.mount}/{self._address.path}"
        if not path.isprintable() or {"", ".", ".."}.intersection(path.split("/")):
            reason = "has a path with an empty part, `.`, `..` or a control character"
            remedy = "Write the path as mount/path, without empty parts."
            raise unsuitable(reason, remedy).error(self._address)
        engine = self._server.engine(self._address)
        return f"{engine}data/{path[len(engine) :]}"


class _VaultApi(Api):
    """The API of Vault, which answers in ways of its own that a repeat may help."""

    max_attempts = 5
    first_wait, longest_wait = 0.25, 2.0
    allows_unverified = True

    def failure_in(self, path: str, answer: HttpAnswer) -> SinkFailure | None:
        """Return a failure that only Vault's answers show; None without one.

        Relies on: the texts of the KV plugin during an upgrade, on the primary and on other nodes,
        and of a node that a new mount has not reached yet.
        """
        status = answer.status
        if status in _TRANSIENT_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            wait = answer.retry_after or 0.0
            return SinkFailure(
                Code.SINK_UNAVAILABLE,
                f"is unavailable: Vault is sealed, on standby or overloaded (HTTP status {status})",
                "Check the server, then run the command again.",
                transient=wait <= _MAX_RETRY_AFTER,
                retry_after=wait,
            )
        try:
            body = json_of(answer.body) if answer.body else {}
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return None if status in _REDIRECTS else _unexpected(status)
        errors = str(body.get("errors"))
        if status == HTTPStatus.BAD_REQUEST:
            return _STARTING if _UPGRADING_TEXT in errors else None
        # For a request about the engine itself it means that the namespace does not exist.
        is_missing = status == HTTPStatus.NOT_FOUND and not path.startswith("/v1/sys/")
        return _STARTING if is_missing and _NO_ROUTE_TEXT in errors else None


_STARTING = SinkFailure(
    Code.SINK_UNAVAILABLE,
    "is unavailable: Vault is upgrading or mounting its engine",
    "Wait until Vault has finished, then run the command again.",
    transient=True,
)
_BAD_TOKEN = SinkFailure(
    Code.SINK_DENIED,
    "cannot be accessed: the Vault token is missing, not valid or has no permissions",
    "Set VAULT_TOKEN (BAO_TOKEN) to a token of printable ASCII that may read and write there.",
)


def _at(reply: Reply, *names: str) -> object:
    """Return the value below these names in the body; None without one."""
    found: object = reply.body
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _open(
    environment: Mapping[str, str],
    sleep: Callable[[float], None],
    timeout: tuple[float, float],
) -> Api:
    """Return the API of the server that the variables name.

    Raises:
        UnusableError: they name none, no token, or a certificate that cannot be read.
    """
    address = _variable(environment, "ADDR")
    if not _is_url(address):  # the message does not show it, as it may contain a secret
        reason = "cannot be found: the Vault address is not set, or is not an https:// URL"
        remedy = "Set VAULT_ADDR (BAO_ADDR), for example to https://vault.example.com:8200."
        raise UnusableError(SinkFailure(Code.SINK_MISSING, reason, remedy))
    token = _token(environment)
    verify = _variable(environment, "SKIP_VERIFY") not in _TRUE
    if not verify:
        _LOG.warning("VAULT_SKIP_VERIFY is set: the identity of the Vault server is not verified")
    named = _variable(environment, "CACERT") or _variable(environment, "CAPATH")
    route = Route(
        address.rstrip("/"),
        named or ca_path_of(environment),
        verify=verify,
        ca_setting="VAULT_CACERT (BAO_CACERT)",
    )
    headers = {"X-Vault-Request": "true"}
    if namespace := _variable(environment, "NAMESPACE"):
        headers["X-Vault-Namespace"] = namespace
    credential = Credential({"X-Vault-Token": token}, _client_certificate(environment))
    return _VaultApi(route, lambda _: credential, headers, sleep, timeouts=timeout)


def _variable(environment: Mapping[str, str], name: str) -> str:
    """Return the value of OpenBao's variable, or else of Vault's; empty without either."""
    return environment.get(f"BAO_{name}") or environment.get(f"VAULT_{name}") or ""


def _is_url(address: str) -> bool:
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises if it is not a number
    except ValueError:
        return False
    return bool(parts.hostname) and parts.scheme in ("http", "https")


def _token(environment: Mapping[str, str]) -> Secret:
    """Return the token from the variables, or else from the file that a login wrote."""
    value = _variable(environment, "TOKEN").strip()
    home = environment.get("HOME")
    file = _variable(environment, "TOKEN_PATH") or (home and f"{home}/.vault-token")
    if not value and file:
        with suppress(OSError, ValueError):
            value = Path(file).read_text(encoding="ascii").strip()
    # A header with other characters would fail with an error that quotes it.
    if not (value and value.isascii() and value.isprintable()):
        raise UnusableError(_BAD_TOKEN)
    return Secret(value)


def _client_certificate(environment: Mapping[str, str]) -> Secret | None:
    """Return the client certificate with its key, which may be in the same file."""
    certificate = _variable(environment, "CLIENT_CERT")
    files = filter(None, (certificate, _variable(environment, "CLIENT_KEY")))
    try:
        return (
            Secret("\n".join(Path(file).read_text("utf-8") for file in files))
            if certificate
            else None
        )
    except (OSError, ValueError):
        reason = "cannot be opened: the client certificate or its key cannot be read"
        remedy = "Check VAULT_CLIENT_CERT and VAULT_CLIENT_KEY."
        raise UnusableError(SinkFailure(Code.SINK_UNAVAILABLE, reason, remedy)) from None


_READ_DENIED = SinkFailure(
    Code.SINK_DENIED,
    "cannot be read with this Vault token",
    "Grant read on its path in a policy attached to the token.",
)


def _denied(path: str) -> SinkFailure:
    return SinkFailure(
        Code.SINK_DENIED,
        "cannot be read and written with this Vault token",
        f"Grant create, update and read on {path} in a policy attached to the token.",
    )


def _unexpected(status: int) -> SinkFailure:
    return SinkFailure(
        Code.SINK_UNAVAILABLE,
        f"is unavailable: the response is not from the Vault API (HTTP status {status})",
        "Check that VAULT_ADDR (BAO_ADDR) is the address of Vault itself.",
    )


_PART = rf"{NO_DOTS}(?:(?!/){CLEAN})+"


def _address(values: OptionValues) -> VaultAddress:
    mount, _, path = values.text("vault").partition("/")
    return VaultAddress(mount, path, values.text("field"))


SINK = SinkKind(
    title="Vault",
    description="A field of a secret in HashiCorp Vault or OpenBao, in a KV version 2 secrets "
    "engine.",
    options=(
        Option(
            "vault",
            "Secret",
            "The mount of the engine, a slash, and the path of the secret in it.",
            Allowed(
                re.compile(rf"{_PART}(?:/{_PART})+"), "MOUNT/PATH, such as secret/twenty/{name}"
            ),
            examples=("secret/twenty/{environment}/{name}",),
        ),
        Option("field", "Field", "The field that contains the token.", default="token"),
    ),
    address=_address,
    connect=lambda context: VaultServer(context.environ, sleep=context.wait).sink,
    server_of=lambda environ, _: _variable(environ, "ADDR"),
)
