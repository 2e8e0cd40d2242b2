"""The request rate of an environment, on a simulated clock."""

from __future__ import annotations

import heapq
import random
import threading
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, floor
from typing import TYPE_CHECKING, Literal

import pytest
from builders import limits_with
from hypothesis import example, given, settings
from hypothesis import strategies as st

from provisioner.twenty.rate_limit import Rate, RateLimit

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.fast


@dataclass
class Clock:
    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert len(self.slept) < 10_000, "waits forever"
        self.slept.append(seconds)
        self.now += seconds


def rate_limit(clock: Clock, **limits: int) -> RateLimit:
    return RateLimit(limits_with(**limits), clock=clock, sleep=clock.sleep)  # type: ignore[arg-type]


def send_one(rate_limit: RateLimit) -> None:
    with rate_limit.slot():
        pass


# One thread after another.


def test_without_a_rate_nothing_waits() -> None:
    """Without a declared rate or a refusal, requests are sent as they come."""
    clock = Clock()
    free = rate_limit(clock)
    for _ in range(500):
        send_one(free)
    assert clock.slept == []


@given(rate=st.integers(1, 600), count=st.integers(1, 900))
def test_a_declared_rate_is_the_full_burst_and_then_the_refill(rate: int, count: int) -> None:
    """`count` requests take exactly as long as the bucket requires."""
    clock = Clock()
    bucket = rate_limit(clock, requests_per_minute=rate)
    for _ in range(count):
        send_one(bucket)
    assert abs(clock.now - max(0, count - rate) * 60 / rate) < 1e-6 * max(1, count)


def test_throttling_pauses_every_thread_and_then_keeps_the_rate() -> None:
    """After a refusal nothing is sent until the wait is over, then single requests at the rate."""
    clock = Clock()
    learning = rate_limit(clock)
    send_one(learning)
    assert learning.throttled(10.0, Rate(100, 60.0)) == 10.0
    sent_at = []
    for _ in range(11):
        send_one(learning)
        sent_at.append(clock.now)
    assert sent_at[0] == clock.slept[0] == 10.0
    assert clock.now == pytest.approx(10.0 + 10 * 0.6, rel=0.02)
    clock.now += 60.0
    send_one(learning)
    send_one(learning)
    assert clock.slept[-1] >= 0.6


def test_a_shorter_wait_does_not_end_a_longer_one() -> None:
    """Of two refusals at once the longer wait counts, and a declared rate is not raised."""
    clock = Clock()
    bucket = rate_limit(clock, requests_per_minute=60)
    bucket.throttled(10.0, None)
    assert bucket.throttled(2.0, Rate(1000, 1.0)) == 10.0
    send_one(bucket)
    send_one(bucket)
    assert clock.now == pytest.approx(11.0, abs=0.03)


def test_a_refusal_at_the_declared_rate_empties_the_bucket() -> None:
    """Others use the same limit: the rest of the burst is not sent, and the rate is kept."""
    clock = Clock()
    bucket = rate_limit(clock, requests_per_minute=60)
    send_one(bucket)
    assert bucket.throttled(None, None) == pytest.approx(1.0, rel=0.03)
    for _ in range(10):
        send_one(bucket)
    assert clock.now == pytest.approx(10.0, rel=0.03)
    clock.now += 60.0
    start = clock.now
    send_one(bucket)
    send_one(bucket)
    assert clock.now >= start + 1.0


def test_the_wait_counts_from_the_last_answer_of_a_request_in_flight() -> None:
    """A request in flight at the refusal may still have been accepted, and used a token."""
    clock = Clock()
    learning = rate_limit(clock)
    with learning.slot():
        send_one(learning)
        assert learning.throttled(None, Rate(100, 60.0)) == pytest.approx(0.6, rel=0.03)
        clock.now += 0.5
    send_one(learning)
    assert clock.now == pytest.approx(0.5 + 0.6, rel=0.03)


def test_the_slower_of_two_stated_rates_counts() -> None:
    """Twenty has a limit a second and one a minute, and states the one that was exceeded."""
    clock = Clock()
    learning = rate_limit(clock)
    for rate in (Rate(100, 1.0), Rate(60, 60.0), Rate(100, 1.0)):
        send_one(learning)
        learning.throttled(0.0, rate)
    start = clock.now
    for _ in range(6):
        send_one(learning)
    assert clock.now - start >= 5.0


def test_a_stated_rate_replaces_an_estimate() -> None:
    """The first refusal states no rate, the second one does."""
    clock = Clock()
    learning = rate_limit(clock)
    learning.throttled(None, None)
    send_one(learning)
    learning.throttled(0.0, Rate(600, 60.0))
    start = clock.now
    for _ in range(61):
        send_one(learning)
    assert clock.now - start == pytest.approx(6.0, rel=0.1)


def test_the_answer_to_a_request_sent_before_the_pause_changes_nothing() -> None:
    """Requests in flight at the refusal are refused too, which is no new information."""
    clock = Clock()
    learning = rate_limit(clock)
    send_one(learning)
    clock.now = 5.0
    wait = learning.throttled(None, Rate(100, 60.0), duration=0.5)
    for _ in range(3):
        clock.now += 0.1
        assert learning.throttled(None, None, duration=0.5) == wait


def test_requests_in_flight_that_are_refused_do_not_count_as_accepted() -> None:
    """100 of 104 requests were accepted, also if the server had been down before."""
    clock = Clock()
    learning = rate_limit(clock)
    learning.throttled(0.0, None, rate_limited=False)
    for _ in range(104):
        send_one(learning)
    for _ in range(4):
        learning.throttled(None, None)
    start = clock.now
    for _ in range(11):
        send_one(learning)
    assert (clock.now - start) / 11 == pytest.approx(1.02 * 60 / 100, rel=0.005)


@given(waits=st.lists(st.floats(0, 5), max_size=30))
def test_the_wait_grows_while_the_server_keeps_refusing(waits: list[float]) -> None:
    """Without an accepted request the waits double up to ten seconds, or as the server asks."""
    clock = Clock()
    learning = rate_limit(clock)
    found = []
    for requested in [0.0, *waits]:
        send_one(learning)
        found.append(learning.throttled(requested, Rate(60, 60.0)))
    for times, (requested, wait) in enumerate(zip(waits, found[1:], strict=True), start=1):
        assert wait == pytest.approx(max(requested, min(2.0**times, 10.0)), rel=0.03)


# Several threads and a server on one clock.


class Threads:
    """Threads that run one at a time; the clock jumps to when the next one wakes."""

    def __init__(self) -> None:
        self.now = 0.0
        self._asleep: list[tuple[float, int, threading.Semaphore]] = []
        self._count = 0
        self._ended = threading.Semaphore(0)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        semaphore = threading.Semaphore(0)
        self._put(self.now + seconds, semaphore)
        self._wake()
        assert semaphore.acquire(timeout=60)

    def run(self, *tasks: Callable[[], None]) -> None:
        """Run these tasks side by side until all are done."""
        errors: list[BaseException] = []

        def body(task: Callable[[], None], start: threading.Semaphore) -> None:
            assert start.acquire(timeout=60)
            try:
                task()
            except BaseException as error:  # noqa: BLE001 - raised again below
                errors.append(error)
            self._wake()

        for task in tasks:
            start = threading.Semaphore(0)
            self._put(self.now, start)
            threading.Thread(target=body, args=(task, start), daemon=True).start()
        self._wake()
        assert self._ended.acquire(timeout=60)
        if errors:
            raise errors[0]

    def _put(self, wakes_at: float, semaphore: threading.Semaphore) -> None:
        self._count += 1
        heapq.heappush(self._asleep, (wakes_at, self._count, semaphore))

    def _wake(self) -> None:
        if not self._asleep:
            self._ended.release()
            return
        wakes_at, _, semaphore = heapq.heappop(self._asleep)
        self.now = max(self.now, wakes_at)
        semaphore.release()


Kind = Literal["bucket", "whole", "window"]
Form = Literal["text", "headers", "nothing"]


@dataclass
class Server:
    """A server that allows `requests` in `seconds`; its burst is full at the first request.

    Attributes:
        kind: a bucket; a bucket that drops the started token when it accepts a request, as Twenty's
            own; or a window that opens with the first request, and again with the next one after it
            ends.
        left: the rest of the burst at the first request.
    """

    requests: int
    seconds: float
    kind: Kind = "bucket"
    left: float | None = None
    since: float | None = None
    accepted: int = 0
    refused: list[float] = field(default_factory=list)

    def accepts(self, now: float) -> bool:
        if self.since is None:
            self.since = now
            self.left = float(self.requests) if self.left is None else self.left
        assert self.left is not None
        gained = (now - self.since) * self.requests / self.seconds
        if self.kind == "window":
            available = float(self.requests) if now - self.since >= self.seconds else self.left
        else:
            available = min(
                self.left + (floor(gained) if self.kind == "whole" else gained), self.requests
            )
        if available < 1 - 1e-9:
            self.refused.append(now)
            return False
        if self.kind != "window" or now - self.since >= self.seconds:
            self.since = now
        self.left = available - 1
        self.accepted += 1
        return True

    def wait(self, now: float) -> float:
        """Return `Retry-After`: whole seconds until one more request is allowed."""
        assert self.since is not None
        assert self.left is not None
        periods = 1.0 if self.kind == "window" else (1 - self.left) / self.requests
        return float(ceil(self.since + periods * self.seconds - now))

    def min_seconds(self, count: int) -> float:
        """Return the seconds that so many requests take at least, if the burst is full."""
        return max(0, count - self.requests) * self.seconds / self.requests


@dataclass
class RunResult:
    """Result of one run.

    Attributes:
        refused: all refusals.
        refused_later: refusals of requests sent after the first refusal was known.
        sent_later: when the requests sent after the first refusal was known were sent.
    """

    seconds: float
    refused: int
    refused_later: int
    sent_later: list[float]


def run(
    server: Server,
    form: Form,
    count: int,
    parallel: int,
    *,
    declared: int | None = None,
    latency: Callable[[], float] = lambda: 0.01,
) -> RunResult:
    """Send `count` requests until each of them is accepted."""
    clock = Threads()
    limits = limits_with(parallel=parallel, requests_per_minute=declared)
    rate_limit = RateLimit(limits, clock=clock, sleep=clock.sleep)
    numbers = iter(range(count))
    result = RunResult(0.0, 0, 0, [])
    known = False

    def send() -> bool:
        nonlocal known
        with rate_limit.slot():
            sent_at = clock.now
            is_later = known
            if is_later:
                result.sent_later.append(sent_at)
            clock.sleep(latency())
            accepted = server.accepts(clock.now)
            wait = None if accepted or form != "headers" else server.wait(clock.now)
            clock.sleep(latency())
        clock.sleep(1e-4)  # the slot is free a little before the refusal is reported
        if not accepted:
            known = True
            result.refused_later += is_later
            rate = None if form == "nothing" else Rate(server.requests, server.seconds)
            rate_limit.throttled(wait, rate, duration=clock.now - sent_at)
        return accepted

    def send_all() -> None:
        for _ in numbers:
            while not send():
                pass

    clock.run(*[send_all] * parallel)
    assert server.accepted == count
    result.seconds, result.refused = clock.now, len(server.refused)
    return result


FORMS: tuple[Form, ...] = ("text", "headers", "nothing")
RANDOM = st.integers(0, 2**32).map(random.Random)
MAX_LATENCY = st.floats(0.0005, 0.3)


@given(
    per_minute=st.integers(1, 600),
    parallel=st.integers(1, 16),
    extra=st.integers(1, 40),
    form=st.sampled_from(["text", "headers"]),
    max_latency=MAX_LATENCY,
    rng=RANDOM,
)
@settings(max_examples=60)
def test_a_stated_rate_is_kept_from_the_first_refusal_on(
    per_minute: int, parallel: int, extra: int, form: Form, max_latency: float, rng: random.Random
) -> None:
    """Only requests in flight are refused; the others follow singly, at the full rate."""
    server = Server(per_minute, 60.0)
    count = per_minute + extra
    result = run(
        server, form, count, parallel, latency=lambda: rng.uniform(max_latency / 10, max_latency)
    )
    assert result.refused_later == 0
    assert result.refused <= parallel
    interval = 60 / per_minute
    assert all(late - early >= interval for early, late in pairwise(result.sent_later))
    # One request a thread for the burst, one that was in flight, and whole seconds to wait.
    spent = 2 * max_latency * (count / parallel + 2) + (form == "headers")
    assert result.seconds <= 1.1 * (server.min_seconds(count) + interval) + spent


@given(
    per_minute=st.integers(2, 600),
    parallel=st.integers(1, 16),
    extra=st.integers(1, 40),
    max_latency=MAX_LATENCY,
    rng=RANDOM,
)
@settings(max_examples=40)
def test_a_full_bucket_never_refuses_the_declared_rate(
    per_minute: int, parallel: int, extra: int, max_latency: float, rng: random.Random
) -> None:
    """However long each request takes to arrive, the limit is used fully and not exceeded."""
    server = Server(per_minute, 60.0)
    count = per_minute + extra
    result = run(
        server,
        "text",
        count,
        parallel,
        declared=per_minute,
        latency=lambda: rng.uniform(max_latency / 10, max_latency),
    )
    assert result.refused == 0
    assert result.seconds <= server.min_seconds(count) + 2 * max_latency * (count / parallel + 2)


@given(
    per_minute=st.integers(1, 600),
    parallel=st.integers(1, 16),
    extra=st.integers(1, 40),
    max_latency=MAX_LATENCY,
    rng=RANDOM,
)
@settings(max_examples=30)
def test_a_stated_end_of_a_window_is_waited_for(
    per_minute: int, parallel: int, extra: int, max_latency: float, rng: random.Random
) -> None:
    """`Retry-After` leads to the next window, in which nothing is refused either."""
    server = Server(per_minute, 60.0, "window")
    result = run(
        server,
        "headers",
        per_minute + extra,
        parallel,
        latency=lambda: rng.uniform(max_latency / 10, max_latency),
    )
    assert result.refused_later == 0
    assert result.refused <= parallel


@given(
    per_minute=st.integers(50, 600),
    parallel=st.integers(1, 16),
    extra=st.integers(1, 40),
    max_latency=st.floats(0.0005, 0.05),
    rng=RANDOM,
)
@settings(max_examples=60)
def test_an_unstated_rate_is_estimated_from_the_accepted_requests(
    per_minute: int, parallel: int, extra: int, max_latency: float, rng: random.Random
) -> None:
    """The burst shows a limit a minute, so there is no further refusal."""
    server = Server(per_minute, 60.0)
    count = per_minute + extra
    result = run(
        server,
        "nothing",
        count,
        parallel,
        latency=lambda: rng.uniform(max_latency / 10, max_latency),
    )
    assert result.refused_later == 0
    assert result.refused <= parallel
    spent = 2 * max_latency * (count / parallel + 2)
    assert result.seconds <= 1.1 * (server.min_seconds(count) + 60 / per_minute) + spent


@pytest.mark.parametrize("parallel", [1, 4, 16])
@pytest.mark.parametrize("declared", [100, None])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["bucket", "whole"])
def test_a_hundred_requests_a_minute(
    kind: Kind, form: Form, declared: int | None, parallel: int
) -> None:
    """At most 3 refusals at a declared rate, else `parallel`, and 1.1 times the least time."""
    server = Server(100, 60.0, kind)
    result = run(server, form, 135, parallel, declared=declared, latency=lambda: 0.002)
    assert result.refused <= (3 if declared else parallel)
    assert result.seconds <= 1.1 * server.min_seconds(135)


@pytest.mark.parametrize("form", FORMS)
def test_jitter_causes_few_refusals_by_twentys_own_bucket(form: Form) -> None:
    """A request that comes a moment too early is refused; later ones keep more distance."""
    rng = random.Random(1)
    server = Server(100, 60.0, "whole")
    result = run(server, form, 300, 4, latency=lambda: rng.uniform(0.01, 0.04))
    assert result.refused_later <= 8
    assert result.seconds <= 1.25 * server.min_seconds(300)


@pytest.mark.parametrize("form", ["text", "nothing"])
def test_a_window_without_a_stated_end_is_tried_rarely(form: Form) -> None:
    """At most ten tries in a minute without a stated wait, and all requests are accepted."""
    result = run(Server(100, 60.0, "window"), form, 135, 4)
    assert result.refused_later <= 10
    assert result.seconds <= 60 + 10 + 1.1 * 35 * 0.6


@pytest.mark.parametrize(("per_minute", "left"), [(20, None), (5, None), (100, 0.0), (100, 2.0)])
def test_a_rate_that_the_burst_does_not_show_is_found_by_trying(
    per_minute: int, left: float | None
) -> None:
    """A low limit, or a bucket that an earlier run emptied, is found without a long wait."""
    server = Server(per_minute, 60.0, left=left)
    result = run(server, "nothing", 200, 4)
    assert result.refused_later <= 12
    assert result.seconds <= 1.3 * 200 * 60 / per_minute


def test_a_window_that_others_used_up_does_not_lower_the_rate() -> None:
    """Nothing is accepted until the next window: the tries become rare, the rate stays."""
    server = Server(100, 60.0, "window", left=0.0)
    result = run(server, "nothing", 100, 4)
    assert result.refused_later <= 12
    assert result.seconds <= 70 + 1.1 * 100 * 60 / 50


def test_two_clients_of_one_limit_share_it() -> None:
    """The rate is the server's, but another client uses it too: fewer and fewer are refused."""
    clock = Threads()
    server = Server(100, 60.0)
    refused: list[list[float]] = [[], []]

    def client(number: int) -> None:
        rate_limit = RateLimit(limits_with(parallel=1), clock=clock, sleep=clock.sleep)
        for _ in range(200):
            accepted = False
            while not accepted:
                with rate_limit.slot():
                    clock.sleep(0.01 + 0.003 * number)
                    accepted = server.accepts(clock.now)
                if not accepted:
                    refused[number].append(clock.now)
                    rate_limit.throttled(None, Rate(100, 60.0), duration=0.01 + 0.003 * number)

    clock.run(lambda: client(0), lambda: client(1))
    assert server.accepted == 400
    assert len(refused[0]) + len(refused[1]) <= 100
    assert clock.now <= 1.3 * server.min_seconds(400)


def send_all(
    rate_limit: RateLimit,
    clock: Clock,
    count: int,
    accepts: Callable[[float], bool],
    rate: Rate | None = None,
    latency: float = 0.005,
) -> list[bool]:
    """Send one after the other until `count` are accepted; return which ones were."""
    accepted: list[bool] = []
    while sum(accepted) < count:
        with rate_limit.slot():
            clock.now += latency
            accepted.append(accepts(clock.now))
        if not accepted[-1]:
            rate_limit.throttled(None, rate, duration=latency)
    return accepted


def at_random(seed: int) -> Callable[[float], bool]:
    """Refuse 30 % of the requests."""
    rng = random.Random(seed)
    return lambda _: rng.random() >= 0.3


def share_refused(accepted: list[bool]) -> float:
    return accepted.count(False) / len(accepted)


@example(per_minute=45, burst=1, too_high=None)  # a little slower than the first guess
@example(per_minute=32, burst=2, too_high=None)
@example(per_minute=107, burst=60, too_high=10)
@given(
    per_minute=st.integers(3, 1200),
    burst=st.integers(1, 60),
    too_high=st.sampled_from([None, 2, 10]),
)
@settings(max_examples=60)
def test_whatever_the_rate_is_few_requests_are_refused_after_the_warm_up(
    per_minute: int, burst: int, too_high: int | None
) -> None:
    """At most 8 % after the first 60, declared too high or not at all; half the rate is used."""
    clock = Clock()
    declared = None if too_high is None else too_high * per_minute
    bucket = rate_limit(clock, requests_per_minute=declared)
    server = Server(burst, burst * 60 / per_minute)
    accepted = send_all(bucket, clock, 360, server.accepts)
    assert share_refused(accepted[60:]) <= 0.08
    assert clock.now <= 2 * server.min_seconds(360) + 150


@pytest.mark.parametrize("rate", [None, Rate(100, 60.0)])
@pytest.mark.parametrize("seed", range(5))
def test_a_pace_recovers_once_the_refusals_end(seed: int, rate: Rate | None) -> None:
    """Others use up the limit for 60 requests; then the whole rate is used again."""
    clock = Clock()
    learning = rate_limit(clock)
    send_all(learning, clock, 60, at_random(seed), rate)
    server = Server(100, 60.0, left=0.0)
    accepted = send_all(learning, clock, 400, server.accepts, rate)
    assert share_refused(accepted) <= 0.08
    assert learning.per_minute >= 60


def test_a_burst_of_six_and_then_one_a_second_costs_two_refusals() -> None:
    """Nginx with `rate=60r/m burst=5 nodelay`: one refusal after the burst, and one trial."""
    clock = Clock()
    accepted = send_all(rate_limit(clock), clock, 35, Server(6, 6.0).accepts)
    assert accepted.count(False) == 2
    assert clock.now <= 1.5 * 29


@pytest.mark.parametrize(
    ("parallel", "per_second", "burst", "latency"),
    [(1, 14, 5, 0.01), (1, 14, 10, 0.01), (1, 5, 5, 0.05), (3, 8, 5, 0.05)],
)
def test_a_fast_limit_is_not_taken_for_the_use_of_others(
    parallel: int, per_second: int, burst: int, latency: float
) -> None:
    """It accepts most requests of a trial, but of all requests it refuses few."""
    server = Server(burst, burst / per_second)
    result = run(server, "nothing", 200, parallel, latency=lambda: latency)
    assert result.refused / (200 + result.refused) <= 0.12
    assert result.seconds <= 2 * 200 / per_second


def test_few_requests_before_a_rare_refusal_are_not_taken_for_a_slow_server() -> None:
    """Sent every half minute, since no more were needed: the pace is at most four times slower."""
    clock = Clock()
    learning = rate_limit(clock)
    learning.throttled(1.0, None)
    for _ in range(20):
        send_one(learning)
        clock.now += 30.0
    send_one(learning)
    learning.throttled(1.0, None)
    assert learning.per_minute >= 12


@pytest.mark.parametrize("latency", [0.005, 0.1])
def test_random_refusals_are_not_taken_for_a_rate(latency: float) -> None:
    """Of 140 posts 30 % are refused: nine of ten runs take 40 s at most, all but one a minute."""
    seconds = []
    for seed in range(40):
        clock = Clock()
        send_all(rate_limit(clock), clock, 140, at_random(seed), latency=latency)
        seconds.append(clock.now)
    seconds.sort()
    assert seconds[36] <= 40
    assert seconds[38] <= 60
    assert seconds[-1] <= 120


@pytest.mark.parametrize(("declared", "per_minute", "burst"), [(1000, 100, 100), (600, 60, 6)])
@pytest.mark.parametrize("form", ["text", "nothing"])
def test_a_rate_that_is_declared_too_high_is_learnt_down(
    declared: int, per_minute: int, burst: int, form: Form
) -> None:
    """Few requests are refused, and the pace is the server's."""
    clock = Clock()
    bucket = rate_limit(clock, requests_per_minute=declared)
    server = Server(burst, burst * 60 / per_minute)
    stated = Rate(per_minute, 60.0) if form == "text" else None
    accepted = send_all(bucket, clock, 135, server.accepts, stated)
    assert share_refused(accepted) <= 0.05
    assert per_minute * 0.85 <= bucket.per_minute <= per_minute * 1.1


def test_a_server_that_accepts_between_two_503_is_not_down() -> None:
    """A limit behind a page that is not known slows requests down like any other."""
    clock = Clock()
    learning = rate_limit(clock)
    for _ in range(2):
        assert learning.per_minute > 1e9
        for _ in range(3):
            send_one(learning)
        learning.throttled(None, None, rate_limited=False)
    assert learning.per_minute == pytest.approx(50, rel=0.03)


@pytest.mark.parametrize("declared", [100, None])
def test_one_request_at_a_time_tries_a_server_that_is_down(declared: int | None) -> None:
    """After a 503 with a wait one request tries; once it is accepted the others go on as before."""
    clock = Threads()
    limits = limits_with(parallel=8, requests_per_minute=declared)
    rate_limit = RateLimit(limits, clock=clock, sleep=clock.sleep)
    sent_at: list[float] = []
    numbers = iter(range(160))

    def send() -> bool:
        with rate_limit.slot():
            sent_at.append(clock.now)
            clock.sleep(0.1)
            down = 1.0 <= clock.now < 10.0
        if down:
            rate_limit.throttled(2.0, None, duration=0.1, rate_limited=False)
        return not down

    def send_all() -> None:
        for _ in numbers:
            while not send():
                pass

    clock.run(*[send_all] * 8)
    in_pause = [time for time in sent_at if 1.0 < time < 10.0]
    assert len(in_pause) == 4
    assert all(late - early >= 2.0 for early, late in pairwise(in_pause))
    assert clock.now <= (12.7 if declared is None else 12.7 + 45)


def test_a_request_that_hangs_does_not_block_the_others_for_long() -> None:
    """Others wait for a request in flight at most two seconds beyond the pause."""
    clock = Threads()
    rate_limit = RateLimit(limits_with(parallel=4), clock=clock, sleep=clock.sleep)
    sent_at: list[float] = []

    def hang() -> None:
        with rate_limit.slot():
            clock.sleep(30.0)

    def refused() -> None:
        clock.sleep(0.5)
        with rate_limit.slot():
            clock.sleep(0.1)
        rate_limit.throttled(1.0, Rate(100, 60.0), duration=0.1)
        with rate_limit.slot():
            sent_at.append(clock.now)

    clock.run(hang, refused)
    assert sent_at == [pytest.approx(0.6 + 1.0 + 2.0, abs=0.1)]


# Real threads.


def test_no_more_requests_are_in_flight_than_allowed() -> None:
    """All threads of an environment share its slots."""
    bounded = RateLimit(limits_with(parallel=3))
    inside = threading.Semaphore(0)
    finish = threading.Event()
    in_flight: list[int] = []

    def work() -> None:
        with bounded.slot():
            in_flight.append(1)
            inside.release()
            finish.wait(5)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        assert inside.acquire(timeout=5)
    assert not inside.acquire(timeout=0.05)
    assert len(in_flight) == 3
    finish.set()
    for thread in threads:
        thread.join(5)
    assert len(in_flight) == 8


def test_an_error_releases_the_slot() -> None:
    """A request that fails neither keeps its slot nor makes the others wait."""
    clock = Clock()
    learning = rate_limit(clock, parallel=1)
    learning.throttled(1.0, None, rate_limited=False)
    for _ in range(2):
        with pytest.raises(OSError, match="gone"), learning.slot():
            raise OSError("gone")
    send_one(learning)
    assert clock.now == 1.0
