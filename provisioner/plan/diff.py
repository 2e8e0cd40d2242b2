"""The diff: desired and observed go in, a plan comes out; no I/O, the clock is an argument."""

from __future__ import annotations

from datetime import timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, assert_never

from provisioner.collector import without_collector
from provisioner.failure import Failure
from provisioner.observed import HiddenRoles, KnownRoles, NoRoles
from provisioner.plan.delivery import Holdings, delivery
from provisioner.plan.estimate import estimate
from provisioner.plan.model import (
    Action,
    Create,
    Drift,
    Duplicate,
    Expiring,
    Finding,
    Planned,
    Unmanaged,
)
from provisioner.times import ExpiresAt, due, format_moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from provisioner.address import Address
    from provisioner.desired import DesiredKey, Environment
    from provisioner.observed import Observation, ObservedKey, Role, Roles
    from provisioner.plan.model import Reason

SOON = timedelta(days=14)
"""A key that ends within this time is the finding `expiring`."""

_NO_HOLDINGS = Holdings()

_HIDDEN = (
    "roles cannot be seen with this credential, so a role must be written as an id and drift of "
    "roles stays unknown"
)


def to_read(
    desired: Iterable[DesiredKey], observation: Observation, only: tuple[str, ...] = ()
) -> tuple[Address, ...]:
    """The sinks whose content decides whether a live key needs a new token."""
    live = {key.name for key in observation.keys if key.live(observation.server_time)}
    return tuple(
        address
        for key in desired
        if key.deliver and key.name in live and (not only or _matches(key.name, only))
        for address in key.deliver
    )


@without_collector()
def plan_environment(  # noqa: PLR0913 - all that a plan follows from
    environment: Environment,
    desired: Iterable[DesiredKey],
    observation: Observation,
    now: datetime,
    only: tuple[str, ...] = (),
    *,
    holdings: Holdings = _NO_HOLDINGS,
) -> Planned:
    """What turns the observed keys of one workspace into the desired ones.

    Args:
        environment: whose workspace was observed.
        desired: its desired keys, names unique, in the order of the manifests.
        observation: one look at the workspace.
        now: the moment of the plan, from which durations count.
        only: globs of key names; with any, all other names are left out of actions and findings.
        holdings: what the sinks of live keys hold.
    """
    by_name = _by_name(observation.keys, only)
    choose = _RoleChoice(environment, observation.roles)
    ends: dict[str, datetime] = {}
    actions: list[Action] = []
    kept: list[str] = []
    findings: list[Finding] = []
    wanted: set[str] = set()
    server_time = observation.server_time
    soon = server_time + SOON
    for key in desired:
        name = key.name
        if only and not _matches(name, only):
            continue
        wanted.add(name)
        same_name = by_name.get(name, ())
        live = [one for one in same_name if one.live(server_time)]
        if live:
            findings += _findings(key, live, choose, soon)
            action = None
            if key.deliver:
                action, unknown = delivery(key, live, holdings)
                findings += [] if unknown is None else [unknown]
            if action is None:
                kept.append(name)
            else:
                actions.append(action)
            continue
        written = key.expiry.written
        if written not in ends:
            ends[written] = due(key.expiry, now)
        reason: Reason = "dead" if same_name else "missing"
        actions.append(_create(key, reason, ends[written], choose, server_time))
    findings += _unmanaged(by_name, wanted, server_time)
    return Planned(
        environment=environment.name,
        url=environment.url,
        generation=observation.generation,
        workspace=observation.workspace,
        actions=tuple(actions),
        kept=tuple(kept),
        findings=tuple(findings),
        notes=(*choose.notes(), *_nowhere(actions)),
        estimate=estimate(environment.limits, observation, actions),
    )


def _matches(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _by_name(keys: Iterable[ObservedKey], only: tuple[str, ...]) -> Mapping[str, list[ObservedKey]]:
    """The keys of each name, the oldest first."""
    by_name: dict[str, list[ObservedKey]] = {}
    for key in keys:
        if not only or _matches(key.name, only):
            by_name.setdefault(key.name, []).append(key)
    for same_name in by_name.values():
        if len(same_name) > 1:
            same_name.sort(key=lambda one: (one.created_at, one.id))
    return by_name


def _create(
    key: DesiredKey, reason: Reason, end: datetime, choose: _RoleChoice, server_time: datetime
) -> Create:
    role, role_id, blocked = choose.role_of(key)
    if end <= server_time:
        blocked = Failure(
            "expiry_past",
            f"{key.name!r} would end at {format_moment(end)}, which has passed. "
            f"Write a later date in {key.place.file} line {key.place.line}.",
        )
    return Create(
        name=key.name,
        reason=reason,
        depth=key.depth,
        expires_at=end,
        expires=key.expiry.written,
        role=role,
        role_id=role_id,
        place=key.place,
        sinks=key.deliver,
        blocked=blocked,
    )


def _nowhere(actions: list[Action]) -> Iterable[str]:
    """What people should know of keys that are made and whose tokens go nowhere."""
    count = sum(not action.sinks and action.blocked is None for action in actions)
    if count:
        yield (
            f"no sink takes the token{'s' if count != 1 else ''} of {count} "
            f"key{'s' if count != 1 else ''}: name one under `deliver`, or mint a token with "
            "`provision token NAME --to FILE`"
        )


def _findings(
    key: DesiredKey, live: list[ObservedKey], choose: _RoleChoice, soon: datetime
) -> list[Finding]:
    """What is worth telling of a kept key; of several live ones the oldest is the key."""
    findings: list[Finding] = []
    oldest = live[0]
    newest_end = end = oldest.expires_at
    if len(live) > 1:
        findings.append(Duplicate(key.name, tuple(one.id for one in live)))
        newest_end = max(one.expires_at for one in live)
    if isinstance(key.expiry, ExpiresAt):
        wanted = key.expiry.moment
        gap = end - wanted
        if gap.days or gap.seconds:  # milliseconds are the mark of a run
            was = format_moment(end)
            drift = Drift(key.name, (oldest.id,), "expires", was, format_moment(wanted))
            findings.append(drift)
    role = choose.drift(key, oldest)
    if role is not None:
        findings.append(Drift(key.name, (oldest.id,), "role", oldest.role, role))
    if newest_end <= soon:
        ids = tuple(one.id for one in live)
        findings.append(Expiring(key.name, ids, format_moment(newest_end)))
    return findings


def _unmanaged(
    by_name: Mapping[str, list[ObservedKey]], wanted: set[str], server_time: datetime
) -> Iterable[Finding]:
    for name in sorted(by_name.keys() - wanted):
        ids = tuple(one.id for one in by_name[name] if one.live(server_time))
        if ids:
            yield Unmanaged(name, ids)


class _RoleChoice:
    """Which role a key is to have: the nearest one written, found among the workspace's."""

    def __init__(self, environment: Environment, roles: Roles) -> None:
        self._environment = environment
        self._roles = roles
        self._ignored = 0
        self._found: dict[str, str] = {}

    def role_of(self, key: DesiredKey) -> tuple[str | None, str | None, Failure | None]:
        """The role as written, its id, and why the key cannot be made."""
        written = key.role or self._environment.role
        if written in self._found:
            return written, self._found[written], None
        match self._roles:
            case NoRoles():
                self._ignored += written is not None
                return None, None, None
            case HiddenRoles():
                found = self._unseen(key, written)
            case KnownRoles(roles=roles):
                found = self._among(key, written, roles)
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

    def _unseen(self, key: DesiredKey, written: str | None) -> str | Failure:
        """The id that is written; a label cannot be looked up."""
        if written is None:
            return self._missing(key, "as an id, because this credential cannot see them")
        if _is_uuid(written):
            return written
        return Failure(
            "role_unknown",
            f"{self._environment.name} does not show its roles to this credential, so "
            f"{written!r} of {key.name!r} cannot be looked up. Give the credential's role the "
            "permission to read roles, or write the role's id.",
        )

    def _among(
        self, key: DesiredKey, written: str | None, roles: tuple[Role, ...]
    ) -> str | Failure:
        """The id of the role that is written, by id or else by label."""
        if written is None:
            return self._missing(key, f"one of {_offer(roles)}")
        found = [role for role in roles if written == role.id] or [
            role for role in roles if written == role.label
        ]
        where = f"{self._environment.name}, asked for by {key.name!r}"
        if not found:
            reason = f"There is no role {written!r} in {where}. Roles for keys: {_offer(roles)}."
            return Failure("role_unknown", reason)
        if len(found) > 1:
            ids = ", ".join(role.id for role in found)
            reason = f"Several roles are called {written!r} in {where}. Write one of the ids {ids}."
            return Failure("role_unknown", reason)
        if not found[0].assignable:
            reason = f"Keys may not have the role {written!r} in {where}. "
            return Failure("role_not_assignable", f"{reason}Roles for keys: {_offer(roles)}.")
        return found[0].id

    def _missing(self, key: DesiredKey, advice: str) -> Failure:
        return Failure(
            "role_missing",
            f"{key.name!r} names no role, and keys of {self._environment.name} need one. Write "
            f"`role:` on the key, in the manifest's defaults or in the environment: {advice}.",
        )


def _offer(roles: tuple[Role, ...]) -> str:
    labels = sorted(role.label for role in roles if role.assignable)
    return ", ".join(repr(label) for label in labels) if labels else "none at all"


def _is_uuid(text: str) -> bool:
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(
        char in "0123456789abcdefABCDEF" for part in parts for char in part
    )
