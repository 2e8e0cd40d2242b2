"""Threads that do a run's work side by side and do not keep the process alive."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from provisioner.runtime.executor import AdaptiveExecutor, ThreadExecutor

pytestmark = pytest.mark.fast


def test_map_returns_results_in_order() -> None:
    """Results come in the order of the arguments, whichever is done first."""
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


@pytest.mark.parametrize("max_workers", [1, 3])
def test_the_number_of_threads_is_limited(max_workers: int) -> None:
    """All threads work at the same time, and there are never more of them."""
    before = threading.active_count()
    together = threading.Barrier(max_workers + 1)
    finished: list[int] = []

    def work(number: int) -> None:
        if number < max_workers:
            together.wait(5)
        finished.append(number)

    with ThreadExecutor(max_workers) as threads:
        for number in range(4 * max_workers):
            threads.submit(work, number)
        assert threading.active_count() - before == max_workers
        assert finished == []
        together.wait(5)
    assert sorted(finished) == list(range(4 * max_workers))


def test_only_as_many_threads_start_as_there_are_tasks() -> None:
    """A large pool with one task starts one thread."""
    before = threading.active_count()
    resume = threading.Event()
    with ThreadExecutor(64) as threads:
        threads.submit(resume.wait, 5)
        assert threading.active_count() == before + 1
        resume.set()


def test_an_adaptive_executor_adds_threads_while_all_of_them_wait() -> None:
    """Servers that hang hold up none of the others, and no more threads start than allowed."""
    before = threading.active_count()
    resume, done = threading.Event(), threading.Event()
    with AdaptiveExecutor(22) as threads:
        for _ in range(20):
            threads.submit(resume.wait, 30)
        threads.submit(done.set)
        assert done.wait(20)
        resume.set()
        for _ in range(40):
            threads.submit(done.wait)
        assert threading.active_count() <= before + 22 + 1
    assert threading.active_count() <= before + 1


class CustomBaseError(BaseException):
    """An exception that is not an Exception."""


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, CustomBaseError])
def test_an_exception_reaches_the_future_and_ends_no_thread(kind: type[BaseException]) -> None:
    """The future has any kind of exception, and the thread continues with the next task."""
    error = kind("why")

    def work() -> None:
        raise error

    with ThreadExecutor(1) as threads:
        failed = threads.submit(work)
        assert failed.exception(5) is error
        assert threads.submit(pow, 2, 3).result(5) == 8


def test_a_shutdown_waits_for_all_submitted_tasks() -> None:
    """After a shutdown every task is done and no thread is left."""
    done: list[int] = []
    with ThreadExecutor(2) as threads:
        for number in range(50):
            threads.submit(done.append, number)
    assert sorted(done) == list(range(50))
    assert all(not thread.is_alive() for thread in threads._threads)


def test_a_shutdown_may_cancel_tasks_that_have_not_started() -> None:
    """Running tasks are finished and awaited; waiting tasks are cancelled and say so."""
    started, resume = threading.Event(), threading.Event()

    def block() -> str:
        started.set()
        resume.wait(5)
        return "finished"

    threads = ThreadExecutor(1)
    running = threads.submit(block)
    waiting = [threads.submit(pow, 2, 3) for _ in range(3)]
    assert started.wait(5)
    threads.shutdown(wait=False, cancel_futures=True)
    assert all(one.cancelled() for one in waiting)
    with pytest.raises(CancelledError):
        waiting[0].result(5)
    assert not running.done()
    resume.set()
    threads.shutdown()
    assert running.result(0) == "finished"


def test_a_shutdown_does_not_wait_for_a_task_that_a_thread_takes_at_the_same_time() -> None:
    """A task that was waiting may be running by now: it is neither cancelled nor awaited."""
    taken = threading.Event()
    threads = ThreadExecutor(1)
    queue = threads._queue

    class Contended:
        """The queue when a thread takes its last entry just before it is emptied."""

        def __getattr__(self, name: str) -> Any:
            if name in ("get", "get_nowait") and not taken.is_set():
                taken.set()
                queue.get(timeout=5)
            return getattr(queue, name)

    queue.put((Future(), lambda: None))
    threads._queue = Contended()  # type: ignore[assignment]  # a stand-in
    threads.shutdown(wait=False, cancel_futures=True)
    assert taken.is_set()


def test_a_shutdown_can_return_at_once() -> None:
    """A shutdown without waiting returns at once, and submitted tasks are still done."""
    resume = threading.Event()
    threads = ThreadExecutor(1)
    first, second = threads.submit(resume.wait, 5), threads.submit(pow, 2, 3)
    threads.shutdown(wait=False)
    assert not first.done()
    resume.set()
    assert second.result(5) == 8


def test_a_submission_after_a_shutdown_is_refused() -> None:
    """It raises an error rather than being ignored; a second shutdown does no harm."""
    threads = ThreadExecutor(1)
    threads.shutdown()
    threads.shutdown()
    with pytest.raises(RuntimeError):
        threads.submit(pow, 2, 3)
