"""The whole life of keys: random manifests, wishes, faults, kills, races and days that pass.

What `test_exactly_once` promises of creates holds for rotating, changing, pruning and deduping,
and besides: what `owns` does not match is never touched, what ends has a reason to, and no run
takes a working token away. Somebody makes, renames, revokes and re-dates keys under wanted names
by hand all the while: none of that displaces a reviewed key, and all of it is reported. LIVES
random lives are played (50 where nothing is said), a third of them on each dialect.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import time_machine
from builders import desired_key, environment_with, limits_with, rotation_with
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from laboratory import PASSING, Failed, Fault, Laboratory, Slow, seeded
from mortal import PROCESSES, Hurried, Kill, Killed, Mortal, MortalSink, Process, marked
from stranger import LIVES as BY_HAND
from stranger import Stranger

from provisioner.execution import Executed, RunMarker
from provisioner.model.environment import Environment, SessionToken
from provisioner.model.expiry import ExpiresAfter, parse_expiry
from provisioner.model.globs import matches
from provisioner.model.sink_address import FileAddress
from provisioner.model.token_claims import TokenClaims, claims_of
from provisioner.plan import PlanOptions, Revoke
from provisioner.reconcile.guards import GuardOverrides
from provisioner.reconcile.reconciler import Reconciler
from provisioner.runtime.executor import ThreadExecutor
from provisioner.sandbox import ApiKey, Dialect, Exchange
from provisioner.secret import Secret
from provisioner.sinks.registry import SinkRegistry
from provisioner.twenty import connect as connect_module

if TYPE_CHECKING:
    from contextlib import ExitStack

    from provisioner.execution import RunResult
    from provisioner.model.key import DesiredKey
    from provisioner.twenty.workspace import Workspace

LIVES = int(os.environ.get("LIVES", "50"))
OWNS = ("svc-*",)
OWNED = ("svc-a", "svc-b", "svc-c")
OTHERS = ("zapier", "Svc-a")
NEW_YEAR = datetime(2027, 1, 1, 4, 0, 0, tzinfo=UTC)
TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
FAULTS: tuple[Fault, ...] = (
    *(fault for fault in PASSING if not isinstance(fault, Slow)),
    Failed(graphql_status=200),
    Slow(0.01),
)


class Wish(NamedTuple):
    """What a manifest says of one key."""

    expires: str
    rotates: bool
    sinks: int


options = st.builds(
    Wish,
    st.sampled_from(("30d", "90d", "2027-09-01", "2028-01-01")),
    st.booleans(),
    st.integers(0, 2),
)
manifests = st.dictionaries(st.sampled_from((*OWNED, *OTHERS)), options, min_size=1)
kills = st.none() | st.builds(Kill, st.integers(0, 24), st.sampled_from(("before", "after")))
faults = st.tuples(st.integers(0, 2**16), st.sampled_from((0.0, 0.0, 0.1, 0.3)))
asks = st.builds(
    lambda prune, dedupe, redeliver: PlanOptions(prune=prune, dedupe=dedupe, redeliver=redeliver),
    *(st.sampled_from((False, False, True)) for _ in range(3)),
)
LABORATORIES: dict[Dialect, Laboratory] = {}


def laboratory(dialect: Dialect) -> Laboratory:
    """One for all lives on a dialect: each begins with an empty workspace."""
    if dialect not in LABORATORIES:
        LABORATORIES[dialect] = Laboratory(dialect).__enter__()
    return LABORATORIES[dialect]


class WholeLife(RuleBasedStateMachine):
    """A workspace, its manifests and sinks, and runs that meet every kind of fault."""

    dialect: Dialect

    def __init__(self) -> None:
        super().__init__()
        self.laboratory = laboratory(self.dialect)
        self.laboratory.reset()
        self.sandbox = self.laboratory.sandbox
        self.clock = time_machine.travel(NEW_YEAR, tick=True)
        self.traveller = self.clock.start()
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.wanted: tuple[DesiredKey, ...] = ()
        self.stranger = Stranger(self.sandbox)
        self.adopted: set[str] = set()
        self.excused: set[str] = set()
        self.broken = False
        self.marks = itertools.count(1)

    @initialize(wanted=manifests, found=st.lists(st.sampled_from((*OWNED, *OTHERS)), max_size=3))
    def begin(self, wanted: dict[str, Wish], found: list[str]) -> None:
        self.want(wanted)
        for name in found:
            self.someone_makes(name, BY_HAND[1])

    @rule(wanted=manifests)
    def want(self, wanted: dict[str, Wish]) -> None:
        """Somebody merges other manifests."""
        self.wanted = tuple(
            desired_key(
                name,
                environment="",
                expiry=wish.expires,
                role=None if self.dialect is Dialect.LEGACY else "Admin",
                line=line,
                deliver=(
                    FileAddress(f"{name}.json", "token", "json"),
                    FileAddress(f"{name}.env", "TOKEN"),
                )[: wish.sinks],
                rotation=rotation_with()
                if wish.rotates
                and name in OWNED
                and wish.sinks
                and isinstance(parse_expiry(wish.expires), ExpiresAfter)
                else None,
            )
            for line, (name, wish) in enumerate(wanted.items(), 1)
        )

    @rule(name=st.sampled_from((*OWNED, *OTHERS)), life=st.sampled_from(BY_HAND))
    def someone_makes(self, name: str, life: timedelta) -> None:
        """Somebody makes a key by hand."""
        self.stranger.makes(name, life)

    @rule(name=st.sampled_from((*OWNED, *OTHERS)))
    def someone_left_one_that_has_ended(self, name: str) -> None:
        """Long ago somebody made a key by hand."""
        self.stranger.keys.update(self.sandbox.seed([name], expires_at="2020-01-01T00:00:00.000Z"))

    @rule(which=st.integers(0, 99), name=st.sampled_from((*OWNED, *OTHERS)))
    def someone_renames(self, which: int, name: str) -> None:
        """Somebody gives a live key another name, or its own."""
        for row in self._one_live(which):
            if row.name != name:
                self.stranger.renames(row, name)

    @rule(which=st.integers(0, 99))
    def someone_revokes(self, which: int) -> None:
        """Somebody ends a live key."""
        for row in self._one_live(which):
            self.stranger.revokes(row)

    @rule(which=st.integers(0, 99), days=st.sampled_from((4, 20, 40)))
    def someone_redates(self, which: int, days: int) -> None:
        """Somebody gives a live key another end."""
        for row in self._one_live(which):
            self.stranger.redates(row, timedelta(days=days, hours=7))

    def _one_live(self, which: int) -> list[ApiKey]:
        """One of the live keys, if there is any."""
        now = datetime.now(UTC)
        rows = [row for row in self._rows().values() if self._live(row, now)]
        return rows[which % len(rows) :][:1] if rows else []

    @rule(name=st.sampled_from(OWNED), form=st.sampled_from(("json", "env")))
    def someone_loses_a_sink(self, name: str, form: str) -> None:
        """A file is gone."""
        (self.root / f"{name}.{form}").unlink(missing_ok=True)

    @rule(days=st.sampled_from((1, 3, 9, 18, 25)))
    def days_pass(self, days: int) -> None:
        """Nobody runs anything."""
        self.traveller.shift(timedelta(days=days))

    @rule(faults=faults, kill=kills, asked=asks)
    def run(self, faults: tuple[int, float], kill: Kill | None, asked: PlanOptions) -> None:
        """One pipeline."""
        self._observed(faults, (kill,), asked)

    @rule(faults=faults, first=kills, second=kills, asked=asks)
    def race(
        self, faults: tuple[int, float], first: Kill | None, second: Kill | None, asked: PlanOptions
    ) -> None:
        """Two pipelines at once."""
        self._observed(faults, (first, second), asked)

    @invariant()
    def no_name_has_a_third_live_key(self) -> None:
        """Beside those that people made by hand."""
        live = Counter(
            row.name
            for row in self._rows().values()
            if self._live(row, datetime.now(UTC))
            and row.id not in self.stranger.keys | self.stranger.redated
        )
        most = {name for name, count in live.items() if count > 2}
        self._demand(not most - self.excused, most)

    def teardown(self) -> None:
        """When the faults end three more runs converge, and the one after them sends no write."""
        try:
            if not self.broken and self.wanted:
                self._converge()
        finally:
            self.clock.stop()
            self.folder.cleanup()

    def _converge(self) -> None:
        for _ in range(3):
            [result] = self._observed((0, 0.0), (None,), PlanOptions())
            assert result is not None
            assert not result.incomplete, result
        before = len(self.laboratory.journal)
        self._observed((0, 0.0), (None,), PlanOptions())
        assert not any(map(writes, self.laboratory.journal[before:]))
        now = datetime.now(UTC)
        rows = self._rows()
        live = {row.name for row in rows.values() if self._live(row, now)}
        assert {key.name for key in self.wanted} <= live
        assert self._working(rows) == {address for key in self.wanted for address in key.deliver}

    def _observed(
        self, faults: tuple[int, float], fates: tuple[Kill | None, ...], asked: PlanOptions
    ) -> list[RunResult | None]:
        """Runs at once, and what must hold of all that they changed."""
        before = self._rows()
        worked = self._working(before)
        shown = self._shown()
        self._adopt(before, shown)
        self.laboratory.use(seeded(*faults, FAULTS))
        processes = [Process(kill, next(self.marks)) for kill in fates]
        try:
            with ThreadPoolExecutor(len(fates)) as pool:
                results = list(pool.map(lambda one: self._run(one, asked), processes))
        finally:
            self.laboratory.heal()
            self.laboratory.quiet()
        after = self._rows()
        if len(fates) > 1:
            self._excuse(after)
        self._nothing_else_was_touched(before, after, asked)
        self._no_stranger_displaced_anything(before, after, shown)
        for result in results:
            self._strangers_are_reported(result, before)
        lost = worked - self._working(after)
        self._demand(not lost, ("a working token was taken away", lost, asked))
        return results

    def _nothing_else_was_touched(
        self, before: dict[str, ApiKey], after: dict[str, ApiKey], asked: PlanOptions
    ) -> None:
        """What `owns` does not match stays as it is, and the rest ends for a reason alone."""
        wanted = {key.name: key for key in self.wanted}
        for id_, row in before.items():
            owned = matches(row.name, OWNS)
            now = after[id_]
            self._demand(owned or row == now, ("touched", row, now))
            if now.revoked_at != row.revoked_at:
                key = wanted.get(row.name)
                reason = asked.prune if key is None else bool(asked.dedupe or key.rotation)
                self._demand(reason, ("ended without a reason", row, asked))
                if key is not None:
                    others = (one for one in after.values() if one.name == row.name)
                    another = any(self._live(one, datetime.now(UTC)) for one in others)
                    self._demand(another, ("the last key of a name ended", row, asked))

    def _shown(self) -> dict[str, set[str]]:
        """The ids of the keys whose tokens the sinks hold, by the name that the sinks are of."""
        found: dict[str, set[str]] = {}
        for key in self.wanted:
            for address in key.deliver:
                assert isinstance(address, FileAddress)
                claims = self._claims(address)
                if claims is not None and claims.key is not None:
                    found.setdefault(key.name, set()).add(claims.key)
        return found

    def _adopt(self, before: dict[str, ApiKey], shown: dict[str, set[str]]) -> None:
        """Notes the keys by hand that are the key of their name: the oldest, where none is held."""
        now = datetime.now(UTC)
        for key in self.wanted:
            same = [row for row in before.values() if row.name == key.name and self._live(row, now)]
            if same and not any(row.id in shown.get(key.name, ()) for row in same):
                self.adopted.add(min(same, key=lambda row: (row.created_at, row.id)).id)

    def _no_stranger_displaced_anything(
        self, before: dict[str, ApiKey], after: dict[str, ApiKey], shown: dict[str, set[str]]
    ) -> None:
        """A key by hand is delivered only where it was the key, or beside no reviewed one.

        It was the key where it was delivered, or none older lived. And a reviewed key that was
        delivered ends only when the sinks hold one of another run.
        """
        now = datetime.now(UTC)
        for name, ids in self._shown().items():
            same = [row for row in before.values() if row.name == name and self._live(row, now)]
            known = [row for row in same if row.id in shown.get(name, ())]
            first = min(same, key=lambda row: (row.created_at, row.id), default=None)
            for id_ in (ids - shown.get(name, set())) & self.stranger.keys:
                adopted = not known and first is not None and first.id == id_
                adopted = adopted or not self._reviewed(same)
                self._demand(adopted, ("a stranger's token was delivered", name, id_, same, shown))
            self.adopted |= ids & self.stranger.keys
            for row in known:
                ended = after[row.id].revoked_at != row.revoked_at
                if ended and row.id not in self.stranger.keys:
                    follows = any(self._live(after[one], now) for one in ids if one in after)
                    self._demand(follows, ("a reviewed key ended", row, ids))

    def _reviewed(self, rows: list[ApiKey]) -> bool:
        """Whether a key is among them that a run made and nobody touched."""
        touched = self.stranger.keys | self.stranger.redated
        return any(row.id not in touched for row in rows)

    def _strangers_are_reported(self, result: RunResult | None, before: dict[str, ApiKey]) -> None:
        """Each key by hand beside another one of a wanted name is in a finding or an action."""
        if result is None:
            return
        [part] = result.environments
        if not isinstance(part, Executed):
            return
        now = datetime.now(UTC)
        wanted = {key.name for key in self.wanted}
        live = [row for row in before.values() if row.name in wanted and self._live(row, now)]
        told = {id_ for finding in part.planned.findings for id_ in finding.ids}
        for action in part.planned.actions:
            if isinstance(action, Revoke):
                told.add(action.key_id)
        for row in live:
            beside = [one for one in live if one.name == row.name]
            if row.id in self.stranger.keys - self.adopted and self._reviewed(beside):
                self._demand(
                    row.id in told, ("a stranger's key is not reported", row, part.planned)
                )

    def _excuse(self, after: dict[str, ApiKey]) -> None:
        """Twins that the guarantee leaves where two runs meet: a finding of the next plan."""
        now = datetime.now(UTC)
        live = Counter(row.name for row in after.values() if self._live(row, now))
        self.excused |= {name for name, count in live.items() if count > 2}

    def _working(self, rows: dict[str, ApiKey]) -> set[FileAddress]:
        """The sinks of wanted keys that hold a token which the server accepts now."""
        now = datetime.now(UTC)
        found = set()
        for key in self.wanted:
            for address in key.deliver:
                assert isinstance(address, FileAddress)
                claims = self._claims(address)
                row = rows.get((claims and claims.key) or "")
                if (
                    claims
                    and claims.expires_at
                    and claims.expires_at > now
                    and row
                    and self._live(row, now)
                ):
                    # One that somebody renamed is not of this name any more.
                    found |= {address} if row.name == key.name else set()
        return found

    def _claims(self, address: FileAddress) -> TokenClaims | None:
        """What the token says that a sink holds, if it holds one."""
        file = self.root / address.path
        token = TOKEN.search(file.read_text()) if file.exists() else None
        return claims_of(Secret(token[0])) if token else None

    def _run(self, process: Process, asked: PlanOptions) -> RunResult | None:
        name = f"run-{process.mark}"
        PROCESSES[name] = process
        stop = Hurried()
        credential = SessionToken(Secret(self.sandbox.session_token()))
        environment = environment_with(
            name=name,
            url=self.sandbox.url,
            credential=credential,
            owns=OWNS,
            limits=limits_with(parallel=4, batch=3, timeout=5.0),
        )

        def open_workspace(environment: Environment, stack: ExitStack) -> Workspace:
            workspace = connect_module.connect(environment, environment.url, credential, stop)
            stack.callback(workspace.close)
            return workspace

        sinks = SinkRegistry(self.root, {}, stop)
        wanted = {name: tuple(key._replace(environment=name) for key in self.wanted)}
        try:
            with Reconciler(
                (environment,),
                open_workspace,
                lambda address: MortalSink(sinks.open(address), process),
                ThreadExecutor(1),
                stop,
            ) as reconciler:
                now = datetime.now(UTC).replace(microsecond=0)
                plan = reconciler.plan(wanted, now, asked, GuardOverrides(max_revoke=100))
                assert reconciler.refusal is None, reconciler.refusal
                with marked(process.mark):
                    result = reconciler.apply(plan, lambda _: None)
                assert reconciler.internal_error is None, reconciler.internal_error
        except Killed:
            return None
        finally:
            del PROCESSES[name]
        return result

    def _rows(self) -> dict[str, ApiKey]:
        return {row.id: row for row in self.sandbox.keys()}

    @staticmethod
    def _live(row: ApiKey, now: datetime) -> bool:
        return not row.revoked_at and datetime.fromisoformat(row.expires_at) > now

    def _demand(self, holds: bool, told: object) -> None:
        """Notes that a promise was broken, so that the end does not hide which one was first."""
        self.broken = self.broken or not holds
        assert holds, told


def writes(exchange: Exchange) -> bool:
    """Whether an exchange may have changed a key, or minted a token."""
    words = (b"createApiKey", b"revokeApiKey", b"updateApiKey", b"assignRole", b"generateApiKey")
    batch = exchange.path.startswith("/rest/batch")
    return exchange.method == "PATCH" or batch or any(word in exchange.body for word in words)


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
    max_examples=-(-LIVES // 3),
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


class OnLegacy(WholeLife):
    dialect = Dialect.LEGACY


class OnCore1(WholeLife):
    dialect = Dialect.CORE_1


class OnCore(WholeLife):
    dialect = Dialect.CORE


for lives in (OnLegacy, OnCore1, OnCore):
    lives.TestCase.settings = SETTINGS

TestLegacy = OnLegacy.TestCase
TestCore1 = OnCore1.TestCase
TestCore = OnCore.TestCase
