"""The legacy generation, Twenty up to 1.2: keys are workspace objects of the REST API.

The client chooses the ids, a batch is one transaction, and keys have no roles (docs/twenty-api.md,
"Generations").
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.model.expiry import format_milliseconds, format_timestamp
from provisioner.model.observed import NoRoles, Observation
from provisioner.model.workspace import Created, NotCreated, Unknown
from provisioner.twenty.capabilities import legacy_capabilities
from provisioner.twenty.client import server_time_of
from provisioner.twenty.dispatch import Dispatcher, batch_size, read_each, split
from provisioner.twenty.paging import list_keys
from provisioner.twenty.records import record_id
from provisioner.twenty.tokens import mint, verify_token
from provisioner.twenty.transport import LostAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from provisioner.http_client.bounded import Json
    from provisioner.model.environment import Limits
    from provisioner.model.key import Depth
    from provisioner.model.workspace import Capabilities, CreateObserver, NewKey, Outcome, Record
    from provisioner.secret import Secret
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.client import Client

FIRST_PAGE = "/rest/apiKeys?limit=60&depth=0"
"""60 is the documented maximum of a page; core answers the same read in another shape."""

_BAD_REQUEST = 400
# Refusals of the request itself, whatever records it contains (`025`, core-1 `072`).
_WHOLE_REQUEST = ("object 'apiKeys' not found", "'depth=")
# Texts for a row that exists, or was softly deleted (`053`, `923`, `925`).
_EXISTS = ("Record already exists", "duplicate key value", "Created record not found")


def is_core(answer: Answer) -> bool:
    """Return whether `FIRST_PAGE` was answered as core does: a bare array, or a page of one.

    1.10 and 2.21 `911-list-detect`; the page is of about 2.4x, and not recorded.
    """
    body = answer.body
    is_page = isinstance(body, dict) and isinstance(body.get("data"), list)
    return answer.ok and (isinstance(body, list) or is_page)


class LegacyWorkspace:
    """A workspace of the legacy generation.

    Args:
        first_page: the first page of the keys, if detection has read it already.
    """

    generation: Literal["legacy"] = "legacy"
    chooses_ids = True
    keys_have_roles = False

    def __init__(self, client: Client, limits: Limits, first_page: Answer | None = None) -> None:
        self._client = client
        self._limits = limits
        self._first_page = first_page

    def close_idle_connections(self) -> None:
        """Close idle connections."""
        self._client.close_idle_connections()

    def lift_observe_limits(self) -> None:
        """Allow slow requests from now on, since no other environment waits for this one."""
        self._client.lift_observe_limits()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def observe(self) -> Observation:
        """Read all pages, which include revoked keys."""
        answer = self._first_page or self._client.read(FIRST_PAGE)
        self._first_page = None
        if is_core(answer):
            raise WorkspaceError(
                Code.UNEXPECTED_ANSWER,
                f"{self._client.environment} is declared as legacy, but its server is core.",
                remedy="Set `generation: core`, or leave it out.",
            )
        keys = list_keys(self._client, FIRST_PAGE, answer)
        return Observation(
            generation="legacy",
            workspace=self._client.workspace(),
            keys=keys,
            roles=NoRoles(),
            server_time=server_time_of(answer),
            requests=self._client.requests_sent,
            server_ahead=answer.ahead,
            own_key=self._client.own_key(),
            batches=True,
        )

    def capabilities(self) -> Capabilities:
        """Send one query that changes nothing."""
        return legacy_capabilities(self._client)

    def create_many(self, keys: Sequence[NewKey], observer: CreateObserver) -> None:
        """Send one POST for each batch of one depth, several at a time."""
        limits = self._limits
        dispatcher = Dispatcher(
            self._client.environment, limits.parallel, self._client.stop, observer
        )
        dispatcher.send_all(
            _batches(keys, limits.batch), lambda batch: self._create(batch, dispatcher, observer)
        )

    def records(self, depths: Mapping[str, Depth]) -> dict[str, Record]:
        """Send one GET a key (`104`)."""
        return read_each(depths, self._record, self._limits.parallel)

    def set_expiry(self, key_id: str, expires_at: datetime) -> None:
        """Send one PATCH (`928`)."""
        body: Json = {"expiresAt": format_milliseconds(expires_at)}
        answer = self._client.change("PATCH", f"/rest/apiKeys/{quote(key_id, safe='')}", body)
        if not answer.ok or record_id((answer.data or {}).get("updateApiKey")) is None:
            raise self._client.refusal(answer)

    def assign_role(self, key_id: str, role_id: str) -> None:
        """Raise an error: keys of this generation have no roles, and no plan gives them one."""
        raise AssertionError(f"no role {role_id} for {key_id}")

    def mint(self, key_id: str, expires_at: datetime) -> Secret:
        """Send one mutation; each call mints another token (`914`, `190`)."""
        return mint(self._client, key_id, expires_at)

    def verify_token(self, token: Secret) -> None:
        """Send one query with the token itself."""
        verify_token(self._client, token)

    def revoke(self, key_id: str) -> None:
        """Send one PATCH (`112`)."""
        body: Json = {"revokedAt": format_timestamp(datetime.now(UTC))}
        answer = self._client.change("PATCH", f"/rest/apiKeys/{quote(key_id, safe='')}", body)
        found = record_id((answer.data or {}).get("updateApiKey"))
        if not answer.ok or found is None or found[1].get("revokedAt") is None:
            raise self._client.refusal(answer)

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
            dispatcher.record_lost()
            _report_all(batch, Unknown(lost.failure), observer)
            return
        except WorkspaceError as error:
            _report_all(batch, dispatcher.record_unsent(error), observer)
            return
        if answer.lost:
            dispatcher.record_lost()
        else:
            dispatcher.record_answer()
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
        code, message, remedy = self._client.explain(answer)
        cause = Failure(code, message, remedy)
        may_split = answer.status == _BAD_REQUEST and not answer.has_error(_WHOLE_REQUEST)

        def send(half: tuple[NewKey, ...]) -> None:
            self._create(half, dispatcher, observer)

        if answer.too_large and len(batch) > 1:
            dispatcher.split_too_large(batch, send)
        elif answer.has_error(_EXISTS):
            _report_all(batch, Unknown(cause, "taken"), observer)
        elif answer.server_failed:
            _report_all(batch, Unknown(cause), observer)
        elif may_split and code == Code.REJECTED and len(batch) > 1:
            # A batch is all or nothing: halve it until the bad record is on its own.
            dispatcher.send_halves(batch, send)
        else:
            dispatcher.record_refusal(cause)
            _report_all(batch, NotCreated(cause), observer)

    def _created(self, batch: tuple[NewKey, ...], answer: Answer, observer: CreateObserver) -> None:
        """Report keys that the answer shows under their ids as created, others as unknown."""
        records = (answer.data or {}).get("createApiKeys")
        entries = records if isinstance(records, list) else []
        created = dict(filter(None, map(record_id, entries)))
        cause = Failure(
            Code.UNEXPECTED_ANSWER,
            f"{self._client.environment} responded with {answer.status} but did not "
            "return the created key.",
        )
        # A null in place of a record means that the id is softly deleted (`924`).
        complete = len(entries) == len(batch)
        for index, key in enumerate(batch):
            if key.id in created:
                observer.on_outcome(key, Created(key.id, created[key.id]))
            else:
                taken = complete and entries[index] is None
                observer.on_outcome(key, Unknown(cause, "taken" if taken else "lost"))


def _batches(keys: Sequence[NewKey], max_batch: int) -> Iterator[tuple[NewKey, ...]]:
    """Yield groups of one depth and as many tries, none larger than a batch may be."""
    ordered = sorted(keys, key=_batch_key)
    for (_, tries), group in groupby(ordered, key=_batch_key):
        yield from split(tuple(group), batch_size(max_batch, tries))


def _batch_key(key: NewKey) -> tuple[int, int]:
    return key.depth, key.tries


def _body(key: NewKey) -> Json:
    body: dict[str, Json] = {"id": key.id, "name": key.name, "expiresAt": key.expires_at}
    if key.revoked_at is not None:
        body["revokedAt"] = key.revoked_at
    return body


def _report_all(batch: tuple[NewKey, ...], outcome: Outcome, observer: CreateObserver) -> None:
    for key in batch:
        observer.on_outcome(key, outcome)
