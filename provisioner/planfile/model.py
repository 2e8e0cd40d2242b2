"""The contents of a plan file, as values."""

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
    """The options of a plan, as a plan file stores them.

    Attributes:
        environments: names of environments; empty for all.
        only: globs of key names; empty for all.
        prune: whether to revoke owned keys that no manifest declares.
        dedupe: whether to revoke owned duplicates.
        redeliver: whether live keys get new tokens, whatever their sinks hold.
        max_revoke: the most keys that may be revoked in each environment; None for the limit of
            the environment.
        allow_protected: whether protected keys may be revoked.
    """

    environments: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    prune: bool = False
    dedupe: bool = False
    redeliver: bool = False
    max_revoke: int | None = None
    allow_protected: bool = False

    @property
    def plan_options(self) -> PlanOptions:
        """Return the options for the plan."""
        return PlanOptions(
            only=self.only, prune=self.prune, dedupe=self.dedupe, redeliver=self.redeliver
        )

    @property
    def guard_overrides(self) -> GuardOverrides:
        """Return the options for the guards."""
        return GuardOverrides(max_revoke=self.max_revoke, allow_protected=self.allow_protected)


@dataclass(frozen=True, slots=True)
class PlanFileInput:
    """The current plan and its inputs.

    Attributes:
        published: the plan as `provision/plan/v1`.
        options: its options.
        observations: the environments that were observed.
        desired: the selected desired keys by environment.
    """

    plan: Plan
    published: Document
    options: SavedOptions
    observations: tuple[tuple[Environment, Observation], ...]
    desired: Mapping[str, tuple[DesiredKey, ...]]


class SavedKey(NamedTuple):
    """A desired key; every field is as the manifest writes it.

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
    """An action: the fields that must not change after the review, and its reason.

    Attributes:
        kind: `create`, `update`, `rotate`, `deliver` or `revoke`.
        ids: the ids of the live keys that it affects.
        expires_at: the expiry that it sets; None if it sets none.
        role: the role that it sets; None if it sets none.
        error: the code of the failure that blocks it; None if it is not blocked.
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
    def identity(self) -> tuple[object, ...]:
        """Return the fields that decide whether two actions are the same; the reason does not."""
        if self.kind == "revoke":
            return self.kind, self.ids, self.error
        return self[:-1]

    @property
    def reviewed(self) -> tuple[object, ...]:
        """Return the fields that a reviewer sees: the identity and the name."""
        return (self.name, *self.identity)

    @property
    def masked(self) -> bool:
        """Return whether one of its texts was masked as a secret when the file was written."""
        return any(MASK in text for text in (self.name, *self.sinks, self.role or ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedEnvironment:
    """One environment of a plan and the inputs of the plan.

    Attributes:
        error: the code of the failure to observe it; None if it was observed.
        workspace: the workspace id in the credential; None if it contains none.
        observed_at: the server's time of the observation.
        owns: the globs of owned key names.
        role: the role of keys that set none.
        roles: the ids of the assigned roles, by the role as written.
        observed: the live keys of the selected names.
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
    """A reviewed plan.

    Attributes:
        created_at: the time that durations count from.
        version: the version of the tool that created it.
        digest: `sha256:…` over its actions.
    """

    created_at: datetime
    version: str
    digest: str
    options: SavedOptions
    environments: tuple[SavedEnvironment, ...]
