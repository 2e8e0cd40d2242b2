"""The wish to stop: from then on nothing new begins, and what is in flight has a grace."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, TypeVar

from provisioner.errors.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Collection

T = TypeVar("T")

GRACE = 5.0
"""Seconds; a cancelled GitHub job is asked to stop, and 7.5 s later asked again."""

STOPPED = Failure("stopped", "The run was told to stop before this began. Run again to finish.")


class Cancellation:
    """Whether a run is to stop; the waits of the run are its, and end with it.

    Args:
        grace: seconds that what is in flight may still take.
    """

    def __init__(self, grace: float = GRACE) -> None:
        self._grace = grace
        self._asked: Future[float] = Future()

    @property
    def asked(self) -> bool:
        """Whether nothing new may begin."""
        return self._asked.done()

    def now(self) -> float:
        """Seconds that only grow; the clock that its waits go by."""
        return time.monotonic()

    def ask(self) -> None:
        """Has the run stop; the grace counts from the first time."""
        if not self.asked:
            self._asked.set_result(self.now())

    def wait(self) -> None:
        """Returns once it has been asked for."""
        self._asked.result()

    def sleep(self, seconds: float) -> None:
        """Waits; being asked to stop ends the wait, but not one that began afterwards.

        Such a one is of what is in flight, and ends with the grace.
        """
        if self.asked:
            time.sleep(min(seconds, self._left()))
        else:
            wait((self._asked,), timeout=seconds)

    def wait_for(self, work: Collection[Future[T]], *, graceful: bool) -> None:
        """Returns when all work has ended, or when a stop leaves it no more time.

        Args:
            work: what runs.
            graceful: whether it has the grace; a look alone has nothing to bring to an end.
        """
        ends: Future[object] = self._asked  # type: ignore[assignment]  # read, never set
        running: set[Future[object]] = set(work)  # type: ignore[arg-type]  # as above
        while running and not self.asked:
            running = wait({*running, ends}, return_when=FIRST_COMPLETED).not_done - {ends}
        if running and graceful:
            wait(running, timeout=self._left())

    def _left(self) -> float:
        """Seconds of the grace that are left, once it has been asked for."""
        return max(0.0, self._asked.result() + self._grace - self.now())
