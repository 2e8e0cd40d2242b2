"""What becomes of the live keys of one wanted name: kept, changed, followed, delivered, ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from provisioner.errors.failure import Failure
from provisioner.model.expiry import ExpiresAfter, ExpiresAt, due, format_moment
from provisioner.model.globs import matches
from provisioner.model.sink_content import TokenOf, Untold, Unusable
from provisioner.plan.actions import Change, Drift, Duplicate, Expiring, Revoke, Rotate, Update
from provisioner.plan.delivery import delivery, on_server_clock, proven, since
from provisioner.plan.expiry_check import unfit
from provisioner.plan.rotation import tell_apart

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from provisioner.model.desired import DesiredKey, Environment
    from provisioner.model.observed import ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import Held
    from provisioner.plan.actions import Action, Create, Finding, RevokeReason
    from provisioner.plan.options import Wishes
    from provisioner.plan.roles import RoleChoice
    from provisioner.plan.rotation import LiveKeys


@dataclass(frozen=True, slots=True)
class Moments:
    """What a plan counts from.

    Attributes:
        now: the moment of the plan, from which durations count.
        server_time: the server's own, which judges what is live.
        soon: an end before it is a finding.
        ahead: how far the server's clock is ahead of ours; None where it does not tell.
    """

    now: datetime
    server_time: datetime
    soon: datetime
    ahead: timedelta | None = None


class Lifecycle:
    """What becomes of the live keys of wanted names in one environment.

    `provisioner.plan.rotation` says which of several live keys of a name is the key.
    """

    def __init__(
        self,
        environment: Environment,
        choose: RoleChoice,
        moments: Moments,
        wishes: Wishes,
        held: Mapping[Address, Held],
    ) -> None:
        self._environment = environment
        self._choose = choose
        self._moments = moments
        self._wishes = wishes
        self._held = on_server_clock(held, moments.ahead)

    def of(
        self, key: DesiredKey, live: list[ObservedKey], end: datetime
    ) -> tuple[list[Action], list[Finding]]:
        """The actions and findings of one name; a key without an action is kept.

        Args:
            key: the desired key.
            live: its live keys, the oldest first; one at least.
            end: of a key that would be made now.
        """
        owned = matches(key.name, self._environment.owns)
        keys = tell_apart(key, live, self._holdings(key))
        current = keys.current
        if self._wishes.rotate:
            return [self._asked(key, live, keys, end, owned=owned)], []
        actions, findings = self._surplus(key, live, keys, owned=owned)
        changes, drift = self._changes(key, current, owned=owned)
        actions += [*changes, *self._superseded(key, keys, owned=owned)]
        findings += [*drift, *self._left_behind(key, keys.predecessors)]
        if self._due(key, current):
            successor = self._successor(key, end)
            ids = tuple(one.id for one in (*keys.predecessors, current))
            actions.append(Rotate("due", successor, ids))
            if successor.blocked is None:
                return actions, findings
        last = self._last(key, current, live)
        if last <= self._moments.soon:
            findings.append(Expiring(key.name, tuple(one.id for one in live), format_moment(last)))
        delivers = (one for one in actions if isinstance(one, Update) and one.blocked is None)
        if not any(one.sinks for one in delivers):
            acceptable = [current] if key.rotation is not None or self._wishes.dedupe else live
            wishes = self._wishes
            if any(isinstance(one, Revoke) and one.reason == "duplicate" for one in actions):
                # Whose token a sink that cannot be read holds nobody knows.
                untold = any(isinstance(one, Untold) for one in self._holdings(key))
                wishes = replace(wishes, redeliver=wishes.redeliver or untold)
            action, unknown = delivery(
                key, keys, acceptable, self._held, wishes, self._moments.server_time
            )
            actions += [] if action is None else [action]
            findings += [] if unknown is None else [unknown]
        return actions, findings

    def _asked(
        self,
        key: DesiredKey,
        live: list[ObservedKey],
        keys: LiveKeys,
        end: datetime,
        *,
        owned: bool,
    ) -> Rotate:
        """The successor that someone asked for, blocked where the old key could not end."""
        successor = self._successor(key, end)
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
        elif key.rotation is None and not self._wishes.at_once:
            blocked = Failure(
                "rotation_unsaid",
                f"{key.name!r} has no `rotate`, so that nothing says when the old key ends. Write "
                "one, or use --now.",
            )
        elif key.rotation is not None and keys.predecessors and not self._wishes.at_once:
            over = format_moment(keys.current.created_at + key.rotation.overlap)
            blocked = Failure(
                "rotation_running",
                f"{key.name!r} has {len(live)} live keys: its last rotation is not over. The next "
                f"`apply` after {over} ends the older ones. Wait for it, or use --now.",
            )
        successor = successor._replace(blocked=blocked)
        if self._wishes.at_once or key.rotation is None:
            return Rotate("asked", successor, tuple(one.id for one in live), self._wishes.at_once)
        due_at = self._moments.server_time + key.rotation.before
        due_at = due_at.replace(microsecond=keys.current.expires_at.microsecond)
        return Rotate(
            "asked",
            successor,
            (keys.current.id,),
            due_at=due_at if due_at < keys.current.expires_at else None,
        )

    def _due(self, key: DesiredKey, current: ObservedKey) -> bool:
        """Whether the key is to have a successor, whatever older ones live on beside it."""
        if key.rotation is None:
            return False
        return current.expires_at - key.rotation.before <= self._moments.server_time

    def _successor(self, key: DesiredKey, end: datetime) -> Create:
        return self._choose.create(key, "missing", end, self._moments.server_time)

    def _last(self, key: DesiredKey, current: ObservedKey, live: list[ObservedKey]) -> datetime:
        """Until when the name serves: as its sinks hold it, or else as its keys live."""
        held = {one.key.lower() for one in self._holdings(key) if isinstance(one, TokenOf)}
        ends = [one.expires_at for one in live if one.id.lower() in held]
        if key.rotation is not None:
            return min([current.expires_at, *ends])
        return min(ends, default=current.expires_at)

    def _holdings(self, key: DesiredKey) -> list[Held]:
        return [self._held[address] for address in key.deliver if address in self._held]

    def _changes(
        self, key: DesiredKey, current: ObservedKey, *, owned: bool
    ) -> tuple[list[Action], list[Finding]]:
        """What of the key is to be otherwise: an action where it is owned, else a finding."""
        changes: list[Change] = []
        findings: list[Finding] = []
        end = current.expires_at
        if isinstance(key.expiry, ExpiresAt):
            gap = end - key.expiry.moment
            if gap.days or gap.seconds:  # milliseconds are the mark of a run
                wanted = format_moment(key.expiry.moment)
                changes.append(Change("expires", format_moment(end), wanted))
        elif isinstance(key.expiry, ExpiresAfter):
            longest = due(key.expiry, self._moments.now)
            if end.replace(microsecond=0) > longest:
                was, most = format_moment(end), format_moment(longest)
                ids = (current.id,)
                findings.append(Drift(key.name, ids, "expires", was, most, "lifetime"))
        role = self._choose.drift(key, current)
        if role is not None:
            changes.append(Change("role", current.role, role))
        if not changes:
            return [], findings
        if not owned:
            findings += [
                Drift(key.name, (current.id,), one.what, one.was, one.wanted, "not_owned")
                for one in changes
            ]
            return [], findings
        return [self._update(key, current, tuple(changes))], findings

    def _left_behind(self, key: DesiredKey, predecessors: tuple[ObservedKey, ...]) -> list[Finding]:
        """What predecessors in a rotation keep until they end."""
        roles = ((one, self._choose.drift(key, one)) for one in predecessors)
        return [
            Drift(key.name, (one.id,), "role", one.role, role, "rotated")
            for one, role in roles
            if role is not None
        ]

    def _update(self, key: DesiredKey, current: ObservedKey, changes: tuple[Change, ...]) -> Update:
        moves = any(one.what == "expires" for one in changes)
        end = current.expires_at
        if moves and isinstance(key.expiry, ExpiresAt):
            # The milliseconds stay: they are the mark of the run that made the key.
            end = key.expiry.moment.replace(microsecond=end.microsecond)
        written, role_id, unassignable = self._choose.role_of(key)
        assigns = any(one.what == "role" for one in changes)
        unfitting = unfit(self._environment, key, end, self._moments.server_time)
        blocked = (unassignable if assigns else None) or unfitting
        return Update(
            name=key.name,
            reason="drift",
            depth=key.depth,
            expires_at=end,
            role=written if assigns else current.role,
            key_id=current.id,
            changes=changes,
            moves_end=moves,
            role_id=role_id if assigns else None,
            place=key.place,
            sinks=key.deliver if moves else (),
            blocked=blocked,
        )

    def _surplus(
        self, key: DesiredKey, live: list[ObservedKey], keys: LiveKeys, *, owned: bool
    ) -> tuple[list[Action], list[Finding]]:
        """More live keys of a name than there should be."""
        ids = tuple(one.id for one in live)
        current, rotated = keys.current.id, key.rotation is not None
        if keys.duplicates:
            looked_into = not any(isinstance(one, Unusable) for one in self._holdings(key))
            if self._wishes.dedupe and owned and looked_into:
                return [revoke(one, "duplicate", key) for one in keys.duplicates], []
            told: Literal["owned", "not_owned"] = "owned" if owned else "not_owned"
            return [], [Duplicate(key.name, ids, current, told, rotated)]
        if len(keys.predecessors) > 1:
            return [], [Duplicate(key.name, ids, current, "superseded", rotated)]
        return [], []

    def _superseded(self, key: DesiredKey, keys: LiveKeys, *, owned: bool) -> list[Action]:
        """The predecessors, when their successor is delivered and the overlap is over."""
        if key.rotation is None or not keys.predecessors or not owned:
            return []
        delivered = self._delivered(key, keys.current)
        if delivered is None or self._wishes.redeliver:
            return []
        over = delivered + key.rotation.overlap <= self._moments.server_time
        return [revoke(one, "superseded", key) for one in keys.predecessors] if over else []

    def _delivered(self, key: DesiredKey, current: ObservedKey) -> datetime | None:
        """Since when every sink is proven to have the token of the key.

        None where one is not; without a sink nobody has it.
        """
        holdings = [self._held.get(address, Untold(None)) for address in key.deliver]
        if not holdings or not all(proven(one, current) for one in holdings):
            return None
        return max([current.created_at, *filter(None, map(since, holdings))])


def revoke(observed: ObservedKey, reason: RevokeReason, key: DesiredKey | None = None) -> Revoke:
    """The end of one live key."""
    return Revoke(
        name=observed.name,
        reason=reason,
        key_id=observed.id,
        expires_at=observed.expires_at,
        role=observed.role,
        place=None if key is None else key.place,
    )
