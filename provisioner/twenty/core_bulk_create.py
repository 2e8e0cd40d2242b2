"""Creates of the core generation: in documents of several where the server takes them.

1.x runs aliased creates one after the other, 2.x refuses a document of two before it runs
anything (docs/twenty-api.md, "Creating").
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.twenty.answers import refusal_code
from provisioner.twenty.dispatch import Dispatcher, batch_size, split
from provisioner.twenty.records import record_id
from provisioner.twenty.transport import LostAnswerError
from provisioner.twenty.workspace import (
    WITH_PERMISSIONS,
    Created,
    NotCreated,
    Record,
    Unknown,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.http_client.bounded import Json
    from provisioner.model.environment import Limits
    from provisioner.model.key import Depth
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.client import Client
    from provisioner.twenty.workspace import CreateObserver, NewKey, Outcome

KEY = "id name expiresAt revokedAt createdAt updatedAt"
"""The fields of a key alone."""

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

_SEVERAL = 20
"""Creates in one document, where the server takes them (core-1 `164` to `173`)."""

_ASKED_AT_MOST = 4
"""Documents of two that one bulk create sends to learn it, while their answers are lost."""

_ONE_A_DOCUMENT = ("Duplicate root resolver",)
"""Said by 2.x before it runs anything (`165` to `173`)."""

# Said before a create runs, in every recorded version: the key was certainly not made.
_REFUSED_CODES = frozenset({"GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED", "BAD_USER_INPUT"})
_REFUSED_TEXTS = ("Cannot query field", "Unknown type", "Unknown argument", "Syntax Error")

Join = Callable[[Record], Record]
"""Completes the record of a key of depth 2."""


class CoreBulkCreate:
    """One bulk create: documents of one or several creates, and what came of each.

    Args:
        client: where to send them.
        limits: how many at once.
        observer: is told the outcome of every key.
        join: completes records of depth 2.
        takes_several: whether the server takes several creates in a document, if it is known.

    Attributes:
        takes_several: the same, as the server has said meanwhile.
    """

    def __init__(
        self,
        client: Client,
        limits: Limits,
        observer: CreateObserver,
        *,
        join: Join,
        takes_several: bool | None,
    ) -> None:
        self._client = client
        self._dispatcher = Dispatcher(client.environment, limits.parallel, client.stop, observer)
        self._observer = observer
        self._join = join
        self._lock = threading.Lock()
        self._ids: set[str] = set()
        self.takes_several = takes_several

    def send_all(self, keys: Sequence[NewKey]) -> None:
        """Sends every key once."""
        rest = self._learn(list(keys))
        most = _SEVERAL if self.takes_several else 1
        groups = [
            group
            for tries in sorted({key.tries for key in rest})
            for group in split(
                tuple(key for key in rest if key.tries == tries), batch_size(most, tries)
            )
        ]
        self._dispatcher.all(groups, self._send)

    def _learn(self, keys: list[NewKey]) -> list[NewKey]:
        """Asks with documents of two whether several are taken; returns the keys still to send.

        An answer that was lost teaches nothing, and keys that are to be sent alone do not ask.
        """
        for _ in range(_ASKED_AT_MOST):
            pair = tuple(key for key in keys if batch_size(_SEVERAL, key.tries) > 1)[:2]
            if self.takes_several is not None or len(pair) == 1 or not pair:
                break
            self._dispatcher.one(pair, self._send)
            keys = [key for key in keys if key not in pair]
        return keys

    def _send(self, group: tuple[NewKey, ...]) -> None:
        """One request for a group; one more for each key where the server takes them singly."""
        several = len(group) > 1
        document, variables = _document(group)
        try:
            answer = self._client.graphql(document, variables, repeatable=False, several=several)
        except LostAnswerError as lost:
            self._dispatcher.lost()
            self._settle(group, Unknown(lost.cause))
            return
        except WorkspaceError as error:
            self._settle(group, self._dispatcher.never_arrived(error))
            return
        if answer.lost:
            self._dispatcher.lost()
        else:
            self._dispatcher.heard()
        if answer.ok and not answer.errors and answer.data is not None:
            self.takes_several = several or self.takes_several
            for place, key in enumerate(group):
                self._observer.on_outcome(key, self._outcome(key, answer.data.get(f"k{place}")))
        elif several and answer.says(_ONE_A_DOCUMENT):
            self.takes_several = False
            for key in group:
                self._dispatcher.one((key,), self._send)
        elif several and answer.too_large:
            self._dispatcher.too_large(group, self._send)
        else:
            outcome = self._refused(answer, several=several)
            if isinstance(outcome, NotCreated):
                self._dispatcher.refused(outcome.failure)
            self._settle(group, outcome)

    def _settle(self, group: tuple[NewKey, ...], outcome: Outcome) -> None:
        for key in group:
            self._observer.on_outcome(key, outcome)

    def _outcome(self, key: NewKey, entry: Json) -> Outcome:
        """What the answer shows of one key; one id for two keys is no proof of the second."""
        found = record_id(entry)
        name = self._client.environment
        if found is None or found[1].get("name") != key.name:
            return _strange(f"{name} showed another key than {key.name!r}, or none.")
        with self._lock:
            if found[0] in self._ids:
                return _strange(f"{name} showed one id for several keys.")
            self._ids.add(found[0])
        if key.depth == WITH_PERMISSIONS:
            return Created(found[0], self._join(found[1]))
        return Created(*found)

    def _refused(self, answer: Answer, *, several: bool) -> Outcome:
        """What an answer that is no success proves; of several creates some may be made."""
        code, happened, remedy = self._client.explain(answer)
        cause = Failure(code, f"{happened} {remedy}")
        if answer.server_failed or (answer.ok and not answer.errors):
            return Unknown(cause)
        if not _certainly_refused(answer) or (several and (answer.begun or code == "rejected")):
            return Unknown(cause, "refused")
        return NotCreated(cause)


def _strange(what: str) -> Unknown:
    return Unknown(Failure("unexpected_answer", what))


def _document(group: tuple[NewKey, ...]) -> tuple[str, dict[str, Json]]:
    """A mutation that creates the keys one after the other, and its variables."""
    heads = ",".join(f"$k{place}:CreateApiKeyInput!" for place in range(len(group)))
    creates = " ".join(
        f"k{place}:createApiKey(input:$k{place}){{{SELECTION[key.depth]}}}"
        for place, key in enumerate(group)
    )
    variables: dict[str, Json] = {f"k{place}": _input(key) for place, key in enumerate(group)}
    return f"mutation({heads}){{{creates}}}", variables


def _input(key: NewKey) -> Json:
    fields: dict[str, Json] = {"name": key.name, "expiresAt": key.expires_at}
    fields |= {"roleId": key.role_id} if key.role_id is not None else {}
    fields |= {"revokedAt": key.revoked_at} if key.revoked_at is not None else {}
    return fields


def _certainly_refused(answer: Answer) -> bool:
    """Whether the server said no before it ran the create.

    Anything else that is no success is unknown: on 2.x a key is stored before its role, so an
    error of the role may come after the commit.
    """
    if answer.holds_data or answer.server_failed:
        return False
    if not answer.ok or refusal_code(answer) not in ("rejected", "unexpected_answer"):
        return True
    return bool(answer.codes & _REFUSED_CODES) or answer.says(_REFUSED_TEXTS)
