"""Changes to the keys of the legacy dialect, where an apiKey is a record like any other."""

from __future__ import annotations

import sqlite3
import uuid
from typing import TYPE_CHECKING

from provisioner.sandbox import timestamps
from provisioner.sandbox.rejected import (
    Rejected,
    bad_timestamp,
    bad_uuid,
    is_uuid,
    nul_byte,
    null_column,
    stored_name,
)
from provisioner.sandbox.store import ApiKey, Condition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.model.workspace import Json
    from provisioner.sandbox.exchange import JsonObject
    from provisioner.sandbox.store import Store

VISIBLE = Condition("deleted_at IS NULL")
"""The keys that legacy lists: revoked ones too, but not soft-deleted ones (`114`, `922`)."""

_COLUMNS = {"id": "id", "name": "name", "expiresAt": "expires_at", "revokedAt": "revoked_at"}
_KEPT_BY_SERVER = frozenset({"createdAt", "updatedAt", "deletedAt"})


def create(
    store: Store, records: Sequence[Json], started: float
) -> tuple[ApiKey | None, ...] | Rejected:
    """Create keys in one transaction; one bad record rejects them all (`045`, `047`, `049`).

    An `id` from the client is used (`052`). If its row exists, the whole batch fails (`053`); if
    another request inserts it first, the batch fails with the text of the database (`925`, and
    observed in races). An id whose row was soft-deleted yields None in its place, and the other
    keys are created (`924`).
    """
    created = timestamps.text_of(started)
    keys: list[ApiKey] = []
    for record in records:
        columns = _columns(_as_object(record))
        if isinstance(columns, Rejected):
            return columns
        if columns.get("name", "") is None:
            return null_column("name")
        expires_at = columns.get("expires_at")
        if expires_at is None:
            return null_column("expiresAt")
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
        return Rejected("Record already exists")
    try:
        return store.create(keys)
    except sqlite3.IntegrityError:
        return Rejected(
            'duplicate key value violates unique constraint "PK_2ae3a5e8e04fb402b2dc8d6ce4b"'
        )


def update(store: Store, key_id: str, fields: Json) -> ApiKey | Rejected:
    """Change one key; a null undoes a revocation (`115`)."""
    columns = _columns(_as_object(fields))
    if isinstance(columns, Rejected):
        return columns
    columns.pop("id", None)  # not recorded: a change of the id
    for name in ("name", "expiresAt"):
        if columns.get(_COLUMNS[name], "") is None:
            return null_column(name)
    changed = store.update(key_id, **columns, updated_at=timestamps.now())
    return unknown(key_id) if changed is None else changed


def delete(store: Store, key_id: str) -> Rejected | None:
    """Delete the row, as REST does (`118`, `120`)."""
    return None if store.delete(key_id) else unknown(key_id)


def soft_delete(store: Store, key_id: str) -> ApiKey | Rejected:
    """Mark the row as deleted, as GraphQL does (`153`, `921`)."""
    now = timestamps.now()
    key = store.update(key_id, deleted_at=now, updated_at=now)
    return unknown(key_id) if key is None else key


def unknown(key_id: str) -> Rejected:
    """Return TypeORM's error for a missing row (`116`, `120`)."""
    return Rejected(
        'Could not find any entity of type "apiKey" matching: {\n    "where": {\n'
        f'        "id": "{key_id}"\n    }}\n}}',
        error="EntityNotFoundError",
    )


def _as_object(record: Json) -> JsonObject:
    """Return a record as an object; an array's indexes are its fields (`074-rest-create-array`)."""
    if isinstance(record, list):
        return {str(index): value for index, value in enumerate(record)}
    return record if isinstance(record, dict) else {}


def _columns(record: JsonObject) -> dict[str, str | None] | Rejected:
    """Return the columns that a record sets, checked as the server and its database do."""
    for name in record:
        if name not in _COLUMNS and name not in _KEPT_BY_SERVER:
            return Rejected(
                f'Field metadata for field "{name}" is missing in object metadata', error="Error"
            )
    columns: dict[str, str | None] = {}
    for name, column in _COLUMNS.items():
        if name not in record:
            continue
        value = record[name]
        if value is None:
            columns[column] = None
            continue
        text = stored_name(value)
        if "\0" in text:
            return nul_byte()
        if column == "id" and not is_uuid(text):
            return bad_uuid(text)
        if column in ("expires_at", "revoked_at"):
            timestamp = timestamps.postgres_date(text)
            if timestamp is None:
                return bad_timestamp(text)
            text = timestamp
        columns[column] = text.lower() if column == "id" else text
    return columns
