"""The role of each desired key, and the create action that assigns it."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.errors.pluralize import pluralize
from provisioner.model.expiry import ExpiresAt, format_timestamp, resolve_expiry
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles
from provisioner.model.policy import breaches
from provisioner.model.uuids import is_uuid
from provisioner.plan.actions import Create

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.plan.actions import Reason

_HIDDEN = (
    "this credential cannot read roles, so a role must be written as an id and role drift is not "
    "detected"
)

_INCOMPLETE = (
    "this credential can read only the roles that can be assigned to API keys, so the drift of "
    "keys with other roles is not detected"
)

_WHERE_ROLES = "on the key, in the manifest's defaults or in the environment"
_ANY_ID = "a role id (this credential cannot read roles)"
_MOST_NAMES = 30
_LONGEST_NAME = 200


class RoleChoice:
    """The roles and expiries of keys that are created now, in one environment.

    A role is set on the key, in its manifest or in the environment.

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
        self._resolved: dict[str | None, str] = {}

    def create(self, key: DesiredKey, reason: Reason) -> Create:
        """Return the action that creates a key, blocked if the key cannot be created."""
        role, role_id, role_failure = self.resolve(key)
        expires_at = self.expires_at(key)
        blocked = self.expiry_failure(key, expires_at) or role_failure
        # Names of the arguments would double the time.
        return Create(
            key.name,
            reason,
            key.depth,
            expires_at,
            key.expiry.written,
            role,
            role_id,
            key.place,
            key.deliver,
            blocked,
            key.annotations,
        )

    def expires_at(self, key: DesiredKey) -> datetime:
        """Return the expiry of a key that is created now."""
        written = key.expiry.written
        if written not in self._expiries:
            self._expiries[written] = resolve_expiry(key.expiry, self._now)
        return self._expiries[written]

    def expiry_failure(self, key: DesiredKey, expires_at: datetime) -> Failure | None:
        """Return why a key cannot have an expiry, in whole seconds; None if it can.

        `provisioner.manifests` has already checked durations against the policy. The lifetime of a
        key with a fixed date depends on the time of the run, so it is checked here.
        """
        policy, now = self._environment.policy, self._server_time
        if expires_at <= now:
            code, problem, advice = Code.EXPIRY_PAST, "which is in the past", "a later"
        elif (
            policy is not None
            and isinstance(key.expiry, ExpiresAt)
            and Code.POLICY_LIFETIME in breaches(policy, key, role=None, now=now)
        ):
            code, advice = Code.POLICY_LIFETIME, "an earlier"
            problem = f"later than the policy of {self._environment.name} allows"
        else:
            return None
        return Failure(
            code,
            f"{key.name!r} would expire at {format_timestamp(expires_at)}, {problem}. "
            f"Write {advice} date in {key.place.file} line {key.place.line}.",
        )

    def resolve(self, key: DesiredKey) -> tuple[str | None, str | None, Failure | None]:
        """Return the role as written, its id, and why the key cannot have it."""
        written = key.role or self._environment.role
        if isinstance(self._roles, NoRoles):
            self._ignored += written is not None
            return None, None, None
        role_id = self._resolved.get(written)
        if role_id is None:
            found = self.look_up(key.name, written)
            if isinstance(found, Failure):
                return written, None, found
            role_id = self._resolved[written] = found
        return written, role_id, None

    def drift(self, key: DesiredKey, observed: ObservedKey) -> str | None:
        """Return the role that a live key should have but lacks; None if there is no difference."""
        written = key.role or self._environment.role
        if written is None or not isinstance(self._roles, KnownRoles):
            return None
        unknown = observed.role_id is None and not self._roles.complete
        return None if unknown or written in (observed.role, observed.role_id) else written

    def notes(self) -> tuple[str, ...]:
        """Return the warnings about roles in this environment."""
        match self._roles:
            case HiddenRoles():
                return (_HIDDEN,)
            case KnownRoles(complete=False):
                return (_INCOMPLETE,)
            case NoRoles() if self._ignored:
                return (roles_ignored(self._ignored),)
            case NoRoles() | KnownRoles():
                return ()
            case _:
                assert_never(self._roles)

    def look_up(self, key: str, written: str | None, where: str = _WHERE_ROLES) -> str | Failure:
        """Return the id of a role written as an id or a label, or why the key cannot have it.

        The keys of the workspace have roles. A label can be looked up only among known roles.

        Args:
            key: the name of the key.
            written: the role; None if nothing sets one.
            where: the places where a role can be written, for the message without one.
        """
        known = self._roles.roles if isinstance(self._roles, KnownRoles) else None
        name = self._environment.name
        assignable = _ANY_ID
        if known is not None:
            labels = sorted(role.label for role in known if role.assignable)
            assignable = _shorten(list(map(repr, labels))) or "none"
        if written is None:
            choice = assignable if known is None else f"one of {assignable}"
            return Failure(
                Code.ROLE_MISSING,
                f"{key!r} has no role, and keys in {name} need one. Set `role:` "
                f"{where} to {choice}.",
            )
        if known is None:
            if is_uuid(written):
                return written
            return Failure(
                Code.ROLE_UNKNOWN,
                f"This credential cannot read the roles of {name}, so the role {written!r} of "
                f"{key!r} cannot be looked up. Give the credential's role the permission to "
                "read roles, or write the role's id.",
            )
        matching = [role for role in known if written == role.id] or [
            role for role in known if written == role.label
        ]
        if len(matching) == 1 and matching[0].assignable:
            return matching[0].id
        advice = f"Roles that keys can have: {assignable}."
        code, problem = Code.ROLE_UNKNOWN, f"does not exist in {name}"
        if isinstance(self._roles, KnownRoles) and not self._roles.complete:
            problem += " or cannot be assigned to API keys there"
        if len(matching) > 1:
            problem = f"is ambiguous in {name}"
            advice = f"Write one of the ids {_shorten([role.id for role in matching])}."
        elif matching:
            code = Code.ROLE_NOT_ASSIGNABLE
            problem = f"cannot be assigned to API keys in {name}"
        return Failure(code, f"The role {written!r} of {key!r} {problem}. {advice}")


def roles_ignored(count: int) -> str:
    """Return the note that a legacy workspace ignores the roles of this many keys."""
    keys = pluralize(count, "key")
    return f"the roles of {keys} are ignored: before Twenty 1.3, keys have no roles"


def _shorten(words: list[str]) -> str:
    """Join the first words; the message is repeated for every key that it applies to."""
    more = [f"{len(words) - _MOST_NAMES} more"] if len(words) > _MOST_NAMES else []
    return ", ".join([word[:_LONGEST_NAME] for word in words[:_MOST_NAMES]] + more)
