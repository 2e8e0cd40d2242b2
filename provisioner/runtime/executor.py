"""Threads that run work side by side and do not keep the process alive."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
            if len(self._threads) < self._max_workers:
                thread = threading.Thread(target=self._serve, daemon=True)
                self._threads.append(thread)
                thread.start()
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


def run_all(step: Callable[[T], R], items: Iterable[T], parallel: int) -> list[R]:
    """Call a function for every item, several at once, and return the results in order.

    Raises:
        Exception: the first bug that a call met, once all the others have finished.
    """
    with ThreadExecutor(parallel) as threads:
        futures = [threads.submit(step, item) for item in items]
    return [future.result() for future in futures]
