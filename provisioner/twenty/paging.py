"""All keys of a list, page by page, in every shape that servers give it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from provisioner.twenty.answers import NotJson
from provisioner.twenty.records import HalfRecordError, listed, read_key

if TYPE_CHECKING:
    from provisioner.http_client.bounded import Json
    from provisioner.model.observed import ObservedKey
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.client import Client


_MOST_KEYS = 100_000
_MOST_PAGES = 2_000
"""What no list of keys has; a server that goes on beyond it would go on for ever."""

_MOST_SIGNS = 20_000_000
"""Signs of all names and roles together, which stay while the pages are read."""

_LONGEST_CURSOR = 8_000
"""Signs that still fit into the address of the next page."""

_MAX_ROUNDS = 5
"""How many times the timeout of one answer those of all pages may take together."""


def list_keys(client: Client, path: str, first: Answer) -> tuple[ObservedKey, ...]:
    """Follows the cursors from the first page to the last.

    Args:
        client: where to read.
        path: of the first page, with its query.
        first: the answer of the first page; its shape decides: `data.apiKeys` with `pageInfo` on
            legacy, a bare array on core, `data` with `pageInfo` on core since about 2.4x.

    Returns:
        Every key once, though it may have moved between two pages.

    Raises:
        WorkspaceError: when a page is refused, half, or leads in a circle, or when they do not end.
    """
    keys: dict[str, ObservedKey] = {}
    cursors: set[str] = set()
    answer = first
    took = 0.0
    signs = 0
    while True:
        if not answer.ok:
            raise client.refused(answer)
        known = len(keys)
        took += answer.took
        try:
            for key in map(read_key, _entries(answer.body)):
                keys[key.id] = key
                signs += len(key.name) + len(key.role or "")
            cursor = _next(answer.body, cursors)
            if cursor is None:
                _hold_count(first.body, len(keys))
            else:
                _hold_end(len(keys) - known, len(keys), len(cursors), signs)
        except HalfRecordError as half:
            raise client.strange(answer, str(half)) from None
        if cursor is None:
            return tuple(keys.values())
        if took > _MAX_ROUNDS * client.timeout:
            raise client.endless()
        cursors.add(cursor)
        answer = client.read(f"{path}&starting_after={quote(cursor, safe='')}")


def _hold_count(body: Json | NotJson, found: int) -> None:
    """The first page counts all keys; fewer at the end would look like missing ones."""
    total = body.get("totalCount") if isinstance(body, dict) else None
    if isinstance(total, int) and found < total:
        raise HalfRecordError(f"{found} keys where it counts {str(total)[:20]}")


def _hold_end(added: int, keys: int, pages: int, signs: int) -> None:
    """A page that is not the last adds something, and there is an end to what they add."""
    if not added:
        raise HalfRecordError("a page that adds nothing and is not the last")
    if keys > _MOST_KEYS or pages >= _MOST_PAGES or signs > _MOST_SIGNS:
        raise HalfRecordError("pages that do not end")


def _entries(body: Json | NotJson) -> list[Json]:
    if isinstance(body, NotJson):
        raise HalfRecordError("something that is not JSON")
    found = body.get("data") if isinstance(body, dict) else body
    return listed(found.get("apiKeys") if isinstance(found, dict) else found)


def _next(body: Json | NotJson, seen: set[str]) -> str | None:
    """The cursor of the next page; a page that says it is not the last must have one."""
    if isinstance(body, list):
        return None
    info = body.get("pageInfo") if isinstance(body, dict) else None
    if not isinstance(info, dict) or not isinstance(info.get("hasNextPage"), bool):
        raise HalfRecordError("a page that does not say whether it is the last")
    if not info["hasNextPage"]:
        return None
    cursor = info.get("endCursor")
    if not isinstance(cursor, str) or len(cursor) > _LONGEST_CURSOR:
        raise HalfRecordError("a page without the cursor of the next")
    if cursor in seen:
        raise HalfRecordError("the same page again and again")
    return cursor
