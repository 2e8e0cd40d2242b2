"""The embedded Twenty: one workspace, served on a loopback port."""

from __future__ import annotations

import dataclasses
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from provisioner.sandbox import seeds, timestamps, tokens
from provisioner.sandbox.dialect import Dialect
from provisioner.sandbox.server import STOP_SECONDS, Server
from provisioner.sandbox.store import LOCK_WAIT, ApiKey, Store, User
from provisioner.sandbox.tokens import IssuedClaims, TokenKind
from provisioner.sandbox.workspace import SandboxWorkspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

    from provisioner.sandbox.exchange import Around, Exchange, Request, Response
    from provisioner.sandbox.front import Front
    from provisioner.sandbox.seeds import SeededRole

OWN_KEY = "provision"
"""The name of the key behind `Sandbox.api_token`."""

_SEEDED_EXPIRY = "2031-01-01T00:00:00.000Z"
_CENTURY = timedelta(days=36_500).total_seconds()


@dataclasses.dataclass(frozen=True, slots=True)
class _Running:
    """The parts of a started sandbox.

    Attributes:
        stop_serving: stops the answers to requests; the store stays open.
    """

    store: Store
    url: str
    stop_serving: Callable[[], None]


class Sandbox:
    """A Twenty server that needs only a file.

    Call `start` before anything else. The methods that change the workspace without a request
    (`seed`, `put`, `forget`, `put_role`, …) are for tests and for `provision sandbox`.

    Args:
        file: where the state is kept; None to discard it when the sandbox stops. Several
            sandboxes may serve one file at the same time, also from several processes.
        dialect: the recorded server to behave like.
        port: 0 for any free port.
        create_seconds: how long the server takes for one create: a REST create, a whole batch,
            or each aliased `createApiKey`. Creates on several connections overlap.
        role_seconds: how long a new key on 2.21 exists without its role, in addition to
            `create_seconds` and before the create is answered; about 0.1 on a real server. The
            other dialects create a key together with its role.
        page_core_list: answer `/rest/metadata/apiKeys` in pages, as about 2.4x (not recorded).
        session_seconds: the lifetime of the access token that a sign-in returns.
        journal: receives every finished exchange.
        around: handles each request; it gets the request and the function that answers it.
        lock_wait: seconds to wait for another program's lock on the file.
        front: a server shared with other sandboxes, used instead of an own one; it keeps no
            journal.
        stop_seconds: how long `stop` waits for requests in progress.
    """

    def __init__(  # noqa: PLR0913  # the knobs of a server
        self,
        file: Path | None,
        dialect: Dialect = Dialect.CORE,
        *,
        port: int = 0,
        create_seconds: float = 0.0,
        role_seconds: float = 0.0,
        page_core_list: bool = False,
        session_seconds: float = 1800.0,
        journal: list[Exchange] | None = None,
        around: Around | None = None,
        lock_wait: float = LOCK_WAIT,
        front: Front | None = None,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        self._file = file
        self._port = port
        self._journal = journal
        self._around = around
        self._front = front
        self._lock_wait = lock_wait
        self._stop_seconds = stop_seconds
        self._create_seconds = create_seconds
        self._role_seconds = role_seconds
        self._page_core_list = page_core_list
        self._session_seconds = session_seconds
        self._running: _Running | None = None
        self.dialect = dialect

    def start(self) -> Self:
        """Open the workspace, or create it, and serve it.

        Raises:
            WorkspaceError: the file is unusable, or not a workspace of this dialect.
            OSError: the port is in use.
        """
        # Imported here: graphql-core loads slowly, and many imports only need a dialect.
        from provisioner.sandbox.router import Router  # noqa: PLC0415  # as said

        store = Store(self._file, self.dialect, lock_wait=self._lock_wait)
        workspace = SandboxWorkspace(
            store=store,
            dialect=self.dialect,
            create_seconds=self._create_seconds,
            role_seconds=self._role_seconds,
            session_seconds=self._session_seconds,
            page_core_list=self._page_core_list,
        )
        try:
            self._running = self._serve(store, self._answer(Router(workspace).answer))
        except BaseException:
            store.close()
            raise
        return self

    def _serve(self, store: Store, answer: Callable[[Request], Response]) -> _Running:
        if (front := self._front) is None:
            server = Server(self._port, answer, self._journal, self._stop_seconds)
            return _Running(store, server.url, server.stop)
        url = front.join(answer)
        return _Running(store, url, lambda: front.leave(url))

    def stop(self) -> None:
        """Finish the requests in progress, stop the server and close the file."""
        if self._running is None:
            return
        running, self._running = self._running, None
        running.stop_serving()
        running.store.close()

    def close_idle_files(self) -> None:
        """Close the files that no request is using; the next request opens them again."""
        if self._running is not None:
            self._running.store.close_idle_connections()

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
        return self._started.url

    @property
    def workspace_id(self) -> str:
        """A random UUID, created with the file and kept in it."""
        return self._store.workspace_id

    @property
    def email(self) -> str:
        """The administrator's e-mail address."""
        return self.user().email

    @property
    def password(self) -> str:
        """The administrator's password: random, created with the file and kept in it."""
        return self.user().password

    def user(self, name: str = "admin") -> User:
        """Return the user `admin`, `member` or `guest`, who has the role of that name.

        2.21 has no Guest role, so its guest is a Member (core-2.21 `214`).
        """
        return next(user for user in self._store.users() if user.name == name)

    def put_user(self, user: User) -> None:
        """Replace a user, to give them another role, password or e-mail address."""
        self._store.put_user(user)

    def api_token(self) -> str:
        """Return a token of the key `provision`; create it with the Admin role if it is missing.

        A new workspace has no keys, so that it has no unmanaged ones.
        """
        live = (key for key in self._store.select() if key.name == OWN_KEY)
        usable = [key for key in live if not key.revoked_at and not key.deleted_at]
        key_id = usable[0].id if usable else self.seed([OWN_KEY])[0]
        return self.token_of(key_id)

    def token_of(self, key_id: str, *, seconds: float = _CENTURY) -> str:
        """Return a token for a key id, whether or not the key exists.

        Args:
            key_id: the id that the token names.
            seconds: the lifetime of the token; negative for an expired one.
        """
        store = self._store
        return tokens.sign(
            IssuedClaims(
                TokenKind.API_KEY,
                store.workspace_id,
                store.workspace_id,
                int(time.time() + seconds),
                key=key_id,
            ),
            store.secret,
        )

    def session_token(self, user: str = "admin", *, seconds: float | None = None) -> str:
        """Return the access token of a signed-in user.

        Args:
            user: `admin`, `member` or `guest`.
            seconds: the lifetime of the token; negative for an expired one.
        """
        lifetime = self._session_seconds if seconds is None else seconds
        store = self._store
        return tokens.sign(
            IssuedClaims(
                TokenKind.ACCESS,
                store.workspace_id,
                self.user(user).id,
                int(time.time() + lifetime),
            ),
            store.secret,
        )

    def seed(
        self,
        names: Iterable[str],
        *,
        expires_at: str = _SEEDED_EXPIRY,
        revoked_at: str | None = None,
        role: str | None = seeds.ADMIN,
    ) -> tuple[str, ...]:
        """Add keys in one transaction and return their ids, in the order of the names.

        Args:
            names: the names of the keys; they need not be unique.
            expires_at: the expiry as Twenty writes it, `2031-01-01T00:00:00.000Z`.
            revoked_at: the time of the revocation, in the same format.
            role: the label of a role; None for keys without a role. Legacy keys have none.
        """
        role_id = None
        if role is not None and self.dialect is not Dialect.LEGACY:
            role_id = self.role(role).id
        now = timestamps.now()
        keys = tuple(
            ApiKey(
                id=str(uuid.uuid4()),
                name=name,
                expires_at=expires_at,
                revoked_at=revoked_at,
                created_at=now,
                updated_at=now,
                role_id=role_id,
            )
            for name in names
        )
        self._store.insert(keys)
        return tuple(key.id for key in keys)

    def put(self, *keys: ApiKey) -> None:
        """Add keys as given, replacing those with the same id."""
        self._store.delete(key.id for key in keys)
        self._store.insert(keys)

    def forget(self, key_ids: Iterable[str] | None = None) -> int:
        """Delete the rows of these keys, or of all keys; return how many were deleted."""
        ids = [key.id for key in self._store.select()] if key_ids is None else key_ids
        return self._store.delete(ids)

    def keys(self) -> tuple[ApiKey, ...]:
        """Return all rows in order of creation, also revoked, expired and soft-deleted ones."""
        return self._store.select()

    def roles(self) -> tuple[SeededRole, ...]:
        """Return all roles in Twenty's order."""
        return self._store.roles()

    def role(self, label: str) -> SeededRole:
        """Return the role with a label."""
        return next(role for role in self.roles() if role.label == label)

    def put_role(self, role: SeededRole) -> None:
        """Add a role, which `provisioner.sandbox.role` creates, or replace the one with its id."""
        self._store.put_role(role)

    def permit(self, label: str, *flags: str) -> None:
        """Give a role exactly these settings permissions.

        `API_KEYS_FLAG` allows the use of keys, `ROLES_FLAG` the listing of roles. That `getRoles`
        needs `ROLES_FLAG` is known from the server's source, not recorded.
        """
        wire = {**self.role(label).wire, "canUpdateAllSettings": False}
        wire["permissionFlags"] = seeds.permission_flags(flags)
        self.put_role(seeds.SeededRole(wire))

    def enrol(self, user: str, label: str) -> None:
        """Give a user another role."""
        self.put_user(dataclasses.replace(self.user(user), role_id=self.role(label).id))

    def _answer(self, answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        around = self._around
        return answer if around is None else lambda request: around(request, answer)

    @property
    def _started(self) -> _Running:
        if self._running is None:
            raise RuntimeError("the sandbox has not been started")
        return self._running

    @property
    def _store(self) -> Store:
        return self._started.store
