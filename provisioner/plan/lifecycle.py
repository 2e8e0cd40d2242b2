"""The plan for the live keys of one name: keep, update, rotate, deliver or revoke them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.model.expiry import ExpiresAfter, ExpiresAt, format_timestamp, resolve_expiry
from provisioner.model.globs import matches
from provisioner.model.sink_content import ApiKeyToken, Unavailable, Unreadable
from provisioner.plan.actions import Change, Revoke, Rotate, Update
from provisioner.plan.delivery import delivered_at, on_server_clock, plan_delivery, proves_delivery
from provisioner.plan.expiry_check import validate_expiry
from provisioner.plan.findings import Drift, Duplicate, Expiring
from provisioner.plan.revocations import revoke
from provisioner.plan.rotation import classify_live_keys

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan.actions import Action, Create
    from provisioner.plan.findings import Finding
    from provisioner.plan.options import PlanOptions
    from provisioner.plan.roles import RoleChoice
    from provisioner.plan.rotation import LiveKeys


@dataclass(frozen=True, slots=True)
class PlanClock:
    """The times that a plan depends on.

    Attributes:
        now: the time of the plan, from which durations count.
        server_time: the server's time, which decides which keys are live.
        expiring_before: the end of the period in which an expiry is a finding.
        server_ahead: how far the server's clock is ahead of this machine's; None if unknown.
    """

    now: datetime
    server_time: datetime
    expiring_before: datetime
    server_ahead: timedelta | None = None


class Lifecycle:
    """The planner for live keys of declared names in one environment.

    `provisioner.plan.rotation` selects the current one of several live keys of a name.
    """

    def __init__(
        self,
        environment: Environment,
        roles: RoleChoice,
        clock: PlanClock,
        options: PlanOptions,
        sink_contents: Mapping[Address, SinkContent],
    ) -> None:
        self._environment = environment
        self._roles = roles
        self._clock = clock
        self._options = options
        self._sink_contents = on_server_clock(sink_contents, clock.server_ahead)

    def plan_key(
        self, key: DesiredKey, live: list[ObservedKey], expires_at: datetime
    ) -> tuple[list[Action], list[Finding]]:
        """Return the actions and findings of one name; a key without an action is kept.

        Args:
            key: the desired key.
            live: its live keys, the oldest first; at least one.
            expires_at: the expiry of a key created now.
        """
        owned = matches(key.name, self._environment.owns)
        keys = classify_live_keys(key, live, self._contents_of(key))
        current = keys.current
        if self._options.rotate:
            return [self._requested_rotation(key, live, keys, expires_at, owned=owned)], []
        actions, findings = self._duplicates(key, live, keys, owned=owned)
        changes, drift = self._changes(key, current, owned=owned)
        actions += [*changes, *self._revoke_superseded(key, keys, owned=owned)]
        findings += [*drift, *self._predecessor_drift(key, keys.predecessors)]
        if self._needs_successor(key, current):
            successor = self._successor(key, expires_at)
            ids = tuple(one.id for one in (*keys.predecessors, current))
            actions.append(Rotate("due", successor, ids))
            if successor.blocked is None:
                return actions, findings
        served_until = self._served_until(key, current, live)
        if served_until <= self._clock.expiring_before:
            ids = tuple(one.id for one in live)
            findings.append(Expiring(key.name, ids, format_timestamp(served_until)))
        updates = (one for one in actions if isinstance(one, Update) and one.blocked is None)
        if not any(one.sinks for one in updates):
            acceptable = [current] if key.rotation is not None or self._options.dedupe else live
            options = self._options
            if any(isinstance(one, Revoke) and one.reason == "duplicate" for one in actions):
                # A write-only sink may hold the token of a duplicate that is about to be revoked.
                write_only = any(isinstance(one, Unreadable) for one in self._contents_of(key))
                options = replace(options, redeliver=options.redeliver or write_only)
            action, unknown = plan_delivery(
                key, keys, acceptable, self._sink_contents, options, self._clock.server_time
            )
            actions += [] if action is None else [action]
            findings += [] if unknown is None else [unknown]
        return actions, findings

    def _requested_rotation(
        self,
        key: DesiredKey,
        live: list[ObservedKey],
        keys: LiveKeys,
        expires_at: datetime,
        *,
        owned: bool,
    ) -> Rotate:
        """Return the requested rotation, blocked if the old key could not be revoked."""
        successor = self._successor(key, expires_at)
        blocked = successor.blocked
        if not owned:
            blocked = Failure(
                Code.NOT_OWNED,
                f"{key.name!r} matches no pattern under `owns` in {self._environment.name}, so its "
                "current key could not be revoked. Add a pattern.",
            )
        elif not key.deliver:
            blocked = Failure(
                Code.ROTATION_UNDELIVERED,
                f"{key.name!r} has no sink that its successor's token could be delivered to.",
                "Add one under `deliver`.",
            )
        elif key.rotation is None and not self._options.at_once:
            blocked = Failure(
                Code.ROTATION_UNSAID,
                f"{key.name!r} has no `rotate`, so nothing says when to revoke the old key. "
                "Add one, or use --now.",
            )
        elif key.rotation is not None and keys.predecessors and not self._options.at_once:
            overlap_ends = format_timestamp(keys.current.created_at + key.rotation.overlap)
            blocked = Failure(
                Code.ROTATION_RUNNING,
                f"The last rotation of {key.name!r} is not finished: {len(live)} keys with "
                "that name are live. "
                f"Run `provision apply` after {overlap_ends} to revoke the older ones, or use "
                "--now.",
            )
        successor = successor._replace(blocked=blocked)
        if self._options.at_once or key.rotation is None:
            return Rotate("asked", successor, tuple(one.id for one in live), self._options.at_once)
        expires_when_due = self._clock.server_time + key.rotation.before
        expires_when_due = expires_when_due.replace(microsecond=keys.current.expires_at.microsecond)
        return Rotate(
            "asked",
            successor,
            (keys.current.id,),
            predecessor_expires_at=(
                expires_when_due if expires_when_due < keys.current.expires_at else None
            ),
        )

    def _needs_successor(self, key: DesiredKey, current: ObservedKey) -> bool:
        """Return whether the current key is due for rotation, whatever older keys are live."""
        if key.rotation is None:
            return False
        return current.expires_at - key.rotation.before <= self._clock.server_time

    def _successor(self, key: DesiredKey, expires_at: datetime) -> Create:
        return self._roles.create(key, "missing", expires_at, self._clock.server_time)

    def _served_until(
        self, key: DesiredKey, current: ObservedKey, live: list[ObservedKey]
    ) -> datetime:
        """Return when the first token in the sinks expires; without tokens, when the key does."""
        token_ids = {
            one.key.lower() for one in self._contents_of(key) if isinstance(one, ApiKeyToken)
        }
        expiries = [one.expires_at for one in live if one.id.lower() in token_ids]
        if key.rotation is not None:
            return min([current.expires_at, *expiries])
        return min(expiries, default=current.expires_at)

    def _contents_of(self, key: DesiredKey) -> list[SinkContent]:
        return [
            self._sink_contents[address]
            for address in key.deliver
            if address in self._sink_contents
        ]

    def _changes(
        self, key: DesiredKey, current: ObservedKey, *, owned: bool
    ) -> tuple[list[Action], list[Finding]]:
        """Return the differences from the manifest: an update for an owned key, else findings."""
        changes: list[Change] = []
        findings: list[Finding] = []
        expires_at = current.expires_at
        if isinstance(key.expiry, ExpiresAt):
            difference = expires_at - key.expiry.timestamp
            if difference.days or difference.seconds:  # milliseconds identify the run
                desired = format_timestamp(key.expiry.timestamp)
                changes.append(Change("expires", format_timestamp(expires_at), desired))
        elif isinstance(key.expiry, ExpiresAfter):
            latest = resolve_expiry(key.expiry, self._clock.now)
            if expires_at.replace(microsecond=0) > latest:
                actual, desired = format_timestamp(expires_at), format_timestamp(latest)
                ids = (current.id,)
                findings.append(Drift(key.name, ids, "expires", actual, desired, "lifetime"))
        role = self._roles.drift(key, current)
        if role is not None:
            changes.append(Change("role", current.role, role))
        if not changes:
            return [], findings
        if not owned:
            findings += [
                Drift(key.name, (current.id,), one.field, one.actual, one.desired, "not_owned")
                for one in changes
            ]
            return [], findings
        return [self._update(key, current, tuple(changes))], findings

    def _predecessor_drift(
        self, key: DesiredKey, predecessors: tuple[ObservedKey, ...]
    ) -> list[Finding]:
        """Return the role drift of predecessors, which are not updated before they are revoked."""
        roles = ((one, self._roles.drift(key, one)) for one in predecessors)
        return [
            Drift(key.name, (one.id,), "role", one.role, role, "rotated")
            for one, role in roles
            if role is not None
        ]

    def _update(self, key: DesiredKey, current: ObservedKey, changes: tuple[Change, ...]) -> Update:
        sets_expiry = any(one.field == "expires" for one in changes)
        expires_at = current.expires_at
        if sets_expiry and isinstance(key.expiry, ExpiresAt):
            # Keep the milliseconds: they identify the run that created the key.
            expires_at = key.expiry.timestamp.replace(microsecond=expires_at.microsecond)
        written, role_id, role_failure = self._roles.resolve(key)
        sets_role = any(one.field == "role" for one in changes)
        expiry_failure = validate_expiry(
            self._environment, key, expires_at, self._clock.server_time
        )
        blocked = (role_failure if sets_role else None) or expiry_failure
        return Update(
            name=key.name,
            reason="drift",
            depth=key.depth,
            expires_at=expires_at,
            role=written if sets_role else current.role,
            key_id=current.id,
            changes=changes,
            sets_expiry=sets_expiry,
            role_id=role_id if sets_role else None,
            place=key.place,
            sinks=key.deliver if sets_expiry else (),
            blocked=blocked,
        )

    def _duplicates(
        self, key: DesiredKey, live: list[ObservedKey], keys: LiveKeys, *, owned: bool
    ) -> tuple[list[Action], list[Finding]]:
        """Return the revocations of duplicates, or the finding if they are kept."""
        ids = tuple(one.id for one in live)
        current, rotated = keys.current.id, key.rotation is not None
        if keys.duplicates:
            all_read = not any(isinstance(one, Unavailable) for one in self._contents_of(key))
            if self._options.dedupe and owned and all_read:
                return [revoke(one, "duplicate", key) for one in keys.duplicates], []
            others: Literal["owned", "not_owned"] = "owned" if owned else "not_owned"
            return [], [Duplicate(key.name, ids, current, others, rotated)]
        if len(keys.predecessors) > 1:
            return [], [Duplicate(key.name, ids, current, "superseded", rotated)]
        return [], []

    def _revoke_superseded(self, key: DesiredKey, keys: LiveKeys, *, owned: bool) -> list[Action]:
        """Return the revocations of predecessors, when the overlap after the delivery is over."""
        if key.rotation is None or not keys.predecessors or not owned:
            return []
        delivered = self._delivered_at(key, keys.current)
        if delivered is None or self._options.redeliver:
            return []
        if delivered + key.rotation.overlap > self._clock.server_time:
            return []
        return [revoke(one, "superseded", key) for one in keys.predecessors]

    def _delivered_at(self, key: DesiredKey, current: ObservedKey) -> datetime | None:
        """Return when the last sink got the token of the key; None if that is not proven for all.

        Without a sink it is None, as nobody has the token.
        """
        contents = [self._sink_contents.get(address, Unreadable(None)) for address in key.deliver]
        if not contents or not all(proves_delivery(one, current) for one in contents):
            return None
        return max([current.created_at, *filter(None, map(delivered_at, contents))])
