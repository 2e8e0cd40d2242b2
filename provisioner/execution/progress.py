"""What is told of the actions of one environment: once that each begins, once how it ended."""

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
    """The actions of one environment as they are told of.

    What a thread that was left behind has to say after the end is not told: the result of the run
    does not say it either.

    Args:
        environment: its name.
        on_progress: called with the number of steps whose outcome has become known.
        emit: is told what happens.
    """

    def __init__(self, environment: str, on_progress: Callable[[int], None], emit: Emit) -> None:
        self._environment = environment
        self._on_progress = on_progress
        self._emit = emit
        self._lock = threading.Lock()
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._executed: Executed | None = None

    def on_start(self, action: Action) -> None:
        """The first request for it is about to go out."""
        with self._lock:
            if self._executed is None and id(action) not in self._begun:
                self._begun.add(id(action))
                self._emit(ActionBegun(self._environment, action))

    def on_progress(self, steps: int) -> None:
        """The outcome of some steps has become known."""
        self._on_progress(steps)
        with self._lock:
            if self._executed is None and steps:
                self._emit(StepsSettled(self._environment, steps))

    def on_result(self, result: Result) -> None:
        """What became of an action is certain."""
        with self._lock:
            if self._executed is None:
                self._finish(result)

    def close(self, known: Callable[[], Executed]) -> Executed:
        """Tells what became of all that is still open, and that nothing more happens.

        Args:
            known: what is known now of every action; asked for once.

        Returns:
            The outcome of the environment, the same however often it is closed.
        """
        with self._lock:
            if self._executed is None:
                executed = known()
                for result in executed.results:
                    self._finish(result)
                self._emit(EnvironmentFinished(self._environment, executed))
                self._executed = executed
            return self._executed

    def _finish(self, result: Result) -> None:
        if id(result.action) not in self._ended:
            self._ended.add(id(result.action))
            self._emit(ActionEnded(self._environment, result))
