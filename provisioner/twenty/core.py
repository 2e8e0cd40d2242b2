"""The core generation, Twenty 1.3 and later: keys with roles, on GraphQL `/metadata`.

The server chooses the ids, a repeated create makes a second key, and the selection decides how
much comes back (docs/twenty-api.md, "Generations").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.expiry import format_milliseconds
from provisioner.model.observed import HiddenRoles, KnownRoles, Observation
from provisioner.twenty.capabilities import core_capabilities
from provisioner.twenty.client import moment_of
from provisioner.twenty.core_bulk_create import KEY, SELECTION, CoreBulkCreate
from provisioner.twenty.dispatch import read_each, unsent
from provisioner.twenty.paging import list_keys
from provisioner.twenty.records import HalfRecordError, listed, read_key, read_roles, record_id
from provisioner.twenty.tokens import mint, verify_token
from provisioner.twenty.workspace import WITH_PERMISSIONS, NotCreated, NotSent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from provisioner.http_client.bounded import Json
    from provisioner.model.environment import Limits
    from provisioner.model.key import Depth
    from provisioner.model.observed import ObservedKey, Roles
    from provisioner.secret import Secret
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.client import Client
    from provisioner.twenty.core_bulk_create import Join
    from provisioner.twenty.workspace import Capabilities, CreateObserver, NewKey, Record

_ONE = "query($input:GetApiKeyInput!){apiKey(input:$input){%s}}"
_REVOKE = "mutation($input:RevokeApiKeyInput!){revokeApiKey(input:$input){id revokedAt}}"
_UPDATE = "mutation($input:UpdateApiKeyInput!){updateApiKey(input:$input){id expiresAt}}"
_ASSIGN = "mutation($key:UUID!,$role:UUID!){assignRoleToApiKey(apiKeyId:$key,roleId:$role)}"
_LIST = "{apiKeys{%s} %s{id label canBeAssignedToApiKeys apiKeys{id}}}"
_PERMISSIONS = (
    "{getRoles{id permissionFlags{id flag} "
    "objectPermissions{objectMetadataId canReadObjectRecords} fieldPermissions{id}}}"
)
"""Filled in `getRoles` alone, null inside `ApiKey.role` (`918`)."""

_KEYS_ALONE = "/rest/metadata/apiKeys?limit=200"
"""A bare array on 1.10 and 2.21; pages of at most 200 since about 2.4x (not recorded)."""

_NO_ROLE_YET = "has no role assigned"
"""Said of a list that met a key which is just being created elsewhere (not recorded)."""

_LOOKS = 10
_BETWEEN_LOOKS = 0.3


class CoreWorkspace:
    """A workspace of the core generation."""

    generation: Literal["core"] = "core"

    def __init__(self, client: Client, limits: Limits) -> None:
        self._client = client
        self._limits = limits
        self._takes_several: bool | None = None
        self._sources: tuple[str, ...] = ("getRoles", "getApiKeyRoles")
        self._known_permissions: dict[str, Record] | None = None

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
        """Reads keys and roles in one document; the keys alone where roles are hidden.

        Never `role` inside the list: one key without a role makes that fail as a whole.
        """
        while self._sources:
            source = self._sources[0]
            answer = self._listed(_LIST % (KEY, source))
            if answer.ok and answer.data is not None and not answer.errors:
                return self._observed(answer, answer.data.get(source))
            code = self._client.explain(answer)[0]
            if code != "permission_denied" and not answer.says(("Cannot query field",)):
                raise self._refused(answer)
            self._sources = self._sources[1:]
        return self._keys_alone()

    def capabilities(self) -> Capabilities:
        """Two queries, whose answers tell 1.x from 2.x and what the role permits."""
        return core_capabilities(self._client)

    def create_many(self, keys: Sequence[NewKey], observer: CreateObserver) -> None:
        """Documents of several creates where the server takes them, else one request a key."""
        ready = list(keys)
        join: Join = _as_it_is
        if any(key.depth == WITH_PERMISSIONS for key in ready):
            permissions = self._permissions()
            if isinstance(permissions, dict):
                join = _with_permissions(permissions)
            else:
                for key in ready:
                    if key.depth == WITH_PERMISSIONS:
                        observer.on_outcome(key, permissions)
                ready = [key for key in ready if key.depth != WITH_PERMISSIONS]
        creation = CoreBulkCreate(
            self._client, self._limits, observer, join=join, takes_several=self._takes_several
        )
        creation.send_all(ready)
        self._takes_several = creation.takes_several

    def records(self, wanted: Mapping[str, Depth]) -> dict[str, Record]:
        """One query a key, and one for the permissions (`200`, core-1 `205`)."""
        join: Join = _as_it_is
        if WITH_PERMISSIONS in wanted.values():
            permissions = self._permissions()
            if isinstance(permissions, dict):
                join = _with_permissions(permissions)

        def read(key_id: str, depth: Depth) -> Record | None:
            answer = self._client.query(_ONE % SELECTION[depth], {"input": {"id": key_id}})
            found = record_id((answer.data or {}).get("apiKey"))
            if found is None or answer.errors:
                return None
            return join(found[1]) if depth == WITH_PERMISSIONS else found[1]

        return read_each(wanted, read, self._limits.parallel)

    def set_expiry(self, key_id: str, expires_at: datetime) -> None:
        """One mutation (`922`, `926`)."""
        answer = self._client.mutate(
            _UPDATE, {"input": {"id": key_id, "expiresAt": format_milliseconds(expires_at)}}
        )
        # Null for an id that is no more (`203`).
        if answer.errors or (answer.data or {}).get("updateApiKey") is None:
            raise self._client.refused(answer)

    def assign_role(self, key_id: str, role_id: str) -> None:
        """One mutation (`930`)."""
        answer = self._client.mutate(_ASSIGN, {"key": key_id, "role": role_id})
        if answer.errors or (answer.data or {}).get("assignRoleToApiKey") is not True:
            raise self._client.refused(answer)

    def mint(self, key_id: str, expires_at: datetime) -> Secret:
        """One mutation; again mints another (`914`, `190`)."""
        return mint(self._client, key_id, expires_at)

    def verify_token(self, token: Secret) -> None:
        """One query with the token itself."""
        verify_token(self._client, token)

    def revoke(self, key_id: str) -> None:
        """One mutation; again moves the date (`208`, `209`)."""
        answer = self._client.mutate(_REVOKE, {"input": {"id": key_id}})
        # Null for an id that is no more (`210`), which is as good as revoked.
        if answer.errors or "revokeApiKey" not in (answer.data or {}):
            raise self._client.refused(answer)

    def _listed(self, document: str) -> Answer:
        """The answer to a list, asked for again while it fails for a key that is being created."""
        answer = self._client.query_list(document)
        for _ in range(_LOOKS):
            if not any(_NO_ROLE_YET in text for text in answer.errors):
                break
            self._client.stop.sleep(_BETWEEN_LOOKS)
            answer = self._client.query_list(document)
        return answer

    def _observed(self, answer: Answer, role_entries: Json) -> Observation:
        try:
            roles, of_key = read_roles(role_entries)
            entries = answer.data.get("apiKeys") if answer.data else None
            found = (read_key(entry, of_key) for entry in listed(entries))
            keys = tuple({key.id: key for key in found}.values())
        except HalfRecordError as half:
            raise self._client.strange(answer, str(half)) from None
        return self._observation(keys, KnownRoles(roles), answer)

    def _keys_alone(self) -> Observation:
        """What a credential without the roles permission may still see."""
        answer = self._client.read(_KEYS_ALONE)
        keys = list_keys(self._client, _KEYS_ALONE, answer)
        return self._observation(keys, HiddenRoles(), answer)

    def _observation(
        self, keys: tuple[ObservedKey, ...], roles: Roles, answer: Answer
    ) -> Observation:
        return Observation(
            generation="core",
            workspace=self._client.workspace(),
            keys=keys,
            roles=roles,
            server_time=moment_of(answer),
            requests=self._client.requests_sent,
            server_ahead=answer.ahead,
            own_key=self._client.own_key(),
        )

    def _permissions(self) -> dict[str, Record] | NotCreated | NotSent:
        """The permissions of each role id, read once for all keys of depth 2."""
        if self._known_permissions is not None:
            return self._known_permissions
        try:
            answer = self._client.query(_PERMISSIONS)
        except WorkspaceError as error:
            return unsent(error)
        entries = answer.data.get("getRoles") if answer.data else None
        if answer.errors or not isinstance(entries, list):
            code, happened, remedy = self._client.explain(answer)
            needed = "Depth 2 needs the roles' permissions."
            return unsent(WorkspaceError(code, f"{happened} {needed}", remedy=remedy))
        found = dict(filter(None, map(record_id, entries)))
        self._known_permissions = {
            id_: {name: value for name, value in entry.items() if name != "id"}
            for id_, entry in found.items()
        }
        return self._known_permissions

    def _refused(self, answer: Answer) -> WorkspaceError:
        if answer.ok and not answer.errors:
            return self._client.strange(answer, "no list of keys")
        return self._client.refused(answer)


def _as_it_is(record: Record) -> Record:
    return record


def _with_permissions(permissions: dict[str, Record]) -> Join:
    """Joins the permissions of a key's role, which only `getRoles` shows, into its record."""

    def join(record: Record) -> Record:
        role = record.get("role")
        if not isinstance(role, dict):
            return record
        return record | {"role": role | permissions.get(str(role.get("id")), {})}

    return join
