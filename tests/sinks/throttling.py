"""A rate limit for one credential, for any of the servers that imitate vendors."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from provisioner.secret import Secret
from provisioner.sinks.sink import StoredValue

if TYPE_CHECKING:
    from collections.abc import Callable

    from tls_server import HttpRequest, HttpResponse, TlsServer

    from provisioner.sinks.sink import Sink

THREADS = 8
MAX_REQUESTS = 20
PLACES = 24


class Clock:
    """A clock that advances only by waits; parallel waits count once."""

    def __init__(self) -> None:
        self.now = 0.0
        self._lock = threading.Lock()

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        with self._lock:
            self.now = max(self.now, until)


class Limit:
    """Let a server answer a number of requests in each minute of a clock, and refuse the others.

    Attributes:
        refused: the number of refused requests.
        windows: the number of minutes in which it answered requests.
    """

    def __init__(
        self,
        server: TlsServer,
        clock: Clock,
        refusal: HttpResponse,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        self._clock = clock
        self._refusal = refusal
        self._max_requests = max_requests
        self._window_start = 0.0
        self._answered = 0
        self._answer = server.answer
        self.refused = 0
        self.windows = 1
        server.answer = self._limited  # type: ignore[method-assign]

    def _limited(self, request: HttpRequest) -> HttpResponse:
        if self._clock.now >= self._window_start + 60:
            self._window_start, self._answered = self._clock.now, 0
            self.windows += 1
        if self._answered == self._max_requests:
            self.refused += 1
            return self._refusal
        self._answered += 1
        return self._answer(request)


def assert_all_delivered(limit: Limit, sink: Callable[[int], Sink], tries: int) -> None:
    """Deliver to all places in parallel, and assert that each gets its token with shared pauses.

    Args:
        limit: the limit of the server.
        sink: returns the sink of a place.
        tries: the requests that are refused during one pause; more than one if it has no known end.
    """

    def deliver(place: int) -> None:
        sink(place).check()
        sink(place).write(Secret(f"token-of-place-{place}"))

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(deliver, range(PLACES)))
        stored = list(threads.map(lambda place: sink(place).read(), range(PLACES)))
    found = [one.value.reveal() if isinstance(one, StoredValue) else None for one in stored]
    assert found == [f"token-of-place-{place}" for place in range(PLACES)]
    assert limit.windows > 2
    # Several requests are in flight at the first refusal; afterwards they are sent one by one.
    assert limit.refused <= THREADS + tries * limit.windows
