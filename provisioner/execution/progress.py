"""The progress events of one environment: each action starts once and ends once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from provisioner.execution.events import (
    ActionBegun,
    ActionEnded,
    EnvironmentFinished,
    StepsSettled,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.execution.events import Emit
    from provisioner.execution.results import Executed, Result
    from provisioner.plan import Action


class Progress:
    """Emits the events of one environment's actions.

    Events of threads that are still running after `close` are dropped, because the result of the
    run does not include them either.

    Args:
        environment: the name of the environment.
        on_progress: called with the number of steps whose outcome has become known.
        emit: receives the events.
    """

    def __init__(self, environment: str, on_progress: Callable[[int], None], emit: Emit) -> None:
        self._environment = environment
        self._on_progress = on_progress
        self._emit = emit
        self._lock = threading.Lock()
        self._started: set[int] = set()
        self._finished: set[int] = set()
        self._executed: Executed | None = None

    def on_start(self, action: Action) -> None:
        """Emit that an action starts, before its first request is sent."""
        with self._lock:
            if self._executed is None and id(action) not in self._started:
                self._started.add(id(action))
                self._emit(ActionBegun(self._environment, action))

    def on_progress(self, steps: int) -> None:
        """Emit that the outcome of some steps has become known."""
        self._on_progress(steps)
        with self._lock:
            if self._executed is None and steps:
                self._emit(StepsSettled(self._environment, steps))

    def on_result(self, result: Result) -> None:
        """Emit the final result of an action."""
        with self._lock:
            if self._executed is None:
                self._emit_once(result)

    def close(self, current: Callable[[], Executed]) -> Executed:
        """Emit the results of all actions that are still open, and that the environment is done.

        Args:
            current: returns the current result of every action; called once.

        Returns:
            The outcome of the environment, the same however often this is called.
        """
        with self._lock:
            if self._executed is None:
                executed = current()
                for result in executed.results:
                    self._emit_once(result)
                self._emit(EnvironmentFinished(self._environment, executed))
                self._executed = executed
            return self._executed

    def _emit_once(self, result: Result) -> None:
        if id(result.action) not in self._finished:
            self._finished.add(id(result.action))
            self._emit(ActionEnded(self._environment, result))
