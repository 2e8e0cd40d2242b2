"""The keys and roles of a workspace at one point in time, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from provisioner.model.environment import Generation


@dataclass(frozen=True, slots=True)
class ObservedKey:
    """One key of the workspace.

    Attributes:
        expires_at: with the milliseconds that the server stores.
        revoked_at: None if it is not revoked.
        role: the label of its role; None if it has none or the credential cannot see it.
        role_id: the id of its role; None in the same cases.
    """

    id: str
    name: str
    expires_at: datetime
    revoked_at: datetime | None
    created_at: datetime
    role: str | None = None
    role_id: str | None = None

    @property
    def creation_order(self) -> tuple[datetime, str]:
        """Return the sort key that puts the oldest key first, in the same order for every run."""
        return self.created_at, self.id

    def live(self, now: datetime) -> bool:
        """Return whether the key is neither revoked nor expired at `now`, in server time."""
        return self.revoked_at is None and self.expires_at > now


def by_name(keys: Iterable[ObservedKey]) -> dict[str, list[ObservedKey]]:
    """Group keys by name, the oldest first."""
    groups: dict[str, list[ObservedKey]] = {}
    for key in keys:
        groups.setdefault(key.name, []).append(key)
    for group in groups.values():
        if len(group) > 1:
            group.sort(key=lambda key: key.creation_order)
    return groups


@dataclass(frozen=True, slots=True)
class Role:
    """A role of a core workspace.

    Attributes:
        assignable: whether API keys may have it.
    """

    id: str
    label: str
    assignable: bool


@dataclass(frozen=True, slots=True)
class NoRoles:
    """A legacy workspace, whose keys have no roles."""


@dataclass(frozen=True, slots=True)
class HiddenRoles:
    """A core workspace whose roles the credential cannot read."""


@dataclass(frozen=True, slots=True)
class KnownRoles:
    """The roles of a core workspace that the credential can read.

    Attributes:
        complete: whether they are all roles. If not, a key whose role is not shown has another one,
            which is unknown.
    """

    roles: tuple[Role, ...]
    complete: bool = True


Roles = NoRoles | HiddenRoles | KnownRoles


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The state of a workspace, as it was read.

    Attributes:
        generation: a label for reports.
        workspace: the workspace id in the credential; None if it contains none.
        keys: every key that the server lists; core never lists revoked ones.
        server_time: the server's clock when it answered; it decides which keys are live.
        requests: the number of requests it took, including detection and sign-in.
        server_ahead: how far the server's clock is ahead of this machine's; None if the server
            sent no `Date`.
        own_key: the id of the key that the run is signed in with; None for other credentials.
        session: whether the credential says that it is the session of a user.
        signing_key: the id of the server's key that signed the credential; None if it is unknown.
        batches: whether one request creates a whole batch of keys, and the list has pages.
    """

    generation: Generation
    workspace: str | None
    keys: tuple[ObservedKey, ...]
    roles: Roles
    server_time: datetime
    requests: int
    server_ahead: timedelta | None = None
    own_key: str | None = None
    session: bool = False
    signing_key: str | None = None
    batches: bool = False
