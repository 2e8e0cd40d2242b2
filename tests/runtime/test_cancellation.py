"""The request to stop: which waits it ends, and how long later waits may take."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import pytest

from provisioner.runtime.cancellation import Cancellation

pytestmark = pytest.mark.fast


def test_a_stop_ends_a_wait_in_progress() -> None:
    """A stop ends a wait at once, however long it was going to be."""
    stop = Cancellation()
    threading.Timer(0.05, stop.request).start()
    started = time.monotonic()
    stop.sleep(60)
    assert stop.requested
    assert time.monotonic() - started < 30


def test_a_wait_that_starts_after_the_stop_ends_with_the_grace_period() -> None:
    """Work in flight may still wait, but only until the grace period ends."""
    stop = Cancellation(grace=0.2)
    stop.request()
    started = time.monotonic()
    stop.sleep(0.05)
    assert time.monotonic() - started >= 0.05
    stop.sleep(60)
    assert 0.2 <= time.monotonic() - started < 30
    stop.sleep(60)
    assert time.monotonic() - started < 30


def test_a_wait_for_work_ends_after_its_timeout() -> None:
    """Work that never ends is waited for no longer, and work that ended is not waited for."""
    stop = Cancellation()
    done: Future[None] = Future()
    done.set_result(None)
    started = time.monotonic()
    stop.wait_for((done,), graceful=False, timeout=60)
    stop.wait_for((Future(), done), graceful=False, timeout=0.1)
    assert 0.1 <= time.monotonic() - started < 30
