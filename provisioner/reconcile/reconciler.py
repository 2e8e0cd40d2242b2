"""The pipeline of a run: observe, plan, guard, execute.

`Reconciler.plan` observes every environment, reads the sinks of its desired keys, compares both
with the manifests, and checks that the sinks of the planned tokens are writable. The guards then
check all plans together and may refuse the whole run. `Reconciler.apply` carries the plan out, or
reports every action as skipped if a guard refused.

Environments run side by side, one task each in an executor. Only the guards see all of them at
once, between the last observation and the first write.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import RefusedError, WorkspaceError
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
    block_actions,
    delivers_too_early,
    digest,
    plan_environment,
    plan_revocations,
    selected_keys,
    sinks_to_check,
    sinks_to_read,
)
from provisioner.reconcile.guards import (
    GuardOverrides,
    combine_refusals,
    nothing_selected,
    refusals,
    shared_workspaces,
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
    from provisioner.model.workspace import Workspace
    from provisioner.plan import EnvironmentPlan, PlanOptions
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sinks.sink import OpenSink


_NO_OVERRIDES = GuardOverrides()

_SETTLE_DELAY = 2.0
"""Seconds after which two runs at once have agreed on which of their keys to keep."""


class Connect(Protocol):
    """Opens the workspace of an environment; the stack closes it."""

    def __call__(self, environment: Environment, stack: ExitStack) -> Workspace:
        """Sign in, and return the workspace.

        Raises:
            WorkspaceError: if it cannot be opened.
            RefusedError: if a guard forbids using it.
        """
        ...


@dataclass(frozen=True, slots=True)
class _ObservedEnvironment:
    environment: Environment
    workspace: Workspace
    observation: Observation


class Reconciler:
    """The environments of one run and their open workspaces.

    Attributes:
        refusal: why a guard refused the whole run; None if no guard did.
        internal_error: the first bug that an environment met; the others continued.

    Args:
        environments: the environments in the order of environments.yaml.
        connect: opens a workspace.
        open_sink: opens a sink.
        executor: runs one task for each environment.
        stop: ends the run early.
        emit: receives the events of the run.
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
        self._observed: dict[str, _ObservedEnvironment] = {}
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
        # A workspace is closed while its task still runs only if a stop left that task behind.
        self._executor.shutdown(wait=not self._stop.requested, cancel_futures=True)
        self._stack.close()

    def observe(self) -> tuple[tuple[Environment, Observation | Unobserved], ...]:
        """Observe every workspace; one that fails does not stop the others.

        If a guard forbids using an environment, `refusal` is set for the whole run.
        """
        futures = [self._executor.submit(self._observe, one) for one in self._environments]
        self._stop.wait_for(futures, graceful=False)
        outcomes = tuple(future.result() if future.done() else None for future in futures)
        observed = [one for one in outcomes if isinstance(one, _ObservedEnvironment)]
        refusals = [one for one in outcomes if isinstance(one, RefusedError)]
        pairs = [(one.environment, one.observation) for one in observed]
        refusals += [error for _, error in shared_workspaces(pairs)]
        self.refusal = combine_refusals(refusals)
        self._observed = {one.environment.name: one for one in observed}
        return tuple(
            (environment, _observation_or_failure(environment, outcome))
            for environment, outcome in zip(self._environments, outcomes, strict=True)
        )

    def plan(
        self,
        desired: Mapping[str, tuple[DesiredKey, ...]],
        now: datetime,
        options: PlanOptions,
        overrides: GuardOverrides = _NO_OVERRIDES,
    ) -> Plan:
        """Observe and plan every environment, and check that the sinks of its actions are writable.

        Args:
            desired: the desired keys by environment.
            now: the time of the plan.
            options: the options of the plan.
            overrides: the guards that the run may override; any other objection is in `refusal`.
        """
        observations = self.observe()

        def plan_one(environment: Environment, observation: Observation) -> EnvironmentPlan:
            with bind(environment=environment.name):
                try:
                    planned = compare(environment, observation)
                    if delivers_too_early(planned, observation):
                        planned = compare(environment, self._observe_again(environment.name))
                    failures = check_all(sinks_to_check(planned), self._open_sink, self._stop)
                    return block_actions(planned, failures)
                except WorkspaceError as error:
                    failure = error.failure
                except Exception as error:  # noqa: BLE001 - it must not stop the others
                    failure = self._record_bug(environment.name, error).failure
                return Unobserved(environment.name, environment.url, failure)

        def compare(environment: Environment, observation: Observation) -> Planned:
            keys = desired.get(environment.name, ())
            addresses = sinks_to_read(keys, observation, options)
            sink_contents = read_all(addresses, self._open_sink, self._stop)
            return plan_environment(
                environment, keys, observation, now, options, sink_contents=sink_contents
            )

        futures = {
            environment.name: self._executor.submit(plan_one, environment, observation)
            for environment, observation in observations
            if not isinstance(observation, Unobserved)
        }
        self._stop.wait_for(futures.values(), graceful=False)

        def finished(
            environment: Environment, observation: Observation | Unobserved
        ) -> EnvironmentPlan:
            if isinstance(observation, Unobserved):
                return observation
            future = futures[environment.name]
            if future.done():
                return future.result()
            return Unobserved(environment.name, environment.url, STOPPED)

        plans = tuple(finished(environment, one) for environment, one in observations)
        self._guard(plans, desired, overrides)
        self.refusal = self.refusal or nothing_selected(plans, options)
        return Plan(now, digest(plans, selected_keys(desired, options)), plans)

    def plan_revocations(
        self,
        desired: Mapping[str, tuple[DesiredKey, ...]],
        now: datetime,
        requested: frozenset[str],
        options: PlanOptions,
        overrides: GuardOverrides = _NO_OVERRIDES,
    ) -> Plan:
        """Plan the revocation of live keys that someone names.

        Args:
            desired: the desired keys by environment, which tell what is protected.
            now: the time of the plan.
            requested: names and ids of keys.
            options: the options of the plan.
            overrides: the guards that the run may override; any other objection is in `refusal`.
        """
        plans = tuple(
            observation
            if isinstance(observation, Unobserved)
            else plan_revocations(
                environment, observation, requested, options, desired.get(environment.name, ())
            )
            for environment, observation in self.observe()
        )
        self._guard(plans, desired, overrides)
        return Plan(now, digest(plans, {}), plans)

    @property
    def observations(self) -> tuple[tuple[Environment, Observation], ...]:
        """The last observation of every workspace that could be observed."""
        return tuple((one.environment, one.observation) for one in self._observed.values())

    def read_sinks(self, addresses: Iterable[Address]) -> Mapping[Address, SinkContent]:
        """Return the content of some sinks, without the tokens themselves."""
        return read_all(addresses, self._open_sink, self._stop)

    def read_key_sinks(
        self, desired: Mapping[str, tuple[DesiredKey, ...]], options: PlanOptions
    ) -> Mapping[Address, SinkContent]:
        """Return the content of the sinks of live keys, except those that a stop or a bug skipped.

        Args:
            desired: the desired keys by environment, of the environments that were observed.
            options: the options that select keys.
        """
        futures = [
            self._executor.submit(self._read_key_sinks, observed, desired, options)
            for observed in self._observed.values()
        ]
        self._stop.wait_for(futures, graceful=False)
        sink_contents: dict[Address, SinkContent] = {}
        for future in futures:
            sink_contents |= future.result() if future.done() else {}
        return sink_contents

    def refuse(self, error: RefusedError) -> None:
        """Refuse the whole run, whatever the guards decided."""
        self.refusal = error

    def _guard(
        self,
        plans: Iterable[EnvironmentPlan],
        desired: Mapping[str, tuple[DesiredKey, ...]],
        overrides: GuardOverrides,
    ) -> None:
        """Set `refusal` if a guard objects to one of the plans."""
        found: list[RefusedError] = []
        for part in plans:
            if isinstance(part, Planned):
                observed = self._observed[part.environment]
                keys = desired.get(part.environment, ())
                found += refusals(observed.environment, keys, observed.observation, part, overrides)
        self.refusal = self.refusal or combine_refusals(found)

    def apply(self, plan: Plan, on_progress: Callable[[int], None]) -> RunResult:
        """Carry out a plan of this reconciler, or skip all of it if there is a `refusal`.

        Args:
            plan: the return value of `plan`.
            on_progress: called with the number of steps whose outcome has become known.
        """
        if self.refusal is not None:
            skipped = _skipped(plan, self.refusal)
            for part, outcome in zip(plan.environments, skipped, strict=True):
                self._emit_finished(part.environment, outcome)
            return RunResult(plan.created_at, plan.digest, skipped)
        run_marker = RunMarker.random()
        executions = {
            part.environment: self._execution(part, run_marker, on_progress)
            for part in plan.environments
            if isinstance(part, Planned)
        }
        futures = {
            name: self._executor.submit(self._execute, name, execution)
            for name, execution in executions.items()
        }
        self._stop.wait_for(futures.values(), graceful=True)

        def finished(part: Planned | Unobserved) -> Executed | Unobserved:
            if isinstance(part, Unobserved):
                self._emit_finished(part.environment, part)
                return part
            if (future := futures[part.environment]).done():
                future.result()  # raises what `_execute` does not handle, such as KeyboardInterrupt
            return executions[part.environment].finish()

        results = tuple(map(finished, plan.environments))
        return RunResult(plan.created_at, plan.digest, results)

    def _execution(
        self, planned: Planned, run_marker: RunMarker, on_progress: Callable[[int], None]
    ) -> Execution:
        observed = self._observed[planned.environment]
        existing_ids = frozenset(key.id for key in observed.observation.keys)
        return Execution(
            planned,
            existing_ids,
            observed.workspace,
            self._open_sink,
            parallel=observed.environment.limits.parallel,
            run_marker=run_marker,
            stop=self._stop,
            on_progress=on_progress,
            emit=self._emit,
        )

    def _execute(self, name: str, execution: Execution) -> None:
        """Run one environment's actions; after a bug, those that are not finished fail."""
        try:
            with bind(environment=name):
                self._observed[name].workspace.lift_observe_limits()
                execution.run()
        except Exception as error:  # noqa: BLE001 - it must not stop the other environments
            execution.finish(self._record_bug(name, error).failure)
        else:
            execution.finish()
        finally:
            self._observed[name].workspace.close_idle_connections()

    def _emit_finished(self, environment: str, outcome: Executed | Unobserved) -> None:
        """Emit the events of an environment in which nothing was started."""
        for result in outcome.results if isinstance(outcome, Executed) else ():
            self._emit(ActionEnded(environment, result))
        self._emit(EnvironmentFinished(environment, outcome))

    def open(self, environment: Environment) -> Workspace | None:
        """Open the workspace of one environment without observing it; None if a stop came first.

        Raises:
            WorkspaceError: if it cannot be opened.
            RefusedError: if a guard forbids using it.
        """
        if self._stop.requested:
            return None
        opening = self._executor.submit(self._connect, environment, self._stack)
        self._stop.wait_for((opening,), graceful=False)
        return opening.result() if opening.done() else None

    def _observe(
        self, environment: Environment
    ) -> _ObservedEnvironment | WorkspaceError | RefusedError:
        outcome = self._try_to_observe(environment)
        event = EnvironmentObserved(environment.name, _observation_or_failure(environment, outcome))
        self._emit(event)
        return outcome

    def _try_to_observe(
        self, environment: Environment
    ) -> _ObservedEnvironment | WorkspaceError | RefusedError:
        if self._stop.requested:
            return WorkspaceError.of(STOPPED)
        try:
            with bind(environment=environment.name):
                workspace = self._connect(environment, self._stack)
                try:
                    return _ObservedEnvironment(environment, workspace, workspace.observe())
                finally:
                    workspace.close_idle_connections()
        except (WorkspaceError, RefusedError) as error:
            return error
        except Exception as error:  # noqa: BLE001 - it must not stop the other environments
            return self._record_bug(environment.name, error)

    def _observe_again(self, name: str) -> Observation:
        """Observe once more, after runs at the same time have agreed on which keys to keep.

        Raises:
            WorkspaceError: if the workspace can no longer be observed.
        """
        self._stop.sleep(_SETTLE_DELAY)
        observed = self._observed[name]
        observed = replace(observed, observation=observed.workspace.observe())
        self._observed[name] = observed
        self._emit(EnvironmentObserved(name, observed.observation))
        return observed.observation

    def _read_key_sinks(
        self,
        observed: _ObservedEnvironment,
        desired: Mapping[str, tuple[DesiredKey, ...]],
        options: PlanOptions,
    ) -> Mapping[Address, SinkContent]:
        name = observed.environment.name
        try:
            with bind(environment=name):
                addresses = sinks_to_read(desired.get(name, ()), observed.observation, options)
                return read_all(addresses, self._open_sink, self._stop)
        except Exception as error:  # noqa: BLE001 - it must not stop the other environments
            self._record_bug(name, error)
            return {}

    def _record_bug(self, name: str, error: Exception) -> WorkspaceError:
        """Keep a bug in `internal_error`, and return it as the failure of this environment.

        Running out of file descriptors is not a bug.
        """
        if is_out_of_descriptors(error):
            return too_many_open_files(name)
        self.internal_error = self.internal_error or error
        return WorkspaceError(
            Code.INTERNAL_ERROR,
            f"{name} failed because of a bug in provision ({type(error).__name__}).",
            remedy="Please report it, and run `provision list` to see which keys exist.",
        )


def _skipped(plan: Plan, error: RefusedError) -> tuple[Executed | Unobserved, ...]:
    return tuple(
        part if isinstance(part, Unobserved) else Executed.skipped(part, error.failure)
        for part in plan.environments
    )


def _observation_or_failure(
    environment: Environment, outcome: _ObservedEnvironment | WorkspaceError | RefusedError | None
) -> Observation | Unobserved:
    if isinstance(outcome, _ObservedEnvironment):
        return outcome.observation
    failure = STOPPED if outcome is None else outcome.failure
    return Unobserved(environment.name, environment.url, failure)
