"""The request to stop a run: nothing new starts, and work in flight has a grace period."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from itertools import count
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
        if not futures:
            return
        ended: Future[float] = Future()
        left = count(len(futures) - 1, -1)
        # One waiter for all: `wait` would visit each of thousands whenever one of them is done.
        for one in futures:
            one.add_done_callback(lambda _: None if next(left) else ended.set_result(self.now()))
        wait((ended, self._requested), timeout=timeout, return_when=FIRST_COMPLETED)
        if graceful and self.requested:
            wait((ended,), timeout=self._left())

    def _left(self) -> float:
        """Return the seconds left of the grace period, once a stop is requested."""
        return max(0.0, self._requested.result() + self.grace - self.now())
