"""`/rest/apiKeys` and `/rest/metadata/apiKeys` of the core dialects.

1.10 needs no permission here: even Guests can list and create (core-1 `010`, `011`, `016`).
2.21 needs the API-keys permission to read and, in addition, a user session to write
(core-2.21 `010`, `015`, `016`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from provisioner.sandbox import keys_core, rest, seeds
from provisioner.sandbox.dialect import Dialect
from provisioner.sandbox.exchange import JsonObject, Request, Response, json_answer
from provisioner.sandbox.rejected import RejectedError, bad_uuid, is_uuid

if TYPE_CHECKING:
    from provisioner.model.workspace import Json
    from provisioner.sandbox.access import SignedIn
    from provisioner.sandbox.store import ApiKey, Store

_PATH = re.compile(r"/rest(?:/metadata)?/apiKeys(?:/([^/]+))?")


def answer(store: Store, caller: SignedIn, request: Request, body: Json) -> Response:
    """Answer an authenticated request below `/rest/`.

    Raises:
        RejectedError: the server rejects the request.
    """
    match = _PATH.fullmatch(request.path)
    key_id = match[1] if match else None
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
    if store.dialect is not Dialect.CORE:
        return
    if request.method != "GET" and not caller.has_session:
        text = "This endpoint requires a session access token"
        raise RejectedError(text, error="Error", code="FORBIDDEN_EXCEPTION")
    if not caller.permits(seeds.API_KEYS_FLAG):
        text = "Entity performing the request does not have permission"
        raise RejectedError(text, error="Error", code="PERMISSION_DENIED")


def _collection(store: Store, request: Request, body: Json) -> Response:
    if request.method == "GET":  # depth, limit, cursors and filters are ignored (`087` ff.)
        keys = store.select(keys_core.LISTED)
        return json_answer(200, [_record(store, key) for key in keys])
    if not request.body and store.dialect is Dialect.CORE:  # `041-rest-create-nobody`
        text = "Cannot read properties of undefined (reading 'name')"
        raise RejectedError(text, error="TypeError")
    fields = _fields(body)
    record = _record(store, keys_core.create(store, fields, request.started))
    if not isinstance(fields["name"], str):  # returned as sent (`046-rest-create-number-name`)
        record["name"] = fields["name"]
    return json_answer(201, record)


def _single_key(store: Store, key_id: str, request: Request, body: Json) -> Response:
    if not is_uuid(key_id):
        raise bad_uuid(key_id)  # `106`, `123`; not recorded for DELETE
    key_id = key_id.lower()
    match request.method:
        case "GET":
            key = store.key(key_id)
        case "PATCH":
            key = keys_core.update(store, key_id, _fields(body))
        case _:
            key = keys_core.revoke(store, key_id)
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
