"""A sink that cannot be read: another run may write to it at the same time."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from killable import FastClock
from sandbox_control import Dialect, Request, Response, Sandbox
from write_only import REPOSITORY, Shop, SlowGithub

from provisioner.execution import Executed, Failed, Unfinished
from provisioner.model.token_claims import claims_of
from provisioner.plan import Duplicate
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox_control import ApiKey

    from provisioner.errors.failure import Failure
    from provisioner.execution import RunResult


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Yield a shop with a delivered key that is not due soon, on a server that answers at once."""

    def around(request: Request, answer: Callable[[Request], Response]) -> Response:
        return shop.around(request, answer)

    sandbox = Sandbox(None, Dialect.CORE, around=around)
    with SlowGithub(random.Random(1)) as github, sandbox:
        shop = Shop(sandbox, github, tmp_path)
        assert shop.run()[0]
        shop.days_pass(20)
        yield shop


def writes(shop: Shop) -> int:
    return sum(request.method == "PUT" for request in shop.github.requests)


def live(sandbox: Sandbox) -> list[ApiKey]:
    now = datetime.now(UTC)
    return [
        one
        for one in sandbox.keys()
        if one.revoked_at is None and datetime.fromisoformat(one.expires_at) > now
    ]


def create_newer_key(shop: Shop, milliseconds: int = 417) -> str:
    """Create a newer key as another run or a person does, and return its id."""
    expires_at = datetime.now(UTC) + timedelta(days=90)
    [id_] = shop.sandbox.seed(
        ["svc-a"], expires_at=f"{expires_at:%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"
    )
    return id_


def delivered_key(shop: Shop) -> str | None:
    claims = claims_of(Secret(shop.github.containers[REPOSITORY]["A"].value))
    return claims and claims.key


def failure_of(result: RunResult) -> Failure:
    part = result.environments[0]
    assert isinstance(part, Executed)
    [one] = part.results
    assert isinstance(one, Failed | Unfinished)
    return one.failure


def once(action: Callable[[], object]) -> Callable[[], None]:
    """Return a function that calls another one at its first call only."""
    remaining = [action]
    return lambda: remaining.pop()() and None if remaining else None


@pytest.mark.parametrize(
    ("receipt", "proof"),
    [pytest.param("", 1, id="no receipt"), pytest.param(None, 0, id="receipt")],
)
def test_a_requested_rotation_ends_the_old_key_behind_a_sink_that_cannot_be_read(
    tmp_path, receipt, proof
) -> None:
    """The run that delivers makes the old key expire earlier, so it is due from then on.

    Without a receipt, a time within a minute proves nothing, and another write has to.
    """
    with SlowGithub(random.Random(1)) as github, Sandbox(None, Dialect.CORE) as sandbox:
        shop = Shop(sandbox, github, tmp_path, receipt=receipt)
        assert shop.run()[0]
        [first] = sandbox.keys()
        shop.days_pass(20)
        assert shop.run(rotate=frozenset({"svc-a"}))[0]
        old, new = sorted(sandbox.keys(), key=lambda one: one.created_at)
        assert (old.id, old.revoked_at) == (first.id, None)
        expires_at = datetime.fromisoformat(old.expires_at)
        assert abs(expires_at - datetime.now(UTC) - timedelta(days=10)) < timedelta(minutes=1)
        assert expires_at.microsecond == datetime.fromisoformat(first.expires_at).microsecond
        assert writes(shop) == 2
        shop.run()
        assert writes(shop) == 2
        shop.days_pass(1)
        shop.run()
        assert writes(shop) == 2 + proof
        shop.days_pass(3)
        shop.run()
        assert writes(shop) == 2 + proof
        assert [one.id for one in live(sandbox)] == [new.id]
        assert shop.works


def test_a_requested_rotation_that_was_cut_short_is_a_finding(tmp_path) -> None:
    """The key that it left is not delivered; the finding and the failure say what to do."""
    with SlowGithub(random.Random(1)) as github, Sandbox(None, Dialect.CORE) as sandbox:
        shop = Shop(sandbox, github, tmp_path)
        assert shop.run()[0]
        shop.days_pass(20)
        github.refuses = True
        succeeded, result = shop.run(rotate=frozenset({"svc-a"}))
        assert not succeeded
        [failed] = result.environments[0].results  # type: ignore[union-attr]
        assert "run `provision rotate svc-a` again" in failed.failure.text  # type: ignore[union-attr]
        github.refuses = False
        assert len(live(sandbox)) == 2
        succeeded, result = shop.run()
        assert succeeded
        assert shop.works
        part = result.environments[0]
        assert isinstance(part, Executed)
        # The refused write had made the receipt void, so the old key's token is delivered again.
        assert [one.action.reason for one in part.results] == ["token_unproven"]
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


def test_after_a_slow_write_the_token_of_the_newer_key_is_delivered(shop: Shop) -> None:
    """Another run created it during the write, and may have delivered it before."""
    created: list[str] = []
    shop.github.at_write = once(lambda: created.append(create_newer_key(shop)))
    assert shop.run(FastClock(), redeliver=True)[0]
    assert [delivered_key(shop)] == created
    assert writes(shop) == 3


def test_a_key_that_a_person_created_during_the_write_is_not_delivered(shop: Shop) -> None:
    """The failure names it, and the delivered token still works."""
    created: list[str] = []
    shop.github.at_write = once(lambda: created.append(create_newer_key(shop, 0)))
    succeeded, result = shop.run(FastClock(), redeliver=True)
    assert not succeeded
    failure = failure_of(result)
    assert failure.code == "not_settled"
    assert created[0] in failure.text
    assert "`provision apply --redeliver --only svc-a`" in failure.text
    assert shop.works
    assert delivered_key(shop) not in created


def test_a_key_that_was_revoked_during_the_write_is_a_failure(shop: Shop) -> None:
    """There is no key left to deliver; the next run creates one."""
    [key] = live(shop.sandbox)
    revoked = replace(key, revoked_at=key.created_at)
    shop.github.at_write = once(lambda: shop.sandbox.put(revoked))
    succeeded, result = shop.run(FastClock(), redeliver=True)
    assert (succeeded, failure_of(result).code) == (False, "token_refused")
    assert shop.run(FastClock())[0]
    assert shop.works


def test_the_key_that_took_over_is_delivered_although_the_plan_knew_it(shop: Shop) -> None:
    """It was a duplicate then: the other run had not yet revoked the older key or made it due."""
    [old] = live(shop.sandbox)
    new = create_newer_key(shop)
    sooner = datetime.now(UTC) + timedelta(days=10)
    due = replace(old, expires_at=f"{sooner:%Y-%m-%dT%H:%M:%S}.417Z")
    shop.github.at_write = once(lambda: shop.sandbox.put(due))
    assert shop.run(FastClock(), redeliver=True)[0]
    assert delivered_key(shop) == new


def test_a_duplicate_that_does_not_take_over_changes_nothing(shop: Shop) -> None:
    """It existed when the run was planned, and the key of the name lives as long as before."""
    [old] = live(shop.sandbox)
    create_newer_key(shop)
    assert shop.run(FastClock(), redeliver=True)[0]
    assert delivered_key(shop) == old.id


def test_a_workspace_that_cannot_be_observed_after_the_write_is_a_failure(shop: Shop) -> None:
    """An action is not done if its outcome is unknown; the message says how to make sure."""
    down: list[bool] = []

    def around(request: Request, answer: Callable[[Request], Response]) -> Response:
        return Response(502) if down else answer(request)

    shop.around = around
    shop.github.at_write = lambda: down.append(True)
    succeeded, result = shop.run(FastClock(), redeliver=True)
    failure = failure_of(result)
    assert (succeeded, failure.code) == (False, "not_settled")
    assert failure.text.endswith("Run `provision apply --redeliver --only svc-a`.")


def test_a_run_gives_up_if_others_keep_creating_newer_keys(shop: Shop) -> None:
    """It gives up after four writes, and says so."""
    shop.github.at_write = lambda: create_newer_key(shop) and None
    before = writes(shop)
    succeeded, result = shop.run(FastClock(), redeliver=True)
    assert (succeeded, failure_of(result).code) == (False, "not_settled")
    assert writes(shop) == before + 4


@pytest.mark.parametrize("at_once", [True, False])
def test_a_rotation_writes_again_if_another_run_wrote_after_it(shop: Shop, at_once) -> None:
    """It does so before it ends the older key, whose token the other run may have written."""
    kept = shop.github.containers[REPOSITORY]

    def late() -> None:
        kept["A"].updated_at += timedelta(seconds=9)

    observed: list[int] = []

    def around(request: Request, answer: Callable[[Request], Response]) -> Response:
        if b"apiKeys{id" in request.body.replace(b" ", b"") and writes(shop) == 2 and not observed:
            observed.append(1)
            late()
        return answer(request)

    shop.around = around
    assert shop.run(FastClock(), rotate=frozenset({"svc-a"}), at_once=at_once)[0]
    assert observed
    assert writes(shop) == 3
    assert shop.works


def test_a_rotation_fails_if_the_sink_does_not_answer_again(shop: Shop) -> None:
    """The older key stays live."""

    def around(request: Request, answer: Callable[[Request], Response]) -> Response:
        if b"apiKeys{id" in request.body.replace(b" ", b"") and writes(shop) == 2:
            shop.github.allowed = False
        return answer(request)

    shop.around = around
    assert not shop.run(FastClock(), rotate=frozenset({"svc-a"}), at_once=True)[0]
    assert len(live(shop.sandbox)) == 2
    assert shop.works


def test_an_old_key_whose_expiry_cannot_be_changed_is_reported(shop: Shop) -> None:
    """The successor is delivered, and the failure says how to revoke the older key."""
    [old] = live(shop.sandbox)

    def around(request: Request, answer: Callable[[Request], Response]) -> Response:
        sets_expiry = request.method == "PATCH" or b"updateApiKey" in request.body
        return Response(403, b'{"messages": ["no"]}') if sets_expiry else answer(request)

    shop.around = around
    succeeded, result = shop.run(FastClock(), rotate=frozenset({"svc-a"}))
    assert not succeeded
    assert f"`provision revoke {old.id}`" in failure_of(result).text
    assert delivered_key(shop) != old.id
