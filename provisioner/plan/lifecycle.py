"""The plan for the live keys of one name: keep, update, rotate, deliver or revoke them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.model.expiry import ExpiresAfter, ExpiresAt, format_timestamp
from provisioner.model.sink_content import Unavailable, Unreadable, token_ids
from provisioner.plan.actions import Change, Deliver, Revoke, Rotate, Update
from provisioner.plan.delivery import on_server_clock, plan_delivery
from provisioner.plan.findings import EXPIRING_WITHIN, Drift, Duplicate, Expiring
from provisioner.plan.moves import plan_move
from provisioner.plan.overlap import can_show_delivery, later_revocations, overlap_end
from provisioner.plan.revocations import revoke
from provisioner.plan.rotation import classify_live_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan.actions import Action, Upcoming
    from provisioner.plan.findings import Finding
    from provisioner.plan.moves import Move
    from provisioner.plan.options import PlanOptions
    from provisioner.plan.overlap import OverlapEnd
    from provisioner.plan.roles import RoleChoice
    from provisioner.plan.rotation import LiveKeys

    Step = Action | Finding | Upcoming


class _Name(NamedTuple):
    """A declared name with live keys.

    Attributes:
        key: the desired key.
        live: its live keys, the oldest first; at least one.
        keys: the live keys, classified.
        contents: the contents of its sinks, as far as they were read.
    """

    key: DesiredKey
    live: Sequence[ObservedKey]
    keys: LiveKeys
    contents: Sequence[SinkContent]

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the ids of all live keys, the oldest first."""
        return tuple(one.id for one in self.live)


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
        self._expiring_until = observation.server_time + EXPIRING_WITHIN
        self._own_key = observation.own_key
        self._roles = roles
        self._options = options
        self._sink_contents = on_server_clock(sink_contents, observation.server_ahead)

    def plan_move(self, key: DesiredKey, live: Mapping[str, Sequence[ObservedKey]]) -> Move:
        """Return the renames of the live keys that have a former name of a key."""
        contents = (self._sink_contents.get(address) for address in key.deliver)
        return plan_move(self._environment, key, live, filter(None, contents))

    def plan_key(self, key: DesiredKey, live: Sequence[ObservedKey]) -> list[Step]:
        """Return the actions and findings of one name; a key without an action is kept.

        The sinks of a key that is not rotated may hold the token of any of its live keys. Of a key
        that is rotated only the current one counts, and has a successor if it is due.

        Args:
            key: the desired key.
            live: its live keys, the oldest first; at least one.
        """
        if len(live) == 1 and not key.deliver and key.rotation is None and not self._options.rotate:
            # Of most keys there is nothing else to compare.
            return self._changes(key, live[0]) + self._expiring(key, live, live[0].expires_at)
        found = map(self._sink_contents.get, key.deliver)
        contents = [content for content in found if content is not None]
        keys = classify_live_keys(key, live, contents)
        name = _Name(key, live, keys, contents)
        if self._options.rotate:
            rotate = self._requested_rotation(name)
            return [rotate, *self._after_rotation(name, rotate, ())]
        current, rotation = keys.current, key.rotation
        steps = self._changes(key, current)
        if len(live) > 1:
            steps = [*self._duplicates(name), *steps]
        acceptable = [current] if self._options.dedupe or rotation is not None else live
        expiries: list[datetime] = []
        if contents:
            ids = token_ids(contents)
            expiries = [one.expires_at for one in live if one.id.lower() in ids]
        served_until = min(expiries, default=current.expires_at)
        if rotation is not None:
            served_until = min(served_until, current.expires_at)
            end = overlap_end(key, current, contents)
            steps += self._predecessors(name, end)
            if current.expires_at - rotation.before <= self._server_time:
                successor = self._roles.create(key, "missing")
                predecessors = tuple(one.id for one in (*keys.predecessors, current))
                rotate = Rotate("due", successor, predecessors)
                steps.append(rotate)
                if successor.blocked is None:
                    return [*steps, *self._after_rotation(name, rotate, steps)]
        steps += self._expiring(key, live, served_until)
        if key.deliver:
            steps += self._delivery(name, acceptable, steps)
        if keys.predecessors and rotation is not None:
            steps += self._upcoming(name, end, steps)
        return steps

    def _expiring(
        self, key: DesiredKey, live: Sequence[ObservedKey], served_until: datetime
    ) -> list[Step]:
        """Return the finding about a name whose first token in the sinks expires soon."""
        if served_until > self._expiring_until:
            return []
        ids = tuple(one.id for one in live)
        return [Expiring(key.name, ids, format_timestamp(served_until))]

    def _owns(self, key: DesiredKey) -> bool:
        return self._environment.owns_key(key.name)

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
        if not self._owns(key):
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
                f"{key.name!r} has no `rotate`, so nothing determines when to revoke the old key. "
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
            owned = self._owns(key)
            all_read = not any(isinstance(one, Unavailable) for one in name.contents)
            if self._options.dedupe and owned and all_read:
                yield from (revoke(one, "duplicate", key) for one in keys.duplicates)
            else:
                others: Literal["owned", "not_owned"] = "owned" if owned else "not_owned"
                yield Duplicate(key.name, name.ids, keys.current.id, others, rotated)
        elif len(keys.predecessors) > 1:
            yield Duplicate(key.name, name.ids, keys.current.id, "superseded", rotated)

    def _changes(self, key: DesiredKey, current: ObservedKey) -> list[Step]:
        """Return the differences from the manifest: an update for an owned key, else findings."""
        ids, expiry = (current.id,), key.expiry
        steps: list[Step] = []
        changes: list[Change] = []
        if isinstance(expiry, ExpiresAt):
            difference = current.expires_at - expiry.timestamp
            if difference.days or difference.seconds:  # milliseconds identify the run
                actual, desired = map(format_timestamp, (current.expires_at, expiry.timestamp))
                changes.append(Change("expires", actual, desired))
        elif isinstance(expiry, ExpiresAfter):
            latest = self._roles.expires_at(key)
            if current.expires_at.replace(microsecond=0) > latest:
                actual, desired = map(format_timestamp, (current.expires_at, latest))
                steps.append(Drift(key.name, ids, "expires", actual, desired, "lifetime"))
        role = self._roles.drift(key, current)
        if role is not None:
            changes.append(Change("role", current.role, role))
        if not changes:
            return steps
        if self._owns(key):
            return [*steps, self._update(key, current, tuple(changes))]
        return steps + [
            Drift(key.name, ids, one.field, one.actual, one.desired, "not_owned") for one in changes
        ]

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
            blocked=blocked or self._roles.expiry_failure(key, expires_at.replace(microsecond=0)),
            annotations=key.annotations,
        )

    def _predecessors(self, name: _Name, end: OverlapEnd | None) -> Iterator[Step]:
        """Yield the revocations of predecessors whose overlap is over, and their role drift."""
        key = name.key
        over = isinstance(end, datetime) and end <= self._server_time
        for one in name.keys.predecessors:
            if over and self._owns(key) and not self._options.redeliver:
                yield revoke(one, "superseded", key)
        for one in name.keys.predecessors:
            role = self._roles.drift(key, one)
            if role is not None:
                yield Drift(key.name, (one.id,), "role", one.role, role, "rotated")

    def _upcoming(
        self, name: _Name, end: OverlapEnd | None, steps: Sequence[Step]
    ) -> Iterator[Upcoming]:
        """Yield the revocations of predecessors whose overlap is not over, after these steps."""
        now, start = self._server_time, name.keys.current.created_at
        delivers = any(isinstance(one, Deliver) and one.blocked is None for one in steps)
        if delivers and end is not None:
            end, start = "delivery", now
        if isinstance(end, datetime) and end <= now:
            return
        yield from self._announced(name, name.keys.predecessors, end, start)

    def _after_rotation(
        self, name: _Name, rotate: Rotate, steps: Sequence[Step]
    ) -> Iterator[Upcoming]:
        """Yield the later revocations of the keys that a rotation of this plan replaces."""
        if rotate.at_once or rotate.blocked or not can_show_delivery(name.key, name.contents):
            return
        expires_at = rotate.predecessor_expires_at
        revoked = {one.key_id for one in steps if isinstance(one, Revoke)}
        replaced = [
            replace(one, expires_at=min(one.expires_at, expires_at or one.expires_at))
            for one in name.live
            if one.id in rotate.predecessors and one.id not in revoked
        ]
        yield from self._announced(name, replaced, "delivery", self._server_time)

    def _announced(
        self,
        name: _Name,
        predecessors: Sequence[ObservedKey],
        end: OverlapEnd | None,
        earliest: datetime,
    ) -> Iterator[Upcoming]:
        """Yield the later revocations of keys that may be revoked."""
        if self._owns(name.key):
            others = (one for one in predecessors if one.id != self._own_key)
            yield from later_revocations(name.key, others, end, self._server_time, earliest)

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
            and any(
                isinstance(one, Unreadable) and one.proven_token is None for one in name.contents
            )
        )
        yield from plan_delivery(
            name.key,
            name.keys,
            acceptable,
            self._sink_contents,
            self._server_time,
            redeliver=redeliver,
        )
