"""The sink `ssm`: parameters of AWS Systems Manager Parameter Store, each of which is one token."""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from provisioner.errors.codes import Code
from provisioner.model.sink_content import NoToken
from provisioner.model.token_claims import claims_of
from provisioner.secret import Secret
from provisioner.sinks.aws_client import (
    BUSY_OR_FAULTY,
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

_KEPT = ("Description", "KeyId", "AllowedPattern", "Tier", "DataType")
"""The settings of a parameter that a new version may lose if the request does not repeat them."""


@dataclass(frozen=True, slots=True)
class SsmAddress(RegionalAddress):
    """A parameter of AWS Parameter Store; its value is the token.

    Attributes:
        region: None for the region of the AWS configuration.
    """

    kind: ClassVar[str] = "ssm"
    parameter: str
    region: str | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the name of the parameter."""
        return (self.parameter,)


class ParameterStore(AwsClients):
    """AWS Parameter Store in all regions of a run. Its sinks may be used from several threads.

    Args:
        environment: the environment variables of the process, used for `AWS_REGION`.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(_SERVICE, environment)
        self.write_lock = threading.Lock()
        """Held by a write: an account may write only three parameters a second by default."""

    def sink(self, address: SsmAddress) -> Sink:
        """Return the sink of an address; problems are reported when it is used."""
        return _Parameter(self, address)


class _Parameter:
    """One parameter of the type SecureString, whose value is exactly the token.

    Relies on (API reference): a parameter is encrypted only if its type is SecureString; a new
    version keeps the tags and the policies of the parameter, but gets the default KMS key and the
    default tier unless the request names others (PutParameter). The value is read back, so the time
    of the last change is not used; every new version moves it, whatever it changes.
    """

    def __init__(self, store: ParameterStore, address: SsmAddress) -> None:
        self._store = store
        self._address = address

    def check(self) -> None:
        """Check that the parameter can be written, as far as its description shows.

        Whether a missing parameter may be created cannot be found out without creating it.
        """
        self._settings(self._store.client(self._address))

    def read(self) -> Content:
        """Return the value, decrypted."""
        client = self._store.client(self._address)
        with _SERVICE.errors(self._address):
            value = self._value(client)
        return NoToken() if value is None else StoredValue(Secret.received(value))

    def write(self, token: Secret) -> None:
        """Create the parameter, or a new version of it with the same settings."""
        client = self._store.client(self._address)
        with self._store.write_lock:
            settings = self._settings(client)
            if settings is None and self._put(client, token, Overwrite=False):
                return
            # Another run may have created the parameter in the meantime.
            self._put(client, token, Overwrite=True, **(settings or self._settings(client) or {}))

    def remove(self, token: Secret) -> bool:
        """Delete the parameter with all its versions, if each is a token of an API key.

        The API cannot make the deletion depend on the values, which are therefore read right before
        it, and it cannot be undone.
        """
        client = self._store.client(self._address)
        with _SERVICE.errors(self._address, _MAY_NOT_DELETE):
            try:
                versions = self._versions(client)
            except client.exceptions.ParameterNotFound:
                return True
            if not versions or versions[-1] != token:
                return False
            if not all(one == token or _names_key(one) for one in versions):
                raise _OTHERS_TOO.error(self._address)
            # Somebody else may delete it at the same moment.
            with suppress(client.exceptions.ParameterNotFound):
                client.delete_parameter(Name=self._address.parameter)
        return True

    def _versions(self, client: Any) -> list[Secret]:
        """Return the value of each version, the newest one last."""
        name = self._address.parameter
        pages = client.get_paginator("get_parameter_history").paginate(
            Name=name, WithDecryption=True
        )
        found = sorted(
            (one for page in pages for one in page["Parameters"]), key=lambda one: one["Version"]
        )
        return [Secret.received(str(one["Value"])) for one in found]

    def _value(self, client: Any) -> str | None:
        """Return the value; None if there is no parameter."""
        try:
            answer = client.get_parameter(Name=self._address.parameter, WithDecryption=True)
        except client.exceptions.ParameterNotFound:
            return None
        return str(answer["Parameter"]["Value"])

    def _put(self, client: Any, token: Secret, **settings: object) -> bool:
        """Write a version, always encrypted; return False if the parameter exists already."""
        name, value = self._address.parameter, token.reveal()
        with _SERVICE.errors(self._address):
            try:
                client.put_parameter(Name=name, Value=value, Type="SecureString", **settings)
            except client.exceptions.ParameterAlreadyExists:
                return False
        return True

    def _settings(self, client: Any) -> Mapping[str, str] | None:
        """Return the settings of the parameter that a write keeps; None if there is no parameter.

        Raises:
            SinkError: its type does not encrypt the value.
        """
        named = [{"Key": "Name", "Option": "Equals", "Values": [self._address.parameter]}]
        with _SERVICE.errors(self._address):
            # A page may be empty although a later one is not.
            pages = client.get_paginator("describe_parameters").paginate(ParameterFilters=named)
            found = next((one for page in pages for one in page["Parameters"]), None)
        if found is None:
            return None
        if found["Type"] != "SecureString":
            raise unsuitable(
                f"has the type {found['Type']}, which does not encrypt its value",
                "Delete it, so that it is created as a SecureString, or choose another name.",
            ).error(self._address)
        return {name: found[name] for name in _KEPT if found.get(name)}


def _names_key(value: Secret) -> bool:
    """Return whether a value is a token of an API key."""
    claims = claims_of(value)
    return claims is not None and claims.key is not None


_NOT_ALLOWED = SinkFailure(
    Code.SINK_DENIED,
    "cannot be accessed: the AWS identity lacks a permission",
    "Allow ssm:GetParameter and PutParameter there, DescribeParameters for all parameters, and the "
    "use of its KMS key.",
)
_MAY_NOT_DELETE = SinkFailure(
    Code.SINK_DENIED,
    "cannot be deleted: the AWS identity lacks a permission",
    "Allow ssm:GetParameter, GetParameterHistory and DeleteParameter there, or delete the "
    "parameter by hand.",
)
_OTHERS_TOO = SinkFailure(
    Code.NOT_CLEANED,
    "was left: a deletion takes all versions, and an older one is no token of an API key",
    "Delete the parameter by hand if nobody needs that version.",
)
_BAD_KMS_KEY = unsuitable(
    "has a KMS key that cannot be used", "Enable that key, or use another one for the parameter."
)
_REFUSED = unsuitable(
    "has a name or settings that do not allow a token",
    "Check its name, its tier, its data type and its allowed pattern.",
)
_LABELLED = unsuitable(
    "cannot get a new version, because its oldest one has a label",
    "Move that label to a newer version.",
)
_FULL = unsuitable(
    "cannot be created, because the account has too many parameters in that region",
    "Delete unused parameters there, or choose the advanced tier as the default.",
)

_SERVICE = Service(
    client="ssm",
    title="AWS Systems Manager",
    not_allowed=_NOT_ALLOWED,
    failures=by_code(
        {
            BUSY_OR_FAULTY: "TooManyUpdates",
            _BAD_KMS_KEY: "InvalidKeyId",
            _REFUSED: "HierarchyLevelLimitExceededException HierarchyTypeMismatchException "
            "ParameterPatternMismatchException UnsupportedParameterType ValidationException",
            _LABELLED: "ParameterMaxVersionLimitExceeded",
            _FULL: "ParameterLimitExceeded",
        }
    ),
)


SINK = SinkKind(
    title="AWS Parameter Store",
    description="A parameter of the type SecureString in AWS Parameter Store. Its value is the "
    "token.",
    options=(
        Option(
            "ssm",
            "Parameter",
            "The name of the parameter.",
            # AWS Systems Manager API reference, PutParameter, `Name`
            Allowed(
                re.compile(
                    r"(?!/?(?i:aws|ssm))(?=.{1,1011}\Z)(?:(?:/[\w.-]+){1,15}|[\w.-]+)", re.ASCII
                ),
                "a name such as /twenty/billing: up to 15 parts of letters, digits and _.- after "
                "slashes, not starting with aws or ssm",
            ),
            examples=("/twenty/{environment}/{name}",),
        ),
        REGION,
    ),
    address=lambda values: SsmAddress(values.text("ssm"), values.optional("region")),
    connect=lambda context: ParameterStore(context.environ).sink,
    server_of=_SERVICE.server_of,
    program_of=lambda _address, _environ: program_of(),
)
