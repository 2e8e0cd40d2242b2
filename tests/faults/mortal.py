"""Runs that can be killed at any of their requests and writes, and that know their own mark."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from provisioner.runtime.cancellation import Cancellation
from provisioner.sinks.sink import sink_error
from provisioner.twenty.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.secret import Secret
    from provisioner.sinks.sink import Sink
    from provisioner.twenty.answers import Answer

HURRY = 200
"""How many times faster the waits of a run go by here."""

Moment = Literal["before", "after"]
T = TypeVar("T")


class Hurried(Cancellation):
    """A stop whose clock runs fast, so that waits end soon and are still as long as they were."""

    def now(self) -> float:
        return super().now() * HURRY

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds / HURRY)


class Killed(BaseException):
    """The process is gone: nothing that it would do afterwards happens."""


@dataclass(frozen=True)
class Kill:
    """Where a run is killed: before or after so many of its requests, if it sends as many."""

    number: int
    moment: Moment


@dataclass
class Process:
    """One run as the server sees it: what it sends until it ends or is killed.

    Attributes:
        mark: the milliseconds that it writes into its keys.
        looked_at: when its last look that was answered arrived, by `time.monotonic`.
        written: ids of the keys that it wrote to, besides creating them.
    """

    kill: Kill | None
    mark: int
    looked_at: float = 0.0
    written: set[str] = field(default_factory=set)
    killed: bool = False
    _sent: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def steps(self) -> int:
        """The exchanges and writes that it began."""
        return self._sent

    def passes(self, exchange: Callable[[], T]) -> T:
        """Lets one exchange or write happen, unless the process is gone before or after it."""
        with self._lock:
            number = self._sent
            self._sent += 1
            if self.kill == Kill(number, "before"):
                self.killed = True
            if self.killed:
                raise Killed
        answer = exchange()
        with self._lock:
            if self.kill == Kill(number, "after"):
                self.killed = True
            if self.killed:
                raise Killed
        return answer


PROCESSES: dict[str, Process] = {}
"""The runs under way, by the name of their environment."""


class Mortal(Transport):
    """A transport whose process may be killed."""

    def _exchange(
        self, method: str, path: str, body: Any, bearer: str | None, **how: bool
    ) -> Answer:
        process = PROCESSES[self.name]
        started = time.monotonic()
        if method == "PATCH":
            process.written.add(path.rpartition("/")[2])
        if isinstance(body, dict) and "revokeApiKey" in body.get("query", ""):
            process.written.add(body["variables"]["input"]["id"])
        answer = process.passes(
            lambda: super(Mortal, self)._exchange(method, path, body, bearer, **how)
        )
        document = body.get("query", "") if isinstance(body, dict) else ""
        listed = path.startswith("/rest/apiKeys?") or "{apiKeys{" in document
        if listed and answer.ok and not answer.lost:
            process.looked_at = started
        return answer


class MortalSink:
    """A sink whose process may be killed before or after it is written.

    Args:
        out: whether it takes no token at the moment.
    """

    def __init__(self, sink: Sink, process: Process, *, out: bool = False) -> None:
        self._sink = sink
        self._process = process
        self._out = out
        self.check = sink.check
        self.read = sink.read

    def write(self, token: Secret) -> None:
        if self._out:
            raise sink_error("sink_unavailable", "The sink is out of order.", "Wait.")
        self._process.passes(lambda: self._sink.write(token))


class marked:  # noqa: N801 - a context manager
    """The next mark that a run in this thread draws, so that every run is known by its own."""

    current = threading.local()

    def __init__(self, milliseconds: int) -> None:
        self._milliseconds = milliseconds

    def __enter__(self) -> None:
        self.current.mark = self._milliseconds

    def __exit__(self, *_: object) -> None:
        del self.current.mark
