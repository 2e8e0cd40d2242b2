"""The pipeline of a run: load, observe, plan, guard, execute, report.

Each stage takes values and returns a value. `Reconciler.propose` runs the stages before the first
write and `Reconciler.execute` the one that writes, so that a person or a plan file can decide in
between. The CLI loads the manifests before them, and reports the result after them.

- observe: open and read every workspace. The value of an environment that fails is `Unobserved`.
- plan: read the sinks of its desired keys, compare workspace and sinks with the manifests, and
  check that the credential may do what is planned and that the sinks of its tokens are writable.
- guard: judge all environments together, and refuse the whole run if one rule is broken.
- execute: carry the plans out, or report every action as skipped if the run is refused.

Environments run side by side, one task each in an executor; only the guards see all of them at
once. The bug that an environment met is part of its value, and the others continue.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Never, Protocol, TypeVar, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import RefusedError, WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.execution import (
    ActionEnded,
    EnvironmentFinished,
    EnvironmentObserved,
    Executed,
    Execution,
    ExecutionContext,
    Progress,
    RunMarker,
    RunResult,
    ignore,
)
from provisioner.model.activity import (
    CheckingSinks,
    ReadingSinks,
    Rested,
    Waiting,
    ignore_activity,
)
from provisioner.model.environment import Environment
from provisioner.plan import (
    Plan,
    Planned,
    Unobserved,
    block_actions,
    block_all,
    block_forbidden,
    delivers_too_early,
    digest,
    missing_rights,
    plan_environment,
    rights_in_doubt,
    selected_keys,
    sinks_to_check,
    sinks_to_read,
)
from provisioner.reconcile.guards import guard
from provisioner.reconcile.proposal import ObservedEnvironment, PlannedEnvironment, Proposal
from provisioner.reconcile.token_proof import TokenProof
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.file_descriptors import is_out_of_descriptors, too_many_open_files
from provisioner.runtime.log_context import bind
from provisioner.sinks.probe import check_all, read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Executor, Future

    from provisioner.execution import Emit
    from provisioner.model.activity import OnActivity
    from provisioner.model.sink_address import Address
    from provisioner.model.workspace import Workspace
    from provisioner.reconcile.proposal import PlanRequest, SinkContents
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sinks.sink import OpenSink

_Input = TypeVar("_Input", bound=Environment | ObservedEnvironment)
_Outcome = TypeVar("_Outcome")

_SETTLE_DELAY = 2.0
"""Seconds after which two runs at once have agreed on which of their keys to keep."""


@dataclass(frozen=True, slots=True, eq=False)
class Reconciler:
    """The pipeline over the environments of one run; `close` closes their workspaces.

    Attributes:
        environments: the environments in the order of environments.yaml.
        connect: opens a workspace.
        open_sink: opens a sink.
        executor: runs one task for each environment.
        observers: the same for observations, which need few file descriptors.
        on_activity: receives what each environment does between its requests.
        stop: ends the run early.
        emit: receives the events of the run.
    """

    environments: tuple[Environment, ...]
    connect: Connect
    open_sink: OpenSink
    executor: Executor
    stop: Cancellation
    emit: Emit = ignore
    observers: Executor | None = None
    on_activity: OnActivity = ignore_activity
    _stack: ExitStack = field(default_factory=ExitStack, init=False)

    def propose(self, request: PlanRequest) -> Proposal:
        """Run the stages before the first write: return the plan, and its refusal."""
        observed = self.observe()
        return propose(observed, self.plan(observed, request), request)

    def execute(self, proposal: Proposal) -> RunResult:
        """Carry a proposal out, or skip all of it if it is refused."""
        refusal, run_marker = proposal.refusal, RunMarker.random()
        started = [self._start(one, refusal, run_marker) for one in proposal.environments]
        running = [one.bug for one in started if isinstance(one, _Running)]
        self.stop.wait_for(running, graceful=True)
        # A stop may have left tasks behind; their progress is the outcome all the same.
        outcomes = tuple(
            replace(one.progress.close(), bug=one.bug.result() if one.bug.done() else None)
            if isinstance(one, _Running)
            else one
            for one in started
        )
        return RunResult(proposal.plan.created_at, proposal.plan.digest, outcomes)

    def observe(self) -> tuple[ObservedEnvironment | Unobserved, ...]:
        """Observe every workspace; one that fails does not stop the others."""
        return self._each(self.environments, self._observe, self.observers)

    def with_revoked(
        self, observed: Iterable[ObservedEnvironment | Unobserved]
    ) -> tuple[ObservedEnvironment | Unobserved, ...]:
        """Return each observed environment with the revoked keys that its server lists too."""

        def add(one: ObservedEnvironment) -> ObservedEnvironment:
            try:
                listed = (*one.observation.keys, *one.opened.revoked_keys())
            finally:
                one.opened.close_idle_connections()
            # A key that was revoked meanwhile is in both lists.
            keys = tuple({key.id: key for key in listed}.values())
            return one._replace(observation=replace(one.observation, keys=keys))

        return self._each(observed, add)

    def plan(
        self, observed: Iterable[ObservedEnvironment | Unobserved], request: PlanRequest
    ) -> tuple[PlannedEnvironment | Unobserved, ...]:
        """Plan every observed environment, and check that the sinks of its actions are writable."""
        return self._each(observed, partial(self._plan, request=request))

    def read_key_sinks(
        self, observed: Iterable[ObservedEnvironment | Unobserved], request: PlanRequest
    ) -> tuple[tuple[ObservedEnvironment, SinkContents] | Unobserved, ...]:
        """Return each observed environment with the content of the sinks of its live keys.

        Every token is proven.
        """

        def read(one: ObservedEnvironment) -> tuple[ObservedEnvironment, SinkContents]:
            one.opened.lift_observe_limits()
            return one, self._read_key_sinks(one, request, prove_every=True)

        return self._each(observed, read)

    def read_sinks(self, addresses: Iterable[Address]) -> SinkContents:
        """Return the content of some sinks, without the tokens themselves."""
        return read_all(addresses, self.open_sink, self.stop)

    def open(self, environment: Environment) -> Workspace | None:
        """Open the workspace of one environment without observing it; None if a stop came first.

        Raises:
            WorkspaceError: if it cannot be opened.
            RefusedError: if a guard forbids using it.
        """
        if self.stop.requested:
            return None
        opening = self.executor.submit(self.connect, environment, self._stack)
        self.stop.wait_for((opening,), graceful=False)
        return opening.result() if opening.done() else None

    def close(self) -> None:
        """Close the workspaces, once their tasks have finished."""
        # A workspace is closed while its task still runs only if a stop left that task behind.
        for executor in filter(None, (self.executor, self.observers)):
            executor.shutdown(wait=not self.stop.requested, cancel_futures=True)
        self._stack.close()

    def _each(
        self,
        inputs: Iterable[_Input | Unobserved],
        task: Callable[[_Input], _Outcome | Unobserved],
        executor: Executor | None = None,
    ) -> tuple[_Outcome | Unobserved, ...]:
        """Run a task for each environment; its failure, its bug or a stop is its outcome."""

        def attempt(one: _Input | Unobserved) -> _Outcome | Unobserved:
            outcome = _attempt(one, task)
            self.on_activity(Rested(_name_of(one)))
            return outcome

        each = tuple(inputs)
        submit = (executor or self.executor).submit
        futures = [submit(attempt, one) for one in each]
        self.stop.wait_for(futures, graceful=False)
        return tuple(
            future.result() if future.done() else _attempt(one, _raise_stopped)
            for one, future in zip(each, futures, strict=True)
        )

    def _observe(self, environment: Environment) -> ObservedEnvironment | Unobserved:
        outcome = _attempt(environment, self._open_and_observe)
        shown = outcome if isinstance(outcome, Unobserved) else outcome.observation
        self.emit(EnvironmentObserved(environment.name, shown))
        return outcome

    def _open_and_observe(self, environment: Environment) -> ObservedEnvironment:
        if self.stop.requested:
            _raise_stopped(environment)
        workspace = self.connect(environment, self._stack)
        try:
            return ObservedEnvironment(environment, workspace, workspace.observe())
        finally:
            workspace.close_idle_connections()

    def _plan(self, observed: ObservedEnvironment, request: PlanRequest) -> PlannedEnvironment:
        planned = self._compare(observed, request)
        if delivers_too_early(planned, observed.observation):
            # By then runs at the same time have agreed on which keys to keep.
            self.on_activity(Waiting(planned.environment, _SETTLE_DELAY, "settle"))
            self.stop.sleep(_SETTLE_DELAY)
            observed = observed._replace(observation=observed.opened.observe())
            self.emit(EnvironmentObserved(planned.environment, observed.observation))
            planned = self._compare(observed, request)
        planned = _block_forbidden(observed, planned)
        addresses = sinks_to_check(planned)
        self.on_activity(CheckingSinks(planned.environment, len(addresses)))
        failures = check_all(addresses, self.open_sink, self.stop)
        planned = block_actions(planned, failures)
        if not planned.unblocked:  # a fleet would hold thousands of workspaces for nothing
            observed = observed._replace(workspace=None)
        return PlannedEnvironment(observed, planned)

    def _compare(self, observed: ObservedEnvironment, request: PlanRequest) -> Planned:
        return plan_environment(
            observed.environment,
            request.desired.get(observed.environment.name, ()),
            observed.observation,
            request.now,
            request.options,
            sink_contents=self._read_key_sinks(observed, request),
            former=request.former.get(observed.environment.name, ()),
        )

    def _read_key_sinks(
        self, observed: ObservedEnvironment, request: PlanRequest, *, prove_every: bool = False
    ) -> SinkContents:
        workspace, observation = observed.opened, observed.observation
        keys = request.desired.get(observed.environment.name, ())
        former = request.former.get(observed.environment.name, ())
        addresses = sinks_to_read(keys, observation, request.options, former)
        self.on_activity(ReadingSinks(observed.environment.name, len(addresses)))
        proof = TokenProof(workspace, observation, prove_every)
        try:
            return read_all(addresses, self.open_sink, self.stop, proof)
        finally:
            if proof.used:
                workspace.close_idle_connections()

    def _start(
        self,
        one: PlannedEnvironment | Unobserved,
        refusal: RefusedError | None,
        run_marker: RunMarker,
    ) -> _Running | Executed | Unobserved:
        """Start to carry out the plan of an environment, or return its outcome at once."""
        if isinstance(one, Unobserved):
            self.emit(EnvironmentFinished(one.environment, one))
            return one
        observed, planned = one
        environment = observed.environment
        if refusal is not None:
            skipped = Executed.skipped(planned, refusal.failure)
            for result in skipped.results:
                self.emit(ActionEnded(environment.name, result))
            self.emit(EnvironmentFinished(environment.name, skipped))
            return skipped
        if planned.unwritable is not None:
            planned = block_all(planned, planned.unwritable)
        progress = Progress(planned, self.emit)
        if not planned.unblocked:
            return progress.close()
        context = ExecutionContext(
            environment.name,
            observed.opened,
            existing_ids=frozenset(key.id for key in observed.observation.keys),
            parallel=environment.limits.parallel,
            stop=self.stop,
            progress=progress,
        )
        execution = Execution(planned, context, self.open_sink, run_marker)
        return _Running(progress, self.executor.submit(_run, execution))


def propose(
    observed: Iterable[ObservedEnvironment | Unobserved],
    planned: tuple[PlannedEnvironment | Unobserved, ...],
    request: PlanRequest,
) -> Proposal:
    """Return the plan of a run, refused if a guard refuses it."""
    plans = tuple(one if isinstance(one, Unobserved) else one.planned for one in planned)
    desired = selected_keys(request.desired, request.options)
    plan = Plan(request.now, digest(plans, desired), plans)
    return Proposal(plan, planned, guard(observed, planned, request), request)


def _block_forbidden(observed: ObservedEnvironment, planned: Planned) -> Planned:
    """Block the actions for which the credential lacks a right, as far as reads can show."""
    environment, _, observation = observed
    workspace = observed.opened
    if not rights_in_doubt(environment, observation, planned):
        return planned
    try:
        capabilities = workspace.capabilities()
        return block_forbidden(planned, missing_rights(environment, observation, capabilities))
    finally:
        workspace.close_idle_connections()


class _Running(NamedTuple):
    """The progress of an execution that has started, and the bug that it will have met."""

    progress: Progress
    bug: Future[Exception | None]


def _run(execution: Execution) -> Exception | None:
    """Run one environment's actions; after a bug, those that are not finished fail."""
    context = execution.context
    try:
        with bind(environment=context.environment):
            context.workspace.lift_observe_limits()
            execution.run()
    except Exception as error:  # noqa: BLE001 - it must not stop the other environments
        failure, bug = _internal_error(context.environment, error)
        context.progress.close(failure)
        return bug
    else:
        context.progress.close()
        return None
    finally:
        context.workspace.close_idle_connections()


def _attempt(
    one: _Input | Unobserved, task: Callable[[_Input], _Outcome | Unobserved]
) -> _Outcome | Unobserved:
    """Return the outcome of a task for one environment, whatever happens."""
    if isinstance(one, Unobserved):
        return one
    environment = one if isinstance(one, Environment) else one.environment
    try:
        with bind(environment=environment.name):
            return task(one)
    except Exception as error:  # noqa: BLE001 - it must not stop the other environments
        return _unobserved(environment.name, environment.url, error)


def _name_of(one: Environment | ObservedEnvironment | Unobserved) -> str:
    match one:
        case Unobserved(environment=name):
            return name
        case ObservedEnvironment(environment=environment):
            return environment.name
        case Environment(name=name):
            return name
        case _:
            assert_never(one)


def _raise_stopped(_: object) -> Never:
    """Fail as a task for an environment that a stop came before."""
    raise WorkspaceError.of(STOPPED)


def _unobserved(name: str, url: str, error: Exception) -> Unobserved:
    """Return the outcome of an environment that failed, with the refusal or bug behind it."""
    match error:
        case RefusedError():
            return Unobserved(name, url, error.failure, refusal=error)
        case WorkspaceError():
            return Unobserved(name, url, error.failure)
        case _:
            failure, bug = _internal_error(name, error)
            return Unobserved(name, url, failure, bug=bug)


def _internal_error(name: str, error: Exception) -> tuple[Failure, Exception | None]:
    """Return an unexpected error as a failure, and as a bug unless files ran out."""
    if is_out_of_descriptors(error):
        return too_many_open_files(name).failure, None
    failure = Failure(
        Code.INTERNAL_ERROR,
        f"{name} failed because of a bug in provision ({type(error).__name__}).",
        remedy="Please report it, and run `provision list` to see which keys exist.",
    )
    return failure, error


class Connect(Protocol):
    """Opens the workspace of an environment; the stack closes it."""

    def __call__(self, environment: Environment, stack: ExitStack) -> Workspace:
        """Sign in, and return the workspace.

        Raises:
            WorkspaceError: if it cannot be opened.
            RefusedError: if a guard forbids using it.
        """
        ...
