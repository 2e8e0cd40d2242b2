"""Opens the workspace of an environment: a server on the network, or the embedded Twenty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.desired import SessionToken
from provisioner.errors import WorkspaceError
from provisioner.secret import Secret
from provisioner.twenty.connect import connect

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from provisioner.desired import Environment
    from provisioner.fleet import Connect
    from provisioner.stop import Stop
    from provisioner.twenty.workspace import Workspace

_A_DAY = 86_400.0


def opener(root: Path, stop: Stop, *, hurry: bool = False) -> Connect:
    """Return what opens workspaces.

    Args:
        root: the embedded Twenty keeps its state in `.provision/` below it.
        stop: ends the run early.
        hurry: whether the first writes of other environments wait for the first look at each.
    """

    def open_workspace(environment: Environment, stack: ExitStack) -> Workspace:
        if environment.embedded:
            address, token = _start_embedded(environment, root, stack)
            workspace = connect(environment, address, SessionToken(token), stop, hurry=hurry)
        elif environment.credential is None:
            raise WorkspaceError(
                "auth_missing",
                f"{environment.name} has no credential.",
                remedy="Write `auth:` for this environment.",
            )
        else:
            credential = environment.credential
            workspace = connect(environment, environment.url, credential, stop, hurry=hurry)
        stack.callback(workspace.close)
        return workspace

    return open_workspace


def _start_embedded(environment: Environment, root: Path, stack: ExitStack) -> tuple[str, Secret]:
    # Here, because most environments are real and need no GraphQL engine.
    from provisioner.sandbox import Sandbox, dialect_of  # noqa: PLC0415 - as said above

    file = root / ".provision" / f"{environment.name}.sqlite3"
    try:
        sandbox = stack.enter_context(
            Sandbox(file, dialect_of(environment.url), session_seconds=_A_DAY)
        )
        return sandbox.url, Secret(sandbox.session_token())
    except OSError as error:
        raise WorkspaceError(
            "sandbox_unusable",
            f"The embedded Twenty of {environment.name} cannot use {file}: {error.strerror}.",
            remedy="Make the folder writable, or remove the file to begin anew.",
        ) from None
