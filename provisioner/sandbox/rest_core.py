"""`/rest/apiKeys` and `/rest/metadata/apiKeys` of the core dialects.

1.10 needs no permission here: even Guests can list and create (core-1 `010`, `011`, `016`).
2.21 needs the API-keys permission to read and, in addition, a user session to write
(core-2.21 `010`, `015`, `016`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.sandbox import keys_core, rest, seeds
from provisioner.sandbox.access import KeyCaller, UserCaller
from provisioner.sandbox.dialect import Dialect
from provisioner.sandbox.exchange import Json, JsonObject, Request, Response, json_answer
from provisioner.sandbox.store import Condition
from provisioner.sandbox.workspace import Rejected, bad_uuid

if TYPE_CHECKING:
    from provisioner.sandbox.rest import RestBody
    from provisioner.sandbox.store import ApiKey
    from provisioner.sandbox.workspace import SandboxWorkspace

NO_PERMISSION = Rejected(
    "Entity performing the request does not have permission",
    error="Error",
    code="PERMISSION_DENIED",
)
NEEDS_SESSION = Rejected(
    "This endpoint requires a session access token", error="Error", code="FORBIDDEN_EXCEPTION"
)

_ROUTES = ("/rest/metadata/apiKeys", "/rest/apiKeys")
_EMPTY = Response(200)
"""The answer of GET, PATCH and DELETE to an unknown id (`105`, `122`, `129`)."""
_PAGE, _LARGEST_PAGE = 60, 200
_SUCCESSOR = (
    ("Deprecation", "true"),
    ("Link", '</rest/metadata/apiKeys>; rel="successor-version"'),
)


def answer(
    workspace: SandboxWorkspace, caller: KeyCaller | UserCaller, request: Request, body: RestBody
) -> Response:
    """Answer an authenticated request below `/rest/`."""
    for route in _ROUTES:
        if request.path == route and request.method in ("GET", "POST"):
            return _denied(workspace, caller, request) or _collection(workspace, request, body)
        key_id = request.path.removeprefix(f"{route}/")
        if (
            key_id != request.path
            and "/" not in key_id
            and request.method in ("GET", "PATCH", "DELETE")
        ):
            return _denied(workspace, caller, request) or _single_key(
                workspace, key_id, request, body
            )
    if request.method == "GET" and request.path == "/rest/metadata/webhooks":
        return json_answer(200, [])  # `110-rest-webhooks`: a workspace without one
    return (
        rest.bad_path(request, workspace.dialect)
        or rest.bad_depth(request, (0, 1))  # `074-rest-batch-depth-2`
        or rest.unknown_object(request, workspace.dialect)
    )


def _denied(
    workspace: SandboxWorkspace, caller: KeyCaller | UserCaller, request: Request
) -> Response | None:
    if workspace.dialect is not Dialect.CORE:
        return None
    if request.method != "GET" and isinstance(caller, KeyCaller):
        return rest.rejected(NEEDS_SESSION)
    if caller.role is None or not caller.role.permits(seeds.API_KEYS_FLAG):
        return rest.rejected(NO_PERMISSION)
    return None


def _collection(workspace: SandboxWorkspace, request: Request, body: RestBody) -> Response:
    if request.method == "POST":
        if body.absent and workspace.dialect is Dialect.CORE:  # `041-rest-create-nobody`
            return rest.rejected(
                Rejected("Cannot read properties of undefined (reading 'name')", error="TypeError")
            )
        created = keys_core.create(workspace, _fields(body.value), request.started)
        if isinstance(created, Rejected):
            return rest.rejected(created)
        record = rest.core_record(created, workspace.store.workspace_id)
        name = _fields(body.value)["name"]
        if not isinstance(name, str):  # returned as it was sent (`046-rest-create-number-name`)
            record["name"] = name
        return json_answer(201, record)
    if not workspace.page_core_list:  # depth, limit, cursors and filters are ignored (`087` ff.)
        return json_answer(200, _records(workspace, workspace.store.select(keys_core.LISTED)))
    if request.path == "/rest/apiKeys":
        records = _records(workspace, workspace.store.select(keys_core.LISTED))
        return json_answer(200, records, headers=_SUCCESSOR)
    return _page(workspace, request)


def _page(workspace: SandboxWorkspace, request: Request) -> Response:
    """Return a page of the list, as about 2.4x does.

    Not recorded: follows `docs/twenty-api.md`, whose source is the server's code. Two choices are
    ours: an invalid limit counts as the default, and the order is that of the ids.
    """
    limit = request.query.get("limit", "")
    size = min(int(limit), _LARGEST_PAGE) if limit.isdecimal() and int(limit) else _PAGE
    after = request.query.get("starting_after", "")
    condition = keys_core.LISTED.sql
    keys = workspace.store.select(
        Condition(f"{condition} AND id > ?", (after,)), order="id", limit=size + 1
    )
    page = keys[:size]
    return json_answer(
        200,
        {
            "data": _records(workspace, page),
            "pageInfo": {
                "hasNextPage": len(keys) > size,
                "hasPreviousPage": bool(
                    page
                    and workspace.store.count(Condition(f"{condition} AND id < ?", (page[0].id,)))
                ),
                "startCursor": page[0].id if page else None,
                "endCursor": page[-1].id if page else None,
            },
            "totalCount": workspace.store.count(keys_core.LISTED),
        },
    )


def _single_key(
    workspace: SandboxWorkspace, key_id: str, request: Request, body: RestBody
) -> Response:
    if not keys_core.is_uuid(key_id):
        # `106`, `123`; not recorded for DELETE.
        return rest.rejected(bad_uuid(key_id))
    key_id = key_id.lower()
    match request.method:
        case "GET":
            outcome = workspace.store.key(key_id)
        case "PATCH":
            changed = keys_core.update(workspace, key_id, _fields(body.value))
            if isinstance(changed, Rejected):
                return rest.rejected(changed)
            outcome = changed
        case _:
            outcome = keys_core.revoke(workspace, key_id)
    if outcome is None:
        return _EMPTY
    return json_answer(200, rest.core_record(outcome, workspace.store.workspace_id))


def _records(workspace: SandboxWorkspace, keys: tuple[ApiKey, ...]) -> Json:
    return [rest.core_record(key, workspace.store.workspace_id) for key in keys]


def _fields(value: Json) -> JsonObject:
    """Return the fields of a body; an array has none of them (`068-rest-create-array-2`)."""
    return value if isinstance(value, dict) else {}
