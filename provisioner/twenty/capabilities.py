"""On what terms a server works with a credential, as far as reading alone tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.twenty.tokens import HARMLESS
from provisioner.twenty.workspace import Release, Terms

if TYPE_CHECKING:
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.client import Wire

_FIELD_OF_2 = "universalIdentifier"
_RELEASE = "{getRoles{%s}}" % _FIELD_OF_2  # noqa: UP031 - braces are GraphQL's
"""Its field is of 2.x alone (core-2.21 `214`; that 1.10 does not know it was not recorded)."""

_USE = "{apiKeys{id}}"


def legacy_terms(wire: Wire) -> Terms:
    """By one query that does nothing.

    Raises:
        WorkspaceError: when no complete answer comes back.
    """
    return _terms(wire, wire.query(HARMLESS), None, permitted=None)


def core_terms(wire: Wire) -> Terms:
    """By a query of roles, which tells the release even where they are hidden, and one of keys.

    Raises:
        WorkspaceError: when no complete answer comes back.
    """
    answer = wire.query(_RELEASE)
    permitted = _permitted(wire, wire.query(_USE))
    return _terms(wire, answer, _release(wire, answer), permitted=permitted)


def _terms(wire: Wire, answer: Answer, release: Release | None, *, permitted: bool | None) -> Terms:
    return Terms(wire.claims(), release, permitted, answer.limit)


def _release(wire: Wire, answer: Answer) -> Release | None:
    """A document is validated before it is run, so a refusal to run it tells as much as roles do.

    Refused for the role that asks, it has `data`, as what is begun has (core-1 `221`, `216`).
    """
    unknown = (text for text in answer.errors if text.startswith("Cannot query field"))
    if any(_FIELD_OF_2 in text for text in unknown):
        return "1.x"
    return "2.x" if answer.begun and _permitted(wire, answer) is not None else None


def _permitted(wire: Wire, answer: Answer) -> bool | None:
    """Whether the role lets the credential ask this; None where something else was in the way."""
    if answer.data is not None and not answer.errors:
        return True
    return False if wire.explain(answer)[0] == "permission_denied" else None
