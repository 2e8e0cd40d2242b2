"""The core generation, Twenty 1.3 and later: keys with roles, on GraphQL `/metadata`.

The server chooses the ids, a repeated create makes a second key, and the selection decides how
much comes back (docs/twenty-api.md, "Generations").
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from provisioner.errors import WorkspaceError
from provisioner.failure import Failure, failure_of
from provisioner.observed import HiddenRoles, KnownRoles, Observation
from provisioner.twenty.answers import refusal_code
from provisioner.twenty.paging import list_keys
from provisioner.twenty.records import HalfRecordError, listed, read_key, read_roles, record_id
from provisioner.twenty.transport import LostAnswerError
from provisioner.twenty.wire import moment_of
from provisioner.twenty.workspace import WITH_PERMISSIONS, Created, NotCreated, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provisioner.desired import Depth, Limits
    from provisioner.observed import ObservedKey, Roles
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.wire import Wire
    from provisioner.twenty.workspace import Json, NewKey, Outcome, Record

_KEY = "id name expiresAt revokedAt createdAt updatedAt"
_ROLE = "id label description icon isEditable canBeAssignedToApiKeys canUpdateAllSettings"
_FLAGS = (
    "canAccessAllTools canReadAllObjectRecords canUpdateAllObjectRecords "
    "canSoftDeleteAllObjectRecords canDestroyAllObjectRecords"
)
_SELECTION: dict[Depth, str] = {
    0: _KEY,
    1: f"{_KEY} role{{{_ROLE}}}",
    2: f"{_KEY} role{{{_ROLE} {_FLAGS}}}",
}
"""Fields that 1.10 and 2.21 fill inside `ApiKey.role` (`913` to `915`)."""

_CREATE = "mutation($input:CreateApiKeyInput!){createApiKey(input:$input){%s}}"
_LIST = "{apiKeys{%s} %s{id label canBeAssignedToApiKeys apiKeys{id}}}"
_PERMISSIONS = (
    "{getRoles{id permissionFlags{id flag} "
    "objectPermissions{objectMetadataId canReadObjectRecords} fieldPermissions{id}}}"
)
"""Filled in `getRoles` alone, null inside `ApiKey.role` (`918`)."""

_KEYS_ALONE = "/rest/metadata/apiKeys?limit=200"
"""A bare array on 1.10 and 2.21; pages of at most 200 since about 2.4x (not recorded)."""

# Said before a create runs, in every recorded version: the key was certainly not made.
_REFUSED_CODES = frozenset({"GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED", "BAD_USER_INPUT"})
_REFUSED_TEXTS = ("Cannot query field", "Unknown type", "Unknown argument", "Syntax Error")


class CoreWorkspace:
    """A workspace of the core generation."""

    generation: Literal["core"] = "core"

    def __init__(self, wire: Wire, limits: Limits) -> None:
        self._wire = wire
        self._limits = limits

    def close(self) -> None:
        """Closes all connections."""
        self._wire.close()

    def observe(self) -> Observation:
        """Reads keys and roles in one document; the keys alone where roles are hidden.

        Never `role` inside the list: one key without a role makes that fail as a whole.
        """
        for source in ("getRoles", "getApiKeyRoles"):
            answer = self._wire.query(_LIST % (_KEY, source))
            if answer.ok and answer.data is not None and not answer.errors:
                return self._observed(answer, answer.data.get(source))
            code = self._wire.explain(answer)[0]
            if code != "permission_denied" and not answer.says(("Cannot query field",)):
                raise self._refused(answer)
        return self._keys_alone()

    def create_many(
        self, keys: Sequence[NewKey], settled: Callable[[int], None]
    ) -> tuple[Outcome, ...]:
        """One request a key, as many at a time as the limits allow."""
        needed = any(key.depth == WITH_PERMISSIONS for key in keys)
        permissions = self._permissions() if needed else {}

        def create(key: NewKey) -> Outcome:
            if key.depth != WITH_PERMISSIONS:
                outcome = self._create(key)
            elif isinstance(permissions, Failure):
                outcome = NotCreated(permissions)
            else:
                outcome = _joined(self._create(key), permissions)
            settled(1)
            return outcome

        with ThreadPoolExecutor(max_workers=self._limits.parallel) as pool:
            return self._told_apart(tuple(pool.map(create, keys)))

    def _told_apart(self, outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
        """One id for two keys is no proof of either."""
        times = Counter(one.id for one in outcomes if isinstance(one, Created))
        lost = unknown(f"{self._wire.environment} showed one id for several keys.")
        return tuple(
            lost if isinstance(one, Created) and times[one.id] > 1 else one for one in outcomes
        )

    def _observed(self, answer: Answer, role_entries: Json) -> Observation:
        try:
            roles, of_key = read_roles(role_entries)
            entries = answer.data.get("apiKeys") if answer.data else None
            found = (read_key(entry, of_key) for entry in listed(entries))
            keys = tuple({key.id: key for key in found}.values())
        except HalfRecordError as half:
            raise self._wire.strange(answer, str(half)) from None
        return self._observation(keys, KnownRoles(roles), answer)

    def _keys_alone(self) -> Observation:
        """What a credential without the roles permission may still see."""
        answer = self._wire.read(_KEYS_ALONE)
        keys = list_keys(self._wire, _KEYS_ALONE, answer)
        return self._observation(keys, HiddenRoles(), answer)

    def _observation(
        self, keys: tuple[ObservedKey, ...], roles: Roles, answer: Answer
    ) -> Observation:
        return Observation(
            generation="core",
            workspace=self._wire.workspace(),
            keys=keys,
            roles=roles,
            server_time=moment_of(answer),
            requests=self._wire.requests_sent,
        )

    def _permissions(self) -> dict[str, Record] | Failure:
        """The permissions of each role id, read once for all keys of depth 2."""
        try:
            answer = self._wire.query(_PERMISSIONS)
        except WorkspaceError as error:
            return failure_of(error)
        entries = answer.data.get("getRoles") if answer.data else None
        if answer.errors or not isinstance(entries, list):
            code, happened, remedy = self._wire.explain(answer)
            return Failure(code, f"{happened} Depth 2 needs the roles' permissions. {remedy}")
        found = dict(filter(None, map(record_id, entries)))
        return {
            id_: {name: value for name, value in entry.items() if name != "id"}
            for id_, entry in found.items()
        }

    def _create(self, key: NewKey) -> Outcome:
        fields: dict[str, Json] = {"name": key.name, "expiresAt": key.expires_at}
        fields |= {"roleId": key.role_id} if key.role_id is not None else {}
        fields |= {"revokedAt": key.revoked_at} if key.revoked_at is not None else {}
        try:
            answer = self._wire.graphql(
                _CREATE % _SELECTION[key.depth], {"input": fields}, repeatable=False
            )
        except LostAnswerError as lost:
            return unknown(f"{lost.message} {lost.remedy}")
        except WorkspaceError as error:
            return NotCreated(failure_of(error))
        found = record_id((answer.data or {}).get("createApiKey"))
        if answer.ok and found is not None and not answer.errors:
            if found[1].get("name") == key.name:
                return Created(*found)
            return unknown(f"{self._wire.environment} showed another key than {key.name!r}.")
        code, happened, remedy = self._wire.explain(answer)
        if _certainly_refused(answer):
            return NotCreated(Failure(code, f"{happened} {remedy}"))
        return unknown(happened)

    def _refused(self, answer: Answer) -> WorkspaceError:
        if answer.ok and not answer.errors:
            return self._wire.strange(answer, "no list of keys")
        return self._wire.refused(answer)


def _joined(outcome: Outcome, permissions: dict[str, Record]) -> Outcome:
    """The created record with the permissions of its role, which only `getRoles` shows."""
    if isinstance(outcome, Created) and isinstance(role := outcome.record.get("role"), dict):
        whole = role | permissions.get(str(role.get("id")), {})
        return replace(outcome, record=outcome.record | {"role": whole})
    return outcome


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
