"""The contents of a plan file: the options as values, and its environments as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.model.shard import Shard
    from provisioner.plan import GuardOverrides, PlanOptions
    from provisioner.reconcile.proposal import PlanRequest, Proposal

Document = dict[str, object]


class PlanFileInput(NamedTuple):
    """The current plan and its inputs.

    Attributes:
        proposal: the plan, with the observations that it is based on.
        request: the desired keys and the options of the plan.
        selected: names of environments; empty for all.
        published: the plan as `provision/plan/v1`.
        shard: the shard of the plan; None if it has all selected environments.
        previous: the directory or the commit of the previous manifests; None without any.
    """

    proposal: Proposal
    request: PlanRequest
    selected: tuple[str, ...]
    published: Document
    shard: Shard | None = None
    previous: str | None = None


class ObservedEntry(TypedDict):
    """A live key of the workspace in a plan file."""

    id: str
    name: str
    expires_at: str
    role: str | None


class ActionEntry(TypedDict):
    """The fields of an action in a plan file that a comparison reads."""

    action: str
    name: str
    ids: list[str]
    expires_at: str
    role: str | None
    sinks: list[str]
    reason: str
    old_name: NotRequired[str]
    sink: NotRequired[str]
    changes: NotRequired[list[dict[str, str]]]
    error: NotRequired[dict[str, str]]


class EnvironmentEntry(TypedDict):
    """The fields of an environment in a plan file that a comparison reads.

    Attributes:
        error: the failure to observe it; None in every file that was written.
        workspace: the workspace id in the credential; None if it contains none.
        observed_at: the server's time of the observation.
        owns: the globs of owned key names.
        ignore: the globs of ignored key names; missing in files of versions before it.
        role: the role of keys that set none.
        roles: the ids of the assigned roles, by the role as written.
        desired: the selected desired keys, sorted by name.
        observed: the live keys of the selected names.
    """

    environment: str
    url: str
    generation: str | None
    error: dict[str, str] | None
    workspace: str | None
    observed_at: str | None
    owns: list[str]
    ignore: NotRequired[list[str]]
    role: str | None
    roles: dict[str, str]
    desired: list[Document]
    observed: list[ObservedEntry]
    actions: list[ActionEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
    """A reviewed plan.

    Attributes:
        created_at: the time that durations count from.
        version: the version of the tool that created it.
        digest: `sha256:…` over its actions.
        selected: names of environments; empty for all.
        options: the options of the plan.
        overrides: the guards that the plan may override.
        environments: its environments, by name.
        shard: the shard that they are; None if they are all selected environments.
        previous: the directory or the commit of the previous manifests; None without any.
    """

    created_at: datetime
    version: str
    digest: str
    selected: tuple[str, ...]
    options: PlanOptions
    overrides: GuardOverrides
    environments: dict[str, EnvironmentEntry]
    shard: Shard | None = None
    previous: str | None = None
