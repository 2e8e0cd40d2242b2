"""The promise itself: random manifests, random keys, random faults, random kills, every dialect.

`pytest tests/faults/test_exactly_once.py` plays SCENARIOS random scenarios (200 where nothing is
said), a third of them on each dialect; docs/reliability.md has the command for 10 000. A scenario
that fails is printed by Hypothesis as a program of rules, ready to be pasted below as a test.
"""

from __future__ import annotations

import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from builders import desired_key, environment_with, limits_with
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from laboratory import PASSING, Failed, Fault, Laboratory, Slow, seeded
from mortal import PROCESSES, Hurried, Kill, Killed, Mortal, Process, marked

from provisioner.execution import CreatedByAnotherRun, Done, Executed, RunMarker, Skipped
from provisioner.execution import Failed as FailedAction
from provisioner.model.environment import Environment, SessionToken, SignIn
from provisioner.plan import Duplicate, Plan, Planned, PlanOptions
from provisioner.reconcile.reconciler import Reconciler
from provisioner.runtime.executor import ThreadExecutor
from provisioner.sandbox import ApiKey, Dialect, Exchange
from provisioner.secret import Secret
from provisioner.sinks.registry import SinkRegistry
from provisioner.twenty import connect as connect_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from provisioner.execution import RunResult
    from provisioner.model.key import DesiredKey
    from provisioner.twenty.workspace import Workspace

SCENARIOS = int(os.environ.get("SCENARIOS", "200"))

# A fault that ends by itself within the client's time limit. What a server commits after the
# client gave up is beyond the guarantee, and is tried in tests/execution/test_execute.py.
FAULTS: tuple[Fault, ...] = (
    *(fault for fault in PASSING if not isinstance(fault, Slow)),
    Failed(graphql_status=200),
    Slow(0.01),
    Slow(0.01, before=True),
)

State = Literal["live", "expired", "revoked", "no role"]


LABORATORIES: dict[Dialect, Laboratory] = {}


def laboratory(dialect: Dialect) -> Laboratory:
    """One for all scenarios of a dialect: a scenario begins with an empty workspace."""
    if dialect not in LABORATORIES:
        LABORATORIES[dialect] = Laboratory(dialect).__enter__()
    return LABORATORIES[dialect]


NAMES = ("svc-a", "svc-b", "svc-ü", "svc c", "svc-d", "svc-e", "svc-f", "SVC-A")

kills = st.none() | st.builds(Kill, st.integers(0, 14), st.sampled_from(("before", "after")))
plans = st.tuples(st.integers(0, 2**16), st.sampled_from((0.0, 0.1, 0.3, 0.5)))
keys = st.dictionaries(st.sampled_from(NAMES), st.sampled_from((0, 1, 2)), min_size=1)
strangers = st.lists(
    st.tuples(
        st.sampled_from((*NAMES, "old", "other")),
        st.sampled_from(("live", "expired", "revoked", "no role")),
    ),
    max_size=4,
)


class ExactlyOnce(RuleBasedStateMachine):
    """A workspace, the manifests that want keys in it, and runs that meet every kind of fault."""

    dialect: Dialect

    def __init__(self) -> None:
        super().__init__()
        self.laboratory = laboratory(self.dialect)
        self.laboratory.reset()
        self.sandbox = self.laboratory.sandbox
        self.wanted: tuple[DesiredKey, ...] = ()
        self.foreign: dict[str, ApiKey] = {}
        self.twins: set[str] = set()
        self.broken = False
        self.marks = itertools.count(1)

    @initialize(
        wanted=keys, found=strangers, parallel=st.sampled_from((1, 4)), signs_in=st.booleans()
    )
    def begin(
        self, wanted: dict[str, int], found: list[tuple[str, State]], parallel: int, signs_in: bool
    ) -> None:
        self.parallel = parallel
        self.signs_in = signs_in
        self.want(wanted)
        for name, state in found:
            self.someone_makes(name, state)

    @rule(wanted=keys)
    def want(self, wanted: dict[str, int]) -> None:
        """Somebody merges other manifests."""
        role = None if self.dialect is Dialect.LEGACY else "Admin"
        self.wanted = tuple(
            desired_key(name, environment="", depth=depth, role=role, line=line)
            for line, (name, depth) in enumerate(wanted.items(), 1)
        )

    @rule(name=st.sampled_from((*NAMES, "old")), state=st.sampled_from(("live", "expired")))
    def someone_makes(self, name: str, state: State) -> None:
        """Somebody makes a key by hand."""
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
        """One pipeline."""
        with self._under(plan):
            [outcome] = self._play(kill)
        with self._holding():
            if outcome is not None:
                self._reported(*outcome, alone=True)
            self._made_each_once()

    @rule(plan=plans, first=kills, second=kills)
    def race(self, plan: tuple[int, float], first: Kill | None, second: Kill | None) -> None:
        """Two pipelines at once."""
        with self._under(plan):
            outcomes = self._play(first, second)
        with self._holding():
            self._excuse(outcomes)
            for outcome in outcomes:
                if outcome is not None:
                    self._reported(*outcome, alone=False)

    @invariant()
    def foreign_keys_are_as_they_were(self) -> None:
        with self._holding():
            rows = {key.id: key for key in self.sandbox.keys()}
            assert self.foreign.items() <= rows.items()

    @invariant()
    def no_name_has_a_second_live_key(self) -> None:
        with self._holding():
            for name, live in self._made().items():
                assert len(live) == 1 or name in self.twins, (name, live)

    def teardown(self) -> None:
        """When the faults end one more run converges, and the run after it sends no write."""
        if not self.wanted or self.broken:
            return
        [outcome] = self._play(None)
        assert outcome is not None
        self._reported(*outcome, alone=True)
        _, _, result = outcome
        assert not result.incomplete, result
        live = self.laboratory.live()
        assert {key.name for key in self.wanted} <= live.keys()
        self.no_name_has_a_second_live_key()
        self.foreign_keys_are_as_they_were()
        before = len(self.laboratory.journal)
        [outcome] = self._play(None)
        assert outcome is not None
        assert not any(map(writes, self.laboratory.journal[before:]))
        [planned] = outcome[1].environments
        assert isinstance(planned, Planned)
        told = {one.name for one in planned.findings if isinstance(one, Duplicate)}
        names = {key.name for key in self.wanted}
        assert told == {name for name in names if len(live[name]) > 1}

    @contextmanager
    def _under(self, plan: tuple[int, float]) -> Iterator[None]:
        """Faults of a plan, and at the end a server that is well and idle."""
        self.laboratory.use(seeded(*plan, FAULTS))
        try:
            yield
        finally:
            self.laboratory.heal()
            self.laboratory.quiet()

    @contextmanager
    def _holding(self) -> Iterator[None]:
        """Notes that a promise was broken, so that the end does not hide which one was first."""
        try:
            yield
        except BaseException:
            self.broken = True
            raise

    def _made(self) -> dict[str, list[ApiKey]]:
        """The live keys that runs made, by name."""
        live = self.laboratory.live()
        made = {
            name: [one for one in same if one.id not in self.foreign] for name, same in live.items()
        }
        return {name: same for name, same in made.items() if same}

    def _play(self, *fates: Kill | None) -> list[tuple[Process, Plan, RunResult] | None]:
        """Runs at once, each killed at its point; None for one that was killed."""
        self.processes = [Process(kill, next(self.marks)) for kill in fates]
        with ThreadPoolExecutor(len(fates)) as pool:
            return list(pool.map(self._run, self.processes))

    def _run(self, process: Process) -> tuple[Process, Plan, RunResult] | None:
        name = f"run-{process.mark}"
        PROCESSES[name] = process
        stop = Hurried()
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
        wanted = {name: tuple(key._replace(environment=name) for key in self.wanted)}
        try:
            with Reconciler(
                (environment,), open_workspace, no_sinks, ThreadExecutor(1), stop
            ) as reconciler:
                plan = reconciler.plan(
                    wanted, datetime.now(UTC).replace(microsecond=0), PlanOptions()
                )
                with marked(process.mark):
                    result = reconciler.apply(plan, lambda _: None)
                assert reconciler.internal_error is None, reconciler.internal_error
        except Killed:
            return None
        finally:
            del PROCESSES[name]
        return process, plan, result

    def _reported(self, process: Process, plan: Plan, result: RunResult, *, alone: bool) -> None:
        """The report is true: what is done is live, what is not says why, nothing is missing."""
        rows = {key.id: key for key in self.sandbox.keys()}
        mark = f".{process.mark:03d}Z"
        assert all(rows[id_].expires_at.endswith(mark) for id_ in process.written)
        [planned], [part] = plan.environments, result.environments
        if not isinstance(planned, Planned):
            assert planned == part
            return
        assert isinstance(part, Executed)
        assert [one.action for one in part.results] == list(planned.actions)
        live = {key.id: key for same in self.laboratory.live().values() for key in same}
        for one in part.results:
            name = one.action.name
            mine = [
                key for key in live.values() if key.name == name and key.expires_at.endswith(mark)
            ]
            match one:
                case Done(id=id_, record=record):
                    assert live[id_].name == name
                    assert record is None or record["id"] == id_
                    assert mine
                case CreatedByAnotherRun(id=id_):
                    assert live[id_].name == name
                    assert not alone
                    assert not mine or name in self.twins
                case FailedAction(failure=failure):
                    assert failure.code
                    assert failure.message
                    assert not mine or failure.code in ("outcome_unknown", "duplicate_left")
                case Skipped():
                    assert not mine

    def _made_each_once(self) -> None:
        """A run without a rival never makes a key that it has to take back."""
        mark = f".{self.processes[0].mark:03d}Z"
        made = [key.name for key in self.sandbox.keys() if key.expires_at.endswith(mark)]
        assert len(made) == len(set(made)), made

    def _excuse(self, outcomes: list[tuple[Process, Plan, RunResult] | None]) -> None:
        """Twins that the guarantee leaves: of a killed run, and of a commit behind a last look."""
        for name, live in self._made().items():
            if len(live) < 2 or name in self.twins:
                continue
            if None in outcomes:
                self.twins.add(name)
                continue
            first = min(live, key=lambda key: (key.created_at, key.id))
            by_mark = {f".{one[0].mark:03d}Z": one[0] for one in outcomes if one is not None}
            committed = self._committed(first)
            for key in live:
                maker = by_mark.get(key.expires_at[-5:])
                if key is not first and maker is not None:
                    told = [
                        one.failure
                        for outcome in outcomes
                        if outcome and outcome[0] is maker
                        for part in outcome[2].environments
                        if isinstance(part, Executed)
                        for one in part.results
                        if isinstance(one, FailedAction) and one.action.name == name
                    ]
                    assert told or maker.looked_at < committed, (name, live, outcomes)
                    self.twins.add(name)

    def _committed(self, key: ApiKey) -> float:
        """When the create of a key was answered, by `time.monotonic`."""
        return max(
            one.ended
            for one in self.laboratory.journal
            if json.dumps(key.name).encode() in one.body and key.expires_at.encode() in one.body
        )


def writes(exchange: Exchange) -> bool:
    """Whether an exchange may have changed a key."""
    return (
        exchange.method == "PATCH"
        or exchange.path.startswith("/rest/batch")
        or b"createApiKey" in exchange.body
        or b"revokeApiKey" in exchange.body
    )


@pytest.fixture(autouse=True, scope="module")
def mortal_runs() -> Any:
    """Runs can be killed, and draw the marks that they are given."""
    patch = pytest.MonkeyPatch()
    patch.setattr(connect_module, "Transport", Mortal)
    patch.setattr(RunMarker, "random", classmethod(lambda cls: cls(marked.current.mark)))
    yield
    patch.undo()
    for one in LABORATORIES.values():
        one.close()
    LABORATORIES.clear()


SETTINGS = settings(
    max_examples=-(-SCENARIOS // 3),
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


for scenarios in (OnLegacy, OnCore1, OnCore):
    scenarios.TestCase.settings = SETTINGS

TestLegacy = OnLegacy.TestCase
TestCore1 = OnCore1.TestCase
TestCore = OnCore.TestCase
