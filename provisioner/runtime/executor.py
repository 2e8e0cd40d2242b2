"""Threads that run work side by side and do not keep the process alive."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor, Future
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_FIRST_THREADS = 16
_PERIOD = 0.1
"""Seconds between two looks at what the threads get done."""

_BUSY, _LATE = 0.8, 1.2
"""Share of one core from which on more threads only wait for it, and factor of a late period."""

_GAIN, _FORGET = 1.1, 0.9
"""Factor by which more threads must get more done, and by which this demand shrinks in a period."""

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class ThreadExecutor(Executor):
    """Executor whose threads a stopped run can abandon.

    A submitted function runs in the context of its submitter, as in `asyncio`. The interpreter
    waits for the threads of the standard library's executor at exit, however long a server keeps
    them busy.

    Args:
        max_workers: threads at once.
    """

    def __init__(self, max_workers: int) -> None:
        self._max_workers = max_workers
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call the function in a thread.

        Raises:
            RuntimeError: after the shutdown.
        """
        future: Future[T] = Future()
        call = partial(copy_context().run, fn, *args, **kwargs)
        with self._lock:
            if self._closed:
                raise RuntimeError("submitted after the shutdown")
            self._queue.put((future, call))
            self._start_threads(1)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as in the base class
        """Accept no more work, and wait for submitted work if `wait` is true."""
        with self._lock:
            if not self._closed:
                self._closed = True
                if cancel_futures:
                    # A thread may take some of the work at the same time.
                    with suppress(Empty):
                        while (item := self._queue.get_nowait()) is not None:
                            item[0].cancel()
                for _ in self._threads:
                    self._queue.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _start_threads(self, count: int) -> None:
        """Start this many threads, or as many as the limit allows; the caller holds the lock."""
        for _ in range(min(count, self._max_workers - len(self._threads))):
            thread = threading.Thread(target=self._serve, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - the future hands it on
                future.set_exception(error)
            else:
                future.set_result(result)


class AdaptiveExecutor(ThreadExecutor):
    """Executor that adds threads as long as they get more done.

    It adds none while this process uses a whole core, and waits after some that brought nothing:
    the servers then take no more. If none of the work ends, as with servers that hang, it adds some
    for the rest.

    Args:
        most: the largest number of threads.
    """

    def __init__(self, most: int) -> None:
        super().__init__(min(_FIRST_THREADS, most))
        self._most = most
        self._ended = threading.Event()
        threading.Thread(target=self._adapt, daemon=True).start()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as in the base class
        """Accept no more work, as the base class does."""
        self._ended.set()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _adapt(self) -> None:
        """Add threads now and then."""
        best = 0.0
        waiting, cpu, now = 0, time.process_time(), time.monotonic()
        while self._max_workers < self._most and not self._ended.wait(_PERIOD):
            left, waiting = waiting, self._queue.qsize()
            used, cpu = cpu, time.process_time()
            started, now = now, time.monotonic()
            # This thread wakes up late if others need the processor.
            is_busy = cpu - used > _BUSY * (now - started) or now - started > _LATE * _PERIOD
            if not waiting or not left or is_busy:
                continue
            rate = max(0, left - waiting) / (now - started)
            if 0 < rate < _GAIN * best:
                best *= _FORGET
                continue
            best = rate
            with self._lock:
                if not self._closed:
                    more = max(1, self._max_workers // 2)
                    self._max_workers = min(self._most, self._max_workers + more)
                    self._start_threads(min(more, waiting))


def run_all(step: Callable[[T], R], items: Iterable[T], parallel: int) -> list[R]:
    """Call a function for every item, several at once, and return the results in order.

    Raises:
        Exception: the first bug that a call met, once all the others have finished.
    """
    with ThreadExecutor(parallel) as threads:
        futures = [threads.submit(step, item) for item in items]
    return [future.result() for future in futures]
