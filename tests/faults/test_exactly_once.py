"""The main guarantee: random manifests, keys, faults and kills on every dialect.

`pytest tests/faults/test_exactly_once.py` runs SCENARIOS random scenarios (200 by default), a
quarter of them on each dialect; docs/reliability.md has the command for 10 000. Hypothesis prints a
failed scenario as a program of rules, which can be pasted below as a test.
"""

from __future__ import annotations

import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from builders import desired_key, environment_with, limits_with
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from killable import PROCESSES, FastClock, Kill, KillableTransport, Killed, Process, use_run_marker
from laboratory import TRANSIENT, Failed, Fault, Laboratory, Slow, seeded
from sandbox_control import ApiKey, Dialect, Exchange

from provisioner.execution import (
    CreatedByAnotherRun,
    Done,
    Executed,
    RunMarker,
    Skipped,
    Unfinished,
)
from provisioner.execution import Failed as FailedAction
from provisioner.model.environment import Environment, SessionToken, SignIn
from provisioner.plan import Duplicate, Plan, Planned
from provisioner.reconcile.proposal import PlanRequest
from provisioner.reconcile.reconciler import Reconciler
from provisioner.runtime.executor import ThreadExecutor
from provisioner.secret import Secret
from provisioner.sinks.registry import SinkRegistry
from provisioner.twenty import connect as connect_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from provisioner.execution import RunResult
    from provisioner.model.key import DesiredKey
    from provisioner.model.workspace import Workspace

SCENARIOS = int(os.environ.get("SCENARIOS", "200"))

# Faults that end by themselves within the client's timeout. A commit after the client gave up is
# not covered by the guarantee; tests/execution/test_execute.py tests it.
FAULTS: tuple[Fault, ...] = (
    *(fault for fault in TRANSIENT if not isinstance(fault, Slow)),
    Failed(graphql_status=200),
    Slow(0.01),
    Slow(0.01, before=True),
)

State = Literal["live", "expired", "revoked", "no role"]


LABORATORIES: dict[Dialect, Laboratory] = {}


def laboratory(dialect: Dialect) -> Laboratory:
    """Return the laboratory for all scenarios of a dialect; each starts with an empty workspace."""
    if dialect not in LABORATORIES:
        LABORATORIES[dialect] = Laboratory(dialect).__enter__()
    return LABORATORIES[dialect]


NAMES = ("svc-a", "svc-b", "svc-ü", "svc c", "svc-d", "svc-e", "svc-f", "SVC-A")

kills = st.none() | st.builds(Kill, st.integers(0, 14), st.sampled_from(("before", "after")))
plans = st.tuples(st.integers(0, 2**16), st.sampled_from((0.0, 0.1, 0.3, 0.5)))
keys = st.dictionaries(st.sampled_from(NAMES), st.sampled_from((0, 1, 2)), min_size=1)
existing_keys = st.lists(
    st.tuples(
        st.sampled_from((*NAMES, "old", "other")),
        st.sampled_from(("live", "expired", "revoked", "no role")),
    ),
    max_size=4,
)


class ExactlyOnce(RuleBasedStateMachine):
    """A workspace, manifests that declare keys in it, and runs with every kind of fault."""

    dialect: Dialect

    def __init__(self) -> None:
        super().__init__()
        self.laboratory = laboratory(self.dialect)
        self.laboratory.reset()
        self.sandbox = self.laboratory.sandbox
        self.desired: tuple[DesiredKey, ...] = ()
        self.foreign: dict[str, ApiKey] = {}
        self.duplicates: set[str] = set()
        self.broken = False
        self.markers = itertools.count(1)

    @initialize(
        desired=keys, found=existing_keys, parallel=st.sampled_from((1, 4)), signs_in=st.booleans()
    )
    def begin(
        self, desired: dict[str, int], found: list[tuple[str, State]], parallel: int, signs_in: bool
    ) -> None:
        self.parallel = parallel
        self.signs_in = signs_in
        self.merge_manifests(desired)
        for name, state in found:
            self.someone_creates(name, state)

    @rule(desired=keys)
    def merge_manifests(self, desired: dict[str, int]) -> None:
        """Change the manifests."""
        role = None if self.dialect is Dialect.LEGACY else "Admin"
        self.desired = tuple(
            desired_key(name, environment="", depth=depth, role=role, line=line)
            for line, (name, depth) in enumerate(desired.items(), 1)
        )

    @rule(name=st.sampled_from((*NAMES, "old")), state=st.sampled_from(("live", "expired")))
    def someone_creates(self, name: str, state: State) -> None:
        """Create a key by hand."""
        past, future = "2020-01-01T00:00:00.000Z", "2031-01-01T00:00:00.000Z"
        [id_] = self.sandbox.seed(
            [name],
            expires_at=past if state == "expired" else future,
            revoked_at=past if state == "revoked" else None,
            role=None if state == "no role" else "Admin",
        )
        self.foreign[id_] = next(key for key in self.sandbox.keys() if key.id == id_)

    @rule(plan=plans, kill=kills)
    def run(self, plan: tuple[int, float], kill: Kill | None) -> None:
        """Run one pipeline."""
        with self._with_faults(plan):
            [outcome] = self._run_all(kill)
        with self._note_failure():
            if outcome is not None:
                self._check_report(*outcome, alone=True)
            self._check_no_duplicates_created()

    @rule(plan=plans, first=kills, second=kills)
    def race(self, plan: tuple[int, float], first: Kill | None, second: Kill | None) -> None:
        """Run two pipelines at the same time."""
        with self._with_faults(plan):
            outcomes = self._run_all(first, second)
        with self._note_failure():
            self._allow_duplicates(outcomes)
            for outcome in outcomes:
                if outcome is not None:
                    self._check_report(*outcome, alone=False)

    @invariant()
    def foreign_keys_are_as_they_were(self) -> None:
        with self._note_failure():
            rows = {key.id: key for key in self.sandbox.keys()}
            assert self.foreign.items() <= rows.items()

    @invariant()
    def no_name_has_a_second_live_key(self) -> None:
        with self._note_failure():
            for name, live in self._keys_of_runs().items():
                assert len(live) == 1 or name in self.duplicates, (name, live)

    def teardown(self) -> None:
        """Check that a run without faults completes everything, and the next one sends no write."""
        if not self.desired or self.broken:
            return
        [outcome] = self._run_all(None)
        assert outcome is not None
        self._check_report(*outcome, alone=True)
        _, _, result = outcome
        assert not result.incomplete, result
        live = self.laboratory.live()
        assert {key.name for key in self.desired} <= live.keys()
        self.no_name_has_a_second_live_key()
        self.foreign_keys_are_as_they_were()
        before = len(self.laboratory.journal)
        [outcome] = self._run_all(None)
        assert outcome is not None
        assert not any(map(writes, self.laboratory.journal[before:]))
        [planned] = outcome[1].environments
        assert isinstance(planned, Planned)
        reported = {entry.name for entry in planned.findings if isinstance(entry, Duplicate)}
        names = {key.name for key in self.desired}
        assert reported == {name for name in names if len(live[name]) > 1}

    @contextmanager
    def _with_faults(self, plan: tuple[int, float]) -> Iterator[None]:
        """Inject the faults of a plan; at the end, heal the server and wait until it is idle."""
        self.laboratory.use(seeded(*plan, FAULTS))
        try:
            yield
        finally:
            self.laboratory.heal()
            self.laboratory.wait_until_idle()

    @contextmanager
    def _note_failure(self) -> Iterator[None]:
        """Note a failed check, so that `teardown` does not hide it with another failure."""
        try:
            yield
        except BaseException:
            self.broken = True
            raise

    def _keys_of_runs(self) -> dict[str, list[ApiKey]]:
        """Return the live keys that runs created, by name."""
        live = self.laboratory.live()
        created = {
            name: [entry for entry in same if entry.id not in self.foreign]
            for name, same in live.items()
        }
        return {name: same for name, same in created.items() if same}

    def _run_all(self, *kill_points: Kill | None) -> list[tuple[Process, Plan, RunResult] | None]:
        """Start runs at the same time; return their results, or None for a killed run."""
        self.processes = [Process(kill, next(self.markers)) for kill in kill_points]
        with ThreadPoolExecutor(len(kill_points)) as pool:
            return list(pool.map(self._run, self.processes))

    def _run(self, process: Process) -> tuple[Process, Plan, RunResult] | None:
        name = f"run-{process.run_marker}"
        PROCESSES[name] = process
        stop = FastClock()
        credential = (
            SignIn(Secret(self.sandbox.email), Secret(self.sandbox.password))
            if self.signs_in
            else SessionToken(Secret(self.sandbox.session_token()))
        )
        environment = environment_with(
            name=name,
            url=self.sandbox.url,
            credential=credential,
            limits=limits_with(parallel=self.parallel, batch=3, timeout=5.0),
        )

        def open_workspace(environment: Environment, stack: ExitStack) -> Workspace:
            workspace = connect_module.connect(environment, environment.url, credential, stop)
            stack.callback(workspace.close)
            return workspace

        no_sinks = SinkRegistry(Path(), {}, stop).open
        desired = {name: tuple(key._replace(environment=name) for key in self.desired)}
        try:
            with closing(
                Reconciler((environment,), open_workspace, no_sinks, ThreadExecutor(1), stop)
            ) as reconciler:
                now = datetime.now(UTC).replace(microsecond=0)
                proposal = reconciler.propose(PlanRequest(desired, now))
                plan = proposal.plan
                with use_run_marker(process.run_marker):
                    result = reconciler.execute(proposal)
                assert not any(part.bug for part in result.environments), result
        except Killed:
            return None
        finally:
            del PROCESSES[name]
        return process, plan, result

    def _check_report(
        self, process: Process, plan: Plan, result: RunResult, *, alone: bool
    ) -> None:
        """Check that the report is complete, done keys are live and others have a reason."""
        rows = {key.id: key for key in self.sandbox.keys()}
        run_marker = f".{process.run_marker:03d}Z"
        assert all(rows[id_].expires_at.endswith(run_marker) for id_ in process.written)
        [planned], [environment_result] = plan.environments, result.environments
        if not isinstance(planned, Planned):
            assert planned == environment_result
            return
        assert isinstance(environment_result, Executed)
        assert [entry.action for entry in environment_result.results] == list(planned.actions)
        live = {key.id: key for same in self.laboratory.live().values() for key in same}
        for entry in environment_result.results:
            name = entry.action.name
            own = [
                key
                for key in live.values()
                if key.name == name and key.expires_at.endswith(run_marker)
            ]
            match entry:
                case Done(id=id_, record=record):
                    assert live[id_].name == name
                    assert record is None or record["id"] == id_
                    assert own
                case CreatedByAnotherRun(id=id_):
                    assert live[id_].name == name
                    assert not alone
                    assert not own or name in self.duplicates
                case Unfinished(id=id_, failure=failure):
                    assert failure.text
                    assert id_ not in live or live[id_].name == name
                case FailedAction(failure=failure):
                    assert failure.code
                    assert failure.text
                    assert not own or failure.code in ("outcome_unknown", "duplicate_left")
                case Skipped():
                    assert not own

    def _check_no_duplicates_created(self) -> None:
        """Check that a run by itself never created a key that it had to revoke."""
        run_marker = f".{self.processes[0].run_marker:03d}Z"
        created = [key.name for key in self.sandbox.keys() if key.expires_at.endswith(run_marker)]
        assert len(created) == len(set(created)), created

    def _allow_duplicates(self, outcomes: list[tuple[Process, Plan, RunResult] | None]) -> None:
        """Note allowed duplicates: from a killed run, or committed after the last observation."""
        for name, live in self._keys_of_runs().items():
            if len(live) < 2 or name in self.duplicates:
                continue
            if None in outcomes:
                self.duplicates.add(name)
                continue
            first = min(live, key=lambda key: (key.created_at, key.id))
            by_suffix = {
                f".{entry[0].run_marker:03d}Z": entry[0] for entry in outcomes if entry is not None
            }
            committed = self._committed(first)
            for key in live:
                creator = by_suffix.get(key.expires_at[-5:])
                if key is not first and creator is not None:
                    reported = [
                        entry.failure
                        for outcome in outcomes
                        if outcome and outcome[0] is creator
                        for environment_result in outcome[2].environments
                        if isinstance(environment_result, Executed)
                        for entry in environment_result.results
                        if isinstance(entry, FailedAction | Unfinished)
                        and entry.action.name == name
                    ]
                    assert reported or creator.observed_at < committed, (name, live, outcomes)
                    self.duplicates.add(name)

    def _committed(self, key: ApiKey) -> float:
        """Return `time.monotonic()` when the create of a key was answered."""
        return max(
            entry.ended
            for entry in self.laboratory.journal
            if json.dumps(key.name).encode() in entry.body and key.expires_at.encode() in entry.body
        )


def writes(exchange: Exchange) -> bool:
    """Return whether an exchange may have changed a key."""
    return (
        exchange.method == "PATCH"
        or exchange.path.startswith("/rest/batch")
        or b"createApiKey" in exchange.body
        or b"revokeApiKey" in exchange.body
    )


@pytest.fixture(autouse=True, scope="module")
def killable_runs() -> Any:
    """Make runs killable, with given run markers."""
    patch = pytest.MonkeyPatch()
    patch.setattr(connect_module, "Transport", KillableTransport)
    patch.setattr(
        RunMarker, "random", classmethod(lambda cls: cls(use_run_marker.current.run_marker))
    )
    yield
    patch.undo()
    for entry in LABORATORIES.values():
        entry.close()
    LABORATORIES.clear()


SETTINGS = settings(
    max_examples=-(-SCENARIOS // len(Dialect)),
    stateful_step_count=5,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


class OnLegacy(ExactlyOnce):
    dialect = Dialect.LEGACY


class OnCore1(ExactlyOnce):
    dialect = Dialect.CORE_1


class OnCore(ExactlyOnce):
    dialect = Dialect.CORE


class OnCoreNewest(ExactlyOnce):
    dialect = Dialect.CORE_NEWEST


for scenarios in (OnLegacy, OnCore1, OnCore, OnCoreNewest):
    scenarios.TestCase.settings = SETTINGS

TestLegacy = OnLegacy.TestCase
TestCore1 = OnCore1.TestCase
TestCore = OnCore.TestCase
TestCoreNewest = OnCoreNewest.TestCase
