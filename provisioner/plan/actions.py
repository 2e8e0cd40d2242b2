"""Actions and plans, all frozen: what crosses from the diff to execution and the reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, assert_never

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.errors.failure import Failure
    from provisioner.errors.problem import Place
    from provisioner.model.environment import Generation
    from provisioner.model.key import Depth
    from provisioner.model.sink_address import Address
    from provisioner.plan.findings import Finding


Reason = Literal["missing", "dead"]
"""Why a key is created: no key has its name, or only revoked and expired ones have."""


class Create(NamedTuple):
    """A key to be made; a named tuple because there may be 100 000 of them.

    Attributes:
        expires_at: its end in whole seconds, counted from the plan's moment for a duration.
        expires: the expiry as the manifest writes it.
        role: the role as written nearest to the key, None where none is.
        role_id: the workspace's id for that role, None on legacy and where it is blocked.
        sinks: where its token is to go.
        blocked: why it cannot be made; the key fails alone and nothing is sent for it.
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
"""Why a new token is delivered: a sink holds none; the token of another key than the live one; one
that ends more than a minute before its key; something that is no token of a key; the sink was last
written before the key was made; nothing proves that the token of a successor arrived, for which an
older key waits; the sink could not be looked into, which blocks the action; or it was asked for."""


class Deliver(NamedTuple):
    """A new token for a live key, for sinks that do not hold a good one.

    Attributes:
        expires_at: the end of the key, as the workspace has it.
        role: of the key, as the workspace has it.
        key_id: the key.
        sinks: those that are to be written.
        blocked: why it cannot be delivered; nothing is minted for it.
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


@dataclass(frozen=True, slots=True)
class Change:
    """One thing of a live key that is to be otherwise.

    Attributes:
        what: its end or its role.
        was: what the workspace has.
        wanted: what the manifest writes.
    """

    field: Literal["expires", "role"]
    actual: str | None
    desired: str


class Update(NamedTuple):
    """A live key that this tool owns is to be otherwise than it is.

    Attributes:
        expires_at: the end of the key when it is done.
        role: of the key when it is done, None where it has none.
        key_id: the key.
        changes: what is to be otherwise.
        moves_end: whether its end is among that.
        role_id: the role to assign, None where that stays.
        sinks: where a token with the new end goes; the tokens that are out keep theirs.
        blocked: why it cannot be done; nothing is sent for it.
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


class Rotate(NamedTuple):
    """A live key is to have a successor of the same name.

    Attributes:
        reason: its end is near, or someone asked for it.
        successor: the key to be made, with the sinks of its token.
        predecessors: the ids of the keys that it takes over from; with `at_once` those of all live
            keys of the name.
        at_once: whether they end as soon as the successor is delivered, without an overlap.
        due_at: the earlier end that the predecessor gets once the successor is delivered, with
            which it counts as due when that was made; None where its own end is early enough.
    """

    reason: Literal["due", "asked"]
    successor: Create
    predecessors: tuple[str, ...]
    at_once: bool = False
    predecessor_expires_at: datetime | None = None

    @property
    def predecessor_changes(self) -> int:
        """How many keys it revokes, or gives an earlier end."""
        return (
            len(self.predecessors) if self.at_once else int(self.predecessor_expires_at is not None)
        )

    @property
    def name(self) -> str:
        """The name of both keys."""
        return self.successor.name

    @property
    def depth(self) -> Depth:
        """How much of the successor comes back."""
        return self.successor.depth

    @property
    def expires_at(self) -> datetime:
        """The end of the successor."""
        return self.successor.expires_at

    @property
    def role(self) -> str | None:
        """Of the successor."""
        return self.successor.role

    @property
    def place(self) -> Place:
        """Where the manifest names the key."""
        return self.successor.place

    @property
    def sinks(self) -> tuple[Address, ...]:
        """Where the token of the successor goes."""
        return self.successor.sinks

    @property
    def blocked(self) -> Failure | None:
        """Why it cannot be done."""
        return self.successor.blocked


RevokeReason = Literal["undeclared", "superseded", "duplicate", "asked"]
"""Why a key ends: no manifest wants its name; its successor took over; another key has its name;
someone asked for it."""


class Revoke(NamedTuple):
    """A live key is to end.

    Attributes:
        key_id: the key.
        place: where a manifest names it, None where none does.
        blocked: why it cannot be done; nothing is sent for it.
    """

    name: str
    reason: RevokeReason
    key_id: str
    expires_at: datetime
    role: str | None
    place: Place | None
    blocked: Failure | None = None

    @property
    def depth(self) -> None:
        """None: nothing comes back."""
        return

    @property
    def sinks(self) -> tuple[Address, ...]:
        """None: what ends is taken from nowhere."""
        return ()


Action = Create | Update | Rotate | Deliver | Revoke


@dataclass(frozen=True, slots=True)
class Estimate:
    """What applying the plan costs: all its requests, its own look included, and the time."""

    requests: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The plan of one environment that could be observed.

    Attributes:
        workspace: the workspace id in the credential, where it shows one.
        actions: in the order of the manifests.
        kept: names that need nothing, in the order of the manifests.
        notes: sentences for people, as that roles are ignored on legacy.
    """

    environment: str
    url: str
    generation: Generation
    workspace: str | None
    actions: tuple[Action, ...]
    kept: tuple[str, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    estimate: Estimate

    @property
    def unblocked(self) -> tuple[Action, ...]:
        """The actions that can be carried out."""
        return tuple(action for action in self.actions if action.blocked is None)


@dataclass(frozen=True, slots=True)
class Unobserved:
    """An environment that could not be looked at."""

    environment: str
    url: str
    failure: Failure


EnvironmentPlan = Planned | Unobserved


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run.

    Attributes:
        created_at: the moment that durations are counted from.
        digest: `sha256:…` over what would be done, not over when it was computed.
    """

    created_at: datetime
    digest: str
    environments: tuple[EnvironmentPlan, ...]

    @property
    def changes(self) -> int:
        """How many actions can be carried out, in all environments."""
        planned = (part for part in self.environments if isinstance(part, Planned))
        return sum(len(part.unblocked) for part in planned)

    @property
    def steps(self) -> int:
        """How many steps carrying them out takes, where all goes well."""
        planned = (part for part in self.environments if isinstance(part, Planned))
        return sum(_steps(action) for part in planned for action in part.unblocked)

    @property
    def incomplete(self) -> bool:
        """Whether an environment could not be looked at, or an action cannot be done."""
        return any(
            isinstance(part, Unobserved) or any(action.blocked for action in part.actions)
            for part in self.environments
        )


def _steps(action: Action) -> int:
    """A key made or changed, a token delivered and a key ended are a step each."""
    match action:
        case Create() | Update():
            return 1 + bool(action.sinks)
        case Rotate():
            return 1 + bool(action.sinks) + action.predecessor_changes
        case Deliver() | Revoke():
            return 1
        case _:
            assert_never(action)
