"""The request rate of one environment: requests in flight, a token bucket, and a pause for all."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provisioner.model.environment import Limits

# A little less than one, since the wait for a token is only as exact as a float.
_ONE = 1.0 - 1e-6

_MINUTE = 60.0
"""The period of Twenty's rate limits (docs/twenty-api.md, "Errors")."""

_MAX_WAIT = 10.0
"""Seconds between two tries if the server does not say how long it will keep refusing."""

_POLL_INTERVAL = 0.02
"""Seconds after which those who wait for another request check its state again."""

_MAX_HOLD = 2.0
"""Seconds after a pause that others wait for a request in flight: one that hangs must not block."""

# Twenty's own bucket drops the started token whenever it accepts a request, and refuses whoever
# comes a moment too early. So a refused client waits a little longer than the interval, and longer
# each time that this was not enough.
_FIRST_STRETCH = 1.02
_NEXT_STRETCH = 1.04


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds, the full burst at once."""

    requests: int
    seconds: float

    @property
    def interval(self) -> float:
        """Return the seconds from one allowed request to the next."""
        return self.seconds / self.requests

    def times(self, factor: float) -> Rate:
        """Return a rate that is higher by this factor."""
        return Rate(self.requests, self.seconds / factor)


_MIN_RATE = Rate(50, _MINUTE)
"""The least that hosted Twenty allows; used if too few requests were accepted to tell."""


def _higher(rate: Rate, proven: Rate | None) -> Rate:
    return rate if proven is None or rate.interval < proven.interval else proven


@dataclass(slots=True)
class _Bucket:
    """A token bucket: the full burst, then the refill; only single tokens after a refusal.

    Attributes:
        max_tokens: its capacity.
        filled_at: time up to which `tokens` includes the refill, by the clock of the rate limit;
            infinite before the first request.
        stretch: factor on the interval of the rate.
    """

    rate: Rate
    max_tokens: float
    tokens: float
    filled_at: float
    stretch: float = 1.0

    @property
    def interval(self) -> float:
        """Return the seconds from one token to the next."""
        return self.rate.interval * self.stretch

    def take(self, now: float) -> float:
        """Take a token and return 0, or return the seconds until one is there."""
        gained = max(0.0, now - self.filled_at) / self.interval
        self.tokens = min(self.max_tokens, self.tokens + gained)
        self.filled_at = max(self.filled_at, now)
        if self.tokens >= _ONE:
            self.tokens -= 1.0
            return 0.0
        return (1.0 - self.tokens) * self.interval

    def empty(self, until: float) -> None:
        """Keep one token, from that time on, and never hold more than one again.

        The server refused a request, so its own bucket is empty.
        """
        self.max_tokens = self.tokens = 1.0
        self.filled_at = until

    def slow_down(self, *, again: bool) -> None:
        """Slow the rate down a little, since it was too high."""
        if self.stretch < _FIRST_STRETCH:
            self.stretch = _FIRST_STRETCH
        elif again:
            self.stretch *= _NEXT_STRETCH


@dataclass(slots=True)
class _RateEstimate:
    """Estimate of the rate of a server that does not state it.

    Attributes:
        sent_at: when each request was sent, before anything was refused.
        proven: a rate that the server accepted, if enough requests were sent to tell.
        double_at: when to try twice the rate, unless anything is refused before.
    """

    sent_at: list[float] = field(default_factory=list)
    proven: Rate | None = None
    double_at: float | None = None

    def on_first_refusal(self, now: float) -> Rate:
        """Return the rate that a limit by the minute must have if it accepted all but one more.

        Called for each of the first requests to be refused. A bucket of B requests that is refilled
        at B a minute accepts at most B * (1 + t / 60) in any t seconds.
        """
        if self.sent_at:
            self.sent_at.pop()
        rates = (
            Rate(len(self.sent_at) - index, _MINUTE + now - sent_at)
            for index, sent_at in enumerate(self.sent_at)
        )
        self.proven = min(rates, key=lambda rate: rate.interval, default=None)
        rate = _higher(_MIN_RATE, self.proven)
        # Too few to tell, or the bucket was not full: a whole minute without refusal will show.
        self.double_at = now + _MINUTE if rate is _MIN_RATE else None
        return rate

    def on_refusal(self, rate: Rate) -> Rate:
        """Return the rate to try after this rate was too high."""
        self.double_at = None
        return _higher(rate.times(0.5), self.proven)

    def on_send_at_rate(self, now: float, rate: Rate) -> Rate:
        """Return the rate to try after this rate was not refused so far."""
        if self.double_at is None or now < self.double_at:
            return rate
        self.double_at = now + _MINUTE
        return rate.times(2)


class RequestAbandonedError(Exception):
    """A request was given up before its turn came."""


class _Gate(Enum):
    """State of the gate that all requests pass."""

    OPEN = auto()
    """Every request passes in its turn."""
    PAUSED = auto()
    """None passes until the pause is over; then one does, once those in flight are back."""
    PROBING = auto()
    """The first request after a pause is in flight, and the others wait for it."""


class RateLimit:
    """Gate that sends requests no faster than the server allows.

    A declared rate is a token bucket: the full burst first, then the refill. Without one, the first
    refusal sets the rate for every thread at once: the rate that the server says, otherwise the one
    that its limit must have if it accepted so many requests before.

    After a refusal all wait, then one request goes first, and once it is accepted the others follow
    at the rate.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._slots = threading.BoundedSemaphore(limits.parallel)
        self._lock = threading.Lock()
        self._clock = clock
        self._sleep = sleep
        self._gate = _Gate.OPEN
        self._not_before = clock()
        self._in_flight = 0
        self._accepted = 0  # since the last refusal
        self._refusals = 0  # in a row
        self._pauses = 0  # for the rate
        self._over_rate = False  # the last refusal was for the rate
        self._bucket: _Bucket | None = None  # None until a rate is known
        self._estimate: _RateEstimate | None = _RateEstimate()
        declared = limits.requests_per_minute
        self._is_declared = declared is not None
        if declared is not None:
            self._estimate = None
            self._bucket = _Bucket(Rate(declared, _MINUTE), declared, declared, inf)

    @contextmanager
    def slot(self, still_wanted: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Wait for a free slot and for this request's turn, and hold the slot in the block.

        Raises:
            RequestAbandonedError: `still_wanted` returned false before the turn came.
        """
        with self._slots:
            while True:
                if not still_wanted():
                    raise RequestAbandonedError
                if (wait := self._claim()) <= 0:
                    break
                self._sleep(wait)
            try:
                yield
            finally:
                self._release_slot()

    def throttled(
        self,
        wait: float | None,
        rate: Rate | None,
        *,
        duration: float = 0.0,
        rate_limited: bool = True,
    ) -> float:
        """Record a refusal: every thread waits, and then keeps the rate.

        Args:
            wait: seconds that the server asks to wait, if it does.
            rate: the rate that the server says it allows, if it does.
            duration: seconds since the request was sent.
            rate_limited: whether the rate limit caused the refusal. A server that is down says
                nothing about a rate.

        Returns:
            Seconds until the next request may be sent.
        """
        with self._lock:
            now = self._clock()
            # Nothing is sent in a pause, so a request sent before its end did not know of it.
            is_new = now - duration >= self._not_before
            if is_new:
                self._refusals = 1 if self._accepted > 1 else self._refusals + 1
                self._accepted = 0
                self._pauses += rate_limited
            if rate_limited:
                if self._bucket is not None and is_new:
                    self._bucket.slow_down(again=self._refusals == 1)
                self._learn(rate, now, is_new=is_new)
            self._over_rate = rate_limited
            self._gate = _Gate.PAUSED
            resume = now if wait is None else now + wait
            if wait is None or self._refusals > 1:
                resume = max(resume, now + self._unstated_wait())
            self._pause(resume)
            return self._not_before - now

    def _claim(self) -> float:
        """Let the request pass and return 0, or return the seconds to wait before asking again."""
        with self._lock:
            now = self._clock()
            if now < self._not_before:
                return self._not_before - now
            holds = self._in_flight > 0 and now < self._not_before + _MAX_HOLD
            if holds and self._gate is not _Gate.OPEN:
                return _POLL_INTERVAL
            if (bucket := self._bucket) is None:
                if self._estimate is not None:
                    self._estimate.sent_at.append(now)
            else:
                if self._estimate is not None:
                    bucket.rate = self._estimate.on_send_at_rate(now, bucket.rate)
                if (wait := bucket.take(now)) > 0:
                    return wait
            self._in_flight += 1
            if self._gate is _Gate.PAUSED:
                self._gate = _Gate.PROBING
            return 0.0

    def _release_slot(self) -> None:
        """Record that a request came back; a refusal is reported right after this."""
        with self._lock:
            self._in_flight -= 1
            # The server's refill started with the first request, which was before this answer.
            if self._bucket is not None and self._bucket.filled_at == inf:
                self._bucket.filled_at = self._clock()
            if self._gate is not _Gate.PAUSED:
                self._accepted += 1
                self._gate = _Gate.OPEN
            elif self._bucket is not None and self._over_rate:
                # It may have taken the token that the next request expects.
                self._pause(self._clock() + self._bucket.interval)

    def _pause(self, until: float) -> None:
        self._not_before = max(self._not_before, until)
        if self._bucket is not None and self._over_rate:
            self._bucket.empty(self._not_before)

    def _unstated_wait(self) -> float:
        """Return the seconds to wait if the server does not say how long, or says too little."""
        if self._bucket is None or not self._over_rate:
            return _MIN_RATE.interval
        interval = self._bucket.interval
        # A limit by fixed windows keeps refusing until the next window starts.
        return float(min(interval * 2.0 ** (self._refusals - 1), max(interval, _MAX_WAIT)))

    def _learn(self, stated: Rate | None, now: float, *, is_new: bool) -> None:
        """Set a rate that is not declared: the slowest stated one, or else an estimate."""
        bucket, estimate = self._bucket, self._estimate
        if stated is not None and not self._is_declared:
            self._estimate = None
            if estimate or bucket is None or stated.interval > bucket.rate.interval:
                self._use(stated)
        elif estimate is not None:
            if bucket is None or (not is_new and self._pauses == 1):
                self._use(estimate.on_first_refusal(now))
            elif is_new and self._refusals == 1:
                self._use(estimate.on_refusal(bucket.rate))

    def _use(self, rate: Rate) -> None:
        if self._bucket is None:
            self._bucket = _Bucket(rate, 1.0, 0.0, self._clock(), _FIRST_STRETCH)
        else:
            self._bucket.rate = rate
