"""The resolvers of the core dialects.

The errors of `apiKeys`, `createApiKey`, `revokeApiKey`, `generateApiKeyToken` and `getRoles` are
recorded; `apiKey`, `updateApiKey`, `assignRoleToApiKey` and the newest's `getApiKeyRoles` are
assumed to answer the same ones.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from provisioner.sandbox import keys_core, seeds, timestamps
from provisioner.sandbox.dialect import Dialect
from provisioner.sandbox.graphql_call import ANY_ERROR, NO_PERMISSION, current_workspace
from provisioner.sandbox.graphql_sign_in import SIGN_IN
from provisioner.sandbox.rejected import RejectedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from provisioner.sandbox.exchange import JsonObject
    from provisioner.sandbox.graphql_call import Call, Info
    from provisioner.sandbox.store import ApiKey

Source = dict[str, Any]
"""The value that a parent resolver returned: JSON, plus the role id of a key (`_role`)."""

_INTERNAL = "INTERNAL_SERVER_ERROR"
_HIDDEN = ("permissionFlags", "objectPermissions", "fieldPermissions")
_NO_ACCESS = (
    "You do not have permission to access this feature. Please contact your workspace"
    " administrator for access."
)


def _api_keys(_source: None, info: Info) -> list[Source | None]:
    call = _require(info, write=False)
    return [_record(key) for key in call.store.select(keys_core.LISTED)]


def _api_key(_source: None, info: Info, fields: JsonObject) -> Source | None:
    call = _require(info, write=False)
    return _record(call.store.key(_id(fields)))


def _get_roles(_source: None, info: Info) -> list[Source]:
    call = info.context
    if not call.signed_in().permits(seeds.ROLES_FLAG):
        raise call.no_permission()
    return [role.wire for role in call.roles.values()]


def _get_api_key_roles(_source: None, info: Info) -> list[Source]:
    """Resolve the roles that can be assigned to keys, with only the API-keys permission."""
    roles = _require(info, write=False).roles.values()
    return [role.wire for role in roles if role.assignable]


def _create(_source: None, info: Info, fields: JsonObject) -> Source | None:
    call = _require(info, write=True, grants=True)
    return _record(keys_core.create(call.store, fields, time.time()))


def _update(_source: None, info: Info, fields: JsonObject) -> Source | None:
    call = _require(info, write=True)
    return _record(keys_core.update(call.store, _id(fields), fields, unrevokes=True))


def _revoke(_source: None, info: Info, fields: JsonObject) -> Source | None:
    call = _require(info, write=True)
    return _record(keys_core.revoke(call.store, _id(fields)))


def _id(fields: JsonObject) -> str:
    return str(fields["id"]).lower()


def _assign(_source: None, info: Info, key_id: str, role_id: str) -> bool:
    call = _require(info, write=True, grants=True)
    try:
        keys_core.assign_role(call.store, key_id.lower(), role_id.lower())
    except RejectedError as rejection:
        friendly = ANY_ERROR
        if rejection.code == "BAD_USER_INPUT" and call.dialect.has_texts_of_2:  # not core-1 `209`
            friendly = "This role cannot be assigned to API keys."  # `204`
        raise call.failure(str(rejection), rejection.code or "", friendly=friendly) from None
    return True


def _generate(_source: None, info: Info, key_id: str, expires_at: str) -> JsonObject:
    call = info.context
    permitted = call.signed_in().permits(seeds.API_KEYS_FLAG)
    if call.dialect is Dialect.CORE_1 and not permitted:
        raise call.no_permission()  # core-1 `201` differs from the other permission errors
    _require(info, write=True)
    key_id = key_id.lower()
    key = call.store.key(key_id)
    if key is None:  # `194`, core-1 `199`
        friendly = "API key not found." if call.dialect.has_texts_of_2 else ANY_ERROR
        raise call.failure(f"API Key with id {key_id} not found", _INTERNAL, friendly=friendly)
    if key.revoked_at is not None:  # `213`
        friendly = "This API Key has been revoked and can no longer be used."
        raise call.failure("This API Key is revoked", _INTERNAL, friendly=friendly)
    if key.expires_at <= timestamps.now():  # `925-mint-for-expired-row`
        friendly = "This API Key has expired. Please create a new one."
        raise call.failure("This API Key has expired", _INTERNAL, friendly=friendly)
    return call.mint(key_id, expires_at)


def _require(info: Info, *, write: bool, grants: bool = False) -> Call:
    """Return the call if its caller may read or change keys (`134`, `137`).

    2.21 changes keys only for a session (`139`, `195`, `207`). The newest gives roles to keys,
    which `grants` says, only with the permission for roles too.

    Raises:
        GraphQLError: the caller is not signed in, lacks the permission, or is an API key.
    """
    call = info.context
    caller = call.signed_in()
    if write and call.dialect.needs_session_to_write and not caller.has_session:
        raise call.failure(
            keys_core.needs_session(call.dialect),
            "FORBIDDEN",
            sub_code="FORBIDDEN_EXCEPTION",
            friendly="You do not have permission to perform this action.",
        )
    if caller.permits(seeds.API_KEYS_FLAG) and not (
        grants and keys_core.lacks_roles(call.dialect, caller)
    ):
        return call
    if call.dialect is Dialect.CORE_1:  # core-1 `137`, `140`
        raise call.failure(NO_PERMISSION, _INTERNAL, friendly=_NO_ACCESS)
    raise call.no_permission()


def _record(key: ApiKey | None) -> Source | None:
    return None if key is None else {**key.record(), "_role": key.role_id}


def _role(source: Source, info: Info) -> Source:
    """Resolve the role of a key; its permissions are null (`915-create-selection-depth-2`)."""
    call = info.context
    role = call.roles.get(source["_role"])
    if role is None:
        # Not recorded: known from the server's source.
        raise RejectedError(f"API key {source['id']} has no role assigned")
    return {**role.wire, **dict.fromkeys(_HIDDEN)}


def _keys_of_role(source: Source, info: Info) -> list[Source | None]:
    """Resolve the keys that have a role, without the revoked ones (`910`)."""
    condition = f"{keys_core.LISTED} AND role_id = ?"
    return [_record(key) for key in info.context.store.select(condition, source["id"])]


RESOLVERS: Mapping[str, Callable[..., Any]] = {
    "Query.apiKeys": _api_keys,
    "Query.apiKey": _api_key,
    "Query.getApiKeyRoles": _get_api_key_roles,
    "Query.getRoles": _get_roles,
    "Query.currentWorkspace": current_workspace,
    "Mutation.createApiKey": _create,
    "Mutation.updateApiKey": _update,
    "Mutation.revokeApiKey": _revoke,
    "Mutation.assignRoleToApiKey": _assign,
    "Mutation.generateApiKeyToken": _generate,
    **SIGN_IN,
    "ApiKey.role": _role,
    "Role.apiKeys": _keys_of_role,
}
"""The resolvers by type and field; other fields are read from the parent's value."""
