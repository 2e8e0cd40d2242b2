"""The pace of an environment, on a clock of its own."""

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
from hypothesis import given, settings
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
        assert len(self.slept) < 10_000, "waits for ever"
        self.slept.append(seconds)
        self.now += seconds


def pace(clock: Clock, **limits: int) -> RateLimit:
    return RateLimit(limits_with(**limits), clock=clock, sleep=clock.sleep)  # type: ignore[arg-type]


def go(pace: RateLimit) -> None:
    with pace.slot():
        pass


# One thread after the other.


def test_without_a_rate_nothing_waits() -> None:
    """No declared rate, no throttling: requests go out as they come."""
    clock = Clock()
    free = pace(clock)
    for _ in range(500):
        go(free)
    assert clock.slept == []


@given(rate=st.integers(1, 600), count=st.integers(1, 900))
def test_a_declared_rate_is_the_full_burst_and_then_the_refill(rate: int, count: int) -> None:
    """`count` requests take exactly what the bucket allows, no less and no more."""
    clock = Clock()
    bucket = pace(clock, requests_per_minute=rate)
    for _ in range(count):
        go(bucket)
    assert abs(clock.now - max(0, count - rate) * 60 / rate) < 1e-6 * max(1, count)


def test_throttling_stops_everyone_and_then_keeps_the_rate_it_learnt() -> None:
    """After a refusal nobody goes before the wait is over, and then one by one at the rate."""
    clock = Clock()
    learning = pace(clock)
    go(learning)
    assert learning.throttled(10.0, Rate(100, 60.0)) == 10.0
    left = []
    for _ in range(11):
        go(learning)
        left.append(clock.now)
    assert left[0] == clock.slept[0] == 10.0
    assert clock.now == pytest.approx(10.0 + 10 * 0.6, rel=0.02)
    clock.now += 60.0
    go(learning)
    go(learning)
    assert clock.slept[-1] >= 0.6


def test_a_shorter_wait_does_not_end_a_longer_one() -> None:
    """Two refusals at once: the longer wait counts, and a declared rate is not replaced."""
    clock = Clock()
    bucket = pace(clock, requests_per_minute=60)
    bucket.throttled(10.0, None)
    assert bucket.throttled(2.0, Rate(1, 1000.0)) == 10.0
    go(bucket)
    go(bucket)
    assert clock.now == pytest.approx(11.0, abs=0.03)


def test_a_refusal_at_the_declared_rate_empties_the_bucket() -> None:
    """Others use the same limit: no rest of the burst goes out, and the rate is kept."""
    clock = Clock()
    bucket = pace(clock, requests_per_minute=60)
    go(bucket)
    assert bucket.throttled(None, None) == pytest.approx(1.0, rel=0.03)
    for _ in range(10):
        go(bucket)
    assert clock.now == pytest.approx(10.0, rel=0.03)
    clock.now += 60.0
    start = clock.now
    go(bucket)
    go(bucket)
    assert clock.now >= start + 1.0


def test_an_answer_after_the_refusal_counts_against_the_next_token() -> None:
    """What was in flight may still have got through: the wait is counted from its answer."""
    clock = Clock()
    learning = pace(clock)
    with learning.slot():
        go(learning)
        assert learning.throttled(None, Rate(100, 60.0)) == pytest.approx(0.6, rel=0.03)
        clock.now += 0.5
    go(learning)
    assert clock.now == pytest.approx(0.5 + 0.6, rel=0.03)


def test_of_two_rates_that_the_server_says_the_slower_one_holds() -> None:
    """Twenty has a limit by the second and one by the minute, and names the one that was passed."""
    clock = Clock()
    learning = pace(clock)
    for rate in (Rate(100, 1.0), Rate(60, 60.0), Rate(100, 1.0)):
        go(learning)
        learning.throttled(0.0, rate)
    start = clock.now
    for _ in range(6):
        go(learning)
    assert clock.now - start >= 5.0


def test_a_rate_that_is_said_takes_the_place_of_a_guess() -> None:
    """The first refusal had no number, the second one has."""
    clock = Clock()
    learning = pace(clock)
    learning.throttled(None, None)
    go(learning)
    learning.throttled(0.0, Rate(600, 60.0))
    start = clock.now
    for _ in range(61):
        go(learning)
    assert clock.now - start == pytest.approx(6.0, rel=0.1)


def test_the_answer_of_a_request_that_left_before_the_pause_changes_nothing() -> None:
    """What was in flight at the refusal is refused too, which says nothing new."""
    clock = Clock()
    learning = pace(clock)
    go(learning)
    clock.now = 5.0
    wait = learning.throttled(None, Rate(100, 60.0), duration=0.5)
    for _ in range(3):
        clock.now += 0.1
        assert learning.throttled(None, None, duration=0.5) == wait


def test_what_was_in_flight_and_refused_too_did_not_get_through() -> None:
    """A hundred of 104 were let through, also where the server had been down before."""
    clock = Clock()
    learning = pace(clock)
    learning.throttled(0.0, None, rate_limited=False)
    for _ in range(104):
        go(learning)
    for _ in range(4):
        learning.throttled(None, None)
    start = clock.now
    for _ in range(11):
        go(learning)
    assert (clock.now - start) / 11 == pytest.approx(1.02 * 60 / 100, rel=0.005)


@given(waits=st.lists(st.floats(0, 5), max_size=30))
def test_a_server_that_goes_on_refusing_is_asked_ever_less(waits: list[float]) -> None:
    """Nothing gets through: the waits double up to ten seconds, whatever the server asks for."""
    clock = Clock()
    learning = pace(clock)
    found = []
    for asked in [0.0, *waits]:
        go(learning)
        found.append(learning.throttled(asked, Rate(60, 60.0)))
    for times, (asked, wait) in enumerate(zip(waits, found[1:], strict=True), start=1):
        assert wait == pytest.approx(max(asked, min(2.0**times, 10.0)), rel=0.03)


# Several threads and a server, on one clock.


class Threads:
    """Threads of which one runs at a time; the time is when the next of them wakes."""

    def __init__(self) -> None:
        self.now = 0.0
        self._asleep: list[tuple[float, int, threading.Semaphore]] = []
        self._count = 0
        self._ended = threading.Semaphore(0)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        me = threading.Semaphore(0)
        self._put(self.now + seconds, me)
        self._wake()
        assert me.acquire(timeout=60)

    def run(self, *works: Callable[[], None]) -> None:
        """Runs these side by side to their end."""
        errors: list[BaseException] = []

        def body(work: Callable[[], None], start: threading.Semaphore) -> None:
            assert start.acquire(timeout=60)
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - told to the test below
                errors.append(error)
            self._wake()

        for work in works:
            start = threading.Semaphore(0)
            self._put(self.now, start)
            threading.Thread(target=body, args=(work, start), daemon=True).start()
        self._wake()
        assert self._ended.acquire(timeout=60)
        if errors:
            raise errors[0]

    def _put(self, at: float, who: threading.Semaphore) -> None:
        self._count += 1
        heapq.heappush(self._asleep, (at, self._count, who))

    def _wake(self) -> None:
        if not self._asleep:
            self._ended.release()
            return
        at, _, who = heapq.heappop(self._asleep)
        self.now = max(self.now, at)
        who.release()


Kind = Literal["bucket", "whole", "window"]
Form = Literal["text", "headers", "nothing"]


@dataclass
class Server:
    """Allows `requests` in `seconds` by a bucket that is full at the first request.

    Attributes:
        kind: a bucket; one that forgets the begun token when it lets one through, as Twenty's own;
            or a window that opens with the first request and again with the next one after it.
        left: of the burst, at the first request.
    """

    requests: int
    seconds: float
    kind: Kind = "bucket"
    left: float | None = None
    since: float | None = None
    passed: int = 0
    refused: list[float] = field(default_factory=list)

    def lets_through(self, now: float) -> bool:
        if self.since is None:
            self.since = now
            self.left = float(self.requests) if self.left is None else self.left
        assert self.left is not None
        gained = (now - self.since) * self.requests / self.seconds
        if self.kind == "window":
            have = float(self.requests) if now - self.since >= self.seconds else self.left
        else:
            have = min(
                self.left + (floor(gained) if self.kind == "whole" else gained), self.requests
            )
        if have < 1 - 1e-9:
            self.refused.append(now)
            return False
        if self.kind != "window" or now - self.since >= self.seconds:
            self.since = now
        self.left = have - 1
        self.passed += 1
        return True

    def wait(self, now: float) -> float:
        """What `Retry-After` says: whole seconds until one more is allowed."""
        assert self.since is not None
        assert self.left is not None
        needs = 1.0 if self.kind == "window" else (1 - self.left) / self.requests
        return float(ceil(self.since + needs * self.seconds - now))

    def allows(self, count: int) -> float:
        """Seconds that so many requests take at the least, a bucket's burst coming first."""
        return max(0, count - self.requests) * self.seconds / self.requests


@dataclass
class Ran:
    """One run.

    Attributes:
        refused: in all.
        later: of them those that left after the first refusal was known.
        following: when the requests left that left after the first refusal was known.
    """

    seconds: float
    refused: int
    later: int
    following: list[float]


def run(
    server: Server,
    form: Form,
    count: int,
    parallel: int,
    *,
    declared: int | None = None,
    latency: Callable[[], float] = lambda: 0.01,
) -> Ran:
    """Sends `count` requests until each got through."""
    clock = Threads()
    limits = limits_with(parallel=parallel, requests_per_minute=declared)
    pace = RateLimit(limits, clock=clock, sleep=clock.sleep)
    todo = iter(range(count))
    ran = Ran(0.0, 0, 0, [])
    known = False

    def send() -> bool:
        nonlocal known
        with pace.slot():
            left = clock.now
            following = known
            if following:
                ran.following.append(left)
            clock.sleep(latency())
            passed = server.lets_through(clock.now)
            wait = None if passed or form != "headers" else server.wait(clock.now)
            clock.sleep(latency())
        clock.sleep(1e-4)  # the slot is free some time before the refusal is told
        if not passed:
            known = True
            ran.later += following
            rate = None if form == "nothing" else Rate(server.requests, server.seconds)
            pace.throttled(wait, rate, duration=clock.now - left)
        return passed

    def work() -> None:
        for _ in todo:
            while not send():
                pass

    clock.run(*[work] * parallel)
    assert server.passed == count
    ran.seconds, ran.refused = clock.now, len(server.refused)
    return ran


FORMS: tuple[Form, ...] = ("text", "headers", "nothing")
CHANCE = st.integers(0, 2**32).map(random.Random)
SLOWEST = st.floats(0.0005, 0.3)


@given(
    per_minute=st.integers(1, 600),
    parallel=st.integers(1, 16),
    more=st.integers(1, 40),
    form=st.sampled_from(["text", "headers"]),
    slowest=SLOWEST,
    chance=CHANCE,
)
@settings(max_examples=60)
def test_a_rate_that_is_said_is_kept_from_the_first_refusal_on(
    per_minute: int, parallel: int, more: int, form: Form, slowest: float, chance: random.Random
) -> None:
    """Only what was in flight is refused, the rest goes one by one, as fast as the limit allows."""
    server = Server(per_minute, 60.0)
    count = per_minute + more
    ran = run(server, form, count, parallel, latency=lambda: chance.uniform(slowest / 10, slowest))
    assert ran.later == 0
    assert ran.refused <= parallel
    interval = 60 / per_minute
    assert all(late - early >= interval for early, late in pairwise(ran.following))
    # A request a thread for the burst, one that was in flight, and whole seconds to wait.
    spent = 2 * slowest * (count / parallel + 2) + (form == "headers")
    assert ran.seconds <= 1.1 * (server.allows(count) + interval) + spent


@given(
    per_minute=st.integers(2, 600),
    parallel=st.integers(1, 16),
    more=st.integers(1, 40),
    slowest=SLOWEST,
    chance=CHANCE,
)
@settings(max_examples=40)
def test_a_declared_rate_is_never_refused_by_a_bucket_that_was_full(
    per_minute: int, parallel: int, more: int, slowest: float, chance: random.Random
) -> None:
    """However long each request takes to arrive; and the limit is used to the full."""
    server = Server(per_minute, 60.0)
    count = per_minute + more
    ran = run(
        server,
        "text",
        count,
        parallel,
        declared=per_minute,
        latency=lambda: chance.uniform(slowest / 10, slowest),
    )
    assert ran.refused == 0
    assert ran.seconds <= server.allows(count) + 2 * slowest * (count / parallel + 2)


@given(
    per_minute=st.integers(1, 600),
    parallel=st.integers(1, 16),
    more=st.integers(1, 40),
    slowest=SLOWEST,
    chance=CHANCE,
)
@settings(max_examples=30)
def test_the_end_of_a_window_is_waited_for_where_it_is_said(
    per_minute: int, parallel: int, more: int, slowest: float, chance: random.Random
) -> None:
    """`Retry-After` of a window leads to the next one, in which nothing is refused either."""
    server = Server(per_minute, 60.0, "window")
    ran = run(
        server,
        "headers",
        per_minute + more,
        parallel,
        latency=lambda: chance.uniform(slowest / 10, slowest),
    )
    assert ran.later == 0
    assert ran.refused <= parallel


@given(
    per_minute=st.integers(50, 600),
    parallel=st.integers(1, 16),
    more=st.integers(1, 40),
    slowest=st.floats(0.0005, 0.05),
    chance=CHANCE,
)
@settings(max_examples=60)
def test_a_rate_that_is_not_said_is_known_from_what_got_through(
    per_minute: int, parallel: int, more: int, slowest: float, chance: random.Random
) -> None:
    """A limit by the minute that let so many through in the burst: no further refusal."""
    server = Server(per_minute, 60.0)
    count = per_minute + more
    ran = run(
        server, "nothing", count, parallel, latency=lambda: chance.uniform(slowest / 10, slowest)
    )
    assert ran.later == 0
    assert ran.refused <= parallel
    spent = 2 * slowest * (count / parallel + 2)
    assert ran.seconds <= 1.1 * (server.allows(count) + 60 / per_minute) + spent


@pytest.mark.parametrize("parallel", [1, 4, 16])
@pytest.mark.parametrize("declared", [100, None])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["bucket", "whole"])
def test_a_hundred_requests_a_minute(
    kind: Kind, form: Form, declared: int | None, parallel: int
) -> None:
    """At most 3 refused where it is declared, `parallel` where not; 1.1 times what is allowed."""
    server = Server(100, 60.0, kind)
    ran = run(server, form, 135, parallel, declared=declared, latency=lambda: 0.002)
    assert ran.refused <= (3 if declared else parallel)
    assert ran.seconds <= 1.1 * server.allows(135)


@pytest.mark.parametrize("form", FORMS)
def test_jitter_costs_a_client_of_twentys_own_bucket_little(form: Form) -> None:
    """A request that comes a moment too early is refused; the next ones keep more distance."""
    chance = random.Random(1)
    server = Server(100, 60.0, "whole")
    ran = run(server, form, 300, 4, latency=lambda: chance.uniform(0.01, 0.04))
    assert ran.later <= 8
    assert ran.seconds <= 1.25 * server.allows(300)


@pytest.mark.parametrize("form", ["text", "nothing"])
def test_a_window_that_says_no_end_is_asked_seldom(form: Form) -> None:
    """No wait is said and the limit is no bucket: ten tries for a minute, and all get through."""
    ran = run(Server(100, 60.0, "window"), form, 135, 4)
    assert ran.later <= 10
    assert ran.seconds <= 60 + 10 + 1.1 * 35 * 0.6


@pytest.mark.parametrize(("per_minute", "left"), [(20, None), (5, None), (100, 0.0), (100, 2.0)])
def test_too_few_got_through_to_tell_the_rate(per_minute: int, left: float | None) -> None:
    """A low limit, or a bucket that an earlier run emptied: found by trying, not by waiting."""
    server = Server(per_minute, 60.0, left=left)
    ran = run(server, "nothing", 200, 4)
    assert ran.later <= 12
    assert ran.seconds <= 1.3 * 200 * 60 / per_minute


def test_a_window_that_others_used_up_is_no_low_limit() -> None:
    """Nothing got through until the next window: the tries become rare, the rate stays."""
    server = Server(100, 60.0, "window", left=0.0)
    ran = run(server, "nothing", 100, 4)
    assert ran.later <= 12
    assert ran.seconds <= 70 + 1.1 * 100 * 60 / 50


def test_two_clients_of_one_limit_share_it() -> None:
    """The rate is the server's, but another one uses it too: ever fewer are refused."""
    clock = Threads()
    server = Server(100, 60.0)
    refused: list[list[float]] = [[], []]

    def client(which: int) -> None:
        pace = RateLimit(limits_with(parallel=1), clock=clock, sleep=clock.sleep)
        for _ in range(200):
            passed = False
            while not passed:
                with pace.slot():
                    clock.sleep(0.01 + 0.003 * which)
                    passed = server.lets_through(clock.now)
                if not passed:
                    refused[which].append(clock.now)
                    pace.throttled(None, Rate(100, 60.0), duration=0.01 + 0.003 * which)

    clock.run(lambda: client(0), lambda: client(1))
    assert server.passed == 400
    assert len(refused[0]) + len(refused[1]) <= 100
    assert clock.now <= 1.3 * server.allows(400)


@pytest.mark.parametrize("declared", [100, None])
def test_a_server_that_is_down_is_asked_by_one_and_then_by_all(declared: int | None) -> None:
    """503 with a wait: all wait, one tries, and once it gets through the others go as before."""
    clock = Threads()
    limits = limits_with(parallel=8, requests_per_minute=declared)
    pace = RateLimit(limits, clock=clock, sleep=clock.sleep)
    left: list[float] = []
    todo = iter(range(160))

    def send() -> bool:
        with pace.slot():
            left.append(clock.now)
            clock.sleep(0.1)
            down = 1.0 <= clock.now < 10.0
        if down:
            pace.throttled(2.0, None, duration=0.1, rate_limited=False)
        return not down

    def work() -> None:
        for _ in todo:
            while not send():
                pass

    clock.run(*[work] * 8)
    in_pause = [at for at in left if 1.0 < at < 10.0]
    assert len(in_pause) == 4
    assert all(late - early >= 2.0 for early, late in pairwise(in_pause))
    assert clock.now <= (12.7 if declared is None else 12.7 + 45)


def test_a_request_that_hangs_does_not_hold_the_others_for_long() -> None:
    """What left before a refusal is waited for two seconds beyond the pause, and no longer."""
    clock = Threads()
    pace = RateLimit(limits_with(parallel=4), clock=clock, sleep=clock.sleep)
    left: list[float] = []

    def hang() -> None:
        with pace.slot():
            clock.sleep(30.0)

    def refused() -> None:
        clock.sleep(0.5)
        with pace.slot():
            clock.sleep(0.1)
        pace.throttled(1.0, Rate(100, 60.0), duration=0.1)
        with pace.slot():
            left.append(clock.now)

    clock.run(hang, refused)
    assert left == [pytest.approx(0.6 + 1.0 + 2.0, abs=0.1)]


# Real threads.


def test_no_more_requests_are_in_flight_than_allowed() -> None:
    """The slots of an environment are shared by all its threads."""
    bounded = RateLimit(limits_with(parallel=3))
    inside = threading.Semaphore(0)
    overrides = threading.Event()
    flying: list[int] = []

    def work() -> None:
        with bounded.slot():
            flying.append(1)
            inside.release()
            overrides.wait(5)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        assert inside.acquire(timeout=5)
    assert not inside.acquire(timeout=0.05)
    assert len(flying) == 3
    overrides.set()
    for thread in threads:
        thread.join(5)
    assert len(flying) == 8


def test_an_error_in_a_slot_gives_it_back() -> None:
    """A request that fails in the middle neither keeps its slot nor the others waiting."""
    clock = Clock()
    learning = pace(clock, parallel=1)
    learning.throttled(1.0, None, rate_limited=False)
    for _ in range(2):
        with pytest.raises(OSError, match="gone"), learning.slot():
            raise OSError("gone")
    go(learning)
    assert clock.now == 1.0
