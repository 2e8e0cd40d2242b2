"""Changes to the keys of the legacy dialect, where an apiKey is a record like any other."""

from __future__ import annotations

import sqlite3
import uuid
from typing import TYPE_CHECKING

from provisioner.sandbox import timestamps
from provisioner.sandbox.rejected import (
    RejectedError,
    bad_timestamp,
    bad_uuid,
    is_uuid,
    null_column,
    stored_name,
)
from provisioner.sandbox.store import FIELDS, ApiKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.model.workspace import Json
    from provisioner.sandbox.store import Store

VISIBLE = "deleted_at IS NULL"
"""The condition of the keys that legacy lists: all but the soft-deleted ones (`114`, `922`)."""

_KEPT_BY_SERVER = frozenset({"createdAt", "updatedAt", "deletedAt"})


def create(store: Store, records: Sequence[Json], started: float) -> tuple[ApiKey | None, ...]:
    """Create keys in one transaction; one bad record rejects them all (`045`, `047`, `049`).

    An `id` from the client is used (`052`). If its row exists, the whole batch fails (`053`); if
    another request inserts it first, the batch fails with the text of the database (`925`, and
    observed in races). An id whose row was soft-deleted yields None in its place, and the other
    keys are created (`924`).

    Raises:
        RejectedError: nothing was created.
    """
    created = timestamps.text_of(started)
    keys: list[ApiKey] = []
    for record in records:
        columns = _columns(record)
        expires_at = columns.get("expires_at")
        if expires_at is None:
            raise null_column("expiresAt")
        keys.append(
            ApiKey(
                id=columns.get("id") or str(uuid.uuid4()),
                name=columns.get("name") or "",
                expires_at=expires_at,
                revoked_at=columns.get("revoked_at"),
                created_at=created,
                updated_at=created,
            )
        )
    if any(store.key(key.id) for key in keys):
        raise RejectedError("Record already exists")
    try:
        return store.create(keys)
    except sqlite3.IntegrityError:
        raise RejectedError(
            'duplicate key value violates unique constraint "PK_2ae3a5e8e04fb402b2dc8d6ce4b"'
        ) from None


def update(store: Store, key_id: str, fields: Json) -> ApiKey:
    """Change one key; a null undoes a revocation (`115`)."""
    columns = _columns(fields)
    columns.pop("id", None)  # not recorded: a change of the id
    if columns.get("expires_at", "") is None:
        raise null_column("expiresAt")
    return _known(key_id, store.update(key_id, **columns, updated_at=timestamps.now()))


def delete(store: Store, key_id: str) -> None:
    """Delete the row, as REST does (`118`, `120`)."""
    _known(key_id, store.key(key_id))
    store.delete(key_id)


def soft_delete(store: Store, key_id: str) -> ApiKey:
    """Mark the row as deleted, as GraphQL does (`153`, `921`)."""
    now = timestamps.now()
    return _known(key_id, store.update(key_id, deleted_at=now, updated_at=now))


def _known(key_id: str, key: ApiKey | None) -> ApiKey:
    """Return the key; raise TypeORM's error for a missing row (`116`, `120`)."""
    if key is None:
        raise RejectedError(
            'Could not find any entity of type "apiKey" matching: {\n    "where": {\n'
            f'        "id": "{key_id}"\n    }}\n}}',
            error="EntityNotFoundError",
        )
    return key


def _columns(record: Json) -> dict[str, str | None]:
    """Return the columns that a record sets, checked as the server and its database do."""
    if isinstance(record, list):  # an array's indexes are its fields (`074-rest-create-array`)
        record = {str(index): value for index, value in enumerate(record)}
    columns: dict[str, str | None] = {}
    for name, value in record.items() if isinstance(record, dict) else ():
        if name not in FIELDS:
            raise RejectedError(
                f'Field metadata for field "{name}" is missing in object metadata', error="Error"
            )
        if name not in _KEPT_BY_SERVER:
            column = FIELDS[name]
            columns[column] = None if value is None else _column(column, stored_name(value))
    if columns.get("name", "") is None:
        raise null_column("name")
    return columns


def _column(column: str, text: str) -> str:
    """Return the value of a column."""
    if column == "name":
        return text
    if column == "id":
        if not is_uuid(text):
            raise bad_uuid(text)
        return text.lower()
    timestamp = timestamps.postgres_date(text)
    if timestamp is None:
        raise bad_timestamp(text)
    return timestamp
