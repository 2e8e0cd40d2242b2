"""All keys of a list, page by page, in every shape that servers give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.activity import Listing
from provisioner.runtime.backoff import delay
from provisioner.runtime.cancellation import STOPPED
from provisioner.twenty.answers import NOT_JSON, NotJson, html_page
from provisioner.twenty.records import IncompleteRecordError, read_key, require_list

if TYPE_CHECKING:
    from provisioner.model.observed import ObservedKey
    from provisioner.model.workspace import Json
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.client import Client


_MAX_KEYS = 100_000
_MAX_PAGES = 2_000
"""More than any list of keys has; a server that goes beyond would never stop."""

_MAX_CHARACTERS = 20_000_000
"""Characters of all names and roles together, which stay in memory while pages are read."""

_MAX_CURSOR = 8_000
"""Characters of a cursor that still fit into the URL of the next page."""

_MAX_TIMEOUTS = 5
"""Time limit of all pages together, in timeouts of one answer."""

_MAX_READINGS = 5
"""Readings of a list that ends too early each time; so many revocations in a row hit no cursor."""


def list_keys(client: Client, path: str, first: Answer) -> tuple[ObservedKey, ...]:
    """Follow the cursors from the first page to the last; start again if keys left meanwhile.

    Args:
        client: to read with.
        path: of the first page, with its query.
        first: the answer with the first page. Its shape decides: `data.apiKeys` with `pageInfo` on
            legacy, a bare array on core, `data` with `pageInfo` on core since about 2.4x.

    Returns:
        Every key once, even if it moved between two pages.

    Raises:
        WorkspaceError: a page is refused, incomplete or repeated, the pages do not end, or the list
            changed each time it was read.
    """
    reading = _Reading(client, path)
    keys = reading.read(first)
    for tries in range(1, _MAX_READINGS):
        if keys is not None:
            break
        client.transport.stop.sleep(delay(tries))
        if client.transport.stop.requested:
            raise WorkspaceError.of(STOPPED)
        keys = reading.read(client.request("GET", path, is_list=True))
    if keys is None:
        raise WorkspaceError(
            Code.UNEXPECTED_ANSWER,
            f"The list of keys of {client.environment} kept changing: {_MAX_READINGS} times, it "
            "ended before all keys were read.",
            remedy="Run the command again when nothing else creates or revokes keys there.",
        )
    return keys


@dataclass(slots=True)
class _Reading:
    """Readings of one list, from its first page to its last.

    Attributes:
        duration: seconds that all pages took so far.
    """

    client: Client
    path: str
    duration: float = 0.0

    def read(self, first: Answer) -> tuple[ObservedKey, ...] | None:
        """Return every key; None if the list ended too early.

        The newest ends a list without an error if the key that the cursor names has left it: then
        the page is empty (docs/twenty-api.md, "The newest").

        Raises:
            WorkspaceError: a page is refused, incomplete or repeated, or the pages do not end.
        """
        client, answer = self.client, first
        keys: dict[str, ObservedKey] = {}
        cursors: set[str] = set()
        total: int | None = None
        characters = 0
        while True:
            if not answer.ok:
                raise client.refusal(answer)
            known_before = len(keys)
            self.duration += answer.duration
            try:
                entries = _entries(answer.body)
                for key in map(read_key, entries):
                    keys[key.id] = key
                    characters += len(key.name) + len(key.role or "")
                total = _lowest_total(answer.body, total)
                cursor = _next_cursor(answer.body)
            except IncompleteRecordError as incomplete:
                raise unexpected_list(client, answer, str(incomplete)) from None
            if cursor is None:
                cursor_left = bool(cursors) and not entries
                return None if cursor_left or len(keys) < (total or 0) else tuple(keys.values())
            if cursor in cursors:
                raise unexpected_list(client, answer, "the same page more than once")
            if len(keys) == known_before:
                why = "a page that adds no keys although it is not the last"
                raise unexpected_list(client, answer, why)
            if len(keys) > _MAX_KEYS or len(cursors) >= _MAX_PAGES or characters > _MAX_CHARACTERS:
                raise unexpected_list(client, answer, "too many pages or keys")
            if self.duration > _MAX_TIMEOUTS * client.transport.timeout:
                raise WorkspaceError(
                    Code.TIMEOUT,
                    f"{client.environment} takes too long to return all pages of its keys.",
                    remedy="Run the command again, or raise limits.timeout.",
                )
            cursors.add(cursor)
            client.transport.on_activity(Listing(client.environment, len(keys), total))
            next_page = f"{self.path}&starting_after={quote(cursor, safe='')}"
            answer = client.request("GET", next_page, is_list=True)


def unexpected_list(client: Client, answer: Answer, content: str) -> WorkspaceError:
    """Return the error of an answer that has the status of a success and contains no list."""
    if answer.body is NOT_JSON:
        content = html_page(answer.beginning, answer.size) or "something that is not JSON"
    return WorkspaceError(
        Code.UNEXPECTED_ANSWER,
        f"{client.environment} responded to the request for its keys with {content}.",
        remedy="Check that `url` is the address of Twenty itself, and run with --log-level debug.",
    )


def _lowest_total(body: Json | NotJson, before: int | None) -> int | None:
    """Return the lowest number of keys that this page and those before it state.

    Keys that are created or revoked while the pages are read need not be in the list.
    """
    total = body.get("totalCount") if isinstance(body, dict) else None
    if not isinstance(total, int):
        return before
    return total if before is None else min(before, total)


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
