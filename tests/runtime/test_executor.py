"""Threads that do a run's work side by side and keep no process alive."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from provisioner.runtime.executor import ThreadExecutor

pytestmark = pytest.mark.fast


def test_what_is_mapped_comes_back_in_its_order() -> None:
    """Results stand in the order of the arguments, whichever is done first."""
    second_done = threading.Event()

    def work(number: int) -> int:
        if number == 1:
            second_done.wait(5)
        if number == 2:
            second_done.set()
        return 10 * number

    with ThreadExecutor(2) as threads:
        assert list(threads.map(work, [1, 2, 3, 4])) == [10, 20, 30, 40]
    assert second_done.is_set()


@pytest.mark.parametrize("most", [1, 3])
def test_so_many_are_at_work_at_once_and_no_more(most: int) -> None:
    """All threads work side by side, and there is never one more."""
    before = threading.active_count()
    together = threading.Barrier(most + 1)
    seen: list[int] = []

    def work(number: int) -> None:
        if number < most:
            together.wait(5)
        seen.append(number)

    with ThreadExecutor(most) as threads:
        for number in range(4 * most):
            threads.submit(work, number)
        assert threading.active_count() - before == most
        assert seen == []
        together.wait(5)
    assert sorted(seen) == list(range(4 * most))


def test_no_more_threads_are_started_than_there_is_work() -> None:
    """A wide pool with one piece of work is one thread."""
    before = threading.active_count()
    go_on = threading.Event()
    with ThreadExecutor(64) as threads:
        threads.submit(go_on.wait, 5)
        assert threading.active_count() == before + 1
        go_on.set()


class Odd(BaseException):
    """Not even an Exception."""


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, Odd])
def test_what_the_work_raises_arrives_and_ends_no_thread(kind: type[BaseException]) -> None:
    """Whoever asks gets the error, whatever it is, and the thread goes on with the next."""
    error = kind("why")

    def work() -> None:
        raise error

    with ThreadExecutor(1) as threads:
        failed = threads.submit(work)
        assert failed.exception(5) is error
        assert threads.submit(pow, 2, 3).result(5) == 8


def test_a_shutdown_waits_for_all_that_was_submitted() -> None:
    """After it nothing is at work any more, and nothing was left out."""
    done: list[int] = []
    with ThreadExecutor(2) as threads:
        for number in range(50):
            threads.submit(done.append, number)
    assert sorted(done) == list(range(50))
    assert all(not thread.is_alive() for thread in threads._threads)


def test_a_shutdown_may_cancel_what_has_not_begun() -> None:
    """What runs is finished and waited for, what waits never begins and says so."""
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> str:
        begun.set()
        go_on.wait(5)
        return "held"

    threads = ThreadExecutor(1)
    running = threads.submit(hold)
    waiting = [threads.submit(pow, 2, 3) for _ in range(3)]
    assert begun.wait(5)
    threads.shutdown(wait=False, cancel_futures=True)
    assert all(one.cancelled() for one in waiting)
    with pytest.raises(CancelledError):
        waiting[0].result(5)
    assert not running.done()
    go_on.set()
    threads.shutdown()
    assert running.result(0) == "held"


def test_a_shutdown_does_not_wait_for_work_that_a_thread_takes_in_that_moment() -> None:
    """What was waiting a moment ago may be in work now: it is neither cancelled nor awaited."""
    taken = threading.Event()
    threads = ThreadExecutor(1)
    queue = threads._queue

    class Contended:
        """The queue as it is where a thread takes its last entry just before it is emptied."""

        def __getattr__(self, name: str) -> Any:
            if name in ("get", "get_nowait") and not taken.is_set():
                taken.set()
                queue.get(timeout=5)
            return getattr(queue, name)

    queue.put((Future(), lambda: None))
    threads._queue = Contended()  # type: ignore[assignment]  # a stand-in
    threads.shutdown(wait=False, cancel_futures=True)
    assert taken.is_set()


def test_a_shutdown_need_not_wait() -> None:
    """It comes back while the work goes on, and what was submitted is still done."""
    go_on = threading.Event()
    threads = ThreadExecutor(1)
    first, second = threads.submit(go_on.wait, 5), threads.submit(pow, 2, 3)
    threads.shutdown(wait=False)
    assert not first.done()
    go_on.set()
    assert second.result(5) == 8


def test_after_a_shutdown_nothing_more_is_taken() -> None:
    """A submission is refused rather than forgotten; a second shutdown is no harm."""
    threads = ThreadExecutor(1)
    threads.shutdown()
    threads.shutdown()
    with pytest.raises(RuntimeError):
        threads.submit(pow, 2, 3)
