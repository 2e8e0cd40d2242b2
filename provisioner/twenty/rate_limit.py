"""The request rate of one environment: requests in flight, a token bucket, and a pause for all."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
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

_STRETCH = 1.02
"""Factor on a measured interval: Twenty's own bucket refuses whoever comes a moment too early."""

_RARE = 10
"""Accepted requests after which a refusal is rare, so that it needs no trial."""

_MAX_STEP = 4.0
"""The most that a rare refusal slows down: there may have been few requests to send before it."""

_CALM = 50
"""Intervals without a refusal, at least a minute, after which the pace grows."""

_GROWTH = 1.012
"""Factor by which a calm pace grows with each request, so that it doubles within 60."""

_MIN_INTERVAL = 0.001
"""Seconds below which a growing pace is no limit."""

_FAST = 0.1
"""Seconds from one request to the next that are too short to gain anything by a trial."""

_TRIAL_WAIT = 0.05
"""Seconds to wait after a refusal in a trial; no limit as slow as Twenty's allows more by then.

Nor is any other wait shorter if the server does not say how long.
"""

_WEIGHT = 0.05
"""Weight of the newest request in the refused share of a trial: about 20 requests count."""

_MAX_REFUSED = 0.45
"""Refused share that ends a trial; even a limit of 20 requests a second refuses half of them."""

_DOUBT = 0.44
"""Refused share that a trial begins with, so that a refusal ends it."""

_MAX_TRIAL = 25
"""Accepted requests that show a pace. A fast limit accepts most requests of a trial too."""

_MAX_AT_ONCE = 1
"""Requests refused at the first refusal that need a trial; more of them show a limit already."""

_TRUST = 0.4
"""Refused share below which a trial may have several requests in flight."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds, the full burst at once."""

    requests: int
    seconds: float

    @property
    def interval(self) -> float:
        """Return the seconds from one allowed request to the next."""
        return self.seconds / self.requests


_MIN_RATE = Rate(50, _MINUTE)
"""The least that hosted Twenty allows; used if too few requests were accepted to tell."""

_MAX_HOSTED = Rate(100, _MINUTE)
"""The most that hosted Twenty allows; a higher declared rate is not believed once it is refused."""


@dataclass(slots=True)
class _Bucket:
    """A token bucket: the full burst, then the refill; only single tokens after a refusal.

    Attributes:
        max_tokens: its capacity.
        filled_at: time up to which `tokens` includes the refill, by the clock of the rate limit;
            infinite before the first request.
    """

    max_tokens: float
    tokens: float
    filled_at: float = inf

    def take(self, now: float, interval: float) -> float:
        """Take a token and return 0, or return the seconds until one is there."""
        gained = max(0.0, now - self.filled_at) / interval
        self.tokens = min(self.max_tokens, self.tokens + gained)
        self.filled_at = max(self.filled_at, now)
        if self.tokens >= _ONE:
            self.tokens -= 1.0
            return 0.0
        return (1.0 - self.tokens) * interval

    def empty(self, until: float) -> None:
        """Keep one token, from that time on, and never hold more than one again.

        The server refused a request, so its own bucket is empty.
        """
        self.max_tokens = self.tokens = 1.0
        self.filled_at = until


@dataclass(slots=True)
class _Trial:
    """Requests as fast as they come, to see if a slower pace would prevent refusals.

    A limit on our rate refuses most of them. If others use it up, most are accepted, and the trial
    goes on.

    Attributes:
        refused: the share of the last requests that was refused.
    """

    refused: float = _DOUBT

    def accept(self) -> None:
        """Count a request that came back."""
        self.refused *= 1.0 - _WEIGHT

    def refuse(self) -> bool:
        """Count it as refused after all, and return whether the trial goes on."""
        self.refused += _WEIGHT
        return self.refused < _MAX_REFUSED


@dataclass(slots=True)
class _Pace:
    """The interval between two requests, as the refusals of the server show it.

    A bucket is empty whenever it refuses. So between two refusals, it was filled with as many
    tokens as there were accepted requests, and that is its rate. After a calm time the interval
    shrinks until the next refusal.

    Attributes:
        interval: seconds from one request to the next; 0 before a rate is known.
        shortest: the interval of the rate that the server states or the manifest declares; 0
            without one.
        is_stated: whether the server stated a rate.
        trial: the one that is under way, in which the interval is not kept.
        since: when the bucket was empty.
        accepted: requests since then.
        calm_at: when the interval begins to shrink, unless anything is refused before.
        doubt: the refused share that the next trial begins with; an earlier one may have shown it.
        at_once: how many of the first requests were refused.
    """

    interval: float = 0.0
    shortest: float = 0.0
    is_stated: bool = False
    trial: _Trial | None = None
    since: float = inf
    accepted: int = 0
    calm_at: float = inf
    doubt: float = _DOUBT
    at_once: int = 0

    def state(self, rate: Rate, now: float) -> bool:
        """Keep a rate that the server states, and return whether it is the slowest one so far."""
        self.is_stated, self.trial = True, None
        if rate.interval <= self.shortest:
            return False
        self.shortest = rate.interval
        self._use(rate.interval * _STRETCH, now)
        self.since, self.accepted = now, 0
        return True

    def estimate(self, sent_at: list[float], now: float, *, may_try: bool) -> None:
        """Keep the rate that a limit by the minute must have if it accepted these requests.

        A bucket of B requests that is refilled at B a minute accepts at most B * (1 + t / 60) in
        any t seconds.
        """
        count = len(sent_at)
        proven = min(
            ((_MINUTE + now - at) / (count - index) for index, at in enumerate(sent_at)),
            default=inf,
        )
        is_usual = self.shortest >= _MAX_HOSTED.interval
        self._use(min(proven, self.shortest if is_usual else _MIN_RATE.interval) * _STRETCH, now)
        # Too few to tell, or the bucket was not full.
        is_unknown = not is_usual and proven > 2 * _MIN_RATE.interval
        self.at_once += 1
        self.trial = _Trial() if is_unknown and may_try and self.at_once <= _MAX_AT_ONCE else None
        self.since, self.accepted = now, 0

    def refuse(self, sent_at: float, now: float, *, may_try: bool) -> None:
        """Count the last one as refused after all, and slow down.

        Args:
            sent_at: when it was sent.
            now: the time.
            may_try: whether a trial may begin.
        """
        self.accepted -= 1
        is_rare = self.accepted >= _RARE
        if self.trial is not None:
            goes_on = self.trial.refuse()
            if goes_on and self.accepted < _MAX_TRIAL:
                return
            self.doubt = self.trial.refused if goes_on else _DOUBT
            self.trial = None
        elif may_try and not (is_rare or self.is_stated or self.interval <= _FAST):
            self.trial = _Trial(self.doubt)
        interval = self.interval
        if self.accepted == 0 and self.trial is not None:
            interval *= _STRETCH  # not even one was accepted in this interval
        if self.accepted > 0:
            # Half a token more or less may have been left over. One accepted request may have been
            # nearly due, so it does not show that the pace could be faster.
            passed = _STRETCH * (sent_at - self.since)
            longest = passed / (self.accepted - 0.5) if self.accepted > 1 else inf
            interval = max(passed / (self.accepted + 0.5), min(interval, longest))
            if self.is_stated:
                # Others share the limit, and half of it is for them.
                interval = min(interval, 2 * self.shortest)
            elif is_rare:
                interval = min(interval, _MAX_STEP * self.interval)
            self.since, self.accepted = sent_at, 0
        self._use(max(interval, self.shortest * _STRETCH), now)

    def grow(self, now: float) -> None:
        """Speed up with a request after a calm time, up to the stated or declared rate."""
        shortest = max(self.shortest * _STRETCH, _MIN_INTERVAL)
        if now >= self.calm_at and self.interval > shortest:
            self.interval = max(shortest, self.interval / _GROWTH)

    def _use(self, interval: float, now: float) -> None:
        self.interval = interval
        self.calm_at = now + max(_MINUTE, _CALM * interval)


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
    at the rate. `_Pace` says which rate that is.
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
        self._over_rate = False  # the last refusal was for the rate
        self._first_sent: list[float] | None = []  # when, before the first refusals for the rate
        declared = limits.requests_per_minute
        interval = 0.0 if declared is None else _MINUTE / declared
        self._pace = _Pace(interval, interval)
        self._bucket = _Bucket(declared or 1, declared or 1)

    @property
    def per_minute(self) -> float:
        """Return the requests a minute that are sent at most; infinite before a rate is known."""
        return _MINUTE / self._pace.interval if self._pace.interval else inf

    @property
    def is_trying(self) -> bool:
        """Return whether requests go on without a rate, to see if one would help."""
        return self._pace.trial is not None

    @contextmanager
    def slot(self, still_wanted: Callable[[], bool] = lambda: True) -> Iterator[float]:
        """Wait for a free slot and for this request's turn, and hold the slot in the block.

        Yields:
            Seconds from the free slot to the turn.

        Raises:
            RequestAbandonedError: `still_wanted` returned false before the turn came.
        """
        with self._slots:
            free_at = self._clock()
            while True:
                if not still_wanted():
                    raise RequestAbandonedError
                if (wait := self._claim()) <= 0:
                    break
                self._sleep(wait)
            try:
                yield self._clock() - free_at
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
            sent_at = now - duration
            # Nothing is sent in a pause, so a request sent before its end did not know of it.
            is_new = sent_at >= self._not_before
            accepted = self._accepted - 1  # this one was counted when it came back
            was_down = self._refusals > 0 and not self._over_rate
            if not rate_limited and is_new and was_down and 0 < accepted < _RARE:
                # A server that is down accepts nothing between two refusals; a limit does. The
                # burst is no proof of its rate, so that a trial follows.
                rate_limited = True
                if self._first_sent is not None:
                    self._first_sent.clear()
            # One trial is enough if nothing was accepted since.
            may_try = not wait and (accepted > 0 or self._refusals <= 1)
            if is_new:
                self._refusals = 1 if accepted > 0 else self._refusals + (self._pace.trial is None)
                self._accepted = 0
            self._over_rate = rate_limited
            if rate_limited:
                self._learn(rate, sent_at, now, is_new=is_new, may_try=may_try)
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
            pace = self._pace
            if pace.interval and pace.trial is None:
                if (wait := self._bucket.take(now, pace.interval)) > 0:
                    return wait
                pace.grow(now)
            if self._gate is _Gate.PAUSED:
                self._gate = _Gate.PROBING
                if self._over_rate:
                    self._first_sent = None
            if self._first_sent is not None:
                self._first_sent.append(now)
            self._in_flight += 1
            return 0.0

    def _release_slot(self) -> None:
        """Record that a request came back; a refusal is reported right after this."""
        with self._lock:
            self._in_flight -= 1
            if self._pace.trial is not None:
                self._pace.trial.accept()
            # The server's refill started with the first request, which was before this answer.
            if self._bucket.filled_at == inf:
                self._bucket.filled_at = self._clock()
            if self._gate is not _Gate.PAUSED:
                self._accepted += 1
                self._pace.accepted += 1
                if self._pace.trial is None or self._pace.trial.refused < _TRUST:
                    self._gate = _Gate.OPEN
            elif self._over_rate and self._pace.trial is None:
                # It may have taken the token that the next request expects.
                self._pause(self._clock() + self._pace.interval)

    def _pause(self, until: float) -> None:
        self._not_before = max(self._not_before, until)
        if self._over_rate:
            self._bucket.empty(self._not_before)

    def _unstated_wait(self) -> float:
        """Return the seconds to wait if the server does not say how long, or says too little."""
        if not self._over_rate:
            return _MIN_RATE.interval
        if self._pace.trial is not None:
            return _TRIAL_WAIT
        interval = max(self._pace.interval, _TRIAL_WAIT)
        # A limit by fixed windows keeps refusing until the next window starts.
        return float(min(interval * 2.0 ** (self._refusals - 1), max(interval, _MAX_WAIT)))

    def _learn(
        self, stated: Rate | None, sent_at: float, now: float, *, is_new: bool, may_try: bool
    ) -> None:
        """Set the pace after a refusal for the rate.

        Args:
            stated: the rate that the server says it allows, if it does.
            sent_at: when the refused request was sent.
            now: the time.
            is_new: whether the request was sent after the last refusal.
            may_try: whether a trial may begin.
        """
        pace = self._pace
        if stated is not None and pace.state(stated, now):
            return
        if self._first_sent is not None and not pace.is_stated:
            # Each of the first requests to be refused was sent and not accepted.
            del self._first_sent[-1:]
            pace.estimate(self._first_sent, now, may_try=may_try)
        elif is_new:
            pace.refuse(sent_at, now, may_try=may_try)
        elif pace.trial is not None:
            pace.trial.refuse()
