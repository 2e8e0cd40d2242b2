"""Live keys ended, as patiently as a workspace is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors import WorkspaceError
from provisioner.execution.patience import ROUNDS, growing
from provisioner.threads import Threads

if TYPE_CHECKING:
    from provisioner.stop import Stop
    from provisioner.twenty.workspace import Workspace

_SIDE_BY_SIDE = 8
"""Revocations at once; the workspace's own limit holds besides."""


def revoke_all(
    workspace: Workspace, key_ids: tuple[str, ...], stop: Stop
) -> dict[str, WorkspaceError]:
    """Revokes keys, each again while that fails.

    Returns:
        The error of each key that could not be revoked, or may not have been.
    """

    def revoked(key_id: str) -> WorkspaceError | None:
        try:
            workspace.revoke(key_id)
        except WorkspaceError as error:
            return error
        return None

    errors: dict[str, WorkspaceError] = {}
    for rounds in range(ROUNDS):
        with Threads(_SIDE_BY_SIDE) as threads:
            tried = zip(key_ids, threads.map(revoked, key_ids), strict=True)
            errors = {key_id: error for key_id, error in tried if error is not None}
        if not errors:
            break
        key_ids = tuple(errors)
        stop.sleep(growing(rounds))
    return errors
