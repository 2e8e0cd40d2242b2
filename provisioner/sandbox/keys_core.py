"""Changes to the keys of the core dialects, used by REST and GraphQL."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from provisioner.sandbox import timestamps
from provisioner.sandbox.dialect import Dialect
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
    from provisioner.model.workspace import Json
    from provisioner.sandbox.exchange import JsonObject
    from provisioner.sandbox.store import Store

LISTED = Condition("revoked_at IS NULL")
"""The keys that core lists, also expired but no revoked ones (`120-rest-list-after-revoke`)."""


def create(store: Store, fields: JsonObject, started: float) -> ApiKey | Rejected:
    """Create one key; an `id` from the client is ignored (`065-rest-create-client-id`).

    The checks run in the recorded order: dates and texts (`040`, `063`), then nulls (`043`), then
    the role (`054` to `058`). On 2.21 a row exists before its role (observed, not recorded), which
    is not imitated here.
    """
    columns = _columns(fields)
    if isinstance(columns, Rejected):
        return columns
    if "expires_at" not in columns:
        return bad_timestamp(timestamps.NOT_A_DATE)
    if columns.get("name") is None:
        return null_column("name")
    role = _role(store, fields)
    if isinstance(role, Rejected):
        return role
    created = timestamps.text_of(started)
    key = ApiKey(
        id=str(uuid.uuid4()),
        name=columns["name"] or "",
        expires_at=columns["expires_at"],
        revoked_at=columns.get("revoked_at"),
        created_at=created,
        updated_at=created,
        role_id=role,
    )
    store.create([key])
    return key


def update(store: Store, key_id: str, fields: JsonObject) -> ApiKey | Rejected | None:
    """Change one key and return it; return None for an unknown id (`122`, `203`).

    A null changes nothing, so a revocation cannot be undone (`121`). A role is ignored (`117`).
    `updatedAt` changes even if nothing else does (`116`).
    """
    changes: JsonObject = {name: value for name, value in fields.items() if value is not None}
    columns = _columns(changes)
    if isinstance(columns, Rejected):
        return columns
    return store.update(key_id, **columns, updated_at=timestamps.now())


def revoke(store: Store, key_id: str) -> ApiKey | None:
    """Revoke one key, or renew its `revokedAt` (`128`); return None for an unknown id (`129`)."""
    now = timestamps.now()
    return store.update(key_id, revoked_at=now, updated_at=now)


def assign_role(store: Store, key_id: str, role_id: str) -> Rejected | None:
    """Give a key another role (`204`, `930` to `932`); both core servers answer with its label."""
    if store.key(key_id) is None:
        return Rejected(f"API Key with id {key_id} not found in workspace", code="NOT_FOUND")
    role = store.role(role_id)
    if role is None:
        return Rejected(f"Role with id {role_id} not found in workspace", code="NOT_FOUND")
    if not role.assignable:
        return Rejected(
            f'Role "{role.label}" cannot be assigned to API keys', code="BAD_USER_INPUT"
        )
    store.update(key_id, role_id=role_id)
    return None


def _columns(fields: JsonObject) -> dict[str, str] | Rejected:
    """Return the columns that a body sets, parsed as the server's JavaScript and database do."""
    columns: dict[str, str] = {}
    for name, column in (("expiresAt", "expires_at"), ("revokedAt", "revoked_at")):
        if name not in fields or (column == "revoked_at" and fields[name] is None):
            continue
        timestamp = timestamps.javascript_date(fields[name])
        if timestamp is None:
            return bad_timestamp(timestamps.NOT_A_DATE)
        columns[column] = timestamp
    if fields.get("name") is not None:
        columns["name"] = stored_name(fields["name"])
        if "\0" in columns["name"]:
            return nul_byte()
    return columns


def _role(store: Store, fields: JsonObject) -> str | Rejected:
    """Return the id of the role of a new key, or the reason why the key cannot have it."""
    role_id = fields.get("roleId")
    role = store.role(role_id) if isinstance(role_id, str) else None
    if store.dialect is Dialect.CORE_1:
        # Every role is accepted, even Member, which cannot be assigned later (core-1 `058`, `209`).
        return _invalid_role(role_id) if role is None else role.id
    if role is None:  # core-2.21 `054` to `057`
        return Rejected(
            "Could not find role for given roleId",
            error="Error",
            code="RELATION_UNIVERSAL_IDENTIFIER_NOT_FOUND",
        )
    if not role.assignable:  # core-2.21 `058`
        return Rejected(
            "Multiple validation errors occurred while creating role targets",
            error="WorkspaceMigrationBuilderException",
        )
    return role.id


def _invalid_role(role_id: Json) -> Rejected:
    """Return the error of the database of 1.10 for an invalid role (core-1 `054` to `057`)."""
    if role_id is None:
        return null_column("roleId", "roleTargets")
    if not isinstance(role_id, str) or not is_uuid(role_id):
        return bad_uuid(str(role_id))
    return Rejected(
        'insert or update on table "roleTargets" violates foreign key constraint'
        ' "FK_d5838ba43033ee6266d8928d7d7"'
    )
