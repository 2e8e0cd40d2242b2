"""The plan for the live keys of one name: keep, update, rotate, deliver or revoke them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.model.expiry import ExpiresAfter, ExpiresAt, format_timestamp
from provisioner.model.globs import matches
from provisioner.model.sink_content import ApiKeyToken, Unavailable, Unreadable
from provisioner.plan.actions import Change, Revoke, Rotate, Update
from provisioner.plan.delivery import delivered_at, on_server_clock, plan_delivery
from provisioner.plan.findings import EXPIRING_WITHIN, Drift, Duplicate, Expiring
from provisioner.plan.revocations import revoke
from provisioner.plan.rotation import classify_live_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey, Rotation
    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan.actions import Action
    from provisioner.plan.findings import Finding
    from provisioner.plan.options import PlanOptions
    from provisioner.plan.roles import RoleChoice
    from provisioner.plan.rotation import LiveKeys

    Step = Action | Finding


class _Name(NamedTuple):
    """A declared name with live keys.

    Attributes:
        key: the desired key.
        live: its live keys, the oldest first; at least one.
        keys: the live keys, classified.
        contents: the contents of its sinks, as far as they were read.
        owned: whether the environment owns it.
    """

    key: DesiredKey
    live: Sequence[ObservedKey]
    keys: LiveKeys
    contents: Sequence[SinkContent]
    owned: bool

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the ids of all live keys, the oldest first."""
        return tuple(one.id for one in self.live)

    def token_expiries(self) -> list[datetime]:
        """Return the expiries of the live keys whose tokens are in sinks."""
        if not self.contents:
            return []
        ids = {one.key.lower() for one in self.contents if isinstance(one, ApiKeyToken)}
        return [one.expires_at for one in self.live if one.id.lower() in ids]


class Lifecycle:
    """The planner for live keys of declared names in one environment.

    `provisioner.plan.rotation` selects the current one of several live keys of a name.
    """

    def __init__(
        self,
        environment: Environment,
        observation: Observation,
        roles: RoleChoice,
        options: PlanOptions,
        sink_contents: Mapping[Address, SinkContent],
    ) -> None:
        self._environment = environment
        self._server_time = observation.server_time
        self._own_key = observation.own_key
        self._roles = roles
        self._options = options
        self._sink_contents = on_server_clock(sink_contents, observation.server_ahead)

    def plan_key(self, key: DesiredKey, live: Sequence[ObservedKey]) -> list[Step]:
        """Return the actions and findings of one name; a key without an action is kept.

        Args:
            key: the desired key.
            live: its live keys, the oldest first; at least one.
        """
        contents = [self._sink_contents[one] for one in key.deliver if one in self._sink_contents]
        keys = classify_live_keys(key, live, contents)
        owned = matches(key.name, self._environment.owns)
        name = _Name(key, live, keys, contents, owned)
        if self._options.rotate:
            return [self._requested_rotation(name)]
        if key.rotation is None:
            return self._plan_plain(name)
        return self._plan_rotated(name, key.rotation)

    def _plan_plain(self, name: _Name) -> list[Step]:
        """Plan a key that is not rotated: its sinks may hold the token of any live key."""
        current = name.keys.current
        acceptable = [current] if self._options.dedupe else name.live
        served_until = min(name.token_expiries(), default=current.expires_at)
        steps = [*self._duplicates(name), *self._changes(name)]
        steps += self._expiring(name, served_until)
        steps += self._delivery(name, acceptable, steps)
        return steps

    def _plan_rotated(self, name: _Name, rotation: Rotation) -> list[Step]:
        """Plan a key that is rotated: only its current key counts, and has a successor if due."""
        current, predecessors = name.keys.current, name.keys.predecessors
        steps = [*self._duplicates(name), *self._changes(name)]
        steps += self._revoke_superseded(name, rotation)
        steps += self._predecessor_drift(name)
        if current.expires_at - rotation.before <= self._server_time:
            successor = self._roles.create(name.key, "missing")
            ids = tuple(one.id for one in (*predecessors, current))
            steps.append(Rotate("due", successor, ids))
            if successor.blocked is None:
                return steps
        steps += self._expiring(name, min([current.expires_at, *name.token_expiries()]))
        steps += self._delivery(name, [current], steps)
        return steps

    def _requested_rotation(self, name: _Name) -> Rotate:
        """Return the requested rotation, blocked if the old key could not be revoked."""
        key, rotation, current = name.key, name.key.rotation, name.keys.current
        at_once = self._options.at_once
        successor = self._roles.create(key, "missing")
        blocked = self._rotation_failure(name) or successor.blocked
        successor = successor._replace(blocked=blocked)
        if at_once or rotation is None:
            return Rotate("asked", successor, name.ids, at_once)
        # The milliseconds identify the run that created the key.
        due_now = (self._server_time + rotation.before).replace(
            microsecond=current.expires_at.microsecond
        )
        earlier = due_now if due_now < current.expires_at else None
        return Rotate("asked", successor, (current.id,), predecessor_expires_at=earlier)

    def _rotation_failure(self, name: _Name) -> Failure | None:  # noqa: PLR0911 - one a reason
        """Return why a key cannot be rotated on request; None if it can."""
        key, at_once = name.key, self._options.at_once
        if at_once and self._own_key in name.ids:
            return self._own_key_failure(
                key.name, "Rotate it without --now, or use another credential."
            )
        if not name.owned:
            return Failure(
                Code.NOT_OWNED,
                f"{key.name!r} matches no pattern under `owns` in {self._environment.name}, so its "
                "current key could not be revoked. Add a pattern.",
            )
        if not key.deliver:
            return Failure(
                Code.ROTATION_UNDELIVERED,
                f"{key.name!r} has no sink that its successor's token could be delivered to.",
                "Add one under `deliver`.",
            )
        if at_once:
            return None
        if key.rotation is None:
            return Failure(
                Code.ROTATION_UNSAID,
                f"{key.name!r} has no `rotate`, so nothing says when to revoke the old key. "
                "Add one, or use --now.",
            )
        if name.keys.predecessors:
            overlap_ends = format_timestamp(name.keys.current.created_at + key.rotation.overlap)
            return Failure(
                Code.ROTATION_RUNNING,
                f"The last rotation of {key.name!r} is not finished: {len(name.live)} keys with "
                f"that name are live. Run `provision apply` after {overlap_ends} to revoke the "
                "older ones, or use --now.",
            )
        return None

    def _own_key_failure(self, name: str, advice: str) -> Failure:
        """Return why an action would lock this run out of the workspace."""
        return Failure(
            Code.OWN_KEY, f"This run is signed in with {name!r} ({self._own_key}). {advice}"
        )

    def _duplicates(self, name: _Name) -> Iterator[Step]:
        """Yield the revocations of duplicates, or the finding if they are kept."""
        key, keys, rotated = name.key, name.keys, name.key.rotation is not None
        if keys.duplicates:
            all_read = not any(isinstance(one, Unavailable) for one in name.contents)
            if self._options.dedupe and name.owned and all_read:
                yield from (revoke(one, "duplicate", key) for one in keys.duplicates)
            else:
                others: Literal["owned", "not_owned"] = "owned" if name.owned else "not_owned"
                yield Duplicate(key.name, name.ids, keys.current.id, others, rotated)
        elif len(keys.predecessors) > 1:
            yield Duplicate(key.name, name.ids, keys.current.id, "superseded", rotated)

    def _changes(self, name: _Name) -> Iterator[Step]:
        """Yield the differences from the manifest: an update for an owned key, else findings."""
        key, current, changes = name.key, name.keys.current, list[Change]()
        if isinstance(key.expiry, ExpiresAt):
            difference = current.expires_at - key.expiry.timestamp
            if difference.days or difference.seconds:  # milliseconds identify the run
                actual, desired = map(format_timestamp, (current.expires_at, key.expiry.timestamp))
                changes.append(Change("expires", actual, desired))
        elif isinstance(key.expiry, ExpiresAfter):
            latest = self._roles.expires_at(key)
            if current.expires_at.replace(microsecond=0) > latest:
                actual, desired = map(format_timestamp, (current.expires_at, latest))
                yield Drift(key.name, (current.id,), "expires", actual, desired, "lifetime")
        role = self._roles.drift(key, current)
        if role is not None:
            changes.append(Change("role", current.role, role))
        if changes and name.owned:
            yield self._update(key, current, tuple(changes))
        else:
            for one in changes:
                ids = (current.id,)
                yield Drift(key.name, ids, one.field, one.actual, one.desired, "not_owned")

    def _update(self, key: DesiredKey, current: ObservedKey, changes: tuple[Change, ...]) -> Update:
        fields = {one.field for one in changes}
        expires_at, sets_expiry = current.expires_at, "expires" in fields
        if sets_expiry and isinstance(key.expiry, ExpiresAt):
            # Keep the milliseconds: they identify the run that created the key.
            expires_at = key.expiry.timestamp.replace(microsecond=expires_at.microsecond)
        role, role_id, blocked = current.role, None, None
        if "role" in fields:
            role, role_id, blocked = self._roles.resolve(key)
            if role_id is not None and current.id == self._own_key:
                advice = "Use another credential to change its role."
                blocked = self._own_key_failure(key.name, advice)
        return Update(
            name=key.name,
            reason="drift",
            depth=key.depth,
            expires_at=expires_at,
            role=role,
            key_id=current.id,
            changes=changes,
            sets_expiry=sets_expiry,
            role_id=role_id,
            place=key.place,
            sinks=key.deliver if sets_expiry else (),
            blocked=blocked or self._roles.expiry_failure(key, expires_at),
        )

    def _predecessor_drift(self, name: _Name) -> Iterator[Step]:
        """Yield the role drift of predecessors, which are not updated before they are revoked."""
        for one in name.keys.predecessors:
            role = self._roles.drift(name.key, one)
            if role is not None:
                yield Drift(name.key.name, (one.id,), "role", one.role, role, "rotated")

    def _revoke_superseded(self, name: _Name, rotation: Rotation) -> Iterator[Step]:
        """Yield the revocations of predecessors, when the overlap after the delivery is over."""
        if not name.keys.predecessors or not name.owned or self._options.redeliver:
            return
        delivered = self._delivered_at(name)
        if delivered is not None and delivered + rotation.overlap <= self._server_time:
            yield from (revoke(one, "superseded", name.key) for one in name.keys.predecessors)

    def _delivered_at(self, name: _Name) -> datetime | None:
        """Return when the last sink got the current token; None if that is not proven for all.

        Without a sink it is None, as nobody has the token.
        """
        current = name.keys.current
        times = [delivered_at(one, current) for one in name.contents]
        if not times or len(times) < len(name.key.deliver) or None in times:
            return None
        return max([current.created_at, *filter(None, times)])

    def _expiring(self, name: _Name, served_until: datetime) -> Iterator[Step]:
        """Yield the finding about a name whose first token in the sinks expires soon."""
        if served_until <= self._server_time + EXPIRING_WITHIN:
            yield Expiring(name.key.name, name.ids, format_timestamp(served_until))

    def _delivery(
        self, name: _Name, acceptable: Sequence[ObservedKey], steps: Sequence[Step]
    ) -> Iterator[Step]:
        """Yield the delivery that the current key needs, unless one of the steps delivers it.

        Args:
            name: the name.
            acceptable: the live keys whose tokens its sinks may hold.
            steps: the actions and findings of the name so far.
        """
        updates = (one for one in steps if isinstance(one, Update) and one.blocked is None)
        if any(one.sinks for one in updates):
            return
        # A write-only sink may hold the token of a duplicate that is about to be revoked.
        redeliver = self._options.redeliver or (
            any(isinstance(one, Revoke) and one.reason == "duplicate" for one in steps)
            and any(isinstance(one, Unreadable) for one in name.contents)
        )
        yield from plan_delivery(
            name.key,
            name.keys,
            acceptable,
            self._sink_contents,
            self._server_time,
            redeliver=redeliver,
        )
