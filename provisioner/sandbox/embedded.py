"""The embedded Twenty: one workspace, served on a loopback port."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self

from provisioner.sandbox import tokens
from provisioner.sandbox.dialect import Dialect
from provisioner.sandbox.server import Server
from provisioner.sandbox.store import LOCK_WAIT, Store, User
from provisioner.sandbox.tenant import Settings, Tenant
from provisioner.sandbox.tokens import IssuedClaims, TokenKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from provisioner.sandbox.exchange import Request, Response
    from provisioner.sandbox.server import Front


@dataclass(eq=False)
class Sandbox:
    """A Twenty server that needs only a file. Call `start` before anything else.

    Args:
        file: where the state is kept; None to discard it when the sandbox stops. Several
            sandboxes may serve one file at the same time, also from several processes.
        dialect: the recorded server to behave like.
        port: 0 for any free port.
        session_seconds: the lifetime of the access token that a sign-in returns.
        lock_wait: seconds to wait for another program's lock on the file.
        front: a server shared with other sandboxes, used instead of an own one; each has a path.
        settings: how the workspace is set up.
        beside: a started sandbox whose server gets this workspace too, under the same address.
    """

    file: Path | None
    dialect: Dialect = Dialect.CORE
    _: KW_ONLY
    port: int = 0
    session_seconds: float = 1800.0
    lock_wait: float = LOCK_WAIT
    front: Front | None = None
    settings: Settings = field(default_factory=Settings)
    beside: Sandbox | None = None
    _tenants: list[Tenant] = field(default_factory=list, init=False)
    _started: Tenant | None = field(default=None, init=False)
    _parts: ExitStack = field(default_factory=ExitStack, init=False)

    def start(self) -> Self:
        """Open the workspace, or create it, and serve it.

        Raises:
            WorkspaceError: the file is unusable, or not a workspace of this dialect.
            OSError: the port is in use.
        """
        with ExitStack() as parts:
            store = self._open_store()
            parts.callback(store.close)
            tenant = Tenant(store, self.settings, self.session_seconds)
            self._tenants = [tenant]
            if self.beside is not None:
                tenant.url, self._tenants = self.beside.url, self.beside._tenants  # noqa: SLF001  # of this class
                self._tenants.append(tenant)
                parts.callback(self._tenants.remove, tenant)
            elif self.front is None:
                server = Server(self.port, self._answer())
                parts.callback(server.stop)
                tenant.url = server.url
            else:
                tenant.url = self.front.join(self._answer())
                parts.callback(self.front.leave, tenant.url)
            self._started, self._parts = tenant, parts.pop_all()
        return self

    def _open_store(self) -> Store:
        return Store(self.file, self.dialect, lock_wait=self.lock_wait)

    def _answer(self) -> Callable[[Request], Response]:
        """Return the function that answers requests."""
        # Imported here: graphql-core loads slowly, and many imports only need a dialect.
        from provisioner.sandbox.router import answer  # noqa: PLC0415  # as said

        return partial(answer, self._tenants)

    def stop(self) -> None:
        """Finish the requests in progress, stop the server and close the file."""
        self._started = None
        self._parts.close()

    def close_idle_files(self) -> None:
        """Close the files that no request is using; the next request opens them again."""
        if self._started is not None:
            self._store.close_idle_connection()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address: `http://127.0.0.1:PORT`, followed by a path if a front serves it."""
        return self._tenant.url

    def user(self, name: str = "admin") -> User:
        """Return the user `admin`, `member` or `guest`, who has the role of that name.

        2.21 has no Guest role, so its guest is a Member (core-2.21 `214`).
        """
        return next(user for user in self._store.users() if user.name == name)

    def session_token(self, user: str = "admin", *, seconds: float | None = None) -> str:
        """Return the access token of a signed-in user.

        Args:
            user: `admin`, `member` or `guest`.
            seconds: the lifetime of the token; negative for an expired one.
        """
        lifetime = self.session_seconds if seconds is None else seconds
        store = self._store
        expires = int(time.time() + lifetime)
        claims = IssuedClaims(TokenKind.ACCESS, store.workspace_id, self.user(user).id, expires)
        return tokens.sign(claims, store.secret, store.dialect)

    @property
    def _tenant(self) -> Tenant:
        if self._started is None:
            raise RuntimeError("the sandbox has not been started")
        return self._started

    @property
    def _store(self) -> Store:
        return self._tenant.store
