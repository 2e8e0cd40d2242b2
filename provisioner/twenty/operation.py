"""The operation of a request: what it is called in logs, and what kind of work it does.

GraphQL sends everything to one path, so that only the document says what a request is about.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.model.activity import Work
    from provisioner.model.workspace import Json

_LEXEMES = re.compile(r'"(?:\\.|[^"\\])*"|[{}()]|\w+:?')
"""The parts of a document that show its fields: texts, brackets, and names or aliases."""

_WORK: dict[str, Work] = {
    "createApiKey": "create",
    "createApiKeys": "create",
    "generateApiKeyToken": "mint",
    "currentWorkspace": "prove",
    "updateApiKey": "change",
    "assignRoleToApiKey": "change",
    "revokeApiKey": "change",
    "apiKeys": "list",
}
"""The work of each operation that a run has many of; the others only ask something once."""

_BATCH_PATH = "/rest/batch/apiKeys"


@dataclass(frozen=True, slots=True)
class Operation:
    """The operation of a request.

    Attributes:
        name: the fields that GraphQL is asked for, such as `createApiKey` or `apiKeys+getRoles`,
            each with its number if it is asked for several times; empty if the path says it all.
        work: the kind of work; None for requests that a run sends only a few of.
        units: how many keys or tokens it is about.
    """

    name: str
    work: Work | None
    units: int = 1


def operation_of(method: str, path: str, body: Json) -> Operation:
    """Return the operation of a request.

    Args:
        method: the HTTP method.
        path: its path with the query.
        body: its JSON; None without one.
    """
    document = body.get("query") if isinstance(body, dict) else None
    if isinstance(document, str):
        fields = Counter(_root_fields(document))
        name = "+".join(f"{one} x{n}" if n > 1 else one for one, n in fields.items())
        (first, units), *_ = fields.most_common(1) or [("", 1)]
        return Operation(name, _WORK.get(first), units)
    if path.startswith(_BATCH_PATH):
        return Operation("", "create", len(body) if isinstance(body, list) else 1)
    if method == "GET":
        return Operation("", "list")
    return Operation("", "change")


def _root_fields(document: str) -> Iterator[str]:
    """Yield the fields of a document's root, without their aliases."""
    braces = parentheses = 0
    for match in _LEXEMES.finditer(document):
        lexeme = match[0]
        match lexeme[0]:
            case "{":
                braces += 1
            case "}":
                braces -= 1
            case "(":
                parentheses += 1
            case ")":
                parentheses -= 1
            case '"':
                continue
            case _:
                if braces == 1 and not parentheses and not lexeme.endswith(":"):
                    yield lexeme
