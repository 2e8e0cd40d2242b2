"""The fault laboratory itself: the effect of each fault on a simple client and on the store."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, IncompleteRead, RemoteDisconnected
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import laboratory as module
import pytest
from laboratory import (
    FAULTS,
    TRANSIENT,
    BadGateway,
    ClosedAfter,
    ClosedBefore,
    Empty,
    ExpiredSession,
    Failed,
    Hang,
    HtmlPage,
    Laboratory,
    Slow,
    Throttled,
    TokenBucket,
    Truncated,
    Unavailable,
    every,
    first_of,
    handles,
    is_write,
    scripted,
    seeded,
)
from sandbox_control import Dialect, Request, Response, Sandbox, SlowStore

if TYPE_CHECKING:
    from collections.abc import Iterator

DATE = "2031-01-01T00:00:00.417Z"
TRUTH = object()
DIALECTS = tuple(Dialect)
REST = dict.fromkeys(Dialect, "/rest/metadata/apiKeys") | {Dialect.LEGACY: "/rest/batch/apiKeys"}
LIST = {**REST, Dialect.LEGACY: "/rest/apiKeys"}
GRAPHQL = dict.fromkeys(Dialect, "/metadata") | {Dialect.LEGACY: "/graphql"}
QUERY = {"query": "{__typename}"}
SIGN_IN = (
    "mutation($e:String!,$p:String!,$o:String!)"
    "{getLoginTokenFromCredentials(email:$e,password:$p,origin:$o){loginToken{token}}}"
)


@dataclass
class Answer:
    """An answer as received."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A client with one connection, which repeats no request."""

    def __init__(self, url: str, token: str | None, timeout: float = 30.0) -> None:
        self.connection = HTTPConnection(url.removeprefix("http://"), timeout=timeout)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __call__(self, method: str, path: str, body: Any = None) -> Answer:
        raw = None if body is None else json.dumps(body)
        headers = {**self.headers, "Content-Type": "application/json"}
        self.connection.request(method, path, raw, headers)
        answer = self.connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        assert len(headers) == len(answer.getheaders()), "a header came twice"
        return Answer(answer.status, headers, answer.read())


class Bench:
    """A laboratory, and requests to it."""

    def __init__(self, dialect: Dialect, **options: Any) -> None:
        self.dialect = dialect
        self.laboratory = Laboratory(dialect, **options)
        self.clients: list[Client] = []

    def __enter__(self) -> Self:
        self.laboratory.__enter__()
        self.token = self.laboratory.sandbox.session_token()
        return self

    def __exit__(self, *_: object) -> None:
        self.laboratory.close()
        for client in self.clients:
            client.connection.close()

    def client(self, token: str | None = "", **options: Any) -> Client:
        client = Client(self.laboratory.url, self.token if token == "" else token, **options)
        self.clients.append(client)
        return client

    def create(
        self, client: Client | None = None, name: str = "svc", *, rest: bool = True
    ) -> Answer:
        """Send one create by REST or GraphQL."""
        record = {"name": name, "expiresAt": DATE}
        if self.dialect is not Dialect.LEGACY:
            record["roleId"] = self.laboratory.sandbox.role("Admin").id
        client = client or self.client()
        if rest:
            body = [record] if self.dialect is Dialect.LEGACY else record
            return client("POST", REST[self.dialect], body)
        fields = ",".join(f"{key}:{json.dumps(value)}" for key, value in record.items())
        argument = "data" if self.dialect is Dialect.LEGACY else "input"
        query = f"mutation{{createApiKey({argument}:{{{fields}}}){{id}}}}"
        return client("POST", GRAPHQL[self.dialect], {"query": query})

    def list_keys(self, client: Client | None = None) -> Answer:
        return (client or self.client())("GET", LIST[self.dialect])

    def names(self) -> list[str]:
        return [key.name for key in self.laboratory.sandbox.keys()]


@pytest.fixture(params=DIALECTS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with Bench(request.param) as found:
        yield found


@pytest.fixture
def core() -> Iterator[Bench]:
    with Bench(Dialect.CORE) as found:
        yield found


def create_outcome(bench: Bench, *, rest: bool) -> Answer | type[Exception]:
    """Return the answer to one create, or the type of its exception."""
    try:
        return bench.create(rest=rest)
    except (RemoteDisconnected, IncompleteRead) as error:
        return type(error)


def graphql_error(dialect: Dialect, message: str, code: str) -> Any:
    extensions = {"code": code}
    if dialect is not Dialect.LEGACY:
        extensions["userFriendlyMessage"] = "An error occurred."
    return {"errors": [{"message": message, "extensions": extensions}], "data": None}


@pytest.mark.parametrize("rest", [True, False], ids=["rest", "graphql"])
@pytest.mark.parametrize("fault", TRANSIENT, ids=repr)
def test_only_a_fault_after_the_commit_leaves_a_key(bench, fault, rest):
    """`handles` tells for each fault whether a create is handled."""
    bench.laboratory.use(scripted({0: fault}))
    create_outcome(bench, rest=rest)
    bench.laboratory.wait_until_idle()
    assert bench.names() == ["svc"] * handles(fault)
    assert bench.laboratory.injected == {0: fault}


def test_handles_is_right_for_each_fault():
    """`handles` returns the right answer for each kind of fault."""
    unhandled = {
        ClosedBefore(),
        BadGateway(),
        Throttled("text"),
        Throttled("headers"),
        Throttled("graphql"),
        Throttled("newest"),
        Unavailable(),
        Hang(committed=False),
        ExpiredSession(),
    }
    assert {fault for fault in FAULTS if not handles(fault)} == unhandled
    assert handles(None)


@pytest.mark.parametrize("fault", [ClosedBefore(), ClosedAfter()], ids=repr)
def test_a_closed_connection_has_no_answer(bench, fault):
    """The connection is closed, and the journal has an exchange with status 0."""
    bench.laboratory.use(scripted({0: fault}))
    assert create_outcome(bench, rest=True) is RemoteDisconnected
    assert [entry.status for entry in bench.laboratory.journal] == [0]


def test_an_error_after_the_commit_has_the_format_of_its_endpoint(bench):
    """REST answers 500 with `messages`, GraphQL answers `errors` with the given status."""
    bench.laboratory.use(scripted({0: Failed(), 1: Failed(), 2: Failed(graphql_status=200)}))
    answer = bench.create(rest=True)
    assert answer.status == 500
    assert answer.json == {
        "statusCode": 500,
        "error": "Error",
        "messages": ["Query read timeout"],
    }
    for status in (500, 200):
        answer = bench.create(rest=False)
        expected = graphql_error(bench.dialect, "Query read timeout", "INTERNAL_SERVER_ERROR")
        assert (answer.status, answer.json) == (status, expected)


@pytest.mark.parametrize("rest", [True, False], ids=["rest", "graphql"])
@pytest.mark.parametrize(
    ("fault", "status", "wait"),
    [
        (BadGateway(), 502, None),
        (BadGateway(committed=True), 502, None),
        (Unavailable(retry_after=3), 503, "3"),
        (Unavailable(committed=True, retry_after=4), 503, "4"),
        (HtmlPage(), 200, None),
    ],
    ids=repr,
)
def test_a_proxy_answers_with_an_html_page(core, fault, status, wait, rest):
    """The answer of a proxy is HTML; only a 503 names a wait."""
    core.laboratory.use(scripted({0: fault}))
    answer = core.create(rest=rest)
    assert answer.status == status
    assert answer.headers["content-type"] == "text/html"
    assert answer.body.startswith(b"<html>")
    assert answer.headers.get("retry-after") == wait


def test_an_empty_answer_is_complete(bench):
    """An empty answer has status 200, no content type and no body; the connection stays open."""
    bench.laboratory.use(scripted({0: Empty()}))
    client = bench.client()
    answer = bench.create(client)
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
    assert "content-type" not in answer.headers
    assert bench.list_keys(client).status == 200


def test_a_truncated_answer_is_shorter_than_its_content_length(bench):
    """The length is that of the real answer, but the connection closes after its first half."""
    bench.laboratory.use(scripted({0: Truncated()}))
    with pytest.raises(IncompleteRead) as caught:
        bench.create()
    sent, missing = len(caught.value.partial), caught.value.expected
    assert (b'"' in caught.value.partial, sent) == (True, (sent + missing) // 2)
    with pytest.raises(json.JSONDecodeError):
        json.loads(caught.value.partial)


def test_a_truncated_empty_answer_is_shorter_too(core):
    """A truncated empty answer announces one byte and sends none."""
    core.laboratory.use(scripted({0: Truncated()}))
    with pytest.raises(IncompleteRead) as caught:
        core.client()("DELETE", f"/rest/metadata/apiKeys/{'0' * 8}-0000-4000-8000-{'0' * 12}")
    assert (caught.value.partial, caught.value.expected) == (b"", 1)


@pytest.mark.parametrize("form", ["text", "graphql"])
def test_throttling_on_rest_names_the_limit_only_in_the_text(bench, form):
    """The forms `text` and `graphql` give the same answer on REST."""
    bench.laboratory.use(every(Throttled(form, requests=100, milliseconds=60_000)))
    answer = bench.create(rest=True)
    assert answer.status == 429
    assert answer.json == {
        "statusCode": 429,
        "error": "Error",
        "messages": ["Limit reached (100 tokens per 60000 ms)"],
    }
    assert not [name for name in answer.headers if "rate" in name or "retry" in name]


@pytest.mark.parametrize("rest", [True, False], ids=["rest", "graphql"])
def test_throttling_with_headers_names_the_wait(bench, rest):
    """Header, body and reset time name the same wait."""
    bench.laboratory.use(every(Throttled("headers", retry_after=7, requests=50)))
    before = time.time()
    answer = bench.create(rest=rest)
    assert answer.status == 429
    assert answer.json["messages"] == ["Limit reached (50 tokens per 1000 ms)"]
    assert answer.json["retryAfterSeconds"] == 7
    names = ("retry-after", "x-ratelimit-limit", "x-ratelimit-remaining")
    assert [answer.headers[name] for name in names] == ["7", "50", "0"]
    assert before + 7 <= int(answer.headers["x-ratelimit-reset"]) <= time.time() + 8


def test_throttling_in_graphql_has_status_200(bench):
    """Core answers with a code, legacy only with a text."""
    bench.laboratory.use(every(Throttled("graphql", requests=9, milliseconds=500)))
    answer = bench.create(rest=False)
    expected = graphql_error(bench.dialect, "Limit reached (9 tokens per 500 ms)", "LIMIT_REACHED")
    if bench.dialect is Dialect.LEGACY:
        expected = {"errors": [{"message": "Too many requests."}], "data": None}
    assert (answer.status, answer.json) == (200, expected)


@pytest.mark.parametrize("rest", [True, False], ids=["rest", "graphql"])
def test_an_expired_session_gets_the_real_answer(bench, rest):
    """The answer is identical to that for a session that really expired."""
    bench.laboratory.use(scripted({0: ExpiredSession()}))
    answer = bench.create(rest=rest)
    expired = bench.laboratory.sandbox.session_token(seconds=-60)
    real = bench.create(bench.client(expired), rest=rest)
    assert (answer.status, answer.body) == (real.status, real.body)
    assert answer.headers["content-type"] == real.headers["content-type"]
    assert b"Token has expired." in answer.body
    assert bench.names() == []
    bench.create(rest=rest)
    assert bench.names() == ["svc"]


def test_a_session_can_expire_permanently(core):
    """The credential is refused from then on; a new one works, and so does `heal`."""
    core.laboratory.use(scripted({1: ExpiredSession(permanent=True)}))
    statuses = [core.list_keys().status for _ in range(4)]
    assert statuses == [200, 401, 401, 401]
    assert sorted(core.laboratory.injected) == [1, 2, 3]
    other = core.laboratory.sandbox.session_token("admin", seconds=1000)
    assert core.list_keys(core.client(other)).status == 200
    core.laboratory.heal()
    assert core.list_keys().status == 200


def test_a_sign_in_has_no_session_to_expire(bench):
    """A request without a credential is handled, even if every session is expired."""
    sandbox = bench.laboratory.sandbox
    bench.laboratory.use(every(ExpiredSession()))
    variables = {"e": sandbox.email, "p": sandbox.password, "o": sandbox.url}
    answer = bench.client(None)(
        "POST", GRAPHQL[bench.dialect], {"query": SIGN_IN, "variables": variables}
    )
    path = "/metadata" if bench.dialect is not Dialect.LEGACY else "/graphql"
    assert path == GRAPHQL[bench.dialect]
    assert answer.json["data"]["getLoginTokenFromCredentials"]["loginToken"]["token"]
    assert bench.laboratory.injected == {}


@pytest.mark.parametrize("before", [True, False])
def test_a_slow_answer_is_late_and_correct(core, before):
    """The answer comes after the delay; the key is created before or after it, as configured."""
    core.laboratory.use(scripted({0: Slow(30.0, before=before)}))
    committed = threading.Event()
    create = core.laboratory.sandbox._store.create

    def create_and_notify(keys):
        create(keys)
        committed.set()

    core.laboratory.sandbox._store.create = create_and_notify
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(core.create)
        if before:
            assert not committed.wait(0.1)
        else:
            assert committed.wait(5)
        assert not answer.done()
        core.laboratory.heal()
        assert answer.result(5).status == 201
    assert core.names() == ["svc"]
    core.laboratory.use(scripted({1: Slow(0.05)}))
    started = time.monotonic()
    assert core.create().status == 201
    assert time.monotonic() - started >= 0.05


@pytest.mark.parametrize("committed", [True, False])
def test_a_hang_lasts_longer_than_its_client(core, committed):
    """The client times out; its key exists or not, and healing creates no second one."""
    core.laboratory.use(scripted({0: Hang(committed=committed)}))
    with pytest.raises(TimeoutError):
        core.create(core.client(timeout=0.2))
    assert core.names() == ["svc"] * committed
    assert core.laboratory.journal == []
    with pytest.raises(TimeoutError):
        core.laboratory.wait_until_idle(0.01)
    core.laboratory.heal()
    core.laboratory.wait_until_idle()
    assert core.names() == ["svc"] * committed
    assert [entry.status for entry in core.laboratory.journal] == [201 if committed else 0]


def test_healing_answers_hanging_requests(core):
    """`heal` sends the real answer to a handled request, and closes an unhandled one."""
    core.laboratory.use(scripted({0: Hang(), 1: Hang(committed=False)}))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(core.create)
        while core.laboratory.arrived < 1:
            assert not first.done()
        second = pool.submit(core.create)
        while core.laboratory.arrived < 2:
            assert not second.done()
        core.laboratory.heal()
        assert first.result(5).status == 201
        with pytest.raises(RemoteDisconnected):
            second.result(5)


def test_closing_leaves_no_thread_behind():
    """`close` ends the threads of hanging requests without delay."""
    before = set(threading.enumerate())
    with Bench(Dialect.CORE, plan=every(Hang())) as bench:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                bench.create(bench.client(timeout=0.1))
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert set(threading.enumerate()) <= before


def test_stopping_works_after_a_client_was_killed():
    """A connection that is reset during its request does not disturb the stop."""
    arrived, continue_ = threading.Event(), threading.Event()

    def around(request: Request, answer_request: Any) -> Response:
        arrived.set()
        assert continue_.wait(10)
        return answer_request(request)

    journal: list[Any] = []
    with Sandbox(None, journal=journal, around=around) as sandbox:
        client = Client(sandbox.url, None)
        client.connection.request("GET", "/healthz")
        assert arrived.wait(5)
        linger = struct.pack("ii", 1, 0)  # makes close() reset the connection
        client.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.connection.close()
        # The request continues only after the sandbox has started to wait for it.
        threading.Timer(0.1, continue_.set).start()
    assert [entry.status for entry in journal] == [200]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_fault_can_be_pasted_into_a_test(fault):
    """The `repr` of a fault is its source code."""
    assert eval(repr(fault), vars(module)) == fault


def test_every_kind_of_fault_has_an_example():
    """`FAULTS` has every kind of fault, also those that block a request."""
    assert {type(fault) for fault in FAULTS} == set(module.Fault.__args__)
    assert set(FAULTS) - set(TRANSIENT) == {Hang(), Hang(committed=False)}


def request(method: str = "POST", path: str = "/rest/apiKeys", body: bytes = b"") -> Request:
    return Request(method, path, {}, "", "", body, 0.0)


@pytest.mark.parametrize(
    ("request_", "write"),
    [
        (request("GET"), False),
        (request("OPTIONS"), False),
        (request("POST"), True),
        (request("PATCH"), True),
        (request("DELETE"), True),
        (request("POST", "/metadata", b'{"query":"{apiKeys{id}}"}'), False),
        (request("POST", "/metadata", b'{"query":"mutation{createApiKey}"}'), True),
        (request("POST", "/graphql", b'{"query":"mutation{getLoginToken}"}'), False),
        (request("POST", "/graphql", b'{"query":"mutation{getAuthTokens}"}'), False),
        (request("POST", "/metadata", b'{"query":"mutation{renewToken(appToken:1)}"}'), False),
    ],
)
def test_is_write_recognizes_writes(request_, write):
    """Writes are recognized by REST method or GraphQL document; a sign-in is not a write."""
    assert is_write(request_) is write


def faults_at(plan: Any, numbers: range) -> dict[int, Any]:
    return {number: plan(number, request()) for number in numbers}


def test_a_seed_gives_the_same_faults_at_the_same_numbers():
    """A seed gives the same faults in any order of calls; another seed gives other faults."""
    numbers = range(200)
    entry = faults_at(seeded(7, 0.3), numbers)
    assert faults_at(seeded(7, 0.3), numbers[::-1]) == entry
    assert faults_at(seeded(8, 0.3), numbers) != entry
    faults = [fault for fault in entry.values() if fault]
    assert 30 <= len(faults) <= 90
    assert len(set(faults)) > 8


def test_a_seeded_run_can_be_replayed_as_a_script(core):
    """`injected` is a script with the same faults at the same numbers."""

    def play() -> list[Any]:
        results: list[Any] = []
        for _ in range(30):
            answer = create_outcome(core, rest=True)
            results.append(answer.status if isinstance(answer, Answer) else answer)
        return results

    plan = seeded(3, 0.5, [fault for fault in TRANSIENT if not isinstance(fault, Slow)])
    core.laboratory.reset(plan)
    first, script, created = play(), core.laboratory.injected, len(core.names())
    assert 5 < len(script) < 25
    core.laboratory.reset(scripted(eval(repr(script), vars(module))))
    assert (play(), core.laboratory.injected, len(core.names())) == (first, script, created)


def test_seeded_faults_do_not_depend_on_threads(core):
    """16 threads get exactly the same faults as one thread."""
    plan = seeded(5, 0.4, [BadGateway(), Empty(), ClosedBefore()])
    core.laboratory.use(plan)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: create_outcome(core, rest=True), range(64)))
    expected = {number: fault for number, fault in faults_at(plan, range(64)).items() if fault}
    assert core.laboratory.injected == expected
    assert core.laboratory.arrived == 64


@pytest.mark.parametrize(
    "plan",
    [
        scripted({1: BadGateway()}, only_writes=True),
        seeded(0, 1.0, [BadGateway()], only_writes=True),
        every(BadGateway(), only_writes=True),
    ],
    ids=["scripted", "seeded", "every"],
)
def test_a_plan_for_writes_ignores_reads(core, plan):
    """Reads get no faults and are not counted."""
    core.laboratory.use(plan)
    assert [core.list_keys().status for _ in range(3)] == [200] * 3
    core.create()
    assert core.list_keys().status == 200
    assert core.create().status == 502
    assert 4 not in core.laboratory.injected


def test_a_share_of_all_requests_meets_the_one_fault():
    """`every` injects the fault into all requests, or into about the given share of them."""
    assert set(faults_at(every(Empty()), range(50)).values()) == {Empty()}
    assert 20 <= Counter(faults_at(every(Empty(), 0.5), range(80)).values())[Empty()] <= 60


def test_the_first_plan_that_has_a_fault_decides():
    """A plan after one that returned a fault is not called: its bucket loses no token."""
    bucket = TokenBucket(1, 60.0, clock=lambda: 0.0)
    plan = first_of(scripted({0: Empty()}), bucket)
    found = [plan(number, request()) for number in range(3)]
    assert found[:2] == [Empty(), None]
    assert isinstance(found[2], Throttled)
    assert (bucket.admitted, bucket.refused) == (1, 1)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_client_can_be_killed_at_a_request(core, when):
    """The kill happens before the request is handled or after its commit, without an answer.

    No request is handled from then on until the laboratory is healed.
    """
    observed = []
    core.laboratory.kill_at(1, when, lambda: observed.append(core.names()))
    assert core.create().status == 201
    created = ["svc", "svc"] if when == "after" else ["svc"]
    for _ in range(3):
        assert create_outcome(core, rest=True) is RemoteDisconnected
        assert core.names() == created
    assert observed == [created]
    core.laboratory.heal()
    assert core.create().status == 201
    assert [entry.status for entry in core.laboratory.journal] == [201, 0, 0, 0, 201]


def test_a_kill_can_count_only_writes(core):
    """The kill happens at the second write, regardless of reads before it."""
    killed = []
    core.laboratory.kill_at(1, "before", lambda: killed.append(True), only_writes=True)
    assert [core.list_keys().status, core.create().status, core.list_keys().status] == [
        200,
        201,
        200,
    ]
    assert not killed
    assert create_outcome(core, rest=False) is RemoteDisconnected
    assert killed
    assert core.names() == ["svc"]


def test_requests_in_progress_continue_after_a_kill(core):
    """A create that was sent before the kill is committed, as on a real server."""
    core.laboratory.use(scripted({0: Slow(30.0, before=True)}))
    core.laboratory.kill_at(1, "before", lambda: None)
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(core.create)
        while core.laboratory.arrived < 1:
            assert not pending.done()
        assert create_outcome(core, rest=True) is RemoteDisconnected
        assert core.names() == []
        core.laboratory.heal()
        assert pending.result(5).status == 201


@pytest.mark.parametrize(("when", "created"), [("before", []), ("after", ["svc"])])
def test_a_call_at_a_request_does_not_disturb_it(core, when, created):
    """The function sees the store as it was at that time, and the client gets its answer."""
    observed = []
    core.laboratory.call_at(0, when, lambda: observed.append(core.names()))
    assert [core.create().status, core.create().status] == [201, 201]
    assert observed == [created]


def test_a_full_bucket_admits_a_burst_and_then_refills():
    """A bucket of 10 requests in 5 s admits ten at first, then one every half second."""
    clock = SimpleNamespace(now=100.0)
    bucket = TokenBucket(10, 5.0, clock=lambda: clock.now)

    def admitted(count: int) -> int:
        return sum(bucket(0, request()) is None for _ in range(count))

    assert admitted(15) == 10
    assert (bucket.admitted, bucket.refused) == (10, 5)
    clock.now += 0.499
    assert admitted(1) == 0
    clock.now += 0.001
    assert admitted(3) == 1
    clock.now += 1.75
    assert admitted(9) == 3
    clock.now += 0.25
    assert admitted(9) == 1
    clock.now += 3600
    assert admitted(99) == 10


@pytest.mark.parametrize("form", ["text", "headers", "graphql"])
def test_an_empty_bucket_names_its_limit_and_the_wait_in_seconds(form):
    """The limit is named in tokens per milliseconds; a wait of 0.6 s is named as one second."""
    bucket = TokenBucket(100, 60.0, form, clock=lambda: 0.0)
    found = [bucket(0, request()) for _ in range(101)]
    assert found == [None] * 100 + [Throttled(form, 1, 100, 60_000)]


@pytest.mark.parametrize(("requests", "seconds", "wait"), [(1, 3.0, 3), (2, 3.0, 2), (4, 1.0, 1)])
def test_waits_are_rounded_up(requests, seconds, wait):
    """After the named wait there is a token, and the wait is no longer than necessary."""
    clock = SimpleNamespace(now=0.0)
    bucket = TokenBucket(requests, seconds, "headers", clock=lambda: clock.now)
    found = [bucket(0, request()) for _ in range(requests + 1)]
    assert found[-1].retry_after == wait
    clock.now += wait
    assert bucket(0, request()) is None


def test_a_refill_in_many_steps_adds_up():
    """Ten refills of a tenth give one token, despite the rounding of floats."""
    clock = SimpleNamespace(now=0.0)
    bucket = TokenBucket(1, 1.0, clock=lambda: clock.now)
    assert bucket(0, request()) is None
    for _ in range(9):
        clock.now += 0.1
        assert bucket(0, request()) is not None
    clock.now += 0.1
    assert bucket(0, request()) is None


def test_a_bucket_admits_one_thread_at_a_time():
    """Two threads are never inside the bucket at the same time."""
    inside: list[int] = []
    observed = []

    def clock() -> float:
        inside.append(1)
        time.sleep(0.001)  # gives another thread a chance to enter
        observed.append(len(inside))
        inside.pop()
        return 0.0

    bucket = TokenBucket(5, 60.0, clock=clock)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: bucket(number, request()), range(40)))
    assert set(observed) == {1}
    assert found.count(None) == 5


def test_a_bucket_counts_correctly_with_many_threads(core):
    """Of 80 requests from 16 threads, exactly as many are admitted as there are tokens."""
    bucket = TokenBucket(30, 60.0, clock=lambda: 0.0)
    core.laboratory.use(bucket)
    with ThreadPoolExecutor(16) as pool:
        statuses = Counter(pool.map(lambda _: core.list_keys().status, range(80)))
    assert statuses == {200: 30, 429: 50}
    assert (bucket.admitted, bucket.refused) == (30, 50)


@dataclass
class PausedClock:
    """A clock of a sandbox, whose wait for a role ends when the test decides."""

    started: threading.Event
    continue_: threading.Event

    def sleep(self, seconds: float) -> None:
        assert seconds == 0.1
        self.started.set()
        assert self.continue_.wait(10)


@pytest.mark.parametrize("rest", [True, False], ids=["rest", "graphql"])
def test_a_role_appears_after_its_key(monkeypatch, rest):
    """On 2.21 a new key is visible before its role; a query for its role then fails."""
    clock = PausedClock(threading.Event(), threading.Event())
    monkeypatch.setattr(SlowStore, "wait_for_role", lambda store: clock.sleep(store.role_seconds))
    with Bench(Dialect.CORE, role_seconds=0.1) as bench, ThreadPoolExecutor(1) as pool:
        watcher = bench.client()

        def query(document: str) -> Any:
            return watcher("POST", "/metadata", {"query": document}).json

        answer = pool.submit(bench.create, rest=rest)
        assert clock.started.wait(5)
        both = query("{apiKeys{id name} getRoles{label apiKeys{id}}}")["data"]
        [key] = both["apiKeys"]
        assert [role["apiKeys"] for role in both["getRoles"]] == [[]] * len(both["getRoles"])
        failed = query("{apiKeys{id role{label}}}")
        assert failed["data"] is None
        assert failed["errors"][0]["message"] == f"API key {key['id']} has no role assigned"
        assert not answer.done()
        clock.continue_.set()
        assert answer.result(5).status == (201 if rest else 200)
        found = query("{apiKeys{name role{label}}}")["data"]["apiKeys"]
        assert found == [{"name": "svc", "role": {"label": "Admin"}}]


@pytest.mark.parametrize("dialect", [Dialect.LEGACY, Dialect.CORE_1])
def test_older_servers_create_a_key_with_its_role(monkeypatch, dialect):
    """`role_seconds` has no effect on dialects that create a key with its role."""
    monkeypatch.setattr(SlowStore, "wait_for_role", None)
    with Bench(dialect, role_seconds=5.0) as bench:
        assert bench.create().status == 201
        assert bench.names() == ["svc"]


def test_a_role_that_does_not_exist_leaves_no_key_behind(monkeypatch):
    """On 2.21 the role is checked before a row is written, without a wait."""
    monkeypatch.setattr(SlowStore, "wait_for_role", None)
    with Bench(Dialect.CORE, role_seconds=0.1) as bench:
        record = {
            "name": "svc",
            "expiresAt": DATE,
            "roleId": str(uuid.uuid4()),
        }
        answer = bench.client()("POST", REST[Dialect.CORE], record)
        assert answer.json["messages"] == ["Could not find role for given roleId"]
        assert bench.names() == []


def test_a_reset_clears_the_laboratory(bench):
    """A reset deletes keys, journal, numbers, faults and hooks; sessions and kept keys remain."""
    laboratory = bench.laboratory
    laboratory.use(scripted({1: BadGateway(), 2: ExpiredSession(permanent=True)}))
    laboratory.kill_at(9, "before", lambda: None)
    bench.create(name="one")
    bench.create(name="two")
    bench.create(name="three")
    laboratory.sandbox.seed(["kept"])
    laboratory.reset(scripted({0: Empty()}), keep=["kept"])
    assert bench.names() == ["kept"]
    assert (laboratory.journal, laboratory.arrived, laboratory.injected) == ([], 0, {})
    assert bench.create(name="four").body == b""
    for _ in range(9):
        assert bench.create(name="five").status in {200, 201}
    assert len(laboratory.journal) == 10


def test_a_reset_waits_for_the_last_scenario():
    """A create that is committed after its client disconnected adds no key to the next scenario."""
    with Bench(Dialect.CORE, plan=every(Slow(30.0, before=True)), create_seconds=0.1) as bench:
        committed = threading.Event()
        bench.laboratory.call_at(0, "after", committed.set)
        with pytest.raises(TimeoutError):
            bench.create(bench.client(timeout=0.1))
        assert not committed.is_set()
        bench.laboratory.reset()
        assert committed.is_set()
        assert (bench.names(), bench.laboratory.journal) == ([], [])
        assert bench.laboratory.arrived == 0


def test_live_keys_are_neither_revoked_nor_deleted_nor_expired(bench):
    """Live keys are returned by name, duplicates together."""
    sandbox = bench.laboratory.sandbox
    duplicates = sandbox.seed(["twin", "twin"])
    sandbox.seed(["revoked"], revoked_at=DATE)
    sandbox.seed(["expired"], expires_at="2020-01-01T00:00:00.000Z")
    sandbox.seed(["alone"])
    if bench.dialect is Dialect.LEGACY:
        [deleted] = sandbox.seed(["deleted"])
        document = {"query": f'mutation{{deleteApiKey(id:"{deleted}"){{id}}}}'}
        assert bench.client()("POST", "/graphql", document).status == 200
    live = bench.laboratory.live()
    assert {name: len(keys) for name, keys in live.items()} == {"twin": 2, "alone": 1}
    assert {key.id for key in live["twin"]} == set(duplicates)


def test_numbers_count_in_the_order_of_arrival(core):
    """A waiting request keeps its number; later requests have higher ones."""
    core.laboratory.use(scripted({0: Hang(), 2: BadGateway()}))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(core.create)
        while core.laboratory.arrived < 1:
            assert not first.done()
        assert [core.list_keys().status, core.list_keys().status] == [200, 502]
        core.laboratory.heal()
        assert first.result(5).status == 201


def test_a_middleware_can_change_an_answer():
    """A middleware can set `Content-Length`, without a second one, and close the connection."""

    def around(request: Request, answer_request: Any) -> Response:
        answer = answer_request(request)
        headers = (*answer.headers, ("content-length", "2"), ("Connection", "close"))
        return Response(299, b"{}", headers)

    with Sandbox(None, around=around) as sandbox:
        client = Client(sandbox.url, None)
        answer = client("GET", "/healthz")
        assert (answer.status, answer.body) == (299, b"{}")
        assert answer.headers["content-length"] == "2"
        assert client.connection.sock is None


def test_a_bug_in_a_middleware_is_logged(caplog):
    """Only a `ConnectionError` is a fault; other exceptions are logged and not in the journal."""

    def around(request: Request, answer_request: Any) -> Response:
        raise LookupError("a bug")

    journal: list[Any] = []
    with Sandbox(None, journal=journal, around=around) as sandbox:
        client = Client(sandbox.url, None)
        with pytest.raises(RemoteDisconnected):
            client("GET", "/healthz")
    assert journal == []
    assert "the sandbox failed to answer" in caplog.text
