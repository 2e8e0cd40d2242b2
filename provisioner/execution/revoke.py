"""Live keys ended, as patiently as a workspace is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure, failure_of
from provisioner.runtime.backoff import MAX_ATTEMPTS, delay
from provisioner.runtime.executor import ThreadExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from provisioner.runtime.cancellation import Cancellation
    from provisioner.twenty.workspace import Workspace

_SIDE_BY_SIDE = 8
"""Revocations at once; the workspace's own limit holds besides."""


class Revocations:
    """The revocations of one environment; what became of each can be asked at any time.

    Args:
        workspace: of the keys.
        stop: its waits.
        may_begin: asked with the id of a key before each request for it.
        ended: called with the id of each key that has ended.
    """

    def __init__(
        self,
        workspace: Workspace,
        stop: Cancellation,
        *,
        may_start: Callable[[str], bool] = lambda _: True,
        on_revoked: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._workspace = workspace
        self._stop = stop
        self._may_begin = may_start
        self._told = on_revoked
        self._outcomes: dict[str, Failure | None] = {}

    def run(self, key_ids: Iterable[str]) -> None:
        """Revokes keys, each again while that fails.

        Raises:
            Exception: a bug that one met, when all the others have been tried.
        """
        left = tuple(key_ids)
        for rounds in range(MAX_ATTEMPTS):
            with ThreadExecutor(_SIDE_BY_SIDE) as threads:
                works = [threads.submit(self._one, key_id) for key_id in left]
            left = tuple(key_id for key_id, work in zip(left, works, strict=True) if work.result())
            if not left:
                break
            self._stop.sleep(delay(rounds))

    def revoked(self, key_id: str) -> bool:
        """Whether the key has been revoked."""
        return key_id in self._outcomes and self._outcomes[key_id] is None

    def failure(self, key_id: str) -> Failure | None:
        """Why the key has not been revoked, or may not have been; None where it was not begun."""
        return self._outcomes.get(key_id)

    def _one(self, key_id: str) -> bool:
        """Revokes one key; whether that failed and is worth another try."""
        if not self._may_begin(key_id):
            return False
        self._outcomes[key_id] = _IN_FLIGHT
        try:
            self._workspace.revoke(key_id)
        except WorkspaceError as error:
            self._outcomes[key_id] = failure_of(error)
            return True
        self._outcomes[key_id] = None
        self._told(key_id)
        return False


_IN_FLIGHT = Failure(
    "outcome_unknown",
    "The run had to end while the key was being revoked. `provision list` shows whether it was.",
)
