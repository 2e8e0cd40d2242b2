"""A year of rotations, with one run a day, one in five of which is killed; no token ever fails.

Twice a month, most sinks accept no token for two days, so that deliveries fail. Every few days a
person creates, renames or revokes keys with declared names, or changes their expiry. The clock of
the embedded Twenty and of the runs moves from day to day. A year of YEAR_KEYS keys (16 by
default) is run on each dialect; docs/reliability.md has the command for 200.
"""

from __future__ import annotations

import logging
import math
import os
import random
import re
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import requests
import time_machine
from builders import desired_key, environment_with, rotation_with
from killable import PROCESSES, FastClock, Kill, KillableSink, KillableTransport, Killed, Process
from manual_user import LIFETIMES, ManualUser
from sandbox_control import ApiKey, Dialect, Exchange, Sandbox

from provisioner.execution import Executed
from provisioner.model.environment import Environment, SessionToken
from provisioner.model.expiry import ExpiresAfter
from provisioner.model.token_claims import claims_of
from provisioner.plan import Create, Deliver, Duplicate, Plan, Planned, PlanOptions, Revoke, Rotate
from provisioner.reconcile.proposal import PlanRequest
from provisioner.reconcile.reconciler import Reconciler
from provisioner.runtime.executor import ThreadExecutor
from provisioner.secret import Secret
from provisioner.sinks.file import FileAddress
from provisioner.sinks.registry import SinkRegistry
from provisioner.twenty import connect as connect_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack
    from pathlib import Path

    from sandbox_control import Request, Response

    from provisioner.execution import RunResult
    from provisioner.model.key import DesiredKey
    from provisioner.model.sink_address import Address
    from provisioner.model.workspace import Workspace

_LOG = logging.getLogger(__name__)

KEYS = int(os.environ.get("YEAR_KEYS", "16"))
DAYS = 365
NEW_YEAR = datetime(2027, 1, 1, 4, 0, 0, tzinfo=UTC)
EARLIEST = datetime.min.replace(tzinfo=UTC)
SHOP = "shop"
OWNS = "svc-*"
FOREIGN = ("zapier", "old-svc", "Svc-billing", "svc", "provision")
"""Names that `owns` does not match, although some look as if it did."""

PAGE_SIZE = 1000
BATCH_SIZE = 60
DOCUMENT_SIZE = 20
TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Year:
    """A workspace, manifests that declare keys in it, and a run a day.

    Attributes:
        delivered: the ids of the keys whose token was in a sink after a run.
        killed: the number of killed runs.
        sinks_down: true if some sinks accept no token today.
        requests: the number of requests of all runs.
        minimum_requests: the number of requests that were necessary, see `_minimum_requests`.
        violations: descriptions of revocations that broke the guarantee.
    """

    def __init__(self, dialect: Dialect, root: Path, rng: random.Random) -> None:
        self.dialect = dialect
        self.root = root
        self.rng = rng
        self.journal: list[Exchange] = []
        self.sandbox = Sandbox(None, dialect, journal=self.journal, around=self._check_revocation)
        self.desired = tuple(map(self._key, range(KEYS)))
        self.rows: dict[str, ApiKey] = {}
        self.foreign: dict[str, ApiKey] = {}
        self.manual_user = ManualUser(self.sandbox)
        self.delivered: set[str] = set()
        self.killed = self.requests = self.minimum_requests = 0
        self.violations: list[str] = []
        self.sinks_down = False

    def begin(self) -> None:
        """Create keys that `owns` does not match, and do a first run without a kill."""
        for name in FOREIGN:
            self.sandbox.seed([name], expires_at="2027-06-01T00:00:00.000Z")
            self.sandbox.seed([name])
        self.rows = self.foreign = self._rows()
        assert not self.run(kill=False)

    def change_keys_by_hand(self) -> None:
        """Make a random change by hand to keys with declared names."""
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
        rows = [row for row in self.rows.values() if not row.revoked_at and row.expires_at > now]
        names = [key.name for key in self.desired]
        manual = [row for row in rows if row.id in self.manual_user.keys]
        match self.rng.randrange(5):
            case 0 if manual:
                self.manual_user.rename(self.rng.choice(manual), self.rng.choice(names))
            case 1 if manual:
                self.manual_user.revoke(self.rng.choice(manual))
            case 2 if manual:
                days = timedelta(days=self.rng.choice((1, 400)), hours=5)
                self.manual_user.change_expiry(self.rng.choice(manual), days)
            case 3:
                ours = [row for row in rows if row.name in names and row not in manual]
                days = timedelta(days=self.rng.randint(20, 80), hours=5)
                self.manual_user.change_expiry(self.rng.choice(ours), days)
            case _:
                self.manual_user.create(self.rng.choice(names), self.rng.choice(LIFETIMES))
        self.rows = self._rows()
        self.foreign |= {id_: self.rows[id_] for id_ in self.manual_user.keys}

    def run(self, *, kill: bool) -> bool:
        """Run one pipeline; return whether it was killed."""
        process = Process(None, 0)
        self.journal.clear()
        ended_overlaps = self._names_with_ended_overlap()
        result = self._run(process, kill=kill)
        sent = len(self.journal)
        before, self.rows = self.rows, self._rows()
        texts = (token for key in self.desired for token in self.tokens(key.name))
        claims = filter(None, map(claims_of, map(Secret, texts)))
        self.delivered |= {one.key for one in claims if one.key is not None}
        self.requests += sent
        self.minimum_requests += self._minimum_requests(before, sent, killed=result is None)
        if result is None:
            self.killed += 1
        else:
            assert self.sinks_down or not result.incomplete, result
            live = self._live()
            assert [name for name in ended_overlaps if len(live[name]) > 1] == []
            assert self._unreported(result) == set()
        return result is None

    def check(self, until: datetime) -> None:
        """Check what must be true after every run, killed or not, until the next one."""
        assert self.violations == []
        soon = f"{datetime.now(UTC) + timedelta(days=14):%Y-%m-%d}"
        changed = [
            row
            for id_, row in self.foreign.items()
            if row != self.rows[id_] and (row.expires_at > soon or id_ not in self.manual_user.keys)
        ]
        assert changed == []
        dead = [
            name
            for name in (key.name for key in self.desired)
            if not all(self._works(name, token, until) for token in self.tokens(name))
        ]
        assert dead == [], until
        live = self._live()
        assert {name: keys for name, keys in live.items() if len(keys) > 2} == {}

    def tokens(self, name: str) -> list[str]:
        """Return the tokens in the sinks of a key, with an empty text for a missing one."""
        [key] = [key for key in self.desired if key.name == name]
        texts = [(self.root / address.path).read_text() for address in key.deliver]
        return [found[0] if (found := TOKEN.search(text)) else "" for text in texts]

    def accepted(self) -> bool:
        """Return whether the server accepts the tokens in all sinks, in real requests."""
        return all(
            "errors"
            not in requests.post(
                f"{self.sandbox.url}/graphql",
                json={"query": "{__typename}"},
                headers={"Authorization": f"Bearer {token}"},
                timeout=30,
            ).json()
            for key in self.desired
            for token in self.tokens(key.name)
        )

    def _key(self, number: int) -> DesiredKey:
        before, overlap = self.rng.randint(7, 14), self.rng.choice((24, 36, 48, 72))
        lifetime = self.rng.randint(30, 90)
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

    def _run(self, process: Process, *, kill: bool) -> RunResult | None:
        stop = FastClock()
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

        def open_sink(address: Address) -> KillableSink:
            assert isinstance(address, FileAddress)
            unavailable = self.sinks_down and address.format != "json"
            return KillableSink(sinks.open(address), process, unavailable=unavailable)

        sinks = SinkRegistry(self.root, {}, stop)
        try:
            with closing(
                Reconciler(
                    (environment,),
                    open_workspace,
                    open_sink,
                    ThreadExecutor(1),
                    stop,
                )
            ) as reconciler:
                if kill and self.rng.random() < 0.15:
                    process.kill = self._random_kill(process, 1)
                options = PlanOptions(prune=True)
                request = PlanRequest({SHOP: self.desired}, datetime.now(UTC), options)
                proposal = reconciler.propose(request)
                plan = proposal.plan
                if kill and process.kill is None:
                    process.kill = self._random_kill(process, steps(plan))
                result = reconciler.execute(proposal)
                assert not any(part.bug for part in result.environments), result
                assert proposal.refusal is None, proposal.refusal
        except Killed:
            return None
        finally:
            del PROCESSES[SHOP]
        return None if kill and not process.killed else result

    def _random_kill(self, process: Process, steps: int) -> Kill:
        """Return a random kill point in the remaining steps of a run."""
        number = process.steps + self.rng.randrange(max(1, steps))
        return Kill(number, self.rng.choice(("before", "after")))

    def _minimum_requests(self, before: dict[str, ApiKey], sent: int, *, killed: bool) -> int:
        """Return the number of necessary requests of a run, from its input and its effects.

        They are: one observation, and another if the run created keys, each with all pages of the
        keys that are not revoked; the creates and mints, several in one if the server supports
        that; one check of the token for each created key, whichever run delivers it; and one
        request for each revoked key. A killed run counts the same, but not more than it sent:
        requests that it wasted, or that the next run repeats, are not necessary ones.
        """
        legacy = self.dialect is Dialect.LEGACY
        created = self.rows.keys() - before.keys()
        revoked = sum(
            row.revoked_at is not None and before[id_].revoked_at is None
            for id_, row in self.rows.items()
            if id_ in before
        )
        observation, second_observation = (
            max(1, math.ceil(sum(row.revoked_at is None for row in rows.values()) / PAGE_SIZE))
            if legacy
            else 1
            for rows in (before, self.rows)
        )
        keys_per_request = {
            Dialect.LEGACY: BATCH_SIZE,
            Dialect.CORE_1: DOCUMENT_SIZE,
            Dialect.CORE: 1,
        }
        creates = math.ceil(len(created) / keys_per_request[self.dialect.recorded])
        minimum_requests = observation + bool(created) * second_observation + creates + revoked
        if killed:
            minimum_requests = min(minimum_requests, sent)
        tokens_per_request = 1 if self.dialect.recorded is Dialect.CORE else DOCUMENT_SIZE
        return minimum_requests + math.ceil(len(created) / tokens_per_request) + len(created)

    def _unreported(self, result: RunResult) -> set[str]:
        """Return the live manual keys with declared names that a run has in no finding."""
        [environment_result] = result.environments
        assert isinstance(environment_result, Executed)
        reported = {
            id_
            for finding in environment_result.planned.findings
            if isinstance(finding, Duplicate)
            for id_ in finding.ids
        }
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
        return {
            id_
            for id_ in self.manual_user.keys - reported
            if not self.rows[id_].revoked_at and self.rows[id_].expires_at > now
        }

    def _live(self) -> dict[str, list[ApiKey]]:
        """Return the live keys of each declared name, oldest first, without those changed by hand.

        A key with a changed expiry may no longer count as due or as a successor; it is a finding.
        So is a successor that a killed run did not deliver, if its predecessor was changed then.
        """
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
        live: dict[str, list[ApiKey]] = {key.name: [] for key in self.desired}
        for row in self.rows.values():
            counts = (
                row.name in live
                and row.id not in self.manual_user.keys | self.manual_user.changed_expiry
            )
            if counts and not row.revoked_at and row.expires_at > now and not self._orphaned(row):
                live[row.name].append(row)
        return live

    def _orphaned(self, row: ApiKey) -> bool:
        """Return whether a key was never delivered, and an older one of its name was changed."""
        changed = (self.rows[id_] for id_ in self.manual_user.changed_expiry)
        return row.id not in self.delivered and any(
            one.name == row.name and one.created_at < row.created_at for one in changed
        )

    def _names_with_ended_overlap(self) -> list[str]:
        """Return the names whose overlap has ended, so that only the newest key may stay live."""
        live = self._live()
        found = []
        for key in self.desired:
            assert key.rotation is not None
            if len(live[key.name]) > 1:
                newest = live[key.name][-1]
                claims_of_sinks = [claims_of(Secret(token)) for token in self.tokens(key.name)]
                delivered = all(
                    claims is not None and claims.key == newest.id for claims in claims_of_sinks
                )
                since = max(
                    claims.issued_at or EARLIEST for claims in claims_of_sinks if claims is not None
                )
                since = max(since, datetime.fromisoformat(newest.created_at))
                # A run goes by the server's `Date`, which has whole seconds.
                now = datetime.now(UTC).replace(microsecond=0)
                if delivered and now - since >= key.rotation.overlap:
                    found.append(key.name)
        return found

    def _works(self, name: str, token: str, until: datetime) -> bool:
        """Return whether a token belongs to a key of that name and is valid until a given time."""
        claims = claims_of(Secret(token))
        row = self.rows.get(claims.key or "") if claims is not None else None
        if (
            claims is None
            or claims.expires_at is None
            or row is None
            or row.id in self.manual_user.keys
        ):
            return False
        expires_at = datetime.fromisoformat(row.expires_at)
        return (
            row.name == name and not row.revoked_at and min(claims.expires_at, expires_at) > until
        )

    def _check_revocation(
        self, request: Request, answer_request: Callable[[Request], Response]
    ) -> Response:
        """Check at each revocation that another key is delivered and its overlap has ended."""
        answer = answer_request(request)
        if b"revokeApiKey" in request.body or request.method == "PATCH":
            [id_] = UUID.findall(request.path.encode() + request.body)
            row = self.rows.get(id_.decode())
            desired = {key.name: key.rotation for key in self.desired}
            rotation = desired.get(row.name) if row is not None else None
            if row is None or rotation is None:
                self.violations.append(f"{id_!r} was not there before the run, or is not ours")
                return answer
            for token in self.tokens(row.name):
                claims = claims_of(Secret(token))
                key = self.sandbox._store.key((claims and claims.key) or "")
                if key is None or key.id == row.id or key.revoked_at is not None:
                    self.violations.append(f"{row.name} lost {row.id} while a sink had no other")
                    continue
                assert claims is not None
                assert claims.issued_at is not None
                since = max(claims.issued_at, datetime.fromisoformat(key.created_at))
                if datetime.now(UTC) - since < rotation.overlap:
                    self.violations.append(f"{row.name} lost {row.id} before its overlap was over")
        return answer

    def _rows(self) -> dict[str, ApiKey]:
        return {key.id: key for key in self.sandbox.keys()}


def steps(plan: Plan) -> int:
    """Return the approximate number of requests and writes of a plan."""
    [environment_result] = plan.environments
    assert isinstance(environment_result, Planned), environment_result
    count = 0
    for action in environment_result.unblocked:
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
def killable_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make runs killable."""
    monkeypatch.setattr(connect_module, "Transport", KillableTransport)


@pytest.fixture
def clock() -> Iterator[Any]:
    """Provide the clock of this process, which keeps running after it is moved."""
    with time_machine.travel(NEW_YEAR, tick=True) as traveller:
        yield traveller


@pytest.mark.parametrize("dialect", Dialect)
def test_a_year_of_rotations_breaks_no_token(dialect, tmp_path, clock) -> None:
    """Each key always has a valid delivered token, and keys outside `owns` stay unchanged.

    No name has more than two live keys, except through changes by hand. A run that is not killed
    revokes every key whose overlap has ended. All runs together send at most 1.2 times the
    necessary requests. Each run reports manual keys with declared names; none delivers their
    tokens, and none revokes them before they are about to expire.
    """
    rng = random.Random(f"{dialect}/{KEYS}")
    year = Year(dialect, tmp_path, rng)
    times = [NEW_YEAR + timedelta(days=day, minutes=rng.randrange(180)) for day in range(DAYS + 1)]
    with year.sandbox:
        year.begin()
        for day in range(1, DAYS):
            year.check(until=times[day])
            clock.move_to(times[day])
            if day % 4 == 0:
                year.change_keys_by_hand()
            year.sinks_down = day % 15 < 2
            year.run(kill=rng.random() < 0.2)
            if day % 30 == 0:
                assert year.accepted()
        year.check(until=times[DAYS])
        ours = [row for row in year.rows.values() if row.id not in year.foreign]
        created = Counter(row.name for row in ours)
        changed_expiry = Counter(year.rows[id_].name for id_ in year.manual_user.changed_expiry)
        for key in year.desired:
            assert isinstance(key.expiry, ExpiresAfter)
            fewest = 1 + DAYS // (key.expiry.lifetime.days + 1)
            assert created[key.name] + changed_expiry[key.name] >= fewest
    _LOG.info(
        "%s: %d keys, %d runs, %d killed, %d keys created, %d requests, %.3f times the minimum",
        dialect,
        KEYS,
        DAYS,
        year.killed,
        len(ours),
        year.requests,
        year.requests / year.minimum_requests,
    )
    assert year.killed > 0.15 * DAYS
    assert year.minimum_requests <= year.requests <= 1.2 * year.minimum_requests
