"""The interface to one workspace, whatever generation its server is of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from provisioner.errors.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from provisioner.http_client.bounded import Json
    from provisioner.model.environment import Generation
    from provisioner.model.key import Depth
    from provisioner.model.observed import Observation
    from provisioner.model.token_claims import TokenClaims
    from provisioner.secret import Secret

Record = dict[str, "Json"]
"""An API key as the server returned it; holds no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key to be made.

    Attributes:
        id: chosen by this run; used where the generation lets the client choose.
        expires_at: RFC 3339 with milliseconds, as it is sent.
        revoked_at: RFC 3339, for a key that is born revoked.
        role_id: required by core, refused by legacy.
        depth: how much of the created key comes back.
        tries: how often it was sent before without becoming known; the more often, the fewer
            keys share its request, so that one that always fails stands alone in the end.
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
    """The server made the key and said so."""

    id: str
    record: Record


@dataclass(frozen=True, slots=True)
class NotCreated:
    """The key was certainly not made."""

    failure: Failure


Doubt = Literal["lost", "refused", "taken"]
"""Why it is unknown whether a key was made: no readable answer came, or an error that may come
after the commit, or the server says that the id is taken."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The request went out and its answer does not tell: the key may or may not exist."""

    cause: Failure
    doubt: Doubt = "lost"


@dataclass(frozen=True, slots=True)
class NotSent:
    """Nothing reached the server, so that the key may be sent for again."""

    failure: Failure


Outcome = Created | NotCreated | Unknown | NotSent

WITH_PERMISSIONS: Depth = 2
"""The depth whose records hold the role's permissions."""


IN_FLIGHT = Failure("timeout", "The request was still under way when the run had to end.")
"""The cause where a stop's grace ended before the answer came."""


def outcome_unknown(cause: Failure) -> Failure:
    """The failure of a key that may or may not exist, and of which no more could be learnt."""
    return Failure(
        "outcome_unknown",
        f"{cause.message} Whether the key was made is unknown; `provision list` shows what is "
        "there.",
    )


Release = Literal["1.x", "2.x"]
"""The two of the core generation; only 1.x lets an API key write (docs/twenty-api.md,
"Generations")."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server and a credential say of themselves.

    Attributes:
        claims: what the credential says of itself; None where it is no token of Twenty.
        release: of the core generation, None where it was not told, and on legacy.
        permitted: whether the role of the credential may use keys, None where it was not told, and
            on legacy. To list them by REST proves nothing: 1.10 asks for no permission there
            (core-1 `010`), and where keys are written it does (core-1 `137`, `140`).
        limit: requests a minute that the server says it allows, where it does.
    """

    claims: TokenClaims | None
    release: Release | None
    permitted: bool | None
    limit: int | None


class CreateObserver(Protocol):
    """Is told what becomes of each key when it becomes known, by several threads."""

    def on_send(self, key: NewKey) -> None:
        """The key is about to be sent: from now on it may exist."""
        ...

    def on_outcome(self, key: NewKey, outcome: Outcome) -> None:
        """The outcome of the key is known."""
        ...


class Workspace(Protocol):
    """One workspace, signed in to; its methods may be called from several threads."""

    @property
    def generation(self) -> Generation:
        """The dialect of the server."""
        ...

    def observe(self) -> Observation:
        """Lists all keys and roles.

        Raises:
            WorkspaceError: when the workspace cannot be listed completely.
        """
        ...

    def capabilities(self) -> Capabilities:
        """Asks what `observe` does not tell: release, permission, limit, credential.

        Raises:
            WorkspaceError: when no complete answer comes back.
        """
        ...

    def create_many(self, keys: Sequence[NewKey], observer: CreateObserver) -> None:
        """Creates keys in as few requests as the server takes.

        A request is sent once; again only where the server certainly refused it unhandled.
        When a stop is asked for, or the server loses answer after answer, the rest is not sent.

        Args:
            keys: what to create; each carries its own depth.
            observer: is told the outcome of every key.
        """
        ...

    def records(self, wanted: Mapping[str, Depth]) -> dict[str, Record]:
        """Keys that exist, each at a depth, as creating them would have shown them.

        Args:
            wanted: the depth of each key id.

        Returns:
            The record of each id; without those that could not be read.
        """
        ...

    def revoke(self, key_id: str) -> None:
        """Ends the life of a key; once more is once.

        Raises:
            WorkspaceError: when it was not revoked, or may not have been.
        """
        ...

    def set_expiry(self, key_id: str, expires_at: datetime) -> None:
        """Gives a key another end; tokens that are out keep theirs.

        Args:
            key_id: the key.
            expires_at: its new end, with the milliseconds that it is to have.

        Raises:
            WorkspaceError: when it was not moved, or may not have been.
        """
        ...

    def assign_role(self, key_id: str, role_id: str) -> None:
        """Gives a key a role in place of the one that it has, if any; on core alone.

        Raises:
            WorkspaceError: when it was not assigned, or may not have been.
        """
        ...

    def mint(self, key_id: str, expires_at: datetime) -> Secret:
        """A new token of a live key; tokens minted before go on working.

        Args:
            key_id: the key.
            expires_at: when the token itself ends, whatever becomes of its key.

        Raises:
            WorkspaceError: when none was minted, or its answer was lost: whoever asks again gets
                another, and nobody has the first.
        """
        ...

    def verify_token(self, token: Secret) -> None:
        """Has the server accept a token, by one request that does nothing.

        Raises:
            WorkspaceError: when it does not accept it, as `token_refused`, or when no answer came.
        """
        ...

    def release(self) -> None:
        """Close the connections that nothing uses now, after each look; later ones open others."""
        ...

    def begin_work(self) -> None:
        """Say that no other environment waits for this one any more.

        Until then a server that does not answer in time is asked once, and a look has a bound.
        """
        ...

    def close(self) -> None:
        """Lets go of the connections."""
        ...
