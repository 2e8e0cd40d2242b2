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
from provisioner.twenty.capabilities import legacy_terms
from provisioner.twenty.client import moment_of
from provisioner.twenty.dispatch import Sending, company, read_each, split
from provisioner.twenty.paging import list_keys
from provisioner.twenty.records import record_id
from provisioner.twenty.tokens import mint, prove
from provisioner.twenty.transport import LostAnswerError
from provisioner.twenty.workspace import Created, NotCreated, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from provisioner.http_client.bounded import Json
    from provisioner.model.desired import Depth, Limits
    from provisioner.secret import Secret
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.client import Wire
    from provisioner.twenty.workspace import Ledger, NewKey, Outcome, Record, Terms

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

    def __init__(self, wire: Wire, limits: Limits, first_page: Answer | None = None) -> None:
        self._wire = wire
        self._limits = limits
        self._first_page = first_page

    def release(self) -> None:
        """Close the connections that nothing uses now."""
        self._wire.release()

    def begin_work(self) -> None:
        """No other environment waits for this one any more."""
        self._wire.begin_work()

    def close(self) -> None:
        """Closes all connections."""
        self._wire.close()

    def observe(self) -> Observation:
        """Reads all pages; revoked keys are among them."""
        answer = self._first_page or self._wire.read(FIRST_PAGE)
        self._first_page = None
        if shows_core(answer):
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
            ahead=answer.ahead,
            own_key=self._wire.own_key(),
        )

    def terms(self) -> Terms:
        """One query that does nothing."""
        return legacy_terms(self._wire)

    def create_many(self, keys: Sequence[NewKey], ledger: Ledger) -> None:
        """One POST for each batch of one depth, several of them at a time."""
        limits = self._limits
        sending = Sending(self._wire.environment, limits.parallel, self._wire.stop, ledger)
        sending.all(
            _batches(keys, limits.batch), lambda batch: self._create(batch, sending, ledger)
        )

    def records(self, wanted: Mapping[str, Depth]) -> dict[str, Record]:
        """One GET a key (`104`)."""
        return read_each(wanted, self._record, self._limits.parallel)

    def move_end(self, key_id: str, ends: datetime) -> None:
        """One PATCH (`928`)."""
        body: Json = {"expiresAt": format_milliseconds(ends)}
        answer = self._wire.change("PATCH", f"/rest/apiKeys/{quote(key_id, safe='')}", body)
        if not answer.ok or record_id((answer.data or {}).get("updateApiKey")) is None:
            raise self._wire.refused(answer)

    def assign_role(self, key_id: str, role_id: str) -> None:
        """Never: keys of this generation have no roles, and a plan asks for none."""
        raise AssertionError(f"no role {role_id} for {key_id}")

    def mint(self, key_id: str, ends: datetime) -> Secret:
        """One mutation; again mints another (`914`, `190`)."""
        return mint(self._wire, key_id, ends)

    def prove(self, token: Secret) -> None:
        """One query with the token itself."""
        prove(self._wire, token)

    def revoke(self, key_id: str) -> None:
        """One PATCH (`112`)."""
        body: Json = {"revokedAt": format_moment(datetime.now(UTC))}
        answer = self._wire.change("PATCH", f"/rest/apiKeys/{quote(key_id, safe='')}", body)
        found = record_id((answer.data or {}).get("updateApiKey"))
        if not answer.ok or found is None or found[1].get("revokedAt") is None:
            raise self._wire.refused(answer)

    def _record(self, key_id: str, depth: Depth) -> Record | None:
        answer = self._wire.read(f"/rest/apiKeys/{quote(key_id, safe='')}?depth={depth}")
        found = record_id((answer.data or {}).get("apiKey"))
        return found[1] if answer.ok and found else None

    def _create(self, batch: tuple[NewKey, ...], sending: Sending, ledger: Ledger) -> None:
        path = f"/rest/batch/apiKeys?depth={batch[0].depth}"
        body: Json = [_body(key) for key in batch]
        try:
            answer = self._wire.rest("POST", path, body, repeatable=False)
        except LostAnswerError as lost:
            sending.lost()
            _settle(batch, Unknown(lost.cause), ledger)
            return
        except WorkspaceError as error:
            _settle(batch, sending.never_arrived(error), ledger)
            return
        if answer.lost:
            sending.lost()
        else:
            sending.heard()
        if answer.ok:
            self._created(batch, answer, ledger)
        else:
            self._refused(batch, answer, sending, ledger)

    def _refused(
        self, batch: tuple[NewKey, ...], answer: Answer, sending: Sending, ledger: Ledger
    ) -> None:
        code, happened, remedy = self._wire.explain(answer)
        cause = Failure(code, f"{happened} {remedy}")
        splits = answer.status == _BAD_REQUEST and not answer.says(_OF_THE_WHOLE)

        def send(half: tuple[NewKey, ...]) -> None:
            self._create(half, sending, ledger)

        if answer.too_large and len(batch) > 1:
            sending.too_large(batch, send)
        elif answer.says(_EXISTS):
            _settle(batch, Unknown(cause, "taken"), ledger)
        elif answer.server_failed:
            _settle(batch, Unknown(cause), ledger)
        elif splits and code == "rejected" and len(batch) > 1:
            # All or nothing: halves until the bad record stands alone.
            sending.halves(batch, send)
        else:
            sending.refused(cause)
            _settle(batch, NotCreated(cause), ledger)

    def _created(self, batch: tuple[NewKey, ...], answer: Answer, ledger: Ledger) -> None:
        """Every key that the answer shows under its own id; the others are unknown."""
        entries = (answer.data or {}).get("createApiKeys")
        listed = entries if isinstance(entries, list) else []
        found = dict(filter(None, map(record_id, listed)))
        cause = Failure(
            "unexpected_answer",
            f"{self._wire.environment} said {answer.status} and did not show the key.",
        )
        # A null in place of a record is how a batch says that the id is buried (`924`).
        buried = len(listed) == len(batch)
        for place, key in enumerate(batch):
            if key.id in found:
                ledger.settle(key, Created(key.id, found[key.id]))
            else:
                taken = buried and listed[place] is None
                ledger.settle(key, Unknown(cause, "taken" if taken else "lost"))


def _batches(keys: Sequence[NewKey], most: int) -> Iterator[tuple[NewKey, ...]]:
    """Groups of one depth that were tried as often, none larger than a batch may be."""
    together = sorted(keys, key=_alike)
    for (_, tries), group in groupby(together, key=_alike):
        yield from split(tuple(group), company(most, tries))


def _alike(key: NewKey) -> tuple[int, int]:
    return key.depth, key.tries


def _body(key: NewKey) -> Json:
    body: dict[str, Json] = {"id": key.id, "name": key.name, "expiresAt": key.expires_at}
    if key.revoked_at is not None:
        body["revokedAt"] = key.revoked_at
    return body


def _settle(batch: tuple[NewKey, ...], outcome: Outcome, ledger: Ledger) -> None:
    for key in batch:
        ledger.settle(key, outcome)
