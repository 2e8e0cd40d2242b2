"""Creation of keys on core: several a document if the server accepts that.

1.x runs aliased creates one after the other, 2.x refuses a document of two before it runs anything
(docs/twenty-api.md, "Creating").
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.model.workspace import (
    WITH_PERMISSIONS,
    Created,
    NotCreated,
    Record,
    Unknown,
)
from provisioner.twenty.answers import refusal_code
from provisioner.twenty.dispatch import Dispatcher, batch_size, split
from provisioner.twenty.records import record_id
from provisioner.twenty.transport import LostAnswerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.http_client.bounded import Json
    from provisioner.model.environment import Limits
    from provisioner.model.key import Depth
    from provisioner.model.workspace import CreateObserver, NewKey, Outcome
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.client import Client

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

_ONLY_ONE = ("Duplicate root resolver",)
"""Error of 2.x, before it runs anything (`165` to `173`)."""

# Errors before a create runs, in every recorded version: the key was certainly not created.
_REFUSED_CODES = frozenset({"GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED", "BAD_USER_INPUT"})
_REFUSED_TEXTS = ("Cannot query field", "Unknown type", "Unknown argument", "Syntax Error")

Join = Callable[[Record], Record]
"""Function that completes the record of a key of depth 2."""


class CoreBulkCreate:
    """One bulk create: documents of one or several creates, and the outcome of each key.

    Args:
        client: to send them with.
        limits: how many requests run at once.
        observer: receives the outcome of every key.
        join: completes records of depth 2.
        accepts_several: whether the server accepts several creates in a document, if that is known.

    Attributes:
        accepts_several: the same, updated by the answers of the server.
    """

    def __init__(
        self,
        client: Client,
        limits: Limits,
        observer: CreateObserver,
        *,
        join: Join,
        accepts_several: bool | None,
    ) -> None:
        self._client = client
        self._dispatcher = Dispatcher(client.environment, limits.parallel, client.stop, observer)
        self._observer = observer
        self._join = join
        self._lock = threading.Lock()
        self._ids: set[str] = set()
        self.accepts_several = accepts_several

    def send_all(self, keys: Sequence[NewKey]) -> None:
        """Send every key once."""
        remaining = self._probe(list(keys))
        size = _MAX_CREATES if self.accepts_several else 1
        groups = [
            group
            for tries in sorted({key.tries for key in remaining})
            for group in split(
                tuple(key for key in remaining if key.tries == tries),
                batch_size(size, tries),
            )
        ]
        self._dispatcher.send_all(groups, self._send)

    def _probe(self, keys: list[NewKey]) -> list[NewKey]:
        """Find out with documents of two whether several are accepted; return the other keys.

        A lost answer shows nothing, and a key that needs a request of its own is not used for this.
        """
        for _ in range(_MAX_PROBES):
            pair = tuple(key for key in keys if batch_size(_MAX_CREATES, key.tries) > 1)[:2]
            if self.accepts_several is not None or len(pair) == 1 or not pair:
                break
            self._dispatcher.send_group(pair, self._send)
            keys = [key for key in keys if key not in pair]
        return keys

    def _send(self, group: tuple[NewKey, ...]) -> None:
        """Send one request for a group; one more for each key if the server accepts only one."""
        several = len(group) > 1
        document, variables = _document(group)
        try:
            answer = self._client.graphql(document, variables, repeatable=False, several=several)
        except LostAnswerError as lost:
            self._dispatcher.record_lost()
            self._report_all(group, Unknown(lost.failure))
            return
        except WorkspaceError as error:
            self._report_all(group, self._dispatcher.record_unsent(error))
            return
        if answer.lost:
            self._dispatcher.record_lost()
        else:
            self._dispatcher.record_answer()
        if answer.ok and not answer.errors and answer.data is not None:
            self.accepts_several = several or self.accepts_several
            for index, key in enumerate(group):
                self._observer.on_outcome(key, self._outcome(key, answer.data.get(f"k{index}")))
        elif several and answer.has_error(_ONLY_ONE):
            self.accepts_several = False
            for key in group:
                self._dispatcher.send_group((key,), self._send)
        elif several and answer.too_large:
            self._dispatcher.split_too_large(group, self._send)
        else:
            outcome = self._refused(answer, several=several)
            if isinstance(outcome, NotCreated):
                self._dispatcher.record_refusal(outcome.failure)
            self._report_all(group, outcome)

    def _report_all(self, group: tuple[NewKey, ...], outcome: Outcome) -> None:
        for key in group:
            self._observer.on_outcome(key, outcome)

    def _outcome(self, key: NewKey, entry: Json) -> Outcome:
        """Return the outcome that an answer shows for a key.

        If it shows one id for two keys, the second key counts as unknown.
        """
        created = record_id(entry)
        name = self._client.environment
        if created is None or created[1].get("name") != key.name:
            return _unexpected(f"{name} did not return the key {key.name!r} in its response.")
        with self._lock:
            if created[0] in self._ids:
                return _unexpected(f"{name} returned the same id for several keys.")
            self._ids.add(created[0])
        if key.depth == WITH_PERMISSIONS:
            return Created(created[0], self._join(created[1]))
        return Created(*created)

    def _refused(self, answer: Answer, *, several: bool) -> Outcome:
        """Return the outcome that a failed answer proves; some of several creates may be done."""
        code, message, remedy = self._client.explain(answer)
        cause = Failure(code, message, remedy)
        if answer.server_failed or (answer.ok and not answer.errors):
            return Unknown(cause)
        if not _certainly_refused(answer) or (
            several and (answer.execution_began or code == Code.REJECTED)
        ):
            return Unknown(cause, "refused")
        return NotCreated(cause)


def _unexpected(message: str) -> Unknown:
    return Unknown(Failure(Code.UNEXPECTED_ANSWER, message))


def _document(group: tuple[NewKey, ...]) -> tuple[str, dict[str, Json]]:
    """Return a mutation that creates the keys one after the other, and its variables."""
    parameters = ",".join(f"$k{index}:CreateApiKeyInput!" for index in range(len(group)))
    creates = " ".join(
        f"k{index}:createApiKey(input:$k{index}){{{SELECTION[key.depth]}}}"
        for index, key in enumerate(group)
    )
    variables: dict[str, Json] = {f"k{index}": _input(key) for index, key in enumerate(group)}
    return f"mutation({parameters}){{{creates}}}", variables


def _input(key: NewKey) -> Json:
    fields: dict[str, Json] = {"name": key.name, "expiresAt": key.expires_at}
    fields |= {"roleId": key.role_id} if key.role_id is not None else {}
    fields |= {"revokedAt": key.revoked_at} if key.revoked_at is not None else {}
    return fields


def _certainly_refused(answer: Answer) -> bool:
    """Return whether the server refused the create before running it.

    Any other failure is unknown: 2.x stores a key before its role, so an error about the role may
    come after the commit.
    """
    if answer.has_data or answer.server_failed:
        return False
    if not answer.ok or refusal_code(answer) not in (Code.REJECTED, Code.UNEXPECTED_ANSWER):
        return True
    return bool(answer.codes & _REFUSED_CODES) or answer.has_error(_REFUSED_TEXTS)
