"""Whole runs with receipts: a plan knows what a secret holds, whatever its time says."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from builders import former_sink
from github_server import StoredSecret
from killable import FastClock
from sandbox_control import Dialect, Sandbox
from write_only import Shop, SlowGithub

from provisioner.execution import Done, Executed
from provisioner.model.token_claims import claims_of
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from provisioner.execution import RunResult

SECOND = timedelta(seconds=1)
sinks = pytest.mark.parametrize(
    "sink",
    [
        pytest.param({}, id="repository"),
        pytest.param({"repository": None}, id="organisation"),
    ],
)


@pytest.fixture(scope="module")
def github() -> Iterator[SlowGithub]:
    with SlowGithub(random.Random(1)) as server:
        yield server


@pytest.fixture
def shop(tmp_path: Path, github: SlowGithub, sink: dict[str, Any]) -> Iterator[Shop]:
    """Yield a shop whose only key was delivered 85 days ago, so that it is due for a rotation."""
    github.clear()
    with Sandbox(None, Dialect.CORE) as sandbox:
        shop = Shop(sandbox, github, tmp_path, **sink)
        assert run(shop) == ["create"]
        shop.days_pass(85)
        yield shop


def run(shop: Shop, **options: Any) -> list[str]:
    """Return the actions of a successful run."""
    succeeded, result = shop.run(FastClock(), **options)
    assert succeeded, result
    return done(result)


def done(result: RunResult) -> list[str]:
    [part] = result.environments
    assert isinstance(part, Executed)
    assert all(isinstance(one, Done) for one in part.results)
    return [type(one.action).__name__.lower() for one in part.results]


def delivered(shop: Shop) -> str | None:
    claims = claims_of(Secret(shop.secret.value))
    return claims and claims.key


def newest(shop: Shop) -> str:
    return max(shop.sandbox.keys(), key=lambda one: one.created_at).id


def live(shop: Shop) -> int:
    return sum(one.revoked_at is None for one in shop.sandbox.keys())


def create_successor_and_die(shop: Shop) -> None:
    """Rotate as a run that is killed after it has created the successor."""
    held = StoredSecret(**vars(shop.secret))
    receipt = shop.receipt.value
    assert run(shop) == ["rotate"]
    vars(shop.secret).update(vars(held))
    shop.receipt.value = receipt
    assert delivered(shop) != newest(shop)


@sinks
def test_edited_settings_do_not_pass_for_a_delivery(shop: Shop) -> None:
    """A run was killed before it delivered the successor; then somebody edited the secret.

    Its time is then later than the successor, which only the receipt shows to be missing.
    """
    create_successor_and_die(shop)
    shop.github.clock_skew = 5 * 60 * SECOND
    shop.edit_settings()
    shop.github.clock_skew = 0 * SECOND
    assert run(shop) == ["deliver"]
    assert (delivered(shop), live(shop)) == (newest(shop), 2)
    shop.days_pass(3)
    assert run(shop) == ["revoke"]
    assert (delivered(shop), live(shop), run(shop)) == (newest(shop), 1, [])


@pytest.mark.parametrize("sink", [{"repository": None}], ids=["organisation"])
def test_edited_settings_do_not_hide_a_delivery(shop: Shop) -> None:
    """Nothing is delivered again, except to prove once more that the older key can go."""
    assert run(shop) == ["rotate"]
    shop.edit_settings()
    assert run(shop) == []
    shop.github.clock_skew = 2 * SECOND
    shop.edit_settings()
    shop.github.clock_skew = 0 * SECOND
    shop.days_pass(1)
    assert run(shop) == ["deliver"]
    assert live(shop) == 2
    shop.days_pass(3)
    assert run(shop) == ["revoke"]
    shop.github.clock_skew = 4 * SECOND
    shop.edit_settings()
    shop.github.clock_skew = 0 * SECOND
    assert (delivered(shop), live(shop), run(shop)) == (newest(shop), 1, [])


@pytest.mark.parametrize("sink", [{}], ids=["repository"])
@pytest.mark.parametrize("seconds", [-2, 2])
def test_clocks_that_differ_by_seconds_change_nothing(shop: Shop, seconds: int) -> None:
    """A delivery within the minute of the create is proven, and a missing one is not assumed."""
    shop.github.clock_skew = seconds * SECOND
    create_successor_and_die(shop)
    shop.edit_settings()
    assert run(shop) == ["deliver"]
    assert run(shop) == []
    shop.days_pass(3)
    assert run(shop) == ["revoke"]
    assert (delivered(shop), live(shop), run(shop)) == (newest(shop), 1, [])


@pytest.mark.parametrize("sink", [{}], ids=["repository"])
def test_a_secret_that_was_overwritten_by_hand_is_delivered_again(shop: Shop) -> None:
    """Only a write of the value moves the time of a repository's secret."""
    assert run(shop) == ["rotate"]
    shop.github.clock_skew = 2 * SECOND
    shop.secret.value = "by hand"
    shop.edit_settings()
    assert run(shop) == ["deliver"]
    assert (delivered(shop), live(shop), run(shop)) == (newest(shop), 2, [])


@sinks
def test_without_the_right_for_variables_everything_is_as_before(shop: Shop) -> None:
    """Nothing is delivered again and again, and an older key is not revoked without evidence."""
    shop.github.variable_rights = "none"
    shop.receipts.clear()
    assert run(shop) == ["rotate"]
    assert run(shop) == []
    shop.days_pass(1)
    proof = ["deliver"] if shop.desired.deliver[0].targets == ("acme/billing",) else []
    assert run(shop) == proof
    shop.days_pass(3)
    assert run(shop) == (["revoke"] if proof else [])


@sinks
def test_without_the_right_to_write_receipts_nothing_is_minted(shop: Shop) -> None:
    """No run rotates or delivers again and again; `receipt: false` lets the rotation go ahead."""
    shop.github.variable_rights = "read"
    before = shop.sandbox.keys(), shop.secret.value, shop.receipt.value
    for _ in range(2):
        succeeded, _ = shop.run(FastClock())
        assert not succeeded
        assert (shop.sandbox.keys(), shop.secret.value, shop.receipt.value) == before
    address = replace(shop.desired.deliver[0], receipt="")  # type: ignore[call-arg]
    shop.desired = shop.desired._replace(deliver=(address,))
    assert (run(shop), run(shop)) == (["rotate"], [])


@pytest.mark.parametrize("sink", [{}], ids=["repository"])
def test_a_secret_without_a_receipt_gets_one(shop: Shop) -> None:
    """Whatever wrote the secret: an older version of this tool, or somebody by hand."""
    shop.days_pass(-60)
    shop.receipts.clear()
    assert run(shop) == ["deliver"]
    assert run(shop) == []


@sinks
def test_the_token_of_a_sink_that_is_gone_is_removed(shop: Shop) -> None:
    """The receipt shows that it is the delivered one, and goes with it, also after a kill."""
    shop.days_pass(-60)
    former = {"shop": (former_sink("svc-a", shop.desired.deliver[0]),)}
    shop.desired = shop.desired._replace(deliver=())
    receipts = dict(shop.receipts)
    succeeded, result = shop.run(FastClock(), former=former)
    assert (succeeded, done(result)) == (True, ["clean"])
    assert (shop.secrets, shop.receipts) == ({}, {})
    shop.receipts.update(receipts)  # as after a kill in between
    succeeded, result = shop.run(FastClock(), former=former)
    assert (succeeded, done(result), shop.receipts) == (True, ["clean"], {})
    succeeded, result = shop.run(FastClock(), former=former)
    assert (succeeded, done(result)) == (True, [])
