"""The router: every request passes through it to its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.sandbox import graphql_api, keys_core, keys_legacy, rest
from provisioner.sandbox.access import Refused, caller_of
from provisioner.sandbox.exchange import Request, Response, json_answer
from provisioner.sandbox.graphql_call import Call
from provisioner.sandbox.rejected import RejectedError
from provisioner.sandbox.store import UNUSABLE, SandboxUnusableError
from provisioner.sandbox.tenant import tenant_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.sandbox.tenant import Tenant


def answer(tenants: Sequence[Tenant], request: Request) -> Response:
    """Answer one request; if the file is unusable, the answer has the reason.

    Args:
        tenants: the workspaces of the server; a request goes to the one that its token names.
        request: the request.
    """
    tenant = tenant_of(tenants, request.authorization, tenants[0])
    store = tenant.store
    commits = store.commits
    try:
        return _answered(tenants, tenant, request)
    except RejectedError as error:
        return json_answer(error.status, error.body())
    except SandboxUnusableError as error:
        if store.commits > commits:
            # Something was committed, so an answer that nothing was changed would be wrong.
            raise ConnectionError from error
        # No real Twenty gives this answer.
        messages = [error.message, error.remedy]
        return json_answer(423, {"statusCode": 423, "code": UNUSABLE, "messages": [*messages]})


def _answered(tenants: Sequence[Tenant], tenant: Tenant, request: Request) -> Response:
    if request.method == "OPTIONS":  # `131-rest-options`: a browser's preflight request
        return Response(204)
    store = tenant.store
    is_graphql = request.path in graphql_api.PATHS
    if not is_graphql and not request.path.startswith("/rest/"):
        if request.method == "GET" and request.path == "/healthz":  # `221-healthz`
            return json_answer(200, {"status": "ok", "info": {}, "error": {}, "details": {}})
        raise rest.not_found(request)
    caller = caller_of(request.authorization, store)
    if is_graphql:
        return graphql_api.answer(Call(tenants, tenant, caller), request)
    if isinstance(caller, Refused):
        return rest.refused(caller)
    body = rest.read_body(request)
    if not store.dialect.keeps_core_keys:
        return keys_legacy.answer(store, request, body)
    return keys_core.answer(tenant, caller, request, body)
