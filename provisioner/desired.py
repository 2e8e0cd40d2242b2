"""What the manifests ask for: environments and desired keys, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from provisioner.address import Address
    from provisioner.problem import Place
    from provisioner.secret import Secret
    from provisioner.times import Expiry

Depth = Literal[0, 1, 2]
"""How much of a created key comes back: 0 the key, 1 with its role, 2 with its permissions."""


def depth_of(number: int) -> Depth:
    """The depth that a number between 0 and 2 stands for."""
    depths: tuple[Depth, ...] = (0, 1, 2)
    return depths[number]


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

    @property
    def embedded(self) -> bool:
        """Whether this is the embedded Twenty."""
        return self.url.startswith("sandbox:")


class DesiredKey(NamedTuple):
    """One key that a manifest asks for in one environment.

    A named tuple, as all that there may be 100 000 of: it is made in a third of the time.

    Attributes:
        role: the key's or its manifest's; None leaves it to the environment.
        place: where the manifest says so.
        deliver: where its token goes, with every placeholder filled in; no two keys of a
            manifests directory have an address of one place.
    """

    environment: str
    name: str
    depth: Depth
    expiry: Expiry
    role: str | None
    place: Place
    deliver: tuple[Address, ...] = ()
