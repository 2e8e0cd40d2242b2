"""The state of one workspace: one SQLite file that several processes may serve at once.

Reads see what was committed; a write is one short IMMEDIATE transaction. The file is made
whole under another name and then linked into place, so two processes that start together
agree on one workspace. It holds a signing secret and a password, so it is private.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import sqlite3
import tempfile
import threading
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from provisioner.errors.exceptions import WorkspaceError
from provisioner.runtime.file_descriptors import can_open, is_out_of_descriptors
from provisioner.sandbox import seeds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.sandbox.dialect import Dialect
    from provisioner.sandbox.exchange import JsonObject

_SCHEMA = """
CREATE TABLE workspace (          -- one row
    id       TEXT NOT NULL,
    dialect  TEXT NOT NULL,
    secret   TEXT NOT NULL        -- signs every token
);
CREATE TABLE role (
    position INTEGER PRIMARY KEY, -- the order in which Twenty lists them
    id       TEXT NOT NULL UNIQUE,
    wire     TEXT NOT NULL        -- JSON, by the names of the GraphQL fields
);
CREATE TABLE user (
    id       TEXT PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    email    TEXT NOT NULL UNIQUE,
    password TEXT NOT NULL,
    role_id  TEXT NOT NULL
);
CREATE TABLE api_key (
    position   INTEGER PRIMARY KEY, -- core lists in the order of creation
    id         TEXT NOT NULL UNIQUE, -- legacy lists in the order of ids
    name       TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    revoked_at TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    deleted_at TEXT,                -- a soft deletion of legacy
    role_id    TEXT                 -- NULL: the key whose role has not arrived
);
"""
_COLUMNS = "id, name, expires_at, revoked_at, created_at, updated_at, deleted_at, role_id"
_INSERT = f"INSERT INTO api_key ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  # constant
_SELECT = f"SELECT {_COLUMNS} FROM api_key"  # noqa: S608  # constant

UNUSABLE = "SANDBOX_UNUSABLE"
"""The code of an answer that says why the file cannot be used; no real Twenty has it."""

_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

_OPENED = 4
"""Files that SQLite opens for one connection, or closes again where one of them fails."""

LOCK_WAIT = 10.0
"""Seconds to wait for another program's lock: less than a client waits for an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One row; moments are texts as Twenty answers them, `2031-01-01T00:00:00.417Z`.

    Attributes:
        deleted_at: a soft deletion through the GraphQL of legacy.
        role_id: None on legacy, and on core for a key whose role has not arrived.
    """

    id: str
    name: str
    expires_at: str
    revoked_at: str | None = None
    created_at: str
    updated_at: str
    deleted_at: str | None = None
    role_id: str | None = None


@dataclass(frozen=True, slots=True)
class User:
    """Someone who signs in."""

    id: str
    name: str
    email: str
    password: str
    role_id: str


@dataclass(frozen=True, slots=True)
class Condition:
    """A part of a WHERE clause and what stands in its place holders."""

    sql: str
    values: tuple[str, ...] = ()


class Store:
    """The rows of one workspace.

    Args:
        file: None for a workspace that ends with the store.
        dialect: what the file is made for, or must have been made for.
        lock_wait: seconds to wait for the lock of another program.

    Raises:
        WorkspaceError: the file is not a workspace of that dialect.
    """

    def __init__(
        self, file: Path | None, dialect: Dialect, *, lock_wait: float = LOCK_WAIT
    ) -> None:
        self._passing = None
        if file is None:
            self._passing = tempfile.TemporaryDirectory(prefix="twenty-")
            file = Path(self._passing.name, "workspace")
        self._file = file
        self._lock_wait = lock_wait
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._given_up = False
        self._lock = threading.Lock()
        self._writer = threading.Lock()
        self._thread = threading.local()
        try:
            found = self._opened(dialect)
        except UnusableError as error:
            self.close()
            raise WorkspaceError("sandbox_unusable", error.message, remedy=error.remedy) from (
                error.__cause__
            )
        self.workspace_id: str = found[0]
        self.secret: bytes = bytes.fromhex(found[2])
        if found[1] != dialect:
            self.close()
            raise WorkspaceError(
                "sandbox_unusable",
                f"{self._file} holds a workspace of sandbox:{found[1]}, not of sandbox:{dialect}.",
                remedy="Use the url that the file was made with, or move the file away.",
            )

    def _opened(self, dialect: Dialect) -> tuple[str, str, str]:
        """Make the file where it is missing, and read the id, the dialect and the secret."""
        with _told(self._file):
            if not self._file.exists():
                _create(self._file, dialect)
        with self._connection() as connection:
            found: tuple[str, str, str] | None = connection.execute(
                "SELECT id, dialect, secret FROM workspace"
            ).fetchone()
        if found is None:
            raise _foreign(self._file)
        if not os.access(self._file, os.W_OK):
            raise _read_only(self._file)
        return found

    @property
    def commits(self) -> int:
        """How many transactions this thread has committed."""
        return getattr(self._thread, "commits", 0)

    def rest(self) -> None:
        """Close the connections that nobody uses now; later uses open others."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Closes every connection; SQLite then folds its log back into the one file."""
        with self._lock:
            self._closed = True
        self.rest()
        if self._passing:
            self._passing.cleanup()

    def key(self, key_id: str) -> ApiKey | None:
        """One key, unless it was deleted, softly or not."""
        with self._connection() as connection:
            row = connection.execute(
                f"{_SELECT} WHERE id = ? AND deleted_at IS NULL", (key_id,)
            ).fetchone()
        return _key(row) if row else None

    def select(
        self,
        condition: Condition | None = None,
        *,
        order: str = "position",
        limit: int | None = None,
    ) -> tuple[ApiKey, ...]:
        """The keys that meet a condition, in an order, as many as `limit` says."""
        where = condition or Condition("TRUE")
        with self._connection() as connection:
            rows = connection.execute(
                f"{_SELECT} WHERE {where.sql} ORDER BY {order} LIMIT ?",
                (*where.values, -1 if limit is None else limit),
            ).fetchall()
        return tuple(_key(row) for row in rows)

    def count(self, condition: Condition) -> int:
        """How many keys meet a condition."""
        with self._connection() as connection:
            (count,) = connection.execute(
                f"SELECT count(*) FROM api_key WHERE {condition.sql}",  # noqa: S608  # from rest_legacy, values bound
                condition.values,
            ).fetchone()
        return int(count)

    def insert(self, keys: Iterable[ApiKey]) -> None:
        """Adds keys, all or none.

        Raises:
            sqlite3.IntegrityError: one of the ids is taken.
        """
        with self._transaction() as connection:
            connection.executemany(_INSERT, map(_row, keys))

    def insert_new(self, keys: Iterable[ApiKey]) -> tuple[ApiKey | None, ...]:
        """Adds keys, all or none; None in place of a key whose id a soft-deleted row holds.

        Raises:
            sqlite3.IntegrityError: one of the ids is taken.
        """
        added: list[ApiKey | None] = []
        with self._transaction() as connection:
            for key in keys:
                buried = connection.execute(
                    "SELECT 1 FROM api_key WHERE id = ? AND deleted_at IS NOT NULL", (key.id,)
                ).fetchone()
                if not buried:
                    connection.execute(_INSERT, _row(key))
                added.append(None if buried else key)
        return tuple(added)

    def update(self, key_id: str, **columns: str | None) -> ApiKey | None:
        """Changes columns of one key that was not deleted, and answers how it is then."""
        changes = ", ".join(f"{column} = ?" for column in columns)
        with self._transaction() as connection:
            row = connection.execute(
                f"UPDATE api_key SET {changes} WHERE id = ? AND deleted_at IS NULL"  # noqa: S608  # column names from code
                f" RETURNING {_COLUMNS}",
                (*columns.values(), key_id),
            ).fetchone()
        return _key(row) if row else None

    def delete(self, key_ids: Iterable[str]) -> int:
        """Removes rows for good, soft-deleted ones too; says how many."""
        with self._transaction() as connection:
            return sum(
                connection.execute("DELETE FROM api_key WHERE id = ?", (key_id,)).rowcount
                for key_id in key_ids
            )

    def roles(self) -> tuple[seeds.SeededRole, ...]:
        """Every role, in Twenty's order."""
        with self._connection() as connection:
            rows = connection.execute("SELECT wire FROM role ORDER BY position").fetchall()
        return tuple(seeds.SeededRole(json.loads(wire)) for (wire,) in rows)

    def role(self, role_id: str | None) -> seeds.SeededRole | None:
        """One role."""
        with self._connection() as connection:
            row = connection.execute("SELECT wire FROM role WHERE id = ?", (role_id,)).fetchone()
        return seeds.SeededRole(json.loads(row[0])) if row else None

    def put_role(self, role: seeds.SeededRole) -> None:
        """Adds a role, or replaces the one of that id."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO role (id, wire) VALUES (?, ?)"
                " ON CONFLICT (id) DO UPDATE SET wire = excluded.wire",
                (role.id, json.dumps(role.wire)),
            )

    def users(self) -> tuple[User, ...]:
        """Everyone who can sign in."""
        with self._connection() as connection:
            rows = connection.execute("SELECT id, name, email, password, role_id FROM user")
            return tuple(User(*row) for row in rows.fetchall())

    def user(self, user_id: str) -> User | None:
        """One user."""
        return next((user for user in self.users() if user.id == user_id), None)

    def put_user(self, user: User) -> None:
        """Replaces the user of that id."""
        with self._transaction() as connection:
            _insert_user(connection, user)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else uses meanwhile."""
        with _told(self._file):
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            connection = connection or _connect(self._file)
            try:
                connection.execute(f"PRAGMA busy_timeout = {self._milliseconds()}")
                yield connection
                self._given_up = False
            except sqlite3.OperationalError as error:
                self._given_up = _is_locked(error)
                raise
            finally:
                with self._lock:
                    keep = not self._closed
                    if keep:
                        self._idle.append(connection)
                if not keep:
                    connection.close()

    def _milliseconds(self) -> int:
        """Return how long to wait for a lock: not again where the last wait was in vain."""
        return 0 if self._given_up else round(1000 * self._lock_wait)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # SQLite's own wait between writers sleeps in steps; a lock hands over at once.
        with self._writer, self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
                self._thread.commits = self.commits + 1
            except BaseException:
                if connection.in_transaction:  # SQLite ends it itself where the disk is full
                    connection.execute("ROLLBACK")
                raise


class UnusableError(Exception):
    """The file cannot be read or written now; nothing was changed.

    Attributes:
        message: what is wrong with which file.
        remedy: what to do about it.
        extensions: the code in an answer of GraphQL.
    """

    extensions: ClassVar[JsonObject] = {"code": UNUSABLE}

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message} {remedy}")
        self.message = message
        self.remedy = remedy


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Tell an error of the database or of the disk as one of the file.

    Raises:
        UnusableError: in place of it.
        sqlite3.IntegrityError: what was to be written contradicts what is there.
    """
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise _meaning(file, error) from error


def _meaning(file: Path, error: sqlite3.Error | OSError) -> UnusableError:
    """Return what an error says of the file, and what to do."""
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    said = text[:1].lower() + text[1:]
    if is_out_of_descriptors(error) or (
        text.startswith("unable to open") and not can_open(_OPENED)
    ):
        return UnusableError(
            f"This process may open no more files, and {file} is one more.",
            "Raise that limit (`ulimit -n`), or work on fewer environments at once.",
        )
    if isinstance(error, sqlite3.Error):
        if _is_locked(error):
            return UnusableError(
                f"{file} is locked by another program.",
                "Close the program that has it open, or wait for it, and run again.",
            )
        if isinstance(error, sqlite3.OperationalError) and text.startswith("attempt to write a r"):
            return _read_only(file)
        if not isinstance(error, sqlite3.OperationalError) or "no such table" in text:
            return _foreign(file, f": {said}")
    denied = error.errno in _DENIED if isinstance(error, OSError) else not _can_write(file)
    if denied:
        return _read_only(file)
    remedy = "Free disk space, or raise the limit on file sizes (`ulimit -f`)."
    if text.startswith(("unable to open", "File name too long")):
        remedy = "Choose another folder; its path may have some 500 characters."
    return UnusableError(f"The embedded Twenty cannot write {file}: {said}.", remedy)


def _can_write(file: Path) -> bool:
    """Return whether this user may write the file, or make it, and its folder."""
    try:
        near = next(one for one in (file, *file.parents) if one.exists())
    except OSError:  # a folder that shows this user nothing
        return False
    folder = near if near.is_dir() else near.parent
    return os.access(folder, os.W_OK | os.X_OK) and (near.is_dir() or os.access(near, os.W_OK))


def _read_only(file: Path) -> UnusableError:
    return UnusableError(
        f"The embedded Twenty cannot write {file}: it or its folder is read-only for this user.",
        f"Make {file.parent} writable, or run as the user who owns it.",
    )


def _foreign(file: Path, why: str = "") -> UnusableError:
    return UnusableError(
        f"{file} is not a workspace of the embedded Twenty{why}.",
        "Move the file away; a new workspace is made in its place.",
    )


def _is_locked(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=0.0)
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def _create(file: Path, dialect: Dialect) -> None:
    if not file.parent.exists():
        file.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        (file.parent / ".gitignore").write_text("*\n", encoding="ascii")
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        connection = _connect(draft)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN")
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            _seed(connection, dialect)
            connection.execute("COMMIT")
        finally:
            connection.close()
        with suppress(FileExistsError):  # another process was first: its workspace is the one
            os.link(draft, file)
    finally:
        draft.unlink()


def _seed(connection: sqlite3.Connection, dialect: Dialect) -> None:
    connection.execute(
        "INSERT INTO workspace VALUES (?, ?, ?)",
        (str(uuid.uuid4()), dialect, secrets.token_hex(32)),
    )
    roles = seeds.roles_of(dialect)
    connection.executemany(
        "INSERT INTO role (id, wire) VALUES (?, ?)",
        ((role.id, json.dumps(role.wire)) for role in roles),
    )
    by_label = {role.label: role for role in roles}
    for label in (seeds.ADMIN, seeds.MEMBER, seeds.GUEST):
        name = label.lower()
        _insert_user(
            connection,
            User(
                id=str(uuid.uuid4()),
                name=name,
                email=f"{name}@sandbox.test",
                password=secrets.token_urlsafe(18),
                # 2.21 has no Guest role (core-2.21 `214`).
                role_id=by_label.get(label, by_label[seeds.MEMBER]).id,
            ),
        )


def _insert_user(connection: sqlite3.Connection, user: User) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO user VALUES (?, ?, ?, ?, ?)",
        (user.id, user.name, user.email, user.password, user.role_id),
    )


def _row(key: ApiKey) -> tuple[str | None, ...]:
    return (
        key.id,
        key.name,
        key.expires_at,
        key.revoked_at,
        key.created_at,
        key.updated_at,
        key.deleted_at,
        key.role_id,
    )


def _key(row: tuple[str | None, ...]) -> ApiKey:
    key_id, name, expires_at, revoked_at, created_at, updated_at, deleted_at, role_id = row
    return ApiKey(
        id=cast("str", key_id),
        name=cast("str", name),
        expires_at=cast("str", expires_at),
        revoked_at=revoked_at,
        created_at=cast("str", created_at),
        updated_at=cast("str", updated_at),
        deleted_at=deleted_at,
        role_id=role_id,
    )
