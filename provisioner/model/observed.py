"""What a workspace holds: keys and roles, as frozen values of one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from provisioner.model.environment import Generation


@dataclass(frozen=True, slots=True)
class ObservedKey:
    """One key that the workspace has.

    Attributes:
        expires_at: with the milliseconds that the server keeps.
        revoked_at: None while it was not revoked.
        role: the label of its role, or None where none is seen.
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
        """By which the keys of a name have an order that every run sees alike, the oldest first."""
        return self.created_at, self.id

    def live(self, now: datetime) -> bool:
        """Whether the key is neither revoked nor expired at `now`, the server's time."""
        return self.revoked_at is None and self.expires_at > now


def by_name(keys: Iterable[ObservedKey]) -> dict[str, list[ObservedKey]]:
    """The keys of each name, the oldest first."""
    found: dict[str, list[ObservedKey]] = {}
    for key in keys:
        found.setdefault(key.name, []).append(key)
    for same_name in found.values():
        if len(same_name) > 1:
            same_name.sort(key=lambda one: one.creation_order)
    return found


@dataclass(frozen=True, slots=True)
class Role:
    """A role of a core workspace; `assignable` says whether API keys may have it."""

    id: str
    label: str
    assignable: bool


@dataclass(frozen=True, slots=True)
class NoRoles:
    """The legacy generation: keys have no roles."""


@dataclass(frozen=True, slots=True)
class HiddenRoles:
    """A core workspace whose roles the credential may not read."""


@dataclass(frozen=True, slots=True)
class KnownRoles:
    """A core workspace and all its roles."""

    roles: tuple[Role, ...]


Roles = NoRoles | HiddenRoles | KnownRoles


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One look at a workspace.

    Attributes:
        workspace: the workspace id in the credential, or None where it shows none.
        keys: every key that the server lists; core never lists revoked ones.
        server_time: the server's own clock when it answered; it judges what is live.
        requests: how many requests the look took, detection and sign-in included.
        ahead: how far the server's clock is ahead of ours; None where it sent no `Date`.
        own_key: the id of the key whose token opens the workspace, None where it is no key's.
    """

    generation: Generation
    workspace: str | None
    keys: tuple[ObservedKey, ...]
    roles: Roles
    server_time: datetime
    requests: int
    server_ahead: timedelta | None = None
    own_key: str | None = None
