"""Key records of every generation, read strictly: an incomplete key is an error, never a guess."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from provisioner.model.expiry import parse_timestamp
from provisioner.model.observed import ObservedKey, Role

if TYPE_CHECKING:
    from provisioner.model.workspace import Json, Record


_MAX_NAME = 100_000
"""Characters of a name or label. Servers keep names of any length (legacy-0.60 `068`)."""

_MAX_RECORD = 256 * 1024
"""Characters of one record; a report has those of all keys that a run created."""

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
