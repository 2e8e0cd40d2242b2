"""The values that pass from one stage of the pipeline to the next."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from provisioner.plan import GuardOverrides, PlanOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from provisioner.errors.exceptions import RefusedError
    from provisioner.execution import RunResult
    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.model.workspace import Workspace
    from provisioner.plan import FormerSink, Plan, Planned, Unobserved

    SinkContents = Mapping[Address, SinkContent]


class PlanRequest(NamedTuple):
    """The desired state of a run, and its options.

    Attributes:
        desired: the desired keys by environment.
        now: the time of the plan, from which durations count.
        options: the options of the plan.
        overrides: the guards that the run may override.
        former: the sinks that only the previous manifests declare, by environment.
        sharded: True if other runs work on the other environments, so that a glob may match no
            key in this one.
    """

    desired: Mapping[str, tuple[DesiredKey, ...]]
    now: datetime
    options: PlanOptions = PlanOptions()
    overrides: GuardOverrides = GuardOverrides()
    sharded: bool = False
    former: Mapping[str, tuple[FormerSink, ...]] = MappingProxyType({})


class ObservedEnvironment(NamedTuple):
    """An environment that was observed.

    Attributes:
        workspace: its open workspace; None if a worker of a cluster observed it, or once nothing is
            to be done there.
    """

    environment: Environment
    workspace: Workspace | None
    observation: Observation

    @property
    def opened(self) -> Workspace:
        """Return the workspace, in the process that opened it."""
        assert self.workspace is not None  # noqa: S101 - for the type checker
        return self.workspace


class PlannedEnvironment(NamedTuple):
    """The plan of an environment, and the observation that it is based on."""

    observed: ObservedEnvironment
    planned: Planned


class Proposal(NamedTuple):
    """The plan of a run before its first write, and why it is refused, if it is.

    Attributes:
        environments: each environment of the plan, with the workspace to change.
        refusal: why nothing may be changed anywhere; None if the run may go ahead.
        request: what the plan was asked for.
    """

    plan: Plan
    environments: tuple[PlannedEnvironment | Unobserved, ...]
    refusal: RefusedError | None = None
    request: PlanRequest | None = None


class Pipeline(Protocol):
    """The pipeline of a run, wherever its environments are worked on."""

    def propose(self, request: PlanRequest) -> Proposal:
        """Run the stages before the first write: return the plan, and its refusal."""
        ...

    def execute(self, proposal: Proposal) -> RunResult:
        """Carry a proposal out, or skip all of it if it is refused."""
        ...
