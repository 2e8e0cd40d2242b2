"""Creation of keys on core: several a document if the server accepts that.

1.x runs aliased creates one after the other, 2.x refuses a document of two before it runs anything
(docs/twenty-api.md, "Creating").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.model.workspace import WITH_PERMISSIONS, Created, NotCreated, Unknown
from provisioner.twenty.answers import refuses_several
from provisioner.twenty.client import GRAPHQL
from provisioner.twenty.dispatch import Dispatcher, batch_size, batches
from provisioner.twenty.records import record_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provisioner.model.key import Depth
    from provisioner.model.workspace import Json, NewKey, Record
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.dispatch import Group

KEY = "id name expiresAt revokedAt createdAt updatedAt"
"""The fields of a key itself, without its role."""

_ROLE = "id label description icon isEditable canBeAssignedToApiKeys canUpdateAllSettings"
_FLAGS = (
    "canAccessAllTools canReadAllObjectRecords canUpdateAllObjectRecords "
    "canSoftDeleteAllObjectRecords canDestroyAllObjectRecords"
)
SELECTION: dict[Depth, str] = {
    0: KEY,
    1: f"{KEY} role{{{_ROLE}}}",
    2: f"{KEY} role{{{_ROLE} {_FLAGS}}}",
}
"""Fields that 1.10 and 2.21 fill inside `ApiKey.role` (`913` to `915`)."""

_MAX_CREATES = 20
"""Creates in one document, if the server accepts several (core-1 `164` to `173`)."""

_MAX_PROBES = 4
"""Documents of two that one bulk create sends to find out, while their answers are lost."""

# Errors before a create runs, in every recorded version: the key was certainly not created.
_REFUSED_CODES = frozenset({"GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED", "BAD_USER_INPUT"})
_REFUSED_TEXTS = ("Cannot query field", "Unknown type", "Unknown argument", "Syntax Error")


@dataclass(eq=False, kw_only=True)
class CoreBulkCreate(Dispatcher):
    """Documents of one or several creates.

    Attributes:
        complete: adds to the record of a key of depth 2 what its selection does not show.
        accepts_several: whether the server accepts several creates in a document, if that is known;
            updated by the answers of the server.
    """

    complete: Callable[[Record], Record]
    accepts_several: bool | None
    _ids: set[str] = field(default_factory=set, init=False)

    def send_all(self, keys: Sequence[NewKey]) -> None:
        """Send every key once, after finding out how many a document may create."""
        remaining = list(keys)
        for _ in range(_MAX_PROBES):
            # A key that needs a request of its own is not used for this.
            pair = tuple(key for key in remaining if batch_size(_MAX_CREATES, key.tries) > 1)[:2]
            if self.accepts_several is not None or len(pair) < 2:  # noqa: PLR2004 - a pair
                break
            self.send(pair)  # a lost answer shows nothing
            remaining = [key for key in remaining if key not in pair]
        size = _MAX_CREATES if self.accepts_several else 1
        self.send_groups(batches(remaining, size, one_depth=False))

    def _request(self, group: Group) -> Answer:
        document, variables = _document(group)
        body: Json = {"query": document, "variables": variables}
        return self.client.send("POST", GRAPHQL, body, repeatable=False, several=len(group) > 1)

    def _on_answer(self, group: Group, answer: Answer) -> None:
        several = len(group) > 1
        if answer.complete:
            self.accepts_several = several or self.accepts_several
            for index, key in enumerate(group):
                self.observer.on_outcome(key, self._created(key, answer.result(f"k{index}")))
        elif several and refuses_several(answer):
            self.accepts_several = False
            for key in group:
                self.send((key,))
        else:
            self.report(group, self._refused_outcome(answer, several=several))

    def _created(self, key: NewKey, entry: Json) -> Created | Unknown:
        """Return the outcome that an answer shows for a key.

        If it shows one id for two keys, the second key counts as unknown.
        """
        name = self.client.environment
        found = record_id(entry)
        if found is None or found[1].get("name") != key.name:
            return _unexpected(f"{name} did not return the key {key.name!r} in its response.")
        id_, record = found
        with self._lock:
            if id_ in self._ids:
                return _unexpected(f"{name} returned the same id for several keys.")
            self._ids.add(id_)
        return Created(id_, self.complete(record) if key.depth == WITH_PERMISSIONS else record)

    def _refused_outcome(self, answer: Answer, *, several: bool) -> NotCreated | Unknown:
        """Return the outcome that a failed answer proves.

        A key was certainly not created if the server refused the document before running it. Any
        other failure is unknown: 2.x stores a key before its role, so an error about the role may
        come after the commit, and the first of several creates may be done.
        """
        cause = self.client.explain(answer)
        if answer.server_failed or (answer.ok and not answer.errors):
            return Unknown(cause)
        never_ran = not answer.has_data and (
            not answer.ok
            or cause.code not in (Code.REJECTED, Code.UNEXPECTED_ANSWER)
            or bool(answer.codes & _REFUSED_CODES)
            or answer.has_error(_REFUSED_TEXTS)
        )
        may_have_run = several and (answer.execution_began or cause.code == Code.REJECTED)
        if never_ran and not may_have_run:
            return NotCreated(cause)
        return Unknown(cause, "refused")


def _unexpected(message: str) -> Unknown:
    return Unknown(Failure(Code.UNEXPECTED_ANSWER, message))


def _document(group: Group) -> tuple[str, dict[str, Json]]:
    """Return a mutation that creates the keys one after the other, and its variables."""
    parameters: list[str] = []
    creates: list[str] = []
    variables: dict[str, Json] = {}
    for index, key in enumerate(group):
        fields: dict[str, Json] = {"name": key.name, "expiresAt": key.expires_at}
        if key.role_id is not None:
            fields["roleId"] = key.role_id
        if key.revoked_at is not None:
            fields["revokedAt"] = key.revoked_at
        variables[f"k{index}"] = fields
        parameters.append(f"$k{index}:CreateApiKeyInput!")
        creates.append(f"k{index}:createApiKey(input:$k{index}){{{SELECTION[key.depth]}}}")
    return f"mutation({','.join(parameters)}){{{' '.join(creates)}}}", variables
