"""The sink `azure`: secrets of Azure Key Vault, each of which is one token.

Sources: the Key Vault REST API reference 7.4 (Set, Get and Update Secret, Get Deleted Secret),
"Azure Key Vault REST API Error Codes", "Authentication, requests and responses", "Soft-delete",
the error codes that Microsoft's own libraries check for, and the documentation of azure-identity.
No answer of Azure itself was seen.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

from provisioner.errors.codes import Code
from provisioner.http_client.exchange import Route, ca_path_of, json_of
from provisioner.model.sink_address import Address
from provisioner.model.sink_content import NoToken
from provisioner.runtime.source import extra_remedy
from provisioner.secret import Secret
from provisioner.sinks.http import TIMEOUTS, Api, Credential, Once, segment
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
    from provisioner.http_client.exchange import HttpAnswer
    from provisioner.sinks.http import Reply
    from provisioner.sinks.kind import OptionValues

_API_VERSION = "?api-version=7.4"
_PUBLIC_DOMAIN = "vault.azure.net"
_HTTPS_PORT = "443"
_RENEWAL = 300
"""Seconds before the end of an access token at which a new one is requested."""

_MAX_RETRIES = 3
_CLI_TIMEOUT = 30
_EXPLAINED_STATUSES = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_VERSION = re.compile(r"/secrets/[^/]+/([0-9A-Za-z]{1,64})\Z")
"""The version at the end of the identifier of a secret."""

_ENTRA_CODE = re.compile(r"AADSTS[0-9]{1,8}")
_CLI_CHOICES = ("", "dev", "azureclicredential")
_IDENTITY_VARIABLES = (
    ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"),
    ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_CERTIFICATE_PATH"),
    ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"),
    ("IDENTITY_ENDPOINT",),
    ("MSI_ENDPOINT",),
)
"""Variables that configure an identity of their own, so that nobody's sign-in is used instead."""


@dataclass(frozen=True, slots=True)
class AzureAddress(Address):
    """A secret of Azure Key Vault; its current version is the token.

    Attributes:
        vault: the name of a vault of the public cloud, or the host of any vault.
    """

    kind: ClassVar[str] = "azure"
    vault: str
    secret: str

    @property
    def host(self) -> str:
        """Return the host of the vault in lowercase, without the port of https and a last dot."""
        name, colon, port = self.vault.lower().partition(":")
        name, port = name.removesuffix("."), port.lstrip("0")
        if not colon and "." not in name:
            return f"{name}.{_PUBLIC_DOMAIN}"
        return name if port in ("", _HTTPS_PORT) else f"{name}:{port}"

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place; Azure ignores case in both names."""
        return ("azure", self.host, self.secret.lower())

    @property
    def neighbourhood(self) -> tuple[str, ...]:
        """Return the name of the secret."""
        return ("azure", self.secret.lower())

    def may_be(self, other: Address) -> bool:
        """Return whether the first labels of the hosts are equal: a vault may have several."""
        return (
            isinstance(other, AzureAddress)
            and re.split("[.:]", self.host)[0] == re.split("[.:]", other.host)[0]
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the secret with its vault, as it is written."""
        return (f"{self.vault}/{self.secret}",)

    @property
    def server(self) -> str:
        """Return the host of the vault: each vault is a server."""
        return self.host

    @property
    def removes(self) -> bool:
        """Return True: the sink can remove a token."""
        return True

    def __str__(self) -> str:
        return f"azure {self.vault}/{self.secret}"


class KeyVaults:
    """All vaults of a run. Their sinks may be used from several threads.

    Args:
        environment: the environment variables of the process; azure-identity reads the real ones.
        wait: waits for a number of seconds.
    """

    def __init__(
        self, environment: Mapping[str, str], wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._ca_path = ca_path_of(environment)
        self._wait = wait
        self._identity = _Identity(environment)
        self._vaults: Once[Api] = Once()

    def sink(self, address: AzureAddress) -> VaultSecret:
        """Return the sink of an address; nothing is sent yet."""
        return VaultSecret(
            self._vaults.get(address.host, lambda: self._open(address.host)), address
        )

    def _open(self, host: str) -> Api:
        # An access token is only for vaults of one domain, so no other host can use it elsewhere.
        name = host.partition(":")[0]
        domain = name.partition(".")[2] or name
        route = Route(f"https://{host}", self._ca_path, url_setting="the name of the vault")
        return _VaultApi(route, self._identity.for_domain(domain), {}, self._wait)


class VaultSecret:
    """One secret, whose current version is exactly the token; created by `KeyVaults`.

    Relies on: a secret that was deleted can be neither read nor written until it is recovered or
    purged; each version has its own tags and content type (Key Vault REST API reference).
    """

    def __init__(self, api: Api, address: AzureAddress) -> None:
        self._api = api
        self._address = address
        name = segment(address.secret)
        self._path = f"/secrets/{name}{_API_VERSION}"
        self._deleted_path = f"/deletedsecrets/{name}{_API_VERSION}"

    def check(self) -> None:
        """Check that the secret can be read, was not deleted and belongs to no certificate.

        Key Vault does not show whether the identity may write the secret.
        """
        found = self._get()
        if found is None:
            if self._call("GET", self._deleted_path).status == HTTPStatus.OK:
                raise _DELETED.error(self._address)
        elif found.body.get("managed") is True:
            remedy = "Use a secret of its own."
            reason = "belongs to a certificate, and Key Vault manages its value"
            raise unsuitable(reason, remedy).error(self._address)

    def read(self) -> Content:
        """Return the current version; NoToken if it is disabled or the secret was deleted."""
        found = self._get()
        value = found.body.get("value") if found else None
        return StoredValue(Secret.received(value)) if isinstance(value, str) else NoToken()

    def write(self, token: Secret) -> None:
        """Add a version with the tags and the content type of the current one."""
        current = self._get()
        kept = current.body if current else {}
        body = {name: kept[name] for name in ("tags", "contentType") if kept.get(name)}
        reply = self._call("PUT", self._path, {**body, "value": token.reveal()})
        if reply.status != HTTPStatus.OK:
            raise self._refused(reply)

    def remove(self, token: Secret) -> bool:
        """Disable the version that holds the token; it can be enabled again.

        A value never moves to another version, so a token that is written at the same time is not
        touched. A deletion would take all versions, and block the name for the next delivery.
        """
        found = self._get()
        if found is None:
            return True
        if found.body.get("value") != token.reveal():
            return False
        version = _VERSION.search(str(found.body.get("id")))
        if version is None:
            raise _NOT_A_VAULT.error(self._address)
        path = f"/secrets/{segment(self._address.secret)}/{version[1]}{_API_VERSION}"
        reply = self._call("PATCH", path, {"attributes": {"enabled": False}})
        if reply.status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):  # or it was deleted meanwhile
            return True
        raise self._refused(reply, "disable")

    def _get(self) -> Reply | None:
        """Return the current version; None without one, or if it is disabled."""
        reply = self._call("GET", self._path)
        if reply.status == HTTPStatus.NOT_FOUND or _inner_code(reply.body) == "SecretDisabled":
            return None
        if reply.status != HTTPStatus.OK:
            raise self._refused(reply)
        return reply

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Reply:
        return self._api.call(
            self._address, method, path, body, returned_statuses=_EXPLAINED_STATUSES
        )

    def _refused(self, reply: Reply, operation: str = "get and set") -> SinkError:
        """Return the error for an answer that is not a success; its text is not shown."""
        code = Code.SINK_DENIED
        inner = _inner_code(reply.body)
        match reply.status:
            case HTTPStatus.UNAUTHORIZED:
                reason = "the vault does not accept the identity, which may be of another tenant"
                remedy = "Sign in to the tenant of the vault, or set AZURE_TENANT_ID."
            case HTTPStatus.FORBIDDEN if inner == "ForbiddenByFirewall":
                reason = "the firewall of the vault does not allow this machine"
                remedy = "Allow its network in the vault, or run the command inside that network."
            case HTTPStatus.FORBIDDEN:
                reason = f"this identity may not {operation} secrets"
                remedy = (
                    "Assign it the role Key Vault Secrets Officer, or the permissions get and set "
                    "in the access policy."
                )
            case HTTPStatus.CONFLICT if inner == "ObjectIsDeletedButRecoverable":
                return _DELETED.error(self._address)
            case _:
                code = Code.SINK_FAILED
                reason = f"Key Vault refuses the request with HTTP status {reply.status}"
                remedy = "Check the vault and the secret in the Azure portal."
        return unusable(code, reason, remedy).error(self._address)


class _VaultApi(Api):
    """The API of a vault, which describes every refusal in JSON."""

    def failure_in(self, path: str, answer: HttpAnswer) -> SinkFailure | None:
        """Return a failure that only Key Vault's answers show; None without one."""
        del path
        if answer.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            return None
        try:
            body = json_of(answer.body)
        except ValueError:
            body = None
        if not isinstance(body, dict) or "error" not in body:
            return _NOT_A_VAULT
        return _CHANGING if _inner_code(body) in _CHANGING_CODES else None


_CHANGING_CODES = ("ObjectIsBeingDeleted", "ObjectIsBeingRecovered")
_CHANGING = SinkFailure(
    Code.SINK_UNAVAILABLE,
    "is being deleted or recovered",
    "Run the command again once this has finished.",
    transient=True,
)
_DELETED = unsuitable(
    "was deleted, and its name cannot be used before it is recovered or purged",
    "Run `az keyvault secret recover` or `az keyvault secret purge`, or use another name.",
)
_NOT_A_VAULT = SinkFailure(
    Code.SINK_UNAVAILABLE,
    "is unavailable: the response is not from Key Vault",
    "Check the name of the vault and any proxy.",
)


def _inner_code(body: Mapping[str, Any]) -> str:
    """Return the code that says most about a refusal; empty without one."""
    error = body.get("error")
    if not isinstance(error, dict):
        return ""
    inner = error.get("innererror") or error.get("innerError")  # both spellings were reported
    return str(inner.get("code", "")) if isinstance(inner, dict) else ""


class _Identity:
    """The identity of the run, found by azure-identity, and its access tokens.

    The library speaks to Microsoft Entra and to managed identities by its own HTTP client, which
    reads REQUESTS_CA_BUNDLE and the variables for proxies too.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._credential: Any = None
        self._tokens: dict[str, tuple[Credential, float]] = {}
        self._failures: dict[str, SinkFailure] = {}

    def for_domain(self, domain: str) -> Callable[[Address], Credential]:
        """Return what adds an access token for the vaults of a domain to every request."""

        def credential(address: Address) -> Credential:
            with self._lock, naming(address):
                return self._current(domain)

        return credential

    def _current(self, domain: str) -> Credential:
        """Return an access token that is valid for now.

        Raises:
            UnusableError: the identity has none. If it never had one, this is not tried again.
        """
        found = self._tokens.get(domain)
        if found is not None and time.time() < found[1] - _RENEWAL:
            return found[0]
        if domain in self._failures:
            raise UnusableError(self._failures[domain])
        try:
            with _identity_errors():
                if self._credential is None:
                    self._credential = self._open()
                token = self._credential.get_token(f"https://{domain}/.default")
        except UnusableError as error:
            if found is None:
                self._failures[domain] = error.failure
            raise
        headers = {"Authorization": Secret(f"Bearer {token.token}")}
        self._tokens[domain] = Credential(headers), token.expires_on
        return self._tokens[domain][0]

    def _open(self) -> Any:
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415 - an extra

        connect, total = TIMEOUTS
        return DefaultAzureCredential(
            # What a person uses at a desk, beside the Azure CLI.
            exclude_broker_credential=True,
            exclude_developer_cli_credential=True,
            exclude_powershell_credential=True,
            exclude_shared_token_cache_credential=True,
            exclude_visual_studio_code_credential=True,
            exclude_cli_credential=None if _cli_of(self._environment) else True,
            process_timeout=_CLI_TIMEOUT,
            connection_timeout=connect,
            read_timeout=total,
            retry_total=_MAX_RETRIES,
        )


def _cli_of(environment: Mapping[str, str]) -> str | None:
    """Return the program that may give an access token; None if none is asked.

    The Azure CLI is asked only if no variables configure an identity.
    """
    if environment.get("AZURE_TOKEN_CREDENTIALS", "").strip().lower() not in _CLI_CHOICES:
        return None
    if any(all(map(environment.get, names)) for names in _IDENTITY_VARIABLES):
        return None
    return "the Azure CLI (az)" if shutil.which("az", path=environment.get("PATH")) else None


@contextmanager
def _identity_errors() -> Iterator[None]:
    """Turn the errors of azure-identity into failures of the sink, without their texts."""
    try:
        from azure.core.exceptions import AzureError  # noqa: PLC0415 - an extra

        yield
    except ImportError:
        reason = "needs the azure-identity library, which is not installed"
        remedy = extra_remedy("azure")
        raise UnusableError(SinkFailure(Code.SINK_EXTRA_MISSING, reason, remedy)) from None
    except (AzureError, ValueError, OSError) as error:  # of the configuration, or a certificate
        found = _ENTRA_CODE.search(str(error))  # the rest of the text may contain a secret
        shown = found[0] if found else type(error).__name__
        reason = f"no Azure identity gives an access token ({shown})"
        remedy = (
            "Set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, use a workload or "
            "managed identity, or run `az login`."
        )
        raise UnusableError(unusable(Code.SINK_DENIED, reason, remedy)) from None


def _address(values: OptionValues) -> AzureAddress:
    vault, _, secret = values.text("azure").partition("/")
    return AzureAddress(vault, secret)


_NAME = r"(?=[^/]{3,24}/)[A-Za-z](?:-?[A-Za-z0-9])+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})+(?::[0-9]{{1,5}})?|localhost:[0-9]{{1,5}})"

SINK = SinkKind(
    title="Azure",
    description="A secret in Azure Key Vault. Its current version is the token.",
    options=(
        Option(
            "azure",
            "Secret",
            "The name of the vault, or its host name outside the public cloud, a slash, and "
            "the name of the secret.",
            # Azure docs, "Key Vault objects, identifiers, and versioning"
            Allowed(
                re.compile(rf"(?:{_NAME}|{_HOST})/[0-9A-Za-z-]{{1,127}}"),
                "VAULT/SECRET: the name or host of the vault, and up to 127 letters, digits and -",
            ),
            examples=("acme-production/twenty-{name}",),
        ),
    ),
    address=_address,
    connect=lambda context: KeyVaults(context.environ, context.wait).sink,
    server_of=lambda _, host: f"https://{host}",
    program_of=lambda _, environ: _cli_of(environ),
)
