"""Which role a key is to have, and the create that gives it one."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.errors.failure import Failure
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles
from provisioner.plan.actions import Create
from provisioner.plan.expiry_check import validate_expiry

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import ObservedKey, Role, Roles
    from provisioner.plan.actions import Reason

_HIDDEN = (
    "roles cannot be seen with this credential, so a role must be written as an id and drift of "
    "roles stays unknown"
)

_MOST_NAMES = 30
_LONGEST_NAME = 200


class RoleChoice:
    """Which role a key is to have: the nearest one written, found among the workspace's."""

    def __init__(self, environment: Environment, roles: Roles) -> None:
        self._environment = environment
        self._roles = roles
        self._ignored = 0
        self._found: dict[str, str] = {}

    def create(
        self, key: DesiredKey, reason: Reason, expires_at: datetime, server_time: datetime
    ) -> Create:
        """The create of a key, blocked where it could not be made.

        Args:
            key: the desired key.
            reason: why it is made.
            expires_at: of the new key.
            server_time: which judges whether that has passed.
        """
        role, role_id, blocked = self.resolve(key)
        blocked = validate_expiry(self._environment, key, expires_at, server_time) or blocked
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
            blocked=blocked,
        )

    def resolve(self, key: DesiredKey) -> tuple[str | None, str | None, Failure | None]:
        """The role as written, its id, and why the key cannot be made."""
        written = key.role or self._environment.role
        if written in self._found:
            return written, self._found[written], None
        match self._roles:
            case NoRoles():
                self._ignored += written is not None
                return None, None, None
            case HiddenRoles():
                found = self._hidden_role(key, written)
            case KnownRoles(roles=roles):
                found = self._known_role(key, written, roles)
            case _:
                assert_never(self._roles)
        if isinstance(found, Failure):
            return written, None, found
        if written is not None:
            self._found[written] = found
        return written, found, None

    def drift(self, key: DesiredKey, observed: ObservedKey) -> str | None:
        """The role that a live key ought to have and has not, or None."""
        written = key.role or self._environment.role
        if written is None or not isinstance(self._roles, KnownRoles):
            return None
        return None if written in (observed.role, observed.role_id) else written

    def notes(self) -> tuple[str, ...]:
        """What people should know of the roles here."""
        match self._roles:
            case HiddenRoles():
                return (_HIDDEN,)
            case NoRoles() if self._ignored:
                count = f"{self._ignored} key{'s' if self._ignored != 1 else ''}"
                return (f"the roles of {count} are ignored: keys of this generation have none",)
            case NoRoles() | KnownRoles():
                return ()
            case _:
                assert_never(self._roles)

    def _hidden_role(self, key: DesiredKey, written: str | None) -> str | Failure:
        """The id that is written; a label cannot be looked up."""
        if written is None:
            return self._missing_role(key, "as an id, because this credential cannot see them")
        if _is_uuid(written):
            return written
        return Failure(
            "role_unknown",
            f"{self._environment.name} does not show its roles to this credential, so "
            f"{written!r} of {key.name!r} cannot be looked up. Give the credential's role the "
            "permission to read roles, or write the role's id.",
        )

    def _known_role(
        self, key: DesiredKey, written: str | None, roles: tuple[Role, ...]
    ) -> str | Failure:
        """The id of the role that is written, by id or else by label."""
        if written is None:
            return self._missing_role(key, f"one of {_assignable_labels(roles)}")
        found = [role for role in roles if written == role.id] or [
            role for role in roles if written == role.label
        ]
        where = f"{self._environment.name}, asked for by {key.name!r}"
        if not found:
            reason = f"There is no role {written!r} in {where}. Roles for keys: {_assignable_labels(roles)}."
            return Failure("role_unknown", reason)
        if len(found) > 1:
            ids = _shorten([role.id for role in found])
            reason = f"Several roles are called {written!r} in {where}. Write one of the ids {ids}."
            return Failure("role_unknown", reason)
        if not found[0].assignable:
            reason = f"Keys may not have the role {written!r} in {where}. "
            return Failure(
                "role_not_assignable", f"{reason}Roles for keys: {_assignable_labels(roles)}."
            )
        return found[0].id

    def _missing_role(self, key: DesiredKey, advice: str) -> Failure:
        return Failure(
            "role_missing",
            f"{key.name!r} names no role, and keys of {self._environment.name} need one. Write "
            f"`role:` on the key, in the manifest's defaults or in the environment: {advice}.",
        )


def _assignable_labels(roles: tuple[Role, ...]) -> str:
    labels = sorted(role.label for role in roles if role.assignable)
    return _shorten([repr(label) for label in labels]) if labels else "none at all"


def _shorten(words: list[str]) -> str:
    """The first of them: a message is for people, and stands at every key that it is true of."""
    more = [f"{len(words) - _MOST_NAMES} more"] if len(words) > _MOST_NAMES else []
    return ", ".join([word[:_LONGEST_NAME] for word in words[:_MOST_NAMES]] + more)


def _is_uuid(text: str) -> bool:
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(
        char in "0123456789abcdefABCDEF" for part in parts for char in part
    )
