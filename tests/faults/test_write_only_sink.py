"""Two runs and a sink that cannot be read: no dead token behind two good exit codes.

One run delivers the token of the key that is there, another one rotates the key meanwhile, and
GitHub takes up to 1.5 seconds for each write. PAIRS pairs are played (12 where nothing is said);
after each pair two plain runs follow, each three days later.
"""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from github_server import GithubServer
from mortal import Hurried
from tls_server import Told

from provisioner.address import GithubAddress
from provisioner.connection import opener
from provisioner.desired import DesiredKey, Environment, Rotation, SessionToken
from provisioner.execution import Executed, Failed, Unfinished
from provisioner.fleet import Fleet
from provisioner.guards import Leave
from provisioner.plan import Duplicate, Wishes
from provisioner.problem import Place
from provisioner.sandbox import Answer, Dialect, Request, Sandbox
from provisioner.secret import Secret
from provisioner.sinks.opening import Sinks
from provisioner.stop import Stop
from provisioner.threads import Threads
from provisioner.times import ExpiresAfter
from provisioner.token import claims_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tls_server import Asked

    from provisioner.execution import RunResult
    from provisioner.failure import Failure
    from provisioner.sandbox import ApiKey

PAIRS = int(os.environ.get("PAIRS", "12"))
SLOWEST = 1.5
AT_ONCE = 6
REPOSITORY = ("repos", "acme", "billing", "actions")
WANTED = DesiredKey(
    environment="shop",
    name="svc-a",
    depth=1,
    expiry=ExpiresAfter(timedelta(days=90), "90d"),
    role=None,
    place=Place("keys.yaml", 1),
    deliver=(GithubAddress("acme", "A", "billing"),),
    rotation=Rotation(timedelta(days=10), timedelta(days=2), "10d, 48h"),
)


class SlowGithub(GithubServer):
    """Takes its time before it does what a write asks for, and dates it by a clock of its own."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(plain=True)
        self.chance = chance
        self.slow = False
        self.refuses = False
        self.at_write: Callable[[], None] = lambda: None

    def respond(self, asked: Asked) -> Told | None:
        if asked.method == "PUT" and self.slow:
            time.sleep(self.chance.uniform(0, SLOWEST))
        if asked.method == "PUT" and self.refuses:
            return Told(403, {"message": "Resource not accessible by personal access token"})
        if asked.method == "PUT":
            self.at_write()
        return super().respond(asked)


def unchanged(request: Request, answer: Callable[[Request], Answer]) -> Answer:
    return answer(request)


class Shop:
    """A workspace with one rotated key, whose token goes to one secret that cannot be read."""

    def __init__(self, sandbox: Sandbox, github: SlowGithub, root: Path) -> None:
        self.sandbox = sandbox
        self.github = github
        self.root = root
        self.around: Callable[[Request, Callable[[Request], Answer]], Answer] = unchanged
        legacy = sandbox.dialect is Dialect.LEGACY
        self.wanted = WANTED if legacy else WANTED._replace(role="Admin")

    def run(self, stop: Stop | None = None, **wishes: Any) -> tuple[bool, RunResult]:
        """One pipeline; whether it ends with 0."""
        stop = stop or Stop()
        environment = Environment(
            name="shop",
            url=self.sandbox.url,
            credential=SessionToken(Secret(self.sandbox.session_token())),
            owns=("svc-*",),
        )
        environ = {"GH_TOKEN": self.github.token, "GITHUB_API_URL": self.github.url}
        sinks = Sinks(self.root, environ, stop)
        with Fleet((environment,), opener(self.root, stop), sinks.open, Threads(1), stop) as fleet:
            now = datetime.now(UTC).replace(microsecond=0)
            plan = fleet.plan({"shop": (self.wanted,)}, now, Wishes(**wishes), Leave(max_revoke=9))
            result = fleet.apply(plan, lambda _: None)
            assert fleet.surprise is None, fleet.surprise
        return not result.incomplete and fleet.refusal is None, result

    def days_pass(self, days: int) -> None:
        """Everything that is there is so much older; a token ends no earlier than its key."""
        past = timedelta(days=days)
        self.sandbox.put(*(older(key, past) for key in self.sandbox.keys()))
        for kept in self.github.containers[REPOSITORY].values():
            kept.updated_at -= past

    @property
    def works(self) -> bool:
        """Whether the key of the token in the secret is live."""
        claims = claims_of(Secret(self.github.containers[REPOSITORY]["A"].value))
        assert claims is not None
        row = next(one for one in self.sandbox.keys() if one.id == claims.key)
        return row.revoked_at is None and datetime.fromisoformat(row.expires_at) > datetime.now(UTC)


def older(key: ApiKey, past: timedelta) -> ApiKey:
    def moved(text: str) -> str:
        return (datetime.fromisoformat(text) - past).isoformat(timespec="milliseconds")

    return replace(
        key,
        created_at=moved(key.created_at).replace("+00:00", "Z"),
        expires_at=moved(key.expires_at).replace("+00:00", "Z"),
    )


@pytest.mark.parametrize("dialect", Dialect)
def test_no_dead_token_lies_behind_good_exit_codes(dialect, tmp_path) -> None:
    """Whichever run writes last, and whether the old key ends at once, later, or never."""
    pairs = range(-(-PAIRS // len(Dialect)))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda number: pair(dialect, number, tmp_path / f"{number}"), pairs))
    assert found == [[] for _ in pairs]


def pair(dialect: Dialect, number: int, root: Path) -> list[str]:
    """What was wrong with one pair and the two plain runs after it."""
    chance = random.Random(f"{dialect}/{number}")
    root.mkdir()
    wrong: list[str] = []
    with SlowGithub(chance) as github, Sandbox(None, dialect) as sandbox:
        shop = Shop(sandbox, github, root)
        assert shop.run()[0]
        shop.days_pass(20)
        github.slow = True
        runs: list[dict[str, Any]] = [
            {"redeliver": True},
            {"rotate": frozenset({"svc-a"}), "at_once": chance.random() < 0.5},
        ]
        waits = [chance.uniform(0, 1.0), chance.uniform(0, 1.0)]
        good: list[bool] = []

        def one(wait: float, wishes: dict[str, Any]) -> None:
            time.sleep(wait)
            good.append(shop.run(**wishes)[0])

        threads = [threading.Thread(target=one, args=two) for two in zip(waits, runs, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if all(good) and not shop.works:
            wrong.append(f"pair {number}: dead at once, {runs}")
        github.slow = False
        for later in range(2):
            shop.days_pass(3)
            ends_well, _ = shop.run()
            if ends_well and not shop.works:
                wrong.append(f"pair {number}: dead after run {later}, {runs}")
    return wrong


def test_a_rotation_on_request_ends_the_old_key_behind_a_sink_that_cannot_be_read(tmp_path) -> None:
    """The run that delivers has the old key end earlier, so that it counts as due from then on."""
    with SlowGithub(random.Random(1)) as github, Sandbox(None, Dialect.CORE) as sandbox:
        shop = Shop(sandbox, github, tmp_path)
        assert shop.run()[0]
        [first] = sandbox.keys()
        shop.days_pass(20)
        assert shop.run(rotate=frozenset({"svc-a"}))[0]
        old, new = sorted(sandbox.keys(), key=lambda one: one.created_at)
        assert (old.id, old.revoked_at) == (first.id, None)
        end = datetime.fromisoformat(old.expires_at)
        assert abs(end - datetime.now(UTC) - timedelta(days=10)) < timedelta(minutes=1)
        assert end.microsecond == datetime.fromisoformat(first.expires_at).microsecond
        assert writes(shop) == 2
        shop.run()
        assert writes(shop) == 2
        shop.days_pass(1)
        shop.run()
        assert writes(shop) == 3, "a time within the minute proves nothing"
        shop.days_pass(3)
        shop.run()
        assert writes(shop) == 3
        assert [one.id for one in live(sandbox)] == [new.id]
        assert shop.works


def test_a_rotation_on_request_that_was_cut_short_is_a_finding(tmp_path) -> None:
    """Nothing is delivered of the key that it left; the finding and the failure say what to do."""
    with SlowGithub(random.Random(1)) as github, Sandbox(None, Dialect.CORE) as sandbox:
        shop = Shop(sandbox, github, tmp_path)
        assert shop.run()[0]
        shop.days_pass(20)
        github.refuses = True
        good, result = shop.run(rotate=frozenset({"svc-a"}))
        assert not good
        [failed] = result.environments[0].results  # type: ignore[union-attr]
        assert "run `provision rotate svc-a` again" in failed.failure.message  # type: ignore[union-attr]
        github.refuses = False
        assert len(live(sandbox)) == 2
        good, result = shop.run()
        assert good
        assert shop.works
        part = result.environments[0]
        assert isinstance(part, Executed)
        assert part.results == ()
        [finding] = part.planned.findings
        assert isinstance(finding, Duplicate)
        assert "`provision rotate svc-a`" in finding.message
        assert shop.run(rotate=frozenset({"svc-a"}))[0]
        assert shop.run(dedupe=True)[0]
        for _ in range(2):
            shop.days_pass(3)
            assert shop.run()[0]
            assert shop.works
        assert len(live(sandbox)) == 1


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A delivered key that is not due for long, and a server that does what it is asked at once."""

    def around(request: Request, answer: Callable[[Request], Answer]) -> Answer:
        return shop.around(request, answer)

    sandbox = Sandbox(None, Dialect.CORE, around=around)
    with SlowGithub(random.Random(1)) as github, sandbox:
        shop = Shop(sandbox, github, tmp_path)
        assert shop.run()[0]
        shop.days_pass(20)
        yield shop


def newer(shop: Shop, milliseconds: int = 417) -> str:
    """Another run, or a person, makes a newer key; its id."""
    end = datetime.now(UTC) + timedelta(days=90)
    [id_] = shop.sandbox.seed(["svc-a"], expires_at=f"{end:%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z")
    return id_


def held_by(shop: Shop) -> str | None:
    claims = claims_of(Secret(shop.github.containers[REPOSITORY]["A"].value))
    return claims and claims.key


def failure_of(result: RunResult) -> Failure:
    part = result.environments[0]
    assert isinstance(part, Executed)
    [one] = part.results
    assert isinstance(one, Failed | Unfinished)
    return one.failure


def once(does: Callable[[], object]) -> Callable[[], None]:
    """What happens at the first write and at no other."""
    left = [does]
    return lambda: left.pop()() and None if left else None


def test_a_slow_write_is_made_good_by_the_token_of_the_newer_key(shop: Shop) -> None:
    """Another run made it while the write was under way, and may have delivered it before."""
    made: list[str] = []
    shop.github.at_write = once(lambda: made.append(newer(shop)))
    assert shop.run(Hurried(), redeliver=True)[0]
    assert [held_by(shop)] == made
    assert writes(shop) == 3


def test_a_key_that_a_person_made_meanwhile_is_not_delivered(shop: Shop) -> None:
    """The failure names it, and what was delivered before works on."""
    made: list[str] = []
    shop.github.at_write = once(lambda: made.append(newer(shop, 0)))
    good, result = shop.run(Hurried(), redeliver=True)
    assert not good
    why = failure_of(result)
    assert why.code == "not_settled"
    assert made[0] in why.message
    assert "`provision apply --redeliver --only svc-a`" in why.message
    assert shop.works
    assert held_by(shop) not in made


def test_a_key_that_ended_meanwhile_is_a_failure(shop: Shop) -> None:
    """Nobody is left to deliver; the next run makes a key."""
    [key] = live(shop.sandbox)
    ended = replace(key, revoked_at=key.created_at)
    shop.github.at_write = once(lambda: shop.sandbox.put(ended))
    good, result = shop.run(Hurried(), redeliver=True)
    assert (good, failure_of(result).code) == (False, "token_refused")
    assert shop.run(Hurried())[0]
    assert shop.works


def test_the_key_that_took_over_is_delivered_though_the_plan_knew_it(shop: Shop) -> None:
    """As a duplicate then; the other run had not yet ended the older key, or marked it as due."""
    [old] = live(shop.sandbox)
    new = newer(shop)
    soon = datetime.now(UTC) + timedelta(days=10)
    marked = replace(old, expires_at=f"{soon:%Y-%m-%dT%H:%M:%S}.417Z")
    shop.github.at_write = once(lambda: shop.sandbox.put(marked))
    assert shop.run(Hurried(), redeliver=True)[0]
    assert held_by(shop) == new


def test_a_duplicate_that_takes_nothing_over_changes_nothing(shop: Shop) -> None:
    """It was there when the run was planned, and the key of the name lives as long as before."""
    [old] = live(shop.sandbox)
    newer(shop)
    assert shop.run(Hurried(), redeliver=True)[0]
    assert held_by(shop) == old.id


def test_a_workspace_that_cannot_be_looked_at_after_the_write_is_a_failure(shop: Shop) -> None:
    """Nothing is done whose outcome nobody knows; the message says how to make sure."""
    down: list[bool] = []

    def around(request: Request, answer: Callable[[Request], Answer]) -> Answer:
        return Answer(502) if down else answer(request)

    shop.around = around
    shop.github.at_write = lambda: down.append(True)
    good, result = shop.run(Hurried(), redeliver=True)
    why = failure_of(result)
    assert (good, why.code) == (False, "not_settled")
    assert why.message.endswith("Run `provision apply --redeliver --only svc-a`.")


def test_a_run_gives_up_where_others_go_on_making_newer_keys(shop: Shop) -> None:
    """After four writes, and says so."""
    shop.github.at_write = lambda: newer(shop) and None
    before = writes(shop)
    good, result = shop.run(Hurried(), redeliver=True)
    assert (good, failure_of(result).code) == (False, "not_settled")
    assert writes(shop) == before + 4


@pytest.mark.parametrize("at_once", [True, False])
def test_a_rotation_writes_again_where_another_run_wrote_after_it(shop: Shop, at_once) -> None:
    """Before it ends the older key, whose token that other run may have written."""
    kept = shop.github.containers[REPOSITORY]

    def late() -> None:
        kept["A"].updated_at += timedelta(seconds=9)

    looks: list[int] = []

    def around(request: Request, answer: Callable[[Request], Answer]) -> Answer:
        if b"apiKeys{id" in request.body.replace(b" ", b"") and writes(shop) == 2 and not looks:
            looks.append(1)
            late()
        return answer(request)

    shop.around = around
    assert shop.run(Hurried(), rotate=frozenset({"svc-a"}), at_once=at_once)[0]
    assert looks
    assert writes(shop) == 3
    assert shop.works


def test_a_rotation_fails_where_the_sink_cannot_be_asked_again(shop: Shop) -> None:
    """And the older key lives on."""

    def around(request: Request, answer: Callable[[Request], Answer]) -> Answer:
        if b"apiKeys{id" in request.body.replace(b" ", b"") and writes(shop) == 2:
            shop.github.allowed = False
        return answer(request)

    shop.around = around
    assert not shop.run(Hurried(), rotate=frozenset({"svc-a"}), at_once=True)[0]
    assert len(live(shop.sandbox)) == 2
    assert shop.works


def test_an_old_key_whose_end_cannot_be_moved_is_told(shop: Shop) -> None:
    """The successor is delivered, and the failure says how to end the older key by hand."""
    [old] = live(shop.sandbox)

    def around(request: Request, answer: Callable[[Request], Answer]) -> Answer:
        moves = request.method == "PATCH" or b"updateApiKey" in request.body
        return Answer(403, b'{"messages": ["no"]}') if moves else answer(request)

    shop.around = around
    good, result = shop.run(Hurried(), rotate=frozenset({"svc-a"}))
    assert not good
    assert f"`provision revoke {old.id}`" in failure_of(result).message
    assert held_by(shop) != old.id


def writes(shop: Shop) -> int:
    return sum(asked.method == "PUT" for asked in shop.github.asked)


def live(sandbox: Sandbox) -> list[ApiKey]:
    now = datetime.now(UTC)
    return [
        one
        for one in sandbox.keys()
        if one.revoked_at is None and datetime.fromisoformat(one.expires_at) > now
    ]
