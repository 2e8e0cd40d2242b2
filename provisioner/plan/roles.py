"""The role of each desired key, and the create action that assigns it."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.errors.pluralize import pluralize
from provisioner.model.expiry import resolve_expiry
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles
from provisioner.plan.actions import Create
from provisioner.plan.expiry_check import validate_expiry

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation, ObservedKey, Role
    from provisioner.plan.actions import Reason

_HIDDEN = (
    "this credential cannot read roles, so a role must be written as an id and role drift is not "
    "detected"
)

_MOST_NAMES = 30
_LONGEST_NAME = 200


class RoleChoice:
    """The lookup of roles, which are set on the key, in its manifest or in the environment.

    Args:
        environment: the environment of the workspace.
        observation: the observed state of the workspace.
        now: the time of the plan, from which durations count.
    """

    def __init__(self, environment: Environment, observation: Observation, now: datetime) -> None:
        self._environment = environment
        self._roles = observation.roles
        self._server_time = observation.server_time
        self._now = now
        self._expiries: dict[str, datetime] = {}
        self._ignored = 0
        self._resolved: dict[str, str] = {}

    def create(self, key: DesiredKey, reason: Reason) -> Create:
        """Return the action that creates a key now, blocked if the key cannot be created."""
        role, role_id, blocked = self.resolve(key)
        expires_at = self.expires_at(key)
        return Create(
            name=key.name,
            reason=reason,
            depth=key.depth,
            expires_at=expires_at,
            expires=key.expiry.written,
            role=role,
            role_id=role_id,
            place=key.place,
            sinks=key.deliver,
            blocked=validate_expiry(self._environment, key, expires_at, self._server_time)
            or blocked,
        )

    def expires_at(self, key: DesiredKey) -> datetime:
        """Return the expiry of a key that is created now."""
        written = key.expiry.written
        if written not in self._expiries:
            self._expiries[written] = resolve_expiry(key.expiry, self._now)
        return self._expiries[written]

    def resolve(self, key: DesiredKey) -> tuple[str | None, str | None, Failure | None]:
        """Return the role as written, its id, and why the key cannot have it."""
        written = key.role or self._environment.role
        if written in self._resolved:
            return written, self._resolved[written], None
        match self._roles:
            case NoRoles():
                self._ignored += written is not None
                return None, None, None
            case HiddenRoles():
                role_id = self._hidden_role(key, written)
            case KnownRoles(roles=roles):
                role_id = self._known_role(key, written, roles)
            case _:
                assert_never(self._roles)
        if isinstance(role_id, Failure):
            return written, None, role_id
        if written is not None:
            self._resolved[written] = role_id
        return written, role_id, None

    def drift(self, key: DesiredKey, observed: ObservedKey) -> str | None:
        """Return the role that a live key should have but lacks; None if there is no difference."""
        written = key.role or self._environment.role
        if written is None or not isinstance(self._roles, KnownRoles):
            return None
        return None if written in (observed.role, observed.role_id) else written

    def notes(self) -> tuple[str, ...]:
        """Return the warnings about roles in this environment."""
        match self._roles:
            case HiddenRoles():
                return (_HIDDEN,)
            case NoRoles() if self._ignored:
                count = pluralize(self._ignored, "key")
                note = f"the roles of {count} are ignored; API keys have no roles before Twenty 1.3"
                return (note,)
            case NoRoles() | KnownRoles():
                return ()
            case _:
                assert_never(self._roles)

    def _hidden_role(self, key: DesiredKey, written: str | None) -> str | Failure:
        """Return the role if it is written as an id; a label cannot be looked up."""
        if written is None:
            return self._missing_role(key, "a role id (this credential cannot read roles)")
        if _is_uuid(written):
            return written
        return Failure(
            Code.ROLE_UNKNOWN,
            f"This credential cannot read the roles of {self._environment.name}, so the role "
            f"{written!r} of {key.name!r} cannot be looked up. Give the credential's role the "
            "permission to read roles, or write the role's id.",
        )

    def _known_role(
        self, key: DesiredKey, written: str | None, roles: tuple[Role, ...]
    ) -> str | Failure:
        """Return the id of the role, which is written as an id or a label."""
        if written is None:
            return self._missing_role(key, f"one of {_assignable_labels(roles)}")
        matching = [role for role in roles if written == role.id] or [
            role for role in roles if written == role.label
        ]
        subject, name = f"The role {written!r} of {key.name!r}", self._environment.name
        offer = f"Roles that keys can have: {_assignable_labels(roles)}."
        if not matching:
            return Failure(Code.ROLE_UNKNOWN, f"{subject} does not exist in {name}. {offer}")
        if len(matching) > 1:
            ids = _shorten([role.id for role in matching])
            return Failure(
                Code.ROLE_UNKNOWN, f"{subject} is ambiguous in {name}. Write one of the ids {ids}."
            )
        if not matching[0].assignable:
            message = f"{subject} cannot be assigned to API keys in {name}. {offer}"
            return Failure(Code.ROLE_NOT_ASSIGNABLE, message)
        return matching[0].id

    def _missing_role(self, key: DesiredKey, advice: str) -> Failure:
        return Failure(
            Code.ROLE_MISSING,
            f"{key.name!r} has no role, and keys in {self._environment.name} need one. Set `role:` "
            f"on the key, in the manifest's defaults or in the environment to {advice}.",
        )


def _assignable_labels(roles: tuple[Role, ...]) -> str:
    labels = sorted(role.label for role in roles if role.assignable)
    return _shorten([repr(label) for label in labels]) if labels else "none"


def _shorten(words: list[str]) -> str:
    """Join the first words; the message is repeated for every key that it applies to."""
    more = [f"{len(words) - _MOST_NAMES} more"] if len(words) > _MOST_NAMES else []
    return ", ".join([word[:_LONGEST_NAME] for word in words[:_MOST_NAMES]] + more)


def _is_uuid(text: str) -> bool:
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(
        char in "0123456789abcdefABCDEF" for part in parts for char in part
    )
