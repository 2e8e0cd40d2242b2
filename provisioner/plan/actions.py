"""Actions and plans: the frozen values that the diff passes to execution and reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple, assert_never

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from provisioner.errors.exceptions import RefusedError
    from provisioner.errors.failure import Failure
    from provisioner.errors.problem import Place
    from provisioner.model.environment import Generation
    from provisioner.model.key import Annotations, Depth
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import ApiKeyToken
    from provisioner.plan.findings import Finding, ReportedFinding


Reason = Literal["missing", "dead"]
"""The reason for a create: no key that is not revoked has the name, or all of them have expired."""


class Create(NamedTuple):
    """An action that creates a key; a named tuple because there may be 100 000 of them.

    Attributes:
        expires_at: its expiry in whole seconds; a duration counts from the time of the plan.
        expires: the expiry as the manifest writes it.
        role: the role set on the key, in its manifest or in the environment; None if there is none.
        role_id: the id of that role in the workspace; None on legacy and if the action is blocked.
        sinks: the sinks that get its token.
        blocked: why it cannot be created; only this key fails, and no request is sent for it.
        annotations: what the manifest says about the key for people; None without.
    """

    name: str
    reason: Reason
    depth: Depth
    expires_at: datetime
    expires: str
    role: str | None
    role_id: str | None
    place: Place
    sinks: tuple[Address, ...] = ()
    blocked: Failure | None = None
    annotations: Annotations | None = None


DeliverReason = Literal[
    "token_missing",
    "token_dead",
    "token_expiring",
    "token_invalid",
    "token_outdated",
    "token_unproven",
    "sink_unusable",
    "redeliver",
]
"""The reason to deliver a new token. In this order: the sink holds no token; it holds the token of
a key that is not live; its token expires more than a minute before the key; its value is not a
token of a key; it was last written before the key was created; nothing proves that it holds the
token of the successor, and an older key is kept until it does; it could not be read, which blocks
the action; `--redeliver` was given."""


class Deliver(NamedTuple):
    """An action that delivers a new token for a live key to the sinks that lack a good one.

    Attributes:
        expires_at: the expiry of the key in the workspace.
        role: the role of the key in the workspace.
        key_id: the id of the key.
        sinks: the sinks to write.
        blocked: why it cannot be delivered; no token is minted for it.
        annotations: what the manifest says about the key for people; None without.
    """

    name: str
    reason: DeliverReason
    depth: Depth
    expires_at: datetime
    role: str | None
    key_id: str
    sinks: tuple[Address, ...]
    place: Place
    blocked: Failure | None = None
    annotations: Annotations | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A field of a live key that changes.

    Attributes:
        field: the expiry or the role.
        actual: the value in the workspace.
        desired: the value in the manifest.
    """

    field: Literal["expires", "role"]
    actual: str | None
    desired: str


class Update(NamedTuple):
    """An action that changes the expiry or the role of a live owned key.

    Attributes:
        expires_at: the expiry after the update.
        role: the role after the update; None if the key has none.
        key_id: the id of the key.
        changes: the fields that change.
        sets_expiry: whether the expiry is one of them.
        role_id: the id of the role to assign; None if the role does not change.
        sinks: the sinks that get a token with the new expiry; tokens already issued keep theirs.
        blocked: why it cannot be updated; no request is sent for it.
        annotations: what the manifest says about the key for people; None without.
    """

    name: str
    reason: Literal["drift"]
    depth: Depth
    expires_at: datetime
    role: str | None
    key_id: str
    changes: tuple[Change, ...]
    sets_expiry: bool
    role_id: str | None
    place: Place
    sinks: tuple[Address, ...] = ()
    blocked: Failure | None = None
    annotations: Annotations | None = None


class Rename(NamedTuple):
    """An action that gives a live key, which still has a former name, its name in the manifest.

    Its tokens keep working. Every other action of the name waits until its keys are renamed.

    Attributes:
        name: the new name.
        old_name: the name in the workspace, from `moved`.
        expires_at: the expiry of the key in the workspace.
        role: the role of the key in the workspace.
        key_id: the id of the key.
        place: the position in the manifest of the key with the new name.
        blocked: why it cannot be renamed; no request is sent for it.
        annotations: what the manifest says about the key for people; None without.
    """

    name: str
    old_name: str
    reason: Literal["moved"]
    depth: Depth
    expires_at: datetime
    role: str | None
    key_id: str
    place: Place
    blocked: Failure | None = None
    annotations: Annotations | None = None

    @property
    def sinks(self) -> tuple[Address, ...]:
        """Return no sinks: tokens already issued keep working."""
        return ()


class Rotate(NamedTuple):
    """An action that creates a successor of the same name for a live key.

    Attributes:
        reason: `due` if the key expires soon, `asked` if it is rotated on request.
        successor: the key to create, with the sinks of its token.
        predecessors: the ids of the keys that it replaces; with `at_once`, of all live keys of
            the name.
        at_once: whether they are revoked as soon as the successor is delivered, without an overlap.
        predecessor_expires_at: the earlier expiry that the predecessor gets once the successor is
            delivered, so later runs recognize it as the predecessor; None if its own expiry is
            early enough.
    """

    reason: Literal["due", "asked"]
    successor: Create
    predecessors: tuple[str, ...]
    at_once: bool = False
    predecessor_expires_at: datetime | None = None

    @property
    def predecessor_changes(self) -> int:
        """Return the number of predecessors that it revokes or gives an earlier expiry."""
        return (
            len(self.predecessors) if self.at_once else int(self.predecessor_expires_at is not None)
        )

    @property
    def name(self) -> str:
        """Return the name of both keys."""
        return self.successor.name

    @property
    def depth(self) -> Depth:
        """Return the depth of the create of the successor."""
        return self.successor.depth

    @property
    def expires_at(self) -> datetime:
        """Return the expiry of the successor."""
        return self.successor.expires_at

    @property
    def role(self) -> str | None:
        """Return the role of the successor."""
        return self.successor.role

    @property
    def place(self) -> Place:
        """Return the position of the key in its manifest."""
        return self.successor.place

    @property
    def sinks(self) -> tuple[Address, ...]:
        """Return the sinks that get the token of the successor."""
        return self.successor.sinks

    @property
    def blocked(self) -> Failure | None:
        """Return why it cannot be carried out; None if it can."""
        return self.successor.blocked

    @property
    def annotations(self) -> Annotations | None:
        """Return what the manifest says about the key for people; None without."""
        return self.successor.annotations


RevokeReason = Literal["undeclared", "superseded", "duplicate", "asked"]
"""The reason to revoke a key: no manifest declares its name; its successor replaced it; it is a
duplicate; or it was revoked on request."""


class Revoke(NamedTuple):
    """An action that revokes a live key.

    Attributes:
        key_id: the id of the key.
        place: the position of the key in its manifest; None if no manifest declares it.
        blocked: why it cannot be revoked; no request is sent for it.
        annotations: what the manifest says about the key for people; None without.
    """

    name: str
    reason: RevokeReason
    key_id: str
    expires_at: datetime
    role: str | None
    place: Place | None
    blocked: Failure | None = None
    annotations: Annotations | None = None

    @property
    def depth(self) -> None:
        """Return None: a revocation returns no key."""
        return

    @property
    def sinks(self) -> tuple[Address, ...]:
        """Return no sinks: a revocation does not remove tokens from sinks."""
        return ()


CleanReason = Literal["moved", "undeclared", "revoked"]
"""The reason to remove a token from a sink: its key is declared with other sinks; no manifest
declares its key; or its key was revoked on request."""


class Clean(NamedTuple):
    """An action that removes a delivered token from one sink, and nothing else.

    It is carried out last, and only if everything else that is done to the name succeeds.

    Attributes:
        token: the token in the sink, by its claims; another one is not removed.
        sink: the sink.
        place: the position of the key in its manifest; None if no manifest declares it.
        blocked: why it cannot be carried out; nothing is removed.
        annotations: what the manifest says about the key for people; None without.
    """

    name: str
    reason: CleanReason
    token: ApiKeyToken
    sink: Address
    place: Place | None
    blocked: Failure | None = None
    annotations: Annotations | None = None

    @property
    def key_id(self) -> str:
        """Return the id of the key in the token."""
        return self.token.key

    @property
    def expires_at(self) -> datetime | None:
        """Return the expiry of the token; None if it never expires."""
        return self.token.expires_at

    @property
    def role(self) -> None:
        """Return None: the key itself does not change."""
        return

    @property
    def depth(self) -> None:
        """Return None: no key is returned."""
        return

    @property
    def sinks(self) -> tuple[Address, ...]:
        """Return no sinks: none gets a token."""
        return ()


CreatesKey = Create | Rotate
"""Actions that create a key. A named union is checked in a ninth of the time of a written one."""

Action = Create | Update | Rename | Rotate | Deliver | Revoke | Clean


class Upcoming(NamedTuple):
    """A revocation that a later run will carry out by itself: of a key with a delivered successor.

    Attributes:
        key_id: the id of the key to revoke.
        at: when its overlap is over, by the server's clock; None if that is not known yet.
        overlap_hours: the time for which it stays live after the delivery of its successor.
        hours_left: the hours from the observation to `at`, rounded; 0 only if the next run revokes
            it, and None if that is not known yet.
        waits_for: what the start of the overlap waits for: the `delivery` of the successor's token,
            or the `proof` that every sink has it; None if nothing.
    """

    name: str
    key_id: str
    at: datetime | None
    overlap_hours: int
    hours_left: int | None = None
    waits_for: Literal["delivery", "proof"] | None = None

    def after_delivery(self, delivered_at: datetime) -> Upcoming:
        """Return the revocation if the overlap started at a time, which is that of the run."""
        at = delivered_at + timedelta(hours=self.overlap_hours)
        return self._replace(at=at, hours_left=self.overlap_hours, waits_for=None)


Step = Literal["create", "change", "deliver", "revoke", "clean"]
"""A part of an action whose outcome is known on its own: of a rotation first the create, then the
delivery, finally what happens to the older keys."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of applying a plan.

    Attributes:
        requests: the number of requests, including those that observed the workspace.
        seconds: the duration.
    """

    requests: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The plan of an environment that was observed.

    Attributes:
        workspace: the workspace id in the credential; None if it contains none.
        actions: in the order of the manifests.
        kept: names that need no action, in the order of the manifests.
        notes: warnings for the user, for example that roles are ignored on legacy.
        unwritable: why its execution would be refused as a whole, although the plan is good.
        upcoming: what later runs will do by themselves, if this plan is carried out.
    """

    environment: str
    url: str
    generation: Generation
    workspace: str | None
    actions: tuple[Action, ...]
    kept: tuple[str, ...]
    findings: tuple[Finding | ReportedFinding, ...]
    notes: tuple[str, ...]
    estimate: Estimate
    unwritable: Failure | None = None
    upcoming: tuple[Upcoming, ...] = ()

    def with_actions(self, actions: Iterable[Action]) -> Planned:
        """Return the plan with the same actions, of which more may be blocked."""
        every = tuple(actions)
        blocked = {one.name for one in every if isinstance(one, Rotate) and one.blocked is not None}
        upcoming = tuple(one for one in self.upcoming if one.name not in blocked)
        return replace(self, actions=every, upcoming=upcoming)

    @property
    def unblocked(self) -> tuple[Action, ...]:
        """Return the actions that can be carried out."""
        return tuple(action for action in self.actions if action.blocked is None)

    @property
    def steps(self) -> Counter[Step]:
        """Return the number of steps of each kind in these actions, if none fails."""
        return Counter(step for action in self.unblocked for step in _steps(action))


@dataclass(frozen=True, slots=True)
class Unobserved:
    """An environment that could not be observed.

    Attributes:
        refusal: the guard's reason to refuse the whole run, if that is the cause.
        bug: the unexpected exception, if that is the cause.
    """

    environment: str
    url: str
    failure: Failure
    refusal: RefusedError | None = None
    bug: Exception | None = None


EnvironmentPlan = Planned | Unobserved


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run.

    Attributes:
        created_at: the time that durations count from.
        digest: `sha256:…` over the actions, independent of the time of the plan.
    """

    created_at: datetime
    digest: str
    environments: tuple[EnvironmentPlan, ...]

    @property
    def changes(self) -> int:
        """Return the number of actions that can be carried out, in all environments."""
        planned = (one for one in self.environments if isinstance(one, Planned))
        return sum(len(part.unblocked) for part in planned)

    @property
    def steps(self) -> int:
        """Return the number of steps of these actions, if none fails."""
        planned = (one for one in self.environments if isinstance(one, Planned))
        return sum(part.steps.total() for part in planned)

    @property
    def incomplete(self) -> bool:
        """Return whether an environment could not be observed or an action is blocked."""
        return any(
            isinstance(part, Unobserved) or any(action.blocked for action in part.actions)
            for part in self.environments
        )


def _steps(action: Action) -> tuple[Step, ...]:
    """Return each key created or changed, each token delivered or removed and each key revoked."""
    delivery: tuple[Step, ...] = ("deliver",) if action.sinks else ()
    match action:
        case Create():
            return ("create", *delivery)
        case Update() | Rename():
            return ("change", *delivery)
        case Rotate(at_once=at_once, predecessor_changes=changes):
            return ("create", *delivery, *(("revoke" if at_once else "change",) * changes))
        case Deliver():
            return ("deliver",)
        case Revoke():
            return ("revoke",)
        case Clean():
            return ("clean",)
        case _:
            assert_never(action)
