"""Secrets of AWS Secrets Manager, each of which is one token."""

from __future__ import annotations

import base64
import re
import threading
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from provisioner.http_client.loopback import is_loopback
from provisioner.secret import Secret
from provisioner.sinks.sink import Empty, StoredValue, failed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from provisioner.errors.exceptions import SinkError
    from provisioner.model.sink_address import AwsAddress
    from provisioner.sinks.sink import Content, Sink, SinkCode

_CONNECT_TIMEOUT = 10
_READ_TIMEOUT = 30
_TRIES = 4
_CONNECTIONS = 32
_NAME = re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}|arn:[A-Za-z0-9/_+=.@:-]{1,2044}")
"""CreateSecret, "Name", and the ARN that every other request takes as well."""

_CODE = re.compile(r"[A-Za-z0-9]{1,64}")


def server_of(environment: Mapping[str, str], region: str | None) -> str:
    """Return the address of the service in a region; empty where none can be made up.

    No credential is looked for: the client is made with one that is none.
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
            "secretsmanager",
            region_name=region or environment.get("AWS_REGION") or session.region_name,
            aws_access_key_id="none",
            aws_secret_access_key="none",  # noqa: S106 - no secret
        )
    except (BotoCoreError, ValueError):
        return ""
    return str(client.meta.endpoint_url)


def program_of() -> str | None:
    """Return what a profile of the AWS configuration runs for its credential; None without one."""
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
    runs = any("credential_process" in profile for profile in profiles.values())
    return "the credential_process of the AWS configuration" if runs else None


class SecretsManager:
    """AWS Secrets Manager in all regions of a run; its sinks may be used from several threads.

    Relied on: clients are safe to share between threads, sessions are not (Boto3, "Clients",
    "Multithreading"); credentials come from the default chain, and the endpoint from
    `AWS_ENDPOINT_URL_SECRETS_MANAGER` or `AWS_ENDPOINT_URL` (Boto3, "Credentials",
    "Configuration"), while of the variables for the region Boto3 knows only `AWS_DEFAULT_REGION`.

    Args:
        environment: of the process, looked into for `AWS_REGION`; Boto3 looks into the real one.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._region = environment.get("AWS_REGION") or None
        self._lock = threading.Lock()
        self._session: _BotoSession | None = None
        self._clients: dict[str | None, _Client] = {}

    def sink(self, address: AwsAddress) -> Sink:
        """The sink at an address; whatever is wrong with it is told when it is used."""
        return _WholeSecret(self, address)

    def client(self, address: AwsAddress) -> _Client:
        """The client for an address's region.

        Raises:
            SinkError: when there is no region, no library, or no endpoint that is safe.
        """
        with self._lock:
            client = self._clients.get(address.region)
            if client is None:
                with _translated(address):
                    client = self._opened(address)
                _refuse_clear_text(address, client.meta.endpoint_url)
                self._clients[address.region] = client
            return client

    def _opened(self, address: AwsAddress) -> _Client:
        import boto3  # noqa: PLC0415 - an extra
        from botocore.config import (  # type: ignore[import-untyped]  # noqa: PLC0415 - as above
            Config,
        )

        if self._session is None:
            self._session = boto3.session.Session()
        region = address.region or self._region or self._session.region_name
        if not region:
            raise failed(
                "sink_missing",
                f"{address} cannot be found: no region is named.",
                "Write `region:` beside `aws:`, or set AWS_REGION.",
            )
        config = Config(
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_READ_TIMEOUT,
            retries={"mode": "standard", "total_max_attempts": _TRIES},
            max_pool_connections=_CONNECTIONS,
        )
        return self._session.client("secretsmanager", region_name=region, config=config)


class _WholeSecret:
    """One secret, whose text is the token and nothing else.

    Relied on (API reference): PutSecretValue stages its version as AWSCURRENT and the one before
    as AWSPREVIOUS; with a ClientRequestToken that it has seen, PutSecretValue and CreateSecret
    ignore the same value, so that a repeat makes no second version; a secret scheduled for
    deletion can be neither read nor written (DeleteSecret).
    """

    def __init__(self, service: SecretsManager, address: AwsAddress) -> None:
        self._service = service
        self._address = address

    def check(self) -> None:
        """Whether the secret can be written as far as its description tells.

        Whether one that is not there may be created cannot be looked up without creating it.
        """
        client = self._client()
        with _translated(self._address):
            try:
                described = client.describe_secret(SecretId=self._address.secret)
            except client.exceptions.ResourceNotFoundException:
                described = None
        if described is None:
            self._refuse_to_create_by_arn()
        elif described.get("DeletedDate") is not None:
            raise failed(
                "sink_unsuitable",
                f"{self._address} is scheduled for deletion.",
                "Take that back with aws secretsmanager restore-secret, or write another name.",
            )
        elif described.get("PrimaryRegion") not in (None, client.meta.region_name):
            raise failed(
                "sink_unsuitable",
                f"{self._address} is a replica, which can only be read.",
                "Write the region of its primary secret as `region:`.",
            )

    def read(self) -> Content:
        """The current text; bytes, which are no token, as base64."""
        client = self._client()
        with _translated(self._address):
            try:
                answer = client.get_secret_value(SecretId=self._address.secret)
            except client.exceptions.ResourceNotFoundException:
                return Empty()
        text = answer.get("SecretString")
        if isinstance(text, str):
            return StoredValue(Secret.received(text))
        raw = answer.get("SecretBinary")
        return StoredValue(
            Secret.received(base64.b64encode(raw if isinstance(raw, bytes) else b"").decode())
        )

    def write(self, token: Secret) -> None:
        """Makes a new current version; the former one stays as the previous version."""
        client = self._client()
        secret, version = self._address.secret, str(uuid.uuid4())
        with _translated(self._address):
            try:
                client.put_secret_value(
                    SecretId=secret, SecretString=token.reveal(), ClientRequestToken=version
                )
            except client.exceptions.ResourceNotFoundException:
                pass
            else:
                return
            self._refuse_to_create_by_arn()
            try:
                client.create_secret(
                    Name=secret, SecretString=token.reveal(), ClientRequestToken=version
                )
            except client.exceptions.ResourceExistsException:
                # Another run was faster.
                client.put_secret_value(
                    SecretId=secret, SecretString=token.reveal(), ClientRequestToken=version
                )

    def _client(self) -> _Client:
        if not _NAME.fullmatch(self._address.secret):
            raise failed(
                "sink_unsuitable",
                f"{self._address} cannot be the name of a secret of AWS.",
                "Use ASCII letters, digits and /_+=.@- only, at most 512 of them.",
            )
        return self._service.client(self._address)

    def _refuse_to_create_by_arn(self) -> None:
        if self._address.secret.startswith("arn:"):
            raise failed(
                "sink_missing",
                f"{self._address} is not there, and an ARN cannot be chosen.",
                "Create the secret first, or write its name instead.",
            )


class _Metadata(Protocol):
    endpoint_url: str
    region_name: str


class _Errors(Protocol):
    ResourceNotFoundException: type[Exception]
    ResourceExistsException: type[Exception]


class _Client(Protocol):
    """What is used of Boto3's client; its methods take the names of the API."""

    @property
    def meta(self) -> _Metadata: ...
    @property
    def exceptions(self) -> _Errors: ...
    def describe_secret(self, **parameters: str) -> Mapping[str, object]:
        """DescribeSecret."""
        ...

    def get_secret_value(self, **parameters: str) -> Mapping[str, object]:
        """GetSecretValue."""
        ...

    def put_secret_value(self, **parameters: str) -> Mapping[str, object]:
        """PutSecretValue."""
        ...

    def create_secret(self, **parameters: str) -> Mapping[str, object]:
        """CreateSecret."""
        ...


class _BotoSession(Protocol):
    """What is used of Boto3's session."""

    @property
    def region_name(self) -> str | None: ...
    def client(self, service: str, *, region_name: str, config: object) -> _Client:
        """A client of one service in one region."""
        ...


@contextmanager
def _translated(address: AwsAddress) -> Iterator[None]:
    """Has what Boto3 raises end as an error of the sink, without anything of its text."""
    try:
        from botocore.exceptions import (  # noqa: PLC0415 - has no types; an extra
            BotoCoreError,
            ClientError,
        )

        yield
    except ImportError:
        raise failed(
            "sink_extra_missing",
            f"{address} needs the library boto3, which is not installed.",
            'Install it with pip install "twenty-provisioner[aws]".',
        ) from None
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code"))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        raise _refused(address, code if _CODE.fullmatch(code) else "unknown", status) from None
    except (BotoCoreError, ValueError) as error:  # an endpoint that is no URL is a ValueError
        raise _not_asked(address, error) from None


def _refused(address: AwsAddress, code: str, status: int) -> SinkError:
    """The error for one that the service answered with.

    Args:
        address: of the sink.
        code: the name of the service's error.
        status: of its HTTP answer.
    """
    meaning = next((one for one in _MEANINGS if code in one.codes), None)
    if meaning is None and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        meaning = _BUSY
    elif meaning is None:
        # A gateway on the way refuses in words of its own.
        meaning = _NOT_ALLOWED if status == HTTPStatus.FORBIDDEN else _UNKNOWN
    return failed(meaning.code, f"{address} {meaning.what} ({code}).", meaning.remedy)


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What some error codes of AWS come to.

    Attributes:
        what: the end of a sentence that begins with the sink.
    """

    code: SinkCode
    what: str
    remedy: str
    codes: frozenset[str] = frozenset()


_BUSY = _Meaning(
    "sink_unavailable",
    "is out of order: AWS is busy or has a fault",
    "Run again.",
    frozenset(
        {
            "InternalFailure",
            "InternalServiceError",
            "RequestLimitExceeded",
            "RequestTimeout",
            "SlowDown",
            "Throttling",
            "ThrottlingException",
            "TooManyRequestsException",
        }
    ),
)
_NOT_ALLOWED = _Meaning(
    "sink_denied",
    "is closed to the AWS identity",
    "Allow it secretsmanager:DescribeSecret, GetSecretValue, PutSecretValue and CreateSecret "
    "there, and the use of its KMS key.",
    frozenset({"AccessDenied", "AccessDeniedException", "NotAuthorized", "OptInRequired"}),
)
_UNKNOWN = _Meaning(
    "sink_failed",
    "was refused by AWS",
    "Look the code up in the API reference of AWS Secrets Manager.",
)
_MEANINGS = (
    _BUSY,
    # Common errors of the AWS APIs, in the spellings of their different protocols.
    _Meaning(
        "sink_denied",
        "is closed: AWS does not accept the credential",
        "Check and renew the AWS credential, and the clock of this machine.",
        frozenset(
            {
                "ExpiredToken",
                "ExpiredTokenException",
                "IncompleteSignature",
                "IncompleteSignatureException",
                "InvalidClientTokenId",
                "InvalidSignatureException",
                "MissingAuthenticationToken",
                "MissingAuthenticationTokenException",
                "RequestExpired",
                "SignatureDoesNotMatch",
                "UnrecognizedClientException",
            }
        ),
    ),
    _NOT_ALLOWED,
    _Meaning(
        "sink_unsuitable",
        "has a KMS key that cannot be used",
        "Enable that key, or give the secret another one.",
        frozenset({"DecryptionFailure", "EncryptionFailure", "KMSKeyNotFoundException"}),
    ),
    _Meaning(
        "sink_unsuitable",
        "is refused as it is",
        "Check that it is not scheduled for deletion, no replica, and not managed by a service "
        "of AWS.",
        frozenset({"InvalidParameterException", "InvalidRequestException", "ValidationException"}),
    ),
    _Meaning(
        "sink_missing",
        "is not there any more",
        "Run again when nothing else removes it.",
        frozenset({"ResourceNotFoundException"}),
    ),
)


def _not_asked(address: AwsAddress, error: Exception) -> SinkError:
    """The error for one that Boto3 found by itself; only the name of its class is shown."""
    from botocore import (  # type: ignore[import-untyped]  # noqa: PLC0415 - has no types; an extra
        exceptions,
    )

    kind = type(error).__name__
    if isinstance(error, exceptions.SSLError):
        return failed(
            "sink_unavailable",
            f"{address} cannot be trusted, or does not speak https.",
            "Name the authority's certificate in AWS_CA_BUNDLE, and check AWS_ENDPOINT_URL.",
        )
    if isinstance(error, (exceptions.ConnectionError, exceptions.HTTPClientError)):
        return failed(
            "sink_unavailable",
            f"{address} is out of reach ({kind}).",
            "Check the region, AWS_ENDPOINT_URL, the network and its proxies.",
        )
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        return failed(
            "sink_denied",
            f"{address} is closed: there is no AWS credential, or half of one.",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or assume a role before the run.",
        )
    return failed(
        "sink_denied",
        f"{address} is closed: the AWS configuration or credential cannot be used ({kind}).",
        "Check AWS_PROFILE, AWS_CONFIG_FILE and AWS_ENDPOINT_URL, and sign in again.",
    )


def _refuse_clear_text(address: AwsAddress, endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise failed(
            "sink_unsuitable",
            f"{address} is refused: over plain http everyone on the way could read the token.",
            "Set AWS_ENDPOINT_URL to an https:// address.",
        )
