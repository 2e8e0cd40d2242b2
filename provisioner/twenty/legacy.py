"""The legacy generation, Twenty up to 1.2: keys are workspace objects of the REST API.

The client chooses the ids, a batch is one transaction, keys have no roles
(docs/twenty-api.md, "Generations").
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from provisioner.errors import WorkspaceError
from provisioner.failure import Failure, failure_of
from provisioner.observed import NoRoles, Observation
from provisioner.twenty.paging import list_keys
from provisioner.twenty.records import record_id
from provisioner.twenty.transport import LostAnswerError
from provisioner.twenty.wire import moment_of
from provisioner.twenty.workspace import Created, NotCreated, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from provisioner.desired import Limits
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.wire import Wire
    from provisioner.twenty.workspace import Json, NewKey, Outcome

FIRST_PAGE = "/rest/apiKeys?limit=60&depth=0"
"""60 is the documented most a page; on core the same read answers in another shape."""

_BAD_REQUEST = 400
# Refusals of the request itself, whatever its records are (`025`, core-1 `072`).
_OF_THE_WHOLE = ("object 'apiKeys' not found", "'depth=")
# The row is there already, in one of the two texts that servers have for it (`053`, `925`).
_EXISTS = ("Record already exists", "duplicate key value")


class LegacyWorkspace:
    """A workspace of the legacy generation.

    Args:
        first_page: the first page of the keys, where detection has read it already.
    """

    generation: Literal["legacy"] = "legacy"

    def __init__(self, wire: Wire, limits: Limits, first_page: Answer | None = None) -> None:
        self._wire = wire
        self._limits = limits
        self._first_page = first_page

    def close(self) -> None:
        """Closes all connections."""
        self._wire.close()

    def observe(self) -> Observation:
        """Reads all pages; revoked keys are among them."""
        answer = self._first_page or self._wire.read(FIRST_PAGE)
        self._first_page = None
        if answer.ok and isinstance(answer.body, list):
            raise WorkspaceError(
                "unexpected_answer",
                f"{self._wire.environment} is of the core generation.",
                remedy="Write `generation: core`, or leave it out.",
            )
        keys = list_keys(self._wire, FIRST_PAGE, answer)
        return Observation(
            generation="legacy",
            workspace=self._wire.workspace(),
            keys=keys,
            roles=NoRoles(),
            server_time=moment_of(answer),
            requests=self._wire.requests_sent,
        )

    def create_many(
        self, keys: Sequence[NewKey], settled: Callable[[int], None]
    ) -> tuple[Outcome, ...]:
        """One POST for each batch of one depth, several of them at a time."""
        outcomes: dict[str, Outcome] = {}
        batches = list(_batches(keys, self._limits.batch))
        with ThreadPoolExecutor(max_workers=self._limits.parallel) as pool:
            for found in pool.map(lambda batch: self._create(batch, settled), batches):
                outcomes.update(found)
        return tuple(outcomes[key.id] for key in keys)

    def _create(
        self, batch: tuple[NewKey, ...], settled: Callable[[int], None]
    ) -> dict[str, Outcome]:
        path = f"/rest/batch/apiKeys?depth={batch[0].depth}"
        body: Json = [_body(key) for key in batch]
        try:
            answer = self._wire.rest("POST", path, body, repeatable=False)
        except LostAnswerError as lost:
            return _all(batch, unknown(f"{lost.message} {lost.remedy}"), settled)
        except WorkspaceError as error:
            return _all(batch, NotCreated(failure_of(error)), settled)
        if answer.ok:
            return self._created(batch, answer, settled)
        return self._refused(batch, answer, settled)

    def _refused(
        self, batch: tuple[NewKey, ...], answer: Answer, settled: Callable[[int], None]
    ) -> dict[str, Outcome]:
        code, happened, remedy = self._wire.explain(answer)
        if code == "server_error" or answer.says(_EXISTS):
            return _all(batch, unknown(f"{happened} {remedy}"), settled)
        splits = answer.status == _BAD_REQUEST and not answer.says(_OF_THE_WHOLE)
        if splits and code == "rejected" and len(batch) > 1:
            # All or nothing: halves until the bad record stands alone.
            middle = len(batch) // 2
            first = self._create(batch[:middle], settled)
            return first | self._create(batch[middle:], settled)
        return _all(batch, NotCreated(Failure(code, f"{happened} {remedy}")), settled)

    def _created(
        self, batch: tuple[NewKey, ...], answer: Answer, settled: Callable[[int], None]
    ) -> dict[str, Outcome]:
        """Every key that the answer shows under its own id; the others are unknown."""
        data = answer.data or {}
        entries = data.get("createApiKeys")
        found = dict(filter(None, map(record_id, entries if isinstance(entries, list) else [])))
        lost = unknown(f"{self._wire.environment} said {answer.status} and did not show the key.")
        settled(len(batch))
        return {
            key.id: Created(key.id, found[key.id]) if key.id in found else lost for key in batch
        }


def _batches(keys: Sequence[NewKey], most: int) -> Iterator[tuple[NewKey, ...]]:
    """Groups of one depth, none larger than a batch may be."""
    by_depth = sorted(keys, key=lambda key: key.depth)
    for _, group in groupby(by_depth, key=lambda key: key.depth):
        same = tuple(group)
        for start in range(0, len(same), most):
            yield same[start : start + most]


def _body(key: NewKey) -> Json:
    body: dict[str, Json] = {"id": key.id, "name": key.name, "expiresAt": key.expires_at}
    if key.revoked_at is not None:
        body["revokedAt"] = key.revoked_at
    return body


def _all(
    batch: tuple[NewKey, ...], outcome: Outcome, settled: Callable[[int], None]
) -> dict[str, Outcome]:
    settled(len(batch))
    return {key.id: outcome for key in batch}
