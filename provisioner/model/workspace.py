"""The interface to one workspace, which `provisioner.twenty` implements for each generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from provisioner.model.environment import Generation
    from provisioner.model.key import Depth
    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.model.token_claims import TokenClaims
    from provisioner.secret import Secret

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

Record = dict[str, Json]
"""An API key as the server returned it; contains no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key to create.

    Attributes:
        id: chosen by this run; the key gets it if the workspace `chooses_ids`.
        expires_at: RFC 3339 with milliseconds, as it is sent.
        revoked_at: RFC 3339, for a key that is created revoked.
        role_id: required if the workspace's `keys_have_roles`, and None otherwise.
        depth: how much of the created key the server returns.
        tries: earlier attempts whose outcome stayed unknown. Each attempt puts fewer keys into one
            request, so that a key that always fails ends up in a request of its own.
    """

    id: str
    name: str
    expires_at: str
    depth: Depth
    role_id: str | None = None
    revoked_at: str | None = None
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Created:
    """The server created the key and returned it."""

    id: str
    record: Record


@dataclass(frozen=True, slots=True)
class NotCreated:
    """The key was certainly not created."""

    failure: Failure


UnknownReason = Literal["lost", "refused", "taken"]
"""Why it is unknown whether a key was created.

`lost`: no readable answer came. `refused`: an error that may come after the commit. `taken`: the
server says that the id is in use.
"""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The request was sent, and its answer does not show whether the key exists."""

    cause: Failure
    reason: UnknownReason = "lost"


@dataclass(frozen=True, slots=True)
class NotSent:
    """Nothing reached the server, so the key may be sent again."""

    failure: Failure


Outcome = Created | NotCreated | Unknown | NotSent

WITH_PERMISSIONS: Depth = 2
"""The depth whose records include the permissions of the role."""


IN_FLIGHT = Failure(Code.TIMEOUT, "The request was still in flight when the run ended.")
"""The cause if the grace period of a stop ended before the answer came."""


Release = Literal["1.x", "2.x"]
"""Releases of core; only 1.x lets an API key write (docs/twenty-api.md, "Generations")."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Facts about a server and a credential.

    Attributes:
        claims: of the credential; None if it is not a token of Twenty.
        release: of the core generation; None if unknown, and on legacy.
        permitted: whether the role of the credential may use keys; None if unknown. Listing keys by
            REST does not prove it: 1.10 requires no permission for the list (core-1 `010`), and
            does for writing keys (core-1 `137`, `140`). Legacy requires it only for minting.
        may_grant: whether its role may give roles to keys, as creating them does on the newest
            servers; None if unknown, and on legacy.
        limit: requests a minute that the server says it allows; None if it does not say.
    """

    claims: TokenClaims | None
    release: Release | None
    permitted: bool | None
    may_grant: bool | None
    limit: int | None


class TokenRequest(NamedTuple):
    """A token to mint for a live key.

    Attributes:
        expires_at: when the token expires, whatever happens to its key.
    """

    key_id: str
    expires_at: datetime


class CreateObserver(Protocol):
    """Receiver of what becomes of each key, called from several threads."""

    def on_send(self, key: NewKey) -> None:
        """Record that the key is about to be sent; from now on it may exist."""
        ...

    def on_outcome(self, key: NewKey, outcome: Outcome) -> None:
        """Record the outcome of the key."""
        ...


class Workspace(Protocol):
    """One workspace, signed in to; its methods may be called from several threads."""

    @property
    def generation(self) -> Generation:
        """Return the generation of the server, as a label for reports."""
        ...

    @property
    def chooses_ids(self) -> bool:
        """Return whether a key is created under the id that `NewKey` proposes."""
        ...

    @property
    def keys_have_roles(self) -> bool:
        """Return whether every key must have a role; otherwise no key may have one."""
        ...

    def observe(self) -> Observation:
        """List all roles, and all keys that are not revoked.

        Raises:
            WorkspaceError: the workspace cannot be listed completely.
        """
        ...

    def revoked_keys(self) -> tuple[ObservedKey, ...]:
        """List the revoked keys, if the server has such a list.

        Raises:
            WorkspaceError: they cannot be listed completely.
        """
        ...

    def capabilities(self) -> Capabilities:
        """Return what `observe` does not show: release, permission, rate limit, credential.

        Raises:
            WorkspaceError: no complete answer came back.
        """
        ...

    def create_many(self, keys: Sequence[NewKey], observer: CreateObserver) -> None:
        """Create keys in as few requests as the server accepts.

        A request is sent once; it is repeated only if the server certainly refused it before
        handling it. When a stop is requested, or the server loses several answers in a row, the
        remaining keys are not sent.

        Args:
            keys: to create; each has its own depth.
            observer: receives the outcome of every key.
        """
        ...

    def records(self, depths: Mapping[str, Depth]) -> dict[str, Record]:
        """Return existing keys, each at a depth, as the answer to their creation would show them.

        Args:
            depths: the depth of each key id.

        Returns:
            The record of each id, without those that could not be read.
        """
        ...

    def revoke(self, key_id: str) -> None:
        """Revoke a key; revoking it twice is the same as once.

        Raises:
            WorkspaceError: the key was not revoked, or may not have been.
        """
        ...

    def rename(self, key_id: str, name: str) -> None:
        """Change the name of a key, and nothing else: its tokens keep working.

        Renaming it twice is the same as once, so a request whose answer was lost may be repeated.

        Raises:
            WorkspaceError: the key was not renamed, or may not have been.
        """
        ...

    def set_expiry(self, key_id: str, expires_at: datetime) -> None:
        """Change when a key expires; tokens already issued keep their expiry.

        Args:
            key_id: the key.
            expires_at: its new expiry, with milliseconds.

        Raises:
            WorkspaceError: the expiry was not changed, or may not have been.
        """
        ...

    def assign_role(self, key_id: str, role_id: str) -> None:
        """Give a key a role, in place of its current one; only on core.

        Raises:
            WorkspaceError: the role was not assigned, or may not have been.
        """
        ...

    def mint(self, key_id: str, expires_at: datetime) -> Secret:
        """Mint a new token for a live key; earlier tokens keep working.

        Args:
            key_id: the key.
            expires_at: when the token expires, whatever happens to its key.

        Raises:
            WorkspaceError: no token was minted, or the answer was lost. The next call mints another
                token; the first one is lost.
        """
        ...

    def mint_many(self, requests: Sequence[TokenRequest]) -> tuple[Secret | Failure, ...]:
        """Mint tokens as `mint` does, in as few requests as the server accepts.

        Returns:
            For each request, in their order, its token or why there is none: `STOPPED` if a stop
            was requested before it was sent.
        """
        ...

    def verify_token(self, token: Secret) -> None:
        """Check that the server accepts a token, with one request that changes nothing.

        Raises:
            WorkspaceError: the server does not accept the token (`token_refused`), or no answer
                came.
        """
        ...

    def close_idle_connections(self) -> None:
        """Close idle connections, after each observation; later requests open new ones."""
        ...

    def lift_observe_limits(self) -> None:
        """Allow slow requests from now on, since no other environment waits for this one any more.

        Until then a request that timed out is not repeated, and an observation has a time limit.
        """
        ...

    def close(self) -> None:
        """Close all connections."""
        ...
