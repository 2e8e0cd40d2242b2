"""The keys of the legacy dialect: their REST API, and the changes that GraphQL makes too.

An apiKey is a record like any other. By REST every authenticated caller may read and write, even a
Guest (legacy `005` to `008`).
"""

from __future__ import annotations

import base64
import json
import re
import sqlite3
import uuid
from typing import TYPE_CHECKING, NamedTuple

from provisioner.sandbox import rest, timestamps
from provisioner.sandbox.exchange import JsonObject, Request, Response, json_answer
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

PAGE = 60
"""Keys on a page if a request does not say how many."""

_FILTER = re.compile(r"([A-Za-z]+)\[([A-Za-z]+)\]:(.*)", re.DOTALL)
_ORDER = re.compile(r"([A-Za-z]+)\[(Asc|Desc)Nulls(?:First|Last)\]")


class Page(NamedTuple):
    """One page of the list.

    Attributes:
        records: the keys in the order in which they are listed.
        info: whether more follow in the requested direction, and the cursors of both ends.
        total: the number of keys that match the filter and the cursor (`096`, `098`).
    """

    records: list[JsonObject]
    info: JsonObject
    total: int


def answer(store: Store, request: Request, body: Json) -> Response:
    """Answer an authenticated request below `/rest/`.

    Raises:
        RejectedError: the server rejects the request.
    """
    rest.check_path(request, store.dialect)
    rest.check_depth(request, (0, 1, 2))
    match request.method, request.path.split("/")[2:]:
        case "POST", ["batch", "apiKeys"]:
            return _create_many(store, request, body)
        case "GET", ["apiKeys"]:
            return _list(store, request.query)
        case "POST", ["apiKeys"]:
            (created,) = create(store, (body,), request.started)
            if created is None:  # `923-create-id-of-soft-deleted`
                raise RejectedError("Created record not found", error="Error")
            return json_answer(201, {"data": {"createApiKey": created.record()}})
        case _, ["apiKeys"]:  # recorded for DELETE (`121-rest-delete-noid`)
            raise RejectedError("Record ID not found")
        case _, ["apiKeys", key_id]:
            return _single_key(store, key_id.lower(), request, body)
        case _:
            raise rest.unknown_object(request, store.dialect)


def page(  # noqa: PLR0913  # one argument for each parameter of the list
    store: Store,
    condition: str,
    *values: str,
    limit: float,
    after: str = "",
    before: str = "",
    field: str = "id",
    descending: bool = False,
) -> Page:
    """Return one page, for REST and GraphQL.

    Args:
        store: the rows of the workspace.
        condition: the filter of the records, in SQL.
        values: the values of its placeholders.
        limit: the size of the page; 1.5 gives two records (`093-rest-list-limit-1.5`).
        after: the cursor that the page starts after.
        before: the cursor that the page ends before; the page is then read backwards.
        field: the JSON name of the field that the list is sorted by; ties are sorted by id.
        descending: whether that field is sorted in descending order.
    """
    backwards = bool(before)
    column = FIELDS[field]
    descends = descending != backwards
    if after or before:
        value, key_id = _read_cursor(after or before, field)
        compare, compare_id = ("<" if descends else ">"), ("<" if backwards else ">")
        condition += f" AND ({column} {compare} ? OR ({column} = ? AND id {compare_id} ?))"
        values = (*values, value, value, key_id)
    order = f"{column} {'DESC' if descends else 'ASC'}, id {'DESC' if backwards else 'ASC'}"
    keys = store.select(condition, *values, order=order, limit=int(limit + 1.5))
    has_more = len(keys) > limit
    records = [key.record() for key in (keys[:-1] if has_more else keys)]
    # Backwards, the cursors keep the order of reading (`098-rest-list-ending_before`).
    info: JsonObject = {
        "hasNextPage": has_more,
        "startCursor": cursor_of(records[0], field) if records else None,
        "endCursor": cursor_of(records[-1], field) if records else None,
    }
    return Page(records[::-1] if backwards else records, info, store.count(condition, *values))


def cursor_of(record: JsonObject, field: str = "id") -> str:
    """Return a value for `starting_after`: the sort field and the id in base64 (`103`)."""
    text = json.dumps({field: record[field], "id": record["id"]}, separators=(",", ":"))
    return base64.b64encode(text.encode()).decode()


def _read_cursor(cursor: str, field: str) -> tuple[str, str]:
    """Return the sort value and the id from a cursor."""
    try:
        position = json.loads(base64.b64decode(cursor, validate=True))
        value, key_id = str(position[field]), str(position["id"])
    except (ValueError, KeyError, TypeError):
        key_id = ""
    if not is_uuid(key_id):
        raise RejectedError(f"Invalid cursor: {cursor}")
    return value, key_id


def _create_many(store: Store, request: Request, body: Json) -> Response:
    if not isinstance(body, list):
        raise RejectedError("Body must be an array")
    if not body:
        raise RejectedError("Input must not be empty")
    created = create(store, body, request.started)
    records: list[Json] = [None if key is None else key.record() for key in created]
    return json_answer(201, {"data": {"createApiKeys": records}})


def _single_key(store: Store, key_id: str, request: Request, body: Json) -> Response:
    match request.method:
        case "GET":
            key = store.key(key_id)
            if key is None:
                raise RejectedError("Record not found")
            return json_answer(200, {"data": {"apiKey": key.record()}})
        case "PATCH" | "PUT":  # `117-rest-put` changes only the given fields, as PATCH does
            key = update(store, key_id, body)
            return json_answer(200, {"data": {"updateApiKey": key.record()}})
        case "DELETE":
            delete(store, key_id)
            return json_answer(200, {"data": {"deleteApiKey": {"id": key_id}}})
        case _:
            raise rest.not_found(request)


def _list(store: Store, query: dict[str, str]) -> Response:
    order = _ORDER.fullmatch(query.get("order_by", "") or "id[AscNullsFirst]")
    if order is None or order[1] not in FIELDS:  # not recorded
        raise RejectedError(f"'order_by={query['order_by']}' parameter invalid")
    condition, values = VISIBLE, []
    text = query.get("filter", "")  # like `name[eq]:one,revokedAt[is]:NULL`
    for part in re.split(r",(?![^\[]*\])", text) if text else ():
        comparison, operands = _comparison(part)
        condition += f" AND {comparison}"
        values += operands
    requested = page(
        store,
        condition,
        *values,
        limit=rest.read_limit(query.get("limit", ""), PAGE),
        after=query.get("starting_after", ""),
        before=query.get("ending_before", ""),
        field=order[1],
        descending=order[2] == "Desc",
    )
    return json_answer(
        200,
        {
            "data": {"apiKeys": [*requested.records]},
            "pageInfo": requested.info,
            "totalCount": requested.total,
        },
    )


def _comparison(part: str) -> tuple[str, list[str]]:
    """Return the SQL and the values of a `field[comparator]:value` (`100`, `101`, `930`)."""
    found = _FILTER.fullmatch(part)
    field, comparator, operand = found.groups() if found else ("", "", "")
    if found and field not in FIELDS:
        raise RejectedError(f"field '{field}' does not exist in 'apiKey' object")
    column = FIELDS.get(field, "")
    match comparator, operand:
        case "eq", _:
            return f"{column} = ?", [_operand(operand)]
        case "in", _:
            operands = operand.removeprefix("[").removesuffix("]").split(",")
            placeholders = ", ".join("?" * len(operands))
            return f"{column} IN ({placeholders})", [*map(_operand, operands)]
        case "is", "NULL" | "NOT_NULL":
            return f"{column} IS {operand.replace('_', ' ')}", []
        case _:  # not recorded: the text and the other comparators
            raise RejectedError(f"'filter' invalid for '{part}'. eg: price[gte]:10")


def _operand(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1] if quoted else text


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
