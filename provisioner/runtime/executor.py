"""Work done side by side in threads that do not keep the process alive."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class ThreadExecutor(Executor):
    """Runs what is submitted, so many at a time; a stopped run may leave it behind at work.

    What is submitted runs in the context of whoever submitted it, as `asyncio` does it.

    The executor of the standard library has the interpreter wait for its threads at the end,
    however long a server keeps them.

    Args:
        most: threads at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], None]] | None] = SimpleQueue()
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Has a thread call the function.

        Raises:
            RuntimeError: after the shutdown.
        """
        future: Future[T] = Future()
        context = copy_context()

        def run() -> None:
            try:
                result = context.run(fn, *args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - whoever asks the future gets it
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._lock:
            if self._closed:
                raise RuntimeError("submitted after the shutdown")
            self._work.put((future, run))
            if len(self._threads) < self._most:
                thread = threading.Thread(target=self._serve, daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the base's
        """Takes no more work; waits for what was submitted unless told otherwise."""
        with self._lock:
            if not self._closed:
                self._closed = True
                if cancel_futures:
                    self._cancel()
                for _ in self._threads:
                    self._work.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _cancel(self) -> None:
        """Cancels what no thread has taken; one may take it in this very moment."""
        with suppress(Empty):
            while (work := self._work.get_nowait()) is not None:
                work[0].cancel()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            future, run = work
            if future.set_running_or_notify_cancel():
                run()
