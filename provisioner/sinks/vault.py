"""Fields of secrets in a KV version 2 engine of HashiCorp Vault or OpenBao.

A write changes one field and keeps the others of its secret: it states the version that it was
made from (check-and-set), so that the server itself refuses it where another writer was faster,
and so that one whose answer was lost can be sent again.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlsplit

import requests
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError as PoolError

from provisioner.http_client.bounded import (
    ACCEPT_ENCODING,
    AnswerTooLargeError,
    BoundedAdapter,
    body_of,
    json_of,
)
from provisioner.http_client.loopback import is_loopback
from provisioner.runtime.log_context import extra
from provisioner.secret import Secret
from provisioner.sinks.sink import Empty, StoredValue, failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from provisioner.errors.exceptions import SinkError
    from provisioner.model.sink_address import VaultAddress
    from provisioner.sinks.sink import Content, Sink, SinkCode

_LOG = logging.getLogger(__name__)

_TIMEOUT = (10.0, 30.0)
_BODY_LIMIT = 8 * 1024 * 1024

_TRIES = 5
_WRITES = 8
_FIRST_WAIT = 0.25
_LONGEST_WAIT = 2.0
_LONGEST_ASKED_WAIT = 30.0
_CONNECTIONS = 32
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_PASSING = frozenset({HTTPStatus.PRECONDITION_FAILED, HTTPStatus.TOO_MANY_REQUESTS})
_UPGRADING = "from non-versioned to versioned data"
_NO_ROUTE = "no handler for route"
_MISMATCH = "check-and-set parameter did not match"


class VaultServer:
    """The one Vault or OpenBao server of a run; its sinks may be used from several threads.

    Relied on: every variable is read as `BAO_…`, then as `VAULT_…` (OpenBao, `api/env.go`); the
    CLIs of both keep their token in `~/.vault-token` (docs, "Token helpers"); a plain token is
    what every login method gives (docs, "Tokens"); `sys/internal/ui/mounts/:path` tells the
    engine of a path to every token that may do something there, and is what the CLIs ask first
    (API docs, "/sys/internal/ui/mounts"). A redirect by a standby is not followed: it would take
    the token to another host.

    Args:
        environment: of the process; proxies and the trusted authorities of `requests` are looked
            up in the real one.
        sleep: waits for so many seconds.
        timeout: seconds to connect, and for the whole answer.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        sleep: Callable[[float], None] = time.sleep,
        timeout: tuple[float, float] = _TIMEOUT,
    ) -> None:
        self._client = _opened(environment, timeout)
        self._sleep = sleep
        self._looking_up = threading.Lock()
        self._engines: set[str] = set()
        self._out_of_order: _VaultFailure | None = None
        self._writing: dict[str, threading.Lock] = {}

    def sink(self, address: VaultAddress) -> Sink:
        """The sink at an address; whatever is wrong with the server is told when it is used."""
        return _Field(self, address)

    def ask(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> _VaultAnswer | _VaultFailure:
        """What the server says to a request that changes nothing; repeated where that may help."""
        for number in range(_TRIES - 1):
            answer = self.send(method, path, body)
            if not isinstance(answer, _VaultFailure) or not answer.passes:
                return answer
            self.wait(number, answer)
        return self.send(method, path, body)

    def send(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> _VaultAnswer | _VaultFailure:
        """The same of one request, sent once.

        Args:
            method: in small letters.
            path: below `v1/`, not yet quoted.
            body: sent as JSON.
        """
        if isinstance(self._client, _VaultFailure):
            return self._client
        return _exchange(self._client, method, f"/v1/{quote(path)}", body)

    def wait(self, number: int, answer: _VaultAnswer | _VaultFailure) -> None:
        """Waits before a repeat: as long as was asked for, else growing, and never quite alike."""
        asked = answer.wait if isinstance(answer, _VaultFailure) else 0.0
        wait = min(_FIRST_WAIT * 2.0**number, _LONGEST_WAIT)
        self._sleep(max(asked, wait * random.uniform(0.5, 1.0)))  # noqa: S311 - no secret

    def engine(self, path: str) -> str | _VaultFailure:
        """The mount of the KV version 2 engine that a path is in, with its last slash.

        It is looked up once for all paths in it, as is that nothing can be looked up.
        """
        with self._looking_up:
            if self._out_of_order is not None:
                return self._out_of_order
            for engine in self._engines:  # one never stands within another
                if path.startswith(engine):
                    return engine
            answer = self.ask("get", f"sys/internal/ui/mounts/{path}")
            engine_or_trouble = self._engine_in(answer, path)
            if isinstance(engine_or_trouble, str):
                self._engines.add(engine_or_trouble)
            elif engine_or_trouble.code == "sink_unavailable":
                self._out_of_order = engine_or_trouble
            return engine_or_trouble

    def writing(self, path: str) -> threading.Lock:
        """Held while a secret is written, so that threads of one run need no check-and-set."""
        return self._writing.setdefault(path, threading.Lock())

    def _engine_in(self, answer: _VaultAnswer | _VaultFailure, path: str) -> str | _VaultFailure:
        if isinstance(answer, _VaultFailure):
            return answer
        if answer.status == HTTPStatus.FORBIDDEN:
            return self._refusal()
        if answer.status == HTTPStatus.NOT_FOUND:
            return _VaultFailure(
                "sink_missing",
                "is not there: the server knows no such engine or namespace",
                "Check the mount, VAULT_ADDR and VAULT_NAMESPACE.",
            )
        engine = answer.at("data", "path")
        if answer.status != HTTPStatus.OK or not isinstance(engine, str):
            return _unexpected(answer.status)
        version = answer.at("data", "options", "version")
        if answer.at("data", "type") != "kv" or version != "2" or not path.startswith(engine):
            return _VaultFailure(
                "sink_unsuitable",
                "is in no KV engine of version 2, and others cannot keep the neighbours of a field",
                "Name the mount of a KV version 2 engine, or upgrade this one to it.",
            )
        return engine

    def _refusal(self) -> _VaultFailure:
        """Why the token may not even see the engine; a good one may lack the right to ask."""
        answer = self.ask("get", "auth/token/lookup-self")
        if isinstance(answer, _VaultFailure):
            return answer
        if answer.status == HTTPStatus.OK:
            return _VaultFailure(
                "sink_denied",
                "is closed to the token, which is valid, or its engine is not there",
                "Check the mount and VAULT_NAMESPACE, and the token's policies.",
            )
        return _VaultFailure(
            "sink_denied",
            "is closed to the token, which is not valid or may do nothing there",
            "Set VAULT_TOKEN (BAO_TOKEN) to a token that is valid and may read and write there.",
        )


class _Field:
    """One field of one secret.

    Relied on (API docs, "KV secrets engine - version 2" and "/sys/capabilities-self"): a read of
    a deleted version is a 404 that tells its number; a write with `cas` 0 is for a secret without
    versions; a new version holds what was sent and nothing else, while custom metadata belongs to
    the secret.
    """

    def __init__(self, server: VaultServer, address: VaultAddress) -> None:
        self._server = server
        self._address = address
        self._path = f"{address.mount}/{address.path}"

    def check(self) -> None:
        """Whether the engine is one of version 2, and the token may read and write there."""
        path = self._data_path()
        answer = self._server.ask("post", "sys/capabilities-self", {"paths": [path]})
        if isinstance(answer, _VaultFailure):
            raise self._error(answer)
        granted = answer.at(path) or answer.at("data", path) or answer.at("capabilities")
        if answer.status != HTTPStatus.OK or not isinstance(granted, list):
            # A token need not be allowed to ask for its own rights.
            self._latest(path)
        elif "root" not in granted and not (
            "read" in granted and {"create", "update"}.intersection(granted)
        ):
            raise self._denied(path)

    def read(self) -> Content:
        """The field in the latest version; what is no text as the JSON that it is."""
        value = self._latest(self._data_path()).fields.get(self._address.field)
        if value is None:
            return Empty()
        return StoredValue(Secret.received(value if isinstance(value, str) else json.dumps(value)))

    def write(self, token: Secret) -> None:
        """Makes a new version that differs from the latest in this field only."""
        path = self._data_path()
        with self._server.writing(path):
            answer: _VaultAnswer | _VaultFailure | None = None
            for number in range(_WRITES):
                latest = self._latest(path)
                if answer is not None and self._is_there(latest, token):
                    return
                answer = self._server.send(
                    "post",
                    path,
                    {
                        "data": {**latest.fields, self._address.field: token.reveal()},
                        "options": {"cas": latest.number},
                    },
                )
                if not self._again(answer, path):
                    return
                self._server.wait(number, answer)
            if not self._is_there(self._latest(path), token):
                raise self._error(answer if isinstance(answer, _VaultFailure) else _OVERTAKEN)

    def _is_there(self, latest: _Version, token: Secret) -> bool:
        return latest.fields.get(self._address.field) == token.reveal()

    def _again(self, answer: _VaultAnswer | _VaultFailure, path: str) -> bool:
        """Whether a write is to be tried again; False where it was done."""
        if isinstance(answer, _VaultFailure):
            if answer.passes:
                return True
            raise self._error(answer)
        if answer.status in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
            return False
        if answer.status == HTTPStatus.FORBIDDEN:
            raise self._denied(path)
        if _MISMATCH in str(answer.at("errors")):
            return True
        raise self._error(
            _VaultFailure(
                "sink_failed",
                f"was not written: the server refused it with status {answer.status}",
                "Look into the server's log, and for a limit on what the engine takes.",
            )
        )

    def _latest(self, path: str) -> _Version:
        answer = self._server.ask("get", path)
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
        """Where the API has the secret's versions."""
        parts = self._path.split("/")
        if not self._path.isprintable() or any(part in ("", ".", "..") for part in parts):
            raise self._error(
                _VaultFailure(
                    "sink_unsuitable",
                    "has a path with an empty part, `.`, `..` or a control character",
                    "Write the path as mount/path, each part with a name.",
                )
            )
        engine = self._server.engine(self._path)
        if isinstance(engine, _VaultFailure):
            raise self._error(engine)
        return f"{engine}data/{self._path[len(engine) :]}"

    def _denied(self, path: str) -> SinkError:
        return self._error(
            _VaultFailure(
                "sink_denied",
                "may not be read and written with this token",
                f"Give one of the token's policies create, update and read on {path}.",
            )
        )

    def _error(self, trouble: _VaultFailure) -> SinkError:
        return failed(trouble.code, f"{self._address} {trouble.what}.", trouble.remedy)


@dataclass(frozen=True, slots=True)
class _Version:
    """The latest version of a secret.

    Attributes:
        number: 0 for a secret without any; a deleted version has its number and no fields.
    """

    number: int
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _VaultAnswer:
    """What Vault itself said."""

    status: int
    body: Mapping[str, object]

    def at(self, *names: str) -> object:
        """What stands in the body below these names; None for nothing."""
        found: object = self.body
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found


@dataclass(frozen=True, slots=True)
class _VaultFailure:
    """Why something cannot be done, whichever sink it is for.

    Attributes:
        what: the end of a sentence that begins with the sink.
        passes: whether it may fare better soon; a write may have been done all the same.
        wait: seconds that the server asks to wait before that.
    """

    code: SinkCode
    what: str
    remedy: str
    passes: bool = False
    wait: float = 0.0


_STARTING = _VaultFailure(
    "sink_unavailable",
    "is out of order: Vault is upgrading or mounting its engine",
    "Wait until that is done, and run again.",
    passes=True,
)

_OVERTAKEN = _VaultFailure(
    "sink_failed",
    f"was not written: others changed its secret {_WRITES} times meanwhile",
    "Run again when nothing else writes this secret.",
)


class _Client(Protocol):
    """What is used of `hvac.adapters.RawAdapter`."""

    def request(
        self,
        method: str,
        url: str,
        *,
        raise_exception: bool,
        json: Mapping[str, object] | None,
    ) -> requests.Response:
        """Sends one request."""
        ...


def server_of(environment: Mapping[str, str]) -> str:
    """Return the address of the server; empty where no variable names one."""
    return _variable(environment, "ADDR")


def _opened(
    environment: Mapping[str, str], timeout: tuple[float, float]
) -> _Client | _VaultFailure:
    try:
        from hvac.adapters import (  # type: ignore[import-untyped]  # noqa: PLC0415 - has no types; an extra
            RawAdapter,
        )
    except ImportError:
        return _VaultFailure(
            "sink_extra_missing",
            "needs the library hvac, which is not installed",
            'Install it with pip install "twenty-provisioner[vault]".',
        )
    address = _variable(environment, "ADDR")
    if (trouble := _wrong_with(address)) is not None:
        return trouble
    token = _token(environment)
    if token is None:
        return _VaultFailure(
            "sink_denied",
            "cannot be opened: there is no token of Vault, or one that cannot be sent",
            "Set VAULT_TOKEN (BAO_TOKEN), as the login step of a pipeline does.",
        )
    session = requests.Session()
    session.trust_env = False  # ~/.netrc would add a credential of its own
    session.verify = trusted = _trusted(environment)
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.stream = True  # read here, within bounds, and not by hvac
    session.headers["Accept-Encoding"] = ACCEPT_ENCODING
    for scheme in ("https://", "http://"):
        session.mount(scheme, BoundedAdapter(_BODY_LIMIT, pool_maxsize=_CONNECTIONS))
    client: _Client = RawAdapter(
        base_uri=address,
        token=token.reveal(),
        namespace=_variable(environment, "NAMESPACE") or None,
        session=session,
        verify=trusted,  # where the session's is False hvac looks here
        cert=_client_certificate(environment),
        proxies=get_environ_proxies(address),
        timeout=timeout,
        allow_redirects=False,
    )
    return client


def _variable(environment: Mapping[str, str], name: str) -> str:
    """What OpenBao's name of a variable says, or Vault's; an empty one says nothing."""
    return environment.get(f"BAO_{name}") or environment.get(f"VAULT_{name}") or ""


def _wrong_with(address: str) -> _VaultFailure | None:
    """Why tokens cannot be sent to an address; it stands in no message, for it may hold one."""
    if not address:
        return _VaultFailure(
            "sink_missing",
            "cannot be found: the address of Vault is not set",
            "Set VAULT_ADDR (BAO_ADDR), as https://vault.example.com:8200.",
        )
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        _ = parts.port  # which raises where it is no number
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https"):
        return _VaultFailure(
            "sink_missing",
            "cannot be found: the address of Vault is no https:// URL",
            "Set VAULT_ADDR (BAO_ADDR) as https://vault.example.com:8200.",
        )
    if parts.scheme == "http" and not is_loopback(host):
        return _VaultFailure(
            "sink_unsuitable",
            "is refused: over plain http everyone on the way could read the tokens",
            "Set VAULT_ADDR (BAO_ADDR) to an https:// address.",
        )
    return None


def _token(environment: Mapping[str, str]) -> Secret | None:
    """The token of the variables, or else the one that a login left in a file."""
    value = _variable(environment, "TOKEN").strip()
    home = environment.get("HOME")
    file = _variable(environment, "TOKEN_PATH") or (home and f"{home}/.vault-token")
    if not value and file:
        try:
            value = Path(file).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    # A header with anything else fails with an error that shows it.
    return Secret(value) if value and value.isascii() and value.isprintable() else None


def _trusted(environment: Mapping[str, str]) -> str | bool:
    """The authorities that a server's certificate may come from; False for whomever."""
    if _variable(environment, "SKIP_VERIFY") in _TRUE:
        _LOG.warning("VAULT_SKIP_VERIFY is set: tokens go to whoever answers in Vault's place")
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
        return _unreachable(error)
    except OSError:  # files named for TLS that cannot be read: requests looks as it connects
        return _VaultFailure(
            "sink_unavailable",
            "cannot be trusted: a file named for its TLS is not there or cannot be read",
            "Check VAULT_CACERT, VAULT_CAPATH, VAULT_CLIENT_CERT and VAULT_CLIENT_KEY.",
        )
    what = extra(method=method, path=path, status=response.status_code)
    _LOG.debug("vault %s %s -> %d", method, path, response.status_code, extra=what)
    understood = _understood(response, raw)
    if isinstance(understood, _VaultAnswer) and _is_starting(understood, path):
        return _STARTING
    return understood


def _is_starting(answer: _VaultAnswer, path: str) -> bool:
    """Return whether the engine is still being mounted or upgraded; nothing was done then.

    Relied on: the words of the KV plugin while it upgrades, on the primary and on others, and of a
    node that a new mount has not reached yet.
    """
    said = str(answer.at("errors"))
    if answer.status == HTTPStatus.BAD_REQUEST:
        return _UPGRADING in said
    # Of what is asked about the engine itself it means that there is no such namespace.
    return (
        answer.status == HTTPStatus.NOT_FOUND
        and not path.startswith("/v1/sys/")
        and _NO_ROUTE in said
    )


def _unreachable(error: Exception) -> _VaultFailure:
    """Why no answer came; nothing of the error is shown, for it may hold the request."""
    if not isinstance(error, requests.exceptions.SSLError):
        slow = isinstance(error, requests.exceptions.Timeout)
        reason = "did not answer in time" if slow else "cannot be reached, or broke off its answer"
        return _VaultFailure(
            "sink_unavailable",
            f"is out of reach: Vault {reason}",
            "Check VAULT_ADDR (BAO_ADDR), the network and that the server runs.",
            passes=True,
        )
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return _VaultFailure(
            "sink_unavailable",
            "cannot be trusted: the certificate of Vault comes from an unknown authority, or is "
            "for another host",
            "Name the authority's certificate in VAULT_CACERT (BAO_CACERT).",
        )
    return _VaultFailure(
        "sink_unavailable",
        "is out of reach: the encrypted connection to Vault failed",
        "Check that VAULT_ADDR (BAO_ADDR) speaks https.",
        passes=True,
    )


def _understood(response: requests.Response, raw: bytes) -> _VaultAnswer | _VaultFailure:
    status = response.status_code
    if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        wait = _asked_wait(response.headers.get("Retry-After", ""))
        return _VaultFailure(
            "sink_unavailable",
            f"is out of order: Vault is sealed, a standby, or overloaded (status {status})",
            "Look after the server, and run again.",
            passes=wait <= _LONGEST_ASKED_WAIT,
            wait=wait,
        )
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return _VaultFailure(
            "sink_unavailable",
            f"is elsewhere: Vault answers with a redirect (status {status}), not followed because "
            "it would take the token to another host",
            "Set VAULT_ADDR (BAO_ADDR) to the active node or to a load balancer before it.",
        )
    try:
        decoded = json_of(raw) if raw else {}
    except ValueError:
        decoded = None
    return _VaultAnswer(status, decoded) if isinstance(decoded, dict) else _unexpected(status)


def _asked_wait(header: str) -> float:
    return float(header) if header.isdecimal() else 0.0


def _unexpected(status: int) -> _VaultFailure:
    return _VaultFailure(
        "sink_unavailable",
        f"is not there: what answers is not the API of Vault (status {status})",
        "Check that VAULT_ADDR (BAO_ADDR) is the address of Vault itself.",
    )
