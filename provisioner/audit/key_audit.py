"""The audit of keys: compares every live key with the clock, its manifest and its sinks.

A pure function of what was observed; the clock is an argument, and nothing is read or written.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from provisioner.model.expiry import EFFECTIVELY_NEVER
from provisioner.model.observed import NoRoles, by_name
from provisioner.model.sink_content import Unavailable, Unreadable, token_ids
from provisioner.plan import (
    PlanOptions,
    Unobserved,
    classify_live_keys,
    former_names,
    name_of_live_keys,
)
from provisioner.plan.delivery import (
    holds_good_token,
    needs_token,
    on_server_clock,
    shows_no_delivery,
)
from provisioner.plan.overlap import later_revocations, overlap_end

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from provisioner.errors.problem import Place
    from provisioner.model.environment import Environment, Generation
    from provisioner.model.key import Annotations, DesiredKey
    from provisioner.model.observed import Observation, ObservedKey, Roles
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan import Upcoming
    from provisioner.plan.rotation import LiveKeys

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

DUE_NOTES: frozenset[Note] = frozenset({"expiring", "rotation_due"})
"""The notes of a key that the user or the next run must act on."""

Delivery = Literal["yes", "no", "unknown", "no_sink", "none"]
"""The state of the sinks of a key: `yes` if all hold its token, `no` if one does not, `unknown` if
that cannot be verified, `no_sink` if its manifest declares none, `none` if no sink should hold it:
no manifest declares it, or it has a successor."""

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
        place: the position in the manifest that declares its name; None if none does.
        sinks: the addresses of the sinks declared for its name, as text.
        delivery: the state of its sinks.
        rotation: the time from which it needs a successor; None if it gets none.
        notes: in the order of `Note`.
        annotations: what its manifest says about it for people; None without.
        revocation: its revocation by a later run, if its successor replaced it; None without.
    """

    name: str
    id: str
    created_at: datetime
    expires_at: datetime
    age_days: int
    days_left: int
    role: str | None
    place: Place | None
    sinks: tuple[str, ...]
    delivery: Delivery
    rotation: datetime | None
    notes: tuple[Note, ...]
    annotations: Annotations | None = None
    revocation: Upcoming | None = None

    @property
    def declared(self) -> bool:
        """Return whether a manifest declares its name."""
        return self.place is not None

    @property
    def due(self) -> bool:
        """Return whether the user or the next run must act on it."""
        return not DUE_NOTES.isdisjoint(self.notes)


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
    def upcoming(self) -> tuple[Upcoming, ...]:
        """Return the revocations that later runs will carry out by themselves."""
        return tuple(key.revocation for key in self.keys if key.revocation is not None)

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
    def keys(self) -> int:
        """Return the number of live keys in all environments."""
        return sum(len(one.keys) for one in self.observed)

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
    selects = PlanOptions(only=only).selects
    admins: Counter[str] = Counter()
    for one in environments:
        if isinstance(one, AuditInput):
            now_there, roles = one.observation.server_time, one.observation.roles
            admins.update(
                {
                    key.name
                    for key in one.observation.keys
                    if key.live(now_there)
                    and selects(key.name)
                    and not one.environment.ignores_key(key.name)
                    and _is_admin(roles, key)
                }
            )

    def audited(one: AuditInput) -> EnvironmentAudit:
        server_time = one.observation.server_time
        selected = [key for key in one.desired if selects(key.name)]
        former = former_names(selected)
        live = by_name(
            key
            for key in one.observation.keys
            if key.live(server_time)
            and (selects(key.name) or key.name in former)
            and not one.environment.ignores_key(key.name)
        )
        desired = {name_of_live_keys(key, live): key for key in selected}
        contents = on_server_clock(one.sink_contents, one.observation.server_ahead)
        keys = [
            key
            for name, same_name in live.items()
            for key in _audit_name(
                one, same_name, desired.get(name), contents, within, admins[name] > 1
            )
        ]
        return EnvironmentAudit(
            environment=one.environment.name,
            url=one.environment.url,
            generation=one.observation.generation,
            server_time=server_time,
            keys=tuple(sorted(keys, key=lambda key: (key.expires_at, key.name, key.id))),
            missing=tuple(name for name in desired if name not in live),
        )

    return FleetAudit(
        now,
        within,
        tuple(one if isinstance(one, Unobserved) else audited(one) for one in environments),
    )


def note_shared_admins(audit: FleetAudit) -> FleetAudit:
    """Note `shared_admin` again in an audit whose environments were not audited together."""
    admins: Counter[str] = Counter()
    for one in audit.observed:
        admins.update({key.name for key in one.keys if _was_admin(one, key)})

    def noted(one: EnvironmentAudit, key: KeyAudit) -> KeyAudit:
        others: tuple[Note, ...] = tuple(note for note in key.notes if note != "shared_admin")
        shared = admins[key.name] > 1 and _was_admin(one, key)
        return replace(key, notes=(*others, "shared_admin") if shared else others)

    environments = tuple(
        replace(one, keys=tuple(noted(one, key) for key in one.keys))
        if isinstance(one, EnvironmentAudit)
        else one
        for one in audit.environments
    )
    return replace(audit, environments=environments)


def _was_admin(environment: EnvironmentAudit, key: KeyAudit) -> bool:
    """Return whether an audited key can do everything, as `_is_admin`; only legacy has no roles."""
    return environment.generation == "legacy" or (key.role or "").casefold() == "admin"


def _audit_name(  # noqa: PLR0913, PLR0917 - all inputs of the notes on a key
    one: AuditInput,
    live: Sequence[ObservedKey],
    desired: DesiredKey | None,
    sink_contents: Mapping[Address, SinkContent],
    within: timedelta,
    shared_admin: bool,  # noqa: FBT001 - as above
) -> Iterator[KeyAudit]:
    """Yield the audit of each live key of a name, which are classified as a plan does."""
    now, roles, policy = one.observation.server_time, one.observation.roles, one.environment.policy
    max_lifetime = None if policy is None else policy.max_lifetime
    addresses = () if desired is None else desired.deliver
    contents = [sink_contents.get(address, _NOT_READ) for address in addresses]
    classified = classify_live_keys(desired, live, contents)
    duplicates = desired is not None and bool(classified.duplicates)
    rotates = None if desired is None else desired.rotation
    in_use = _ids_in_use(live, desired, contents, classified.current)
    revocations = {one.key_id: one for one in _revocations(one, desired, classified, contents)}
    sinks = tuple(map(str, addresses))
    for key in live:
        left, lifetime = key.expires_at - now, key.expires_at - key.created_at
        current = key is classified.current
        rotation = key.expires_at - rotates.before if rotates and current else None
        # Without a rotation, a token of any live key of the name will do.
        delivery = _delivery(desired, contents, (key,) if rotates else live)
        notes: dict[Note, bool] = {
            "expiring": left <= within and key.id in in_use,
            "rotation_due": rotation is not None and rotation <= now,
            "never_expires": left > EFFECTIVELY_NEVER,
            "too_long": max_lifetime is not None and lifetime > max_lifetime + _POLICY_TOLERANCE,
            "duplicate": duplicates and (not rotates or key in classified.duplicates),
            "superseded": desired is not None and key in classified.predecessors,
            "unmanaged": desired is None,
            "undelivered": current and delivery == "no",
            "delivery_unknown": current and delivery == "unknown",
            "shared_admin": shared_admin and _is_admin(roles, key),
        }
        yield KeyAudit(
            name=key.name,
            id=key.id,
            created_at=key.created_at,
            expires_at=key.expires_at,
            age_days=max(0, (now - key.created_at).days),
            days_left=left.days,
            role=key.role,
            place=None if desired is None else desired.place,
            sinks=sinks,
            delivery=_delivery(desired, contents, (key,)) if current or not rotates else "none",
            rotation=rotation,
            notes=tuple(note for note, holds in notes.items() if holds),
            annotations=None if desired is None else desired.annotations,
            revocation=revocations.get(key.id),
        )


def _revocations(
    one: AuditInput,
    desired: DesiredKey | None,
    classified: LiveKeys,
    contents: Sequence[SinkContent],
) -> Iterator[Upcoming]:
    """Yield the revocations of the predecessors of a key, which later runs carry out."""
    if desired is None or not one.environment.owns_key(desired.name):
        return
    own_key, current = one.observation.own_key, classified.current
    predecessors = [key for key in classified.predecessors if key.id != own_key]
    end = overlap_end(desired, current, contents)
    now = one.observation.server_time
    yield from later_revocations(desired, predecessors, end, now, current.created_at)


def _ids_in_use(
    live: Sequence[ObservedKey],
    desired: DesiredKey | None,
    contents: Iterable[SinkContent],
    current: ObservedKey,
) -> set[str]:
    """Return the ids of the keys in use: those in sinks, or else the current key.

    With a rotation both count, because sinks hold an older key until the current one is
    delivered. For an undeclared name nobody knows, so it is the last key to expire.
    """
    if desired is None:
        last = max(one.expires_at for one in live)
        return {one.id for one in live if one.expires_at == last}
    held_ids = token_ids(contents)
    in_use = {one.id for one in live if one.id.lower() in held_ids}
    return in_use | {current.id} if desired.rotation or not in_use else in_use


def _delivery(
    desired: DesiredKey | None, contents: Sequence[SinkContent], keys: Sequence[ObservedKey]
) -> Delivery:
    """Return the state of the sinks, where the token of any of these keys is good."""
    if desired is None:
        return "none"
    if not contents:
        return "no_sink"
    known = [one for one in contents if not _is_unknown(one, keys)]
    if not all(any(holds_good_token(one, key) for key in keys) for one in known):
        return "no"
    return "yes" if len(known) == len(contents) else "unknown"


def _is_admin(roles: Roles, key: ObservedKey) -> bool:
    """Return whether a key can do everything, by its role's label; legacy has no roles."""
    return isinstance(roles, NoRoles) or (key.role or "").casefold() == "admin"


def _is_unknown(content: SinkContent, keys: Sequence[ObservedKey]) -> bool:
    """Return whether a sink may or may not hold the token of one of these keys."""
    return isinstance(content, Unavailable) or (
        shows_no_delivery(content) and not all(needs_token(content, key) for key in keys)
    )
