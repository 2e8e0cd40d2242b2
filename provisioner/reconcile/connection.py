"""The workspace of an environment: a server on the network, or the embedded Twenty."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.environment import SessionToken
from provisioner.runtime.file_descriptors import is_out_of_descriptors, too_many_open_files
from provisioner.secret import Secret
from provisioner.twenty.connect import connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from provisioner.model.environment import Environment
    from provisioner.model.workspace import Workspace
    from provisioner.reconcile.reconciler import Connect
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sandbox import Front, Sandbox

_SESSION_SECONDS = 86_400.0


def workspace_opener(root: Path, stop: Cancellation, *, others_wait: bool = False) -> Connect:
    """Return a function that opens the workspace of an environment.

    Args:
        root: the directory in which the embedded Twenty keeps its state, in `.provision/`.
        stop: ends the run early.
        others_wait: True if no environment is written to before each of them has been observed.
    """
    embedded = _Embedded(root)

    def open_workspace(environment: Environment, stack: ExitStack) -> Workspace:
        url, credential = environment.url, environment.credential
        on_idle_closed: Callable[[], None] | None = None
        if environment.embedded:
            sandbox = embedded.start(environment, stack)
            url, on_idle_closed = sandbox.url, sandbox.close_idle_files
            credential = SessionToken(Secret(sandbox.session_token()))
        elif credential is None:
            raise WorkspaceError(
                Code.AUTH_MISSING,
                f"The environment {environment.name} has no credential.",
                remedy="Add `auth:` to this environment.",
            )
        workspace = connect(
            environment,
            url,
            credential,
            stop,
            others_wait=others_wait,
            on_idle_closed=on_idle_closed,
        )
        stack.callback(workspace.close)
        return workspace

    return open_workspace


class _Embedded:
    """The embedded Twenties of a run, behind one server that starts with the first of them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._front: Front | None = None

    def start(self, environment: Environment, stack: ExitStack) -> Sandbox:
        """Open the embedded workspace of an environment; the stack closes it.

        Raises:
            WorkspaceError: if its file cannot be used, or the server cannot start.
        """
        # Imported here because most runs use real servers and need no GraphQL engine.
        from provisioner.sandbox import LOCK_WAIT, Front, Sandbox, dialect_of  # noqa: PLC0415 - see above

        file = self._root / ".provision" / f"{environment.name}.sqlite3"
        dialect = dialect_of(environment.url)
        try:
            with self._lock:
                if self._front is None:
                    self._front = Front()
                    # The stack stops the server after it closed all workspaces behind it.
                    stack.callback(self._front.stop)
            lock_wait = min(LOCK_WAIT, environment.limits.timeout / 2)
            sandbox = Sandbox(
                file,
                dialect,
                session_seconds=_SESSION_SECONDS,
                lock_wait=lock_wait,
                front=self._front,
            )
            return stack.enter_context(sandbox)
        except OSError as error:
            if is_out_of_descriptors(error):
                raise too_many_open_files(environment.name) from None
            raise WorkspaceError(
                Code.SANDBOX_UNUSABLE,
                f"The embedded Twenty for {environment.name} cannot start: {error.strerror}.",
                remedy="Free a loopback port for this user and run again.",
            ) from None
