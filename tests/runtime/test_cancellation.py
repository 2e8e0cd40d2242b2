"""The wish to stop: which waits it ends, and how long those may be that begin afterwards."""

from __future__ import annotations

import threading
import time

import pytest

from provisioner.runtime.cancellation import Cancellation

pytestmark = pytest.mark.fast


def test_a_stop_ends_the_wait_that_is_under_way() -> None:
    """However long that was to be."""
    stop = Cancellation()
    threading.Timer(0.05, stop.ask).start()
    began = time.monotonic()
    stop.sleep(60)
    assert stop.asked
    assert time.monotonic() - began < 30


def test_a_wait_that_begins_after_the_stop_ends_with_the_grace() -> None:
    """What is in flight may wait as it needs to, and no longer than anybody waits for it."""
    stop = Cancellation(grace=0.2)
    stop.ask()
    began = time.monotonic()
    stop.sleep(0.05)
    assert time.monotonic() - began >= 0.05
    stop.sleep(60)
    assert 0.2 <= time.monotonic() - began < 30
    stop.sleep(60)
    assert time.monotonic() - began < 30
