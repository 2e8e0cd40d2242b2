"""The main job, counted: requests, writes and outcomes of whole runs."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import responses
import time_machine

from provisioner.connection import opener
from provisioner.desired import DesiredKey, Environment, Limits, SessionToken, SignIn
from provisioner.execution import Done, Executed, Failed, Mark, RunResult
from provisioner.fleet import Fleet
from provisioner.plan import Plan, Planned, Unobserved
from provisioner.problem import Place
from provisioner.sandbox import Dialect
from provisioner.secret import Secret
from provisioner.times import format_moment, parse_expiry

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 23, 4, 0, 0, tzinfo=UTC)
COUNTS = {0: 20, 1: 57, 2: 60}


def wanted(role: str | None = "Integrations") -> tuple[DesiredKey, ...]:
    """137 keys, in three manifests of depth 0, 1 and 2."""
    return tuple(
        DesiredKey(
            environment="shop",
            name=f"key-{depth}-{number}",
            depth=depth,  # type: ignore[arg-type]
            expiry=parse_expiry("90d"),
            role=role,
            place=Place(f"manifests/depth-{depth}.yaml", number + 1),
        )
        for depth, count in COUNTS.items()
        for number in range(count)
    )


def run(environment: Environment, root: Path, keys: Any = None) -> tuple[Plan, RunResult]:
    with (
        ThreadPoolExecutor(4) as executor,
        Fleet((environment,), opener(root), executor) as fleet,
    ):
        plan = fleet.plan({"shop": wanted() if keys is None else keys}, NOW, ())
        return plan, fleet.apply(plan, lambda _: None)


def environment(served: Any, credential: Any, **limits: Any) -> Environment:
    return Environment(
        name="shop", url=served.sandbox.url, credential=credential, limits=Limits(**limits)
    )


def sign_in(served: Any) -> SignIn:
    return SignIn(Secret(served.sandbox.email), Secret(served.sandbox.password))


def test_legacy_takes_three_posts_for_137_keys_and_none_the_second_time(serve, tmp_path) -> None:
    """200 existing keys are four pages; detection is the first of them; three batches."""
    served = serve(Dialect.LEGACY)
    served.sandbox.seed(f"old-{number}" for number in range(200))
    shop = environment(served, SessionToken(Secret(served.sandbox.session_token())))
    plan, result = run(shop, tmp_path)
    reads = [one for one in served.journal if one.method == "GET"]
    posts = [one for one in served.journal if one.method == "POST"]
    assert len(reads) == 4
    assert {one.path: len(json.loads(one.body)) for one in posts} == {
        f"/rest/batch/apiKeys?depth={depth}": count for depth, count in COUNTS.items()
    }
    assert len(served.journal) == 7
    [planned] = plan.environments
    assert isinstance(planned, Planned)
    assert planned.estimate.requests == 7
    assert all(isinstance(one, Done) for part in result.environments for one in part.results)
    served.journal.clear()
    again, _ = run(shop, tmp_path)
    assert again.changes == 0
    assert {one.method for one in served.journal} == {"GET"}


@pytest.mark.parametrize("dialect", [Dialect.CORE_1, Dialect.CORE])
def test_core_takes_a_request_a_key_and_looks_once(serve, tmp_path, dialect) -> None:
    """With a session: sign-in, detection, one list, one read of permissions, 137 creates."""
    served = serve(dialect)
    served.sandbox.seed(f"old-{number}" for number in range(200))
    shop = environment(served, sign_in(served), parallel=3)
    plan, result = run(shop, tmp_path)
    bodies = [one.body for one in served.journal]
    assert sum(b"createApiKey(" in body for body in bodies) == 137
    assert sum(b"{apiKeys{" in body for body in bodies) == 1
    assert sum(b"getRoles" in body for body in bodies) == 2
    assert sum(one.method == "GET" for one in served.journal) == 1
    assert len(served.journal) == 2 + 1 + 1 + 1 + 137
    assert served.most_in_flight() <= 3
    [planned] = plan.environments
    assert isinstance(planned, Planned)
    assert planned.estimate.requests == len(served.journal)
    [executed] = result.environments
    assert isinstance(executed, Executed)
    assert [type(one) for one in executed.results] == [Done] * 137
    served.journal.clear()
    assert run(shop, tmp_path)[0].changes == 0
    assert not served.writes()


def test_a_run_marks_its_keys_with_its_own_milliseconds(serve, tmp_path) -> None:
    """All ends of a run carry the same 001 to 999, and the plan shows whole seconds."""
    served = serve(Dialect.LEGACY)
    run(environment(served, SessionToken(Secret(served.sandbox.session_token()))), tmp_path)
    marks = {key.expires_at[-5:-1] for key in served.sandbox.keys()}
    assert len(marks) == 1
    assert marks.pop() != ".000"
    drawn = {Mark.random().milliseconds for _ in range(5000)}
    assert min(drawn) >= 1
    assert max(drawn) <= 999
    assert len(drawn) > 500


def test_a_lost_create_is_a_failure_with_that_word_and_sent_once(scripted, answer, tmp_path):
    """The answer of the only create never comes: failed, `outcome_unknown`, no second POST."""
    page = '{"data":{"apiKeys":[]},"pageInfo":{"hasNextPage":false}}'
    server = scripted(answer(200, page), None, None)
    shop = Environment(name="shop", url=server.url, credential=SessionToken(Secret("t")))
    _, result = run(shop, tmp_path, wanted()[:1])
    [executed] = result.environments
    assert isinstance(executed, Executed)
    [failed] = executed.results
    assert isinstance(failed, Failed)
    assert failed.failure.code == "outcome_unknown"
    assert result.incomplete
    assert len(server.requests) == 2


def test_an_environment_without_a_credential_is_not_reached(tmp_path) -> None:
    """The manifests refuse it; whoever builds an environment by hand is told too."""
    plan, result = run(Environment(name="shop", url="http://127.0.0.1:9"), tmp_path)
    [part] = plan.environments
    assert isinstance(part, Unobserved)
    assert part.failure.code == "auth_missing"
    assert result.environments == (part,)


@time_machine.travel(NOW, tick=False)
def test_durations_count_from_the_moment_of_the_plan(serve, tmp_path) -> None:
    """Plan and keys agree on the end to the second, on a clock that stands still."""
    served = serve(Dialect.LEGACY)
    shop = environment(served, SessionToken(Secret(served.sandbox.session_token())))
    plan, _ = run(shop, tmp_path, wanted()[:1])
    [key] = served.sandbox.keys()
    [planned] = plan.environments
    assert isinstance(planned, Planned)
    assert format_moment(planned.actions[0].expires_at) == "2027-02-21T04:00:00Z"
    assert key.expires_at.startswith("2027-02-21T04:00:00.")


@responses.activate
@pytest.mark.parametrize("status", [299, 400, 404, 418, 451, 500, 507, 511, 520, 599])
def test_no_status_that_a_proxy_may_invent_is_taken_for_a_success(tmp_path, status) -> None:
    """Answers seen once in a blue moon: nothing created is claimed, nothing is sent twice."""
    url = "https://crm.example.com"
    page = {"data": {"apiKeys": []}, "pageInfo": {"hasNextPage": False}}
    responses.get(f"{url}/rest/apiKeys", json=page)
    posted = responses.post(f"{url}/rest/batch/apiKeys", body="<html>", status=status)
    shop = Environment(name="shop", url=url, credential=SessionToken(Secret("t")))
    _, result = run(shop, tmp_path, wanted()[:3])
    [executed] = result.environments
    assert isinstance(executed, Executed)
    assert [type(one) for one in executed.results] == [Failed] * 3
    assert posted.call_count == 1
