"""The state of one workspace: an SQLite file that several processes may use at the same time.

Reads see committed data; a write is one short IMMEDIATE transaction. The file is written under
another name and then linked into place, so that two processes that start together use the same
workspace. It contains a signing secret and passwords, so only its owner can read it.
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

from provisioner.errors.codes import Code
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
    deleted_at TEXT,                -- set by a soft deletion on legacy
    role_id    TEXT                 -- NULL on core: the key has no role yet
);
"""
_COLUMNS = "id, name, expires_at, revoked_at, created_at, updated_at, deleted_at, role_id"
_INSERT = f"INSERT INTO api_key ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  # constant
_SELECT = f"SELECT {_COLUMNS} FROM api_key"  # noqa: S608  # constant

UNUSABLE = "SANDBOX_UNUSABLE"
"""The code of the answer for an unusable file; no real Twenty has it."""

_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

_FILES_PER_CONNECTION = 4
"""The most files that SQLite opens for one connection; it closes them all if one fails."""

LOCK_WAIT = 10.0
"""Seconds to wait for another program's lock; shorter than a client's request timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One row; timestamps are texts in Twenty's format, `2031-01-01T00:00:00.417Z`.

    Attributes:
        deleted_at: the time of a soft deletion through legacy GraphQL.
        role_id: None on legacy, and on core for a key that has no role yet.
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
    """A user who can sign in."""

    id: str
    name: str
    email: str
    password: str
    role_id: str


@dataclass(frozen=True, slots=True)
class Condition:
    """A part of a WHERE clause and the values of its placeholders."""

    sql: str
    values: tuple[str, ...] = ()


class Store:
    """The rows of one workspace.

    Args:
        file: the database file; None for a temporary one, which `close` deletes.
        dialect: the dialect of a new file; an existing file must have the same one.
        lock_wait: seconds to wait for another program's lock.

    Raises:
        WorkspaceError: the file is not a workspace of that dialect.
    """

    def __init__(
        self, file: Path | None, dialect: Dialect, *, lock_wait: float = LOCK_WAIT
    ) -> None:
        self._temporary_folder = None
        if file is None:
            self._temporary_folder = tempfile.TemporaryDirectory(prefix="twenty-")
            file = Path(self._temporary_folder.name, "workspace")
        self._file = file
        self._lock_wait = lock_wait
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._lock_timed_out = False
        self._lock = threading.Lock()
        self._writer = threading.Lock()
        self._thread = threading.local()
        try:
            found = self._open(dialect)
        except UnusableError as error:
            self.close()
            raise WorkspaceError(Code.SANDBOX_UNUSABLE, error.message, remedy=error.remedy) from (
                error.__cause__
            )
        self.workspace_id: str = found[0]
        self.secret: bytes = bytes.fromhex(found[2])
        if found[1] != dialect:
            self.close()
            raise WorkspaceError(
                Code.SANDBOX_UNUSABLE,
                f"{self._file} is a workspace of sandbox:{found[1]}, not of sandbox:{dialect}.",
                remedy=f"Set `url` to sandbox:{found[1]}, or move the file away.",
            )

    def _open(self, dialect: Dialect) -> tuple[str, str, str]:
        """Create the file if it is missing; return the id, the dialect and the secret."""
        with _translate_errors(self._file):
            if not self._file.exists():
                _create(self._file, dialect)
        with self._connection() as connection:
            row: tuple[str, str, str] | None = connection.execute(
                "SELECT id, dialect, secret FROM workspace"
            ).fetchone()
        if row is None:
            raise _not_a_workspace(self._file)
        if not os.access(self._file, os.W_OK):
            raise _read_only(self._file)
        return row

    @property
    def commits(self) -> int:
        """The number of transactions that this thread has committed."""
        return getattr(self._thread, "commits", 0)

    def close_idle_connections(self) -> None:
        """Close the connections that are not in use; the next request opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close all connections; SQLite then merges its log into the database file."""
        with self._lock:
            self._closed = True
        self.close_idle_connections()
        if self._temporary_folder:
            self._temporary_folder.cleanup()

    def key(self, key_id: str) -> ApiKey | None:
        """Return a key; None if it does not exist or is soft-deleted."""
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
        """Return the keys that meet a condition, in a given order and at most `limit` of them."""
        where = condition or Condition("TRUE")
        with self._connection() as connection:
            rows = connection.execute(
                f"{_SELECT} WHERE {where.sql} ORDER BY {order} LIMIT ?",
                (*where.values, -1 if limit is None else limit),
            ).fetchall()
        return tuple(_key(row) for row in rows)

    def count(self, condition: Condition) -> int:
        """Return the number of keys that meet a condition."""
        with self._connection() as connection:
            (count,) = connection.execute(
                f"SELECT count(*) FROM api_key WHERE {condition.sql}",  # noqa: S608  # from rest_legacy, values bound
                condition.values,
            ).fetchone()
        return int(count)

    def insert(self, keys: Iterable[ApiKey]) -> None:
        """Add all keys, or none if one fails.

        Raises:
            sqlite3.IntegrityError: one of the ids exists.
        """
        with self._transaction() as connection:
            connection.executemany(_INSERT, map(_row, keys))

    def insert_new(self, keys: Iterable[ApiKey]) -> tuple[ApiKey | None, ...]:
        """Add all keys, or none if one fails; skip ids of soft-deleted rows.

        Returns:
            The added keys, with None in place of each skipped one.

        Raises:
            sqlite3.IntegrityError: one of the ids exists.
        """
        added: list[ApiKey | None] = []
        with self._transaction() as connection:
            for key in keys:
                soft_deleted = connection.execute(
                    "SELECT 1 FROM api_key WHERE id = ? AND deleted_at IS NOT NULL", (key.id,)
                ).fetchone()
                if not soft_deleted:
                    connection.execute(_INSERT, _row(key))
                added.append(None if soft_deleted else key)
        return tuple(added)

    def update(self, key_id: str, **columns: str | None) -> ApiKey | None:
        """Change columns of a key and return the new row; None if the key is missing or deleted."""
        changes = ", ".join(f"{column} = ?" for column in columns)
        with self._transaction() as connection:
            row = connection.execute(
                f"UPDATE api_key SET {changes} WHERE id = ? AND deleted_at IS NULL"  # noqa: S608  # column names from code
                f" RETURNING {_COLUMNS}",
                (*columns.values(), key_id),
            ).fetchone()
        return _key(row) if row else None

    def delete(self, key_ids: Iterable[str]) -> int:
        """Delete rows, also soft-deleted ones; return how many were deleted."""
        with self._transaction() as connection:
            return sum(
                connection.execute("DELETE FROM api_key WHERE id = ?", (key_id,)).rowcount
                for key_id in key_ids
            )

    def roles(self) -> tuple[seeds.SeededRole, ...]:
        """Return all roles in Twenty's order."""
        with self._connection() as connection:
            rows = connection.execute("SELECT wire FROM role ORDER BY position").fetchall()
        return tuple(seeds.SeededRole(json.loads(wire)) for (wire,) in rows)

    def role(self, role_id: str | None) -> seeds.SeededRole | None:
        """Return the role with an id, or None."""
        with self._connection() as connection:
            row = connection.execute("SELECT wire FROM role WHERE id = ?", (role_id,)).fetchone()
        return seeds.SeededRole(json.loads(row[0])) if row else None

    def put_role(self, role: seeds.SeededRole) -> None:
        """Add a role, or replace the one with its id."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO role (id, wire) VALUES (?, ?)"
                " ON CONFLICT (id) DO UPDATE SET wire = excluded.wire",
                (role.id, json.dumps(role.wire)),
            )

    def users(self) -> tuple[User, ...]:
        """Return all users."""
        with self._connection() as connection:
            rows = connection.execute("SELECT id, name, email, password, role_id FROM user")
            return tuple(User(*row) for row in rows.fetchall())

    def user(self, user_id: str) -> User | None:
        """Return the user with an id, or None."""
        return next((user for user in self.users() if user.id == user_id), None)

    def put_user(self, user: User) -> None:
        """Replace the user with this id."""
        with self._transaction() as connection:
            _insert_user(connection, user)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Provide a connection that no other thread uses at the same time."""
        with _translate_errors(self._file):
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            connection = connection or _connect(self._file)
            try:
                connection.execute(f"PRAGMA busy_timeout = {self._milliseconds()}")
                yield connection
                self._lock_timed_out = False
            except sqlite3.OperationalError as error:
                self._lock_timed_out = _is_locked(error)
                raise
            finally:
                with self._lock:
                    keep = not self._closed
                    if keep:
                        self._idle.append(connection)
                if not keep:
                    connection.close()

    def _milliseconds(self) -> int:
        """Return how long to wait for a lock: 0 if the last wait timed out."""
        return 0 if self._lock_timed_out else round(1000 * self._lock_wait)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # A thread lock is faster between writers than SQLite's wait, which polls.
        with self._writer, self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
                self._thread.commits = self.commits + 1
            except BaseException:
                if connection.in_transaction:  # on a full disk, SQLite has rolled back already
                    connection.execute("ROLLBACK")
                raise


class UnusableError(Exception):
    """The file cannot be read or written now; nothing was changed.

    Attributes:
        message: the file and what is wrong with it.
        remedy: what to do about it.
        extensions: the code in a GraphQL answer.
    """

    extensions: ClassVar[JsonObject] = {"code": UNUSABLE}

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message} {remedy}")
        self.message = message
        self.remedy = remedy


@contextmanager
def _translate_errors(file: Path) -> Iterator[None]:
    """Convert errors of the database or the disk into an `UnusableError`.

    Raises:
        UnusableError: the file cannot be used.
        sqlite3.IntegrityError: a written row violates a constraint; it is not converted.
    """
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise _unusable_error(file, error) from error


def _unusable_error(file: Path, error: sqlite3.Error | OSError) -> UnusableError:
    """Return an `UnusableError` with the reason and the remedy for an error of a file."""
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    reason = text[:1].lower() + text[1:]
    if is_out_of_descriptors(error) or (
        text.startswith("unable to open") and not can_open(_FILES_PER_CONNECTION)
    ):
        return UnusableError(
            f"This process has reached its limit on open files and cannot open {file}.",
            "Raise the limit (`ulimit -n`), or work on fewer environments at once.",
        )
    if isinstance(error, sqlite3.Error):
        if _is_locked(error):
            return UnusableError(
                f"{file} is locked by another program.",
                "Close that program or wait until it finishes, then run again.",
            )
        if isinstance(error, sqlite3.OperationalError) and text.startswith("attempt to write a r"):
            return _read_only(file)
        if not isinstance(error, sqlite3.OperationalError) or "no such table" in text:
            return _not_a_workspace(file, f": {reason}")
    denied = error.errno in _DENIED if isinstance(error, OSError) else not _can_write(file)
    if denied:
        return _read_only(file)
    remedy = "Free disk space, or raise the limit on file sizes (`ulimit -f`)."
    if text.startswith(("unable to open", "File name too long")):
        remedy = "Use a folder with a shorter path, at most about 500 characters."
    return UnusableError(f"The embedded Twenty cannot write {file}: {reason}.", remedy)


def _can_write(file: Path) -> bool:
    """Return whether this user may write the file and its folder, or create them."""
    try:
        existing = next(path for path in (file, *file.parents) if path.exists())
    except OSError:  # this user may not read one of the folders
        return False
    folder = existing if existing.is_dir() else existing.parent
    return os.access(folder, os.W_OK | os.X_OK) and (
        existing.is_dir() or os.access(existing, os.W_OK)
    )


def _read_only(file: Path) -> UnusableError:
    return UnusableError(
        f"The embedded Twenty cannot write {file}: this user may not write to the file or its "
        "folder.",
        f"Make {file.parent} writable, or run as the user who owns it.",
    )


def _not_a_workspace(file: Path, reason: str = "") -> UnusableError:
    return UnusableError(
        f"{file} is not a workspace of the embedded Twenty{reason}.",
        "Move the file away; the next run creates a new workspace in its place.",
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
        with suppress(FileExistsError):  # another process was first: use its workspace
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
