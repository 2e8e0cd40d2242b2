"""The embedded Twenty as tests use it: a journal, faults, delays, and rows changed directly."""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlencode

from provisioner.model.workspace import Json
from provisioner.sandbox import LOCK_WAIT, Dialect, dialect_of, seeds, timestamps, tokens
from provisioner.sandbox import Sandbox as EmbeddedTwenty
from provisioner.sandbox.exchange import Request, Response, json_answer
from provisioner.sandbox.seeds import API_KEYS_FLAG, ROLES_FLAG, SeededRole, role
from provisioner.sandbox.store import INSERT, ApiKey, Store, User, row_of
from provisioner.sandbox.tenant import Settings, SignInRefusal
from provisioner.sandbox.tokens import IssuedClaims, TokenKind

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from provisioner.sandbox import Front

__all__ = [
    "API_KEYS_FLAG",
    "OWN_KEY",
    "ROLES_FLAG",
    "ApiKey",
    "Around",
    "Dialect",
    "Exchange",
    "Json",
    "Request",
    "Response",
    "Sandbox",
    "SeededRole",
    "Settings",
    "SignInRefusal",
    "User",
    "dialect_of",
    "json_answer",
    "nginx_busy",
    "rate_limited",
    "role",
    "signs_in",
    "spent_credits",
]

OWN_KEY = "provision"
"""The name of the key behind `Sandbox.api_token`."""

_SIGN_INS = (b"getLoginToken", b"getAuthTokens", b"signIn(", b"renewToken(", b"signOut(")
_SEEDED_EXPIRY = "2031-01-01T00:00:00.000Z"
_CENTURY = timedelta(days=36_500).total_seconds()

Around: TypeAlias = Callable[[Request, Callable[[Request], Response]], Response]
"""A middleware: it gets a request and the function that answers it.

It may answer by itself, change the answer, or raise a `ConnectionError`, which closes the
connection without an answer. If it raises after the call, the request was committed.
"""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One finished exchange, for tests and benchmarks.

    Attributes:
        path: the path and the query.
        status: the HTTP status; 0 if the connection was closed without an answer.
        started: `time.monotonic()` when the request had been read.
        ended: `time.monotonic()` when the answer was ready to be written, or just before the
            connection was closed without one.
    """

    method: str
    path: str
    body: bytes = field(repr=False)
    status: int
    started: float
    ended: float


class SlowStore(Store):
    """A store whose creates take time, as those of a real server.

    Attributes:
        create_seconds: how long one create takes: a REST create, a whole batch, or each aliased
            `createApiKey`. Creates on several connections overlap.
        role_seconds: how long a new key on 2.21 exists without its role, in addition to
            `create_seconds` and before the create is answered; about 0.1 on a real server
            (observed, not recorded). The other dialects create a key together with its role.
    """

    create_seconds = 0.0
    role_seconds = 0.0

    def wait_for_create(self) -> None:
        """Wait for the duration of one create, without holding a lock."""
        if self.create_seconds:
            time.sleep(self.create_seconds)

    def wait_for_role(self) -> None:
        """Wait for the time in which a new key has no role yet, without holding a lock."""
        time.sleep(self.role_seconds)

    def create(self, keys: Iterable[ApiKey]) -> tuple[ApiKey | None, ...]:
        self.wait_for_create()
        if self.dialect.recorded is not Dialect.CORE or not self.role_seconds:
            return super().create(keys)
        created = tuple(keys)
        super().create(dataclasses.replace(key, role_id=None) for key in created)
        self.wait_for_role()
        for key in created:
            self.update(key.id, role_id=key.role_id)
        return created

    def insert(self, keys: Iterable[ApiKey]) -> None:
        """Add rows without a wait."""
        with self._transaction() as connection:
            connection.executemany(INSERT, map(row_of, keys))

    def delete_rows(self, key_ids: Iterable[str]) -> int:
        """Delete rows, also soft-deleted ones; return how many were deleted."""
        return sum(self.write("DELETE FROM api_key WHERE id = ?", key_id) for key_id in key_ids)

    def write(self, statement: str, *values: str) -> int:
        """Run one statement; return how many rows it changed."""
        with self._transaction() as connection:
            return connection.execute(statement, values).rowcount


class Sandbox(EmbeddedTwenty):
    """An embedded Twenty whose workspace tests may change without a request.

    Args:
        create_seconds: see `SlowStore`.
        role_seconds: see `SlowStore`.
        journal: receives every finished exchange.
        around: handles each request; it gets the request and the function that answers it.
        settings: see `provisioner.sandbox.tenant.Settings`; `configure` changes them later.
        beside: another sandbox, whose server and journal serve this workspace too.
    """

    def __init__(
        self,
        file: Path | None,
        dialect: Dialect = Dialect.CORE,
        *,
        port: int = 0,
        create_seconds: float = 0.0,
        role_seconds: float = 0.0,
        session_seconds: float = 1800.0,
        journal: list[Exchange] | None = None,
        around: Around | None = None,
        lock_wait: float = LOCK_WAIT,
        front: Front | None = None,
        settings: Settings | None = None,
        beside: EmbeddedTwenty | None = None,
    ) -> None:
        super().__init__(
            file,
            dialect,
            port=port,
            session_seconds=session_seconds,
            lock_wait=lock_wait,
            front=front,
            settings=settings or Settings(),
            beside=beside,
        )
        self._create_seconds = create_seconds
        self._role_seconds = role_seconds
        self._journal = journal
        self._around = around

    def _open_store(self) -> Store:
        store = SlowStore(self.file, self.dialect, lock_wait=self.lock_wait)
        store.create_seconds, store.role_seconds = self._create_seconds, self._role_seconds
        return store

    def _answer(self) -> Callable[[Request], Response]:
        answer = super()._answer()
        if self._around is not None:
            answer = _around(self._around, answer)
        return answer if self._journal is None else self._noting(answer, self._journal)

    def _noting(
        self, answer: Callable[[Request], Response], journal: list[Exchange]
    ) -> Callable[[Request], Response]:
        """Return a function that adds each exchange to the journal before its client sees it."""

        def noted(request: Request) -> Response:
            started = time.monotonic()
            path = f"{request.path}?{urlencode(request.query)}" if request.query else request.path
            status = 0
            try:
                response = answer(request)
                status = response.status
            except ConnectionError:
                _note(journal, request, path, status, started)
                raise
            _note(journal, request, path, status, started)
            return response

        return noted

    @property
    def _rows(self) -> SlowStore:
        store = self._store
        assert isinstance(store, SlowStore)
        return store

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

    def put_user(self, user: User) -> None:
        """Replace a user, to give them another role, password or e-mail address."""
        statement = "INSERT OR REPLACE INTO user VALUES (?, ?, ?, ?, ?)"
        self._rows.write(statement, *dataclasses.astuple(user))

    def api_token(self) -> str:
        """Return a token of the key `provision`; create it with the Admin role if it is missing.

        A new workspace has no keys, so that it has no unmanaged ones.
        """
        live = (key for key in self.keys() if key.name == OWN_KEY)
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
        expires = int(time.time() + seconds)
        workspace = store.workspace_id
        claims = IssuedClaims(TokenKind.API_KEY, workspace, workspace, expires, key=key_id)
        return tokens.sign(claims, store.secret, store.dialect)

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
        self._rows.insert(keys)
        return tuple(key.id for key in keys)

    def put(self, *keys: ApiKey) -> None:
        """Add keys as given, replacing those with the same id."""
        self._rows.delete_rows(key.id for key in keys)
        self._rows.insert(keys)

    def forget(self, key_ids: Iterable[str] | None = None) -> int:
        """Delete the rows of these keys, or of all keys; return how many were deleted."""
        if key_ids is None:
            return self._rows.write("DELETE FROM api_key")
        return self._rows.delete_rows(key_ids)

    def keys(self) -> tuple[ApiKey, ...]:
        """Return all rows in order of creation, also revoked, expired and soft-deleted ones."""
        return self._store.select("TRUE")

    def roles(self) -> tuple[SeededRole, ...]:
        """Return all roles in Twenty's order."""
        return self._store.roles()

    def role(self, label: str) -> SeededRole:
        """Return the role with a label."""
        return next(role for role in self.roles() if role.label == label)

    def put_role(self, role: SeededRole) -> None:
        """Add a role, which `role` creates, or replace the one with its id."""
        self._rows.write(
            "INSERT INTO role (id, wire) VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET wire = excluded.wire",
            role.id,
            json.dumps(role.wire),
        )

    def configure(self, **changes: Any) -> None:
        """Change fields of `Settings` from the next request on."""
        self._tenant.settings = dataclasses.replace(self._tenant.settings, **changes)

    def revoke_signing_key(self) -> None:
        """Replace the key that signs tokens, so that those of the old one are refused.

        All other sandboxes of the file notice only when they are started again.
        """
        self._store.secret = secrets.token_bytes(32)
        self._rows.write("UPDATE workspace SET secret = ?", self._store.secret.hex())

    def share_users(self, other: Sandbox) -> None:
        """Give the users of this workspace the e-mail addresses and passwords of another's."""
        for name in ("admin", "member", "guest"):
            theirs = other.user(name)
            changes = {"email": theirs.email, "password": theirs.password}
            self.put_user(dataclasses.replace(self.user(name), **changes))

    def append_role(self, role: SeededRole) -> None:
        """Add a role, or move the one with its id, to the end of Twenty's order."""
        self._rows.write("DELETE FROM role WHERE id = ?", role.id)
        self.put_role(role)

    def permit(self, label: str, *flags: str) -> None:
        """Give a role exactly these settings permissions.

        `API_KEYS_FLAG` allows the use of keys, `ROLES_FLAG` the listing of roles. That `getRoles`
        needs `ROLES_FLAG` is known from the server's source, not recorded.
        """
        wire = {**self.role(label).wire, "canUpdateAllSettings": False}
        wire["permissionFlags"] = seeds.permission_flags(flags)
        self.put_role(SeededRole(wire))

    def enrol(self, user: str, label: str) -> None:
        """Give a user another role."""
        self.put_user(dataclasses.replace(self.user(user), role_id=self.role(label).id))


def _around(around: Around, answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    return lambda request: around(request, answer)


def _note(
    journal: list[Exchange], request: Request, path: str, status: int, started: float
) -> None:
    ended = time.monotonic()
    journal.append(Exchange(request.method, path, request.body, status, started, ended))


def signs_in(body: bytes) -> bool:
    """Return whether the body of a request is one step of a sign-in, a renewal or a sign-out."""
    return any(mutation in body for mutation in _SIGN_INS)


def rate_limited(request: Request, wait_ms: int = 1000, requests: int = 100) -> Response:
    """Return the newest's answer to too many requests, for `around` (not recorded)."""
    message = "Rate limit exceeded"  # the text is ours: clients know it by the code
    if request.path in ("/graphql", "/metadata"):
        extensions: Json = {"code": "RATE_LIMITED", "retryAfterMs": wait_ms}
        error: Json = {"message": message, "extensions": extensions}
        return json_answer(200, {"errors": [error], "data": None})
    seconds = math.ceil(wait_ms / 1000)
    headers = (
        ("Retry-After", str(seconds)),
        ("X-RateLimit-Limit", str(requests)),
        ("X-RateLimit-Remaining", "0"),
        # Seconds since 1970, as on most servers; Twenty's own unit is not known.
        ("X-RateLimit-Reset", str(math.ceil(time.time()) + seconds)),
    )
    body: Json = {
        "statusCode": 429,
        "error": "RATE_LIMITED",
        "messages": [message],
        "retryAfterSeconds": seconds,
    }
    return json_answer(429, body, headers=headers)


def nginx_busy() -> Response:
    """Return the answer of nginx 1.22.1 to a request that `limit_req` refuses (recorded)."""
    page = (
        b"<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n"
        b"<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n"
        b"<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n"
    )
    return Response(503, page, (("Content-Type", "text/html"),))


def spent_credits(request: Request) -> Response:
    """Return the newest's answer once the credits are spent, for `around` (not recorded)."""
    message, code = "Credits exhausted", "BILLING_CREDITS_EXHAUSTED"
    if request.path in ("/graphql", "/metadata"):
        extensions: Json = {"code": "FORBIDDEN", "subCode": code}
        error: Json = {"message": message, "extensions": extensions}
        return json_answer(402, {"errors": [error], "data": None})
    body: Json = {"statusCode": 402, "error": "Error", "code": code, "messages": [message]}
    return json_answer(402, body)
