"""The embedded Twenty as a whole: one workspace, served on a loopback port."""

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
    """What a started sandbox consists of.

    Attributes:
        leave: ends the serving.
    """

    store: Store
    url: str
    leave: Callable[[], None]


class Sandbox:
    """A Twenty that needs nothing but a file.

    Everything but the constructor needs a started sandbox. What changes the workspace without
    a request (`seed`, `put`, `forget`, `put_role` …) is for tests and for `provision sandbox`.

    Args:
        file: the state, which survives; None for one that ends with the sandbox. Several
            sandboxes, in several processes too, may serve one file at once.
        dialect: the recorded server to behave like.
        port: 0 for any free one.
        create_seconds: what one create takes on the server: a REST create, a batch as a whole,
            each aliased `createApiKey`. Creates of several connections take it side by side.
        role_seconds: on 2.21, how long a new key is there without its role, on top of
            `create_seconds` and before the create is answered; about 0.1 on the real one. The
            other dialects make a key and its role at once.
        page_core_list: answers `/rest/metadata/apiKeys` in pages, as about 2.4x (not recorded).
        session_seconds: the life of the access token of a sign-in.
        journal: gets every finished exchange.
        around: called for every request in place of the function that answers it.
        lock_wait: seconds to wait for another program's lock on the file.
        front: serves it beside others, in place of a server of its own; without a journal.
        stop_seconds: how long a stop waits for exchanges that are under way.
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
        """Opens or makes the workspace and serves it.

        Raises:
            WorkspaceError: the file cannot be used, or is not a workspace of that dialect.
            OSError: the port is taken.
        """
        # Here, so that whoever only names a dialect does not wait for graphql-core.
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
        """Finishes the exchanges that are under way and leaves one file behind."""
        if self._running is None:
            return
        running, self._running = self._running, None
        running.leave()
        running.store.close()

    def rest(self) -> None:
        """Close the files that no request needs at the moment; the next one opens them again."""
        if self._running is not None:
            self._running.store.rest()

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
        """`http://127.0.0.1:PORT`, below a front with a path."""
        return self._started.url

    @property
    def workspace_id(self) -> str:
        """A random UUID, made with the file and kept in it."""
        return self._store.workspace_id

    @property
    def email(self) -> str:
        """What the administrator signs in with."""
        return self.user().email

    @property
    def password(self) -> str:
        """Random, made with the file and kept in it."""
        return self.user().password

    def user(self, name: str = "admin") -> User:
        """One of `admin`, `member` and `guest`, each with the role of that name.

        2.21 has no Guest role, so its guest is a Member (core-2.21 `214`).
        """
        return next(user for user in self._store.users() if user.name == name)

    def put_user(self, user: User) -> None:
        """Replaces a user, to give them another role, password or e-mail."""
        self._store.put_user(user)

    def api_token(self) -> str:
        """A token of the key `provision`, which is made with the Admin role when it is missing.

        A fresh workspace holds no key at all, so that nothing in it is unmanaged.
        """
        live = (key for key in self._store.select() if key.name == OWN_KEY)
        usable = [key for key in live if not key.revoked_at and not key.deleted_at]
        key_id = usable[0].id if usable else self.seed([OWN_KEY])[0]
        return self.token_of(key_id)

    def token_of(self, key_id: str, *, seconds: float = _CENTURY) -> str:
        """A token of one key, whether or not there is such a key; negative for an expired one."""
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
        """The access token of a signed-in user; negative seconds for an expired one."""
        life = self._session_seconds if seconds is None else seconds
        store = self._store
        return tokens.sign(
            IssuedClaims(
                TokenKind.ACCESS,
                store.workspace_id,
                self.user(user).id,
                int(time.time() + life),
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
        """Adds keys in one transaction and returns their ids, in the order of the names.

        Args:
            names: they need not be unique.
            expires_at: as Twenty writes it, `2031-01-01T00:00:00.000Z`.
            revoked_at: likewise.
            role: a label; None for keys whose role has not arrived. Legacy keys have none.
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
        """Adds keys as they are, in place of any of the same id."""
        self._store.delete(key.id for key in keys)
        self._store.insert(keys)

    def forget(self, key_ids: Iterable[str] | None = None) -> int:
        """Removes the rows of keys, or of every key; says how many."""
        ids = [key.id for key in self._store.select()] if key_ids is None else key_ids
        return self._store.delete(ids)

    def keys(self) -> tuple[ApiKey, ...]:
        """Every row in the order of creation: revoked, expired and soft-deleted ones too."""
        return self._store.select()

    def roles(self) -> tuple[SeededRole, ...]:
        """Every role, in Twenty's order."""
        return self._store.roles()

    def role(self, label: str) -> SeededRole:
        """The role of a label."""
        return next(role for role in self.roles() if role.label == label)

    def put_role(self, role: SeededRole) -> None:
        """Adds a role (`provisioner.sandbox.role` makes one), or replaces the one of that id."""
        self._store.put_role(role)

    def permit(self, label: str, *flags: str) -> None:
        """Gives a role these permissions of the settings and no others.

        `API_KEYS_FLAG` lets it use keys, `ROLES_FLAG` lets it list roles; that `getRoles` needs
        the second of them is known from the server's source, not recorded.
        """
        wire = {**self.role(label).wire, "canUpdateAllSettings": False}
        wire["permissionFlags"] = seeds.permission_flags(flags)
        self.put_role(seeds.SeededRole(wire))

    def enrol(self, user: str, label: str) -> None:
        """Gives a user another role."""
        self.put_user(dataclasses.replace(self.user(user), role_id=self.role(label).id))

    def _answer(self, inner: Callable[[Request], Response]) -> Callable[[Request], Response]:
        around = self._around
        return inner if around is None else lambda request: around(request, inner)

    @property
    def _started(self) -> _Running:
        if self._running is None:
            raise RuntimeError("the sandbox has not been started")
        return self._running

    @property
    def _store(self) -> Store:
        return self._started.store
