"""The pace of an environment, on a clock of its own."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.desired import Limits
from provisioner.twenty.pacing import Pace, Rate


@dataclass
class Clock:
    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def pace(clock: Clock, **limits: int) -> Pace:
    return Pace(Limits(**limits), clock=clock, sleep=clock.sleep)  # type: ignore[arg-type]


def go(pace: Pace) -> None:
    with pace.slot():
        pass


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
    """After a refusal nobody goes before the wait is over, and then no faster than was said."""
    clock = Clock()
    learning = pace(clock)
    go(learning)
    learning.throttled(10.0, Rate(100, 60.0))
    for _ in range(11):
        go(learning)
    assert clock.slept[0] == 10.0
    assert clock.now == pytest.approx(10.0 + 11 * 0.6)


def test_a_shorter_wait_does_not_end_a_longer_one() -> None:
    """Two refusals at once: the longer wait counts, and a declared rate is not replaced."""
    clock = Clock()
    bucket = pace(clock, requests_per_minute=60)
    bucket.throttled(10.0, None)
    bucket.throttled(2.0, Rate(1, 1000.0))
    go(bucket)
    go(bucket)
    assert clock.now == pytest.approx(11.0)


def test_no_more_requests_are_in_flight_than_allowed() -> None:
    """The slots of an environment are shared by all its threads."""
    bounded = Pace(Limits(parallel=3))
    inside = threading.Semaphore(0)
    leave = threading.Event()
    flying: list[int] = []

    def work() -> None:
        with bounded.slot():
            flying.append(1)
            inside.release()
            leave.wait(5)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        assert inside.acquire(timeout=5)
    assert not inside.acquire(timeout=0.05)
    assert len(flying) == 3
    leave.set()
    for thread in threads:
        thread.join(5)
    assert len(flying) == 8
