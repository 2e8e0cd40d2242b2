"""What stands in a plan file, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from provisioner.plan import PlanOptions
from provisioner.reconcile.guards import GuardOverrides
from provisioner.secret import MASK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation
    from provisioner.plan import Plan

Document = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedOptions:
    """What a plan was asked for beside the manifests.

    Attributes:
        environments: names as given; none means all.
        only: globs of key names; none means all.
        prune: whether owned keys that no manifest wants are revoked.
        dedupe: whether surplus owned keys of a name are revoked.
        redeliver: whether live keys get new tokens, whatever their sinks hold.
        max_revoke: keys that may be revoked in each environment; None leaves it to the guards.
        allow_protected: whether what is protected may be revoked.
    """

    environments: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    prune: bool = False
    dedupe: bool = False
    redeliver: bool = False
    max_revoke: int | None = None
    allow_protected: bool = False

    @property
    def options(self) -> PlanOptions:
        """The same for the plan."""
        return PlanOptions(
            only=self.only, prune=self.prune, dedupe=self.dedupe, redeliver=self.redeliver
        )

    @property
    def overrides(self) -> GuardOverrides:
        """The same for the guards."""
        return GuardOverrides(max_revoke=self.max_revoke, allow_protected=self.allow_protected)


@dataclass(frozen=True, slots=True)
class PlanFileInput:
    """A plan made now, and what it follows from.

    Attributes:
        published: the plan as `provision/plan/v1`.
        asked: what it was asked for.
        seen: the looks that it follows from.
        desired: the desired keys by environment, of those that it is about.
    """

    plan: Plan
    published: Document
    asked: SavedOptions
    seen: tuple[tuple[Environment, Observation], ...]
    desired: Mapping[str, tuple[DesiredKey, ...]]


class SavedKey(NamedTuple):
    """A desired key, all as the manifest writes it.

    Attributes:
        sinks: each address as JSON.
    """

    name: str
    depth: int
    role: str | None
    expires: str
    rotate: str | None
    protect: bool
    sinks: tuple[str, ...]


class SavedObserved(NamedTuple):
    """A live key of the workspace."""

    id: str
    name: str
    expires_at: str
    role: str | None


class SavedAction(NamedTuple):
    """An action, by all that must not be otherwise, and why.

    Attributes:
        kind: `create`, `update`, `rotate`, `deliver` or `revoke`.
        ids: the live keys that it is about.
        expires_at: that it gives, None where it gives none.
        role: likewise.
        error: the code of why it cannot be done, None where it can.
    """

    kind: str
    name: str
    ids: tuple[str, ...]
    expires_at: str | None
    role: str | None
    sinks: tuple[str, ...]
    error: str | None
    reason: str

    @property
    def counts(self) -> tuple[object, ...]:
        """What must be equal for the same to be done: all but why, and what a key that ends is."""
        if self.kind == "revoke":
            return self.kind, self.ids, self.error
        return self[:-1]

    @property
    def shown(self) -> tuple[object, ...]:
        """What a reviewer is told of it: all that counts, and the name of a key that ends."""
        return (self.name, *self.counts)

    @property
    def masked(self) -> bool:
        """Whether a text of it was taken for a secret of the process that wrote it."""
        return any(MASK in text for text in (self.name, *self.sinks, self.role or ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedEnvironment:
    """One environment of a plan, and what the plan follows from.

    Attributes:
        error: the code of why it could not be looked at, None where it could.
        workspace: the workspace id in the credential, where it shows one.
        observed_at: the server's time of the look.
        role: of keys that name none.
        roles: the ids of roles that are given, by the role as written.
        observed: the live keys of the names that the plan is about.
    """

    name: str
    url: str
    error: str | None
    generation: str | None
    workspace: str | None
    observed_at: str | None
    owns: tuple[str, ...]
    role: str | None
    roles: Mapping[str, str]
    desired: tuple[SavedKey, ...]
    observed: tuple[SavedObserved, ...]
    actions: tuple[SavedAction, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
    """A plan as it was reviewed.

    Attributes:
        created_at: the moment that durations are counted from.
        version: of the tool that made it.
        digest: `sha256:…` over what would be done.
    """

    created_at: datetime
    version: str
    digest: str
    asked: SavedOptions
    environments: tuple[SavedEnvironment, ...]
