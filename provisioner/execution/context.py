"""The environment of an execution, and how its workers act on many items at once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from provisioner.errors.exceptions import WorkspaceError
from provisioner.runtime.backoff import MAX_ATTEMPTS, delay
from provisioner.runtime.executor import ThreadExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from provisioner.errors.failure import Failure
    from provisioner.execution.progress import Progress
    from provisioner.model.observed import Observation
    from provisioner.model.workspace import Workspace
    from provisioner.runtime.cancellation import Cancellation

_LOG = logging.getLogger(__name__)

_PARALLEL_REVOCATIONS = 8
"""Revocations at the same time; the workspace applies its own limit as well."""

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


def revoke_keys(
    context: ExecutionContext,
    key_ids: Iterable[str],
    *,
    may_start: Callable[[str], bool] = lambda _: True,
    on_revoked: Callable[[str], None] = lambda _: None,
) -> dict[str, Failure | None]:
    """Revoke keys, and try each that fails again.

    Args:
        context: the environment of the keys.
        key_ids: the ids of the keys.
        may_start: called with the id of a key before each request for it; False skips the request.
        on_revoked: called with the id of each key that has been revoked.

    Returns:
        The failure of each key that was tried; None if it has been revoked.

    Raises:
        Exception: a bug that one revocation met, once all the others have been tried.
    """
    outcomes: dict[str, Failure | None] = {}

    def try_to_revoke(key_id: str) -> None:
        if not may_start(key_id):
            return
        try:
            context.workspace.revoke(key_id)
        except WorkspaceError as error:
            outcomes[key_id] = error.failure
        else:
            outcomes[key_id] = None
            on_revoked(key_id)

    remaining = tuple(key_ids)
    for attempt in range(MAX_ATTEMPTS):
        run_all(try_to_revoke, remaining, _PARALLEL_REVOCATIONS)
        remaining = tuple(key_id for key_id in remaining if outcomes.get(key_id) is not None)
        if not remaining:
            break
        context.stop.sleep(delay(attempt))
    return outcomes
