"""On what terms a server works with a credential, as far as reading alone tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.twenty.tokens import HARMLESS
from provisioner.twenty.workspace import Capabilities, Release

if TYPE_CHECKING:
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.client import Client

_FIELD_OF_2 = "universalIdentifier"
_RELEASE = "{getRoles{%s}}" % _FIELD_OF_2  # noqa: UP031 - braces are GraphQL's
"""Its field is of 2.x alone (core-2.21 `214`; that 1.10 does not know it was not recorded)."""

_USE = "{apiKeys{id}}"


def legacy_capabilities(client: Client) -> Capabilities:
    """By one query that does nothing.

    Raises:
        WorkspaceError: when no complete answer comes back.
    """
    return _capabilities(client, client.query(HARMLESS), None, permitted=None)


def core_capabilities(client: Client) -> Capabilities:
    """By a query of roles, which tells the release even where they are hidden, and one of keys.

    Raises:
        WorkspaceError: when no complete answer comes back.
    """
    answer = client.query(_RELEASE)
    permitted = _permitted(client, client.query(_USE))
    return _capabilities(client, answer, _release(client, answer), permitted=permitted)


def _capabilities(
    client: Client, answer: Answer, release: Release | None, *, permitted: bool | None
) -> Capabilities:
    return Capabilities(client.claims(), release, permitted, answer.limit)


def _release(client: Client, answer: Answer) -> Release | None:
    """A document is validated before it is run, so a refusal to run it tells as much as roles do.

    Refused for the role that asks, it has `data`, as what is begun has (core-1 `221`, `216`).
    """
    unknown = (text for text in answer.errors if text.startswith("Cannot query field"))
    if any(_FIELD_OF_2 in text for text in unknown):
        return "1.x"
    return "2.x" if answer.begun and _permitted(client, answer) is not None else None


def _permitted(client: Client, answer: Answer) -> bool | None:
    """Whether the role lets the credential ask this; None where something else was in the way."""
    if answer.data is not None and not answer.errors:
        return True
    return False if client.explain(answer)[0] == "permission_denied" else None
