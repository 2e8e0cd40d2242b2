"""The interface to one workspace, whatever generation its server is of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from provisioner.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provisioner.desired import Depth, Generation
    from provisioner.observed import Observation

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A decoded JSON value."""

Record = dict[str, Json]
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
    """

    id: str
    name: str
    expires_at: str
    depth: Depth
    role_id: str | None = None
    revoked_at: str | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """The server made the key and said so."""

    id: str
    record: Record


@dataclass(frozen=True, slots=True)
class NotCreated:
    """The key was certainly not made."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Unknown:
    """The request went out and no readable answer came: the key may or may not exist."""

    failure: Failure


Outcome = Created | NotCreated | Unknown

WITH_PERMISSIONS: Depth = 2
"""The depth whose records hold the role's permissions."""


def unknown(reason: str) -> Unknown:
    """The outcome of a create whose answer was lost or cannot be read."""
    return Unknown(
        Failure(
            "outcome_unknown",
            f"{reason} Whether the key was made is unknown; `provision list` shows what is there.",
        )
    )


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

    def create_many(
        self, keys: Sequence[NewKey], settled: Callable[[int], None]
    ) -> tuple[Outcome, ...]:
        """Creates keys in as few requests as the server takes.

        A request is sent once; again only where the server certainly refused it unhandled.

        Args:
            keys: what to create; each carries its own depth.
            settled: called with the number of keys whose outcome has become known.

        Returns:
            One outcome for each key, in the order given.
        """
        ...

    def close(self) -> None:
        """Lets go of the connections."""
        ...
