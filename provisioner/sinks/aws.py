"""The sink `aws`: secrets of AWS Secrets Manager, each of which is one token."""

from __future__ import annotations

import base64
import re
import threading
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from provisioner.errors.codes import Code
from provisioner.http_client.loopback import is_loopback
from provisioner.model.sink_address import Address
from provisioner.model.sink_content import NoToken
from provisioner.runtime.source import extra_remedy
from provisioner.secret import Secret
from provisioner.sinks.kind import Allowed, Option, SinkKind
from provisioner.sinks.sink import SinkFailure, StoredValue, unsuitable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from provisioner.sinks.sink import Content, Sink

_CONNECT_TIMEOUT = 10
_READ_TIMEOUT = 30
_MAX_ATTEMPTS = 4
_CONNECTIONS = 32
_RECOVERY_DAYS = 30
"""The recovery window of a removed secret, the longest that AWS allows."""

_CODE = re.compile(r"[A-Za-z0-9]{1,64}")


@dataclass(frozen=True, slots=True)
class AwsAddress(Address):
    """A secret of AWS Secrets Manager; its text is the token.

    Attributes:
        region: None for the region of the AWS configuration.
    """

    kind: ClassVar[str] = "aws"
    secret: str
    region: str | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the name of the secret."""
        return (self.secret,)

    @property
    def neighbourhood(self) -> tuple[str, ...]:
        """Return the name, without the region."""
        return ("aws", self.secret)

    def may_be(self, other: Address) -> bool:
        """Return whether the regions are equal, or one of them is that of the configuration."""
        return None in (self.region, other.region) or self.region == other.region

    @property
    def removes(self) -> bool:
        """Return True: the sink can remove a token."""
        return True

    def __str__(self) -> str:
        return f"aws {self.secret}" + (f" in {self.region}" if self.region else "")


def server_of(environment: Mapping[str, str], region: str | None) -> str:
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
            "secretsmanager",
            region_name=region or environment.get("AWS_REGION") or session.region_name,
            aws_access_key_id="none",
            aws_secret_access_key="none",  # noqa: S106 - no secret
        )
    except (BotoCoreError, ValueError):
        return ""
    return str(client.meta.endpoint_url)


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


class SecretsManager:
    """AWS Secrets Manager in all regions of a run. Its sinks may be used from several threads.

    Relies on: clients can be shared between threads, sessions cannot (Boto3, "Clients",
    "Multithreading"); credentials come from the default chain, and the endpoint from
    `AWS_ENDPOINT_URL_SECRETS_MANAGER` or `AWS_ENDPOINT_URL` (Boto3, "Credentials",
    "Configuration"). Of the variables for the region, Boto3 reads only `AWS_DEFAULT_REGION`.

    Args:
        environment: the environment variables of the process, used for `AWS_REGION`; Boto3 reads
            the real environment.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._region = environment.get("AWS_REGION") or None
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[str | None, Any] = {}

    def sink(self, address: AwsAddress) -> Sink:
        """Return the sink of an address; problems are reported when it is used."""
        return _WholeSecret(self, address)

    def client(self, address: AwsAddress) -> Any:
        """Return the client for the region of an address.

        Raises:
            SinkError: there is no region, no library, or no safe endpoint.
        """
        with self._lock:
            client = self._clients.get(address.region)
            if client is None:
                with _sink_errors(address):
                    client = self._create_client(address)
                parts = urlsplit(client.meta.endpoint_url)
                if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
                    reason = "is refused: plain http would expose the token to the network"
                    remedy = "Set AWS_ENDPOINT_URL to an https:// address."
                    raise unsuitable(reason, remedy).error(address)
                self._clients[address.region] = client
            return client

    def _create_client(self, address: AwsAddress) -> Any:
        import boto3  # noqa: PLC0415 - an extra
        from botocore.config import (  # type: ignore[import-untyped]  # noqa: PLC0415 - as above
            Config,
        )

        if self._session is None:
            self._session = boto3.session.Session()
        region = address.region or self._region or self._session.region_name
        if not region:
            reason = "cannot be found: its region is not set"
            remedy = "Add `region:` next to `aws:`, or set AWS_REGION."
            raise SinkFailure(Code.SINK_MISSING, reason, remedy).error(address)
        config = Config(
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_READ_TIMEOUT,
            retries={"mode": "standard", "total_max_attempts": _MAX_ATTEMPTS},
            max_pool_connections=_CONNECTIONS,
        )
        return self._session.client("secretsmanager", region_name=region, config=config)


class _WholeSecret:
    """One secret, whose text is exactly the token.

    Relies on (API reference): PutSecretValue stages its version as AWSCURRENT and the previous one
    as AWSPREVIOUS; PutSecretValue and CreateSecret ignore a repeat with the same ClientRequestToken
    and the same value, so that it creates no second version; a secret scheduled for deletion can
    neither be read nor written (DeleteSecret).
    """

    def __init__(self, service: SecretsManager, address: AwsAddress) -> None:
        self._service = service
        self._address = address

    def check(self) -> None:
        """Check that the secret can be written, as far as its description shows.

        Whether a missing secret may be created cannot be found out without creating it.
        """
        client = self._service.client(self._address)
        with _sink_errors(self._address):
            try:
                described = client.describe_secret(SecretId=self._address.secret)
            except client.exceptions.ResourceNotFoundException:
                return
        if described.get("DeletedDate") is not None:
            remedy = "Restore it with `aws secretsmanager restore-secret`, or use another name."
            raise unsuitable("is scheduled for deletion", remedy).error(self._address)
        if described.get("PrimaryRegion") not in (None, client.meta.region_name):
            remedy = "Set `region:` to the region of its primary secret."
            raise unsuitable("is a read-only replica", remedy).error(self._address)

    def read(self) -> Content:
        """Return the current text; binary content, which is not a token, as base64.

        A secret that is scheduled for deletion holds nothing that its readers get.
        """
        client = self._service.client(self._address)
        with _sink_errors(self._address):
            try:
                answer = client.get_secret_value(SecretId=self._address.secret)
            except client.exceptions.ResourceNotFoundException:
                return NoToken()
            except client.exceptions.InvalidRequestException:
                if not self._is_deleted(client):
                    raise
                return NoToken()
        text = answer.get("SecretString")
        if not isinstance(text, str):
            text = base64.b64encode(answer.get("SecretBinary") or b"").decode()
        return StoredValue(Secret.received(text))

    def write(self, token: Secret) -> None:
        """Create a new current version; the old one stays as the previous version."""
        client = self._service.client(self._address)
        value = {"SecretString": token.reveal(), "ClientRequestToken": str(uuid.uuid4())}
        secret = self._address.secret
        with _sink_errors(self._address):
            try:
                client.put_secret_value(SecretId=secret, **value)
            except client.exceptions.ResourceNotFoundException:
                try:
                    client.create_secret(Name=secret, **value)
                except client.exceptions.ResourceExistsException:
                    # Another run created the secret in the meantime.
                    client.put_secret_value(SecretId=secret, **value)

    def remove(self, token: Secret) -> bool:
        """Schedule the secret for deletion; it can be restored during the recovery window.

        The API cannot make the deletion depend on the value, which is therefore read right before.
        """
        client, secret = self._service.client(self._address), self._address.secret
        with _sink_errors(self._address, _MAY_NOT_DELETE):
            try:
                current = client.get_secret_value(SecretId=secret)
                if current.get("SecretString") != token.reveal():
                    return False
                client.delete_secret(SecretId=secret, RecoveryWindowInDays=_RECOVERY_DAYS)
            except client.exceptions.ResourceNotFoundException:
                pass
            except client.exceptions.InvalidRequestException:
                if not self._is_deleted(client):
                    raise
        return True

    def _is_deleted(self, client: Any) -> bool:
        described = client.describe_secret(SecretId=self._address.secret)
        return described.get("DeletedDate") is not None


@contextmanager
def _sink_errors(address: AwsAddress, not_allowed: SinkFailure | None = None) -> Iterator[None]:
    """Turn the errors of Boto3 into errors of the sink, without their texts.

    Args:
        address: the sink.
        not_allowed: the failure if a permission is missing; None for that of reading and writing.
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
        failure = _FAILURES.get(code)
        if failure is None and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            failure = _BUSY_OR_FAULTY
        elif failure is None:
            # A gateway may refuse with a code that AWS does not use.
            failure = _NOT_ALLOWED if status == HTTPStatus.FORBIDDEN else _UNKNOWN
        if failure is _NOT_ALLOWED and not_allowed is not None:
            failure = not_allowed
        shown = code if _CODE.fullmatch(code) else "unknown"
        raise failure._replace(reason=f"{failure.reason} ({shown})").error(address) from None
    except (NotConnectedError, HTTPClientError) as error:
        reason = f"is unreachable ({type(error).__name__})"
        remedy = "Check the region, AWS_ENDPOINT_URL, AWS_CA_BUNDLE, the network and its proxies."
        raise SinkFailure(Code.SINK_UNAVAILABLE, reason, remedy).error(address) from None
    except (BotoCoreError, ValueError) as error:  # an invalid endpoint is a ValueError
        kind = type(error).__name__  # a text may contain a secret
        reason = f"cannot be accessed: AWS is not configured, or has no valid credential ({kind})"
        remedy = (
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or sign in again, and check "
            "AWS_PROFILE, AWS_CONFIG_FILE and AWS_ENDPOINT_URL."
        )
        raise SinkFailure(Code.SINK_DENIED, reason, remedy).error(address) from None


_BUSY_OR_FAULTY = SinkFailure(
    Code.SINK_UNAVAILABLE,
    "is unavailable: AWS is busy or has an internal error",
    "Run the command again.",
)
_NOT_ALLOWED = SinkFailure(
    Code.SINK_DENIED,
    "cannot be accessed: the AWS identity lacks a permission",
    "Allow secretsmanager:DescribeSecret, GetSecretValue, PutSecretValue and CreateSecret there, "
    "and the use of its KMS key.",
)
_MAY_NOT_DELETE = SinkFailure(
    Code.SINK_DENIED,
    "cannot be deleted: the AWS identity lacks a permission",
    "Allow secretsmanager:GetSecretValue, DescribeSecret and DeleteSecret there, or delete the "
    "secret by hand.",
)
_BAD_CREDENTIAL = SinkFailure(
    Code.SINK_DENIED,
    "cannot be accessed: AWS does not accept the credential",
    "Check and renew the AWS credential, and check the clock of this machine.",
)
_BAD_KMS_KEY = unsuitable(
    "has a KMS key that cannot be used", "Enable that key, or use another one for the secret."
)
_BAD_STATE = unsuitable(
    "is in a state that does not allow this request",
    "Check that it is not scheduled for deletion, is not a replica and is not managed by an AWS "
    "service.",
)
_DELETED = SinkFailure(
    Code.SINK_MISSING,
    "was deleted in the meantime",
    "Run the command again once nothing else is deleting it.",
)
_UNKNOWN = SinkFailure(
    Code.SINK_FAILED,
    "was refused by AWS",
    "Look up the code in the AWS Secrets Manager API reference.",
)
_CODES = {
    _BUSY_OR_FAULTY: "InternalFailure InternalServiceError RequestLimitExceeded RequestTimeout "
    "SlowDown Throttling ThrottlingException TooManyRequestsException",
    _NOT_ALLOWED: "AccessDenied AccessDeniedException NotAuthorized OptInRequired",
    _BAD_CREDENTIAL: "ExpiredToken ExpiredTokenException IncompleteSignature "
    "IncompleteSignatureException InvalidClientTokenId InvalidSignatureException "
    "MissingAuthenticationToken MissingAuthenticationTokenException RequestExpired "
    "SignatureDoesNotMatch UnrecognizedClientException",
    _BAD_KMS_KEY: "DecryptionFailure EncryptionFailure KMSKeyNotFoundException",
    _BAD_STATE: "InvalidParameterException InvalidRequestException ValidationException",
    _DELETED: "ResourceNotFoundException",
}
"""The error codes of AWS for each failure: of all APIs, in the spellings of their protocols."""

_FAILURES = {code: failure for failure, codes in _CODES.items() for code in codes.split()}


SINK = SinkKind(
    title="AWS",
    description="A secret in AWS Secrets Manager. Its text is the token.",
    options=(
        Option(
            "aws",
            "Secret",
            "The name of the secret.",
            # AWS Secrets Manager API reference, CreateSecret, `Name`
            Allowed(
                re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}"),
                "1 to 512 letters, digits or characters of /_+=.@-",
            ),
            examples=("twenty/{environment}/{name}",),
        ),
        Option(
            "region",
            "Region",
            "The region of the secret. The default is the region in the AWS configuration.",
            Allowed(re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)+"), "a region, such as eu-central-1"),
            examples=("eu-central-1",),
        ),
    ),
    address=lambda values: AwsAddress(values.text("aws"), values.optional("region")),
    connect=lambda context: SecretsManager(context.environ).sink,
    server_of=server_of,
    program_of=lambda _address, _environ: program_of(),
)
