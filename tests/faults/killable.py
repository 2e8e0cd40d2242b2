"""Runs that can be killed at any request or write, each with its own run marker."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from provisioner.runtime.cancellation import Cancellation
from provisioner.sinks.sink import RemovingSink, sink_error
from provisioner.twenty.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.secret import Secret
    from provisioner.sinks.sink import Sink
    from provisioner.twenty.answers import Answer

SPEEDUP = 200
"""The factor by which the waits of a run are shorter here."""

When = Literal["before", "after"]
T = TypeVar("T")


class FastClock(Cancellation):
    """A cancellation with a fast clock: waits are short, but of the right length on that clock."""

    def now(self) -> float:
        return super().now() * SPEEDUP

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds / SPEEDUP)


class Killed(BaseException):
    """The process was killed; none of its later requests or writes happen."""


@dataclass(frozen=True)
class Kill:
    """A kill point: before or after the request with a number, if the run sends that many."""

    number: int
    when: When


@dataclass
class Process:
    """A run from the server's view: its requests until it ends or is killed.

    Attributes:
        run_marker: the milliseconds that the run writes into its keys.
        observed_at: `time.monotonic()` when its last answered observation was sent.
        written: the ids of the existing keys that it changed.
    """

    kill: Kill | None
    run_marker: int
    observed_at: float = 0.0
    written: set[str] = field(default_factory=set)
    killed: bool = False
    _sent: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def steps(self) -> int:
        """The number of requests and writes that the run started."""
        return self._sent

    def run_step(self, exchange: Callable[[], T]) -> T:
        """Do one request or write, unless the process is killed before or after it."""
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
"""The runs in progress, by the name of their environment."""


class KillableTransport(Transport):
    """A transport whose process can be killed."""

    def _exchange(self, method: str, path: str, body: Any, *args: Any, **options: bool) -> Answer:
        process = PROCESSES[self.name]
        started = time.monotonic()
        if method == "PATCH":
            process.written.add(path.rpartition("/")[2])
        if isinstance(body, dict) and "revokeApiKey" in body.get("query", ""):
            process.written.add(body["variables"]["input"]["id"])
        answer = process.run_step(
            lambda: super(KillableTransport, self)._exchange(method, path, body, *args, **options)
        )
        document = body.get("query", "") if isinstance(body, dict) else ""
        listed = path.startswith("/rest/apiKeys?") or "{apiKeys{" in document
        if listed and answer.ok and not answer.lost:
            process.observed_at = started
        return answer


class KillableSink:
    """A sink whose process can be killed before or after a write.

    Args:
        unavailable: true if every write fails.
        on_write: called with every token before it is written.
    """

    def __init__(
        self,
        sink: Sink,
        process: Process,
        *,
        unavailable: bool = False,
        on_write: Callable[[Secret], object] = lambda _: None,
    ) -> None:
        self._on_write = on_write
        self._sink = sink
        self._process = process
        self._unavailable = unavailable
        self.check = sink.check
        self.read = sink.read

    def write(self, token: Secret) -> None:
        if self._unavailable:
            raise sink_error("sink_unavailable", "The sink does not answer.", "Wait.")
        self._on_write(token)
        self._process.run_step(lambda: self._sink.write(token))

    def remove(self, token: Secret) -> bool:
        assert isinstance(self._sink, RemovingSink)
        remove = self._sink.remove
        return self._process.run_step(lambda: remove(token))


class use_run_marker:  # noqa: N801 - a context manager
    """A context in which runs of this thread get a given run marker, so each has its own."""

    current = threading.local()

    def __init__(self, milliseconds: int) -> None:
        self._milliseconds = milliseconds

    def __enter__(self) -> None:
        self.current.run_marker = self._milliseconds

    def __exit__(self, *_: object) -> None:
        del self.current.run_marker
