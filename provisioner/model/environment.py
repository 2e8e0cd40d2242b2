"""Environments as `environments.yaml` declares them, with variables expanded and secrets read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, assert_never

from provisioner.model.globs import matches
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta
    from pathlib import Path

    from provisioner.model.sink_address import Address


Generation = Literal["legacy", "core"]
"""The API generation of a server: legacy up to Twenty 1.2, core since 1.3."""


@dataclass(frozen=True, slots=True)
class ApiToken:
    """The token of an API key."""

    token: Secret


@dataclass(frozen=True, slots=True)
class SessionToken:
    """The access token of a signed-in user, for workspaces with SSO or a second factor."""

    token: Secret


@dataclass(frozen=True, slots=True)
class SignIn:
    """An email and a password to sign in with; both are secret.

    Attributes:
        totp: the secret of the second factor in base32; None without one.
    """

    email: Secret
    password: Secret
    totp: Secret | None = None


Credential = ApiToken | SessionToken | SignIn


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """A credential with secrets that stores keep, read when its environment is connected.

    Attributes:
        secrets: the values of `auth` by name: `token`, or `email`, `password` and maybe `totp`;
            each the secret itself, or its address in a store.
    """

    secrets: Mapping[str, Secret | Address]

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Return the addresses of the secrets that stores keep."""
        return tuple(one for one in self.secrets.values() if not isinstance(one, Secret))

    def read(self, read: Callable[[str, Address], Secret]) -> Credential:
        """Return the credential with the secrets that a function reads, by name and address."""
        secrets = {
            name: value if isinstance(value, Secret) else read(name, value)
            for name, value in self.secrets.items()
        }
        credential = credential_of(secrets)
        assert credential is not None  # noqa: S101 - the names are those of a credential
        return credential


def credential_of(secrets: Mapping[str, Secret]) -> Credential | None:
    """Return the credential of the values of `auth` by name; None if one is missing."""
    match secrets:
        case {"token": token}:
            return ApiToken(token)
        case {"session_token": token}:
            return SessionToken(token)
        case {"email": email, "password": password}:
            return SignIn(email, password, secrets.get("totp"))
        case _:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits on requests to a server.

    Attributes:
        requests_per_minute: the documented rate limit; None until the server throttles requests.
        parallel: the most requests in flight at once.
        batch: the most records in one bulk create on the legacy generation.
        timeout: seconds to wait for a connection, and for each answer.
    """

    requests_per_minute: int | None = None
    parallel: int = 4
    batch: int = 60
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Share:
    """A percentage of the owned live keys.

    Attributes:
        percent: from 0 to 100.
    """

    percent: int


@dataclass(frozen=True, slots=True)
class Guards:
    """The limits on what a run may do to an environment without an explicit option.

    Attributes:
        max_revoke: the most live keys that one run may revoke.
    """

    max_revoke: Share | int = Share(30)

    def revocation_limit(self, owned_live: int) -> int:
        """Return the most keys that one run may revoke.

        A small percentage of a few keys would round down to zero, so any percentage above 0
        allows at least three.

        Args:
            owned_live: the number of live keys that match `owns`.
        """
        match self.max_revoke:
            case Share(percent=percent):
                return max(3, owned_live * percent // 100) if percent else 0
            case int() as count:
                return count
            case _:
                assert_never(self.max_revoke)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules for every key of an environment; `provisioner.model.policy` checks a key.

    Attributes:
        max_lifetime: the longest lifetime; None for no limit.
        rotation: whether every key must have a rotation.
        roles: the allowed roles, as manifests write them; empty allows all.
        names: globs; every name must match at least one. Empty allows all names.
        sinks: kinds of sinks; every key must have at least one of them. Empty requires none.
        forbidden_sinks: kinds of sinks that no key may have.
    """

    max_lifetime: timedelta | None = None
    rotation: bool = False
    roles: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()
    forbidden_sinks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One Twenty workspace, with every variable expanded and every secret file read.

    Attributes:
        url: `https://host[:port]` without a trailing slash, or `sandbox:[DIALECT]`.
        credential: the credential to open it with; None only for the embedded Twenty.
        origin: the address by which the workspace knows itself, `https://host[:port]`; None if it
            is that of `url`.
        headers: sent with every request, for example to a proxy in front of the server.
        ca_file: a bundle of certificate authorities to trust instead of the default ones.
        client_cert_file: a client certificate with its chain, to show to the server.
        client_key_file: its private key; None if it is in `client_cert_file`.
        owns: globs; only keys whose names match may be revoked or changed.
        ignore: globs; keys whose names match are neither reported nor touched, even if owned.
        role: the label or id of the role for keys that set none.
        generation: the API generation; None to detect it with one read.
        workspace: the workspace id that the credential must belong to; None allows any.
        protect: whether its keys are revoked only with an explicit option.
        policy: its own rules merged over those of the file; None if neither has any.
    """

    name: str
    url: str
    credential: Credential | StoredCredential | None = None
    origin: str | None = None
    headers: tuple[tuple[str, Secret], ...] = ()
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    owns: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    role: str | None = None
    generation: Generation | None = None
    workspace: str | None = None
    limits: Limits = field(default_factory=Limits)
    protect: bool = False
    guards: Guards = field(default_factory=Guards)
    policy: Policy | None = None

    def owns_key(self, name: str) -> bool:
        """Return whether keys of this name may be revoked or changed."""
        return matches(name, self.owns) and not self.ignores_key(name)

    def ignores_key(self, name: str) -> bool:
        """Return whether keys of this name are neither reported nor touched."""
        return matches(name, self.ignore)

    @property
    def embedded(self) -> bool:
        """Return whether this is the embedded Twenty."""
        return self.url.startswith("sandbox:")

    @property
    def has_api_token(self) -> bool:
        """Return whether the credential is declared as the token of an API key."""
        match self.credential:
            case ApiToken():
                return True
            case StoredCredential(secrets=secrets):
                return "token" in secrets
            case SessionToken() | SignIn() | None:
                return False
            case _:
                assert_never(self.credential)
