"""The request to stop a run: nothing new starts, and work in flight has a grace period."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Collection

T = TypeVar("T")

GRACE = 5.0
"""Seconds; GitHub signals a cancelled job, and signals it again 7.5 s later."""

STOPPED = Failure(
    Code.STOPPED, "The run was stopped before this step. Run the command again to finish."
)


@dataclass(eq=False)
class Cancellation:
    """Flag that stops a run, and the waits that the flag ends.

    Attributes:
        grace: seconds that work in flight may still take.
    """

    grace: float = GRACE
    _requested: Future[float] = field(default_factory=Future, init=False)

    @property
    def requested(self) -> bool:
        """Return whether a stop was requested, so that nothing new may start."""
        return self._requested.done()

    def now(self) -> float:
        """Return monotonic seconds; the clock of all waits of the run."""
        return time.monotonic()

    def request(self) -> None:
        """Stop the run; the grace period counts from the first request."""
        if not self.requested:
            self._requested.set_result(self.now())

    def wait(self) -> None:
        """Block until a stop is requested."""
        self._requested.result()

    def sleep(self, seconds: float) -> None:
        """Sleep until the time is up or a stop is requested.

        A sleep that starts after the stop belongs to work in flight; it ends with the grace period.
        """
        if self.requested:
            time.sleep(min(seconds, self._left()))
        else:
            wait((self._requested,), timeout=seconds)

    def wait_for(
        self, futures: Collection[Future[T]], *, graceful: bool, timeout: float | None = None
    ) -> None:
        """Wait until all futures are done, or until a stop leaves them no more time.

        Args:
            futures: the work in flight.
            graceful: whether the work gets the grace period; a read has nothing to finish.
            timeout: seconds after which to wait no longer; None to wait for all.
        """
        stop: Future[object] = self._requested  # type: ignore[assignment]  # read, never set
        running: set[Future[object]] = set(futures)  # type: ignore[arg-type]  # as above
        deadline = None if timeout is None else self.now() + timeout
        left = timeout
        while running and not self.requested and (left is None or left > 0):
            some = wait({*running, stop}, timeout=left, return_when=FIRST_COMPLETED)
            running = some.not_done - {stop}
            left = None if deadline is None else deadline - self.now()
        if running and graceful:
            wait(running, timeout=self._left())

    def _left(self) -> float:
        """Return the seconds left of the grace period, once a stop is requested."""
        return max(0.0, self._requested.result() + self.grace - self.now())
