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
    Mark,
    RunResult,
    untold,
)
from provisioner.plan import (
    Plan,
    Planned,
    Unobserved,
    block,
    concerned,
    digest,
    plan_environment,
    plan_revocations,
    premature,
    to_prepare,
    to_read,
)
from provisioner.reconcile.guards import (
    Leave,
    nothing_selected,
    one_workspace_twice,
    refusals,
    together,
)
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.file_descriptors import none_left, spent
from provisioner.runtime.log_context import bound
from provisioner.sinks.probe import look_ahead, look_into

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Executor
    from datetime import datetime
    from types import TracebackType

    from provisioner.execution import Tell
    from provisioner.model.desired import DesiredKey, Environment
    from provisioner.model.observed import Observation
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import Held
    from provisioner.plan import EnvironmentPlan, Wishes
    from provisioner.runtime.cancellation import Stop
    from provisioner.sinks.sink import OpenSink
    from provisioner.twenty.workspace import Workspace


_NO_LEAVE = Leave()

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
class _Look:
    environment: Environment
    workspace: Workspace
    observation: Observation


class Fleet:
    """The environments of one run, and the workspaces that were opened for them.

    Attributes:
        refusal: a guard that stops the whole run, known after the look.
        surprise: the first bug that an environment met; the others went on.

    Args:
        environments: in the order of environments.yaml.
        connect: opens a workspace.
        open_sink: opens a sink.
        executor: runs one unit of work for each environment.
        stop: ends the run early.
        tell: is told what happens.
    """

    def __init__(  # noqa: PLR0913 - what a run is made of
        self,
        environments: tuple[Environment, ...],
        connect: Connect,
        open_sink: OpenSink,
        executor: Executor,
        stop: Stop,
        *,
        tell: Tell = untold,
    ) -> None:
        self._environments = environments
        self._connect = connect
        self._open_sink = open_sink
        self._executor = executor
        self._stop = stop
        self._tell = tell
        self._stack = ExitStack()
        self._looks: dict[str, _Look] = {}
        self.refusal: RefusedError | None = None
        self.surprise: Exception | None = None

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
        found = [look for look in looks if isinstance(look, _Look)]
        refusals = [look for look in looks if isinstance(look, RefusedError)]
        seen = [(look.environment, look.observation) for look in found]
        refusals += [error for _, error in one_workspace_twice(seen)]
        self.refusal = together(refusals)
        self._looks = {look.environment.name: look for look in found}
        return tuple(
            (environment, _seen(environment, look))
            for environment, look in zip(self._environments, looks, strict=True)
        )

    def plan(
        self,
        desired: Mapping[str, tuple[DesiredKey, ...]],
        now: datetime,
        wishes: Wishes,
        leave: Leave = _NO_LEAVE,
    ) -> Plan:
        """Observes and plans every environment, and looks ahead into the sinks of its keys.

        Args:
            desired: the desired keys by environment.
            now: the moment of the plan.
            wishes: what else is asked for.
            leave: what the guards may let pass; what they do not is kept in `refusal`.
        """
        looks = self.observe()

        def planned(environment: Environment, observation: Observation) -> EnvironmentPlan:
            with bound(environment=environment.name):
                try:
                    part = from_look(environment, observation)
                    if premature(part, observation):
                        part = from_look(environment, self._look_again(environment.name))
                    return block(part, look_ahead(to_prepare(part), self._open_sink, self._stop))
                except WorkspaceError as error:
                    why = failure_of(error)
                except Exception as error:  # noqa: BLE001 - it must not stop the others
                    why = failure_of(self._surprised(environment.name, error))
                return Unobserved(environment.name, environment.url, why)

        def from_look(environment: Environment, observation: Observation) -> Planned:
            wanted = desired.get(environment.name, ())
            read = to_read(wanted, observation, wishes)
            held = look_into(read, self._open_sink, self._stop)
            return plan_environment(environment, wanted, observation, now, wishes, held=held)

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
        self._guard(plans, desired, leave)
        self.refusal = self.refusal or nothing_selected(plans, wishes)
        return Plan(now, digest(plans, concerned(desired, wishes)), plans)

    def plan_revocations(
        self,
        desired: Mapping[str, tuple[DesiredKey, ...]],
        now: datetime,
        asked: frozenset[str],
        wishes: Wishes,
        leave: Leave = _NO_LEAVE,
    ) -> Plan:
        """Plans the end of the live keys that someone names.

        Args:
            desired: the desired keys by environment, for what is protected.
            now: the moment of the plan.
            asked: names and ids of keys.
            wishes: what bounds the plan.
            leave: what the guards may let pass; what they do not is kept in `refusal`.
        """
        looks = self.observe()
        plans = tuple(
            seen
            if isinstance(seen, Unobserved)
            else plan_revocations(
                environment, seen, asked, wishes, desired.get(environment.name, ())
            )
            for environment, seen in looks
        )
        self._guard(plans, desired, leave)
        return Plan(now, digest(plans, {}), plans)

    @property
    def seen(self) -> tuple[tuple[Environment, Observation], ...]:
        """The last look at every workspace that could be looked at."""
        return tuple((look.environment, look.observation) for look in self._looks.values())

    def look_into(self, addresses: Iterable[Address]) -> Mapping[Address, Held]:
        """What some sinks hold, without the tokens themselves."""
        return look_into(addresses, self._open_sink, self._stop)

    def survey(
        self, desired: Mapping[str, tuple[DesiredKey, ...]], wishes: Wishes
    ) -> Mapping[Address, Held]:
        """What the sinks of live keys hold, but of those that a stop or a bug came before.

        Args:
            desired: the desired keys by environment, of those that were observed.
            wishes: what bounds the keys.
        """
        futures = [
            self._executor.submit(self._surveyed, look, desired, wishes)
            for look in self._looks.values()
        ]
        self._stop.wait_for(futures, graceful=False)
        held: dict[Address, Held] = {}
        for future in futures:
            held |= future.result() if future.done() else {}
        return held

    def refuse(self, why: RefusedError) -> None:
        """Has nothing of the plans carried out, whatever the guards say of them."""
        self.refusal = why

    def _guard(
        self,
        plans: Iterable[EnvironmentPlan],
        desired: Mapping[str, tuple[DesiredKey, ...]],
        leave: Leave,
    ) -> None:
        """Keeps the reasons why nothing of the plans must be carried out."""
        found: list[RefusedError] = []
        for part in plans:
            if isinstance(part, Planned):
                look = self._looks[part.environment]
                wanted = desired.get(part.environment, ())
                found += refusals(look.environment, wanted, look.observation, part, leave)
        self.refusal = self.refusal or together(found)

    def apply(self, plan: Plan, settled: Callable[[int], None]) -> RunResult:
        """Carries out a plan that this fleet made; with a refusal, nothing of it.

        Args:
            plan: what `plan` returned.
            settled: called with the number of actions whose outcome has become known.
        """
        if self.refusal is not None:
            skipped = _skipped(plan, self.refusal)
            for part, outcome in zip(plan.environments, skipped, strict=True):
                self._tell_finished(part.environment, outcome)
            return RunResult(plan.created_at, plan.digest, skipped)
        mark = Mark.random()
        executions = {
            part.environment: self._execution(part, mark, settled)
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
                self._tell_finished(part.environment, part)
                return part
            if (future := futures[part.environment]).done():
                future.result()  # what is no exception of a run ends this one as well
            return executions[part.environment].end()

        results = tuple(map(ended, plan.environments))
        return RunResult(plan.created_at, plan.digest, results)

    def _execution(self, planned: Planned, mark: Mark, settled: Callable[[int], None]) -> Execution:
        look = self._looks[planned.environment]
        before = frozenset(key.id for key in look.observation.keys)
        return Execution(
            planned,
            before,
            look.workspace,
            self._open_sink,
            parallel=look.environment.limits.parallel,
            mark=mark,
            stop=self._stop,
            settled=settled,
            tell=self._tell,
        )

    def _carry_out(self, name: str, execution: Execution) -> None:
        """Runs one environment's actions; what a bug leaves open fails."""
        try:
            with bound(environment=name):
                self._looks[name].workspace.begin_work()
                execution.run()
        except Exception as error:  # noqa: BLE001 - it must not stop the other environments
            execution.end(failure_of(self._surprised(name, error)))
        else:
            execution.end()
        finally:
            self._looks[name].workspace.release()

    def _tell_finished(self, environment: str, outcome: Executed | Unobserved) -> None:
        """Tells of an environment in which nothing was begun."""
        for result in outcome.results if isinstance(outcome, Executed) else ():
            self._tell(ActionEnded(environment, result))
        self._tell(EnvironmentFinished(environment, outcome))

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

    def _look(self, environment: Environment) -> _Look | WorkspaceError | RefusedError:
        look = self._looked_at(environment)
        self._tell(EnvironmentObserved(environment.name, _seen(environment, look)))
        return look

    def _looked_at(self, environment: Environment) -> _Look | WorkspaceError | RefusedError:
        if self._stop.asked:
            return WorkspaceError(STOPPED.code, STOPPED.message)
        try:
            with bound(environment=environment.name):
                workspace = self._connect(environment, self._stack)
                try:
                    return _Look(environment, workspace, workspace.observe())
                finally:
                    workspace.release()
        except (WorkspaceError, RefusedError) as error:
            return error
        except Exception as error:  # noqa: BLE001 - it must not stop the other environments
            return self._surprised(environment.name, error)

    def _look_again(self, name: str) -> Observation:
        """Looks once more, in place of the first look, when runs that met have settled.

        Raises:
            WorkspaceError: when the workspace cannot be looked at any more.
        """
        self._stop.sleep(_LATER)
        look = self._looks[name]
        look = replace(look, observation=look.workspace.observe())
        self._looks[name] = look
        self._tell(EnvironmentObserved(name, look.observation))
        return look.observation

    def _surveyed(
        self, look: _Look, desired: Mapping[str, tuple[DesiredKey, ...]], wishes: Wishes
    ) -> Mapping[Address, Held]:
        name = look.environment.name
        try:
            with bound(environment=name):
                read = to_read(desired.get(name, ()), look.observation, wishes)
                return look_into(read, self._open_sink, self._stop)
        except Exception as error:  # noqa: BLE001 - it must not stop the other environments
            self._surprised(name, error)
            return {}

    def _surprised(self, name: str, error: Exception) -> WorkspaceError:
        """A bug of ours: kept for the end of the run, a failure of this environment meanwhile.

        That no descriptor is left is none.
        """
        if spent(error):
            return none_left(name)
        self.surprise = self.surprise or error
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
    environment: Environment, look: _Look | WorkspaceError | RefusedError | None
) -> Observation | Unobserved:
    if isinstance(look, _Look):
        return look.observation
    why = STOPPED if look is None else failure_of(look)
    return Unobserved(environment.name, environment.url, why)
