"""A sink that cannot be read: what a run does whose write another run may have overtaken."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from killable import FastClock
from write_only import REPOSITORY, Shop, SlowGithub

from provisioner.execution import Executed, Failed, Unfinished
from provisioner.model.token_claims import claims_of
from provisioner.plan import Duplicate
from provisioner.sandbox import Dialect, Request, Response, Sandbox
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from provisioner.errors.failure import Failure
    from provisioner.execution import RunResult
    from provisioner.sandbox import ApiKey


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A delivered key that is not due for long, and a server that does what it is asked at once."""

    def around(request: Request, answer: Callable[[Request], Response]) -> Response:
        return shop.around(request, answer)

    sandbox = Sandbox(None, Dialect.CORE, around=around)
    with SlowGithub(random.Random(1)) as github, sandbox:
        shop = Shop(sandbox, github, tmp_path)
        assert shop.run()[0]
        shop.days_pass(20)
        yield shop


def writes(shop: Shop) -> int:
    return sum(asked.method == "PUT" for asked in shop.github.asked)


def live(sandbox: Sandbox) -> list[ApiKey]:
    now = datetime.now(UTC)
    return [
        one
        for one in sandbox.keys()
        if one.revoked_at is None and datetime.fromisoformat(one.expires_at) > now
    ]


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


def test_a_slow_write_is_made_good_by_the_token_of_the_newer_key(shop: Shop) -> None:
    """Another run made it while the write was under way, and may have delivered it before."""
    made: list[str] = []
    shop.github.at_write = once(lambda: made.append(newer(shop)))
    assert shop.run(FastClock(), redeliver=True)[0]
    assert [held_by(shop)] == made
    assert writes(shop) == 3


def test_a_key_that_a_person_made_meanwhile_is_not_delivered(shop: Shop) -> None:
    """The failure names it, and what was delivered before works on."""
    made: list[str] = []
    shop.github.at_write = once(lambda: made.append(newer(shop, 0)))
    good, result = shop.run(FastClock(), redeliver=True)
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
    good, result = shop.run(FastClock(), redeliver=True)
    assert (good, failure_of(result).code) == (False, "token_refused")
    assert shop.run(FastClock())[0]
    assert shop.works


def test_the_key_that_took_over_is_delivered_though_the_plan_knew_it(shop: Shop) -> None:
    """As a duplicate then; the other run had not yet ended the older key, or marked it as due."""
    [old] = live(shop.sandbox)
    new = newer(shop)
    soon = datetime.now(UTC) + timedelta(days=10)
    marked = replace(old, expires_at=f"{soon:%Y-%m-%dT%H:%M:%S}.417Z")
    shop.github.at_write = once(lambda: shop.sandbox.put(marked))
    assert shop.run(FastClock(), redeliver=True)[0]
    assert held_by(shop) == new


def test_a_duplicate_that_takes_nothing_over_changes_nothing(shop: Shop) -> None:
    """It was there when the run was planned, and the key of the name lives as long as before."""
    [old] = live(shop.sandbox)
    newer(shop)
    assert shop.run(FastClock(), redeliver=True)[0]
    assert held_by(shop) == old.id


def test_a_workspace_that_cannot_be_looked_at_after_the_write_is_a_failure(shop: Shop) -> None:
    """Nothing is done whose outcome nobody knows; the message says how to make sure."""
    down: list[bool] = []

    def around(request: Request, answer: Callable[[Request], Response]) -> Response:
        return Response(502) if down else answer(request)

    shop.around = around
    shop.github.at_write = lambda: down.append(True)
    good, result = shop.run(FastClock(), redeliver=True)
    why = failure_of(result)
    assert (good, why.code) == (False, "not_settled")
    assert why.message.endswith("Run `provision apply --redeliver --only svc-a`.")


def test_a_run_gives_up_where_others_go_on_making_newer_keys(shop: Shop) -> None:
    """After four writes, and says so."""
    shop.github.at_write = lambda: newer(shop) and None
    before = writes(shop)
    good, result = shop.run(FastClock(), redeliver=True)
    assert (good, failure_of(result).code) == (False, "not_settled")
    assert writes(shop) == before + 4


@pytest.mark.parametrize("at_once", [True, False])
def test_a_rotation_writes_again_where_another_run_wrote_after_it(shop: Shop, at_once) -> None:
    """Before it ends the older key, whose token that other run may have written."""
    kept = shop.github.containers[REPOSITORY]

    def late() -> None:
        kept["A"].updated_at += timedelta(seconds=9)

    looks: list[int] = []

    def around(request: Request, answer: Callable[[Request], Response]) -> Response:
        if b"apiKeys{id" in request.body.replace(b" ", b"") and writes(shop) == 2 and not looks:
            looks.append(1)
            late()
        return answer(request)

    shop.around = around
    assert shop.run(FastClock(), rotate=frozenset({"svc-a"}), at_once=at_once)[0]
    assert looks
    assert writes(shop) == 3
    assert shop.works


def test_a_rotation_fails_where_the_sink_cannot_be_asked_again(shop: Shop) -> None:
    """And the older key lives on."""

    def around(request: Request, answer: Callable[[Request], Response]) -> Response:
        if b"apiKeys{id" in request.body.replace(b" ", b"") and writes(shop) == 2:
            shop.github.allowed = False
        return answer(request)

    shop.around = around
    assert not shop.run(FastClock(), rotate=frozenset({"svc-a"}), at_once=True)[0]
    assert len(live(shop.sandbox)) == 2
    assert shop.works


def test_an_old_key_whose_end_cannot_be_moved_is_told(shop: Shop) -> None:
    """The successor is delivered, and the failure says how to end the older key by hand."""
    [old] = live(shop.sandbox)

    def around(request: Request, answer: Callable[[Request], Response]) -> Response:
        moves = request.method == "PATCH" or b"updateApiKey" in request.body
        return Response(403, b'{"messages": ["no"]}') if moves else answer(request)

    shop.around = around
    good, result = shop.run(FastClock(), rotate=frozenset({"svc-a"}))
    assert not good
    assert f"`provision revoke {old.id}`" in failure_of(result).message
    assert held_by(shop) != old.id
