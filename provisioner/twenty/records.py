"""Key records of every dialect, read strictly: half a key is an error, never a guess."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from provisioner.model.expiry import parse_moment
from provisioner.model.observed import ObservedKey, Role

if TYPE_CHECKING:
    from provisioner.http_client.bounded import Json
    from provisioner.twenty.workspace import Record


_LONGEST = 100_000
"""Signs of a name or label. Servers keep names of any length (legacy-0.60 `068`)."""

_LARGEST = 256 * 1024
"""Signs of one record; a report holds those of all keys that a run made."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
"""What an id is made of, so that it stays one part of a path and one word of a text."""

_FAR = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


class HalfRecordError(Exception):
    """A record that lacks what every server sends."""


def listed(entries: Json) -> list[Json]:
    """The entries of a list.

    Raises:
        HalfRecordError: when it is none.
    """
    if not isinstance(entries, list):
        raise HalfRecordError("no list of keys")
    return entries


def read_key(entry: Json, roles: dict[str, Role] | None = None) -> ObservedKey:
    """A key from its record.

    Args:
        entry: the record as listed.
        roles: the role of each key id, where the workspace shows them.

    Raises:
        HalfRecordError: when a field is missing or is not what it should be.
    """
    if not isinstance(entry, dict):
        raise HalfRecordError("a key that is no object")
    id_ = _id(entry)
    try:
        return _key(entry, id_, (roles or {}).get(id_))
    except HalfRecordError as half:
        raise HalfRecordError(f"{half} (key {id_})") from None


def _key(entry: Record, id_: str, role: Role | None) -> ObservedKey:
    revoked = entry.get("revokedAt")
    return ObservedKey(
        id=id_,
        name=_text(entry, "name"),
        expires_at=_moment(entry, "expiresAt"),
        revoked_at=None if revoked is None else _moment(entry, "revokedAt"),
        created_at=_moment(entry, "createdAt"),
        role=role.label if role else None,
        role_id=role.id if role else None,
    )


def read_roles(entries: Json) -> tuple[tuple[Role, ...], dict[str, Role]]:
    """All roles, and the role of each key id.

    Raises:
        HalfRecordError: when a field is missing or is not what it should be.
    """
    if not isinstance(entries, list):
        raise HalfRecordError("roles that are no list")
    roles: list[Role] = []
    of_key: dict[str, Role] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(keys := entry.get("apiKeys"), list):
            raise HalfRecordError("a role without its keys")
        role = Role(
            id=_id(entry),
            label=_text(entry, "label"),
            assignable=entry.get("canBeAssignedToApiKeys") is True,
        )
        roles.append(role)
        for key in keys:
            if not isinstance(key, dict):
                raise HalfRecordError("a role's key that is no object")
            of_key[_id(key)] = role
    return tuple(roles), of_key


def record_id(entry: Json) -> tuple[str, Record] | None:
    """A created record and its id, or None when it is not one, or one that is too large to keep."""
    if not isinstance(entry, dict) or not isinstance(id_ := entry.get("id"), str):
        return None
    kept = _ID.fullmatch(id_) and len(json.dumps(entry)) <= _LARGEST
    return (id_, entry) if kept else None


def _text(entry: Record, field: str) -> str:
    value = entry.get(field)
    if not isinstance(value, str):
        raise HalfRecordError(f"a record without a text in {field!r}")
    if len(value) > _LONGEST:
        raise HalfRecordError(f"a record with more than {_LONGEST} signs in {field!r}")
    return value


def _id(entry: Record) -> str:
    id_ = _text(entry, "id")
    if not _ID.fullmatch(id_):
        raise HalfRecordError("a record whose id is none")
    return id_


def _moment(entry: Record, field: str) -> datetime:
    text = _text(entry, field)
    if text.startswith("+"):
        return _FAR  # the year 10 000 and later, as JavaScript writes it
    try:
        return parse_moment(text)
    except ValueError:
        raise HalfRecordError(f"a record without a date in {field!r}") from None
