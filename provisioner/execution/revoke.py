"""Revocation of live keys, with retries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.runtime.backoff import MAX_ATTEMPTS, delay
from provisioner.runtime.executor import ThreadExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from provisioner.model.workspace import Workspace
    from provisioner.runtime.cancellation import Cancellation

_PARALLEL = 8
"""Revocations at the same time; the workspace applies its own limit as well."""


class Revocations:
    """The revocations of one environment; the outcome of each can be read at any time.

    Args:
        workspace: the workspace of the keys.
        stop: cuts the waits between attempts short.
        may_start: called with the id of a key before each request for it; False skips the request.
        on_revoked: called with the id of each key that has been revoked.
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
        self._may_start = may_start
        self._on_revoked = on_revoked
        self._outcomes: dict[str, Failure | None] = {}

    def run(self, key_ids: Iterable[str]) -> None:
        """Revoke the keys, and try each that fails again.

        Raises:
            Exception: a bug that one revocation met, once all the others have been tried.
        """
        remaining = tuple(key_ids)
        for attempt in range(MAX_ATTEMPTS):
            with ThreadExecutor(_PARALLEL) as threads:
                futures = [threads.submit(self._try_to_revoke, key_id) for key_id in remaining]
            remaining = tuple(
                key_id for key_id, future in zip(remaining, futures, strict=True) if future.result()
            )
            if not remaining:
                break
            self._stop.sleep(delay(attempt))

    def revoked(self, key_id: str) -> bool:
        """Return whether the key has been revoked."""
        return key_id in self._outcomes and self._outcomes[key_id] is None

    def failure(self, key_id: str) -> Failure | None:
        """Return why the key was not or may not have been revoked; None if it was never tried."""
        return self._outcomes.get(key_id)

    def _try_to_revoke(self, key_id: str) -> bool:
        """Revoke one key, and return whether that failed and should be tried again."""
        if not self._may_start(key_id):
            return False
        self._outcomes[key_id] = _IN_FLIGHT
        try:
            self._workspace.revoke(key_id)
        except WorkspaceError as error:
            self._outcomes[key_id] = error.failure
            return True
        self._outcomes[key_id] = None
        self._on_revoked(key_id)
        return False


_IN_FLIGHT = Failure(
    Code.OUTCOME_UNKNOWN,
    "The run ended while the key was being revoked. Run `provision list` to see whether it was.",
)
