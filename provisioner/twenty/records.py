"""Key records of every generation, on their own or in the pages of a list.

They are read strictly: an incomplete key is an error, never a guess.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.expiry import parse_timestamp
from provisioner.model.observed import ObservedKey, Role
from provisioner.twenty.answers import NOT_JSON, NotJson

if TYPE_CHECKING:
    from provisioner.model.workspace import Json, Record
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.client import Client


_MAX_NAME = 100_000
"""Characters of a name or label. Servers keep names of any length (legacy-0.60 `068`)."""

_MAX_RECORD = 256 * 1024
"""Characters of one record; a report has those of all keys that a run created."""

_MAX_KEYS = 100_000
_MAX_PAGES = 2_000
"""More than any list of keys has; a server that goes beyond would never stop."""

_MAX_CHARACTERS = 20_000_000
"""Characters of all names and roles together, which stay in memory while pages are read."""

_MAX_CURSOR = 8_000
"""Characters of a cursor that still fit into the URL of the next page."""

_MAX_TIMEOUTS = 5
"""Time limit of all pages together, in timeouts of one answer."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
"""Characters of an id, so that it stays one part of a path and one word of a text."""

_FAR_FUTURE = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


class IncompleteRecordError(Exception):
    """A record that lacks something that every server sends."""


def require_list(entries: Json) -> list[Json]:
    """Return the entries of a list.

    Raises:
        IncompleteRecordError: it is not a list.
    """
    if not isinstance(entries, list):
        raise IncompleteRecordError("something that is not a list of keys")
    return entries


def read_key(entry: Json, roles: dict[str, Role] | None = None) -> ObservedKey:
    """Return the key of a record.

    Args:
        entry: the record as listed.
        roles: the role of each key id, if the workspace shows them.

    Raises:
        IncompleteRecordError: a field is missing or not valid.
    """
    if not isinstance(entry, dict):
        raise IncompleteRecordError("a key that is not an object")
    id_ = _id(entry)
    role = (roles or {}).get(id_)
    try:
        return ObservedKey(
            id=id_,
            name=_text(entry, "name"),
            expires_at=_timestamp(entry, "expiresAt"),
            revoked_at=None if entry.get("revokedAt") is None else _timestamp(entry, "revokedAt"),
            created_at=_timestamp(entry, "createdAt"),
            role=role.label if role else None,
            role_id=role.id if role else None,
        )
    except IncompleteRecordError as error:
        raise IncompleteRecordError(f"{error} (key {id_})") from None


def read_roles(entries: Json) -> tuple[tuple[Role, ...], dict[str, Role]]:
    """Return all roles, and the role of each key id.

    Raises:
        IncompleteRecordError: a field is missing or not valid.
    """
    if not isinstance(entries, list):
        raise IncompleteRecordError("roles that are not a list")
    roles: list[Role] = []
    of_key: dict[str, Role] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(keys := entry.get("apiKeys"), list):
            raise IncompleteRecordError("a role without its keys")
        assignable = entry.get("canBeAssignedToApiKeys") is True
        role = Role(_id(entry), _text(entry, "label"), assignable)
        roles.append(role)
        for key in keys:
            if not isinstance(key, dict):
                raise IncompleteRecordError("a key whose role is not an object")
            of_key[_id(key)] = role
    return tuple(roles), of_key


def record_id(entry: Json) -> tuple[str, Record] | None:
    """Return the id of a created record and the record.

    None if it is not a record, or too large to keep.
    """
    if not isinstance(entry, dict) or not isinstance(id_ := entry.get("id"), str):
        return None
    valid = _ID.fullmatch(id_) and len(json.dumps(entry)) <= _MAX_RECORD
    return (id_, entry) if valid else None


def _text(entry: Record, field: str) -> str:
    value = entry.get(field)
    if not isinstance(value, str):
        raise IncompleteRecordError(f"a record without text in {field!r}")
    if len(value) > _MAX_NAME:
        raise IncompleteRecordError(f"a record with more than {_MAX_NAME} characters in {field!r}")
    return value


def _id(entry: Record) -> str:
    id_ = _text(entry, "id")
    if not _ID.fullmatch(id_):
        raise IncompleteRecordError("a record whose id is not valid")
    return id_


def _timestamp(entry: Record, field: str) -> datetime:
    text = _text(entry, field)
    if text.startswith("+"):
        return _FAR_FUTURE  # year 10 000 and later, as JavaScript writes it
    try:
        return parse_timestamp(text)
    except ValueError:
        raise IncompleteRecordError(f"a record without a date in {field!r}") from None


def list_keys(client: Client, path: str, first: Answer) -> tuple[ObservedKey, ...]:
    """Follow the cursors from the first page to the last.

    Args:
        client: to read with.
        path: of the first page, with its query.
        first: the answer with the first page. Its shape decides: `data.apiKeys` with `pageInfo` on
            legacy, a bare array on core, `data` with `pageInfo` on core since about 2.4x.

    Returns:
        Every key once, even if it moved between two pages.

    Raises:
        WorkspaceError: a page is refused, incomplete or repeated, or the pages do not end.
    """
    keys: dict[str, ObservedKey] = {}
    cursors: set[str] = set()
    answer = first
    duration = 0.0
    characters = 0
    while True:
        if not answer.ok:
            raise client.refusal(answer)
        known_before = len(keys)
        duration += answer.duration
        try:
            for key in map(read_key, _entries(answer.body)):
                keys[key.id] = key
                characters += len(key.name) + len(key.role or "")
            cursor = _next_cursor(answer.body)
            if cursor is None:
                _check_count(first.body, len(keys))
                return tuple(keys.values())
        except IncompleteRecordError as incomplete:
            raise unexpected_list(client, answer, str(incomplete)) from None
        if cursor in cursors:
            raise unexpected_list(client, answer, "the same page more than once")
        if len(keys) == known_before:
            why = "a page that adds no keys although it is not the last"
            raise unexpected_list(client, answer, why)
        if len(keys) > _MAX_KEYS or len(cursors) >= _MAX_PAGES or characters > _MAX_CHARACTERS:
            raise unexpected_list(client, answer, "too many pages or keys")
        if duration > _MAX_TIMEOUTS * client.transport.timeout:
            raise WorkspaceError(
                Code.TIMEOUT,
                f"{client.environment} takes too long to list all pages of its keys.",
                remedy="Run again, or raise limits.timeout.",
            )
        cursors.add(cursor)
        next_page = f"{path}&starting_after={quote(cursor, safe='')}"
        answer = client.request("GET", next_page, is_list=True)


def unexpected_list(client: Client, answer: Answer, content: str) -> WorkspaceError:
    """Return the error of an answer that has the status of a success and contains no list."""
    content = "something that is not JSON" if answer.body is NOT_JSON else content
    return WorkspaceError(
        Code.UNEXPECTED_ANSWER,
        f"{client.environment} responded to the request for its keys with {content}.",
        remedy="Check that `url` is the address of Twenty itself, and run with --log-level debug.",
    )


def _check_count(body: Json | NotJson, count: int) -> None:
    """Raise if there are fewer keys than the first page counts; some would be missing."""
    total = body.get("totalCount") if isinstance(body, dict) else None
    if isinstance(total, int) and count < total:
        raise IncompleteRecordError(
            f"{count} keys, although it reports a total of {str(total)[:20]}"
        )


def _entries(body: Json | NotJson) -> list[Json]:
    if isinstance(body, NotJson):
        raise IncompleteRecordError("something that is not JSON")
    data = body.get("data") if isinstance(body, dict) else body
    return require_list(data.get("apiKeys") if isinstance(data, dict) else data)


def _next_cursor(body: Json | NotJson) -> str | None:
    """Return the cursor of the next page, None after the last one."""
    if isinstance(body, list):
        return None
    info = body.get("pageInfo") if isinstance(body, dict) else None
    if not isinstance(info, dict) or not isinstance(info.get("hasNextPage"), bool):
        raise IncompleteRecordError("a page without `hasNextPage`")
    if not info["hasNextPage"]:
        return None
    cursor = info.get("endCursor")
    if not isinstance(cursor, str) or len(cursor) > _MAX_CURSOR:
        raise IncompleteRecordError("a page without the cursor for the next page")
    return cursor
