"""Whole runs, with their requests, writes and outcomes counted."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from builders import (
    NOW,
    URL,
    desired_key,
    environment_with,
    file_sink,
    limits_with,
    rotation_with,
    vault_sink,
)
from sandbox_control import Dialect

from provisioner.errors.problem import Place
from provisioner.execution import Done, Executed, Failed, RunMarker, RunResult, Unfinished
from provisioner.http_client.client import HttpClient
from provisioner.http_client.exchange import HttpAnswer
from provisioner.model.activity import (
    Activity,
    Answered,
    CheckingSinks,
    Connected,
    Connecting,
    Listing,
    ReadingSinks,
    Rested,
    SigningIn,
    ignore_activity,
)
from provisioner.model.environment import Environment, SessionToken, SignIn
from provisioner.model.expiry import format_timestamp
from provisioner.model.sink_content import NoToken
from provisioner.model.token_claims import claims_of
from provisioner.plan import Deliver, Plan, Planned, PlanOptions, Revoke, Unobserved
from provisioner.reconcile.connection import WorkspaceOpener
from provisioner.reconcile.proposal import PlanRequest
from provisioner.reconcile.reconciler import Reconciler
from provisioner.runtime.executor import ThreadExecutor
from provisioner.secret import Secret
from provisioner.sinks.file import FileAddress
from provisioner.sinks.registry import SinkRegistry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox_control import ApiKey, Around, Exchange, Request, Response

    from provisioner.model.activity import OnActivity
    from provisioner.model.key import DesiredKey
    from provisioner.model.sink_address import Address
    from provisioner.sinks.sink import Content, Sink

COUNTS = {0: 20, 1: 57, 2: 60}


def desired_keys(role: str | None = "Integrations") -> tuple[DesiredKey, ...]:
    """Return 137 keys, in three manifests of depth 0, 1 and 2."""
    return tuple(
        desired_key(
            f"key-{depth}-{number}",
            depth=depth,
            role=role,
            place=Place(f"manifests/depth-{depth}.yaml", number + 1),
        )
        for depth, count in COUNTS.items()
        for number in range(count)
    )


@pytest.fixture
def run(hurried, tmp_path) -> Callable[..., tuple[Plan, RunResult]]:
    """Return a function that plans and applies one environment, with short waits."""

    def run_(
        environment: Environment, keys: Any = None, on_activity: OnActivity = ignore_activity
    ) -> tuple[Plan, RunResult]:
        stop = hurried()
        connect = WorkspaceOpener(tmp_path, stop, on_activity=on_activity)
        with closing(
            Reconciler(
                (environment,),
                connect,
                SinkRegistry(tmp_path, {}, stop).open,
                ThreadExecutor(4),
                stop,
                on_activity=on_activity,
            )
        ) as reconciler:
            desired = {"shop": desired_keys() if keys is None else keys}
            proposal = reconciler.propose(PlanRequest(desired, NOW))
            return proposal.plan, reconciler.execute(proposal)

    return run_


def executed(result: RunResult) -> Executed:
    [part] = result.environments
    assert isinstance(part, Executed)
    return part


def shop_of(served: Any, credential: Any, **limits: Any) -> Environment:
    return environment_with(
        url=served.sandbox.url, credential=credential, limits=limits_with(**limits)
    )


def sign_in(served: Any) -> SignIn:
    return SignIn(Secret(served.sandbox.email), Secret(served.sandbox.password))


def test_legacy_takes_three_posts_for_137_keys_and_none_the_second_time(serve, run) -> None:
    """It reads 200 keys in one page, sends three batches, and lists 337 keys in one page."""
    served = serve(Dialect.LEGACY)
    served.sandbox.seed(f"old-{number}" for number in range(200))
    shop = shop_of(served, SessionToken(Secret(served.sandbox.session_token())))
    plan, result = run(shop)
    methods = [one.method for one in served.journal]
    assert methods == ["GET"] + ["POST"] * 3 + ["GET"]
    assert {one.path: len(json.loads(one.body)) for one in served.writes()} == {
        f"/rest/batch/apiKeys?depth={depth}": count for depth, count in COUNTS.items()
    }
    [planned] = plan.environments
    assert isinstance(planned, Planned)
    assert planned.estimate.requests == len(served.journal)
    assert [type(one) for one in executed(result).results] == [Done] * 137
    served.journal.clear()
    again, _ = run(shop)
    assert again.changes == 0
    assert [one.method for one in served.journal] == ["GET"]


def test_a_run_says_what_it_does(serve, run) -> None:
    """Each step is announced before it begins, and each answer is told with what it was about."""
    served = serve(Dialect.CORE_1)
    seen: list[Activity] = []
    keys = tuple(
        desired_key(
            f"key-{number}", role="Integrations", deliver=(file_sink(variable=f"K{number}"),)
        )
        for number in range(5)
    )
    run(shop_of(served, sign_in(served)), keys, seen.append)
    steps = [one for one in seen if not isinstance(one, Answered)]
    assert steps == [
        Connecting("shop"),
        SigningIn("shop"),
        Connected("shop", served.sandbox.url, "core", "password"),
        Listing("shop"),
        Rested("shop"),
        ReadingSinks("shop", 0),
        CheckingSinks("shop", 5),
        Rested("shop"),
        Listing("shop"),
    ]
    answers = [one for one in seen if isinstance(one, Answered)]
    assert all(one.done and one.seconds > 0 for one in answers)
    units: Counter[str | None] = Counter()
    for one in answers:
        units[one.work] += one.units
    del units[None]  # a sign-in, a look at what a role may do
    assert units == {"list": 3, "create": 5, "mint": 5, "prove": 5}
    assert len(served.journal) == len(answers)


@pytest.mark.parametrize(("dialect", "creates"), [(Dialect.CORE_1, 8), (Dialect.CORE, 138)])
def test_core_sends_few_requests_in_addition_to_the_creates(serve, run, dialect, creates) -> None:
    """With a session it signs in, detects, lists, reads permissions, creates, and lists once more.

    The last request asks for a sign-out, which neither server knows. 1.x takes two creates and then
    20 a request; 2.x refuses the two and takes 137 single ones.
    """
    served = serve(dialect)
    served.sandbox.seed(f"old-{number}" for number in range(200))
    shop = shop_of(served, sign_in(served), parallel=3)
    plan, result = run(shop)
    bodies = [one.body for one in served.journal]
    assert sum(b"createApiKey(" in body for body in bodies) == creates
    assert sum(b"{apiKeys{" in body for body in bodies) == 2
    assert sum(b"getRoles" in body for body in bodies) == 3
    assert sum(one.method == "GET" for one in served.journal) == 1
    *_, last_list, sign_out = sorted(served.journal, key=lambda one: one.started)
    assert b"{apiKeys{" in last_list.body
    assert b"signOut" in sign_out.body
    assert len(served.journal) == 2 + 1 + 1 + 1 + creates + 1 + 1
    assert served.most_in_flight() <= 3
    [planned] = plan.environments
    assert isinstance(planned, Planned)
    assert planned.estimate.requests == 2 + 1 + 1 + 1 + 138 + 1
    assert [type(one) for one in executed(result).results] == [Done] * 137
    assert len(served.sandbox.keys()) == 337
    served.journal.clear()
    assert run(shop)[0].changes == 0
    assert not served.writes()


@pytest.mark.parametrize("dialect", Dialect)
def test_a_run_without_actions_observes_once_and_does_not_wait(serve, run, dialect) -> None:
    """If nothing is missing, it neither observes again nor writes."""
    served = serve(dialect)
    served.sandbox.seed(["key-0-0"])
    shop = shop_of(served, SessionToken(Secret(served.sandbox.session_token())))
    plan, result = run(shop, desired_keys()[:1])
    assert plan.changes == 0
    assert executed(result).results == ()
    assert len(served.journal) == (1 if dialect is Dialect.LEGACY else 2)


def test_a_run_writes_its_marker_into_the_expiry_of_its_keys(serve, run) -> None:
    """All keys of a run have the same 001 to 999, and the plan shows whole seconds."""
    served = serve(Dialect.LEGACY)
    run(shop_of(served, SessionToken(Secret(served.sandbox.session_token()))))
    markers = {key.expires_at[-5:-1] for key in served.sandbox.keys()}
    assert len(markers) == 1
    assert markers.pop() != ".000"
    random = {RunMarker.random().milliseconds for _ in range(5000)}
    assert min(random) >= 1
    assert max(random) <= 999
    assert len(random) > 500


def lose_first_create(dialect: Dialect, *, commits: bool) -> Around:
    """Return a handler that loses the first create's answer, before or after the commit."""
    first = iter([True])

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        if may_create(dialect, request) and next(first, False):
            if commits:
                inner(request)
            raise ConnectionError
        return inner(request)

    return around


def may_create(dialect: Dialect, request: Request | Exchange) -> bool:
    """Return whether a request may create keys; 2.x refuses a document of several creates."""
    if dialect is Dialect.LEGACY:
        return request.path.startswith("/rest/batch")
    several = request.body.count(b":createApiKey(")
    return several == 1 or (several > 1 and dialect is Dialect.CORE_1)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("commits", [True, False])
def test_a_create_whose_answer_is_lost_is_resolved_within_the_run(
    serve, run, dialect, commits
) -> None:
    """A key that exists is found and not created again, others are created: one key for each name.

    Each result has its key's id, and its record at its depth.
    """
    served = serve(dialect, around=lose_first_create(dialect, commits=commits))
    shop = shop_of(served, SessionToken(Secret(served.sandbox.session_token())), parallel=1)
    keys = [key for key in desired_keys() if key.name.endswith(("-1", "-2"))]
    role = {} if dialect is Dialect.LEGACY else {"role": "Integrations"}
    _, result = run(shop, tuple(keys))
    rows = {key.name: key for key in served.sandbox.keys()}
    assert len(rows) == len(served.sandbox.keys()) == len(keys) == 6
    for one in executed(result).results:
        assert isinstance(one, Done)
        assert one.id == rows[one.action.name].id
        assert one.record is not None
        assert (one.record["id"], one.record["name"]) == (one.id, one.action.name)
        role_record = one.record.get("role")
        assert bool(role_record) == (bool(role) and one.action.depth > 0)
        assert ("permissionFlags" in (role_record or {})) == (bool(role) and one.action.depth == 2)
    assert not result.incomplete
    bodies = [one.body.decode() for one in served.writes() if may_create(dialect, one)]
    times = [sum(f'"name": "{name}"' in body for body in bodies) for name in rows]
    assert set(times) == ({1} if commits else {1, 2})
    if dialect is Dialect.LEGACY:
        sent = {(key["name"], key["id"]) for body in bodies for key in json.loads(body)}
        assert len(sent) == len(keys)


def test_a_create_is_not_sent_again_before_an_observation_has_succeeded(
    scripted, answer, run
) -> None:
    """The server stops answering at the create: one POST, many lists, and an unknown outcome."""
    page = '{"data":{"apiKeys":[]},"pageInfo":{"hasNextPage":false}}'
    server = scripted(answer(200, page))
    shop = environment_with(url=server.url, credential=SessionToken(Secret("t")))
    _, result = run(shop, desired_keys()[:1])
    [failed] = executed(result).results
    assert isinstance(failed, Failed)
    assert failed.failure.code == "outcome_unknown"
    assert "provision list" in failed.failure.text
    assert result.incomplete
    methods = [request.split()[0] for request in server.requests]
    assert methods.count(b"POST") == 1
    assert methods[:2] == [b"GET", b"POST"]
    assert len(methods) > 2 + 8


def test_an_environment_without_a_credential_is_not_contacted(run) -> None:
    """Manifests cannot contain one, but code that builds an environment gets an error too."""
    plan, result = run(environment_with(url="http://127.0.0.1:9"))
    [part] = plan.environments
    assert isinstance(part, Unobserved)
    assert part.failure.code == "auth_missing"
    assert result.environments == (part,)


@time_machine.travel(NOW, tick=False)
def test_durations_count_from_the_time_of_the_plan(serve, run) -> None:
    """With a clock that stands still, plan and keys have the same expiry to the second."""
    served = serve(Dialect.LEGACY)
    shop = shop_of(served, SessionToken(Secret(served.sandbox.session_token())))
    plan, _ = run(shop, desired_keys()[:1])
    [key] = served.sandbox.keys()
    [planned] = plan.environments
    assert isinstance(planned, Planned)
    assert format_timestamp(planned.actions[0].expires_at) == "2027-02-21T04:00:00Z"
    assert key.expires_at.startswith("2027-02-21T04:00:00.")


@pytest.mark.parametrize("status", [400, 404, 418, 451])
def test_a_refusal_that_is_not_from_twenty_is_a_failure_and_sent_once(
    run, monkeypatch, status
) -> None:
    """A proxy refuses: no key counts as created, and nothing is sent again."""
    sent = answer_creates(monkeypatch, status)
    _, result = run(empty_shop(), desired_keys()[:3])
    failures = [one.failure.code for one in executed(result).results if isinstance(one, Failed)]
    assert failures == ["unexpected_answer"] * 3
    assert len([method for method, _ in sent if method == "POST"]) == 1


@pytest.mark.parametrize("status", [200, 201, 299, 408, 500, 507, 511, 520, 599])
def test_no_answer_that_a_proxy_may_send_is_taken_for_a_success(run, monkeypatch, status) -> None:
    """Each repeat follows an observation and has the same ids; no key counts as created."""
    requests = answer_creates(monkeypatch, status)
    _, result = run(empty_shop(), desired_keys()[:3])
    failures = [one.failure.code for one in executed(result).results if isinstance(one, Failed)]
    assert failures == ["outcome_unknown"] * 3
    methods = [method for method, _ in requests]
    assert methods[:4] == ["GET", "POST", "GET", "POST"]
    assert methods.count("GET") >= 1 + 8
    sent = [body for method, body in requests if method == "POST"]
    assert len({(key["name"], key["id"]) for keys in sent for key in keys}) == 3
    assert [len(keys) for keys in sent[:4]] == [3, 3, 3, 1]


def answer_creates(monkeypatch: pytest.MonkeyPatch, status: int) -> list[tuple[str, Any]]:
    """Answer lists with no key and creates with a page of a proxy; return what is sent."""
    sent: list[tuple[str, Any]] = []
    page = {"data": {"apiKeys": []}, "pageInfo": {"hasNextPage": False}}

    def request(_: HttpClient, method: str, path: str, *, body: Any, **__: Any) -> HttpAnswer:
        expected = "/rest/apiKeys" if method == "GET" else "/rest/batch/apiKeys"
        assert path.partition("?")[0] == expected
        sent.append((method, body))
        if method == "GET":
            return HttpAnswer(200, {}, json.dumps(page).encode(), datetime.now(UTC))
        return HttpAnswer(status, {}, b"<html>", datetime.now(UTC))

    monkeypatch.setattr(HttpClient, "request", request)
    return sent


def empty_shop() -> Environment:
    return environment_with(url=URL, credential=SessionToken(Secret("t")))


def two_successors(served: Any, age: float) -> tuple[ApiKey, ApiKey]:
    """Return the keys of two runs that rotated at once, `age` seconds ago; the first is kept."""
    served.sandbox.seed(["svc-a", "svc-a"])
    created_at = datetime.now(UTC) - timedelta(seconds=age)
    first, second = (
        replace(key, created_at=f"{created_at + timedelta(seconds=offset):%Y-%m-%dT%H:%M:%S.000Z}")
        for key, offset in zip(served.sandbox.keys(), (-1, 0), strict=True)
    )
    served.sandbox.put(first, second)
    return first, second


def run_during(served: Any, hurried: Any, root: Path, during_wait: Callable[[], Any]) -> RunResult:
    """Run one rotated key, and call a function when the run waits for the first time."""
    waits: list[float] = []

    class Waiting(hurried):  # type: ignore[misc]  # a fixture's class
        def sleep(self, seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 1:
                during_wait()
            super().sleep(seconds)

    stop = Waiting()
    shop = shop_of(served, SessionToken(Secret(served.sandbox.session_token())))
    shop = replace(shop, owns=("svc-*",))
    rotated = rotation_with()
    key = desired_keys("Admin")[0]._replace(
        name="svc-a", deliver=(FileAddress("token", "", "bare"),), rotation=rotated
    )
    sinks = SinkRegistry(root, {}, stop)
    with closing(
        Reconciler((shop,), WorkspaceOpener(root, stop), sinks.open, ThreadExecutor(4), stop)
    ) as reconciler:
        proposal = reconciler.propose(PlanRequest({"shop": (key,)}, NOW))
        return reconciler.execute(proposal)


def delivered_key(root: Path, result: RunResult) -> str:
    """Return the id of the key whose token the run delivered."""
    [one] = executed(result).results
    assert isinstance(one, Done), one
    claims = claims_of(Secret((root / "token").read_text().strip()))
    assert claims is not None
    return str(claims.key)


@pytest.mark.parametrize("dialect", Dialect)
def test_a_run_that_finds_two_new_successors_delivers_the_one_that_is_kept(
    serve, hurried, tmp_path, dialect
) -> None:
    """It observes again after the other runs have resolved them, but not if that was long ago."""
    served = serve(dialect)
    first, second = two_successors(served, age=0)

    def give_way() -> None:
        served.sandbox.put(replace(second, revoked_at=first.created_at))

    result = run_during(served, hurried, tmp_path, give_way)
    assert delivered_key(tmp_path, result) == first.id
    served.sandbox.forget()
    served.journal.clear()
    (tmp_path / "token").unlink()
    first, _ = two_successors(served, age=10)

    def never() -> None:
        raise AssertionError

    result = run_during(served, hurried, tmp_path, never)
    assert delivered_key(tmp_path, result) == first.id


def test_a_workspace_that_is_gone_at_the_second_observation_is_reported(
    serve, hurried, tmp_path
) -> None:
    """Nothing is delivered based on an observation that another run may have outdated."""
    served = serve(Dialect.CORE)
    two_successors(served, age=0)
    [part] = run_during(served, hurried, tmp_path, served.sandbox.stop).environments
    assert isinstance(part, Unobserved)
    assert part.failure.code == "unreachable"
    assert not (tmp_path / "token").exists()


def test_the_key_whose_token_is_delivered_is_kept_when_redelivering(
    serve, hurried, tmp_path
) -> None:
    """With --dedupe and --redeliver together nobody loses access."""
    served = serve(Dialect.CORE)
    served.sandbox.seed(["svc-a"])
    served.sandbox.seed(["svc-a"])
    oldest, other = sorted(served.sandbox.keys(), key=lambda one: (one.created_at, one.id))
    (tmp_path / "token").write_text(served.sandbox.token_of(other.id))
    shop = shop_of(served, SessionToken(Secret(served.sandbox.session_token())))
    shop = replace(shop, owns=("svc-*",))
    key = desired_keys("Admin")[0]._replace(
        name="svc-a", deliver=(FileAddress("token", "", "bare"),)
    )
    options = PlanOptions(dedupe=True, redeliver=True)
    stop = hurried()
    sinks = SinkRegistry(tmp_path, {}, stop)
    with closing(
        Reconciler((shop,), WorkspaceOpener(tmp_path, stop), sinks.open, ThreadExecutor(4), stop)
    ) as reconciler:
        [part] = reconciler.propose(PlanRequest({"shop": (key,)}, NOW, options)).plan.environments
    assert isinstance(part, Planned)
    ids = {type(one): one.key_id for one in part.actions if isinstance(one, Deliver | Revoke)}
    assert ids == {Deliver: other.id, Revoke: oldest.id}


# Bugs

WORKING = file_sink("secrets/a.env")
BROKEN = vault_sink()


def test_a_bug_in_one_environments_sink_does_not_affect_the_other_environment(
    tmp_path, hurried
) -> None:
    """It is kept for the end of the run, and the created key is reported with its id."""
    stop = hurried()
    sinks = SinkRegistry(tmp_path, {}, stop)

    def open_sink(address: Address) -> Sink:
        return Buggy() if address == BROKEN else sinks.open(address)

    environments = tuple(environment_with(name=name, url="sandbox:", role="Admin") for name in "ab")
    desired = {
        "a": (desired_key("x", BROKEN, environment="a"),),
        "b": (desired_key("x", WORKING, environment="b"),),
    }
    with closing(
        Reconciler(
            environments, WorkspaceOpener(tmp_path, stop), open_sink, ThreadExecutor(2), stop
        )
    ) as reconciler:
        proposal = reconciler.propose(PlanRequest(desired, NOW))
        buggy, other = reconciler.execute(proposal).environments
        assert isinstance(buggy, Executed)
        assert isinstance(other, Executed)
        [first], [second] = buggy.results, other.results
        again = reconciler.propose(PlanRequest(desired, NOW, PlanOptions(redeliver=True))).plan
    assert isinstance(buggy.bug, ZeroDivisionError)
    assert other.bug is None
    assert isinstance(first, Unfinished)
    assert (first.failure.code, bool(first.id)) == ("internal_error", True)
    assert isinstance(second, Done)
    assert (tmp_path / "secrets" / "a.env").read_text().startswith("A=ey")
    assert [type(part) for part in again.environments] == [Planned, Planned]


def test_a_bug_in_reading_a_sink_fails_only_its_environment(tmp_path, hurried) -> None:
    """The environment counts as not observed; the other one is planned."""
    stop = hurried()

    def open_sink(address: Address) -> Sink:
        if address == BROKEN:
            raise ZeroDivisionError
        return SinkRegistry(tmp_path, {}, stop).open(address)

    environments = tuple(environment_with(name=name, url="sandbox:", role="Admin") for name in "ab")
    desired = {
        "a": (desired_key("x", BROKEN, environment="a"),),
        "b": (desired_key("x", WORKING, environment="b"),),
    }
    with closing(
        Reconciler(
            environments, WorkspaceOpener(tmp_path, stop), open_sink, ThreadExecutor(2), stop
        )
    ) as reconciler:
        first, second = reconciler.propose(PlanRequest(desired, NOW)).plan.environments
    assert isinstance(first, Unobserved)
    assert isinstance(first.bug, ZeroDivisionError)
    assert first.failure.code == "internal_error"
    assert isinstance(second, Planned)
    assert [one.name for one in second.unblocked] == ["x"]


class Buggy:
    """A sink with a bug in its write."""

    def check(self) -> None:
        """Find no problem."""

    def read(self) -> Content:
        return NoToken()

    def write(self, _: Secret) -> None:
        raise ZeroDivisionError
