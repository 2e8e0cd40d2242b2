"""The pace of one environment: requests in flight, a token bucket, and a pause for all."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provisioner.desired import Limits

# A little less than one, since a wait as long as floats can say may gain a token but for dust.
_ONE = 1.0 - 1e-6


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds, the full burst at once."""

    requests: int
    seconds: float


class Pace:
    """Lets requests through no faster than the server allows.

    A declared rate is held by a token bucket, the full burst first and then the refill. With
    none declared, the first throttling answer sets the pace for every thread at once.
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
        self._rate: Rate | None = None
        self._tokens = 0.0
        self._filled_at = clock()
        if limits.requests_per_minute is not None:
            self._rate = Rate(limits.requests_per_minute, 60.0)
            self._tokens = float(limits.requests_per_minute)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Waits for a free slot and for this request's turn, and holds the slot meanwhile."""
        with self._slots:
            while (wait := self._claim()) > 0:
                self._sleep(wait)
            yield

    def throttled(self, wait: float, rate: Rate | None) -> None:
        """The server refused a request for its speed: everyone waits, and then keeps the rate.

        Args:
            wait: seconds until the next request may go out.
            rate: what the server said that it allows, if it did.
        """
        with self._lock:
            now = self._clock()
            self._not_before = max(self._not_before, now + wait)
            if rate is not None and self._rate is None:
                self._rate = rate
            if self._rate is not None:
                self._tokens = min(self._tokens, 1.0)
                self._filled_at = max(self._filled_at, self._not_before)

    def _claim(self) -> float:
        """Takes a token if one is there; else says how many seconds to wait and ask again."""
        with self._lock:
            now = self._clock()
            if now < self._not_before:
                return self._not_before - now
            if self._rate is None:
                return 0.0
            per_second = self._rate.requests / self._rate.seconds
            gained = max(0.0, now - self._filled_at) * per_second
            self._tokens = min(float(self._rate.requests), self._tokens + gained)
            self._filled_at = max(self._filled_at, now)
            if self._tokens >= _ONE:
                self._tokens -= 1.0
                return 0.0
            return (1.0 - self._tokens) / per_second
