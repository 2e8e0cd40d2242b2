"""The sink `gcp`: secrets of Google Secret Manager, each of which is one token.

Sources: the Secret Manager API reference (`projects.secrets`, `projects.secrets.versions`),
"Resource consistency", "Application Default Credentials", the properties of gcloud
(`api_endpoint_overrides`) and `google.rpc.ErrorInfo`. No answer of Google itself was seen.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

from provisioner.errors.codes import Code
from provisioner.http_client.exchange import NoAnswer, Route, ca_path_of, json_of
from provisioner.http_client.loopback import is_link_local, is_loopback
from provisioner.model.sink_address import Address
from provisioner.model.sink_content import NoToken
from provisioner.runtime.source import extra_remedy
from provisioner.secret import Secret
from provisioner.sinks.http import TIMEOUTS, Api, Credential, Reply, route_of, segment
from provisioner.sinks.kind import Allowed, Option, SinkKind
from provisioner.sinks.sink import (
    Content,
    SinkFailure,
    StoredValue,
    UnusableError,
    naming,
    unsuitable,
    unusable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from provisioner.errors.exceptions import SinkError
    from provisioner.http_client.client import HttpClient
    from provisioner.http_client.exchange import HttpAnswer
    from provisioner.sinks.kind import OptionValues

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_ACCESS, _ADD = "secretmanager.versions.access", "secretmanager.versions.add"
_METADATA_HOST = "metadata.google.internal"
_MAX_ANSWER = 1 << 20
_CONNECTIONS = 2
_EXPLAINED_STATUSES = frozenset({HTTPStatus.FORBIDDEN})
_CONFLICT = frozenset({HTTPStatus.CONFLICT})
_NOT_YET = frozenset({HTTPStatus.NOT_FOUND})
_UNREADABLE_STATE_TEXT = re.compile(r"is in (?:DISABLED|DESTROYED) state")
_ERROR_STATUS = re.compile(r"[A-Z_]{1,40}")
_OAUTH_ERROR = re.compile(
    r"\b(?:access_denied|invalid_(?:client|grant|request|scope|target)|unauthorized_client)\b"
)


@dataclass(frozen=True, slots=True)
class GcpAddress(Address):
    """A secret of Google Secret Manager; the latest version is the token.

    Attributes:
        project: the id or number of the project.
    """

    kind: ClassVar[str] = "gcp"
    project: str
    secret: str

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the secret with its project."""
        return (f"{self.project}/{self.secret}",)

    @property
    def neighbourhood(self) -> tuple[str, ...]:
        """Return the name of the secret."""
        return ("gcp", self.secret)

    def may_be(self, other: Address) -> bool:
        """Return whether the projects are equal, or one of them is the number of a project."""
        if not isinstance(other, GcpAddress):
            return False
        return self.place == other.place or self.project.isdigit() != other.project.isdigit()

    @property
    def removes(self) -> bool:
        """Return True: the sink can remove a token."""
        return True

    def __str__(self) -> str:
        return f"gcp {self.project}/{self.secret}"


def _base(environment: Mapping[str, str]) -> str:
    """Return the address of the service, from the variables of gcloud and Google's libraries."""
    if url := environment.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER"):
        return url.rstrip("/")
    domain = environment.get("GOOGLE_CLOUD_UNIVERSE_DOMAIN") or "googleapis.com"
    return f"https://secretmanager.{domain}"


class _Version(NamedTuple):
    """An enabled version of a secret."""

    number: int
    value: str


class SecretManager:
    """Google Secret Manager in all projects of a run. Its sinks may be used from several threads.

    Relies on: a new version can be read by its number at once, but `latest` may lead to the one
    before it for minutes ("Resource consistency").

    Args:
        environment: the environment variables of the process; google-auth reads the real ones.
        wait: waits for a number of seconds.
    """

    def __init__(
        self, environment: Mapping[str, str], wait: Callable[[float], None] = time.sleep
    ) -> None:
        credential = _DefaultCredential(environment)
        self.api = _GoogleApi(route_of(_base(environment), environment), credential, {}, wait)
        self.written: dict[GcpAddress, int] = {}

    def sink(self, address: GcpAddress) -> GoogleSecret:
        """Return the sink of an address; nothing is sent yet."""
        return GoogleSecret(self, address)


class GoogleSecret:
    """One secret, whose latest version is exactly the token; created by `SecretManager`.

    Relies on (API reference): versions are numbered from 1 and their values never change;
    `latest` is the most recently created one, whatever its state; `testIamPermissions` returns no
    permissions for a secret that does not exist.
    """

    def __init__(self, service: SecretManager, address: GcpAddress) -> None:
        self._service = service
        self._address = address
        self._secrets = f"/v1/projects/{segment(address.project)}/secrets"
        self._path = f"{self._secrets}/{segment(address.secret)}"

    def check(self) -> None:
        """Check that this identity may read the secret and add a version.

        Whether a missing secret may be created cannot be found out without creating it.
        """
        body = {"permissions": [_ACCESS, _ADD]}
        reply = self._call("POST", f"{self._path}:testIamPermissions", body)
        if reply.status != HTTPStatus.OK:
            raise self._refused(reply)
        granted = reply.body.get("permissions")
        if isinstance(granted, list) and _ACCESS in granted and _ADD in granted:
            return
        found = self._call("GET", self._path)
        if found.status == HTTPStatus.NOT_FOUND:
            return
        raise self._refused(found) if found.status != HTTPStatus.OK else self._denied()

    def read(self) -> Content:
        """Return the latest version; NoToken if it is disabled or destroyed."""
        current = self._current()
        return NoToken() if current is None else StoredValue(Secret.received(current.value))

    def write(self, token: Secret) -> None:
        """Add a version, and create a missing secret with automatic replication.

        If an answer is lost, a repeat adds a second version with the same token.
        """
        data = base64.b64encode(token.reveal().encode()).decode()
        body = {"payload": {"data": data}}
        path = f"{self._path}:addVersion"
        reply = self._call("POST", path, body, _CONFLICT)
        if reply.status == HTTPStatus.NOT_FOUND:
            self._create()
            reply = self._call("POST", path, body, _CONFLICT | _NOT_YET)
        if reply.status != HTTPStatus.OK:
            raise self._refused(reply)
        self._service.written[self._address] = self._number(reply)

    def remove(self, token: Secret) -> bool:
        """Destroy the latest version, and those right before it that hold the same token.

        The secret stays, with its older versions. A value never moves to another version, so a
        token that is written at the same time is not touched.
        """
        current = self._current()
        if current is None:
            return True
        numbers: list[int] = []
        while current is not None and current.value == token.reveal():
            numbers.append(current.number)
            current = self._access(str(current.number - 1)) if current.number > 1 else None
        for number in reversed(numbers):
            self._destroy(number)
        return bool(numbers)

    def _destroy(self, number: int) -> None:
        reply = self._call("POST", f"{self._path}/versions/{number}:destroy", {})
        if reply.status == HTTPStatus.OK or self._access(str(number)) is None:
            return
        if reply.status == HTTPStatus.FORBIDDEN and not _is_disabled_api(reply):
            raise self._denied("secretmanager.versions.destroy")
        raise self._refused(reply)

    def _create(self) -> None:
        path = f"{self._secrets}?secretId={segment(self._address.secret)}"
        reply = self._call("POST", path, {"replication": {"automatic": {}}})
        if reply.status in (HTTPStatus.OK, HTTPStatus.CONFLICT):  # a conflict: it exists by now
            return
        if reply.status == HTTPStatus.FORBIDDEN and not _is_disabled_api(reply):
            raise self._denied("secretmanager.secrets.create")
        if reply.status == HTTPStatus.BAD_REQUEST:
            reason = f"does not exist, and Google refuses to create it ({_error_status(reply)})"
            remedy = (
                "Create the secret by hand, with a replication that the policies of the "
                "organisation allow."
            )
            raise unsuitable(reason, remedy).error(self._address)
        raise self._refused(reply)

    def _current(self) -> _Version | None:
        """Return the latest version, or the one that this run has written if that is newer."""
        latest = self._access("latest")
        written = self._service.written.get(self._address)
        if written is None or (latest is not None and latest.number >= written):
            return latest
        return self._access(str(written))

    def _access(self, version: str) -> _Version | None:
        """Return a version; None if there is none, or it is disabled or destroyed."""
        reply = self._call("GET", f"{self._path}/versions/{version}:access")
        is_unreadable = reply.status == HTTPStatus.BAD_REQUEST and _UNREADABLE_STATE_TEXT.search(
            str(_error(reply).get("message"))
        )
        if reply.status == HTTPStatus.NOT_FOUND or is_unreadable:
            return None
        if reply.status != HTTPStatus.OK:
            raise self._refused(reply)
        payload = reply.body.get("payload")
        try:
            raw = base64.b64decode(payload.get("data", "") if isinstance(payload, dict) else "")
        except (binascii.Error, TypeError, ValueError):
            raise _NOT_GOOGLE.error(self._address) from None
        return _Version(self._number(reply), raw.decode(errors="replace"))

    def _number(self, reply: Reply) -> int:
        """Return the number of the version that an answer names."""
        number = str(reply.body.get("name")).rpartition("/")[2]
        if not (number.isascii() and number.isdigit()):
            raise _NOT_GOOGLE.error(self._address)
        return int(number)

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        retry_statuses: frozenset[int] = frozenset(),
    ) -> Reply:
        return self._service.api.call(
            self._address,
            method,
            path,
            body,
            retry_statuses=retry_statuses,
            returned_statuses=_EXPLAINED_STATUSES,
        )

    def _refused(self, reply: Reply) -> SinkError:
        """Return the error for an answer that is not a success; its text is not shown."""
        project = self._address.project
        if _is_disabled_api(reply):
            remedy = (
                f"Run `gcloud services enable secretmanager.googleapis.com --project {project}`."
            )
            reason = "the Secret Manager API is not enabled in the project"
            return unusable(Code.SINK_UNSUITABLE, reason, remedy).error(self._address)
        if reply.status == HTTPStatus.FORBIDDEN:
            return self._denied()
        if reply.status == HTTPStatus.NOT_FOUND:
            reason = "does not exist, and its project was not found"
            remedy = "Check the project, and that nothing deletes the secret."
            return SinkFailure(Code.SINK_MISSING, reason, remedy).error(self._address)
        reason = f"was refused by Google ({_error_status(reply)})"
        remedy = "Check the state of the secret, its KMS key and its limits in the Google console."
        return SinkFailure(Code.SINK_FAILED, reason, remedy).error(self._address)

    def _denied(self, permission: str | None = None) -> SinkError:
        granted = permission or (
            f"{_ACCESS} and {_ADD} (for a missing secret also secrets.get and secrets.create)"
        )
        reason = "cannot be accessed: this identity lacks a permission, or the project is wrong"
        remedy = f"Check the project, and grant {granted} there."
        return SinkFailure(Code.SINK_DENIED, reason, remedy).error(self._address)


class _GoogleApi(Api):
    """The API of Google, which describes every refusal in JSON."""

    def failure_in(self, path: str, answer: HttpAnswer) -> SinkFailure | None:
        """Return a failure if a 404 is not an answer of the API; None otherwise."""
        del path
        if answer.status != HTTPStatus.NOT_FOUND:
            return None
        try:
            body = json_of(answer.body)
        except ValueError:
            body = None
        return None if isinstance(body, dict) and "error" in body else _NOT_GOOGLE


_NOT_GOOGLE = SinkFailure(
    Code.SINK_UNAVAILABLE,
    "is unavailable: the response is not from the Secret Manager API",
    "Check CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER, GOOGLE_CLOUD_UNIVERSE_DOMAIN and any "
    "proxy.",
)


def _error(reply: Reply) -> Mapping[str, Any]:
    """Return the description of a refusal; its text may quote the request."""
    error = reply.body.get("error")
    return error if isinstance(error, dict) else {}


def _error_status(reply: Reply) -> str:
    status = str(_error(reply).get("status"))
    return status if _ERROR_STATUS.fullmatch(status) else f"HTTP status {reply.status}"


def _is_disabled_api(reply: Reply) -> bool:
    details = _error(reply).get("details")
    return isinstance(details, list) and any(
        isinstance(one, dict) and one.get("reason") == "SERVICE_DISABLED" for one in details
    )


class _DefaultCredential:
    """Application Default Credentials, found and renewed by google-auth.

    The library's requests go through our own client. It would run `gcloud` to find the project of a
    person's credential, so files are read here; the project comes from the address.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._transport: Any = _Transport(environment)
        self._credentials: Any = None
        self._failure: SinkFailure | None = None

    def __call__(self, address: Address) -> Credential:
        """Return the headers of a request, with a token that is valid for now.

        Raises:
            SinkError: there is no credential, or it gives no token. If it never gave one, this is
                not tried again.
        """
        with self._lock, naming(address):
            if self._failure is not None:
                raise UnusableError(self._failure)
            try:
                with _auth_errors():
                    return self._headers()
            except UnusableError as error:
                if self._credentials is None or self._credentials.token is None:
                    self._failure = error.failure
                raise

    def _headers(self) -> Credential:
        if self._credentials is None:
            self._credentials = self._load()
        headers: dict[str, str] = {}
        self._credentials.before_request(self._transport, "GET", _base(self._environment), headers)
        # The other headers name a project, which is not a secret.
        return Credential(
            {
                name: Secret(value, mask=name.lower() == "authorization")
                for name, value in headers.items()
            }
        )

    def _load(self) -> Any:
        import google.auth  # noqa: PLC0415 - an extra
        from google.auth.credentials import with_scopes_if_required  # noqa: PLC0415 - as above

        configuration = _configuration(self._environment)
        # google-auth warns of files from strangers, and of a person's credential.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if configuration is None:
                return google.auth.default([_SCOPE], request=self._transport)[0]
            found = google.auth.load_credentials_from_dict(configuration, request=self._transport)
            return with_scopes_if_required(found[0], [_SCOPE])


class _Response(NamedTuple):
    """An answer in the form that google-auth reads."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class _Transport:
    """The HTTP of google-auth, by our own client: with the same proxies, certificates and limits.

    Metadata servers speak plain http on this machine, and are never reached through a proxy.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._ca_path = ca_path_of(environment)
        host = environment.get("GCE_METADATA_HOST") or environment.get("GCE_METADATA_ROOT")
        self._metadata_hosts = {_METADATA_HOST, (host or "").partition(":")[0]}
        self._clients: dict[str, HttpClient] = {}

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_options: object,
    ) -> _Response:
        """Send a request once.

        Raises:
            google.auth.exceptions.TransportError: there is no answer.
            UnusableError: the request would be sent without encryption.
        """
        from google.auth.exceptions import TransportError  # noqa: PLC0415 - an extra

        parts = urlsplit(url)
        if parts.scheme != "https" and not self._is_metadata_server(parts.hostname or ""):
            reason = "the Google credential would travel to another machine without encryption"
            remedy = "Use https:// addresses in the configuration of the credential."
            raise UnusableError(unusable(Code.SINK_UNSUITABLE, reason, remedy))
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        connect, total = TIMEOUTS
        answer = self._client(parts.scheme, parts.netloc).request(
            method,
            (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            body=body.encode() if isinstance(body, str) else body,
            content_type=sent.pop("content-type", "application/json"),
            headers=sent,
            timeout=(min(connect, timeout or connect), timeout or total),
            max_bytes=_MAX_ANSWER,
        )
        if isinstance(answer, NoAnswer):
            raise TransportError(answer.reason)
        return _Response(answer.status, answer.headers, answer.body)

    def _client(self, scheme: str, netloc: str) -> HttpClient:
        from provisioner.http_client.client import HttpClient  # noqa: PLC0415 - `validate` sends none

        base = f"{scheme}://{netloc}"
        if base not in self._clients:
            proxy = None if scheme == "https" else ""
            route = Route(base, self._ca_path, proxy=proxy)
            self._clients[base] = HttpClient(route, {}, _CONNECTIONS)
        return self._clients[base]

    def _is_metadata_server(self, host: str) -> bool:
        return host in self._metadata_hosts or is_loopback(host) or is_link_local(host)


def _configuration(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the file with the credential, or what describes it; None without a file.

    Raises:
        UnusableError: the file cannot be read.
    """
    named = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    file = Path(named) if named else _file_of_gcloud(environment)
    if file is None or (not named and not file.is_file()):
        return None
    try:
        content = json_of(file.read_bytes())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        reason = "the file with the Google credential cannot be read, or is not a JSON object"
        remedy = (
            "Check GOOGLE_APPLICATION_CREDENTIALS."
            if named
            else "Run `gcloud auth application-default login`."
        )
        raise UnusableError(unusable(Code.SINK_DENIED, reason, remedy))
    return content


def _file_of_gcloud(environment: Mapping[str, str]) -> Path | None:
    """Return the place where `gcloud auth application-default login` writes its file."""
    if folder := environment.get("CLOUDSDK_CONFIG"):
        return Path(folder, "application_default_credentials.json")
    if data := environment.get("APPDATA"):
        return Path(data, "gcloud", "application_default_credentials.json")
    home = environment.get("HOME")
    return Path(home, ".config", "gcloud", "application_default_credentials.json") if home else None


def _program_of(environment: Mapping[str, str]) -> str | None:
    """Return the program that the file with the credential names; None without one."""
    try:
        configuration = _configuration(environment) or {}
    except UnusableError:
        return None
    source = configuration.get("credential_source")
    has_program = isinstance(source, dict) and "executable" in source
    return "the executable of the Google credential configuration" if has_program else None


@contextmanager
def _auth_errors() -> Iterator[None]:
    """Turn the errors of google-auth into failures of the sink, without their texts."""
    try:
        from google.auth.exceptions import (  # noqa: PLC0415 - an extra
            DefaultCredentialsError,
            GoogleAuthError,
            TransportError,
        )

        yield
    except ImportError:
        reason = "needs the google-auth library, which is not installed"
        remedy = extra_remedy("gcp")
        raise UnusableError(SinkFailure(Code.SINK_EXTRA_MISSING, reason, remedy)) from None
    except DefaultCredentialsError:
        reason = "no valid Google credential was found"
        remedy = (
            "Set GOOGLE_APPLICATION_CREDENTIALS to a service account or a workload identity "
            "configuration, or run `gcloud auth application-default login`."
        )
        raise UnusableError(unusable(Code.SINK_DENIED, reason, remedy)) from None
    except GoogleAuthError as error:
        code = Code.SINK_DENIED
        if isinstance(error, TransportError) or getattr(error, "retryable", False):
            code = Code.SINK_UNAVAILABLE
        reason = f"the Google credential gives no access token ({_shown(error)})"
        remedy = "Check the credential, the clock of this machine, the network and its proxies."
        raise UnusableError(unusable(code, reason, remedy)) from None
    # Of an incomplete configuration, or one whose parts have other types than Google's.
    except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        kind = type(error).__name__
        reason = f"the Google credential is incomplete or damaged ({kind})"
        remedy = "Download it again, and check GOOGLE_APPLICATION_CREDENTIALS."
        raise UnusableError(unusable(Code.SINK_DENIED, reason, remedy)) from None


def _shown(error: Exception) -> str:
    """Return the OAuth code of an error, or else its type; the rest may contain a secret."""
    found = _OAUTH_ERROR.search(str(error))
    return found[0] if found else type(error).__name__


def _address(values: OptionValues) -> GcpAddress:
    project, _, secret = values.text("gcp").partition("/")
    return GcpAddress(project, secret)


SINK = SinkKind(
    title="Google Cloud",
    description="A secret in Google Secret Manager. Its latest version is the token.",
    options=(
        Option(
            "gcp",
            "Secret",
            "The id or number of the project, a slash, and the name of the secret.",
            # Resource Manager API reference, `projectId`, with the older ids of a domain; Secret
            # Manager API reference, projects.secrets.create, `secretId`
            Allowed(
                re.compile(
                    r"(?:[0-9]{1,20}|(?:[a-z0-9.-]{1,200}:)?[a-z][a-z0-9-]{4,28}[a-z0-9])"
                    r"/[A-Za-z0-9_-]{1,255}"
                ),
                "PROJECT/SECRET: the id or number of the project, and up to 255 letters, digits, "
                "_ and -",
            ),
            examples=("acme-production/twenty-{name}",),
        ),
    ),
    address=_address,
    connect=lambda context: SecretManager(context.environ, context.wait).sink,
    server_of=lambda environ, _: _base(environ),
    program_of=lambda _, environ: _program_of(environ),
)
