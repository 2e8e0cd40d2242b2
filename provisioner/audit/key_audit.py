"""The audit of keys: compares every live key with the clock, its manifest and its sinks.

A pure function of what was observed; the clock is an argument, and nothing is read or written.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, assert_never

from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles, by_name
from provisioner.model.sink_content import ApiKeyToken, Unavailable, Unreadable
from provisioner.plan import PlanOptions, Unobserved, classify_live_keys
from provisioner.plan.delivery import holds_good_token, on_server_clock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from provisioner.model.environment import Environment, Generation
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation, ObservedKey, Roles
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan import LiveKeys

Note = Literal[
    "expiring",
    "rotation_due",
    "never_expires",
    "too_long",
    "duplicate",
    "superseded",
    "unmanaged",
    "undelivered",
    "delivery_unknown",
    "shared_admin",
]
"""A note on a key; the section "report" of docs/commands.md explains each."""

Delivery = Literal["yes", "no", "unknown", "none"]
"""The state of the sinks of a key: `yes` if all hold its token, `no` if one does not, `unknown` if
that cannot be verified, `none` if no sink should hold it: it has no sink, or it has a successor."""

_NEVER_EXPIRES_AFTER = timedelta(days=50 * 365)
"""An expiry further away than this means never: Twenty's own pages write 100 years for it."""

_POLICY_TOLERANCE = timedelta(minutes=1)
"""The time that a key may live beyond the policy, as its expiry was set by another clock."""

_NOT_READ = Unreadable(None)


@dataclass(frozen=True, slots=True)
class AuditInput:
    """The observed state of one environment and its desired keys.

    Attributes:
        sink_contents: the contents of the sinks of its live keys; a missing sink was not read.
    """

    environment: Environment
    desired: tuple[DesiredKey, ...]
    observation: Observation
    sink_contents: Mapping[Address, SinkContent]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAudit:
    """The audit of one live key.

    Attributes:
        age_days: whole days since it was created, by the server's clock.
        days_left: whole days until it expires, by the server's clock.
        role: the label of its role; None if it has none or it cannot be seen.
        declared: whether a manifest declares its name.
        delivery: the state of its sinks.
        rotation: the time from which it needs a successor; None if it gets none.
        notes: in the order of `Note`.
    """

    name: str
    id: str
    created_at: datetime
    expires_at: datetime
    age_days: int
    days_left: int
    role: str | None
    declared: bool
    delivery: Delivery
    rotation: datetime | None
    notes: tuple[Note, ...]

    @property
    def due(self) -> bool:
        """Return whether the user or the next run must act on it."""
        return "expiring" in self.notes or "rotation_due" in self.notes


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentAudit:
    """The audit of the live keys of one environment.

    Attributes:
        server_time: the server's time, which all results refer to.
        keys: the live keys; those that expire first come first.
        missing: names that its manifests declare and that no live key has.
    """

    environment: str
    url: str
    generation: Generation
    server_time: datetime
    keys: tuple[KeyAudit, ...]
    missing: tuple[str, ...]

    @property
    def due(self) -> int:
        """Return the number of keys that are due."""
        return sum(key.due for key in self.keys)

    @property
    def notes(self) -> Counter[Note]:
        """Return the number of keys with each note."""
        return Counter(note for key in self.keys for note in key.notes)


@dataclass(frozen=True, slots=True)
class FleetAudit:
    """The audit of the live keys of all environments.

    Attributes:
        created_at: the time at which the audit began.
        within: the time before its expiry at which a key gets the note `expiring`.
        environments: in the order of environments.yaml.
    """

    created_at: datetime
    within: timedelta
    environments: tuple[EnvironmentAudit | Unobserved, ...]

    @property
    def observed(self) -> tuple[EnvironmentAudit, ...]:
        """Return the environments that were observed."""
        return tuple(one for one in self.environments if isinstance(one, EnvironmentAudit))

    @property
    def unobserved(self) -> tuple[Unobserved, ...]:
        """Return the environments that could not be observed."""
        return tuple(one for one in self.environments if isinstance(one, Unobserved))

    @property
    def due(self) -> int:
        """Return the number of due keys in all environments."""
        return sum(one.due for one in self.observed)

    @property
    def missing(self) -> int:
        """Return the number of names without a live key in all environments."""
        return sum(len(one.missing) for one in self.observed)

    @property
    def notes(self) -> Counter[Note]:
        """Return the number of keys with each note in all environments."""
        return sum((one.notes for one in self.observed), Counter())


def audit(
    inputs: Iterable[AuditInput | Unobserved],
    now: datetime,
    within: timedelta,
    only: tuple[str, ...] = (),
) -> FleetAudit:
    """Audit every live key of all environments.

    Args:
        inputs: one value for each environment.
        now: the time at which the audit began.
        within: the time before its expiry at which a key gets the note `expiring`.
        only: globs of the names of the audited keys; empty for all.
    """
    environments = tuple(inputs)
    options = PlanOptions(only=only)
    live = {
        one.environment.name: _live(one.observation, options)
        for one in environments
        if isinstance(one, AuditInput)
    }
    admin_counts = Counter(
        name
        for one in environments
        if isinstance(one, AuditInput)
        for name, keys in live[one.environment.name].items()
        if any(_is_admin(one.observation.roles, key) for key in keys)
    )
    shared_admins = frozenset(name for name, count in admin_counts.items() if count > 1)
    return FleetAudit(
        now,
        within,
        tuple(
            one
            if isinstance(one, Unobserved)
            else _EnvironmentAuditor(one, within, shared_admins).audit(
                live[one.environment.name], options
            )
            for one in environments
        ),
    )


class _EnvironmentAuditor:
    """The audit of the keys of one environment."""

    def __init__(
        self, audit_input: AuditInput, within: timedelta, shared_admins: frozenset[str]
    ) -> None:
        self._input = audit_input
        observation = audit_input.observation
        self._sink_contents = on_server_clock(audit_input.sink_contents, observation.server_ahead)
        self._now = observation.server_time
        self._expiring_before = self._now + within
        self._shared_admins = shared_admins

    def audit(
        self, live: Mapping[str, tuple[ObservedKey, ...]], options: PlanOptions
    ) -> EnvironmentAudit:
        desired = {key.name: key for key in self._input.desired if options.selects(key.name)}
        keys = [
            self._key(one, desired.get(name), same_name, classified)
            for name, same_name in live.items()
            for classified in (self._classify(desired.get(name), same_name),)
            for one in same_name
        ]
        return EnvironmentAudit(
            environment=self._input.environment.name,
            url=self._input.environment.url,
            generation=self._input.observation.generation,
            server_time=self._now,
            keys=tuple(sorted(keys, key=lambda one: (one.expires_at, one.name, one.id))),
            missing=tuple(name for name in desired if name not in live),
        )

    def _key(
        self,
        key: ObservedKey,
        desired: DesiredKey | None,
        same_name: tuple[ObservedKey, ...],
        keys: LiveKeys,
    ) -> KeyAudit:
        rotation, current = None, True
        if desired is not None and desired.rotation is not None:
            current = key is keys.current
            rotation = key.expires_at - desired.rotation.before if current else None
        return KeyAudit(
            name=key.name,
            id=key.id,
            created_at=key.created_at,
            expires_at=key.expires_at,
            age_days=max(0, (self._now - key.created_at).days),
            days_left=(key.expires_at - self._now).days,
            role=key.role,
            declared=desired is not None,
            delivery=self._delivery(desired, (key,)) if desired is not None and current else "none",
            rotation=rotation,
            notes=tuple(self._notes(key, desired, same_name, keys, rotation)),
        )

    def _notes(
        self,
        key: ObservedKey,
        desired: DesiredKey | None,
        same_name: tuple[ObservedKey, ...],
        keys: LiveKeys,
        rotation: datetime | None,
    ) -> Iterator[Note]:
        if key.expires_at <= self._expiring_before and key.id in self._in_use(
            desired, same_name, keys
        ):
            yield "expiring"
        if rotation is not None and rotation <= self._now:
            yield "rotation_due"
        if key.expires_at - self._now > _NEVER_EXPIRES_AFTER:
            yield "never_expires"
        policy = self._input.environment.policy
        max_lifetime = None if policy is None else policy.max_lifetime
        lifetime = key.expires_at - key.created_at
        if max_lifetime is not None and lifetime > max_lifetime + _POLICY_TOLERANCE:
            yield "too_long"
        if desired is None:
            yield "unmanaged"
        else:
            yield from self._declared_key_notes(key, desired, same_name, keys)
        if key.name in self._shared_admins and _is_admin(self._input.observation.roles, key):
            yield "shared_admin"

    def _classify(self, desired: DesiredKey | None, same_name: tuple[ObservedKey, ...]) -> LiveKeys:
        """Classify the live keys of a name as a plan does."""
        addresses = () if desired is None else desired.deliver
        sink_contents = (
            self._sink_contents[address] for address in addresses if address in self._sink_contents
        )
        return classify_live_keys(desired, same_name, sink_contents)

    def _in_use(
        self, desired: DesiredKey | None, same_name: tuple[ObservedKey, ...], keys: LiveKeys
    ) -> frozenset[str]:
        """Return the ids of the keys in use: those in sinks, or else the current key.

        With a rotation both count, because sinks hold an older key until the current one is
        delivered. For an undeclared name nobody knows, so it is the last key to expire.
        """
        if desired is None:
            last = max(one.expires_at for one in same_name)
            return frozenset(one.id for one in same_name if one.expires_at == last)
        token_ids = {
            content.key.lower()
            for address in desired.deliver
            if isinstance(content := self._sink_contents.get(address), ApiKeyToken)
        }
        in_use = frozenset(one.id for one in same_name if one.id.lower() in token_ids)
        if desired.rotation is not None or not in_use:
            return in_use | {keys.current.id}
        return in_use

    def _declared_key_notes(
        self,
        key: ObservedKey,
        desired: DesiredKey,
        same_name: tuple[ObservedKey, ...],
        keys: LiveKeys,
    ) -> Iterator[Note]:
        """Yield the notes on duplicates, predecessors and the delivery of the current key."""
        rotated = desired.rotation is not None
        if key in keys.duplicates or (keys.duplicates and not rotated):
            yield "duplicate"
        if key in keys.predecessors:
            yield "superseded"
        if key is keys.current:
            match self._delivery(desired, (key,) if rotated else same_name):
                case "no":
                    yield "undelivered"
                case "unknown":
                    yield "delivery_unknown"
                case "yes" | "none":
                    pass

    def _delivery(self, desired: DesiredKey, keys: Sequence[ObservedKey]) -> Delivery:
        """Return the state of the sinks, where the token of any of these keys is good."""
        if not desired.deliver:
            return "none"
        sink_contents = [self._sink_contents.get(address, _NOT_READ) for address in desired.deliver]
        known = [one for one in sink_contents if not _is_unknown(one)]
        if not all(any(holds_good_token(one, key) for key in keys) for one in known):
            return "no"
        return "yes" if len(known) == len(sink_contents) else "unknown"


def _live(observation: Observation, options: PlanOptions) -> Mapping[str, tuple[ObservedKey, ...]]:
    """Return the live keys of each name, the oldest first, as a plan orders them."""
    groups = by_name(
        key
        for key in observation.keys
        if key.live(observation.server_time) and options.selects(key.name)
    )
    return {name: tuple(keys) for name, keys in groups.items()}


def _is_admin(roles: Roles, key: ObservedKey) -> bool:
    """Return whether a key can do everything, by its role's label; legacy has no roles."""
    match roles:
        case NoRoles():
            return True
        case HiddenRoles() | KnownRoles():
            return key.role is not None and key.role.casefold() == "admin"
        case _:
            assert_never(roles)


def _is_unknown(content: SinkContent) -> bool:
    """Return whether nothing is known about the token in a sink."""
    return isinstance(content, Unavailable) or (
        isinstance(content, Unreadable) and content.updated_at is None
    )
