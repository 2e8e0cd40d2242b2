"""The pipeline of a run whose environments are worked on by the workers of a Dask cluster.

The stages are those of `reconciler.py`. A worker observes and plans an environment in one task and
carries its plan out in another; the plan of the run, its guards and its report are made here.

Dask may run the first task twice, which only reads. The second one runs at most once: if its
worker is lost, its environment is observed and planned again before anything else is written there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.execution import (
    ActionBegun,
    ActionEnded,
    EnvironmentFinished,
    EnvironmentObserved,
    Executed,
    RunResult,
    Skipped,
    StepsSettled,
    ignore,
)
from provisioner.plan import Unobserved, block_all
from provisioner.reconcile import worker
from provisioner.reconcile.guards import guard
from provisioner.reconcile.reconciler import propose
from provisioner.reconcile.recovery import all_failed, may_replace, recovered
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import run_all
from provisioner.runtime.log_context import bind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from concurrent.futures import Future

    from provisioner.execution import Emit
    from provisioner.plan import Step
    from provisioner.reconcile.proposal import (
        ObservedEnvironment,
        PlannedEnvironment,
        PlanRequest,
        Proposal,
    )
    from provisioner.reconcile.worker import Assignment, Returned
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.runtime.cluster import Cluster, Ticket

_T = TypeVar("_T")

_MAX_ATTEMPTS = 4
"""Workers that may be lost while they work on the same environment."""

_CHECK_SECONDS = 15.0
_MAX_CHECKS = 8
"""Checks in a row that may find the cluster without workers: two minutes."""

_PARALLEL_SENDS = 16
"""Tasks that are sent at the same time."""

_REMEDY = "Check the logs of the cluster, and run the command again to finish."
_STILL_AT_WORK = Failure(
    Code.OUTCOME_UNKNOWN,
    "A worker was still working on this environment when the run ended.",
    "Run `provision list` to see which keys exist.",
)


class _Work(NamedTuple):
    """The plan of an environment, and what is left of it: all, or a newer plan."""

    plan: PlannedEnvironment
    left: PlannedEnvironment

    @property
    def name(self) -> str:
        """Return the name of the environment."""
        return self.plan.planned.environment


class _Sent(NamedTuple):
    """Work that was sent to a worker; the outcome of a lost one is a clause that says why."""

    work: _Work
    ticket: Ticket
    outcome: Future[Executed | str]


@dataclass(frozen=True, slots=True, eq=False)
class ClusterReconciler:
    """The pipeline over environments that the workers of a cluster open.

    Attributes:
        assignments: the environments by name, in the order of environments.yaml.
        cluster: the workers.
        stop: ends the run early.
        emit: receives the events of the run; those of an environment come when its task has ended.
    """

    assignments: Mapping[str, Assignment]
    cluster: Cluster
    stop: Cancellation
    emit: Emit = ignore

    def propose(self, request: PlanRequest) -> Proposal:
        """Run the stages before the first write: return the plan, and its refusal."""
        found = self._plan(self.assignments, request)
        planned = tuple(found[name] for name in self.assignments)
        return propose([_observed(one) for one in planned], planned, request)

    def execute(self, proposal: Proposal) -> RunResult:
        """Carry a proposal out, or skip all of it if it is refused."""
        outcomes: dict[str, Executed | Unobserved] = {}
        to_send: list[PlannedEnvironment] = []
        for one in proposal.environments:
            if isinstance(one, Unobserved):
                outcomes[one.environment] = one
                self.emit(EnvironmentFinished(one.environment, one))
                continue
            planned = one.planned
            if proposal.refusal is not None:
                skipped = Executed.skipped(planned, proposal.refusal.failure)
                outcomes[planned.environment] = self._shown(skipped)
                continue
            if planned.unwritable is not None:
                planned = block_all(planned, planned.unwritable)
            if planned.unblocked:
                to_send.append(one._replace(planned=planned))
            else:
                # All actions are blocked, each with its own failure; usually there are none.
                outcomes[planned.environment] = self._shown(all_failed(planned, STOPPED))
        assert proposal.request is not None  # noqa: S101 - `propose` has set it
        outcomes |= self._carry_out(to_send, proposal.request)
        plan = proposal.plan
        environments = tuple(outcomes[one.environment] for one in plan.environments)
        return RunResult(plan.created_at, plan.digest, environments)

    def _plan(
        self, names: Iterable[str], request: PlanRequest
    ) -> dict[str, PlannedEnvironment | Unobserved]:
        """Observe and plan environments; one whose worker is lost is sent to another."""
        found: dict[str, PlannedEnvironment | Unobserved] = {}
        lost = dict.fromkeys(names, "")
        for _ in range(_MAX_ATTEMPTS):
            futures = {name: self._send_to_plan(name, request) for name in lost}
            self._wait(futures.values())
            lost = {}
            for name, future in futures.items():
                outcome = STOPPED if future.cancel() else future.result()
                match outcome:
                    case str():
                        lost[name] = outcome
                    case Failure():
                        found[name] = self._unobserved(name, outcome)
                    case _:
                        found[name] = outcome
            if not lost or self.stop.requested:
                break
        for name, reason in lost.items():
            message = f"The cluster could not observe {name}: {reason}."
            found[name] = self._unobserved(name, Failure(Code.WORKER_LOST, message, _REMEDY))
        return found

    def _send_to_plan(
        self, name: str, request: PlanRequest
    ) -> Future[PlannedEnvironment | Unobserved | str]:
        def then(result: bytes | str) -> PlannedEnvironment | Unobserved | str:
            if isinstance(result, str):
                return result
            outcome = cast("PlannedEnvironment | Unobserved", _received(name, result))
            seen = outcome if isinstance(outcome, Unobserved) else outcome.observed.observation
            self.emit(EnvironmentObserved(name, seen))
            return outcome

        value = worker.pack(self.assignments[name], _of(name, request))
        return self.cluster.submit(worker.propose, value, then)

    def _carry_out(
        self,
        planned: Iterable[PlannedEnvironment],
        request: PlanRequest,
    ) -> dict[str, Executed]:
        """Carry out plans, and what is left of those whose workers are lost."""
        done: dict[str, Executed] = {}
        to_do = {one.planned.environment: _Work(one, one) for one in planned}
        for _ in range(_MAX_ATTEMPTS):
            send = partial(self._send_to_execute, request)
            all_sent = run_all(send, to_do.values(), _PARALLEL_SENDS)
            self._wait([sent.outcome for sent in all_sent])
            if self.stop.requested:
                self._end(all_sent)
            ended = {sent.work.name: self._ended(sent) for sent in all_sent}
            lost = {name: one for name, one in ended.items() if isinstance(one, Failure)}
            again = self._plan(lost, request)
            for name, failure in lost.items():
                ended[name] = self._left(to_do[name], failure, again[name], request)
            done |= {name: one for name, one in ended.items() if isinstance(one, Executed)}
            to_do = {name: one for name, one in ended.items() if isinstance(one, _Work)}
            if not to_do:
                break
        for name, work in to_do.items():
            failure = _cut_off(name, "several workers were lost")
            done[name] = self._shown(all_failed(work.plan.planned, failure))
        return done

    def _ended(self, sent: _Sent) -> Executed | _Work | Failure:
        """Return the results of work that was sent, itself if it never began, or why it is lost."""
        outcome = None if sent.outcome.cancel() else sent.outcome.result()
        never_began = not isinstance(outcome, Executed) and sent.ticket.withdraw()
        sent.ticket.close()
        if isinstance(outcome, Executed):
            return outcome
        name, planned = sent.work.name, sent.work.plan.planned
        if never_began:
            skipped = self.stop.requested
            return self._shown(Executed.skipped(planned, STOPPED)) if skipped else sent.work
        failure = _STILL_AT_WORK if outcome is None else _cut_off(name, outcome)
        return self._shown(all_failed(planned, failure)) if self.stop.requested else failure

    def _left(
        self,
        work: _Work,
        failure: Failure,
        again: PlannedEnvironment | Unobserved,
        request: PlanRequest,
    ) -> Executed | _Work:
        """Return lost work with what is left of it, or its results if nothing more is sent."""
        planned = work.plan.planned
        if (
            isinstance(again, Unobserved)
            or not may_replace(planned, again.planned)
            or guard((again.observed,), (again,), _of(work.name, request)) is not None
        ):
            return self._shown(all_failed(planned, failure))
        if again.planned.unblocked:
            return work._replace(left=again)
        nothing_left = all_failed(again.planned, failure)
        return self._shown(recovered(planned, nothing_left, again.observed.observation))

    def _send_to_execute(self, request: PlanRequest, work: _Work) -> _Sent:
        name, planned = work.name, work.plan.planned

        def then(result: bytes | str) -> Executed | str:
            if isinstance(result, str):
                return result
            executed = cast("Executed", _received(name, result))
            if work.left is not work.plan:
                executed = recovered(planned, executed, work.left.observed.observation)
            return self._shown(executed, planned.steps)

        value = worker.pack(self.assignments[name], _of(name, request), work.left)
        ticket = self.cluster.ticket()
        return _Sent(work, ticket, self.cluster.submit(worker.execute, value, then, ticket))

    def _wait(self, futures: Collection[Future[_T]]) -> None:
        """Wait for tasks, as long as the run is not stopped and the cluster has workers."""
        checks = 0
        while checks < _MAX_CHECKS and not all(one.done() for one in futures):
            self.stop.wait_for(futures, graceful=False, timeout=_CHECK_SECONDS)
            if self.stop.requested:
                self.cluster.stop()
                return
            checks = 0 if self.cluster.has_workers() else checks + 1
        if checks == _MAX_CHECKS:
            self.cluster.abandon()

    def _end(self, all_sent: Collection[_Sent]) -> None:
        """Withdraw the work that has not begun, and give the rest its grace period."""

        def withdraw(sent: _Sent) -> None:
            if not sent.outcome.done() and sent.ticket.withdraw():
                sent.outcome.cancel()

        run_all(withdraw, all_sent, _PARALLEL_SENDS)
        begun = [sent.outcome for sent in all_sent if not sent.outcome.cancelled()]
        self.stop.wait_for(begun, graceful=True)

    def _unobserved(self, name: str, failure: Failure) -> Unobserved:
        outcome = Unobserved(name, self.assignments[name].environment.url, failure)
        self.emit(EnvironmentObserved(name, outcome))
        return outcome

    def _shown(self, executed: Executed, steps: Mapping[Step, int] | None = None) -> Executed:
        """Emit the results of an environment, after these steps were carried out."""
        name = executed.planned.environment
        for result in executed.results:
            if steps and result.action.blocked is None and not isinstance(result, Skipped):
                self.emit(ActionBegun(name, result.action))
            self.emit(ActionEnded(name, result))
        for step, count in (steps or {}).items():
            self.emit(StepsSettled(name, step, count))
        self.emit(EnvironmentFinished(name, executed))
        return executed


def _of(name: str, request: PlanRequest) -> PlanRequest:
    """Return the part of a request that is about one environment."""
    return request._replace(
        desired={name: request.desired.get(name, ())}, former={name: request.former.get(name, ())}
    )


def _observed(one: PlannedEnvironment | Unobserved) -> ObservedEnvironment | Unobserved:
    return one if isinstance(one, Unobserved) else one.observed


def _cut_off(name: str, reason: str) -> Failure:
    return Failure(Code.WORKER_LOST, f"The work on {name} was cut off: {reason}.", _REMEDY)


def _received(name: str, result: bytes) -> object:
    """Return what a worker sent back, after logging here what it warned about."""
    (returned,) = cast("tuple[Returned]", worker.unpack(result))
    with bind(environment=name):
        for line in returned.log:
            logging.getLogger(line.logger).log(line.level, "%s", line.message)
    return returned.outcome
