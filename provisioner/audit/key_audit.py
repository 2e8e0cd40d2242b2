"""The hygiene of a fleet: every live key held against the clock, its manifest and its sinks.

A pure judgement of what was looked at; the clock is an argument, and nothing is read or written.
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
"""What is worth knowing of a key; section "report" of docs/commands.md says what each means."""

Delivery = Literal["yes", "no", "unknown", "none"]
"""Whether the sinks of a key hold its token: all do, one does not, nobody can tell, or none is to:
no manifest names a sink for it, or a rotation has given it a successor."""

_NEVER_EXPIRES_AFTER = timedelta(days=50 * 365)
"""An end further away than this is none: Twenty's own pages write 100 years for `never`."""

_POLICY_TOLERANCE = timedelta(minutes=1)
"""How much longer than a policy allows a key may live: its end was counted by another clock."""

_NOT_READ = Unreadable(None)


@dataclass(frozen=True, slots=True)
class AuditInput:
    """What was seen of one environment, and what its manifests want.

    Attributes:
        sink_contents: of the sinks of its live keys; a sink that is missing here was not read.
    """

    environment: Environment
    desired: tuple[DesiredKey, ...]
    observation: Observation
    sink_contents: Mapping[Address, SinkContent]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAudit:
    """One live key.

    Attributes:
        age: whole days since it was created, by the server's clock.
        left: whole days until its end, by the server's clock.
        role: its label, None where none is seen.
        declared: whether a manifest wants its name.
        rotation: from when on it is to have a successor, None where it gets none.
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
        """Whether someone, or the next run, has to see to it."""
        return "expiring" in self.notes or "rotation_due" in self.notes


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentAudit:
    """The live keys of one environment.

    Attributes:
        server_time: the server's clock, by which all was judged.
        keys: those that end first stand first.
        missing: names that its manifests want and that no live key has.
    """

    environment: str
    url: str
    generation: Generation
    server_time: datetime
    keys: tuple[KeyAudit, ...]
    missing: tuple[str, ...]

    @property
    def due(self) -> int:
        """How many keys are due."""
        return sum(key.due for key in self.keys)

    @property
    def notes(self) -> Counter[Note]:
        """How many keys have each note."""
        return Counter(note for key in self.keys for note in key.notes)


@dataclass(frozen=True, slots=True)
class FleetAudit:
    """The live keys of all environments.

    Attributes:
        created_at: when the look began.
        within: how near an end has to be for the note `expiring`.
        environments: in the order of environments.yaml.
    """

    created_at: datetime
    within: timedelta
    environments: tuple[EnvironmentAudit | Unobserved, ...]

    @property
    def observed(self) -> tuple[EnvironmentAudit, ...]:
        """The environments that could be looked at."""
        return tuple(one for one in self.environments if isinstance(one, EnvironmentAudit))

    @property
    def unobserved(self) -> tuple[Unobserved, ...]:
        """The environments that could not."""
        return tuple(one for one in self.environments if isinstance(one, Unobserved))

    @property
    def due(self) -> int:
        """How many keys are due in all environments."""
        return sum(one.due for one in self.observed)

    @property
    def missing(self) -> int:
        """How many names have no live key, in all environments."""
        return sum(len(one.missing) for one in self.observed)

    @property
    def notes(self) -> Counter[Note]:
        """How many keys have each note, in all environments."""
        return sum((one.notes for one in self.observed), Counter())


def audit(
    inputs: Iterable[AuditInput | Unobserved],
    now: datetime,
    within: timedelta,
    only: tuple[str, ...] = (),
) -> FleetAudit:
    """Judges every live key of a fleet.

    Args:
        looks: one for each environment.
        now: when the look began.
        within: how near an end has to be for the note `expiring`.
        only: globs of the names of the keys that are judged; none means all.
    """
    seen = tuple(inputs)
    options = PlanOptions(only=only)
    live = {
        look.environment.name: _live(look.observation, options)
        for look in seen
        if isinstance(look, AuditInput)
    }
    almighty = Counter(
        name
        for look in seen
        if isinstance(look, AuditInput)
        for name, keys in live[look.environment.name].items()
        if any(_is_admin(look.observation.roles, key) for key in keys)
    )
    shared = frozenset(name for name, environments in almighty.items() if environments > 1)
    return FleetAudit(
        now,
        within,
        tuple(
            look
            if isinstance(look, Unobserved)
            else _EnvironmentAuditor(look, within, shared).environment(
                live[look.environment.name], options
            )
            for look in seen
        ),
    )


class _EnvironmentAuditor:
    """What is to be said of the keys of one environment."""

    def __init__(self, look: AuditInput, within: timedelta, shared: frozenset[str]) -> None:
        self._look = look
        self._sink_contents = on_server_clock(look.sink_contents, look.observation.server_ahead)
        self._now = look.observation.server_time
        self._horizon = self._now + within
        self._shared = shared

    def environment(
        self, live: Mapping[str, tuple[ObservedKey, ...]], options: PlanOptions
    ) -> EnvironmentAudit:
        wanted = {key.name: key for key in self._look.desired if options.selects(key.name)}
        keys = [
            self._key(one, wanted.get(name), same, told_apart)
            for name, same in live.items()
            for told_apart in (self._classify(wanted.get(name), same),)
            for one in same
        ]
        return EnvironmentAudit(
            environment=self._look.environment.name,
            url=self._look.environment.url,
            generation=self._look.observation.generation,
            server_time=self._now,
            keys=tuple(sorted(keys, key=lambda one: (one.expires_at, one.name, one.id))),
            missing=tuple(name for name in wanted if name not in live),
        )

    def _key(
        self,
        key: ObservedKey,
        wanted: DesiredKey | None,
        same: tuple[ObservedKey, ...],
        keys: LiveKeys,
    ) -> KeyAudit:
        rotation, current = None, True
        if wanted is not None and wanted.rotation is not None:
            current = key is keys.current
            rotation = key.expires_at - wanted.rotation.before if current else None
        return KeyAudit(
            name=key.name,
            id=key.id,
            created_at=key.created_at,
            expires_at=key.expires_at,
            age_days=max(0, (self._now - key.created_at).days),
            days_left=(key.expires_at - self._now).days,
            role=key.role,
            declared=wanted is not None,
            delivery=self._delivery(wanted, (key,)) if wanted is not None and current else "none",
            rotation=rotation,
            notes=tuple(self._notes(key, wanted, same, keys, rotation)),
        )

    def _notes(
        self,
        key: ObservedKey,
        wanted: DesiredKey | None,
        same: tuple[ObservedKey, ...],
        keys: LiveKeys,
        rotation: datetime | None,
    ) -> Iterator[Note]:
        if key.expires_at <= self._horizon and key.id in self._serving(wanted, same, keys):
            yield "expiring"
        if rotation is not None and rotation <= self._now:
            yield "rotation_due"
        if key.expires_at - self._now > _NEVER_EXPIRES_AFTER:
            yield "never_expires"
        policy = self._look.environment.policy
        longest = None if policy is None else policy.max_lifetime
        if longest is not None and key.expires_at - key.created_at > longest + _POLICY_TOLERANCE:
            yield "too_long"
        if wanted is None:
            yield "unmanaged"
        else:
            yield from self._declared_key_notes(key, wanted, same, keys)
        if key.name in self._shared and _is_admin(self._look.observation.roles, key):
            yield "shared_admin"

    def _classify(self, wanted: DesiredKey | None, same: tuple[ObservedKey, ...]) -> LiveKeys:
        """The live keys of a name as a plan has them."""
        addresses = () if wanted is None else wanted.deliver
        sink_contents = (
            self._sink_contents[address] for address in addresses if address in self._sink_contents
        )
        return classify_live_keys(wanted, same, sink_contents)

    def _serving(
        self, wanted: DesiredKey | None, same: tuple[ObservedKey, ...], keys: LiveKeys
    ) -> frozenset[str]:
        """The ids of the keys whose end may cut someone off: those held, or the key of a name.

        In a rotation both, as older ones may be held because it is not delivered yet. Of keys that
        no manifest wants nobody knows which is in use: the last to end.
        """
        if wanted is None:
            last = max(one.expires_at for one in same)
            return frozenset(one.id for one in same if one.expires_at == last)
        sink_contents = {
            found.key.lower()
            for address in wanted.deliver
            if isinstance(found := self._sink_contents.get(address), ApiKeyToken)
        }
        serving = frozenset(one.id for one in same if one.id.lower() in sink_contents)
        if wanted.rotation is not None or not serving:
            return serving | {keys.current.id}
        return serving

    def _declared_key_notes(
        self,
        key: ObservedKey,
        wanted: DesiredKey,
        same: tuple[ObservedKey, ...],
        keys: LiveKeys,
    ) -> Iterator[Note]:
        """Duplicates, and the delivery of the one key that counts as the key of its name."""
        rotated = wanted.rotation is not None
        if key in keys.duplicates or (keys.duplicates and not rotated):
            yield "duplicate"
        if key in keys.predecessors:
            yield "superseded"
        if key is keys.current:
            match self._delivery(wanted, (key,) if rotated else same):
                case "no":
                    yield "undelivered"
                case "unknown":
                    yield "delivery_unknown"
                case "yes" | "none":
                    pass

    def _delivery(self, wanted: DesiredKey, keys: Sequence[ObservedKey]) -> Delivery:
        """Whether every sink holds a token of one of these keys."""
        if not wanted.deliver:
            return "none"
        sink_contents = [self._sink_contents.get(address, _NOT_READ) for address in wanted.deliver]
        told = [one for one in sink_contents if not _tells_nothing(one)]
        if not all(any(holds_good_token(one, key) for key in keys) for one in told):
            return "no"
        return "yes" if len(told) == len(sink_contents) else "unknown"


def _live(observation: Observation, options: PlanOptions) -> Mapping[str, tuple[ObservedKey, ...]]:
    """The live keys of each name, the oldest first, as a plan has them."""
    found = by_name(
        key
        for key in observation.keys
        if key.live(observation.server_time) and options.selects(key.name)
    )
    return {name: tuple(keys) for name, keys in found.items()}


def _is_admin(roles: Roles, key: ObservedKey) -> bool:
    """Whether a key may do everything, as far as its role's label tells; legacy knows no roles."""
    match roles:
        case NoRoles():
            return True
        case HiddenRoles() | KnownRoles():
            return key.role is not None and key.role.casefold() == "admin"
        case _:
            assert_never(roles)


def _tells_nothing(sink_contents: SinkContent) -> bool:
    """Whether a sink says nothing of the token in it."""
    return isinstance(sink_contents, Unavailable) or (
        isinstance(sink_contents, Unreadable) and sink_contents.updated_at is None
    )
