"""`/rest/apiKeys` and `/rest/batch/apiKeys` of the legacy dialect.

Every authenticated caller may read and write, even a Guest (legacy `005` to `008`).
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
from provisioner.sandbox.rejected import RejectedError, is_uuid
from provisioner.sandbox.store import Condition

if TYPE_CHECKING:
    from provisioner.model.workspace import Json
    from provisioner.sandbox.rest import RestBody
    from provisioner.sandbox.store import ApiKey, Store

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
        keys: the keys in the order in which they are listed.
        first: the record of `startCursor`.
        last: the record of `endCursor`.
        has_more: whether more records follow in the requested direction.
        total: the number of records that match the filter and the cursor (`096`, `098`).
        field: the JSON name of the field that the list is sorted by.
    """

    keys: tuple[ApiKey, ...]
    first: ApiKey | None
    last: ApiKey | None
    has_more: bool
    total: int
    field: str = "id"

    def cursor(self, key: ApiKey | None) -> str | None:
        """Return a value for `starting_after`: the sort field and the id in base64 (`103`)."""
        if key is None:
            return None
        position: JsonObject = (
            {} if self.field == "id" else {self.field: rest.legacy_record(key)[self.field]}
        )
        text = json.dumps({**position, "id": key.id}, separators=(",", ":"))
        return base64.b64encode(text.encode()).decode()


def answer(store: Store, request: Request, body: RestBody) -> Response:
    """Answer an authenticated request below `/rest/`.

    Raises:
        RejectedError: the server rejects the request.
    """
    rest.check_path(request, store.dialect)
    rest.check_depth(request, _DEPTHS)
    match request.method, request.path.split("/")[2:]:
        case "POST", ["batch", "apiKeys"]:
            return _create_many(store, request, body)
        case "GET", ["apiKeys"]:
            return _list(store, request.query)
        case "POST", ["apiKeys"]:
            (created,) = keys_legacy.create(store, (body.value,), request.started)
            if created is None:  # `923-create-id-of-soft-deleted`
                raise RejectedError("Created record not found", error="Error")
            return json_answer(201, {"data": {"createApiKey": rest.legacy_record(created)}})
        case _, ["apiKeys"]:  # recorded for DELETE (`121-rest-delete-noid`)
            raise RejectedError("Record ID not found")
        case _, ["apiKeys", key_id]:
            return _single_key(store, key_id.lower(), request, body)
        case _:
            raise rest.unknown_object(request, store.dialect)


def page(  # noqa: PLR0913  # one argument for each parameter of the list
    store: Store,
    condition: Condition,
    *,
    limit: float,
    after: str = "",
    before: str = "",
    field: str = "id",
    descending: bool = False,
) -> Page:
    """Return one page, for REST and GraphQL.

    Args:
        store: the rows of the workspace.
        condition: the filter of the records.
        limit: the size of the page; 1.5 gives two records (`093-rest-list-limit-1.5`).
        after: the cursor that the page starts after.
        before: the cursor that the page ends before; the page is then read backwards.
        field: the JSON name of the field that the list is sorted by; ties are sorted by id.
        descending: whether that field is sorted in descending order.
    """
    backwards = bool(before)
    column = _FIELDS[field]
    descends = descending != backwards
    if after or before:
        position = _read_cursor(after or before, field)
        if position is None:
            raise RejectedError(f"Invalid cursor: {after or before}")
        compare, compare_id = ("<" if descends else ">"), ("<" if backwards else ">")
        condition = Condition(
            f"{condition.sql} AND ({column} {compare} ? OR ({column} = ? AND id {compare_id} ?))",
            (*condition.values, position[0], position[0], position[1]),
        )
    order = f"{column} {'DESC' if descends else 'ASC'}, id {'DESC' if backwards else 'ASC'}"
    keys = store.select(condition, order=order, limit=int(limit + 1.5))
    has_more = len(keys) > limit
    page_keys = keys[:-1] if has_more else keys
    return Page(
        keys=page_keys[::-1] if backwards else page_keys,
        # Backwards, the cursors keep the order of reading (`098-rest-list-ending_before`).
        first=page_keys[0] if page_keys else None,
        last=page_keys[-1] if page_keys else None,
        has_more=has_more,
        total=store.count(condition),
        field=field,
    )


def _create_many(store: Store, request: Request, body: RestBody) -> Response:
    if not isinstance(body.value, list):
        raise RejectedError("Body must be an array")
    if not body.value:
        raise RejectedError("Input must not be empty")
    created = keys_legacy.create(store, body.value, request.started)
    records: list[Json] = [None if key is None else rest.legacy_record(key) for key in created]
    return json_answer(201, {"data": {"createApiKeys": records}})


def _single_key(store: Store, key_id: str, request: Request, body: RestBody) -> Response:
    match request.method:
        case "GET":
            key = store.key(key_id)
            if key is None:
                raise RejectedError("Record not found")
            return json_answer(200, {"data": {"apiKey": rest.legacy_record(key)}})
        case "PATCH" | "PUT":  # `117-rest-put` changes only the given fields, as PATCH does
            key = keys_legacy.update(store, key_id, body.value)
            return json_answer(200, {"data": {"updateApiKey": rest.legacy_record(key)}})
        case "DELETE":
            keys_legacy.delete(store, key_id)
            return json_answer(200, {"data": {"deleteApiKey": {"id": key_id}}})
        case _:
            raise rest.not_found(request)


def _list(store: Store, query: dict[str, str]) -> Response:
    limit = _limit(query.get("limit", ""))
    if limit is None:
        raise RejectedError(f"limit '{query['limit']}' is invalid. Should be an integer")
    order = _ORDER.fullmatch(query.get("order_by", "") or "id[AscNullsFirst]")
    if order is None or order[1] not in _FIELDS:  # not recorded
        raise RejectedError(f"'order_by={query['order_by']}' parameter invalid")
    requested = page(
        store,
        _condition(query.get("filter", "")),
        limit=limit,
        after=query.get("starting_after", ""),
        before=query.get("ending_before", ""),
        field=order[1],
        descending=order[2] == "Desc",
    )
    return json_answer(
        200,
        {
            "data": {"apiKeys": [rest.legacy_record(key) for key in requested.keys]},
            "pageInfo": {
                "hasNextPage": requested.has_more,
                "startCursor": requested.cursor(requested.first),
                "endCursor": requested.cursor(requested.last),
            },
            "totalCount": requested.total,
        },
    )


def _limit(text: str) -> float | None:
    """Return the page size; 0 counts as absent (`082`), fractions are allowed (`093`)."""
    try:
        limit = float(text or 0)
    except ValueError:
        return None
    return None if not 0 <= limit < float("inf") else limit or _PAGE


def _condition(text: str) -> Condition:
    """Parse a filter like `name[eq]:one,revokedAt[is]:NULL`; its parts are joined by AND."""
    condition = keys_legacy.VISIBLE
    for part in re.split(r",(?![^\[]*\])", text) if text else ():
        comparison = _comparison(part)
        condition = Condition(
            f"{condition.sql} AND {comparison.sql}", (*condition.values, *comparison.values)
        )
    return condition


def _comparison(part: str) -> Condition:
    """Parse one `field[comparator]:value` (recorded: `100`, `101` and `930`)."""
    found = _FILTER.fullmatch(part)
    field, comparator, operand = found.groups() if found else ("", "", "")
    if found and field not in _FIELDS:
        raise RejectedError(f"field '{field}' does not exist in 'apiKey' object")
    column = _FIELDS.get(field, "")
    match comparator, operand:
        case "eq", _:
            return Condition(f"{column} = ?", (_operand(operand),))
        case "in", _:
            operands = operand.removeprefix("[").removesuffix("]").split(",")
            placeholders = ", ".join("?" * len(operands))
            return Condition(f"{column} IN ({placeholders})", tuple(map(_operand, operands)))
        case "is", "NULL" | "NOT_NULL":
            return Condition(f"{column} IS {operand.replace('_', ' ')}")
        case _:  # not recorded: the text and the other comparators
            raise RejectedError(f"'filter' invalid for '{part}'. eg: price[gte]:10")


def _operand(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1] if quoted else text


def _read_cursor(cursor: str, field: str) -> tuple[str, str] | None:
    """Return the sort value and the id from a cursor, or None if it is invalid."""
    try:
        position = json.loads(base64.b64decode(cursor, validate=True))
        value, key_id = position[field], position["id"]
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None
    return (str(value), str(key_id)) if is_uuid(str(key_id)) else None
