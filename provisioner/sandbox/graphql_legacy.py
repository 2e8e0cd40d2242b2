"""The resolvers of legacy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from provisioner.sandbox import keys_legacy, rest, rest_legacy, seeds
from provisioner.sandbox.access import KeyCaller
from provisioner.sandbox.graphql_call import SIGN_IN
from provisioner.sandbox.workspace import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from provisioner.sandbox.exchange import Json, JsonObject
    from provisioner.sandbox.graphql_call import Call, Info
    from provisioner.sandbox.store import ApiKey

_PAGE = 60


def _api_keys(
    _source: None,
    info: Info,
    first: int | None = None,
    last: int | None = None,
    before: str | None = None,
    after: str | None = None,
) -> JsonObject:
    """The connection (legacy `123`); without a size a page has 60, as in REST."""
    call = _member(info)
    found = rest_legacy.page(
        call.workspace,
        keys_legacy.VISIBLE,
        limit=first or last or _PAGE,
        after=after or "",
        before=before or "",
    )
    if isinstance(found, Rejected):
        raise call.failure(found.message, "BAD_USER_INPUT")
    return {
        "totalCount": found.total,
        "pageInfo": {
            "hasNextPage": found.more,
            "hasPreviousPage": bool(after),
            "startCursor": found.cursor(found.first),
            "endCursor": found.cursor(found.last),
        },
        "edges": [
            {"cursor": found.cursor(key), "node": rest.legacy_record(key)} for key in found.keys
        ],
    }


def _create(_source: None, info: Info, data: JsonObject) -> JsonObject:
    call = _member(info)
    (key,) = _made(call, (data,))
    if key is None:  # REST's text (`923`); not recorded of GraphQL
        raise call.internal(Rejected("Created record not found"))
    return rest.legacy_record(key)


def _create_many(_source: None, info: Info, data: list[Json]) -> list[JsonObject | None]:
    """An empty list makes nothing and is no mistake (legacy `136`)."""
    made = _made(_member(info), data)
    return [None if key is None else rest.legacy_record(key) for key in made]


def _update(_source: None, info: Info, key_id: str, data: JsonObject) -> JsonObject:
    call = _member(info)
    changed = keys_legacy.update(call.workspace, key_id.lower(), data)
    if isinstance(changed, Rejected):
        raise call.internal(changed)
    return rest.legacy_record(changed)


def _delete(_source: None, info: Info, key_id: str) -> JsonObject:
    call = _member(info)
    deleted = keys_legacy.soft_delete(call.workspace, key_id.lower())
    if isinstance(deleted, Rejected):
        raise call.internal(deleted)
    return rest.legacy_record(deleted)


def _generate(_source: None, info: Info, key_id: str, expires_at: str) -> JsonObject:
    """A token, of an expired key too; legacy does not look at the row at all.

    Not recorded: what it says of an id that no key has.
    """
    return _member(info).mint(key_id, expires_at)


def _get_roles(_source: None, info: Info) -> list[JsonObject]:
    return [role.wire for role in _member(info).roles().values()]


def _made(call: Call, records: Sequence[Json]) -> tuple[ApiKey | None, ...]:
    made = keys_legacy.create(call.workspace, records, time.time())
    if isinstance(made, Rejected):
        raise call.internal(made)
    return made


def _member(info: Info) -> Call:
    """The call, if its caller may use keys: GraphQL asks for more than REST (`127`, `150`).

    An API key may do everything, with a role or without (`123`, `149`, `156`).

    Raises:
        GraphQLError: nobody is signed in, or the user has no permission.
    """
    call = info.context
    role = call.role_of_caller()
    if isinstance(call.caller, KeyCaller) or (role and role.permits(seeds.API_KEYS_FLAG)):
        return call
    raise call.no_permission()


RESOLVERS: Mapping[str, Callable[..., Any]] = {
    "Query.apiKeys": _api_keys,
    "Query.getRoles": _get_roles,
    "Mutation.createApiKey": _create,
    "Mutation.createApiKeys": _create_many,
    "Mutation.updateApiKey": _update,
    "Mutation.deleteApiKey": _delete,
    "Mutation.generateApiKeyToken": _generate,
    **SIGN_IN,
}
"""By type and field; every other field is read from what its parent answered."""
