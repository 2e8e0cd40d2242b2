"""The pace of one environment: requests in flight, a token bucket, and a pause for all."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provisioner.model.environment import Limits

# A little less than one, since a wait as long as floats can say may gain a token but for dust.
_ONE = 1.0 - 1e-6

_MINUTE = 60.0
"""What limits of Twenty are counted by (docs/twenty-api.md, "Errors")."""

_LONGEST_GUESS = 10.0
"""Seconds between two tries where the server does not say how long it will go on refusing."""

_GLANCE = 0.02
"""Seconds after which those who wait for another's answer look again."""

_FLIGHT = 2.0
"""Seconds beyond a pause for which others wait for an answer: one that hangs must not hold all."""

# Twenty's own bucket forgets the begun token whenever it lets a request through, and whoever comes
# a moment too early is refused. So a refused client leaves a little more than the interval, and
# more each time that this was not enough.
_FIRST_STRETCH = 1.02
_NEXT_STRETCH = 1.04


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds, the full burst at once."""

    requests: int
    seconds: float

    @property
    def interval(self) -> float:
        """Seconds that one more request takes to be allowed."""
        return self.seconds / self.requests


_LEAST = Rate(50, _MINUTE)
"""What hosted Twenty allows at least; tried where too few requests got through to tell."""


@dataclass(slots=True)
class _Bucket:
    """A token bucket: the full burst, then the refill, and one by one after a refusal.

    Attributes:
        most: tokens that it holds.
        filled_at: until when the refill is in `tokens`, by the clock of the pace; infinite while
            none began.
        stretch: how many times the interval of the rate one more token takes.
    """

    rate: Rate
    most: float
    tokens: float
    filled_at: float
    stretch: float = 1.0

    @property
    def interval(self) -> float:
        """Seconds from one token to the next."""
        return self.rate.interval * self.stretch

    def take(self, now: float) -> float:
        """Takes a token if one is there; else says in how many seconds."""
        gained = max(0.0, now - self.filled_at) / self.interval
        self.tokens = min(self.most, self.tokens + gained)
        self.filled_at = max(self.filled_at, now)
        if self.tokens >= _ONE:
            self.tokens -= 1.0
            return 0.0
        return (1.0 - self.tokens) * self.interval

    def empty(self, until: float) -> None:
        """The server's turned out to be: one token at that moment, and no two at once any more."""
        self.most = self.tokens = 1.0
        self.filled_at = until


class _Guess:
    """The rate of a server that does not say it."""

    def __init__(self) -> None:
        self._left: list[float] = []
        self._proven: Rate | None = None
        self._double_at: float | None = None

    def leaves(self, now: float) -> None:
        """A request left, and nothing was refused yet."""
        self._left.append(now)

    def at_first(self, now: float) -> Rate:
        """What a limit by the minute has to allow when it let all through but one more.

        Called for each of the first requests to be refused. A bucket of B requests that is refilled
        at B a minute lets B * (1 + t / 60) through in any t seconds, and no more.
        """
        if self._left:
            self._left.pop()
        proven = (
            Rate(len(self._left) - before, _MINUTE + now - at)
            for before, at in enumerate(self._left)
        )
        self._proven = min(proven, key=_interval, default=None)
        rate = self._no_less_than_proven(_LEAST)
        # Too few to tell, or the bucket was not full: a whole minute without refusal tells.
        self._double_at = now + _MINUTE if rate is _LEAST else None
        return rate

    def at_next(self, rate: Rate) -> Rate:
        """What to try when this rate was too much."""
        self._double_at = None
        return self._no_less_than_proven(_times(rate, 0.5))

    def after(self, now: float, rate: Rate) -> Rate:
        """What to try when this rate was not refused so far."""
        if self._double_at is None or now < self._double_at:
            return rate
        self._double_at = now + _MINUTE
        return _times(rate, 2)

    def _no_less_than_proven(self, rate: Rate) -> Rate:
        return rate if self._proven is None else min(self._proven, rate, key=_interval)


class NotWantedError(Exception):
    """A request was given up before its turn came."""


class RateLimit:
    """Lets requests through no faster than the server allows.

    A declared rate is held by a token bucket, the full burst first and then the refill. With
    none declared, the first refusal sets the rate for every thread at once: the one that the
    server says, or else the one that its limit must have if it let so many through before.

    After a refusal all wait, then one request goes alone, and when it got through the others
    follow at the rate.
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
        self._not_before = clock()
        self._bucket: _Bucket | None = None
        self._guess: _Guess | None = _Guess()
        self._flying = 0
        # From a refusal on, until the first request after the pause got through.
        self._recovering = False
        self._for_speed = False
        self._first_is_out = False
        self._answered = 0
        self._pauses = 0
        self._in_a_row = 0
        if (declared := limits.requests_per_minute) is not None:
            full = float(declared)
            self._guess = None
            self._bucket = _Bucket(Rate(declared, _MINUTE), full, full, inf)
        self._declared = declared is not None

    @contextmanager
    def slot(self, wanted: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Waits for a free slot and for this request's turn, and holds the slot meanwhile.

        Raises:
            NotWantedError: when the request was not wanted any more before its turn came.
        """
        with self._slots:
            while True:
                if not wanted():
                    raise NotWantedError
                if (wait := self._claim()) <= 0:
                    break
                self._sleep(wait)
            try:
                yield
            finally:
                self._release_slot()

    def throttled(
        self, wait: float | None, rate: Rate | None, *, took: float = 0.0, for_speed: bool = True
    ) -> float:
        """The server refused a request: everyone waits, and then keeps the rate.

        Args:
            wait: seconds that the server asks for, where it does.
            rate: what the server says that it allows, where it does.
            took: seconds from when the request left to now.
            for_speed: whether it was refused for its speed, and not because the server is down,
                which says nothing of a rate.

        Returns:
            Seconds until the next request may go out.
        """
        with self._lock:
            now = self._clock()
            # Nobody leaves in a pause: who left before its end did not know of it.
            again = now - took >= self._not_before
            if again:
                self._in_a_row = 1 if self._answered > 1 else self._in_a_row + 1
                self._answered = 0
                self._pauses += for_speed
            if for_speed:
                self._learn(rate, now, again=again)
            self._for_speed = for_speed
            resume = now if wait is None else now + wait
            if wait is None or self._in_a_row > 1:
                resume = max(resume, now + self._max_wait())
            self._recovering = True
            self._pause(resume)
            return self._not_before - now

    def _claim(self) -> float:
        """Lets the request go if it may; else says how many seconds to wait and ask again."""
        with self._lock:
            now = self._clock()
            if now < self._not_before:
                return self._not_before - now
            if self._recovering and self._flying and now < self._not_before + _FLIGHT:
                return _GLANCE
            if (wait := self._token(now)) > 0:
                return wait
            self._flying += 1
            self._first_is_out = self._recovering
            return 0.0

    def _token(self, now: float) -> float:
        bucket, guess = self._bucket, self._guess
        if bucket is None:
            if guess is not None:
                guess.leaves(now)
            return 0.0
        if guess is not None:
            bucket.rate = guess.after(now, bucket.rate)
        return bucket.take(now)

    def _release_slot(self) -> None:
        """A request came back; whether it was refused is said right after that."""
        with self._lock:
            self._flying -= 1
            # The server's refill began with the first arrival, which was before this answer.
            if self._bucket is not None and self._bucket.filled_at == inf:
                self._bucket.filled_at = self._clock()
            if self._recovering and not self._first_is_out:
                # It may have taken the token that the next one counts on.
                if self._bucket is not None and self._for_speed:
                    self._pause(self._clock() + self._bucket.interval)
                return
            self._answered += 1
            self._recovering = self._first_is_out = False

    def _pause(self, until: float) -> None:
        self._not_before = max(self._not_before, until)
        if self._bucket is not None and self._for_speed:
            self._bucket.empty(self._not_before)

    def _max_wait(self) -> float:
        """Seconds to wait for a server that does not say how long, or says too little."""
        if self._bucket is None or not self._for_speed:
            return _LEAST.interval
        interval = self._bucket.interval
        # A limit by fixed windows goes on refusing until the next one begins.
        return float(min(interval * 2.0 ** (self._in_a_row - 1), max(interval, _LONGEST_GUESS)))

    def _learn(self, said: Rate | None, now: float, *, again: bool) -> None:
        """Takes the rate from a refusal, and a little less of it than was too much."""
        bucket = self._bucket
        if again and bucket is not None:
            if bucket.stretch < _FIRST_STRETCH:
                bucket.stretch = _FIRST_STRETCH
            elif self._in_a_row == 1:
                bucket.stretch *= _NEXT_STRETCH
        guess = self._guess
        if self._declared:
            return
        if said is not None:
            if guess is not None or bucket is None or said.interval > bucket.rate.interval:
                self._guess = None
                self._use(said)
        elif guess is not None:
            if bucket is None or (not again and self._pauses == 1):
                self._use(guess.at_first(now))
            elif again and self._in_a_row == 1:
                self._use(guess.at_next(bucket.rate))

    def _use(self, rate: Rate) -> None:
        if self._bucket is None:
            self._bucket = _Bucket(rate, 1.0, 0.0, self._clock(), _FIRST_STRETCH)
        else:
            self._bucket.rate = rate


def _interval(rate: Rate) -> float:
    return rate.interval


def _times(rate: Rate, factor: float) -> Rate:
    return Rate(rate.requests, rate.seconds / factor)
