"""The sink `vault`: fields of secrets in a KV version 2 engine of HashiCorp Vault or OpenBao.

A write changes one field and keeps the other fields of its secret. It names the version that it is
based on (check-and-set), so the server refuses it if another writer was faster, and a write whose
answer was lost can be sent again.
"""

from __future__ import annotations

import json
import logging
import random
import re
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol
from urllib.parse import quote, urlsplit

import requests
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError as PoolError

from provisioner.errors.codes import Code
from provisioner.http_client.bounded import (
    ACCEPT_ENCODING,
    AnswerTooLargeError,
    BoundedAdapter,
    body_of,
    json_of,
)
from provisioner.http_client.loopback import is_loopback
from provisioner.model.sink_address import Address
from provisioner.runtime.log_context import extra
from provisioner.secret import Secret
from provisioner.sinks.kind import CLEAN, NO_DOTS, Allowed, Option, SinkKind
from provisioner.sinks.sink import Empty, StoredValue, sink_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from provisioner.errors.exceptions import SinkError
    from provisioner.sinks.kind import OptionValues
    from provisioner.sinks.sink import Content, Sink

_LOG = logging.getLogger(__name__)

_TIMEOUT = (10.0, 30.0)
_BODY_LIMIT = 8 * 1024 * 1024

_MAX_ATTEMPTS = 5
_MAX_WRITES = 8
_FIRST_WAIT = 0.25
_LONGEST_WAIT = 2.0
_MAX_RETRY_AFTER = 30.0
_CONNECTIONS = 32
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_TRANSIENT_STATUSES = frozenset({HTTPStatus.PRECONDITION_FAILED, HTTPStatus.TOO_MANY_REQUESTS})
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
        environment: the environment variables of the process; proxies and the CA certificates of
            `requests` come from the real environment.
        sleep: waits for a number of seconds.
        timeout: seconds to connect, and for the whole answer.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        sleep: Callable[[float], None] = time.sleep,
        timeout: tuple[float, float] = _TIMEOUT,
    ) -> None:
        self._client = _connect(environment, timeout)
        self._sleep = sleep
        self._lookup_lock = threading.Lock()
        self._engines: set[str] = set()
        self._server_failure: _VaultFailure | None = None
        self._write_locks: dict[str, threading.Lock] = {}

    def sink(self, address: VaultAddress) -> Sink:
        """Return the sink of an address; a problem with the server is reported when it is used."""
        return _Field(self, address)

    def request(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> _VaultAnswer | _VaultFailure:
        """Send a request that changes nothing, and repeat it while that may help."""
        for attempt in range(_MAX_ATTEMPTS - 1):
            answer = self.send(method, path, body)
            if not isinstance(answer, _VaultFailure) or not answer.transient:
                return answer
            self.wait(attempt, answer)
        return self.send(method, path, body)

    def send(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> _VaultAnswer | _VaultFailure:
        """Send a request once.

        Args:
            method: in lower case.
            path: the part after `v1/`, not yet quoted.
            body: sent as JSON.
        """
        if isinstance(self._client, _VaultFailure):
            return self._client
        return _exchange(self._client, method, f"/v1/{quote(path)}", body)

    def wait(self, attempt: int, answer: _VaultAnswer | _VaultFailure) -> None:
        """Wait before a repeat: as long as the server asks, or with a growing, random delay."""
        requested = answer.retry_after if isinstance(answer, _VaultFailure) else 0.0
        delay = min(_FIRST_WAIT * 2.0**attempt, _LONGEST_WAIT)
        self._sleep(max(requested, delay * random.uniform(0.5, 1.0)))  # noqa: S311 - no secret

    def engine(self, path: str) -> str | _VaultFailure:
        """Return the mount of the KV version 2 engine that contains a path, with its final slash.

        It is looked up once for all paths of the engine. An unavailable server is also remembered.
        """
        with self._lookup_lock:
            if self._server_failure is not None:
                return self._server_failure
            for engine in self._engines:  # engines are never nested
                if path.startswith(engine):
                    return engine
            answer = self.request("get", f"sys/internal/ui/mounts/{path}")
            engine_or_failure = self._engine_of(answer, path)
            if isinstance(engine_or_failure, str):
                self._engines.add(engine_or_failure)
            elif engine_or_failure.code == Code.SINK_UNAVAILABLE:
                self._server_failure = engine_or_failure
            return engine_or_failure

    def write_lock(self, path: str) -> threading.Lock:
        """Return the lock for writes to a secret, so that threads of one run never conflict."""
        return self._write_locks.setdefault(path, threading.Lock())

    def _engine_of(self, answer: _VaultAnswer | _VaultFailure, path: str) -> str | _VaultFailure:
        if isinstance(answer, _VaultFailure):
            return answer
        if answer.status == HTTPStatus.FORBIDDEN:
            return self._denied_engine()
        if answer.status == HTTPStatus.NOT_FOUND:
            return _VaultFailure(
                Code.SINK_MISSING,
                "does not exist: the server has no engine or namespace with this name",
                "Check the mount, VAULT_ADDR and VAULT_NAMESPACE.",
            )
        engine = answer.at("data", "path")
        if answer.status != HTTPStatus.OK or not isinstance(engine, str):
            return _unexpected(answer.status)
        version = answer.at("data", "options", "version")
        if answer.at("data", "type") != "kv" or version != "2" or not path.startswith(engine):
            return _VaultFailure(
                Code.SINK_UNSUITABLE,
                "is not in a KV version 2 engine, and only version 2 keeps a secret's other fields",
                "Use the mount of a KV version 2 engine, or upgrade this engine to version 2.",
            )
        return engine

    def _denied_engine(self) -> _VaultFailure:
        """Check a token that may not see the engine, and return the failure."""
        answer = self.request("get", "auth/token/lookup-self")
        if isinstance(answer, _VaultFailure):
            return answer
        if answer.status == HTTPStatus.OK:
            return _VaultFailure(
                Code.SINK_DENIED,
                "cannot be accessed: the Vault token is valid but lacks access, or the engine does "
                "not exist",
                "Check the mount, VAULT_NAMESPACE and the policies of the token.",
            )
        return _VaultFailure(
            Code.SINK_DENIED,
            "cannot be accessed: the Vault token is not valid or has no permissions",
            "Set VAULT_TOKEN (BAO_TOKEN) to a valid token that may read and write there.",
        )


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
        self._path = f"{address.mount}/{address.path}"

    def check(self) -> None:
        """Check that the engine has version 2, and that the token may read and write there."""
        path = self._data_path()
        answer = self._server.request("post", "sys/capabilities-self", {"paths": [path]})
        if isinstance(answer, _VaultFailure):
            raise self._error(answer)
        granted = answer.at(path) or answer.at("data", path) or answer.at("capabilities")
        if answer.status != HTTPStatus.OK or not isinstance(granted, list):
            # A token may lack the permission to look up its own permissions.
            self._latest_version(path)
        elif "root" not in granted and not (
            "read" in granted and {"create", "update"}.intersection(granted)
        ):
            raise self._denied(path)

    def read(self) -> Content:
        """Return the field in the latest version; a value that is not a text as JSON."""
        value = self._latest_version(self._data_path()).fields.get(self._address.field)
        if value is None:
            return Empty()
        return StoredValue(Secret.received(value if isinstance(value, str) else json.dumps(value)))

    def write(self, token: Secret) -> None:
        """Create a version that differs from the latest one only in this field."""
        path = self._data_path()
        with self._server.write_lock(path):
            answer: _VaultAnswer | _VaultFailure | None = None
            for attempt in range(_MAX_WRITES):
                latest = self._latest_version(path)
                if answer is not None and self._has_token(latest, token):
                    return
                answer = self._server.send(
                    "post",
                    path,
                    {
                        "data": {**latest.fields, self._address.field: token.reveal()},
                        "options": {"cas": latest.number},
                    },
                )
                if not self._should_retry(answer, path):
                    return
                self._server.wait(attempt, answer)
            if not self._has_token(self._latest_version(path), token):
                raise self._error(
                    answer if isinstance(answer, _VaultFailure) else _TOO_MANY_CONFLICTS
                )

    def _has_token(self, latest: _Version, token: Secret) -> bool:
        return latest.fields.get(self._address.field) == token.reveal()

    def _should_retry(self, answer: _VaultAnswer | _VaultFailure, path: str) -> bool:
        """Return whether to repeat a write; False if it succeeded."""
        if isinstance(answer, _VaultFailure):
            if answer.transient:
                return True
            raise self._error(answer)
        if answer.status in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
            return False
        if answer.status == HTTPStatus.FORBIDDEN:
            raise self._denied(path)
        if _MISMATCH_TEXT in str(answer.at("errors")):
            return True
        raise self._error(
            _VaultFailure(
                Code.SINK_FAILED,
                f"was not written: the server refused it with HTTP status {answer.status}",
                "Check the server's log, and the size limit of the engine.",
            )
        )

    def _latest_version(self, path: str) -> _Version:
        answer = self._server.request("get", path)
        if isinstance(answer, _VaultFailure):
            raise self._error(answer)
        if answer.status == HTTPStatus.FORBIDDEN:
            raise self._denied(path)
        number = answer.at("data", "metadata", "version")
        fields = answer.at("data", "data")
        if answer.status == HTTPStatus.NOT_FOUND:
            return _Version(number if isinstance(number, int) else 0, {})
        if answer.status != HTTPStatus.OK or not isinstance(number, int):
            raise self._error(_unexpected(answer.status))
        return _Version(number, fields if isinstance(fields, dict) else {})

    def _data_path(self) -> str:
        """Return the API path of the versions of the secret."""
        parts = self._path.split("/")
        if not self._path.isprintable() or any(part in ("", ".", "..") for part in parts):
            raise self._error(
                _VaultFailure(
                    Code.SINK_UNSUITABLE,
                    "has a path with an empty part, `.`, `..` or a control character",
                    "Write the path as mount/path, without empty parts.",
                )
            )
        engine = self._server.engine(self._path)
        if isinstance(engine, _VaultFailure):
            raise self._error(engine)
        return f"{engine}data/{self._path[len(engine) :]}"

    def _denied(self, path: str) -> SinkError:
        return self._error(
            _VaultFailure(
                Code.SINK_DENIED,
                "cannot be read and written with this Vault token",
                f"Grant create, update and read on {path} in a policy attached to the token.",
            )
        )

    def _error(self, failure: _VaultFailure) -> SinkError:
        return sink_error(failure.code, f"{self._address} {failure.reason}.", failure.remedy)


@dataclass(frozen=True, slots=True)
class _Version:
    """The latest version of a secret.

    Attributes:
        number: 0 for a secret without versions; a deleted version has its number and no fields.
    """

    number: int
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _VaultAnswer:
    """An answer of Vault itself."""

    status: int
    body: Mapping[str, object]

    def at(self, *names: str) -> object:
        """Return the value below these names in the body; None without one."""
        found: object = self.body
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found


@dataclass(frozen=True, slots=True)
class _VaultFailure:
    """The reason why something cannot be done, for any sink.

    Attributes:
        reason: the rest of a sentence that begins with the sink's address.
        transient: True if a repeat may succeed; a write may have been executed nevertheless.
        retry_after: seconds that the server asks to wait before a repeat.
    """

    code: Code
    reason: str
    remedy: str
    transient: bool = False
    retry_after: float = 0.0


_STARTING = _VaultFailure(
    Code.SINK_UNAVAILABLE,
    "is unavailable: Vault is upgrading or mounting its engine",
    "Wait until Vault has finished, then run again.",
    transient=True,
)

_TOO_MANY_CONFLICTS = _VaultFailure(
    Code.SINK_FAILED,
    f"was not written: other writers changed its secret {_MAX_WRITES} times in the meantime",
    "Run again once nothing else is writing to this secret.",
)


class _Client(Protocol):
    """The part of `hvac.adapters.RawAdapter` that is used."""

    def request(
        self,
        method: str,
        url: str,
        *,
        raise_exception: bool,
        json: Mapping[str, object] | None,
    ) -> requests.Response:
        """Send one request."""
        ...


def server_of(environment: Mapping[str, str]) -> str:
    """Return the address of the server; empty if no variable names one."""
    return _variable(environment, "ADDR")


def _connect(
    environment: Mapping[str, str], timeout: tuple[float, float]
) -> _Client | _VaultFailure:
    try:
        from hvac.adapters import (  # type: ignore[import-untyped]  # noqa: PLC0415 - has no types; an extra
            RawAdapter,
        )
    except ImportError:
        return _VaultFailure(
            Code.SINK_EXTRA_MISSING,
            "needs the hvac library, which is not installed",
            'Install it with pip install "twenty-provisioner[vault]".',
        )
    address = _variable(environment, "ADDR")
    if (failure := _address_failure(address)) is not None:
        return failure
    token = _token(environment)
    if token is None:
        return _VaultFailure(
            Code.SINK_DENIED,
            "cannot be opened: the Vault token is missing or is not printable ASCII",
            "Set VAULT_TOKEN (BAO_TOKEN), for example in the login step of a pipeline.",
        )
    session = requests.Session()
    session.trust_env = False  # ~/.netrc would add another credential
    session.verify = ca_certificates = _ca_certificates(environment)
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.stream = True  # the body is read here, within bounds, and not by hvac
    session.headers["Accept-Encoding"] = ACCEPT_ENCODING
    for scheme in ("https://", "http://"):
        session.mount(scheme, BoundedAdapter(_BODY_LIMIT, pool_maxsize=_CONNECTIONS))
    client: _Client = RawAdapter(
        base_uri=address,
        token=token.reveal(),
        namespace=_variable(environment, "NAMESPACE") or None,
        session=session,
        verify=ca_certificates,  # hvac uses this value if that of the session is False
        cert=_client_certificate(environment),
        proxies=get_environ_proxies(address),
        timeout=timeout,
        allow_redirects=False,
    )
    return client


def _variable(environment: Mapping[str, str], name: str) -> str:
    """Return the value of OpenBao's variable, or else of Vault's; empty without either."""
    return environment.get(f"BAO_{name}") or environment.get(f"VAULT_{name}") or ""


def _address_failure(address: str) -> _VaultFailure | None:
    """Return the failure of an unsafe address. It is in no message, as it may contain a secret."""
    if not address:
        return _VaultFailure(
            Code.SINK_MISSING,
            "cannot be found: the Vault address is not set",
            "Set VAULT_ADDR (BAO_ADDR), for example to https://vault.example.com:8200.",
        )
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        _ = parts.port  # raises if it is not a number
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https"):
        return _VaultFailure(
            Code.SINK_MISSING,
            "cannot be found: the Vault address is not an https:// URL",
            "Set VAULT_ADDR (BAO_ADDR), for example to https://vault.example.com:8200.",
        )
    if parts.scheme == "http" and not is_loopback(host):
        return _VaultFailure(
            Code.SINK_UNSUITABLE,
            "is refused: plain http would expose the tokens to the network",
            "Set VAULT_ADDR (BAO_ADDR) to an https:// address.",
        )
    return None


def _token(environment: Mapping[str, str]) -> Secret | None:
    """Return the token from the variables, or else from the file that a login wrote."""
    value = _variable(environment, "TOKEN").strip()
    home = environment.get("HOME")
    file = _variable(environment, "TOKEN_PATH") or (home and f"{home}/.vault-token")
    if not value and file:
        try:
            value = Path(file).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    # A header with other characters would fail with an error that quotes it.
    return Secret(value) if value and value.isascii() and value.isprintable() else None


def _ca_certificates(environment: Mapping[str, str]) -> str | bool:
    """Return the path of the CA certificates; True for the default ones, False to skip checks."""
    if _variable(environment, "SKIP_VERIFY") in _TRUE:
        _LOG.warning("VAULT_SKIP_VERIFY is set: the identity of the Vault server is not verified")
        return False
    named = _variable(environment, "CACERT") or _variable(environment, "CAPATH")
    return named or next(filter(None, map(environment.get, _CA_VARIABLES)), None) or True


def _client_certificate(environment: Mapping[str, str]) -> tuple[str, str] | None:
    certificate = _variable(environment, "CLIENT_CERT")
    return (certificate, _variable(environment, "CLIENT_KEY")) if certificate else None


def _exchange(
    client: _Client, method: str, path: str, body: Mapping[str, object] | None
) -> _VaultAnswer | _VaultFailure:
    try:
        with client.request(method, path, raise_exception=False, json=body) as response:
            raw = body_of(response, _BODY_LIMIT)
    except AnswerTooLargeError:
        return _unexpected(response.status_code)
    except (requests.RequestException, PoolError, ValueError) as error:
        return _connection_failure(error)
    except OSError:  # requests opens the TLS files only when it connects
        return _VaultFailure(
            Code.SINK_UNAVAILABLE,
            "is unreachable: a certificate or key file for TLS is missing or cannot be read",
            "Check VAULT_CACERT, VAULT_CAPATH, VAULT_CLIENT_CERT and VAULT_CLIENT_KEY.",
        )
    context = extra(method=method, path=path, status=response.status_code)
    _LOG.debug("vault %s %s -> %d", method, path, response.status_code, extra=context)
    answer = _parse(response, raw)
    if isinstance(answer, _VaultAnswer) and _is_starting(answer, path):
        return _STARTING
    return answer


def _is_starting(answer: _VaultAnswer, path: str) -> bool:
    """Return whether the engine is still being mounted or upgraded, so that nothing was done.

    Relies on: the texts of the KV plugin during an upgrade, on the primary and on other nodes, and
    of a node that a new mount has not reached yet.
    """
    errors = str(answer.at("errors"))
    if answer.status == HTTPStatus.BAD_REQUEST:
        return _UPGRADING_TEXT in errors
    # For a request about the engine itself it means that the namespace does not exist.
    return (
        answer.status == HTTPStatus.NOT_FOUND
        and not path.startswith("/v1/sys/")
        and _NO_ROUTE_TEXT in errors
    )


def _connection_failure(error: Exception) -> _VaultFailure:
    """Return the failure for an error, without its text, which may quote the request."""
    if not isinstance(error, requests.exceptions.SSLError):
        timed_out = isinstance(error, requests.exceptions.Timeout)
        reason = (
            "did not respond in time" if timed_out else "cannot be reached or closed the connection"
        )
        return _VaultFailure(
            Code.SINK_UNAVAILABLE,
            f"is unreachable: Vault {reason}",
            "Check VAULT_ADDR (BAO_ADDR), the network and that the server is running.",
            transient=True,
        )
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return _VaultFailure(
            Code.SINK_UNAVAILABLE,
            "is not trusted: Vault's certificate was issued by an unknown authority or for "
            "another host",
            "Set VAULT_CACERT (BAO_CACERT) to the path of the CA certificate.",
        )
    return _VaultFailure(
        Code.SINK_UNAVAILABLE,
        "is unreachable: the TLS connection to Vault failed",
        "Check that the server in VAULT_ADDR (BAO_ADDR) uses https.",
        transient=True,
    )


def _parse(response: requests.Response, raw: bytes) -> _VaultAnswer | _VaultFailure:
    status = response.status_code
    if status in _TRANSIENT_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        wait = _retry_after(response.headers.get("Retry-After", ""))
        return _VaultFailure(
            Code.SINK_UNAVAILABLE,
            f"is unavailable: Vault is sealed, on standby or overloaded (HTTP status {status})",
            "Check the server, then run again.",
            transient=wait <= _MAX_RETRY_AFTER,
            retry_after=wait,
        )
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return _VaultFailure(
            Code.SINK_UNAVAILABLE,
            f"is unavailable: Vault responds with a redirect (HTTP status {status}), which is not "
            "followed because it would send the token to another host",
            "Set VAULT_ADDR (BAO_ADDR) to the active node or to its load balancer.",
        )
    try:
        decoded = json_of(raw) if raw else {}
    except ValueError:
        decoded = None
    return _VaultAnswer(status, decoded) if isinstance(decoded, dict) else _unexpected(status)


def _retry_after(header: str) -> float:
    return float(header) if header.isdecimal() else 0.0


def _unexpected(status: int) -> _VaultFailure:
    return _VaultFailure(
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
    description="A field of a secret in a KV version 2 secrets engine of HashiCorp Vault or "
    "OpenBao.",
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
    server_of=lambda environ, _: server_of(environ),
)
