"""The whole life of keys: random manifests, options, faults, kills, races and passing days.

The guarantee of `test_exactly_once` also holds for rotation, updates, pruning and deduplication.
In addition: keys that `owns` does not match are never changed, every revocation has a reason, and
no run removes a valid token from a declared sink. From sinks that the manifests no longer declare,
runs remove tokens that a run has delivered, and never what somebody else put there or beside them.
During all of this, a person creates, renames and revokes keys with declared names, changes their
expiry, and writes to sinks: none of that replaces a reviewed key, and all of it is reported. LIVES
random lives are run (50 by default), a quarter of them on each dialect.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import time_machine
from builders import desired_key, environment_with, limits_with, rotation_with
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from killable import (
    PROCESSES,
    FastClock,
    Kill,
    KillableSink,
    KillableTransport,
    Killed,
    Process,
    use_run_marker,
)
from laboratory import TRANSIENT, Failed, Fault, Laboratory, Slow, seeded
from manual_user import LIFETIMES, ManualUser
from sandbox_control import ApiKey, Dialect, Exchange

from provisioner.execution import Executed, RunMarker
from provisioner.model.environment import Environment, SessionToken
from provisioner.model.expiry import ExpiresAfter, parse_expiry
from provisioner.model.globs import matches
from provisioner.model.token_claims import TokenClaims, claims_of
from provisioner.plan import GuardOverrides, PlanOptions, Revoke, former_sinks
from provisioner.reconcile.proposal import PlanRequest
from provisioner.reconcile.reconciler import Reconciler
from provisioner.runtime.executor import ThreadExecutor
from provisioner.secret import Secret
from provisioner.sinks.file import FileAddress
from provisioner.sinks.registry import SinkRegistry
from provisioner.twenty import connect as connect_module

if TYPE_CHECKING:
    from contextlib import ExitStack

    from provisioner.execution import RunResult
    from provisioner.model.key import DesiredKey
    from provisioner.model.workspace import Workspace

LIVES = int(os.environ.get("LIVES", "50"))
OWNS = ("svc-*",)
OWNED = ("svc-a", "svc-b", "svc-c")
OTHERS = ("zapier", "Svc-a")
NEW_YEAR = datetime(2027, 1, 1, 4, 0, 0, tzinfo=UTC)
FOLDERS = ("here", "there")
OTHER_WORKSPACE = "20202020-0000-4000-8000-000000000000"
TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
FAULTS: tuple[Fault, ...] = (
    *(fault for fault in TRANSIENT if not isinstance(fault, Slow)),
    Failed(graphql_status=200),
    Slow(0.01),
)


class KeySpec(NamedTuple):
    """The fields of one key in a manifest."""

    expires: str
    rotates: bool
    sinks: int
    folder: str
    clean: bool


key_specs = st.builds(
    KeySpec,
    st.sampled_from(("30d", "90d", "2027-09-01", "2028-01-01")),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from(FOLDERS),
    st.booleans(),
)
manifests = st.dictionaries(st.sampled_from((*OWNED, *OTHERS)), key_specs, min_size=1)
kills = st.none() | st.builds(Kill, st.integers(0, 24), st.sampled_from(("before", "after")))
faults = st.tuples(st.integers(0, 2**16), st.sampled_from((0.0, 0.0, 0.1, 0.3)))
plan_options = st.builds(
    lambda prune, dedupe, redeliver, clean: PlanOptions(
        prune=prune, dedupe=dedupe, redeliver=redeliver, clean=clean
    ),
    *(st.sampled_from((False, False, True)) for _ in range(4)),
)
NO_CLAIMS = TokenClaims(None, None, None, None, None)
LABORATORIES: dict[Dialect, Laboratory] = {}


def laboratory(dialect: Dialect) -> Laboratory:
    """Return the laboratory for all lives on a dialect; each starts with an empty workspace."""
    if dialect not in LABORATORIES:
        LABORATORIES[dialect] = Laboratory(dialect).__enter__()
    return LABORATORIES[dialect]


def sinks_in(folder: str, name: str) -> tuple[FileAddress, FileAddress]:
    """Return the sinks of a name in a folder."""
    return (
        FileAddress(f"{folder}/{name}.json", "token", "json"),
        FileAddress(f"{folder}/{name}.env", "TOKEN"),
    )


ALL_SINKS = tuple(
    sink for folder in FOLDERS for name in (*OWNED, *OTHERS) for sink in sinks_in(folder, name)
)
addresses = st.sampled_from(ALL_SINKS)
sources = addresses | st.sampled_from(("a password", "another workspace"))


class WholeLife(RuleBasedStateMachine):
    """A workspace, its manifests and sinks, and runs with every kind of fault."""

    dialect: Dialect

    def __init__(self) -> None:
        super().__init__()
        self.laboratory = laboratory(self.dialect)
        self.laboratory.reset()
        self.sandbox = self.laboratory.sandbox
        self.clock = time_machine.travel(NEW_YEAR, tick=True)
        self.time_traveller = self.clock.start()
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.desired: tuple[DesiredKey, ...] = ()
        self.previous: tuple[DesiredKey, ...] = ()
        self.specs: dict[str, KeySpec] = {}
        self.written: set[str] = set()
        self.manual_user = ManualUser(self.sandbox)
        self.adopted: set[str] = set()
        self.allowed_duplicates: set[str] = set()
        self.broken = False
        self.markers = itertools.count(1)

    @initialize(specs=manifests, found=st.lists(st.sampled_from((*OWNED, *OTHERS)), max_size=3))
    def begin(self, specs: dict[str, KeySpec], found: list[str]) -> None:
        self.merge_manifests(specs)
        for name in found:
            self.someone_creates(name, LIFETIMES[1])

    @rule(specs=manifests)
    def merge_manifests(self, specs: dict[str, KeySpec]) -> None:
        """Change the manifests; the next runs know those before."""
        self.previous = self.desired
        self.specs = specs
        self.desired = tuple(
            desired_key(
                name,
                environment="",
                expiry=spec.expires,
                role=None if self.dialect is Dialect.LEGACY else "Admin",
                line=line,
                deliver=sinks_in(spec.folder, name)[: spec.sinks],
                clean=sinks_in(spec.folder, name)[: spec.sinks] if spec.clean else (),
                rotation=rotation_with()
                if spec.rotates
                and name in OWNED
                and spec.sinks
                and isinstance(parse_expiry(spec.expires), ExpiresAfter)
                else None,
            )
            for line, (name, spec) in enumerate(specs.items(), 1)
        )

    @rule(
        names=st.sets(st.sampled_from((*OWNED, *OTHERS)), min_size=3),
        gone=st.sampled_from((None, *OWNED)),
        stored=st.lists(st.tuples(st.integers(0, 99), sources), max_size=4),
        faults=faults,
        kill=kills,
        options=plan_options,
    )
    def sinks_move(
        self,
        names: set[str],
        gone: str | None,
        stored: list[tuple[int, FileAddress | str]],
        faults: tuple[int, float],
        kill: Kill | None,
        options: PlanOptions,
    ) -> None:
        """Deliver, then move sinks, remove a key and store things by hand, and run a pipeline."""
        self._run_and_check((0, 0.0), (None,), PlanOptions())
        moved = {
            name: spec._replace(folder=FOLDERS[spec.folder == FOLDERS[0]])
            if name in names
            else spec
            for name, spec in self.specs.items()
            if name != gone
        }
        if moved:
            self.merge_manifests(moved)
            left = [address for _, address in self._former()]
            for which, source in stored if left else ():
                self.someone_stores(left[which % len(left)], source)
            self._run_and_check(faults, (kill,), options)

    @rule(name=st.sampled_from((*OWNED, *OTHERS)), lifetime=st.sampled_from(LIFETIMES))
    def someone_creates(self, name: str, lifetime: timedelta) -> None:
        """Create a key by hand."""
        self.manual_user.create(name, lifetime)

    @rule(name=st.sampled_from((*OWNED, *OTHERS)))
    def someone_created_one_that_expired(self, name: str) -> None:
        """Add a key that was created by hand long ago and has expired."""
        self.manual_user.keys.update(
            self.sandbox.seed([name], expires_at="2020-01-01T00:00:00.000Z")
        )

    @rule(which=st.integers(0, 99), name=st.sampled_from((*OWNED, *OTHERS)))
    def someone_renames(self, which: int, name: str) -> None:
        """Rename a live key by hand."""
        for row in self._one_live(which):
            if row.name != name:
                self.manual_user.rename(row, name)

    @rule(which=st.integers(0, 99))
    def someone_revokes(self, which: int) -> None:
        """Revoke a live key by hand."""
        for row in self._one_live(which):
            self.manual_user.revoke(row)

    @rule(which=st.integers(0, 99), days=st.sampled_from((4, 20, 40)))
    def someone_changes_the_expiry(self, which: int, days: int) -> None:
        """Change the expiry of a live key by hand."""
        for row in self._one_live(which):
            self.manual_user.change_expiry(row, timedelta(days=days, hours=7))

    def _one_live(self, which: int) -> list[ApiKey]:
        """Return a list with one of the live keys, or an empty one."""
        now = datetime.now(UTC)
        rows = [row for row in self._rows().values() if self._live(row, now)]
        return rows[which % len(rows) :][:1] if rows else []

    @rule(address=addresses)
    def someone_deletes_a_file(self, address: FileAddress) -> None:
        """Delete the file of a sink."""
        (self.root / address.path).unlink(missing_ok=True)

    @rule(address=addresses, source=sources)
    def someone_stores(self, address: FileAddress, source: FileAddress | str) -> None:
        """Store something in a sink by hand: the token of a sink, or what no run has delivered."""
        match source:
            case FileAddress():
                value = self._value(source)
            case "another workspace":
                claims = {"type": "API_KEY", "workspaceId": OTHER_WORKSPACE, "jti": address.path}
                parts = ({"alg": "HS256", "typ": "JWT"}, claims)
                encoded = (base64.urlsafe_b64encode(json.dumps(one).encode()) for one in parts)
                value = ".".join((*(one.decode().rstrip("=") for one in encoded), "x" * 43))
            case _:
                value = "hunter2"
        self._put(address, value)

    def _value(self, address: FileAddress) -> str | None:
        """Return the value of a sink, by a reader of the test's own."""
        file = self.root / address.path
        text = file.read_text() if file.exists() else ""
        if address.format == "json":
            return (json.loads(text or "{}") or {}).get(address.variable) or None
        found = re.findall(rf"^{address.variable}=(.*)$", text, re.MULTILINE)
        return (found or [""])[-1].strip("'") or None

    def _put(self, address: FileAddress, value: str | None) -> None:
        """Write the file of a sink with a value and a neighbour, which no run may touch."""
        file = self.root / address.path
        file.parent.mkdir(exist_ok=True)
        if address.format == "json":
            members = {"neighbour": "kept"} | ({} if value is None else {address.variable: value})
            file.write_text(json.dumps(members))
        else:
            line = "" if value is None else f"{address.variable}={value}\n"
            file.write_text(f"# kept\nNEIGHBOUR=kept\n{line}# the end\n")

    @rule(days=st.sampled_from((1, 3, 9, 18, 25)))
    def days_pass(self, days: int) -> None:
        """Let some days pass without a run."""
        self.time_traveller.shift(timedelta(days=days))

    @rule(faults=faults, kill=kills, options=plan_options)
    def run(self, faults: tuple[int, float], kill: Kill | None, options: PlanOptions) -> None:
        """Run one pipeline."""
        self._run_and_check(faults, (kill,), options)

    @rule(faults=faults, first=kills, second=kills, options=plan_options)
    def race(
        self,
        faults: tuple[int, float],
        first: Kill | None,
        second: Kill | None,
        options: PlanOptions,
    ) -> None:
        """Run two pipelines at the same time."""
        self._run_and_check(faults, (first, second), options)

    @invariant()
    def no_name_has_a_third_live_key(self) -> None:
        """Check that no name has more than two live keys, except those changed by hand."""
        live = Counter(
            row.name
            for row in self._rows().values()
            if self._live(row, datetime.now(UTC))
            and row.id not in self.manual_user.keys | self.manual_user.changed_expiry
        )
        too_many = {name for name, count in live.items() if count > 2}
        self._require(not too_many - self.allowed_duplicates, too_many)

    def teardown(self) -> None:
        """Check that three runs without faults complete everything, and the next sends no write."""
        try:
            if not self.broken and self.desired:
                self._converge()
        finally:
            self.clock.stop()
            self.folder.cleanup()

    def _converge(self) -> None:
        for _ in range(3):
            [result] = self._run_and_check((0, 0.0), (None,), PlanOptions(clean=True))
            assert result is not None
            assert not result.incomplete, result
        before = len(self.laboratory.journal)
        stored = self._stored()
        self._run_and_check((0, 0.0), (None,), PlanOptions(clean=True))
        assert not any(map(writes, self.laboratory.journal[before:]))
        assert self._stored() == stored
        now = datetime.now(UTC)
        rows = self._rows()
        live = {row.name for row in rows.values() if self._live(row, now)}
        assert {key.name for key in self.desired} <= live
        assert self._working(rows) == {address for key in self.desired for address in key.deliver}
        for key, address in self._former():
            value = self._value(address)
            claims = claims_of(Secret(value)) if value else None
            row = rows.get((claims and claims.key) or "")
            if value in self.written and not (row and self._live(row, now)):
                self._require(holds=False, details=("a dead token was left behind", address, key))
            if value in self.written and row and row.name == key.name:
                self._require(holds=False, details=("a token was left behind", address, key))

    def _former(self) -> list[tuple[DesiredKey, FileAddress]]:
        """Return the sinks that only the previous manifests declare."""
        declared = {address for key in self.desired for address in key.deliver}
        return [
            (key, address)
            for key in self.previous
            for address in key.deliver
            if address not in declared and isinstance(address, FileAddress)
        ]

    def _stored(self) -> dict[str, str]:
        """Return the texts of all files, by their paths."""
        return {str(file): file.read_text() for file in self.root.rglob("*.*") if file.is_file()}

    def _check_sinks(
        self,
        stored: dict[str, str],
        values: dict[FileAddress, str | None],
        before: dict[str, ApiKey],
        options: PlanOptions,
    ) -> None:
        """Check that runs removed nothing except tokens of this tool from their old places.

        Args:
            stored: the files before the runs.
            values: the values of all sinks before the runs.
            before: the keys before the runs.
            options: the options of the runs.
        """
        declared = {address for key in self.desired for address in key.deliver}
        former = {address: key for key, address in self._former()}
        present = {key.name: key for key in self.desired}
        now = datetime.now(UTC)
        for address, value in values.items():
            after = self._value(address)
            if value == after:
                continue
            if address in declared:
                self._require(after is not None, ("a declared sink was emptied", address, options))
                continue
            key = former.get(address)
            self._require(after is None and key is not None, ("written", address, after))
            assert key is not None
            asked = options.clean or address in key.clean
            asked = asked or any(
                one.kind == address.kind for one in getattr(present.get(key.name), "clean", ())
            )
            self._require(asked, ("removed although nobody asked", address, options))
            self._require(value in self.written, ("not delivered by a run", address, value))
            row = before.get((claims_of(Secret(str(value))) or NO_CLAIMS).key or "")
            foreign = row is not None and self._live(row, now) and row.name != key.name
            self._require(not foreign, ("the token of another name", address, row))
        for path, text in stored.items():
            kept = [line for line in ("NEIGHBOUR=kept\n", '"neighbour": "kept"') if line in text]
            after_text = Path(path).read_text()
            self._require(all(line in after_text for line in kept), ("a neighbour is gone", path))

    def _run_and_check(
        self, faults: tuple[int, float], kill_points: tuple[Kill | None, ...], options: PlanOptions
    ) -> list[RunResult | None]:
        """Start runs at the same time, and check everything that they changed."""
        before = self._rows()
        working_before = self._working(before)
        stored = self._stored()
        values = {address: self._value(address) for address in ALL_SINKS}
        delivered = self._delivered_ids()
        self._note_adopted(before, delivered)
        self.laboratory.use(seeded(*faults, FAULTS))
        processes = [Process(kill, next(self.markers)) for kill in kill_points]
        try:
            with ThreadPoolExecutor(len(kill_points)) as pool:
                results = list(pool.map(lambda entry: self._run(entry, options), processes))
        finally:
            self.laboratory.heal()
            self.laboratory.wait_until_idle()
        after = self._rows()
        if len(kill_points) > 1:
            self._allow_duplicates(after)
        self._check_untouched(before, after, options)
        self._check_not_displaced(before, after, delivered)
        # A run that observes after another one has revoked a key cannot report it.
        of_others = {
            id_
            for id_, row in before.items()
            if len(results) > 1 and after[id_].revoked_at != row.revoked_at
        }
        for result in results:
            self._check_reported(result, before, of_others)
        self._check_sinks(stored, values, before, options)
        lost = working_before - self._working(after)
        self._require(not lost, ("a valid token was removed", lost, options))
        return results

    def _check_untouched(
        self, before: dict[str, ApiKey], after: dict[str, ApiKey], options: PlanOptions
    ) -> None:
        """Check that keys outside `owns` are unchanged, and every revocation has a reason."""
        desired = {key.name: key for key in self.desired}
        for id_, row in before.items():
            owned = matches(row.name, OWNS)
            now = after[id_]
            self._require(owned or row == now, ("changed", row, now))
            if now.revoked_at != row.revoked_at:
                key = desired.get(row.name)
                reason = options.prune if key is None else bool(options.dedupe or key.rotation)
                self._require(reason, ("revoked without a reason", row, options))
                if key is not None:
                    others = (entry for entry in after.values() if entry.name == row.name)
                    another = any(self._live(entry, datetime.now(UTC)) for entry in others)
                    self._require(another, ("the last key of a name was revoked", row, options))

    def _delivered_ids(self) -> dict[str, set[str]]:
        """Return the ids of the keys whose tokens are in the sinks, by the declared name."""
        found: dict[str, set[str]] = {}
        for key in self.desired:
            for address in key.deliver:
                assert isinstance(address, FileAddress)
                claims = self._claims(address)
                if claims is not None and claims.key is not None:
                    found.setdefault(key.name, set()).add(claims.key)
        return found

    def _note_adopted(self, before: dict[str, ApiKey], delivered: dict[str, set[str]]) -> None:
        """Note manual keys that count as the key of their name (the oldest if none has a token)."""
        now = datetime.now(UTC)
        for key in self.desired:
            live = [row for row in before.values() if row.name == key.name and self._live(row, now)]
            if live and not any(row.id in delivered.get(key.name, ()) for row in live):
                self.adopted.add(min(live, key=lambda row: (row.created_at, row.id)).id)

    def _check_not_displaced(
        self, before: dict[str, ApiKey], after: dict[str, ApiKey], delivered: dict[str, set[str]]
    ) -> None:
        """Check that manual keys did not replace reviewed ones.

        The token of a manual key is delivered only if that key counted as the key, because it was
        delivered before or no older key was live, or if there is no reviewed key. A delivered
        reviewed key is revoked only if the sinks have the token of another run's key.
        """
        now = datetime.now(UTC)
        for name, ids in self._delivered_ids().items():
            live = [row for row in before.values() if row.name == name and self._live(row, now)]
            delivered_before = [row for row in live if row.id in delivered.get(name, ())]
            first = min(live, key=lambda row: (row.created_at, row.id), default=None)
            for id_ in (ids - delivered.get(name, set())) & self.manual_user.keys:
                adopted = not delivered_before and first is not None and first.id == id_
                adopted = adopted or not self._reviewed(live)
                self._require(
                    adopted, ("the token of a manual key was delivered", name, id_, live, delivered)
                )
            self.adopted |= ids & self.manual_user.keys
            for row in delivered_before:
                was_revoked = after[row.id].revoked_at != row.revoked_at
                if was_revoked and row.id not in self.manual_user.keys:
                    has_successor = any(
                        self._live(after[entry], now) for entry in ids if entry in after
                    )
                    self._require(has_successor, ("a reviewed key was revoked", row, ids))

    def _reviewed(self, rows: list[ApiKey]) -> bool:
        """Return whether one of the keys was created by a run and not changed by hand."""
        touched = self.manual_user.keys | self.manual_user.changed_expiry
        return any(row.id not in touched for row in rows)

    def _check_reported(
        self, result: RunResult | None, before: dict[str, ApiKey], of_others: set[str]
    ) -> None:
        """Check that each manual duplicate of a declared key is in a finding or an action.

        Args:
            result: the result of a run; None if it was killed.
            before: the keys before the run.
            of_others: the keys that another run at the same time may have revoked.
        """
        if result is None:
            return
        [environment_result] = result.environments
        if not isinstance(environment_result, Executed):
            return
        now = datetime.now(UTC)
        desired = {key.name for key in self.desired}
        live = [
            row
            for row in before.values()
            if row.name in desired and self._live(row, now) and row.id not in of_others
        ]
        reported = {id_ for finding in environment_result.planned.findings for id_ in finding.ids}
        for action in environment_result.planned.actions:
            if isinstance(action, Revoke):
                reported.add(action.key_id)
        for row in live:
            same_name = [entry for entry in live if entry.name == row.name]
            if row.id in self.manual_user.keys - self.adopted and self._reviewed(same_name):
                self._require(
                    row.id in reported,
                    ("a manual key is not reported", row, environment_result.planned),
                )

    def _allow_duplicates(self, after: dict[str, ApiKey]) -> None:
        """Note duplicates that two runs at the same time may leave; the next plan reports them."""
        now = datetime.now(UTC)
        live = Counter(row.name for row in after.values() if self._live(row, now))
        self.allowed_duplicates |= {name for name, count in live.items() if count > 2}

    def _working(self, rows: dict[str, ApiKey]) -> set[FileAddress]:
        """Return the sinks of declared keys whose token the server accepts now."""
        now = datetime.now(UTC)
        found = set()
        for key in self.desired:
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
                    # A renamed key no longer counts for this name.
                    found |= {address} if row.name == key.name else set()
        return found

    def _claims(self, address: FileAddress) -> TokenClaims | None:
        """Return the claims of the token in a sink, or None."""
        file = self.root / address.path
        token = TOKEN.search(file.read_text()) if file.exists() else None
        return claims_of(Secret(token[0])) if token else None

    def _run(self, process: Process, options: PlanOptions) -> RunResult | None:
        name = f"run-{process.run_marker}"
        PROCESSES[name] = process
        stop = FastClock()
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

        declared = [address for key in self.desired for address in key.deliver]
        sinks = SinkRegistry(self.root, {}, stop, declared)
        desired = {name: tuple(key._replace(environment=name) for key in self.desired)}
        try:
            with closing(
                Reconciler(
                    (environment,),
                    open_workspace,
                    lambda address: KillableSink(
                        sinks.open(address),
                        process,
                        on_write=lambda token: self.written.add(token.reveal()),
                    ),
                    ThreadExecutor(1),
                    stop,
                )
            ) as reconciler:
                now = datetime.now(UTC).replace(microsecond=0)
                former = former_sinks(desired, {name: self.previous})
                overrides = GuardOverrides(max_revoke=100)
                request = PlanRequest(desired, now, options, overrides, former=former)
                proposal = reconciler.propose(request)
                assert proposal.refusal is None, proposal.refusal
                with use_run_marker(process.run_marker):
                    result = reconciler.execute(proposal)
                assert not any(part.bug for part in result.environments), result
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

    def _require(self, holds: bool, details: object) -> None:
        """Assert a condition; note a failure, so that `teardown` does not hide it with another."""
        self.broken = self.broken or not holds
        if not holds:
            raise AssertionError(repr(details))  # pytest would shorten the message of an `assert`


def writes(exchange: Exchange) -> bool:
    """Return whether an exchange may have changed a key or minted a token."""
    mutations = (
        b"createApiKey",
        b"revokeApiKey",
        b"updateApiKey",
        b"assignRole",
        b"generateApiKey",
    )
    batch = exchange.path.startswith("/rest/batch")
    return (
        exchange.method == "PATCH"
        or batch
        or any(mutation in exchange.body for mutation in mutations)
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
    max_examples=-(-LIVES // len(Dialect)),
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


class OnCoreNewest(WholeLife):
    dialect = Dialect.CORE_NEWEST


for lives in (OnLegacy, OnCore1, OnCore, OnCoreNewest):
    lives.TestCase.settings = SETTINGS

TestLegacy = OnLegacy.TestCase
TestCore1 = OnCore1.TestCase
TestCore = OnCore.TestCase
TestCoreNewest = OnCoreNewest.TestCase
