"""Changes to the keys of the core dialects, used by REST and GraphQL."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from provisioner.sandbox import timestamps
from provisioner.sandbox.dialect import Dialect
from provisioner.sandbox.rejected import (
    RejectedError,
    bad_timestamp,
    bad_uuid,
    is_uuid,
    null_column,
    stored_name,
)
from provisioner.sandbox.store import ApiKey

if TYPE_CHECKING:
    from provisioner.sandbox.exchange import JsonObject
    from provisioner.sandbox.store import Store

LISTED = "revoked_at IS NULL"
"""The condition of the keys that core lists: expired ones too, but no revoked ones (`120`)."""


def create(store: Store, fields: JsonObject, started: float) -> ApiKey:
    """Create one key; an `id` from the client is ignored (`065-rest-create-client-id`).

    The checks run in the recorded order: dates and texts (`040`, `063`), then nulls (`043`), then
    the role (`054` to `058`). On 2.21 a row exists before its role (observed, not recorded), which
    is not imitated here.

    Raises:
        RejectedError: a field is not valid.
    """
    columns = _columns(fields)
    if "expires_at" not in columns:
        raise bad_timestamp(timestamps.NOT_A_DATE)
    if "name" not in columns:
        raise null_column("name")
    created = timestamps.text_of(started)
    key = ApiKey(
        str(uuid.uuid4()),
        **columns,
        created_at=created,
        updated_at=created,
        role_id=_role(store, fields),
    )
    store.create([key])
    return key


def update(store: Store, key_id: str, fields: JsonObject) -> ApiKey | None:
    """Change one key and return it; return None for an unknown id (`122`, `203`).

    A null changes nothing, so a revocation cannot be undone (`121`). A role is ignored (`117`).
    `updatedAt` changes even if nothing else does (`116`).

    Raises:
        RejectedError: a field is not valid.
    """
    columns = _columns({name: value for name, value in fields.items() if value is not None})
    return store.update(key_id, **columns, updated_at=timestamps.now())


def revoke(store: Store, key_id: str) -> ApiKey | None:
    """Revoke one key, or renew its `revokedAt` (`128`); return None for an unknown id (`129`)."""
    now = timestamps.now()
    return store.update(key_id, revoked_at=now, updated_at=now)


def assign_role(store: Store, key_id: str, role_id: str) -> None:
    """Give a key another role (`204`, `930` to `932`); both core servers answer with its label.

    Raises:
        RejectedError: the key or the role is unknown, or keys may not have the role.
    """
    if store.key(key_id) is None:
        raise RejectedError(f"API Key with id {key_id} not found in workspace", code="NOT_FOUND")
    role = store.role(role_id)
    if role is None:
        raise RejectedError(f"Role with id {role_id} not found in workspace", code="NOT_FOUND")
    if not role.assignable:
        text = f'Role "{role.label}" cannot be assigned to API keys'
        raise RejectedError(text, code="BAD_USER_INPUT")
    store.update(key_id, role_id=role_id)


def _columns(fields: JsonObject) -> dict[str, str]:
    """Return the columns that a body sets, parsed as the server's JavaScript and database do."""
    columns: dict[str, str] = {}
    for name, column in (("expiresAt", "expires_at"), ("revokedAt", "revoked_at")):
        if name not in fields or (column == "revoked_at" and fields[name] is None):
            continue
        timestamp = timestamps.javascript_date(fields[name])
        if timestamp is None:
            raise bad_timestamp(timestamps.NOT_A_DATE)
        columns[column] = timestamp
    if fields.get("name") is not None:
        columns["name"] = stored_name(fields["name"])
    return columns


def _role(store: Store, fields: JsonObject) -> str:
    """Return the id of the role of a new key."""
    role_id = fields.get("roleId")
    role = store.role(role_id)
    if role is None:
        raise _unknown_role(store.dialect, role_id)
    # On 1.10 every role is accepted, even Member, which cannot be assigned later (core-1 `058`).
    if store.dialect is Dialect.CORE and not role.assignable:  # core-2.21 `058`
        raise RejectedError(
            "Multiple validation errors occurred while creating role targets",
            error="WorkspaceMigrationBuilderException",
        )
    return role.id


def _unknown_role(dialect: Dialect, role_id: object) -> RejectedError:
    """Return the error of 2.21, or of 1.10's database, for an invalid role (`054` to `057`)."""
    if dialect is Dialect.CORE:
        return RejectedError(
            "Could not find role for given roleId",
            error="Error",
            code="RELATION_UNIVERSAL_IDENTIFIER_NOT_FOUND",
        )
    if role_id is None:
        return null_column("roleId", "roleTargets")
    if not isinstance(role_id, str) or not is_uuid(role_id):
        return bad_uuid(str(role_id))
    return RejectedError(
        'insert or update on table "roleTargets" violates foreign key constraint'
        ' "FK_d5838ba43033ee6266d8928d7d7"'
    )
