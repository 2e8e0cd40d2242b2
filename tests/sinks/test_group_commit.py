"""Tokens for sinks of one file wait for each other, but not for long."""

from __future__ import annotations

import threading

import pytest

from provisioner.runtime.executor import ThreadExecutor
from provisioner.sinks import group_commit
from provisioner.sinks.group_commit import MAX_TOKENS, GroupCommit

pytestmark = pytest.mark.fast


def test_tokens_are_written_at_once_if_no_other_is_expected() -> None:
    """A single token waits for nothing, and the last ones of a run do not either."""
    waiting = GroupCommit[str, int]()
    waiting.expect(3)
    due = waiting.due()
    waiting.add([("a", 1), ("b", 1)])
    waiting.add([])
    waiting.add([("a", 2)])
    assert next(due) == {"a": [1, 2], "b": [1]}
    waiting.expect(1)
    waiting.close()
    waiting.add([("a", 3)])
    assert list(due) == [{"a": [3]}]


def test_a_full_group_is_written_without_the_others() -> None:
    """At most 50 tokens are written together, and nothing more is minted until they are taken."""
    waiting = GroupCommit[str, int]()
    waiting.expect(200)
    waiting.add([("b", 0)])
    for number in range(MAX_TOKENS + 5):
        waiting.add([("a", number)])
    room = threading.Event()
    with ThreadExecutor(1) as threads:
        threads.submit(lambda: waiting.wait_for_room() or room.set())
        assert not room.is_set()
        assert next(waiting.due()) == {"a": list(range(MAX_TOKENS))}
    assert room.is_set()


def test_a_token_does_not_wait_long_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written although more are expected, for instance from a server that hangs."""
    monkeypatch.setattr(group_commit, "MAX_WAIT", 0.01)
    waiting = GroupCommit[str, int]()
    waiting.expect(2)
    waiting.add([("a", 1)])
    assert next(waiting.due()) == {"a": [1]}


def test_nothing_is_due_after_the_last_token() -> None:
    """Writing ends once nothing is expected, also if nothing ever was."""
    waiting = GroupCommit[str, int]()
    waiting.close()
    assert list(waiting.due()) == []
