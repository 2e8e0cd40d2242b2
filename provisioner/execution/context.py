"""What every worker of an execution needs, and how it works on many items at once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from provisioner.errors.exceptions import WorkspaceError
from provisioner.runtime.executor import ThreadExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from provisioner.execution.progress import Progress
    from provisioner.model.observed import Observation
    from provisioner.model.workspace import Workspace
    from provisioner.runtime.cancellation import Cancellation

_LOG = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class ExecutionContext:
    """The environment that an execution works on.

    Attributes:
        environment: its name, for messages.
        workspace: the workspace to change.
        existing_ids: the ids of all keys that the workspace had when the plan was made.
        parallel: deliveries and updates at the same time.
        stop: once requested, nothing starts.
        progress: the record that the workers write.
    """

    environment: str
    workspace: Workspace
    existing_ids: frozenset[str]
    parallel: int
    stop: Cancellation
    progress: Progress

    def observe(self) -> Observation | None:
        """Observe the workspace; return None if it cannot be listed now."""
        try:
            return self.workspace.observe()
        except WorkspaceError as error:
            _LOG.info("%s: %s", self.environment, error.failure.message)
            return None


def run_all(step: Callable[[T], R], items: Iterable[T], parallel: int) -> list[R]:
    """Call a function for every item, several at once, and return the results in order.

    Raises:
        Exception: the first bug that a call met, once all the others have finished.
    """
    with ThreadExecutor(parallel) as threads:
        futures = [threads.submit(step, item) for item in items]
    return [future.result() for future in futures]
