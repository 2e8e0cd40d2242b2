"""A year of rotations: a run a day, one in five killed somewhere, and nobody is ever cut off.

Twice a month most of the sinks take no token for two days, so that deliveries fail. Every few days
somebody makes, renames, revokes or re-dates keys under wanted names by hand. The clock of
the embedded Twenty and of the runs is moved from day to day; a year of YEAR_KEYS keys (16 where
nothing is said) is played on each dialect. docs/reliability.md has the command for 200.
"""

from __future__ import annotations

import logging
import math
import os
import random
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import requests
import time_machine
from builders import desired_key, environment_with, rotation_with
from mortal import PROCESSES, Hurried, Kill, Killed, Mortal, MortalSink, Process
from stranger import LIVES, Stranger

from provisioner.execution import Executed
from provisioner.model.environment import Environment, SessionToken
from provisioner.model.expiry import ExpiresAfter
from provisioner.model.sink_address import FileAddress
from provisioner.model.token_claims import claims_of
from provisioner.plan import Create, Deliver, Duplicate, Plan, Planned, PlanOptions, Revoke, Rotate
from provisioner.reconcile.reconciler import Reconciler
from provisioner.runtime.executor import ThreadExecutor
from provisioner.sandbox import ApiKey, Dialect, Exchange, Sandbox
from provisioner.secret import Secret
from provisioner.sinks.registry import SinkRegistry
from provisioner.twenty import connect as connect_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack
    from pathlib import Path

    from provisioner.execution import RunResult
    from provisioner.model.key import DesiredKey
    from provisioner.model.sink_address import Address
    from provisioner.sandbox import Request, Response
    from provisioner.twenty.workspace import Workspace

_LOG = logging.getLogger(__name__)

KEYS = int(os.environ.get("YEAR_KEYS", "16"))
DAYS = 365
NEW_YEAR = datetime(2027, 1, 1, 4, 0, 0, tzinfo=UTC)
DAWN = datetime.min.replace(tzinfo=UTC)
SHOP = "shop"
OWNS = "svc-*"
FOREIGN = ("zapier", "old-svc", "Svc-billing", "svc", "provision")
"""Names that `owns` does not match, though some of them look like it."""

A_PAGE = 60
A_BATCH = 60
A_DOCUMENT = 20
TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Year:
    """A workspace, the manifests that want keys in it, and a run a day.

    Attributes:
        killed: how many runs were.
        out: whether some sinks take no token today.
        requests: how many all runs sent.
        least: how many they could not do without, see `_least`.
        cut_off: what broke a promise while a run was at work.
    """

    def __init__(self, dialect: Dialect, root: Path, chance: random.Random) -> None:
        self.dialect = dialect
        self.root = root
        self.chance = chance
        self.journal: list[Exchange] = []
        self.sandbox = Sandbox(None, dialect, journal=self.journal, around=self._watched)
        self.wanted = tuple(map(self._key, range(KEYS)))
        self.rows: dict[str, ApiKey] = {}
        self.foreign: dict[str, ApiKey] = {}
        self.stranger = Stranger(self.sandbox)
        self.killed = self.requests = self.least = 0
        self.cut_off: list[str] = []
        self.out = False

    def begin(self) -> None:
        """Keys of other people, and a first run that nobody kills."""
        for name in FOREIGN:
            self.sandbox.seed([name], expires_at="2027-06-01T00:00:00.000Z")
            self.sandbox.seed([name])
        self.rows = self.foreign = self._rows()
        assert not self.run(doomed=False)

    def someone_works_by_hand(self) -> None:
        """Keys by hand under wanted names, or another end for a reviewed one."""
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
        rows = [row for row in self.rows.values() if not row.revoked_at and row.expires_at > now]
        names = [key.name for key in self.wanted]
        theirs = [row for row in rows if row.id in self.stranger.keys]
        match self.chance.randrange(5):
            case 0 if theirs:
                self.stranger.renames(self.chance.choice(theirs), self.chance.choice(names))
            case 1 if theirs:
                self.stranger.revokes(self.chance.choice(theirs))
            case 2 if theirs:
                days = timedelta(days=self.chance.choice((1, 400)), hours=5)
                self.stranger.redates(self.chance.choice(theirs), days)
            case 3:
                ours = [row for row in rows if row.name in names and row not in theirs]
                days = timedelta(days=self.chance.randint(20, 80), hours=5)
                self.stranger.redates(self.chance.choice(ours), days)
            case _:
                self.stranger.makes(self.chance.choice(names), self.chance.choice(LIVES))
        self.rows = self._rows()
        self.foreign |= {id_: self.rows[id_] for id_ in self.stranger.keys}

    def run(self, *, doomed: bool) -> bool:
        """One pipeline; whether it was killed."""
        process = Process(None, 0)
        self.journal.clear()
        over = self._over()
        result = self._run(process, doomed=doomed)
        sent = len(self.journal)
        before, self.rows = self.rows, self._rows()
        self.requests += sent
        self.least += self._least(before, sent, killed=result is None)
        if result is None:
            self.killed += 1
        else:
            assert self.out or not result.incomplete, result
            live = self._live()
            assert [name for name in over if len(live[name]) > 1] == []
            assert self._unreported(result) == set()
        return result is None

    def holds(self, until: datetime) -> None:
        """What must hold after every run, killed or not, and up to the next one."""
        assert self.cut_off == []
        soon = f"{datetime.now(UTC) + timedelta(days=14):%Y-%m-%d}"
        touched = [
            row
            for id_, row in self.foreign.items()
            if row != self.rows[id_] and (row.expires_at > soon or id_ not in self.stranger.keys)
        ]
        assert touched == []
        dead = [
            name
            for name in (key.name for key in self.wanted)
            if not all(self._works(name, token, until) for token in self.tokens(name))
        ]
        assert dead == [], until
        live = self._live()
        assert {name: keys for name, keys in live.items() if len(keys) > 2} == {}

    def tokens(self, name: str) -> list[str]:
        """What the sinks of a key hold, an empty text for none."""
        [key] = [key for key in self.wanted if key.name == name]
        texts = [(self.root / address.path).read_text() for address in key.deliver]
        return [found[0] if (found := TOKEN.search(text)) else "" for text in texts]

    def accepted(self) -> bool:
        """Whether the server accepts every token that a sink holds, asked of the server itself."""
        return all(
            "errors"
            not in requests.post(
                f"{self.sandbox.url}/graphql",
                json={"query": "{__typename}"},
                headers={"Authorization": f"Bearer {token}"},
                timeout=30,
            ).json()
            for key in self.wanted
            for token in self.tokens(key.name)
        )

    def _key(self, number: int) -> DesiredKey:
        before, overlap = self.chance.randint(7, 14), self.chance.choice((24, 36, 48, 72))
        lifetime = self.chance.randint(30, 90)
        name = f"svc-{number:03d}"
        sinks = (
            FileAddress(f"tokens/{name}.env", "TOKEN"),
            FileAddress(f"tokens/{name}.json", "token", "json"),
            FileAddress(f"tokens/{name}", "", "bare"),
        )
        return desired_key(
            name,
            environment=SHOP,
            expiry=f"{lifetime}d",
            role=None if self.dialect is Dialect.LEGACY else "Admin",
            line=number + 1,
            deliver=sinks[: 1 + number % 3] if number % 4 == 0 else sinks[number % 3 :][:1],
            rotation=rotation_with(timedelta(days=before), timedelta(hours=overlap), "as it says"),
        )

    def _run(self, process: Process, *, doomed: bool) -> RunResult | None:
        stop = Hurried()
        PROCESSES[SHOP] = process
        environment = environment_with(
            name=SHOP,
            url=self.sandbox.url,
            credential=SessionToken(Secret(self.sandbox.session_token())),
            owns=(OWNS,),
            generation="legacy" if self.dialect is Dialect.LEGACY else "core",
        )

        def open_workspace(environment: Environment, stack: ExitStack) -> Workspace:
            assert environment.credential is not None
            workspace = connect_module.connect(
                environment, environment.url, environment.credential, stop
            )
            stack.callback(workspace.close)
            return workspace

        def open_sink(address: Address) -> MortalSink:
            assert isinstance(address, FileAddress)
            out = self.out and address.format != "json"
            return MortalSink(sinks.open(address), process, out=out)

        sinks = SinkRegistry(self.root, {}, stop)
        try:
            with Reconciler(
                (environment,),
                open_workspace,
                open_sink,
                ThreadExecutor(1),
                stop,
            ) as reconciler:
                if doomed and self.chance.random() < 0.15:
                    process.kill = self._somewhere(process, 1)
                plan = reconciler.plan(
                    {SHOP: self.wanted}, datetime.now(UTC), PlanOptions(prune=True)
                )
                if doomed and process.kill is None:
                    process.kill = self._somewhere(process, steps(plan))
                result = reconciler.apply(plan, lambda _: None)
                assert reconciler.internal_error is None, reconciler.internal_error
                assert reconciler.refusal is None, reconciler.refusal
        except Killed:
            return None
        finally:
            del PROCESSES[SHOP]
        return None if doomed and not process.killed else result

    def _somewhere(self, process: Process, steps: int) -> Kill:
        """One of the steps that a run has before it, and a moment of it."""
        number = process.steps + self.chance.randrange(max(1, steps))
        return Kill(number, self.chance.choice(("before", "after")))

    def _least(self, before: dict[str, ApiKey], sent: int, *, killed: bool) -> int:
        """The requests that a run could not do without, by what it found and what it did.

        A look, and another where it made keys; the creates, in batches where the server takes
        them; of each key made one mint and one proof, whichever run delivers it; one revocation
        of each key that ended. A look takes the pages that the list has. A killed run is counted
        like any other, but with no more than it sent, so that what it wasted counts against the
        year, and what the next run repeats does too.
        """
        legacy = self.dialect is Dialect.LEGACY
        made = self.rows.keys() - before.keys()
        ended = sum(
            row.revoked_at is not None and before[id_].revoked_at is None
            for id_, row in self.rows.items()
            if id_ in before
        )
        look = max(1, math.ceil(len(before) / A_PAGE)) if legacy else 1
        again = max(1, math.ceil(len(self.rows) / A_PAGE)) if legacy else 1
        together = {Dialect.LEGACY: A_BATCH, Dialect.CORE_1: A_DOCUMENT, Dialect.CORE: 1}
        creates = math.ceil(len(made) / together[self.dialect])
        least = look + bool(made) * again + creates + ended
        return (min(least, sent) if killed else least) + 2 * len(made)

    def _unreported(self, result: RunResult) -> set[str]:
        """The live keys by hand under wanted names that are in no finding of a run."""
        [part] = result.environments
        assert isinstance(part, Executed)
        told = {
            id_
            for finding in part.planned.findings
            if isinstance(finding, Duplicate)
            for id_ in finding.ids
        }
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
        return {
            id_
            for id_ in self.stranger.keys - told
            if not self.rows[id_].revoked_at and self.rows[id_].expires_at > now
        }

    def _live(self) -> dict[str, list[ApiKey]]:
        """The live keys of each wanted name, the oldest first, but of those changed by hand.

        One that was given another end may no longer be known as due, or as a successor: a finding.
        """
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
        live: dict[str, list[ApiKey]] = {key.name: [] for key in self.wanted}
        for row in self.rows.values():
            ours = row.name in live and row.id not in self.stranger.keys | self.stranger.redated
            if ours and not row.revoked_at and row.expires_at > now:
                live[row.name].append(row)
        return live

    def _over(self) -> list[str]:
        """The names whose overlap is over: all but the newest key are to end now."""
        live = self._live()
        found = []
        for key in self.wanted:
            assert key.rotation is not None
            if len(live[key.name]) > 1:
                newest = live[key.name][-1]
                held = [claims_of(Secret(token)) for token in self.tokens(key.name)]
                delivered = all(claims is not None and claims.key == newest.id for claims in held)
                since = max(claims.issued_at or DAWN for claims in held if claims is not None)
                since = max(since, datetime.fromisoformat(newest.created_at))
                if delivered and datetime.now(UTC) - since >= key.rotation.overlap:
                    found.append(key.name)
        return found

    def _works(self, name: str, token: str, until: datetime) -> bool:
        """Whether it is a token of a key of that name which is good up to a moment."""
        claims = claims_of(Secret(token))
        row = self.rows.get(claims.key or "") if claims is not None else None
        if (
            claims is None
            or claims.expires_at is None
            or row is None
            or row.id in self.stranger.keys
        ):
            return False
        end = datetime.fromisoformat(row.expires_at)
        return row.name == name and not row.revoked_at and min(claims.expires_at, end) > until

    def _watched(self, request: Request, inner: Callable[[Request], Response]) -> Response:
        """At the very moment of a revocation another key is delivered and old enough for it."""
        answer = inner(request)
        if b"revokeApiKey" in request.body or request.method == "PATCH":
            [id_] = UUID.findall(request.path.encode() + request.body)
            row = self.rows.get(id_.decode())
            wanted = {key.name: key.rotation for key in self.wanted}
            rotation = wanted.get(row.name) if row is not None else None
            if row is None or rotation is None:
                self.cut_off.append(f"{id_!r} was not there before the run, or is not ours")
                return answer
            for token in self.tokens(row.name):
                claims = claims_of(Secret(token))
                kept = self.sandbox._store.key((claims and claims.key) or "")
                if kept is None or kept.id == row.id or kept.revoked_at is not None:
                    self.cut_off.append(f"{row.name} lost {row.id} while a sink had no other")
                    continue
                assert claims is not None
                assert claims.issued_at is not None
                since = max(claims.issued_at, datetime.fromisoformat(kept.created_at))
                if datetime.now(UTC) - since < rotation.overlap:
                    self.cut_off.append(f"{row.name} lost {row.id} before its overlap was over")
        return answer

    def _rows(self) -> dict[str, ApiKey]:
        return {key.id: key for key in self.sandbox.keys()}


def steps(plan: Plan) -> int:
    """About how many requests and writes a plan takes."""
    [part] = plan.environments
    assert isinstance(part, Planned), part
    count = 0
    for action in part.unblocked:
        match action:
            case Create() | Rotate():
                count += 4 + len(action.sinks)
            case Deliver():
                count += 2 + len(action.sinks)
            case Revoke():
                count += 1
            case _:
                raise AssertionError(action)
    return count


@pytest.fixture(autouse=True)
def mortal_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs can be killed."""
    monkeypatch.setattr(connect_module, "Transport", Mortal)


@pytest.fixture
def clock() -> Iterator[Any]:
    """The clock of everything in this process, which goes on from where it is put."""
    with time_machine.travel(NEW_YEAR, tick=True) as traveller:
        yield traveller


@pytest.mark.parametrize("dialect", Dialect)
def test_a_year_of_rotations_cuts_nobody_off(dialect, tmp_path, clock) -> None:
    """At every moment each key has a delivered token that works; foreign keys stay as they are.

    No name ever has more than two live keys but by hand, a run that is not killed ends every key
    whose overlap is over, and the requests of all runs are at most 1.2 times the fewest. What is
    made by hand under a wanted name is reported by each run, delivered by none, and ended by none
    before it is about to end by itself.
    """
    chance = random.Random(f"{dialect}/{KEYS}")
    year = Year(dialect, tmp_path, chance)
    moments = [
        NEW_YEAR + timedelta(days=day, minutes=chance.randrange(180)) for day in range(DAYS + 1)
    ]
    with year.sandbox:
        year.begin()
        for day in range(1, DAYS):
            year.holds(until=moments[day])
            clock.move_to(moments[day])
            if day % 4 == 0:
                year.someone_works_by_hand()
            year.out = day % 15 < 2
            year.run(doomed=chance.random() < 0.2)
            if day % 30 == 0:
                assert year.accepted()
        year.holds(until=moments[DAYS])
        ours = [row for row in year.rows.values() if row.id not in year.foreign]
        made = Counter(row.name for row in ours)
        redated = Counter(year.rows[id_].name for id_ in year.stranger.redated)
        for key in year.wanted:
            assert isinstance(key.expiry, ExpiresAfter)
            fewest = 1 + DAYS // (key.expiry.lifetime.days + 1)
            assert made[key.name] + redated[key.name] >= fewest
    _LOG.info(
        "%s: %d keys, %d runs, %d killed, %d keys made, %d requests, %.3f times the fewest",
        dialect, KEYS, DAYS, year.killed, len(ours), year.requests, year.requests / year.least,
    )  # fmt: skip
    assert year.killed > 0.15 * DAYS
    assert year.least <= year.requests <= 1.2 * year.least
