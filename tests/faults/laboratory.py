"""The fault laboratory: the embedded Twenty, failing where a script or a seed says so.

A `Laboratory` owns a sandbox and asks its plan, for each request by its number, which fault the
request meets, if any. Faults are values whose `repr` is their source, so that a scenario that
failed can be pasted into a test: `scripted(laboratory.injected)` plays it again.

"Before" means that Twenty never handled the request, "after" that it did and only the answer
went wrong.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, assert_never

from provisioner.sandbox import Dialect, Exchange, Request, Response, Sandbox, json_answer
from provisioner.sandbox.access import Refused
from provisioner.sandbox.graphql_call import ANY_ERROR, token_refused
from provisioner.sandbox.rest import refused
from provisioner.sandbox.timestamps import now

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from provisioner.sandbox import ApiKey, Json

Form: TypeAlias = Literal["text", "headers", "graphql"]
"""How a server says that it is too fast; none was recorded (`docs/twenty-api.md`).

`text`: HTTP 429 whose message alone names the limit. `headers`: HTTP 429 that names the wait in
`Retry-After` and in its body. `graphql`: HTTP 200 with a GraphQL error; `text` outside GraphQL.
"""

When: TypeAlias = Literal["before", "after"]

_GRAPHQL = ("/graphql", "/metadata")
_EXPIRED = Refused(401, "UNAUTHENTICATED", "Token has expired.")
_HTML = (("Content-Type", "text/html"),)
_CLOSE = (("Connection", "close"),)
_QUIET_SECONDS = 10.0
_WHOLE_TOKEN = 1 - 1e-9
"""A refill that adds up to one token but for the rounding of floats."""


@dataclass(frozen=True, slots=True)
class ClosedBefore:
    """The connection is closed, and the request was never handled."""


@dataclass(frozen=True, slots=True)
class ClosedAfter:
    """The connection is closed after the commit, without an answer."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An error of the server after the commit, in the shape of REST or of GraphQL.

    Attributes:
        graphql_status: of HTTP, on GraphQL paths; REST answers 500. With 200 the answer reads
            like any other refusal of GraphQL.
    """

    graphql_status: int = 500


@dataclass(frozen=True, slots=True)
class BadGateway:
    """HTTP 502 with a page of HTML: a proxy that found no server, or gave up on one.

    Attributes:
        committed: the server went on behind the proxy's back.
    """

    committed: bool = False


@dataclass(frozen=True, slots=True)
class Throttled:
    """Too fast: refused before it was handled.

    Attributes:
        form: how the server says so.
        retry_after: seconds, named by the form `headers` alone.
        requests: the limit that the answer names, in `milliseconds`.
    """

    form: Form = "text"
    retry_after: int = 1
    requests: int = 100
    milliseconds: int = 1000


@dataclass(frozen=True, slots=True)
class Unavailable:
    """HTTP 503 with a page of HTML and `Retry-After`.

    Attributes:
        committed: the server went on behind the proxy's back.
        retry_after: seconds.
    """

    committed: bool = False
    retry_after: int = 1


@dataclass(frozen=True, slots=True)
class Truncated:
    """The first half of the answer, after the commit; its `Content-Length` promises all of it."""


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """HTTP 200 with a page of HTML, after the commit."""


@dataclass(frozen=True, slots=True)
class Empty:
    """HTTP 200 with nothing in it, after the commit."""


@dataclass(frozen=True, slots=True)
class Slow:
    """The true answer, late; `heal` ends the wait.

    Attributes:
        seconds: what is waited.
        before: waits before the request is handled, so that it may be handled when its client
            has long given up.
    """

    seconds: float = 0.2
    before: bool = False


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer until `heal`, which sends the true one, or closes what was not handled.

    Attributes:
        committed: whether the request is handled, at once.
    """

    committed: bool = True


@dataclass(frozen=True, slots=True)
class ExpiredSession:
    """The credential has run out: refused before it is handled, as recorded (`007`, `136`).

    A request without a credential is handled: a sign-in has no session that could expire.

    Attributes:
        for_good: this credential is refused from now on, as a real one that ran out.
    """

    for_good: bool = False


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

PASSING: tuple[Fault, ...] = (
    ClosedBefore(),
    ClosedAfter(),
    Failed(),
    BadGateway(),
    BadGateway(committed=True),
    Throttled("text"),
    Throttled("headers"),
    Throttled("graphql"),
    Unavailable(),
    Unavailable(committed=True),
    Truncated(),
    HtmlPage(),
    Empty(),
    Slow(),
    Slow(before=True),
    ExpiredSession(),
)
"""One of each fault that ends by itself."""

FAULTS: tuple[Fault, ...] = (*PASSING, Hang(), Hang(committed=False))
"""One of each fault; the last two hold a request until `heal` or until its client gives up."""

Plan: TypeAlias = "Callable[[int, Request], Fault | None]"
"""Which fault a request meets, given its number from 0 in the order of arrival."""


def handles(fault: Fault | None) -> bool:
    """Whether a request that meets this fault is handled, and so commits, sooner or later.

    Of `ExpiredSession` this is said for a request with a credential.
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


def is_write(request: Request) -> bool:
    """Whether a request may change the workspace."""
    if request.method != "POST":
        return request.method not in ("GET", "OPTIONS")
    if request.path.startswith("/rest/"):
        return True
    signs_in = b"getLoginToken" in request.body or b"getAuthTokens" in request.body
    return b"mutation" in request.body and not signs_in


def scripted(faults: Mapping[int, Fault], *, only_writes: bool = False) -> Plan:
    """The faults of a script, by the number of the request.

    Args:
        faults: numbers count from 0.
        only_writes: counts the writes alone.
    """
    return _numbered(faults.get, only_writes=only_writes)


def seeded(
    seed: int, share: float, faults: Sequence[Fault] = PASSING, *, only_writes: bool = False
) -> Plan:
    """Faults by chance, the same at the same numbers for the same seed, however threads run.

    Args:
        seed: any number.
        share: the chance of each request to meet a fault, 0 to 1.
        faults: what is chosen from, each as likely as the others.
        only_writes: counts the writes alone, and no other request meets a fault.
    """

    def decide(number: int) -> Fault | None:
        chance = random.Random(f"{seed}/{number}")
        return chance.choice(faults) if chance.random() < share else None

    return _numbered(decide, only_writes=only_writes)


def every(fault: Fault, share: float = 1.0, *, seed: int = 0, only_writes: bool = False) -> Plan:
    """One fault for every request, or for a share of them by chance."""
    return seeded(seed, share, (fault,), only_writes=only_writes)


def first_of(*plans: Plan) -> Plan:
    """What the first plan says that says anything; the others behind it are not asked."""

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
    # A laboratory asks its plan about one request at a time, in the order of arrival.
    return lambda _, request: decide(next(writes)) if is_write(request) else None


class TokenBucket:
    """A plan that is a declared speed limit: the full burst at once, then a steady refill.

    Args:
        requests: how many the bucket holds, and how many flow into it within `seconds`.
        seconds: the time in which an empty bucket fills.
        form: how the refusals say so.
        clock: seconds that only grow.
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
        self._looked = clock()
        self._refused = self._admitted = 0

    @property
    def refused(self) -> int:
        """How many requests found it empty."""
        return self._refused

    @property
    def admitted(self) -> int:
        """How many requests took a token."""
        return self._admitted

    def __call__(self, _number: int, _request: Request) -> Throttled | None:
        """Takes a token, or refuses."""
        rate = self._requests / self._seconds
        with self._lock:
            moment = self._clock()
            grown = self._tokens + (moment - self._looked) * rate
            self._tokens, self._looked = min(float(self._requests), grown), moment
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
    """An embedded Twenty that fails as it is told; a context manager, safe for threads.

    Args:
        dialect: the recorded server to behave like.
        plan: which request meets which fault; None for none.
        options: of the sandbox: `role_seconds`, `create_seconds`, `file`, `session_seconds` …
    """

    def __init__(self, dialect: Dialect, *, plan: Plan | None = None, **options: Any) -> None:
        self._journal = _Journal()
        options = {"file": None, **options}
        self.sandbox = Sandbox(
            dialect=dialect, journal=self._journal, around=self._around, **options
        )
        self._lock = threading.Lock()
        self._plan = plan
        self._let_go = threading.Event()
        self._injected: dict[int, Fault] = {}
        self._hooks: dict[tuple[bool, int], _Hook] = {}
        self._expired: set[str] = set()
        self._dead = False
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
        """Heals, lets what is under way end, and ends the sandbox."""
        self.heal()
        self.sandbox.stop()

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return self.sandbox.url

    @property
    def journal(self) -> list[Exchange]:
        """Every finished exchange since the last `reset`; status 0 where no answer was sent."""
        return self._journal

    @property
    def arrived(self) -> int:
        """How many requests arrived since the last `reset`."""
        return self._arrived

    @property
    def injected(self) -> dict[int, Fault]:
        """The faults that requests met since the last `reset`, by number: a script of them."""
        with self._lock:
            return dict(self._injected)

    def use(self, plan: Plan | None) -> None:
        """Changes the plan from the next request on; the numbers go on."""
        with self._lock:
            self._plan = plan
            if self._let_go.is_set():
                self._let_go = threading.Event()

    def call_at(
        self,
        number: int,
        when: When,
        call: Callable[[], object],
        *,
        only_writes: bool = False,
    ) -> None:
        """Has a function called at one request, before it is handled or after the commit.

        A request that meets a fault before it is handled never gets to "after".

        Args:
            number: of the request, from 0 since the last `reset`.
            when: the moment.
            call: runs in the thread of the request.
            only_writes: counts the writes alone.
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
        """As `call_at`, then closes the connection, and every later one unhandled until `heal`.

        What arrived before the kill and is under way goes on, as on a real server.
        """
        with self._lock:
            self._hooks[only_writes, number] = _Hook(when, kill, kills=True)

    def heal(self) -> None:
        """Ends every fault: plan, hooks and refusals are gone, and what hangs is let go."""
        with self._lock:
            self._plan = None
            self._hooks.clear()
            self._expired.clear()
            self._dead = False
            self._let_go.set()

    def quiet(self, seconds: float = _QUIET_SECONDS) -> None:
        """Waits until no request is under way, also none whose client is gone.

        Raises:
            TimeoutError: one still is.
        """
        if not self._journal.wait(lambda: self._arrived, seconds):
            raise TimeoutError(f"a request is still under way after {seconds} s")

    def reset(self, plan: Plan | None = None, *, keep: Sequence[str] = ()) -> None:
        """Makes the laboratory as new for another scenario: keys, journal, numbers and faults.

        Users, roles and their sessions stay; so do the keys of the names in `keep`.

        Raises:
            TimeoutError: a request of the last scenario is still under way.
        """
        self.heal()
        self.quiet()
        self.sandbox.forget(key.id for key in self.sandbox.keys() if key.name not in keep)
        with self._lock:
            self._journal.clear()
            self._injected.clear()
            self._arrived = self._writes = 0
        self.use(plan)

    def live(self) -> dict[str, list[ApiKey]]:
        """The keys that are neither revoked nor deleted nor expired, by name."""
        moment = now()
        found: defaultdict[str, list[ApiKey]] = defaultdict(list)
        for key in self.sandbox.keys():
            if not key.revoked_at and not key.deleted_at and key.expires_at > moment:
                found[key.name].append(key)
        return dict(found)

    def _around(self, request: Request, inner: Callable[[Request], Response]) -> Response:
        arrival = self._arrive(request)
        hook = arrival.hook

        def handle(request: Request) -> Response:
            answer = inner(request)
            if hook is not None and hook.when == "after":
                self._run(hook)
            return answer

        if hook is not None and hook.when == "before":
            self._run(hook)
        match arrival.fault:
            case Slow() | Hang() as fault:
                return _sink_contents(fault, arrival.let_go, request, handle)
            case fault:
                truth = handle(request) if handles(fault) else Response(0)
                return _told(fault, truth, request, self.sandbox.dialect)

    def _arrive(self, request: Request) -> _Arrival:
        """Numbers a request and decides everything about it.

        Raises:
            ConnectionAbortedError: the client was killed: nothing of it is handled any more.
        """
        with self._lock:
            number, self._arrived = self._arrived, self._arrived + 1
            hook = self._hooks.pop((False, number), None)
            if is_write(request):
                hook = self._hooks.pop((True, self._writes), hook)
                self._writes += 1
            if self._dead:
                raise ConnectionAbortedError("its client was killed")
            fault = self._plan(number, request) if self._plan else None
            if request.authorization in self._expired:
                fault = ExpiredSession(for_good=True)
            if isinstance(fault, ExpiredSession) and not request.authorization:
                fault = None
            if isinstance(fault, ExpiredSession) and fault.for_good:
                self._expired.add(request.authorization)
            if fault is not None:
                self._injected[number] = fault
            if hook is not None and hook.kills and hook.when == "before":
                self._dead = True  # here, so that no later number is handled
            return _Arrival(fault, hook, self._let_go)

    def _run(self, hook: _Hook) -> None:
        if hook.kills and hook.when == "after":
            with self._lock:
                self._dead = True
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
    let_go: threading.Event


class _Journal(list[Exchange]):
    """A journal that can be waited for: the server notes each request exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self._noted = 0
        self._grown = threading.Condition()

    def append(self, exchange: Exchange) -> None:
        with self._grown:
            super().append(exchange)
            self._noted += 1
            self._grown.notify_all()

    def wait(self, expected: Callable[[], int], seconds: float) -> bool:
        with self._grown:
            return self._grown.wait_for(lambda: self._noted >= expected(), seconds)

    def clear(self) -> None:
        with self._grown:
            super().clear()
            self._noted = 0


def _sink_contents(
    fault: Slow | Hang,
    let_go: threading.Event,
    request: Request,
    handle: Callable[[Request], Response],
) -> Response:
    match fault:
        case Slow(seconds, before=True):
            let_go.wait(seconds)
            return handle(request)
        case Slow(seconds):
            truth = handle(request)
            let_go.wait(seconds)
            return truth
        case Hang(committed=True):
            truth = handle(request)
            let_go.wait()
            return truth
        case Hang():
            let_go.wait()
            raise ConnectionResetError(repr(fault))
        case _:
            assert_never(fault)


def _told(  # noqa: C901, PLR0911  # one case for each fault
    fault: Fault | None, truth: Response, request: Request, dialect: Dialect
) -> Response:
    """What the client is told in place of the truth, which is nothing if it was not handled."""
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
            return _truncated(truth)
        case HtmlPage():
            return _page(200, "Sign in to continue")
        case Empty():
            return Response(200)
        case ExpiredSession():
            return _expired(request, dialect)
        case Slow() | Hang() | None:
            return truth
        case _:
            assert_never(fault)


def _page(status: int, title: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    body = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\r\n"
    return Response(status, body.encode(), (*_HTML, *headers))


def _truncated(answer: Response) -> Response:
    promised = ("Content-Length", str(max(len(answer.body), 1)))
    half = answer.body[: len(answer.body) // 2]
    return Response(answer.status, half, (*answer.headers, promised, *_CLOSE))


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
    body: dict[str, Json] = {"statusCode": 429, "error": "Error", "messages": [message]}
    if fault.form != "headers":
        return json_answer(429, body)
    headers = (
        ("Retry-After", str(fault.retry_after)),
        ("X-RateLimit-Limit", str(fault.requests)),
        ("X-RateLimit-Remaining", "0"),
        # In seconds since 1970, as most servers count; Twenty's own unit is not recorded.
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
