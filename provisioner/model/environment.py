"""Environments as manifests declare them, with every variable expanded and every secret read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, assert_never

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from provisioner.secret import Secret


Generation = Literal["legacy", "core"]
"""The dialect of a server: legacy up to Twenty 1.2, core from 1.3 on."""


@dataclass(frozen=True, slots=True)
class ApiToken:
    """The token of an API key."""

    token: Secret


@dataclass(frozen=True, slots=True)
class SessionToken:
    """The access token of a signed-in user, for workspaces behind SSO or a second factor."""

    token: Secret


@dataclass(frozen=True, slots=True)
class SignIn:
    """E-mail and password, signed in for a session; the e-mail is as secret as the password."""

    email: Secret
    password: Secret


Credential = ApiToken | SessionToken | SignIn


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server may be asked for.

    Attributes:
        requests_per_minute: the documented rate, or None: the first throttling sets the pace.
        parallel: requests of any kind in flight at once.
        batch: records in one bulk create of the legacy generation.
        timeout: seconds to wait for a connection, and for each answer.
    """

    requests_per_minute: int | None = None
    parallel: int = 4
    batch: int = 60
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the owned live keys.

    Attributes:
        percent: 0 to 100.
    """

    percent: int


@dataclass(frozen=True, slots=True)
class Guards:
    """What a run may at most do to an environment without being told to.

    Attributes:
        max_revoke: live keys that one run may revoke.
    """

    max_revoke: Share | int = Share(30)

    def revocation_limit(self, owned_live: int) -> int:
        """How many keys one run may revoke where so many owned keys are live.

        A share of few keys would be none at all, so that every share but 0 % allows three.
        """
        match self.max_revoke:
            case Share(percent=percent):
                return max(3, owned_live * percent // 100) if percent else 0
            case int() as count:
                return count
            case _:
                assert_never(self.max_revoke)


SinkKind = Literal["file", "command", "vault", "aws", "github", "gitlab", "kubernetes"]
"""A kind of sink, as `deliver` writes it and the place of an address starts with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What every key of an environment must be like; `provisioner.model.policy` judges one key.

    Attributes:
        max_lifetime: the longest lifetime, None for any.
        rotation: whether every key must be rotated.
        roles: the roles that keys may have, as manifests write them; empty for any.
        names: globs of which every name must match one; empty for any name.
        sinks: kinds of sinks of which every key needs at least one; empty for none.
        forbidden_sinks: kinds of sinks that no key may have.
    """

    max_lifetime: timedelta | None = None
    rotation: bool = False
    roles: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    sinks: tuple[SinkKind, ...] = ()
    forbidden_sinks: tuple[SinkKind, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One Twenty workspace, with every variable expanded and every secret read.

    Attributes:
        url: `https://host[:port]` without a slash at the end, or `sandbox:[DIALECT]`.
        credential: None for the embedded Twenty alone.
        headers: sent with every request, for a proxy in front.
        ca_file: a bundle of certificate authorities to trust instead of the usual ones.
        owns: globs; only keys whose names match may ever be revoked or changed.
        role: the role of keys that name none, a label or an id.
        generation: None to find it out with one read.
        workspace: the only workspace id that the credential may belong to.
        protect: whether no key of it is ever revoked unless a run is told to.
        policy: its own over that of the file, rule by rule; None where neither is written.
    """

    name: str
    url: str
    credential: Credential | None = None
    headers: tuple[tuple[str, Secret], ...] = ()
    ca_file: Path | None = None
    owns: tuple[str, ...] = ()
    role: str | None = None
    generation: Generation | None = None
    workspace: str | None = None
    limits: Limits = field(default_factory=Limits)
    protect: bool = False
    guards: Guards = field(default_factory=Guards)
    policy: Policy | None = None

    @property
    def embedded(self) -> bool:
        """Whether this is the embedded Twenty."""
        return self.url.startswith("sandbox:")
