"""The core generation, Twenty 1.3 and later: keys with roles, on GraphQL `/metadata`.

The server chooses the ids, a repeated create makes a second key, and the selection decides how much
of a key comes back (docs/twenty-api.md, "Generations").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.expiry import format_milliseconds
from provisioner.model.observed import HiddenRoles, KnownRoles, Observation
from provisioner.model.workspace import WITH_PERMISSIONS, NotCreated, NotSent
from provisioner.twenty.capabilities import core_capabilities
from provisioner.twenty.client import server_time_of
from provisioner.twenty.core_bulk_create import KEY, SELECTION, CoreBulkCreate
from provisioner.twenty.dispatch import outcome_unsent, read_each
from provisioner.twenty.paging import list_keys
from provisioner.twenty.records import (
    IncompleteRecordError,
    read_key,
    read_roles,
    record_id,
    require_list,
)
from provisioner.twenty.tokens import mint, verify_token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from provisioner.http_client.bounded import Json
    from provisioner.model.environment import Limits
    from provisioner.model.key import Depth
    from provisioner.model.observed import ObservedKey, Roles
    from provisioner.model.workspace import Capabilities, CreateObserver, NewKey, Record
    from provisioner.secret import Secret
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.client import Client
    from provisioner.twenty.core_bulk_create import Join

_QUERY_ONE = "query($input:GetApiKeyInput!){apiKey(input:$input){%s}}"
_REVOKE = "mutation($input:RevokeApiKeyInput!){revokeApiKey(input:$input){id revokedAt}}"
_UPDATE = "mutation($input:UpdateApiKeyInput!){updateApiKey(input:$input){id expiresAt}}"
_ASSIGN = "mutation($key:UUID!,$role:UUID!){assignRoleToApiKey(apiKeyId:$key,roleId:$role)}"
_LIST = "{apiKeys{%s} %s{id label canBeAssignedToApiKeys apiKeys{id}}}"
_PERMISSIONS = (
    "{getRoles{id permissionFlags{id flag} "
    "objectPermissions{objectMetadataId canReadObjectRecords} fieldPermissions{id}}}"
)
"""Lists that only `getRoles` fills; they are null inside `ApiKey.role` (`918`)."""

_KEYS_ONLY = "/rest/metadata/apiKeys?limit=200"
"""A bare array on 1.10 and 2.21; pages of at most 200 since about 2.4x (not recorded)."""

_NO_ROLE_YET = "has no role assigned"
"""Error of a list that contains a key which another run is creating (not recorded)."""

_LIST_RETRIES = 10
_LIST_RETRY_DELAY = 0.3


class CoreWorkspace:
    """A workspace of the core generation."""

    generation: Literal["core"] = "core"
    chooses_ids = False
    keys_have_roles = True

    def __init__(self, client: Client, limits: Limits) -> None:
        self._client = client
        self._limits = limits
        self._accepts_several: bool | None = None
        self._role_queries: tuple[str, ...] = ("getRoles", "getApiKeyRoles")
        self._known_permissions: dict[str, Record] | None = None

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
        """Read keys and roles in one document; only the keys if the roles are hidden.

        The list never asks for `role`: one key without a role would make the whole list fail.
        """
        while self._role_queries:
            role_query = self._role_queries[0]
            answer = self._list(_LIST % (KEY, role_query))
            if answer.ok and answer.data is not None and not answer.errors:
                return self._observed(answer, answer.data.get(role_query))
            code = self._client.explain(answer)[0]
            if code != Code.PERMISSION_DENIED and not answer.has_error(("Cannot query field",)):
                raise self._refused(answer)
            self._role_queries = self._role_queries[1:]
        return self._keys_only()

    def capabilities(self) -> Capabilities:
        """Send two queries, which show the release of the server and what the role permits."""
        return core_capabilities(self._client)

    def create_many(self, keys: Sequence[NewKey], observer: CreateObserver) -> None:
        """Create several keys a document if the server accepts that, else one key a request."""
        sendable = list(keys)
        join: Join = _unchanged
        if any(key.depth == WITH_PERMISSIONS for key in sendable):
            permissions = self._permissions()
            if isinstance(permissions, dict):
                join = _with_permissions(permissions)
            else:
                for key in sendable:
                    if key.depth == WITH_PERMISSIONS:
                        observer.on_outcome(key, permissions)
                sendable = [key for key in sendable if key.depth != WITH_PERMISSIONS]
        bulk_create = CoreBulkCreate(
            self._client, self._limits, observer, join=join, accepts_several=self._accepts_several
        )
        bulk_create.send_all(sendable)
        self._accepts_several = bulk_create.accepts_several

    def records(self, depths: Mapping[str, Depth]) -> dict[str, Record]:
        """Send one query a key, and one for the permissions (`200`, core-1 `205`)."""
        join: Join = _unchanged
        if WITH_PERMISSIONS in depths.values():
            permissions = self._permissions()
            if isinstance(permissions, dict):
                join = _with_permissions(permissions)

        def read(key_id: str, depth: Depth) -> Record | None:
            answer = self._client.query(_QUERY_ONE % SELECTION[depth], {"input": {"id": key_id}})
            found = record_id((answer.data or {}).get("apiKey"))
            if found is None or answer.errors:
                return None
            return join(found[1]) if depth == WITH_PERMISSIONS else found[1]

        return read_each(depths, read, self._limits.parallel)

    def set_expiry(self, key_id: str, expires_at: datetime) -> None:
        """Send one mutation (`922`, `926`)."""
        answer = self._client.mutate(
            _UPDATE, {"input": {"id": key_id, "expiresAt": format_milliseconds(expires_at)}}
        )
        # Null for an id that no longer exists (`203`).
        if answer.errors or (answer.data or {}).get("updateApiKey") is None:
            raise self._client.refusal(answer)

    def assign_role(self, key_id: str, role_id: str) -> None:
        """Send one mutation (`930`)."""
        answer = self._client.mutate(_ASSIGN, {"key": key_id, "role": role_id})
        if answer.errors or (answer.data or {}).get("assignRoleToApiKey") is not True:
            raise self._client.refusal(answer)

    def mint(self, key_id: str, expires_at: datetime) -> Secret:
        """Send one mutation; each call mints another token (`914`, `190`)."""
        return mint(self._client, key_id, expires_at)

    def verify_token(self, token: Secret) -> None:
        """Send one query with the token itself."""
        verify_token(self._client, token)

    def revoke(self, key_id: str) -> None:
        """Send one mutation; a second one changes the date (`208`, `209`)."""
        answer = self._client.mutate(_REVOKE, {"input": {"id": key_id}})
        # Null for an id that no longer exists (`210`), which is as good as revoked.
        if answer.errors or "revokeApiKey" not in (answer.data or {}):
            raise self._client.refusal(answer)

    def _list(self, document: str) -> Answer:
        """Query a list, and repeat it while it fails for a key that is being created."""
        answer = self._client.query_list(document)
        for _ in range(_LIST_RETRIES):
            if not any(_NO_ROLE_YET in text for text in answer.errors):
                break
            self._client.stop.sleep(_LIST_RETRY_DELAY)
            answer = self._client.query_list(document)
        return answer

    def _observed(self, answer: Answer, role_entries: Json) -> Observation:
        try:
            roles, of_key = read_roles(role_entries)
            entries = answer.data.get("apiKeys") if answer.data else None
            found = (read_key(entry, of_key) for entry in require_list(entries))
            keys = tuple({key.id: key for key in found}.values())
        except IncompleteRecordError as incomplete:
            raise self._client.unexpected_list(answer, str(incomplete)) from None
        return self._observation(keys, KnownRoles(roles), answer)

    def _keys_only(self) -> Observation:
        """Return what a credential without the permission for roles may still list."""
        answer = self._client.read(_KEYS_ONLY)
        keys = list_keys(self._client, _KEYS_ONLY, answer)
        return self._observation(keys, HiddenRoles(), answer)

    def _observation(
        self, keys: tuple[ObservedKey, ...], roles: Roles, answer: Answer
    ) -> Observation:
        return Observation(
            generation="core",
            workspace=self._client.workspace(),
            keys=keys,
            roles=roles,
            server_time=server_time_of(answer),
            requests=self._client.requests_sent,
            server_ahead=answer.ahead,
            own_key=self._client.own_key(),
        )

    def _permissions(self) -> dict[str, Record] | NotCreated | NotSent:
        """Return the permissions of each role id, read once for all keys of depth 2."""
        if self._known_permissions is not None:
            return self._known_permissions
        try:
            answer = self._client.query(_PERMISSIONS)
        except WorkspaceError as error:
            return outcome_unsent(error)
        entries = answer.data.get("getRoles") if answer.data else None
        if answer.errors or not isinstance(entries, list):
            code, message, remedy = self._client.explain(answer)
            message = f"Depth 2 requires reading the permissions of each role, but {message}"
            return outcome_unsent(WorkspaceError(code, message, remedy=remedy))
        found = dict(filter(None, map(record_id, entries)))
        self._known_permissions = {
            id_: {name: value for name, value in entry.items() if name != "id"}
            for id_, entry in found.items()
        }
        return self._known_permissions

    def _refused(self, answer: Answer) -> WorkspaceError:
        if answer.ok and not answer.errors:
            return self._client.unexpected_list(answer, "something that is not a list")
        return self._client.refusal(answer)


def _unchanged(record: Record) -> Record:
    return record


def _with_permissions(permissions: dict[str, Record]) -> Join:
    """Return a function that adds the permissions of a key's role to its record."""

    def join(record: Record) -> Record:
        role = record.get("role")
        if not isinstance(role, dict):
            return record
        return record | {"role": role | permissions.get(str(role.get("id")), {})}

    return join
