"""The state of one workspace: an SQLite file that several processes may use at the same time.

Reads see committed data; a write is one short IMMEDIATE transaction. The file is written under
another name and then linked into place, so that two processes that start together use the same
workspace. It contains a signing secret and passwords, so only its owner can read it.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import tempfile
import threading
import uuid
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.runtime.file_descriptors import can_open, is_out_of_descriptors
from provisioner.sandbox import seeds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.model.workspace import Json
    from provisioner.sandbox.dialect import Dialect
    from provisioner.sandbox.exchange import JsonObject

UNUSABLE = "SANDBOX_UNUSABLE"
"""The code of the answer for an unusable file; no real Twenty has it."""

_FILES_PER_CONNECTION = 4
"""The most files that SQLite opens for one connection; it closes them all if one fails."""

LOCK_WAIT = 10.0
"""Seconds to wait for another program's lock; shorter than a client's request timeout."""


FIELDS = {
    "id": "id",
    "name": "name",
    "expiresAt": "expires_at",
    "revokedAt": "revoked_at",
    "createdAt": "created_at",
    "updatedAt": "updated_at",
    "deletedAt": "deleted_at",
}
"""The column of each field of a key; only legacy has `deletedAt`."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One row of the table `api_key`, with its columns.

    Timestamps are texts in Twenty's format, `2031-01-01T00:00:00.417Z`.

    Attributes:
        deleted_at: the time of a soft deletion through legacy GraphQL.
        role_id: None on legacy, and on core for a key that has no role yet.
    """

    id: str
    name: str
    expires_at: str
    created_at: str
    updated_at: str
    revoked_at: str | None = None
    deleted_at: str | None = None
    role_id: str | None = None

    def record(self) -> JsonObject:
        """Return the key as JSON; on legacy an answer is exactly this (legacy `013`)."""
        return {name: getattr(self, column) for name, column in FIELDS.items()}


_NAMES = tuple(field.name for field in fields(ApiKey))
_COLUMNS = ", ".join(_NAMES)
_SELECT = f"SELECT {_COLUMNS} FROM api_key WHERE"  # noqa: S608  # constant
INSERT = f"INSERT INTO api_key ({_COLUMNS}) VALUES ({', '.join('?' * len(_NAMES))})"  # noqa: S608  # constant
row_of = attrgetter(*_NAMES)
"""Function that returns a key as the values of `INSERT`."""


@dataclass(frozen=True, slots=True)
class User:
    """A user who can sign in."""

    id: str
    name: str
    email: str
    password: str
    role_id: str


class SandboxUnusableError(WorkspaceError):
    """The file cannot be read or written now; nothing was changed.

    Attributes:
        extensions: the code in a GraphQL answer.
    """

    extensions: ClassVar[JsonObject] = {"code": UNUSABLE}

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(Code.SANDBOX_UNUSABLE, message, remedy=remedy)


class Store:
    """The rows of one workspace.

    Args:
        file: the database file; None for a temporary one, which `close` deletes.
        dialect: the dialect of a new file; an existing file must have the same one.
        lock_wait: seconds to wait for another program's lock.

    Attributes:
        signed_out: the refresh tokens of sessions that were ended, since this store was opened.

    Raises:
        SandboxUnusableError: the file is not a workspace of that dialect, or cannot be used.
    """

    def __init__(
        self, file: Path | None, dialect: Dialect, *, lock_wait: float = LOCK_WAIT
    ) -> None:
        self._temporary_folder = None
        if file is None:
            self._temporary_folder = tempfile.TemporaryDirectory(prefix="twenty-")
            file = Path(self._temporary_folder.name, "workspace")
        self._file = file
        self.dialect = dialect
        self.signed_out: set[str] = set()
        self._lock_wait = lock_wait
        self._opened: sqlite3.Connection | None = None
        self._closed = False
        self._lock_timed_out = False
        self._lock = threading.Lock()
        self._thread = threading.local()
        try:
            self.workspace_id, secret = self._open()
        except SandboxUnusableError:
            self.close()
            raise
        self.secret = bytes.fromhex(secret)

    def _open(self) -> tuple[str, str]:
        """Create the file if it is missing; return the id and the secret of its workspace."""
        with _translate_errors(self._file):
            if not self._file.exists():
                _create(self._file, self.dialect)
        rows = self._read("SELECT id, dialect, secret FROM workspace")
        if not rows:
            raise _not_a_workspace(self._file)
        if not os.access(self._file, os.W_OK):
            raise _read_only(self._file)
        workspace_id, dialect, secret = rows[0]
        if dialect != self.dialect:
            raise SandboxUnusableError(
                f"{self._file} is a workspace of sandbox:{dialect}, not of sandbox:{self.dialect}.",
                f"Set `url` to sandbox:{dialect}, or move the file away.",
            )
        return workspace_id, secret

    @property
    def commits(self) -> int:
        """The number of transactions that this thread has committed."""
        return getattr(self._thread, "commits", 0)

    def close_idle_connection(self) -> None:
        """Close the connection to the file; the next request opens it again."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
            self._opened = None

    def close(self) -> None:
        """Close the connection; SQLite then merges its log into the database file."""
        self._closed = True
        self.close_idle_connection()
        if self._temporary_folder:
            self._temporary_folder.cleanup()

    def key(self, key_id: str) -> ApiKey | None:
        """Return a key; None if it does not exist or is soft-deleted."""
        return next(iter(self.select("id = ? AND deleted_at IS NULL", key_id)), None)

    def select(
        self, condition: str, *values: str, order: str = "position", limit: int = -1
    ) -> tuple[ApiKey, ...]:
        """Return the keys that meet an SQL condition; a negative limit means no limit."""
        query = f"{_SELECT} {condition} ORDER BY {order} LIMIT ?"
        return tuple(ApiKey(*row) for row in self._read(query, *values, limit))

    def count(self, condition: str, *values: str) -> int:
        """Return the number of keys that meet an SQL condition."""
        query = f"SELECT count(*) FROM api_key WHERE {condition}"  # noqa: S608  # from keys_legacy, values bound
        return int(self._read(query, *values)[0][0])

    def create(self, keys: Iterable[ApiKey]) -> tuple[ApiKey | None, ...]:
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
                    connection.execute(INSERT, row_of(key))
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
        return ApiKey(*row) if row else None

    def delete(self, key_id: str) -> None:
        """Delete a row."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM api_key WHERE id = ?", (key_id,))

    def roles(self) -> tuple[seeds.SeededRole, ...]:
        """Return all roles in Twenty's order."""
        rows = self._read("SELECT wire FROM role ORDER BY position")
        return tuple(seeds.SeededRole(json.loads(wire)) for (wire,) in rows)

    def role(self, role_id: Json) -> seeds.SeededRole | None:
        """Return the role with an id, or None."""
        rows = self._read("SELECT wire FROM role WHERE id = ?", str(role_id))
        return seeds.SeededRole(json.loads(rows[0][0])) if rows else None

    def users(self) -> tuple[User, ...]:
        """Return all users."""
        rows = self._read("SELECT id, name, email, password, role_id FROM user")
        return tuple(User(*row) for row in rows)

    def _read(self, query: str, *values: str | int) -> list[tuple[Any, ...]]:
        with self._connection() as connection:
            return connection.execute(query, values).fetchall()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Provide the connection to one thread at a time."""
        with self._lock, _translate_errors(self._file):
            connection = self._opened = self._opened or _connect(self._file)
            milliseconds = 0 if self._lock_timed_out else round(1000 * self._lock_wait)
            try:
                connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
                yield connection
                self._lock_timed_out = False
            except sqlite3.OperationalError as error:
                self._lock_timed_out = _is_locked(error)  # the next request does not wait
                raise
            finally:
                if self._closed:
                    connection.close()
                    self._opened = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
                self._thread.commits = self.commits + 1
            except BaseException:
                if connection.in_transaction:  # on a full disk, SQLite has rolled back already
                    connection.execute("ROLLBACK")
                raise


@contextmanager
def _translate_errors(file: Path) -> Iterator[None]:
    """Convert errors of the database or the disk into a `SandboxUnusableError`.

    Raises:
        SandboxUnusableError: the file cannot be used.
        sqlite3.IntegrityError: a written row violates a constraint; it is not converted.
    """
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise _unusable_error(file, error) from error


def _unusable_error(file: Path, error: sqlite3.Error | OSError) -> SandboxUnusableError:
    """Return a `SandboxUnusableError` with the reason and the remedy for an error of a file."""
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    reason = text[:1].lower() + text[1:]
    not_opened = text.startswith("unable to open")
    if is_out_of_descriptors(error) or (not_opened and not can_open(_FILES_PER_CONNECTION)):
        return SandboxUnusableError(
            f"This process has reached its limit on open files and cannot open {file}.",
            "Raise the limit (`ulimit -n`), or work on fewer environments at once.",
        )
    if _is_locked(error):
        return SandboxUnusableError(
            f"{file} is locked by another program.",
            "Close that program or wait until it finishes, then run the command again.",
        )
    if not isinstance(error, sqlite3.OperationalError | OSError) or "no such table" in text:
        return _not_a_workspace(file, f": {reason}")
    if (
        isinstance(error, PermissionError)
        or text.startswith(("attempt to write a r", "Read-only file system"))
        or (not isinstance(error, OSError) and not _can_write(file))
    ):
        return _read_only(file)
    remedy = "Free disk space, or raise the limit on file sizes (`ulimit -f`)."
    if not_opened or text.startswith("File name too long"):
        remedy = "Use a folder with a shorter path, at most about 500 characters."
    return SandboxUnusableError(f"The embedded Twenty cannot write {file}: {reason}.", remedy)


def _can_write(file: Path) -> bool:
    """Return whether this user may write the file and its folder, or create them."""
    try:
        existing = next(path for path in (file, *file.parents) if path.exists())
    except OSError:  # this user may not read one of the folders
        return False
    folder = existing if existing.is_dir() else existing.parent
    return os.access(folder, os.W_OK | os.X_OK) and os.access(existing, os.W_OK)


def _read_only(file: Path) -> SandboxUnusableError:
    return SandboxUnusableError(
        f"The embedded Twenty cannot write {file}: this user may not write to the file or its "
        "folder.",
        f"Make {file.parent} writable, or run as the user who owns it.",
    )


def _not_a_workspace(file: Path, reason: str = "") -> SandboxUnusableError:
    return SandboxUnusableError(
        f"{file} is not a workspace of the embedded Twenty{reason}.",
        "Move the file away; the next run creates a new workspace in its place.",
    )


def _is_locked(error: Exception) -> bool:
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
    schema = Path(__file__).with_name("schema.sql").read_text("ascii")
    if not file.parent.exists():
        file.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        (file.parent / ".gitignore").write_text("*\n", encoding="ascii")
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with closing(_connect(draft)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(schema)
            _seed(connection, dialect)
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
    by_label = {role.label: role.id for role in roles}
    for label in (seeds.ADMIN, seeds.MEMBER, seeds.GUEST):
        name, password = label.lower(), secrets.token_urlsafe(18)
        # 2.21 has no Guest role (core-2.21 `214`).
        role_id = by_label.get(label, by_label[seeds.MEMBER])
        user = User(str(uuid.uuid4()), name, f"{name}@sandbox.test", password, role_id)
        connection.execute("INSERT INTO user VALUES (?, ?, ?, ?, ?)", astuple(user))
