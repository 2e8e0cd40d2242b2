"""The workspace of an environment: a server on the network, or the embedded Twenty."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakSet

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import SinkError, WorkspaceError
from provisioner.http_client.network import Network
from provisioner.manifests.secret_text import secret_in
from provisioner.model.activity import Connecting, ignore_activity
from provisioner.model.environment import SessionToken, StoredCredential
from provisioner.model.sink_content import Unreadable
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.file_descriptors import is_out_of_descriptors, too_many_open_files
from provisioner.secret import Secret
from provisioner.sinks.sink import StoredValue
from provisioner.twenty.connect import connect
from provisioner.twenty.sign_ins import SignIns

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from provisioner.model.activity import OnActivity
    from provisioner.model.environment import Environment
    from provisioner.model.sink_address import Address
    from provisioner.model.workspace import Workspace
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sandbox import Front, Sandbox
    from provisioner.sinks.sink import Content, OpenSink

_SESSION_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, eq=False)
class CredentialStores:
    """Reads the secrets of credentials from stores, each address once a run.

    Attributes:
        open_store: opens the sink of an address, which is only read.
        stop: ends the run early.
    """

    open_store: OpenSink
    stop: Cancellation
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _contents: dict[Address, Future[Content]] = field(default_factory=dict, init=False)

    def read(self, environment: str, name: str, address: Address) -> Secret:
        """Return a secret of an environment; threads that need the same one wait for one read.

        Args:
            environment: the name of the environment, for messages.
            name: its name in `auth`.
            address: its address in a store.

        Raises:
            WorkspaceError: it cannot be read, or is not what `auth` needs.
        """
        fault, remedy, code = "", "Correct `auth`, or store the secret.", Code.CREDENTIAL_UNREADABLE
        try:
            content = self._content(address)
            if isinstance(content, StoredValue):
                return Secret(secret_in(name, content.value.reveal()))
            fault = f"{address} has no value"
        except ValueError as error:
            fault = f"the value of {address} {error}"
        except SinkError as error:
            fault, remedy = error.message.removesuffix("."), error.remedy
            code = error.code if error.code is Code.PROGRAM_NOT_RUN else code
        message = f"The {name} of {environment} cannot be read: {fault}."
        raise WorkspaceError(code, message, remedy=remedy)

    def _content(self, address: Address) -> Content:
        with self._lock:
            first = address not in self._contents
            reading = self._contents.setdefault(address, Future())
        if first:
            try:
                store = self.open_store(address)
                content = store.read()
                if isinstance(content, Unreadable):
                    store.check()  # raises if this run may not read it
                reading.set_result(content)
            except BaseException as error:
                reading.set_exception(error)
                raise
        self.stop.wait_for((reading,), graceful=False)
        if not reading.done():
            raise WorkspaceError.of(STOPPED)
        return reading.result()


@dataclass(slots=True, eq=False)
class WorkspaceOpener:
    """Opens the workspace of an environment; all embedded Twenties of a run share one server.

    Attributes:
        root: the directory in which the embedded Twenty keeps its state, in `.provision/`.
        stop: ends the run early.
        others_wait: True if no environment is written to before each of them has been observed.
        environments: all of the run, of which some may share the check of a password.
        stores: the stores of credentials; None if no environment has one in a store.
        on_activity: receives what each environment does.
    """

    root: Path
    stop: Cancellation
    others_wait: bool = field(default=False, kw_only=True)
    environments: tuple[Environment, ...] = field(default=(), kw_only=True)
    stores: CredentialStores | None = field(default=None, kw_only=True)
    on_activity: OnActivity = field(default=ignore_activity, kw_only=True)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _front: Front | None = field(default=None, init=False)
    _sign_ins: SignIns | None = field(default=None, init=False)
    _network: Network = field(default_factory=Network, init=False)
    _open: WeakSet[Workspace] = field(default_factory=WeakSet, init=False)

    def __call__(self, environment: Environment, stack: ExitStack) -> Workspace:
        """Sign in, and return the workspace; the stack closes it.

        Raises:
            WorkspaceError: if it cannot be opened.
            RefusedError: if a guard forbids using it.
        """
        self.on_activity(Connecting(environment.name))
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
        if isinstance(credential, StoredCredential):
            assert self.stores is not None  # noqa: S101 - a run whose environments have one
            credential = credential.read(partial(self.stores.read, environment.name))
        workspace = connect(
            environment,
            url,
            credential,
            self.stop,
            others_wait=self.others_wait,
            on_idle_closed=on_idle_closed,
            sign_ins=self._sign_ins_of_run(stack),
            network=self._network,
            on_activity=self.on_activity,
        )
        if environment.embedded:
            stack.callback(workspace.close)  # before its server stops
        else:
            self._open.add(workspace)
        return workspace

    def _sign_ins_of_run(self, stack: ExitStack) -> SignIns:
        """Return the sign-ins of the run; its stack closes the workspaces in use and signs out."""
        with self._lock:
            if self._sign_ins is None:
                self._sign_ins = SignIns(self.stop, self.environments)
                stack.callback(self._sign_ins.sign_out)
                stack.callback(self._close_all)
            return self._sign_ins

    def _close_all(self) -> None:
        """Close the workspaces that are still in use; a callback for each would keep them all."""
        for workspace in tuple(self._open):
            workspace.close()

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
