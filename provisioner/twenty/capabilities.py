"""Capabilities of a core server and a credential, as far as reads show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.model.workspace import Capabilities, Release

if TYPE_CHECKING:
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.client import Client

_FIELD_OF_2 = "universalIdentifier"
_RELEASE = "{getRoles{%s}}" % _FIELD_OF_2  # noqa: UP031 - braces are GraphQL's
"""Query of a field that only 2.x has (core-2.21 `214`; that 1.10 lacks it is not recorded)."""

_KEYS = "{apiKeys{id}}"


def core_capabilities(client: Client) -> Capabilities:
    """Read the capabilities by a query of roles and a query of keys.

    The query of roles shows the release even if the roles are hidden.

    Raises:
        WorkspaceError: no complete answer came back.
    """
    answer = client.graphql(_RELEASE)
    permitted = _permitted(client, client.graphql(_KEYS))
    return Capabilities(client.claims(), _release(client, answer), permitted, answer.rate_limit)


def _release(client: Client, answer: Answer) -> Release | None:
    """Return the release of a server, as far as its answer to the query of roles shows it.

    A server validates a document before it runs it, so a refusal to run it shows as much as the
    roles. If the role lacks the permission, the answer has `data`, as if the document had run
    (core-1 `221`, `216`).
    """
    unknown_fields = (text for text in answer.errors if text.startswith("Cannot query field"))
    if any(_FIELD_OF_2 in text for text in unknown_fields):
        return "1.x"
    return "2.x" if answer.execution_began and _permitted(client, answer) is not None else None


def _permitted(client: Client, answer: Answer) -> bool | None:
    """Return whether the role permits the query; None if it failed for another reason."""
    if answer.data is not None and not answer.errors:
        return True
    return False if client.explain(answer).code == Code.PERMISSION_DENIED else None
