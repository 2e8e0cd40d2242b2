"""The fault laboratory: an embedded Twenty with faults, injected by a script or a seed.

A `Laboratory` owns a sandbox and a plan. For each request, the plan returns the fault to inject,
if any. The `repr` of a fault is its source, so that a failed scenario can be pasted into a test:
`scripted(laboratory.injected)` replays it.

A fault "before" the request means that Twenty does not handle it; "after" means that Twenty
handles it and only the answer is lost or wrong.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, assert_never

from sandbox_control import (
    Dialect,
    Exchange,
    Request,
    Response,
    Sandbox,
    json_answer,
    rate_limited,
    signs_in,
)

from provisioner.sandbox.access import Refused
from provisioner.sandbox.graphql_call import ANY_ERROR, token_refused
from provisioner.sandbox.rest import refused
from provisioner.sandbox.timestamps import now

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from sandbox_control import ApiKey, Json

Form: TypeAlias = Literal["text", "headers", "graphql", "newest"]
"""The forms of a throttling answer; none was recorded (`docs/twenty-api.md`).

`text`: HTTP 429 that names the limit only in its message. `headers`: HTTP 429 with the wait in
`Retry-After` and in its body. `graphql`: HTTP 200 with a GraphQL error; `text` outside GraphQL.
`newest`: HTTP 429 with the wait, in GraphQL HTTP 200 with the wait; both say `RATE_LIMITED`.
"""

When: TypeAlias = Literal["before", "after"]

_GRAPHQL = ("/graphql", "/metadata")
_EXPIRED = Refused(401, "UNAUTHENTICATED", "Token has expired.")
_HTML = (("Content-Type", "text/html"),)
_CLOSE = (("Connection", "close"),)
_QUIET_SECONDS = 10.0
_WHOLE_TOKEN = 1 - 1e-9
"""One token, with a tolerance for the rounding of floats."""


@dataclass(frozen=True, slots=True)
class ClosedBefore:
    """The connection is closed, and the request is not handled."""


@dataclass(frozen=True, slots=True)
class ClosedAfter:
    """The connection is closed after the commit, without an answer."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A server error after the commit, in the format of REST or GraphQL.

    Attributes:
        graphql_status: the HTTP status on GraphQL paths; REST answers 500. With 200 the answer
            looks like any other GraphQL error.
    """

    graphql_status: int = 500


@dataclass(frozen=True, slots=True)
class BadGateway:
    """HTTP 502 with an HTML page, from a proxy that did not reach the server or gave up waiting.

    Attributes:
        committed: true if the server handled the request nevertheless.
    """

    committed: bool = False


@dataclass(frozen=True, slots=True)
class Throttled:
    """A throttled request, which is not handled.

    Attributes:
        form: the form of the answer.
        retry_after: the wait in seconds; the forms `headers` and `newest` name it.
        requests: the number of requests that the answer allows within `milliseconds`.
    """

    form: Form = "text"
    retry_after: int = 1
    requests: int = 100
    milliseconds: int = 1000


@dataclass(frozen=True, slots=True)
class Unavailable:
    """HTTP 503 with an HTML page and `Retry-After`.

    Attributes:
        committed: true if the server handled the request nevertheless.
        retry_after: the wait in seconds.
    """

    committed: bool = False
    retry_after: int = 1


@dataclass(frozen=True, slots=True)
class Truncated:
    """The first half of the answer, after the commit, with the `Content-Length` of the whole."""


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """HTTP 200 with an HTML page, after the commit."""


@dataclass(frozen=True, slots=True)
class Empty:
    """HTTP 200 with an empty body, after the commit."""


@dataclass(frozen=True, slots=True)
class Slow:
    """The real answer, but late; `heal` ends the wait.

    Attributes:
        seconds: the delay.
        before: true to wait before the request is handled, perhaps after its client gave up.
    """

    seconds: float = 0.2
    before: bool = False


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer until `heal`, which sends the real one, or closes an unhandled request.

    Attributes:
        committed: true if the request is handled at once.
    """

    committed: bool = True


@dataclass(frozen=True, slots=True)
class ExpiredSession:
    """An expired credential: the request is refused, as recorded (`007`, `136`).

    A request without a credential is handled: a sign-in has no session that could expire.

    Attributes:
        permanent: true if this credential is refused from now on, like one that really expired.
    """

    permanent: bool = False


Fault: TypeAlias = (
    ClosedBefore
    | ClosedAfter
    | Failed
    | BadGateway
    | Throttled
    | Unavailable
    | Truncated
    | HtmlPage
    | Empty
    | Slow
    | Hang
    | ExpiredSession
)

TRANSIENT: tuple[Fault, ...] = (
    ClosedBefore(),
    ClosedAfter(),
    Failed(),
    BadGateway(),
    BadGateway(committed=True),
    Throttled("text"),
    Throttled("headers"),
    Throttled("graphql"),
    Throttled("newest"),
    Unavailable(),
    Unavailable(committed=True),
    Truncated(),
    HtmlPage(),
    Empty(),
    Slow(),
    Slow(before=True),
    ExpiredSession(),
)
"""One example of each fault that ends by itself."""

FAULTS: tuple[Fault, ...] = (*TRANSIENT, Hang(), Hang(committed=False))
"""One example of each fault; the last two block a request until `heal` or a client timeout."""

Plan: TypeAlias = "Callable[[int, Request], Fault | None]"
"""A function from a request and its number, from 0 in order of arrival, to a fault or None."""


def handles(fault: Fault | None) -> bool:
    """Return whether a request with this fault is handled and so commits, sooner or later.

    For `ExpiredSession`, this is the answer for a request with a credential.
    """
    match fault:
        case ClosedBefore() | Throttled() | ExpiredSession():
            return False
        case BadGateway() | Unavailable() | Hang():
            return fault.committed
        case ClosedAfter() | Failed() | Truncated() | HtmlPage() | Empty() | Slow() | None:
            return True
        case _:
            assert_never(fault)


def is_write(request: Request | Exchange) -> bool:
    """Return whether a request may change the workspace."""
    if request.method != "POST":
        return request.method not in ("GET", "OPTIONS")
    if request.path.startswith("/rest/"):
        return True
    return b"mutation" in request.body and not signs_in(request.body)


def scripted(faults: Mapping[int, Fault], *, only_writes: bool = False) -> Plan:
    """Return a plan that injects the faults of a script.

    Args:
        faults: the faults by the number of the request, from 0.
        only_writes: count only writes.
    """
    return _numbered(faults.get, only_writes=only_writes)


def seeded(
    seed: int, share: float, faults: Sequence[Fault] = TRANSIENT, *, only_writes: bool = False
) -> Plan:
    """Return a plan with random faults; a seed gives the same ones regardless of threads.

    Args:
        seed: any number.
        share: the probability that a request gets a fault, 0 to 1.
        faults: the faults to choose from, all with the same probability.
        only_writes: count only writes, and inject faults only into writes.
    """

    def decide(number: int) -> Fault | None:
        rng = random.Random(f"{seed}/{number}")
        return rng.choice(faults) if rng.random() < share else None

    return _numbered(decide, only_writes=only_writes)


def every(fault: Fault, share: float = 1.0, *, seed: int = 0, only_writes: bool = False) -> Plan:
    """Return a plan with one fault for every request, or for a random share of them."""
    return seeded(seed, share, (fault,), only_writes=only_writes)


def first_of(*plans: Plan) -> Plan:
    """Return a plan that uses the first fault of several plans and does not call the rest."""

    def decide(number: int, request: Request) -> Fault | None:
        for plan in plans:
            fault = plan(number, request)
            if fault is not None:
                return fault
        return None

    return decide


def _numbered(decide: Callable[[int], Fault | None], *, only_writes: bool) -> Plan:
    if not only_writes:
        return lambda number, _: decide(number)
    writes = iter(range(1 << 62))
    # A laboratory calls its plan for one request at a time, in the order of arrival.
    return lambda _, request: decide(next(writes)) if is_write(request) else None


class TokenBucket:
    """A plan with a rate limit: a full burst at first, then a steady refill.

    Args:
        requests: the size of the bucket, and the number of requests allowed within `seconds`.
        seconds: the time in which an empty bucket is refilled.
        form: the form of the throttling answers.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        requests: int,
        seconds: float,
        form: Form = "text",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = requests
        self._seconds = seconds
        self._form: Form = form
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = float(requests)
        self._refilled_at = clock()
        self._refused = self._admitted = 0

    @property
    def refused(self) -> int:
        """The number of refused requests."""
        return self._refused

    @property
    def admitted(self) -> int:
        """The number of admitted requests."""
        return self._admitted

    def __call__(self, _number: int, _request: Request) -> Throttled | None:
        """Take a token, or return the fault if there is none."""
        rate = self._requests / self._seconds
        with self._lock:
            now_ = self._clock()
            refilled = self._tokens + (now_ - self._refilled_at) * rate
            self._tokens, self._refilled_at = min(float(self._requests), refilled), now_
            if self._tokens >= _WHOLE_TOKEN:
                self._tokens -= 1
                self._admitted += 1
                return None
            self._refused += 1
            wait = (_WHOLE_TOKEN - self._tokens) / rate
        return Throttled(
            self._form,
            retry_after=math.ceil(wait),
            requests=self._requests,
            milliseconds=round(self._seconds * 1000),
        )


class Laboratory:
    """An embedded Twenty with injected faults; a thread-safe context manager.

    Args:
        dialect: the recorded server to behave like.
        plan: the faults to inject; None for none.
        options: options of the sandbox: `role_seconds`, `create_seconds`, `file`, …
    """

    def __init__(self, dialect: Dialect, *, plan: Plan | None = None, **options: Any) -> None:
        self._journal = _Journal()
        options = {"file": None, **options}
        self.sandbox = Sandbox(
            dialect=dialect, journal=self._journal, around=self._around, **options
        )
        self._lock = threading.Lock()
        self._plan = plan
        self._released = threading.Event()
        self._injected: dict[int, Fault] = {}
        self._hooks: dict[tuple[bool, int], _Hook] = {}
        self._expired: set[str] = set()
        self._client_killed = False
        self._arrived = self._writes = 0

    def __enter__(self) -> Self:
        self.sandbox.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Heal, wait for requests in progress, and stop the sandbox."""
        self.heal()
        self.sandbox.stop()

    @property
    def url(self) -> str:
        """The address, `http://127.0.0.1:PORT`."""
        return self.sandbox.url

    @property
    def journal(self) -> list[Exchange]:
        """All finished exchanges since the last `reset`; status 0 if no answer was sent."""
        return self._journal

    @property
    def arrived(self) -> int:
        """The number of requests that arrived since the last `reset`."""
        return self._arrived

    @property
    def injected(self) -> dict[int, Fault]:
        """The injected faults since the last `reset`, by number, as a script."""
        with self._lock:
            return dict(self._injected)

    def use(self, plan: Plan | None) -> None:
        """Change the plan from the next request on; the numbers continue."""
        with self._lock:
            self._plan = plan
            if self._released.is_set():
                self._released = threading.Event()

    def call_at(
        self,
        number: int,
        when: When,
        call: Callable[[], object],
        *,
        only_writes: bool = False,
    ) -> None:
        """Call a function at one request, before it is handled or after the commit.

        If a fault prevents the handling of the request, "after" is not reached.

        Args:
            number: the number of the request, from 0 since the last `reset`.
            when: whether to call before or after the request.
            call: the function, which runs in the thread of the request.
            only_writes: count only writes.
        """
        with self._lock:
            self._hooks[only_writes, number] = _Hook(when, call, kills=False)

    def kill_at(
        self,
        number: int,
        when: When,
        kill: Callable[[], object],
        *,
        only_writes: bool = False,
    ) -> None:
        """As `call_at`, then close this connection and all later ones unhandled, until `heal`.

        Requests in progress at the time of the kill continue, as on a real server.
        """
        with self._lock:
            self._hooks[only_writes, number] = _Hook(when, kill, kills=True)

    def heal(self) -> None:
        """End every fault: remove plan, hooks and expired sessions, and release hung requests."""
        with self._lock:
            self._plan = None
            self._hooks.clear()
            self._expired.clear()
            self._client_killed = False
            self._released.set()

    def wait_until_idle(self, seconds: float = _QUIET_SECONDS) -> None:
        """Wait until no request is in progress, not even one whose client has disconnected.

        Raises:
            TimeoutError: a request is still in progress.
        """
        if not self._journal.wait(lambda: self._arrived, seconds):
            raise TimeoutError(f"a request is still in progress after {seconds} s")

    def reset(self, plan: Plan | None = None, *, keep: Sequence[str] = ()) -> None:
        """Delete keys, journal, numbers and faults, for the next scenario.

        Users, roles, their sessions and the keys named in `keep` remain.

        Raises:
            TimeoutError: a request of the last scenario is still in progress.
        """
        self.heal()
        self.wait_until_idle()
        self.sandbox.forget(key.id for key in self.sandbox.keys() if key.name not in keep)
        with self._lock:
            self._journal.clear()
            self._injected.clear()
            self._arrived = self._writes = 0
        self.use(plan)

    def live(self) -> dict[str, list[ApiKey]]:
        """Return the keys that are not revoked, deleted or expired, by name."""
        timestamp = now()
        found: defaultdict[str, list[ApiKey]] = defaultdict(list)
        for key in self.sandbox.keys():
            if not key.revoked_at and not key.deleted_at and key.expires_at > timestamp:
                found[key.name].append(key)
        return dict(found)

    def _around(self, request: Request, answer_request: Callable[[Request], Response]) -> Response:
        arrival = self._register(request)
        hook = arrival.hook

        def handle(request: Request) -> Response:
            answer = answer_request(request)
            if hook is not None and hook.when == "after":
                self._run(hook)
            return answer

        if hook is not None and hook.when == "before":
            self._run(hook)
        match arrival.fault:
            case Slow() | Hang() as fault:
                return _delayed_answer(fault, arrival.released, request, handle)
            case fault:
                real_answer = handle(request) if handles(fault) else Response(0)
                return _faulty_answer(fault, real_answer, request, self.sandbox.dialect)

    def _register(self, request: Request) -> _Arrival:
        """Number a request and return its fault and its hook.

        Raises:
            ConnectionAbortedError: the client was killed, so its requests are not handled.
        """
        with self._lock:
            number, self._arrived = self._arrived, self._arrived + 1
            hook = self._hooks.pop((False, number), None)
            if is_write(request):
                hook = self._hooks.pop((True, self._writes), hook)
                self._writes += 1
            if self._client_killed:
                raise ConnectionAbortedError("its client was killed")
            fault = self._plan(number, request) if self._plan else None
            if request.authorization in self._expired:
                fault = ExpiredSession(permanent=True)
            if isinstance(fault, ExpiredSession) and not request.authorization:
                fault = None
            if isinstance(fault, ExpiredSession) and fault.permanent:
                self._expired.add(request.authorization)
            if fault is not None:
                self._injected[number] = fault
            if hook is not None and hook.kills and hook.when == "before":
                self._client_killed = True  # set here, so that no later request is handled
            return _Arrival(fault, hook, self._released)

    def _run(self, hook: _Hook) -> None:
        if hook.kills and hook.when == "after":
            with self._lock:
                self._client_killed = True
        hook.call()
        if hook.kills:
            raise ConnectionAbortedError("its client was killed")


@dataclass(frozen=True, slots=True)
class _Hook:
    when: When
    call: Callable[[], object]
    kills: bool


@dataclass(frozen=True, slots=True)
class _Arrival:
    fault: Fault | None
    hook: _Hook | None
    released: threading.Event


class _Journal(list[Exchange]):
    """A journal to wait for: the server adds each request exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._appended = threading.Condition()

    def append(self, exchange: Exchange) -> None:
        with self._appended:
            super().append(exchange)
            self._count += 1
            self._appended.notify_all()

    def wait(self, expected: Callable[[], int], seconds: float) -> bool:
        with self._appended:
            return self._appended.wait_for(lambda: self._count >= expected(), seconds)

    def clear(self) -> None:
        with self._appended:
            super().clear()
            self._count = 0


def _delayed_answer(
    fault: Slow | Hang,
    released: threading.Event,
    request: Request,
    handle: Callable[[Request], Response],
) -> Response:
    match fault:
        case Slow(seconds, before=True):
            released.wait(seconds)
            return handle(request)
        case Slow(seconds):
            real_answer = handle(request)
            released.wait(seconds)
            return real_answer
        case Hang(committed=True):
            real_answer = handle(request)
            released.wait()
            return real_answer
        case Hang():
            released.wait()
            raise ConnectionResetError(repr(fault))
        case _:
            assert_never(fault)


def _faulty_answer(  # noqa: C901, PLR0911  # one case for each fault
    fault: Fault | None, real_answer: Response, request: Request, dialect: Dialect
) -> Response:
    """Return the answer for a fault, in place of the real one.

    Raises:
        ConnectionResetError: the fault closes the connection without an answer.
    """
    match fault:
        case ClosedBefore() | ClosedAfter():
            raise ConnectionResetError(repr(fault))
        case Failed():
            return _failed(fault, request, dialect)
        case BadGateway():
            return _page(502, "502 Bad Gateway")
        case Throttled():
            return _throttled(fault, request, dialect)
        case Unavailable():
            wait = (("Retry-After", str(fault.retry_after)),)
            return _page(503, "503 Service Temporarily Unavailable", wait)
        case Truncated():
            return _truncated(real_answer)
        case HtmlPage():
            return _page(200, "Sign in to continue")
        case Empty():
            return Response(200)
        case ExpiredSession():
            return _expired(request, dialect)
        case Slow() | Hang() | None:
            return real_answer
        case _:
            assert_never(fault)


def _page(status: int, title: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    body = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\r\n"
    return Response(status, body.encode(), (*_HTML, *headers))


def _truncated(answer: Response) -> Response:
    content_length = ("Content-Length", str(max(len(answer.body), 1)))
    half = answer.body[: len(answer.body) // 2]
    return Response(answer.status, half, (*answer.headers, content_length, *_CLOSE))


def _failed(fault: Failed, request: Request, dialect: Dialect) -> Response:
    message = "Query read timeout"
    if request.path in _GRAPHQL:
        return _graphql_error(message, "INTERNAL_SERVER_ERROR", dialect, fault.graphql_status)
    body: Json = {"statusCode": 500, "error": "Error", "messages": [message]}
    return json_answer(500, body)


def _throttled(fault: Throttled, request: Request, dialect: Dialect) -> Response:
    message = f"Limit reached ({fault.requests} tokens per {fault.milliseconds} ms)"
    if fault.form == "graphql" and request.path in _GRAPHQL:
        if dialect is Dialect.LEGACY:
            return json_answer(200, {"errors": [{"message": "Too many requests."}], "data": None})
        return _graphql_error(message, "LIMIT_REACHED", dialect, 200)
    if fault.form == "newest":
        return rate_limited(request, fault.retry_after * 1000, fault.requests)
    body: dict[str, Json] = {"statusCode": 429, "error": "Error", "messages": [message]}
    if fault.form != "headers":
        return json_answer(429, body)
    headers = (
        ("Retry-After", str(fault.retry_after)),
        ("X-RateLimit-Limit", str(fault.requests)),
        ("X-RateLimit-Remaining", "0"),
        # Seconds since 1970, as on most servers; Twenty's own unit is not recorded.
        ("X-RateLimit-Reset", str(math.ceil(time.time()) + fault.retry_after)),
    )
    return json_answer(429, {**body, "retryAfterSeconds": fault.retry_after}, headers=headers)


def _expired(request: Request, dialect: Dialect) -> Response:
    if request.path not in _GRAPHQL:
        return refused(_EXPIRED)
    return json_answer(200, {"errors": [token_refused(_EXPIRED, dialect)]}, without_charset=True)


def _graphql_error(message: str, code: str, dialect: Dialect, status: int) -> Response:
    extensions: dict[str, Json] = {"code": code}
    if dialect is not Dialect.LEGACY:
        extensions["userFriendlyMessage"] = ANY_ERROR
    return json_answer(
        status, {"errors": [{"message": message, "extensions": extensions}], "data": None}
    )
