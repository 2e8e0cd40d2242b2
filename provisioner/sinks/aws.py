"""The sink `aws`: secrets of AWS Secrets Manager, each of which is one token."""

from __future__ import annotations

import base64
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from provisioner.errors.codes import Code
from provisioner.model.sink_content import NoToken
from provisioner.secret import Secret
from provisioner.sinks.aws_client import (
    REGION,
    AwsClients,
    RegionalAddress,
    Service,
    by_code,
    program_of,
)
from provisioner.sinks.kind import Allowed, Option, SinkKind
from provisioner.sinks.sink import SinkFailure, StoredValue, unsuitable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioner.sinks.sink import Content, Sink

_RECOVERY_DAYS = 30
"""The recovery window of a removed secret, the longest that AWS allows."""


@dataclass(frozen=True, slots=True)
class AwsAddress(RegionalAddress):
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


class SecretsManager(AwsClients):
    """AWS Secrets Manager in all regions of a run. Its sinks may be used from several threads.

    Args:
        environment: the environment variables of the process, used for `AWS_REGION`.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(_SERVICE, environment)

    def sink(self, address: AwsAddress) -> Sink:
        """Return the sink of an address; problems are reported when it is used."""
        return _WholeSecret(self, address)


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
        with _SERVICE.errors(self._address):
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
        with _SERVICE.errors(self._address):
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
        with _SERVICE.errors(self._address):
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
        with _SERVICE.errors(self._address, _MAY_NOT_DELETE):
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

_SERVICE = Service(
    client="secretsmanager",
    title="AWS Secrets Manager",
    not_allowed=_NOT_ALLOWED,
    failures=by_code(
        {
            _BAD_KMS_KEY: "DecryptionFailure EncryptionFailure KMSKeyNotFoundException",
            _BAD_STATE: "InvalidParameterException InvalidRequestException ValidationException",
            _DELETED: "ResourceNotFoundException",
        }
    ),
)


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
        REGION,
    ),
    address=lambda values: AwsAddress(values.text("aws"), values.optional("region")),
    connect=lambda context: SecretsManager(context.environ).sink,
    server_of=_SERVICE.server_of,
    program_of=lambda _address, _environ: program_of(),
)
