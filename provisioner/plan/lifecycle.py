"""What becomes of the live keys of one wanted name: kept, changed, followed, delivered, ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from provisioner.errors.failure import Failure
from provisioner.model.expiry import ExpiresAfter, ExpiresAt, format_moment, resolve_expiry
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
    """What a plan counts from.

    Attributes:
        now: the moment of the plan, from which durations count.
        server_time: the server's own, which judges what is live.
        soon: an end before it is a finding.
        ahead: how far the server's clock is ahead of ours; None where it does not tell.
    """

    now: datetime
    server_time: datetime
    expiring_before: datetime
    server_ahead: timedelta | None = None


class Lifecycle:
    """What becomes of the live keys of wanted names in one environment.

    `provisioner.plan.rotation` says which of several live keys of a name is the key.
    """

    def __init__(
        self,
        environment: Environment,
        choose: RoleChoice,
        clock: PlanClock,
        options: PlanOptions,
        sink_contents: Mapping[Address, SinkContent],
    ) -> None:
        self._environment = environment
        self._choose = choose
        self._clock = clock
        self._options = options
        self._sink_contents = on_server_clock(sink_contents, clock.server_ahead)

    def plan_key(
        self, key: DesiredKey, live: list[ObservedKey], expires_at: datetime
    ) -> tuple[list[Action], list[Finding]]:
        """The actions and findings of one name; a key without an action is kept.

        Args:
            key: the desired key.
            live: its live keys, the oldest first; one at least.
            expires_at: of a key that would be made now.
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
        last = self._served_until(key, current, live)
        if last <= self._clock.expiring_before:
            findings.append(Expiring(key.name, tuple(one.id for one in live), format_moment(last)))
        delivers = (one for one in actions if isinstance(one, Update) and one.blocked is None)
        if not any(one.sinks for one in delivers):
            acceptable = [current] if key.rotation is not None or self._options.dedupe else live
            options = self._options
            if any(isinstance(one, Revoke) and one.reason == "duplicate" for one in actions):
                # Whose token a sink that cannot be read holds nobody knows.
                untold = any(isinstance(one, Unreadable) for one in self._contents_of(key))
                options = replace(options, redeliver=options.redeliver or untold)
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
        """The successor that someone asked for, blocked where the old key could not end."""
        successor = self._successor(key, expires_at)
        blocked = successor.blocked
        if not owned:
            blocked = Failure(
                "not_owned",
                f"{key.name!r} matches no pattern under `owns` of {self._environment.name}, so "
                "that the key that it has could never be revoked. Add a pattern.",
            )
        elif not key.deliver:
            blocked = Failure(
                "rotation_undelivered",
                f"{key.name!r} has no sink, so that nobody would get the token of its successor. "
                "Name one under `deliver`.",
            )
        elif key.rotation is None and not self._options.at_once:
            blocked = Failure(
                "rotation_unsaid",
                f"{key.name!r} has no `rotate`, so that nothing says when the old key ends. Write "
                "one, or use --now.",
            )
        elif key.rotation is not None and keys.predecessors and not self._options.at_once:
            over = format_moment(keys.current.created_at + key.rotation.overlap)
            blocked = Failure(
                "rotation_running",
                f"{key.name!r} has {len(live)} live keys: its last rotation is not over. The next "
                f"`apply` after {over} ends the older ones. Wait for it, or use --now.",
            )
        successor = successor._replace(blocked=blocked)
        if self._options.at_once or key.rotation is None:
            return Rotate("asked", successor, tuple(one.id for one in live), self._options.at_once)
        due_at = self._clock.server_time + key.rotation.before
        due_at = due_at.replace(microsecond=keys.current.expires_at.microsecond)
        return Rotate(
            "asked",
            successor,
            (keys.current.id,),
            predecessor_expires_at=due_at if due_at < keys.current.expires_at else None,
        )

    def _needs_successor(self, key: DesiredKey, current: ObservedKey) -> bool:
        """Whether the key is to have a successor, whatever older ones live on beside it."""
        if key.rotation is None:
            return False
        return current.expires_at - key.rotation.before <= self._clock.server_time

    def _successor(self, key: DesiredKey, expires_at: datetime) -> Create:
        return self._choose.create(key, "missing", expires_at, self._clock.server_time)

    def _served_until(
        self, key: DesiredKey, current: ObservedKey, live: list[ObservedKey]
    ) -> datetime:
        """Until when the name serves: as its sinks hold it, or else as its keys live."""
        sink_contents = {
            one.key.lower() for one in self._contents_of(key) if isinstance(one, ApiKeyToken)
        }
        expiries = [one.expires_at for one in live if one.id.lower() in sink_contents]
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
        """What of the key is to be otherwise: an action where it is owned, else a finding."""
        changes: list[Change] = []
        findings: list[Finding] = []
        expires_at = current.expires_at
        if isinstance(key.expiry, ExpiresAt):
            gap = expires_at - key.expiry.timestamp
            if gap.days or gap.seconds:  # milliseconds are the mark of a run
                wanted = format_moment(key.expiry.timestamp)
                changes.append(Change("expires", format_moment(expires_at), wanted))
        elif isinstance(key.expiry, ExpiresAfter):
            longest = resolve_expiry(key.expiry, self._clock.now)
            if expires_at.replace(microsecond=0) > longest:
                was, most = format_moment(expires_at), format_moment(longest)
                ids = (current.id,)
                findings.append(Drift(key.name, ids, "expires", was, most, "lifetime"))
        role = self._choose.drift(key, current)
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
        """What predecessors in a rotation keep until they end."""
        roles = ((one, self._choose.drift(key, one)) for one in predecessors)
        return [
            Drift(key.name, (one.id,), "role", one.role, role, "rotated")
            for one, role in roles
            if role is not None
        ]

    def _update(self, key: DesiredKey, current: ObservedKey, changes: tuple[Change, ...]) -> Update:
        moves = any(one.field == "expires" for one in changes)
        expires_at = current.expires_at
        if moves and isinstance(key.expiry, ExpiresAt):
            # The milliseconds stay: they are the mark of the run that made the key.
            expires_at = key.expiry.timestamp.replace(microsecond=expires_at.microsecond)
        written, role_id, unassignable = self._choose.resolve(key)
        assigns = any(one.field == "role" for one in changes)
        unfitting = validate_expiry(self._environment, key, expires_at, self._clock.server_time)
        blocked = (unassignable if assigns else None) or unfitting
        return Update(
            name=key.name,
            reason="drift",
            depth=key.depth,
            expires_at=expires_at,
            role=written if assigns else current.role,
            key_id=current.id,
            changes=changes,
            sets_expiry=moves,
            role_id=role_id if assigns else None,
            place=key.place,
            sinks=key.deliver if moves else (),
            blocked=blocked,
        )

    def _duplicates(
        self, key: DesiredKey, live: list[ObservedKey], keys: LiveKeys, *, owned: bool
    ) -> tuple[list[Action], list[Finding]]:
        """More live keys of a name than there should be."""
        ids = tuple(one.id for one in live)
        current, rotated = keys.current.id, key.rotation is not None
        if keys.duplicates:
            looked_into = not any(isinstance(one, Unavailable) for one in self._contents_of(key))
            if self._options.dedupe and owned and looked_into:
                return [revoke(one, "duplicate", key) for one in keys.duplicates], []
            told: Literal["owned", "not_owned"] = "owned" if owned else "not_owned"
            return [], [Duplicate(key.name, ids, current, told, rotated)]
        if len(keys.predecessors) > 1:
            return [], [Duplicate(key.name, ids, current, "superseded", rotated)]
        return [], []

    def _revoke_superseded(self, key: DesiredKey, keys: LiveKeys, *, owned: bool) -> list[Action]:
        """The predecessors, when their successor is delivered and the overlap is over."""
        if key.rotation is None or not keys.predecessors or not owned:
            return []
        delivered = self._delivered_at(key, keys.current)
        if delivered is None or self._options.redeliver:
            return []
        over = delivered + key.rotation.overlap <= self._clock.server_time
        return [revoke(one, "superseded", key) for one in keys.predecessors] if over else []

    def _delivered_at(self, key: DesiredKey, current: ObservedKey) -> datetime | None:
        """Since when every sink is proven to have the token of the key.

        None where one is not; without a sink nobody has it.
        """
        holdings = [self._sink_contents.get(address, Unreadable(None)) for address in key.deliver]
        if not holdings or not all(proves_delivery(one, current) for one in holdings):
            return None
        return max([current.created_at, *filter(None, map(delivered_at, holdings))])
