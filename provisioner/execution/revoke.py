"""Revocation of live keys, with retries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.exceptions import WorkspaceError
from provisioner.execution.context import run_all
from provisioner.runtime.backoff import MAX_ATTEMPTS, delay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from provisioner.errors.failure import Failure
    from provisioner.execution.context import ExecutionContext

_PARALLEL = 8
"""Revocations at the same time; the workspace applies its own limit as well."""


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
        run_all(try_to_revoke, remaining, _PARALLEL)
        remaining = tuple(key_id for key_id in remaining if outcomes.get(key_id) is not None)
        if not remaining:
            break
        context.stop.sleep(delay(attempt))
    return outcomes
