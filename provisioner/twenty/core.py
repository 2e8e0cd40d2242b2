"""The core generation, Twenty 1.3 and later: keys with roles, on GraphQL `/metadata`.

The server chooses the ids, a repeated create makes a second key, and the selection decides how much
of a key comes back (docs/twenty-api.md, "Generations").
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.activity import Listing
from provisioner.model.expiry import format_milliseconds
from provisioner.model.observed import HiddenRoles, KnownRoles
from provisioner.model.workspace import WITH_PERMISSIONS, Capabilities
from provisioner.twenty.core_bulk_create import KEY, SELECTION, CoreBulkCreate
from provisioner.twenty.dispatch import outcome_unsent
from provisioner.twenty.paging import list_keys, unexpected_list
from provisioner.twenty.records import (
    IncompleteRecordError,
    read_key,
    read_roles,
    record_id,
    require_list,
)
from provisioner.twenty.server_workspace import ServerWorkspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from provisioner.model.key import Depth
    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.model.workspace import CreateObserver, Json, NewKey, Record, Release
    from provisioner.twenty.answers import Answer

_QUERY_ONE = "query($input:GetApiKeyInput!){apiKey(input:$input){%s}}"
_REVOKE = "mutation($input:RevokeApiKeyInput!){revokeApiKey(input:$input){id revokedAt}}"
_UPDATE = "mutation($input:UpdateApiKeyInput!){updateApiKey(input:$input){id expiresAt}}"
_RENAME = "mutation($input:UpdateApiKeyInput!){updateApiKey(input:$input){id name}}"
_ASSIGN = "mutation($key:UUID!,$role:UUID!){assignRoleToApiKey(apiKeyId:$key,roleId:$role)}"
_LIST = "{apiKeys{%s} %s{id label canBeAssignedToApiKeys apiKeys{id}}}"
_PERMISSIONS = (
    "{getRoles{id permissionFlags{id flag} "
    "objectPermissions{objectMetadataId canReadObjectRecords} fieldPermissions{id}}}"
)
"""Lists that only `getRoles` fills; they are null inside `ApiKey.role` (`918`)."""

CORE_LIST = "/rest/metadata/apiKeys?limit=200"
"""A bare array on 1.10 and 2.21; pages of at most 200 since about 2.4x (not recorded)."""

_ALL_ROLES = "getRoles"
_ROLES_FOR_KEYS = "getApiKeyRoles"
"""Roles that can be assigned to keys, with only the API-keys permission (2.23, not recorded).

It omits other roles, which a key may have all the same.
"""

_FIELD_OF_2 = "universalIdentifier"
_RELEASE = "{getRoles{%s}}" % _FIELD_OF_2  # noqa: UP031 - braces are GraphQL's
"""Query of a field that only 2.x has (core-2.21 `214`; that 1.10 lacks it is not recorded)."""

_KEY_IDS = "{apiKeys{id}}"

_NO_ROLE_YET = "has no role assigned"
"""Error of a list that contains a key which another run is creating (not recorded)."""

_LIST_RETRIES = 10
_LIST_RETRY_DELAY = 0.3


@dataclass(eq=False)
class CoreWorkspace(ServerWorkspace):
    """A workspace of the core generation."""

    generation = "core"
    chooses_ids = False
    keys_have_roles = True
    batches = False
    _role_queries: tuple[str, ...] = (_ALL_ROLES, _ROLES_FOR_KEYS)
    _permissions: dict[str, Record] | None = None
    _is_newest: bool = False
    _lists_by_graphql: bool = False

    def observe(self) -> Observation:
        """Read keys and roles in one document; only the keys if the roles are hidden.

        The list never asks for `role`: one key without a role would make the whole list fail.
        """
        self._client.transport.on_activity(Listing(self._client.environment))
        while self._role_queries:
            role_query = self._role_queries[0]
            answer = self._list(_LIST % (KEY, role_query))
            self._lists_by_graphql = answer.complete
            self._is_newest = role_query == _ROLES_FOR_KEYS and answer.complete
            if answer.complete:
                return self._observed(answer, role_query)
            denied = self._client.explain(answer).code == Code.PERMISSION_DENIED
            if not denied and not answer.has_error(("Cannot query field",)):
                if answer.ok and not answer.errors:
                    raise unexpected_list(self._client, answer, "something that is not a list")
                raise self._client.refusal(answer)
            self._role_queries = self._role_queries[1:]
        answer = self._client.request("GET", CORE_LIST, is_list=True)
        self._lists_by_graphql = False
        self._is_newest = isinstance(answer.body, dict)  # a page
        return self._observation(list_keys(self._client, CORE_LIST, answer), HiddenRoles(), answer)

    def revoked_keys(self) -> tuple[ObservedKey, ...]:
        """Return none: no list of core has them (core-1 `120-rest-list-after-revoke`)."""
        return ()

    def capabilities(self) -> Capabilities:
        """Send a query that shows the release, and one that shows what the role permits if needed.

        `observe` shows the latter, unless it had to list the keys by REST.

        A server validates a document before it runs it, so a refusal to run it shows the release as
        well as the roles do. If the role lacks the permission, the answer has `data`, as if the
        document had run (core-1 `221`, `216`).
        """
        answer = self._client.graphql(_RELEASE, is_list=True)
        release: Release | None = None
        if any(_FIELD_OF_2 in text and "Cannot query field" in text for text in answer.errors):
            release = "1.x"
        elif answer.execution_began and self._permitted(answer) is not None:
            release = "2.x"
        reads_roles = self._permitted(answer)
        may_grant = False if self._is_newest and reads_roles is False else reads_roles or None
        permitted = self._lists_by_graphql or self._permitted(
            self._client.graphql(_KEY_IDS, is_list=True)
        )
        claims, limit = self._client.claims(), answer.rate_limit
        return Capabilities(claims, release, permitted, may_grant, limit)

    def create_many(self, keys: Sequence[NewKey], observer: CreateObserver) -> None:
        """Create several keys a document if the server accepts that, else one key a request."""
        try:
            self._read_permissions(key.depth for key in keys)
        except WorkspaceError as error:
            for key in keys:
                if key.depth == WITH_PERMISSIONS:
                    observer.on_outcome(key, outcome_unsent(error))
            keys = [key for key in keys if key.depth != WITH_PERMISSIONS]
        bulk_create = CoreBulkCreate(
            self._client,
            self._limits.parallel,
            observer,
            complete=self._complete,
            accepts_several=self._accepts_several,
        )
        bulk_create.send_all(keys)
        self._accepts_several = bulk_create.accepts_several

    def records(self, depths: Mapping[str, Depth]) -> dict[str, Record]:
        """Send one query a key, and one for the permissions (`200`, core-1 `205`)."""
        with suppress(WorkspaceError):  # the records then lack the permissions
            self._read_permissions(depths.values())
        return super().records(depths)

    def rename(self, key_id: str, name: str) -> None:
        """Send one mutation with nothing but the name (`C-gql-rename`).

        A `revokedAt: null` in it would undo a revocation (`C-gql-update-unrevoke`).
        """
        answer = self._client.graphql(_RENAME, {"input": {"id": key_id, "name": name}})
        if answer.errors or answer.result("updateApiKey", "name") != name:
            raise self._client.refusal(answer)

    def set_expiry(self, key_id: str, expires_at: datetime) -> None:
        """Send one mutation (`922`, `926`)."""
        fields: Json = {"id": key_id, "expiresAt": format_milliseconds(expires_at)}
        answer = self._client.graphql(_UPDATE, {"input": fields})
        # Null for an id that no longer exists (`203`).
        if answer.errors or answer.result("updateApiKey") is None:
            raise self._client.refusal(answer)

    def assign_role(self, key_id: str, role_id: str) -> None:
        """Send one mutation (`930`)."""
        answer = self._client.graphql(_ASSIGN, {"key": key_id, "role": role_id})
        if answer.errors or answer.result("assignRoleToApiKey") is not True:
            raise self._client.refusal(answer)

    def revoke(self, key_id: str) -> None:
        """Send one mutation; a second one changes the date (`208`, `209`)."""
        answer = self._client.graphql(_REVOKE, {"input": {"id": key_id}})
        # Null for an id that no longer exists (`210`), which is as good as revoked.
        if answer.errors or "revokeApiKey" not in (answer.data or {}):
            raise self._client.refusal(answer)

    def _list(self, document: str) -> Answer:
        """Query a list, and repeat it while it fails for a key that is being created."""
        answer = self._client.graphql(document, is_list=True)
        for _ in range(_LIST_RETRIES):
            if not any(_NO_ROLE_YET in text for text in answer.errors):
                break
            self._client.transport.stop.sleep(_LIST_RETRY_DELAY)
            answer = self._client.graphql(document, is_list=True)
        return answer

    def _observed(self, answer: Answer, role_query: str) -> Observation:
        try:
            roles, of_key = read_roles(answer.result(role_query))
            entries = require_list(answer.result("apiKeys"))
            found = (read_key(entry, of_key) for entry in entries)
            keys = tuple({key.id: key for key in found}.values())
        except IncompleteRecordError as incomplete:
            raise unexpected_list(self._client, answer, str(incomplete)) from None
        known = KnownRoles(roles, complete=role_query == _ALL_ROLES)
        return self._observation(keys, known, answer)

    def _record(self, key_id: str, depth: Depth) -> Record | None:
        answer = self._client.graphql(_QUERY_ONE % SELECTION[depth], {"input": {"id": key_id}})
        found = record_id(answer.result("apiKey"))
        if found is None or answer.errors:
            return None
        return self._complete(found[1]) if depth == WITH_PERMISSIONS else found[1]

    def _complete(self, record: Record) -> Record:
        """Add the permissions of its role to the record of a key of depth 2."""
        role = record.get("role")
        if self._permissions is None or not isinstance(role, dict):
            return record
        return record | {"role": role | self._permissions.get(str(role.get("id")), {})}

    def _read_permissions(self, depths: Iterable[Depth]) -> None:
        """Read the permissions of all roles once, if a key of depth 2 needs them.

        Raises:
            WorkspaceError: they cannot be read.
        """
        if self._permissions is not None or WITH_PERMISSIONS not in depths:
            return
        answer = self._client.graphql(_PERMISSIONS)
        entries = answer.result("getRoles")
        if answer.errors or not isinstance(entries, list):
            why = self._client.explain(answer)
            message = f"Depth 2 requires reading the permissions of each role, but {why.message}"
            raise WorkspaceError(why.code, message, remedy=why.remedy)
        self._permissions = {
            id_: {name: value for name, value in entry.items() if name != "id"}
            for id_, entry in filter(None, map(record_id, entries))
        }
