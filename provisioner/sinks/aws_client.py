"""What the sinks of AWS share: regions, credentials, endpoints, and the errors of Boto3."""

from __future__ import annotations

import re
import threading
from abc import abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from provisioner.errors.codes import Code
from provisioner.http_client.loopback import is_loopback
from provisioner.model.sink_address import Address
from provisioner.runtime.source import extra_remedy
from provisioner.sinks.kind import Allowed, Option
from provisioner.sinks.sink import SinkFailure, unsuitable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CONNECT_TIMEOUT = 10
_READ_TIMEOUT = 30
_MAX_ATTEMPTS = 4
_CONNECTIONS = 32

_CODE = re.compile(r"[A-Za-z0-9]{1,64}")

REGION = Option(
    "region",
    "Region",
    "The region of the sink. The default is the region in the AWS configuration.",
    Allowed(re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)+"), "a region, such as eu-central-1"),
    examples=("eu-central-1",),
)
"""The option with the region of a sink."""


@dataclass(frozen=True, slots=True)
class RegionalAddress(Address):
    """An address in AWS; its region is None for the region of the AWS configuration."""

    @property
    @abstractmethod
    def region(self) -> str | None:
        """Return the region; None for that of the AWS configuration."""

    @property
    def server(self) -> str | None:
        """Return the region, in which the service has a server of its own."""
        return self.region

    @property
    def neighbourhood(self) -> tuple[str, ...]:
        """Return the kind and the name, without the region."""
        return (self.kind, *self.targets)

    def may_be(self, other: Address) -> bool:
        """Return whether the regions are equal, or one of them is that of the configuration."""
        return None in (self.server, other.server) or self.server == other.server

    @property
    def removes(self) -> bool:
        """Return True: the sink can remove a token."""
        return True

    def __str__(self) -> str:
        return f"{self.kind} {self.targets[0]}" + (f" in {self.region}" if self.region else "")


@dataclass(frozen=True, slots=True)
class Service:
    """A service of AWS that holds tokens.

    Attributes:
        client: the name of its client in Boto3.
        title: its name in AWS.
        not_allowed: the failure if a permission for reading or writing is missing.
        failures: the failures of its own error codes.
    """

    client: str
    title: str
    not_allowed: SinkFailure
    failures: Mapping[str, SinkFailure]

    def server_of(self, environment: Mapping[str, str], region: str | None) -> str:
        """Return the address of the service in a region; empty if it cannot be determined.

        No credential is looked up: the client gets a placeholder.
        """
        try:
            import boto3  # type: ignore[import-untyped]  # noqa: PLC0415 - has no types; an extra
            from botocore.exceptions import (  # type: ignore[import-untyped]  # noqa: PLC0415 - as above
                BotoCoreError,
            )
        except ImportError:
            return ""
        try:
            session = boto3.session.Session()
            client = session.client(
                self.client,
                region_name=region or environment.get("AWS_REGION") or session.region_name,
                aws_access_key_id="none",
                aws_secret_access_key="none",  # noqa: S106 - no secret
            )
        except (BotoCoreError, ValueError):
            return ""
        return str(client.meta.endpoint_url)

    @contextmanager
    def errors(
        self, address: RegionalAddress, not_allowed: SinkFailure | None = None
    ) -> Iterator[None]:
        """Turn the errors of Boto3 into errors of the sink, without their texts.

        Args:
            address: the sink.
            not_allowed: the failure if a permission is missing; None for that of reading and
                writing.
        """
        try:
            from botocore.exceptions import (  # noqa: PLC0415 - has no types; an extra
                BotoCoreError,
                ClientError,
                HTTPClientError,
            )
            from botocore.exceptions import ConnectionError as NotConnectedError  # noqa: PLC0415

            yield
        except ImportError:
            reason = "needs the boto3 library, which is not installed"
            remedy = extra_remedy("aws")
            raise SinkFailure(Code.SINK_EXTRA_MISSING, reason, remedy).error(address) from None
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            # A gateway may refuse with a code that AWS does not use.
            is_known = code in self.failures or code in _FAILURES
            if code in _NOT_ALLOWED or (status == HTTPStatus.FORBIDDEN and not is_known):
                failure = not_allowed or self.not_allowed
            elif is_known:
                failure = self.failures.get(code) or _FAILURES[code]
            elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                failure = BUSY_OR_FAULTY
            else:
                remedy = f"Look up the code in the {self.title} API reference."
                failure = SinkFailure(Code.SINK_FAILED, "was refused by AWS", remedy)
            shown = code if _CODE.fullmatch(code) else "unknown"
            raise failure._replace(reason=f"{failure.reason} ({shown})").error(address) from None
        except (NotConnectedError, HTTPClientError) as error:
            reason = f"is unreachable ({type(error).__name__})"
            remedy = (
                "Check the region, AWS_ENDPOINT_URL, AWS_CA_BUNDLE, the network and its proxies."
            )
            raise SinkFailure(Code.SINK_UNAVAILABLE, reason, remedy).error(address) from None
        except (BotoCoreError, ValueError) as error:  # an invalid endpoint is a ValueError
            kind = type(error).__name__  # a text may contain a secret
            reason = "cannot be accessed: AWS is not configured, or has no valid credential"
            remedy = (
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or sign in again, and check "
                "AWS_PROFILE, AWS_CONFIG_FILE and AWS_ENDPOINT_URL."
            )
            raise SinkFailure(Code.SINK_DENIED, f"{reason} ({kind})", remedy).error(
                address
            ) from None


def program_of() -> str | None:
    """Return the program of the AWS configuration that fetches a credential; None without one."""
    try:
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - an extra
        from botocore.session import (  # type: ignore[import-untyped]  # noqa: PLC0415 - as above
            Session,
        )
    except ImportError:
        return None
    try:
        profiles = Session().full_config.get("profiles", {})
    except BotoCoreError:
        return None
    has_program = any("credential_process" in profile for profile in profiles.values())
    return "the credential_process of the AWS configuration" if has_program else None


class AwsClients:
    """A service of AWS in all regions of a run. It may be used from several threads.

    Relies on: clients can be shared between threads, sessions cannot (Boto3, "Clients",
    "Multithreading"); credentials come from the default chain, and the endpoint from
    `AWS_ENDPOINT_URL` or the variable of that name for the service (Boto3, "Credentials",
    "Configuration"). Of the variables for the region, Boto3 reads only `AWS_DEFAULT_REGION`.

    Args:
        service: the service.
        environment: the environment variables of the process, used for `AWS_REGION`; Boto3 reads
            the real environment.
    """

    def __init__(self, service: Service, environment: Mapping[str, str]) -> None:
        self.service = service
        self._region = environment.get("AWS_REGION") or None
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[str | None, Any] = {}

    def client(self, address: RegionalAddress) -> Any:
        """Return the client for the region of an address.

        Raises:
            SinkError: there is no region, no library, or no safe endpoint.
        """
        with self._lock:
            client = self._clients.get(address.region)
            if client is None:
                with self.service.errors(address):
                    client = self._create_client(address)
                parts = urlsplit(client.meta.endpoint_url)
                if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
                    reason = "is refused: plain http would expose the token to the network"
                    remedy = "Set AWS_ENDPOINT_URL to an https:// address."
                    raise unsuitable(reason, remedy).error(address)
                self._clients[address.region] = client
            return client

    def _create_client(self, address: RegionalAddress) -> Any:
        import boto3  # noqa: PLC0415 - an extra
        from botocore.config import (  # type: ignore[import-untyped]  # noqa: PLC0415 - as above
            Config,
        )

        if self._session is None:
            self._session = boto3.session.Session()
        region = address.region or self._region or self._session.region_name
        if not region:
            reason = "cannot be found: its region is not set"
            remedy = f"Add `region:` next to `{address.kind}:`, or set AWS_REGION."
            raise SinkFailure(Code.SINK_MISSING, reason, remedy).error(address)
        config = Config(
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_READ_TIMEOUT,
            retries={"mode": "standard", "total_max_attempts": _MAX_ATTEMPTS},
            max_pool_connections=_CONNECTIONS,
        )
        return self._session.client(self.service.client, region_name=region, config=config)


BUSY_OR_FAULTY = SinkFailure(
    Code.SINK_UNAVAILABLE,
    "is unavailable: AWS is busy or has an internal error",
    "Run the command again.",
)
_BAD_CREDENTIAL = SinkFailure(
    Code.SINK_DENIED,
    "cannot be accessed: AWS does not accept the credential",
    "Check and renew the AWS credential, and check the clock of this machine.",
)
_NOT_ALLOWED = frozenset(
    {"AccessDenied", "AccessDeniedException", "NotAuthorized", "OptInRequired"}
)
"""The error codes if a permission is missing: of all APIs, in the spellings of their protocols."""


def by_code(codes: Mapping[SinkFailure, str]) -> Mapping[str, SinkFailure]:
    """Return the failure of each error code, from the codes of each failure."""
    return {code: failure for failure, each in codes.items() for code in each.split()}


_FAILURES = by_code(
    {
        BUSY_OR_FAULTY: "InternalFailure InternalServerError InternalServiceError "
        "RequestLimitExceeded RequestTimeout SlowDown Throttling ThrottlingException "
        "TooManyRequestsException",
        _BAD_CREDENTIAL: "ExpiredToken ExpiredTokenException IncompleteSignature "
        "IncompleteSignatureException InvalidClientTokenId InvalidSignatureException "
        "MissingAuthenticationToken MissingAuthenticationTokenException RequestExpired "
        "SignatureDoesNotMatch UnrecognizedClientException",
    }
)
"""The failures of the error codes that all services have."""
