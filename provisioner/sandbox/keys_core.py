"""The keys of the core dialects: their REST API, and the changes that GraphQL makes too.

1.10 needs no permission for REST: even Guests can list and create (core-1 `010`, `011`, `016`).
2.21 needs the API-keys permission to read and, in addition, a user session to write
(core-2.21 `010`, `015`, `016`). To create keys, the newest needs the permission for roles too.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

from provisioner.sandbox import rest, seeds, timestamps
from provisioner.sandbox.exchange import JsonObject, Request, Response, json_answer
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
    from provisioner.model.workspace import Json
    from provisioner.sandbox.access import SignedIn
    from provisioner.sandbox.dialect import Dialect
    from provisioner.sandbox.store import Store
    from provisioner.sandbox.tenant import Tenant

LISTED = "revoked_at IS NULL"
"""The condition of the keys that core lists: expired ones too, but no revoked ones (`120`)."""

_PATH = re.compile(r"/rest(/metadata)?/apiKeys(?:/([^/]+))?")

_PAGE = 60
_MAX_PAGE = 200


def answer(tenant: Tenant, caller: SignedIn, request: Request, body: Json) -> Response:
    """Answer an authenticated request below `/rest/`.

    Raises:
        RejectedError: the server rejects the request.
    """
    store = tenant.store
    match = _PATH.fullmatch(request.path)
    if match and not (match[1] or tenant.settings.serves_bare_list):
        match = None  # the older path is gone, and unknown as any other
    key_id = match[2] if match else None
    methods = ("GET", "POST") if key_id is None else ("GET", "PATCH", "DELETE")
    if match and request.method in methods:
        _check_access(store, caller, request)
        if key_id is None:
            return _collection(store, request, body)
        return _single_key(store, key_id, request, body)
    if request.method == "GET" and request.path == "/rest/metadata/webhooks":
        return json_answer(200, [])  # `110-rest-webhooks`: a workspace without one
    rest.check_path(request, store.dialect)
    rest.check_depth(request, (0, 1))  # `074-rest-batch-depth-2`
    raise rest.unknown_object(request, store.dialect)


def _check_access(store: Store, caller: SignedIn, request: Request) -> None:
    dialect = store.dialect
    if not dialect.needs_session_to_write:
        return
    if request.method != "GET" and not caller.has_session:
        status = 403 if dialect.needs_roles_to_create else 400
        text = needs_session(dialect)
        raise RejectedError(text, error="Error", code="FORBIDDEN_EXCEPTION", status=status)
    if not caller.permits(seeds.API_KEYS_FLAG) or (
        request.method == "POST" and lacks_roles(dialect, caller)
    ):
        text = "Entity performing the request does not have permission"
        raise RejectedError(text, error="Error", code="PERMISSION_DENIED")


def needs_session(dialect: Dialect) -> str:
    """Return the text for a caller without a session; the newest's is from its source."""
    if dialect.needs_roles_to_create:
        return "This endpoint is not available to this caller"
    return "This endpoint requires a session access token"


def lacks_roles(dialect: Dialect, caller: SignedIn) -> bool:
    """Return whether a caller may not give roles to keys, as the newest demands to create one."""
    return dialect.needs_roles_to_create and not caller.permits(seeds.ROLES_FLAG)


def _collection(store: Store, request: Request, body: Json) -> Response:
    if request.method == "GET" and store.dialect.pages_core_list and "metadata" in request.path:
        return _page(store, request.query)
    if request.method == "GET":  # depth, limit, cursors and filters are ignored (`087` ff.)
        keys = store.select(LISTED)
        return json_answer(200, [_record(store, key) for key in keys])
    if not request.body and store.dialect.has_texts_of_2:  # `041-rest-create-nobody`
        text = "Cannot read properties of undefined (reading 'name')"
        raise RejectedError(text, error="TypeError")
    fields = _fields(body)
    record = _record(store, create(store, fields, request.started))
    if not isinstance(fields["name"], str):  # returned as sent (`046-rest-create-number-name`)
        record["name"] = fields["name"]
    return json_answer(201, record)


def _page(store: Store, query: dict[str, str]) -> Response:
    """Return a page of the newest's list, which is ordered by creation; not recorded.

    A cursor is the id of a key. If that key has left the list meanwhile, the page is empty and the
    last one, without an error; `hasPreviousPage` and `limit=0` are ours.
    """
    size = min(int(rest.read_limit(query.get("limit", ""), _PAGE)), _MAX_PAGE)
    after, before = query.get("starting_after", ""), query.get("ending_before", "")
    cursor, backwards = after or before, not after and before != ""
    if cursor and not is_uuid(cursor):
        raise RejectedError(f"Invalid cursor: {cursor}")
    key = store.key(cursor.lower()) if cursor else None
    condition, values = LISTED, list[str]()
    if key is not None and key.revoked_at is None:
        condition += f" AND (created_at, id) {'<' if backwards else '>'} (?, ?)"
        values = [key.created_at, key.id]
    elif cursor:
        condition += " AND FALSE"
    direction = "DESC" if backwards else "ASC"
    order = f"created_at {direction}, id {direction}"
    keys = store.select(condition, *values, order=order, limit=size + 1)
    has_more, keys = len(keys) > size, keys[:size]
    if backwards:
        keys = keys[::-1]
    info: JsonObject = {
        "hasNextPage": bool(keys) if backwards else has_more,
        "hasPreviousPage": has_more if backwards else bool(cursor and keys),
        "startCursor": keys[0].id if keys else None,
        "endCursor": keys[-1].id if keys else None,
    }
    data: list[Json] = [_record(store, key) for key in keys]
    return json_answer(200, {"data": data, "pageInfo": info, "totalCount": store.count(LISTED)})


def _single_key(store: Store, key_id: str, request: Request, body: Json) -> Response:
    if not is_uuid(key_id):
        raise bad_uuid(key_id)  # `106`, `123`; not recorded for DELETE
    key_id = key_id.lower()
    match request.method:
        case "GET":
            key = store.key(key_id)
        case "PATCH":
            unrevokes = store.dialect.unrevokes_by_rest
            key = update(store, key_id, _fields(body), unrevokes=unrevokes)
        case _:
            key = revoke(store, key_id)
    if key is None:  # an unknown id (`105`, `122`, `129`)
        return Response(200)
    return json_answer(200, _record(store, key))


def _fields(body: Json) -> JsonObject:
    """Return the fields of a body; an array has none of them (`068-rest-create-array-2`)."""
    return body if isinstance(body, dict) else {}


def _record(store: Store, key: ApiKey) -> JsonObject:
    """Return a key as core REST shows it, without its role (`003`, `017`)."""
    record = {"workspaceId": store.workspace_id, **key.record()}
    del record["deletedAt"]
    return record


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


def update(store: Store, key_id: str, fields: JsonObject, *, unrevokes: bool) -> ApiKey | None:
    """Change one key and return it; return None for an unknown id (`122`, `203`).

    A null changes nothing (`121`), but with `unrevokes` that of `revokedAt` undoes a revocation
    (`C-gql-update-unrevoke`). A role is ignored (`117`). `updatedAt` changes even if nothing else
    does (`116`).

    Raises:
        RejectedError: a field is not valid.
    """
    given: JsonObject = {name: value for name, value in fields.items() if value is not None}
    columns: dict[str, str | None] = {**_columns(given)}
    if unrevokes and "revokedAt" in fields and fields["revokedAt"] is None:
        columns["revoked_at"] = None
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
    if store.dialect.checks_role_of_new_key and not role.assignable:  # core-2.21 `058`
        raise RejectedError(
            "Multiple validation errors occurred while creating role targets",
            error="WorkspaceMigrationBuilderException",
        )
    return role.id


def _unknown_role(dialect: Dialect, role_id: object) -> RejectedError:
    """Return the error of 2.21, or of 1.10's database, for an invalid role (`054` to `057`)."""
    if dialect.checks_role_of_new_key:
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
