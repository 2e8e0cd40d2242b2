"""The workspace of an environment: a server on the network, or the embedded Twenty."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.http_client.network import Network
from provisioner.model.environment import SessionToken
from provisioner.runtime.file_descriptors import is_out_of_descriptors, too_many_open_files
from provisioner.secret import Secret
from provisioner.twenty.connect import connect
from provisioner.twenty.sign_ins import SignIns

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from provisioner.model.environment import Environment
    from provisioner.model.workspace import Workspace
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sandbox import Front, Sandbox

_SESSION_SECONDS = 86_400.0


@dataclass(slots=True, eq=False)
class WorkspaceOpener:
    """Opens the workspace of an environment; all embedded Twenties of a run share one server.

    Attributes:
        root: the directory in which the embedded Twenty keeps its state, in `.provision/`.
        stop: ends the run early.
        others_wait: True if no environment is written to before each of them has been observed.
        environments: all of the run, of which some may share the check of a password.
    """

    root: Path
    stop: Cancellation
    others_wait: bool = field(default=False, kw_only=True)
    environments: tuple[Environment, ...] = field(default=(), kw_only=True)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _front: Front | None = field(default=None, init=False)
    _sign_ins: SignIns | None = field(default=None, init=False)
    _network: Network = field(default_factory=Network, init=False)

    def __call__(self, environment: Environment, stack: ExitStack) -> Workspace:
        """Sign in, and return the workspace; the stack closes it.

        Raises:
            WorkspaceError: if it cannot be opened.
            RefusedError: if a guard forbids using it.
        """
        url, credential = environment.url, environment.credential
        on_idle_closed: Callable[[], None] | None = None
        if environment.embedded:
            sandbox = self._start_embedded(environment, stack)
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
            self.stop,
            others_wait=self.others_wait,
            on_idle_closed=on_idle_closed,
            sign_ins=self._sign_ins_of_run(stack),
            network=self._network,
        )
        stack.callback(workspace.close)
        return workspace

    def _sign_ins_of_run(self, stack: ExitStack) -> SignIns:
        with self._lock:
            if self._sign_ins is None:
                self._sign_ins = SignIns(self.stop, self.environments)
                stack.callback(self._sign_ins.sign_out)
            return self._sign_ins

    def _start_embedded(self, environment: Environment, stack: ExitStack) -> Sandbox:
        """Open the embedded workspace of an environment; the server starts with the first one.

        Raises:
            WorkspaceError: if its file cannot be used, or the server cannot start.
        """
        # Imported here because most runs use real servers and need no GraphQL engine.
        from provisioner.sandbox import LOCK_WAIT, Front, Sandbox, dialect_of  # noqa: PLC0415 - see above

        file = self.root / ".provision" / f"{environment.name}.sqlite3"
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
                remedy="Free a loopback port for this user and run the command again.",
            ) from None
