"""`/rest/apiKeys` and `/rest/batch/apiKeys` of legacy.

Whoever is signed in may read and write, even a Guest (legacy `005` to `008`).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.sandbox import keys_legacy, rest
from provisioner.sandbox.exchange import JsonObject, Request, Response, json_answer
from provisioner.sandbox.keys_core import is_uuid
from provisioner.sandbox.store import Condition
from provisioner.sandbox.workspace import Rejected

if TYPE_CHECKING:
    from provisioner.sandbox.rest import RestBody
    from provisioner.sandbox.store import ApiKey
    from provisioner.sandbox.workspace import SandboxWorkspace

_DEPTHS = (0, 1, 2)
_PAGE = 60
_FIELDS = {
    "id": "id",
    "name": "name",
    "expiresAt": "expires_at",
    "revokedAt": "revoked_at",
    "createdAt": "created_at",
    "updatedAt": "updated_at",
    "deletedAt": "deleted_at",
}
_FILTER = re.compile(r"([A-Za-z]+)\[([A-Za-z]+)\]:(.*)", re.DOTALL)
_ORDER = re.compile(r"([A-Za-z]+)\[(Asc|Desc)Nulls(?:First|Last)\]")


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the list.

    Attributes:
        keys: in the order in which they are shown.
        first: the record behind `startCursor`.
        last: the record behind `endCursor`.
        more: whether the list goes on in the direction asked for.
        total: how many records meet the filter and the cursor (`096`, `098`).
        field: the wire name of the field that orders the list.
    """

    keys: tuple[ApiKey, ...]
    first: ApiKey | None
    last: ApiKey | None
    more: bool
    total: int
    field: str = "id"

    def cursor(self, key: ApiKey | None) -> str | None:
        """What `starting_after` takes: the ordering field and the id, in base64 (`103`)."""
        if key is None:
            return None
        place: JsonObject = (
            {} if self.field == "id" else {self.field: rest.legacy_record(key)[self.field]}
        )
        text = json.dumps({**place, "id": key.id}, separators=(",", ":"))
        return base64.b64encode(text.encode()).decode()


def answer(workspace: SandboxWorkspace, request: Request, body: RestBody) -> Response:
    """Answers a signed-in request below `/rest/`."""
    wrong = rest.bad_path(request, workspace.dialect) or rest.bad_depth(request, _DEPTHS)
    if wrong:
        return wrong
    match request.path.split("/")[2:]:
        case ["batch", "apiKeys"] if request.method == "POST":
            return _create_many(workspace, request, body)
        case ["apiKeys"]:
            return _collection(workspace, request, body)
        case ["apiKeys", key_id]:
            return _one(workspace, key_id.lower(), request, body)
        case _:
            return rest.unknown_object(request, workspace.dialect)


def page(  # noqa: PLR0913  # one argument for each parameter of the list
    workspace: SandboxWorkspace,
    condition: Condition,
    *,
    limit: float,
    after: str = "",
    before: str = "",
    field: str = "id",
    descending: bool = False,
) -> Page | Rejected:
    """Reads one page; REST and GraphQL share it.

    Args:
        workspace: the workspace.
        condition: what the records must meet.
        limit: how many; 1.5 gives two (`093-rest-list-limit-1.5`).
        after: the cursor that the page begins behind.
        before: the cursor that the page ends before; wins over none other.
        field: the wire name of the field that orders the list; the id settles ties.
        descending: the order of that field.
    """
    backwards = bool(before)
    column = _FIELDS[field]
    falling = descending != backwards
    if after or before:
        place = _place(after or before, field)
        if place is None:
            return Rejected(f"Invalid cursor: {after or before}")
        sign, tie = ("<" if falling else ">"), ("<" if backwards else ">")
        condition = Condition(
            f"{condition.sql} AND ({column} {sign} ? OR ({column} = ? AND id {tie} ?))",
            (*condition.values, place[0], place[0], place[1]),
        )
    order = f"{column} {'DESC' if falling else 'ASC'}, id {'DESC' if backwards else 'ASC'}"
    found = workspace.store.select(condition, order=order, limit=int(limit + 1.5))
    more = len(found) > limit
    kept = found[:-1] if more else found
    return Page(
        keys=kept[::-1] if backwards else kept,
        # Backwards the cursors stay in the order of reading (`098-rest-list-ending_before`).
        first=kept[0] if kept else None,
        last=kept[-1] if kept else None,
        more=more,
        total=workspace.store.count(condition),
        field=field,
    )


def _collection(workspace: SandboxWorkspace, request: Request, body: RestBody) -> Response:
    match request.method:
        case "GET":
            return _list(workspace, request)
        case "POST":
            made = keys_legacy.create(workspace, (body.value,), request.started)
            if isinstance(made, Rejected):
                return rest.rejected(made)
            if made[0] is None:  # `923-create-id-of-soft-deleted`
                return rest.rejected(Rejected("Created record not found", error="Error"))
            return json_answer(201, {"data": {"createApiKey": rest.legacy_record(made[0])}})
        case _:  # recorded of DELETE (`121-rest-delete-noid`)
            return rest.bad_request("Record ID not found")


def _create_many(workspace: SandboxWorkspace, request: Request, body: RestBody) -> Response:
    if not isinstance(body.value, list):
        return rest.bad_request("Body must be an array")
    if not body.value:
        return rest.bad_request("Input must not be empty")
    made = keys_legacy.create(workspace, body.value, request.started)
    if isinstance(made, Rejected):
        return rest.rejected(made)
    records = [None if key is None else rest.legacy_record(key) for key in made]
    return json_answer(201, {"data": {"createApiKeys": [*records]}})


def _one(workspace: SandboxWorkspace, key_id: str, request: Request, body: RestBody) -> Response:
    match request.method:
        case "GET":
            found = workspace.store.key(key_id)
            outcome = Rejected("Record not found") if found is None else found
            name = "apiKey"
        case "PATCH" | "PUT":  # `117-rest-put` changes what it is given, as PATCH does
            outcome = keys_legacy.update(workspace, key_id, body.value)
            name = "updateApiKey"
        case "DELETE":
            failed = keys_legacy.delete(workspace, key_id)
            if failed is not None:
                return rest.rejected(failed)
            return json_answer(200, {"data": {"deleteApiKey": {"id": key_id}}})
        case _:
            return rest.not_found(request)
    if isinstance(outcome, Rejected):
        return rest.rejected(outcome)
    return json_answer(200, {"data": {name: rest.legacy_record(outcome)}})


def _list(workspace: SandboxWorkspace, request: Request) -> Response:
    found = _asked_page(workspace, request.query)
    if isinstance(found, Rejected):
        return rest.rejected(found)
    return json_answer(
        200,
        {
            "data": {"apiKeys": [rest.legacy_record(key) for key in found.keys]},
            "pageInfo": {
                "hasNextPage": found.more,
                "startCursor": found.cursor(found.first),
                "endCursor": found.cursor(found.last),
            },
            "totalCount": found.total,
        },
    )


def _asked_page(workspace: SandboxWorkspace, query: dict[str, str]) -> Page | Rejected:
    limit = _limit(query.get("limit", ""))
    if limit is None:
        return Rejected(f"limit '{query['limit']}' is invalid. Should be an integer")
    condition = _condition(query.get("filter", ""))
    if isinstance(condition, Rejected):
        return condition
    order = _ORDER.fullmatch(query.get("order_by", "") or "id[AscNullsFirst]")
    if order is None or order[1] not in _FIELDS:  # not recorded
        return Rejected(f"'order_by={query['order_by']}' parameter invalid")
    return page(
        workspace,
        condition,
        limit=limit,
        after=query.get("starting_after", ""),
        before=query.get("ending_before", ""),
        field=order[1],
        descending=order[2] == "Desc",
    )


def _limit(text: str) -> float | None:
    """How many records a page holds; 0 counts as absent (`082`), a fraction is one (`093`)."""
    try:
        limit = float(text or 0)
    except ValueError:
        return None
    return None if not 0 <= limit < float("inf") else limit or _PAGE


def _condition(text: str) -> Condition | Rejected:
    """Reads `name[eq]:one,revokedAt[is]:NULL`; the parts are joined by AND."""
    condition = keys_legacy.VISIBLE
    for part in re.split(r",(?![^\[]*\])", text) if text else ():
        comparison = _comparison(part)
        if isinstance(comparison, Rejected):
            return comparison
        condition = Condition(
            f"{condition.sql} AND {comparison.sql}", (*condition.values, *comparison.values)
        )
    return condition


def _comparison(part: str) -> Condition | Rejected:
    """Reads one `field[comparator]:value`, of which `100`, `101` and `930` are recorded."""
    found = _FILTER.fullmatch(part)
    field, comparator, operand = found.groups() if found else ("", "", "")
    if found and field not in _FIELDS:
        return Rejected(f"field '{field}' does not exist in 'apiKey' object")
    column = _FIELDS.get(field, "")
    match comparator, operand:
        case "eq", _:
            return Condition(f"{column} = ?", (_operand(operand),))
        case "in", _:
            operands = operand.removeprefix("[").removesuffix("]").split(",")
            places = ", ".join("?" * len(operands))
            return Condition(f"{column} IN ({places})", tuple(map(_operand, operands)))
        case "is", "NULL" | "NOT_NULL":
            return Condition(f"{column} IS {operand.replace('_', ' ')}")
        case _:  # not recorded: neither the text nor the other comparators
            return Rejected(f"'filter' invalid for '{part}'. eg: price[gte]:10")


def _operand(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1] if quoted else text


def _place(cursor: str, field: str) -> tuple[str, str] | None:
    """The ordering value and the id that a cursor holds."""
    try:
        place = json.loads(base64.b64decode(cursor, validate=True))
        value, key_id = place[field], place["id"]
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None
    return (str(value), str(key_id)) if is_uuid(str(key_id)) else None
