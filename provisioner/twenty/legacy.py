"""The legacy generation, Twenty up to 1.2: keys are workspace objects of the REST API.

The client chooses the ids, a batch is one transaction, keys have no roles
(docs/twenty-api.md, "Generations").
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.model.expiry import format_milliseconds, format_moment
from provisioner.model.observed import NoRoles, Observation
from provisioner.twenty.capabilities import legacy_capabilities
from provisioner.twenty.client import moment_of
from provisioner.twenty.dispatch import Dispatcher, batch_size, read_each, split
from provisioner.twenty.paging import list_keys
from provisioner.twenty.records import record_id
from provisioner.twenty.tokens import mint, verify_token
from provisioner.twenty.transport import LostAnswerError
from provisioner.twenty.workspace import Created, NotCreated, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from provisioner.http_client.bounded import Json
    from provisioner.model.environment import Limits
    from provisioner.model.key import Depth
    from provisioner.secret import Secret
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.client import Client
    from provisioner.twenty.workspace import Capabilities, CreateObserver, NewKey, Outcome, Record

FIRST_PAGE = "/rest/apiKeys?limit=60&depth=0"
"""60 is the documented most a page; on core the same read answers in another shape."""

_BAD_REQUEST = 400
# Refusals of the request itself, whatever its records are (`025`, core-1 `072`).
_OF_THE_WHOLE = ("object 'apiKeys' not found", "'depth=")
# The row is there already, or was buried: the texts that servers have for it (`053`, `923`, `925`).
_EXISTS = ("Record already exists", "duplicate key value", "Created record not found")


def shows_core(answer: Answer) -> bool:
    """Whether that read was answered as core does it: a bare array, or a page of one.

    1.10 and 2.21 `911-list-detect`; the page is of about 2.4x, and not recorded.
    """
    body = answer.body
    paged = isinstance(body, dict) and isinstance(body.get("data"), list)
    return answer.ok and (isinstance(body, list) or paged)


class LegacyWorkspace:
    """A workspace of the legacy generation.

    Args:
        first_page: the first page of the keys, where detection has read it already.
    """

    generation: Literal["legacy"] = "legacy"

    def __init__(self, client: Client, limits: Limits, first_page: Answer | None = None) -> None:
        self._client = client
        self._limits = limits
        self._first_page = first_page

    def release(self) -> None:
        """Close the connections that nothing uses now."""
        self._client.release()

    def begin_work(self) -> None:
        """No other environment waits for this one any more."""
        self._client.begin_work()

    def close(self) -> None:
        """Closes all connections."""
        self._client.close()

    def observe(self) -> Observation:
        """Reads all pages; revoked keys are among them."""
        answer = self._first_page or self._client.read(FIRST_PAGE)
        self._first_page = None
        if shows_core(answer):
            raise WorkspaceError(
                "unexpected_answer",
                f"{self._client.environment} is of the core generation.",
                remedy="Write `generation: core`, or leave it out.",
            )
        keys = list_keys(self._client, FIRST_PAGE, answer)
        return Observation(
            generation="legacy",
            workspace=self._client.workspace(),
            keys=keys,
            roles=NoRoles(),
            server_time=moment_of(answer),
            requests=self._client.requests_sent,
            server_ahead=answer.ahead,
            own_key=self._client.own_key(),
        )

    def capabilities(self) -> Capabilities:
        """One query that does nothing."""
        return legacy_capabilities(self._client)

    def create_many(self, keys: Sequence[NewKey], observer: CreateObserver) -> None:
        """One POST for each batch of one depth, several of them at a time."""
        limits = self._limits
        dispatcher = Dispatcher(
            self._client.environment, limits.parallel, self._client.stop, observer
        )
        dispatcher.all(
            _batches(keys, limits.batch), lambda batch: self._create(batch, dispatcher, observer)
        )

    def records(self, wanted: Mapping[str, Depth]) -> dict[str, Record]:
        """One GET a key (`104`)."""
        return read_each(wanted, self._record, self._limits.parallel)

    def set_expiry(self, key_id: str, expires_at: datetime) -> None:
        """One PATCH (`928`)."""
        body: Json = {"expiresAt": format_milliseconds(expires_at)}
        answer = self._client.change("PATCH", f"/rest/apiKeys/{quote(key_id, safe='')}", body)
        if not answer.ok or record_id((answer.data or {}).get("updateApiKey")) is None:
            raise self._client.refused(answer)

    def assign_role(self, key_id: str, role_id: str) -> None:
        """Never: keys of this generation have no roles, and a plan asks for none."""
        raise AssertionError(f"no role {role_id} for {key_id}")

    def mint(self, key_id: str, expires_at: datetime) -> Secret:
        """One mutation; again mints another (`914`, `190`)."""
        return mint(self._client, key_id, expires_at)

    def verify_token(self, token: Secret) -> None:
        """One query with the token itself."""
        verify_token(self._client, token)

    def revoke(self, key_id: str) -> None:
        """One PATCH (`112`)."""
        body: Json = {"revokedAt": format_moment(datetime.now(UTC))}
        answer = self._client.change("PATCH", f"/rest/apiKeys/{quote(key_id, safe='')}", body)
        found = record_id((answer.data or {}).get("updateApiKey"))
        if not answer.ok or found is None or found[1].get("revokedAt") is None:
            raise self._client.refused(answer)

    def _record(self, key_id: str, depth: Depth) -> Record | None:
        answer = self._client.read(f"/rest/apiKeys/{quote(key_id, safe='')}?depth={depth}")
        found = record_id((answer.data or {}).get("apiKey"))
        return found[1] if answer.ok and found else None

    def _create(
        self, batch: tuple[NewKey, ...], dispatcher: Dispatcher, observer: CreateObserver
    ) -> None:
        path = f"/rest/batch/apiKeys?depth={batch[0].depth}"
        body: Json = [_body(key) for key in batch]
        try:
            answer = self._client.rest("POST", path, body, repeatable=False)
        except LostAnswerError as lost:
            dispatcher.lost()
            _settle(batch, Unknown(lost.cause), observer)
            return
        except WorkspaceError as error:
            _settle(batch, dispatcher.never_arrived(error), observer)
            return
        if answer.lost:
            dispatcher.lost()
        else:
            dispatcher.heard()
        if answer.ok:
            self._created(batch, answer, observer)
        else:
            self._refused(batch, answer, dispatcher, observer)

    def _refused(
        self,
        batch: tuple[NewKey, ...],
        answer: Answer,
        dispatcher: Dispatcher,
        observer: CreateObserver,
    ) -> None:
        code, happened, remedy = self._client.explain(answer)
        cause = Failure(code, f"{happened} {remedy}")
        splits = answer.status == _BAD_REQUEST and not answer.says(_OF_THE_WHOLE)

        def send(half: tuple[NewKey, ...]) -> None:
            self._create(half, dispatcher, observer)

        if answer.too_large and len(batch) > 1:
            dispatcher.too_large(batch, send)
        elif answer.says(_EXISTS):
            _settle(batch, Unknown(cause, "taken"), observer)
        elif answer.server_failed:
            _settle(batch, Unknown(cause), observer)
        elif splits and code == "rejected" and len(batch) > 1:
            # All or nothing: halves until the bad record stands alone.
            dispatcher.halves(batch, send)
        else:
            dispatcher.refused(cause)
            _settle(batch, NotCreated(cause), observer)

    def _created(self, batch: tuple[NewKey, ...], answer: Answer, observer: CreateObserver) -> None:
        """Every key that the answer shows under its own id; the others are unknown."""
        entries = (answer.data or {}).get("createApiKeys")
        listed = entries if isinstance(entries, list) else []
        found = dict(filter(None, map(record_id, listed)))
        cause = Failure(
            "unexpected_answer",
            f"{self._client.environment} said {answer.status} and did not show the key.",
        )
        # A null in place of a record is how a batch says that the id is buried (`924`).
        buried = len(listed) == len(batch)
        for place, key in enumerate(batch):
            if key.id in found:
                observer.on_outcome(key, Created(key.id, found[key.id]))
            else:
                taken = buried and listed[place] is None
                observer.on_outcome(key, Unknown(cause, "taken" if taken else "lost"))


def _batches(keys: Sequence[NewKey], most: int) -> Iterator[tuple[NewKey, ...]]:
    """Groups of one depth that were tried as often, none larger than a batch may be."""
    together = sorted(keys, key=_alike)
    for (_, tries), group in groupby(together, key=_alike):
        yield from split(tuple(group), batch_size(most, tries))


def _alike(key: NewKey) -> tuple[int, int]:
    return key.depth, key.tries


def _body(key: NewKey) -> Json:
    body: dict[str, Json] = {"id": key.id, "name": key.name, "expiresAt": key.expires_at}
    if key.revoked_at is not None:
        body["revokedAt"] = key.revoked_at
    return body


def _settle(batch: tuple[NewKey, ...], outcome: Outcome, observer: CreateObserver) -> None:
    for key in batch:
        observer.on_outcome(key, outcome)
