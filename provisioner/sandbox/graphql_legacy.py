"""The resolvers of the legacy dialect."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from provisioner.sandbox import keys_legacy, rest, rest_legacy, seeds
from provisioner.sandbox.access import SignedIn
from provisioner.sandbox.graphql_call import SIGN_IN
from provisioner.sandbox.rejected import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from provisioner.model.workspace import Json
    from provisioner.sandbox.exchange import JsonObject
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
    """Resolve the connection (legacy `123`); a page has 60 keys by default, as in REST."""
    call = _require_access(info)
    page = rest_legacy.page(
        call.store,
        keys_legacy.VISIBLE,
        limit=first or last or _PAGE,
        after=after or "",
        before=before or "",
    )
    if isinstance(page, Rejected):
        raise call.failure(page.message, "BAD_USER_INPUT")
    return {
        "totalCount": page.total,
        "pageInfo": {
            "hasNextPage": page.has_more,
            "hasPreviousPage": bool(after),
            "startCursor": page.cursor(page.first),
            "endCursor": page.cursor(page.last),
        },
        "edges": [
            {"cursor": page.cursor(key), "node": rest.legacy_record(key)} for key in page.keys
        ],
    }


def _create(_source: None, info: Info, data: JsonObject) -> JsonObject:
    call = _require_access(info)
    (key,) = _create_keys(call, (data,))
    # The text of REST (`923`); not recorded on GraphQL.
    return _shown(call, Rejected("Created record not found") if key is None else key)


def _create_many(_source: None, info: Info, data: list[Json]) -> list[JsonObject | None]:
    """Create several keys; an empty list is allowed and creates none (legacy `136`)."""
    created = _create_keys(_require_access(info), data)
    return [None if key is None else rest.legacy_record(key) for key in created]


def _update(_source: None, info: Info, key_id: str, data: JsonObject) -> JsonObject:
    call = _require_access(info)
    return _shown(call, keys_legacy.update(call.store, key_id.lower(), data))


def _delete(_source: None, info: Info, key_id: str) -> JsonObject:
    call = _require_access(info)
    return _shown(call, keys_legacy.soft_delete(call.store, key_id.lower()))


def _shown(call: Call, outcome: ApiKey | Rejected) -> JsonObject:
    if isinstance(outcome, Rejected):
        raise call.internal(outcome)
    return rest.legacy_record(outcome)


def _generate(_source: None, info: Info, key_id: str, expires_at: str) -> JsonObject:
    """Mint a token, also for an expired key: legacy does not read the row.

    Not recorded: the answer for an unknown id.
    """
    return _require_access(info).mint(key_id, expires_at)


def _get_roles(_source: None, info: Info) -> list[JsonObject]:
    return [role.wire for role in _require_access(info).roles.values()]


def _create_keys(call: Call, records: Sequence[Json]) -> tuple[ApiKey | None, ...]:
    created = keys_legacy.create(call.store, records, time.time())
    if isinstance(created, Rejected):
        raise call.internal(created)
    return created


def _require_access(info: Info) -> Call:
    """Return the call if its caller may use keys; GraphQL is stricter than REST (`127`, `150`).

    An API key may do everything, with or without a role (`123`, `149`, `156`).

    Raises:
        GraphQLError: the caller is not signed in, or the user lacks the permission.
    """
    call = info.context
    role = call.role_of_caller()
    with_key = isinstance(call.caller, SignedIn) and not call.caller.has_session
    if with_key or (role and role.permits(seeds.API_KEYS_FLAG)):
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
"""The resolvers by type and field; other fields are read from the parent's value."""
