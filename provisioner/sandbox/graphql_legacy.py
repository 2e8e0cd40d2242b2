"""The resolvers of the legacy dialect."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from provisioner.sandbox import keys_legacy, seeds
from provisioner.sandbox.graphql_call import current_workspace
from provisioner.sandbox.graphql_sign_in import SIGN_IN
from provisioner.sandbox.rejected import RejectedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from provisioner.model.workspace import Json
    from provisioner.sandbox.exchange import JsonObject
    from provisioner.sandbox.graphql_call import Call, Info


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
    try:
        page = keys_legacy.page(
            call.store,
            keys_legacy.VISIBLE,
            limit=first or last or keys_legacy.PAGE,
            after=after or "",
            before=before or "",
        )
    except RejectedError as rejection:
        raise call.failure(str(rejection), "BAD_USER_INPUT") from None
    return {
        "totalCount": page.total,
        "pageInfo": {**page.info, "hasPreviousPage": bool(after)},
        "edges": [
            {"cursor": keys_legacy.cursor_of(record), "node": record} for record in page.records
        ],
    }


def _create(_source: None, info: Info, data: JsonObject) -> JsonObject:
    (record,) = _create_many(None, info, [data])
    if record is None:  # the text of REST (`923`); not recorded on GraphQL
        raise RejectedError("Created record not found")
    return record


def _create_many(_source: None, info: Info, data: list[Json]) -> list[JsonObject | None]:
    """Create several keys; an empty list is allowed and creates none (legacy `136`)."""
    created = keys_legacy.create(_require_access(info).store, data, time.time())
    return [None if key is None else key.record() for key in created]


def _update(_source: None, info: Info, key_id: str, data: JsonObject) -> JsonObject:
    store = _require_access(info).store
    return keys_legacy.update(store, key_id.lower(), data).record()


def _delete(_source: None, info: Info, key_id: str) -> JsonObject:
    store = _require_access(info).store
    return keys_legacy.soft_delete(store, key_id.lower()).record()


def _generate(_source: None, info: Info, key_id: str, expires_at: str) -> JsonObject:
    """Mint a token, also for an expired key: legacy does not read the row.

    Not recorded: the answer for an unknown id.
    """
    return _require_access(info).mint(key_id, expires_at)


def _get_roles(_source: None, info: Info) -> list[JsonObject]:
    return [role.wire for role in _require_access(info).roles.values()]


def _require_access(info: Info) -> Call:
    """Return the call if its caller may use keys; GraphQL is stricter than REST (`127`, `150`).

    An API key may do everything, with or without a role (`123`, `149`, `156`).

    Raises:
        GraphQLError: the caller is not signed in, or the user lacks the permission.
    """
    call = info.context
    caller = call.signed_in()
    if caller.has_session and not caller.permits(seeds.API_KEYS_FLAG):
        raise call.no_permission()
    return call


RESOLVERS: Mapping[str, Callable[..., Any]] = {
    "Query.apiKeys": _api_keys,
    "Query.currentWorkspace": current_workspace,
    "Query.getRoles": _get_roles,
    "Mutation.createApiKey": _create,
    "Mutation.createApiKeys": _create_many,
    "Mutation.updateApiKey": _update,
    "Mutation.deleteApiKey": _delete,
    "Mutation.generateApiKeyToken": _generate,
    **SIGN_IN,
}
"""The resolvers by type and field; other fields are read from the parent's value."""
