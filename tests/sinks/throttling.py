"""A limit on the requests of one credential, for any of the stand-ins."""

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
    """A clock that runs by the waits alone, however many wait at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self._lock = threading.Lock()

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        with self._lock:
            self.now = max(self.now, until)


class Limit:
    """Has a server let so many requests through in a minute of a clock, and refuse the others.

    Attributes:
        refused: how many it refused.
        windows: how many minutes it let requests through in.
    """

    def __init__(
        self, server: TlsServer, clock: Clock, refusal: HttpResponse, most: int = MAX_REQUESTS
    ) -> None:
        self._clock = clock
        self._refusal = refusal
        self._most = most
        self._since = 0.0
        self._passed = 0
        self._answer = server.answer
        self.refused = 0
        self.windows = 1
        server.answer = self._limited  # type: ignore[method-assign]

    def _limited(self, request: HttpRequest) -> HttpResponse:
        if self._clock.now >= self._since + 60:
            self._since, self._passed = self._clock.now, 0
            self.windows += 1
        if self._passed == self._most:
            self.refused += 1
            return self._refusal
        self._passed += 1
        return self._answer(request)


def assert_all_delivered(limit: Limit, sink: Callable[[int], Sink], tries: int) -> None:
    """Delivers to all places at once; each holds its own token, and one pause was for all.

    Args:
        limit: of the server of the sinks.
        sink: that of a place.
        tries: requests that are refused in one pause; where it names no end, a few.
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
    # Those in flight at the first refusal; after it they go one by one.
    assert limit.refused <= THREADS + tries * limit.windows
