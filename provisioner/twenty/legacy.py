"""The legacy generation, Twenty up to 1.2: keys are workspace objects of the REST API.

The client chooses the ids, a batch is one transaction, and keys have no roles (docs/twenty-api.md,
"Generations").
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.model.activity import Listing
from provisioner.model.expiry import format_milliseconds, format_timestamp
from provisioner.model.observed import NoRoles
from provisioner.model.workspace import Capabilities, Created, NotCreated, Unknown
from provisioner.twenty.answers import generation_of
from provisioner.twenty.dispatch import Dispatcher, batches
from provisioner.twenty.paging import list_keys
from provisioner.twenty.records import record_id
from provisioner.twenty.server_workspace import ServerWorkspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.model.key import Depth
    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.model.workspace import CreateObserver, Json, NewKey, Record
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.dispatch import Group

_PAGE = "/rest/apiKeys?limit=1000&depth=0&filter=revokedAt%5Bis%5D:"
"""60 is the documented maximum of a page, and 0.60 returns 1000 (`F3`)."""

FIRST_PAGE = f"{_PAGE}NULL"
"""Keys that are not revoked; core ignores the query and answers in another shape (`101`)."""

_REVOKED_PAGE = f"{_PAGE}NOT_NULL"

_LIST = "{apiKeys(first:1){edges{node{id}}}}"

# Refusals of the request itself, whatever records it contains (`025`, core-1 `072`).
_WHOLE_REQUEST = ("object 'apiKeys' not found", "'depth=")
# Texts for a row that exists, or was softly deleted (`053`, `923`, `925`).
_EXISTS = ("Record already exists", "duplicate key value", "Created record not found")


@dataclass(eq=False)
class LegacyWorkspace(ServerWorkspace):
    """A workspace of the legacy generation; detection may have read its first page of keys."""

    generation = "legacy"
    chooses_ids = True
    keys_have_roles = False
    batches = True
    _first_page: Answer | None = None

    def observe(self) -> Observation:
        """Read all pages of the keys that are not revoked: legacy keeps every revoked one."""
        self._client.transport.on_activity(Listing(self._client.environment))
        answer = self._first_page or self._client.request("GET", FIRST_PAGE, is_list=True)
        self._first_page = None
        if generation_of(answer) == "core":
            raise WorkspaceError(
                Code.UNEXPECTED_ANSWER,
                f"{self._client.environment} is declared as legacy, but its server is core.",
                remedy="Set `generation: core`, or leave it out.",
            )
        return self._observation(list_keys(self._client, FIRST_PAGE, answer), NoRoles(), answer)

    def revoked_keys(self) -> tuple[ObservedKey, ...]:
        """Read all pages of the revoked keys (`101`)."""
        answer = self._client.request("GET", _REVOKED_PAGE, is_list=True)
        return list_keys(self._client, _REVOKED_PAGE, answer)

    def capabilities(self) -> Capabilities:
        """Send one query that needs the same permission as minting (`127`, `150`)."""
        answer = self._client.request("POST", "/graphql", {"query": _LIST, "variables": {}})
        permitted = self._permitted(answer)
        return Capabilities(self._client.claims(), None, permitted, None, answer.rate_limit)

    def create_many(self, keys: Sequence[NewKey], observer: CreateObserver) -> None:
        """Send one POST for each batch of one depth, several at a time."""
        bulk_create = _LegacyBulkCreate(self._client, self._limits.parallel, observer)
        bulk_create.send_groups(batches(keys, self._limits.batch, one_depth=True))

    def rename(self, key_id: str, name: str) -> None:
        """Send one PATCH with nothing but the name (`C-rest-rename`)."""
        self._change(key_id, {"name": name})

    def set_expiry(self, key_id: str, expires_at: datetime) -> None:
        """Send one PATCH (`928`)."""
        self._change(key_id, {"expiresAt": format_milliseconds(expires_at)})

    def assign_role(self, key_id: str, role_id: str) -> None:
        """Raise an error: keys of this generation have no roles, and no plan gives them one."""
        raise AssertionError(f"no role {role_id} for {key_id}")

    def revoke(self, key_id: str) -> None:
        """Send one PATCH (`112`)."""
        self._change(key_id, {"revokedAt": format_timestamp(datetime.now(UTC))})

    def _change(self, key_id: str, fields: dict[str, Json]) -> None:
        """Change fields of a key; the answer shows the key with all of them set."""
        answer = self._client.request("PATCH", _path(key_id), fields)
        changed = record_id(answer.result("updateApiKey"))
        if not answer.ok or changed is None or any(changed[1].get(f) is None for f in fields):
            raise self._client.refusal(answer)

    def _record(self, key_id: str, depth: Depth) -> Record | None:
        """Send one GET (`104`)."""
        answer = self._client.request("GET", f"{_path(key_id)}?depth={depth}")
        found = record_id(answer.result("apiKey"))
        return found[1] if answer.ok and found else None


class _LegacyBulkCreate(Dispatcher):
    """Requests of whole batches; each creates all of its keys or none."""

    def _request(self, group: Group) -> Answer:
        path = f"/rest/batch/apiKeys?depth={group[0].depth}"
        body: list[Json] = []
        for key in group:
            fields: dict[str, Json] = {"id": key.id, "name": key.name, "expiresAt": key.expires_at}
            if key.revoked_at is not None:
                fields["revokedAt"] = key.revoked_at
            body.append(fields)
        return self.client.send("POST", path, body, repeatable=False)

    def _on_answer(self, group: Group, answer: Answer) -> None:
        if answer.ok:
            self._on_created(group, answer)
            return
        cause = self.client.explain(answer)
        has_bad_record = (
            answer.status == HTTPStatus.BAD_REQUEST
            and cause.code == Code.REJECTED
            and not answer.has_error(_WHOLE_REQUEST)
        )
        if answer.has_error(_EXISTS):
            self.report(group, Unknown(cause, "taken"))
        elif answer.server_failed:
            self.report(group, Unknown(cause))
        elif has_bad_record and len(group) > 1:
            # A batch is all or nothing: halve it until the bad record is on its own.
            self.send_halves(group)
        else:
            self.report(group, NotCreated(cause))

    def _on_created(self, group: Group, answer: Answer) -> None:
        """Report keys that the answer shows under their ids as created, others as unknown."""
        records = answer.result("createApiKeys")
        entries = records if isinstance(records, list) else []
        created = dict(filter(None, map(record_id, entries)))
        cause = Failure(
            Code.UNEXPECTED_ANSWER,
            f"{self.client.environment} responded with {answer.status} but did not "
            "return the created key.",
        )
        # A null in place of a record means that the id is softly deleted (`924`).
        complete = len(entries) == len(group)
        for index, key in enumerate(group):
            if key.id in created:
                self.observer.on_outcome(key, Created(key.id, created[key.id]))
            else:
                taken = complete and entries[index] is None
                self.observer.on_outcome(key, Unknown(cause, "taken" if taken else "lost"))


def _path(key_id: str) -> str:
    return f"/rest/apiKeys/{quote(key_id, safe='')}"
