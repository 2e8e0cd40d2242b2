"""Tokens that wait until a group of sinks is written, such as the variables of one file."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

G = TypeVar("G")
T = TypeVar("T")

MAX_TOKENS = 50
"""Tokens of a group that wait for others at most."""

MAX_WAIT = 0.5
"""Seconds that a token waits for others of its group at most."""


class GroupCommit(Generic[G, T]):
    """Collects items by group, until it is time to write a group; may be used from many threads.

    A group is due once `MAX_TOKENS` items wait for it, one of them has waited for half a second, or
    no other item is expected.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._expected = 0
        self._closed = False
        self._waiting: dict[G, list[T]] = {}
        self._deadlines: dict[G, float] = {}

    def expect(self, items: int) -> None:
        """Expect more items, or fewer if the number is negative."""
        with self._changed:
            self._expected += items
            self._changed.notify_all()

    def add(self, items: Iterable[tuple[G, T]]) -> None:
        """Let the parts of an expected item wait, each for its group; it may have none."""
        with self._changed:
            for group, item in items:
                self._waiting.setdefault(group, []).append(item)
                self._deadlines.setdefault(group, time.monotonic() + MAX_WAIT)
            self._expected -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Expect nothing after the items that are expected now."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_for_room(self) -> None:
        """Block while a group that is due has not been taken to be written."""
        with self._changed:
            self._changed.wait_for(
                lambda: all(len(items) < MAX_TOKENS for items in self._waiting.values())
            )

    def due(self) -> Iterator[dict[G, list[T]]]:
        """Yield groups that are due with their items, until nothing is expected after `close`."""
        while (groups := self._next()) is not None:
            yield groups

    def _next(self) -> dict[G, list[T]] | None:
        """Block until a group is due; return None if no item can come any more."""
        with self._changed:
            while True:
                now, in_full = time.monotonic(), self._expected <= 0
                due = {
                    group: items[:MAX_TOKENS]
                    for group, items in self._waiting.items()
                    if in_full or len(items) >= MAX_TOKENS or self._deadlines[group] <= now
                }
                if due or (self._closed and in_full):
                    break
                next_deadline = min(self._deadlines.values(), default=None)
                self._changed.wait(None if next_deadline is None else next_deadline - now)
            for group, items in due.items():
                if left := self._waiting.pop(group)[len(items) :]:
                    self._waiting[group] = left
                    self._deadlines[group] = now + MAX_WAIT
                else:
                    del self._deadlines[group]
            self._changed.notify_all()
            return due or None
