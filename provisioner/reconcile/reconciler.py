"""The whole run: every environment observed and planned, guarded together, then executed.

Each environment is an independent unit of work that goes through an executor; only the guards
see them all at once, between the last look and the first write.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self

from provisioner.errors.exceptions import RefusedError, WorkspaceError
from provisioner.errors.failure import failure_of
from provisioner.execution import (
    ActionEnded,
    EnvironmentFinished,
    EnvironmentObserved,
    Executed,
    Execution,
    RunMarker,
    RunResult,
    ignore,
)
from provisioner.plan import (
    Plan,
    Planned,
    Unobserved,
    block,
    digest,
    plan_environment,
    plan_revocations,
    premature,
    selected_keys,
    to_prepare,
    to_read,
)
from provisioner.reconcile.guards import (
    GuardOverrides,
    nothing_selected,
    one_workspace_twice,
    refusals,
    together,
)
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.file_descriptors import is_out_of_descriptors, too_many_open_files
from provisioner.runtime.log_context import bind
from provisioner.sinks.probe import check_all, read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Executor
    from datetime import datetime
    from types import TracebackType

    from provisioner.execution import Emit
    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan import EnvironmentPlan, PlanOptions
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sinks.sink import OpenSink
    from provisioner.twenty.workspace import Workspace


_NO_OVERRIDES = GuardOverrides()

_LATER = 2.0
"""Seconds after which runs that met have settled which of their keys stays."""


class Connect(Protocol):
    """Opens the workspace of an environment and has the stack close it."""

    def __call__(self, environment: Environment, stack: ExitStack) -> Workspace:
        """The workspace, signed in to.

        Raises:
            WorkspaceError: when it cannot be opened.
            RefusedError: when a guard forbids to use it.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Observed:
    environment: Environment
    workspace: Workspace
    observation: Observation


class Reconciler:
    """The environments of one run, and the workspaces that were opened for them.

    Attributes:
        refusal: a guard that stops the whole run, known after the look.
        internal_error: the first bug that an environment met; the others went on.

    Args:
        environments: in the order of environments.yaml.
        connect: opens a workspace.
        open_sink: opens a sink.
        executor: runs one unit of work for each environment.
        stop: ends the run early.
        emit: is told what happens.
    """

    def __init__(  # noqa: PLR0913 - what a run is made of
        self,
        environments: tuple[Environment, ...],
        connect: Connect,
        open_sink: OpenSink,
        executor: Executor,
        stop: Cancellation,
        *,
        emit: Emit = ignore,
    ) -> None:
        self._environments = environments
        self._connect = connect
        self._open_sink = open_sink
        self._executor = executor
        self._stop = stop
        self._emit = emit
        self._stack = ExitStack()
        self._looks: dict[str, _Observed] = {}
        self.refusal: RefusedError | None = None
        self.internal_error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # No workspace is closed under a unit that is still at work, but for one left behind.
        self._executor.shutdown(wait=not self._stop.asked, cancel_futures=True)
        self._stack.close()

    def observe(self) -> tuple[tuple[Environment, Observation | Unobserved], ...]:
        """Looks at every workspace; one that fails does not stop the others.

        A guard that forbids an environment is kept in `refusal` for the whole run.
        """
        futures = [self._executor.submit(self._look, one) for one in self._environments]
        self._stop.wait_for(futures, graceful=False)
        looks = tuple(future.result() if future.done() else None for future in futures)
        found = [observed for observed in looks if isinstance(observed, _Observed)]
        refusals = [observed for observed in looks if isinstance(observed, RefusedError)]
        seen = [(observed.environment, observed.observation) for observed in found]
        refusals += [error for _, error in one_workspace_twice(seen)]
        self.refusal = together(refusals)
        self._looks = {observed.environment.name: observed for observed in found}
        return tuple(
            (environment, _seen(environment, observed))
            for environment, observed in zip(self._environments, looks, strict=True)
        )

    def plan(
        self,
        desired: Mapping[str, tuple[DesiredKey, ...]],
        now: datetime,
        options: PlanOptions,
        overrides: GuardOverrides = _NO_OVERRIDES,
    ) -> Plan:
        """Observes and plans every environment, and looks ahead into the sinks of its keys.

        Args:
            desired: the desired keys by environment.
            now: the moment of the plan.
            options: what else is asked for.
            overrides: what the guards may let pass; what they do not is kept in `refusal`.
        """
        looks = self.observe()

        def planned(environment: Environment, observation: Observation) -> EnvironmentPlan:
            with bind(environment=environment.name):
                try:
                    part = from_look(environment, observation)
                    if premature(part, observation):
                        part = from_look(environment, self._observe_again(environment.name))
                    return block(part, check_all(to_prepare(part), self._open_sink, self._stop))
                except WorkspaceError as error:
                    why = failure_of(error)
                except Exception as error:  # noqa: BLE001 - it must not stop the others
                    why = failure_of(self._surprised(environment.name, error))
                return Unobserved(environment.name, environment.url, why)

        def from_look(environment: Environment, observation: Observation) -> Planned:
            wanted = desired.get(environment.name, ())
            read = to_read(wanted, observation, options)
            sink_contents = read_all(read, self._open_sink, self._stop)
            return plan_environment(
                environment, wanted, observation, now, options, sink_contents=sink_contents
            )

        futures = {
            environment.name: self._executor.submit(planned, environment, seen)
            for environment, seen in looks
            if not isinstance(seen, Unobserved)
        }
        self._stop.wait_for(futures.values(), graceful=False)

        def ended(environment: Environment, seen: Observation | Unobserved) -> EnvironmentPlan:
            if isinstance(seen, Unobserved):
                return seen
            future = futures[environment.name]
            if future.done():
                return future.result()
            return Unobserved(environment.name, environment.url, STOPPED)

        plans = tuple(ended(environment, seen) for environment, seen in looks)
        self._guard(plans, desired, overrides)
        self.refusal = self.refusal or nothing_selected(plans, options)
        return Plan(now, digest(plans, selected_keys(desired, options)), plans)

    def plan_revocations(
        self,
        desired: Mapping[str, tuple[DesiredKey, ...]],
        now: datetime,
        asked: frozenset[str],
        options: PlanOptions,
        overrides: GuardOverrides = _NO_OVERRIDES,
    ) -> Plan:
        """Plans the end of the live keys that someone names.

        Args:
            desired: the desired keys by environment, for what is protected.
            now: the moment of the plan.
            asked: names and ids of keys.
            options: what bounds the plan.
            overrides: what the guards may let pass; what they do not is kept in `refusal`.
        """
        looks = self.observe()
        plans = tuple(
            seen
            if isinstance(seen, Unobserved)
            else plan_revocations(
                environment, seen, asked, options, desired.get(environment.name, ())
            )
            for environment, seen in looks
        )
        self._guard(plans, desired, overrides)
        return Plan(now, digest(plans, {}), plans)

    @property
    def seen(self) -> tuple[tuple[Environment, Observation], ...]:
        """The last look at every workspace that could be looked at."""
        return tuple(
            (observed.environment, observed.observation) for observed in self._looks.values()
        )

    def look_into(self, addresses: Iterable[Address]) -> Mapping[Address, SinkContent]:
        """What some sinks hold, without the tokens themselves."""
        return read_all(addresses, self._open_sink, self._stop)

    def survey(
        self, desired: Mapping[str, tuple[DesiredKey, ...]], options: PlanOptions
    ) -> Mapping[Address, SinkContent]:
        """What the sinks of live keys hold, but of those that a stop or a bug came before.

        Args:
            desired: the desired keys by environment, of those that were observed.
            options: what bounds the keys.
        """
        futures = [
            self._executor.submit(self._surveyed, observed, desired, options)
            for observed in self._looks.values()
        ]
        self._stop.wait_for(futures, graceful=False)
        sink_contents: dict[Address, SinkContent] = {}
        for future in futures:
            sink_contents |= future.result() if future.done() else {}
        return sink_contents

    def refuse(self, why: RefusedError) -> None:
        """Has nothing of the plans carried out, whatever the guards say of them."""
        self.refusal = why

    def _guard(
        self,
        plans: Iterable[EnvironmentPlan],
        desired: Mapping[str, tuple[DesiredKey, ...]],
        overrides: GuardOverrides,
    ) -> None:
        """Keeps the reasons why nothing of the plans must be carried out."""
        found: list[RefusedError] = []
        for part in plans:
            if isinstance(part, Planned):
                observed = self._looks[part.environment]
                wanted = desired.get(part.environment, ())
                found += refusals(
                    observed.environment, wanted, observed.observation, part, overrides
                )
        self.refusal = self.refusal or together(found)

    def apply(self, plan: Plan, on_progress: Callable[[int], None]) -> RunResult:
        """Carries out a plan that this fleet made; with a refusal, nothing of it.

        Args:
            plan: what `plan` returned.
            on_progress: called with the number of actions whose outcome has become known.
        """
        if self.refusal is not None:
            skipped = _skipped(plan, self.refusal)
            for part, outcome in zip(plan.environments, skipped, strict=True):
                self._emit_finished(part.environment, outcome)
            return RunResult(plan.created_at, plan.digest, skipped)
        mark = RunMarker.random()
        executions = {
            part.environment: self._execution(part, mark, on_progress)
            for part in plan.environments
            if isinstance(part, Planned)
        }
        futures = {
            name: self._executor.submit(self._carry_out, name, execution)
            for name, execution in executions.items()
        }
        self._stop.wait_for(futures.values(), graceful=True)

        def ended(part: Planned | Unobserved) -> Executed | Unobserved:
            if isinstance(part, Unobserved):
                self._emit_finished(part.environment, part)
                return part
            if (future := futures[part.environment]).done():
                future.result()  # what is no exception of a run ends this one as well
            return executions[part.environment].finish()

        results = tuple(map(ended, plan.environments))
        return RunResult(plan.created_at, plan.digest, results)

    def _execution(
        self, planned: Planned, mark: RunMarker, on_progress: Callable[[int], None]
    ) -> Execution:
        observed = self._looks[planned.environment]
        before = frozenset(key.id for key in observed.observation.keys)
        return Execution(
            planned,
            before,
            observed.workspace,
            self._open_sink,
            parallel=observed.environment.limits.parallel,
            mark=mark,
            stop=self._stop,
            on_progress=on_progress,
            emit=self._emit,
        )

    def _carry_out(self, name: str, execution: Execution) -> None:
        """Runs one environment's actions; what a bug leaves open fails."""
        try:
            with bind(environment=name):
                self._looks[name].workspace.lift_observe_limits()
                execution.run()
        except Exception as error:  # noqa: BLE001 - it must not stop the other environments
            execution.finish(failure_of(self._surprised(name, error)))
        else:
            execution.finish()
        finally:
            self._looks[name].workspace.close_idle_connections()

    def _emit_finished(self, environment: str, outcome: Executed | Unobserved) -> None:
        """Tells of an environment in which nothing was begun."""
        for result in outcome.results if isinstance(outcome, Executed) else ():
            self._emit(ActionEnded(environment, result))
        self._emit(EnvironmentFinished(environment, outcome))

    def open(self, environment: Environment) -> Workspace | None:
        """The workspace of one environment, not looked at; None when a stop came first.

        Raises:
            WorkspaceError: when it cannot be opened.
            RefusedError: when a guard forbids to use it.
        """
        if self._stop.asked:
            return None
        opening = self._executor.submit(self._connect, environment, self._stack)
        self._stop.wait_for((opening,), graceful=False)
        return opening.result() if opening.done() else None

    def _look(self, environment: Environment) -> _Observed | WorkspaceError | RefusedError:
        observed = self._looked_at(environment)
        self._emit(EnvironmentObserved(environment.name, _seen(environment, observed)))
        return observed

    def _looked_at(self, environment: Environment) -> _Observed | WorkspaceError | RefusedError:
        if self._stop.asked:
            return WorkspaceError(STOPPED.code, STOPPED.message)
        try:
            with bind(environment=environment.name):
                workspace = self._connect(environment, self._stack)
                try:
                    return _Observed(environment, workspace, workspace.observe())
                finally:
                    workspace.close_idle_connections()
        except (WorkspaceError, RefusedError) as error:
            return error
        except Exception as error:  # noqa: BLE001 - it must not stop the other environments
            return self._surprised(environment.name, error)

    def _observe_again(self, name: str) -> Observation:
        """Looks once more, in place of the first look, when runs that met have settled.

        Raises:
            WorkspaceError: when the workspace cannot be looked at any more.
        """
        self._stop.sleep(_LATER)
        observed = self._looks[name]
        observed = replace(observed, observation=observed.workspace.observe())
        self._looks[name] = observed
        self._emit(EnvironmentObserved(name, observed.observation))
        return observed.observation

    def _surveyed(
        self,
        observed: _Observed,
        desired: Mapping[str, tuple[DesiredKey, ...]],
        options: PlanOptions,
    ) -> Mapping[Address, SinkContent]:
        name = observed.environment.name
        try:
            with bind(environment=name):
                read = to_read(desired.get(name, ()), observed.observation, options)
                return read_all(read, self._open_sink, self._stop)
        except Exception as error:  # noqa: BLE001 - it must not stop the other environments
            self._surprised(name, error)
            return {}

    def _surprised(self, name: str, error: Exception) -> WorkspaceError:
        """A bug of ours: kept for the end of the run, a failure of this environment meanwhile.

        That no descriptor is left is none.
        """
        if is_out_of_descriptors(error):
            return too_many_open_files(name)
        self.internal_error = self.internal_error or error
        return WorkspaceError(
            "internal_error",
            f"{name} could not be finished because of a bug ({type(error).__name__}).",
            remedy="Please report it; `provision list` shows what is there.",
        )


def _skipped(plan: Plan, why: RefusedError) -> tuple[Executed | Unobserved, ...]:
    return tuple(
        part if isinstance(part, Unobserved) else Executed.skipped(part, failure_of(why))
        for part in plan.environments
    )


def _seen(
    environment: Environment, observed: _Observed | WorkspaceError | RefusedError | None
) -> Observation | Unobserved:
    if isinstance(observed, _Observed):
        return observed.observation
    why = STOPPED if observed is None else failure_of(observed)
    return Unobserved(environment.name, environment.url, why)
