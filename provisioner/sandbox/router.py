"""The router: every request passes through it to its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.sandbox import graphql_api, keys_core, keys_legacy, rest
from provisioner.sandbox.access import Refused, caller_of
from provisioner.sandbox.dialect import Dialect
from provisioner.sandbox.exchange import Request, Response, json_answer
from provisioner.sandbox.graphql_call import Call
from provisioner.sandbox.rejected import RejectedError
from provisioner.sandbox.store import UNUSABLE, SandboxUnusableError

if TYPE_CHECKING:
    from provisioner.sandbox.store import Store


def answer(store: Store, session_seconds: float, request: Request) -> Response:
    """Answer one request; if the file is unusable, the answer has the reason.

    Args:
        store: the state of the workspace.
        session_seconds: the lifetime of the access token that a sign-in returns.
        request: the request.
    """
    commits = store.commits
    try:
        return _answered(store, session_seconds, request)
    except RejectedError as error:
        return json_answer(error.status, error.body())
    except SandboxUnusableError as error:
        if store.commits > commits:
            # Something was committed, so an answer that nothing was changed would be wrong.
            raise ConnectionError from error
        # No real Twenty gives this answer.
        messages = [error.message, error.remedy]
        return json_answer(423, {"statusCode": 423, "code": UNUSABLE, "messages": [*messages]})


def _answered(store: Store, session_seconds: float, request: Request) -> Response:
    if request.method == "OPTIONS":  # `131-rest-options`: a browser's preflight request
        return Response(204)
    is_graphql = request.path in graphql_api.PATHS
    if not is_graphql and not request.path.startswith("/rest/"):
        if request.method == "GET" and request.path == "/healthz":  # `221-healthz`
            return json_answer(200, {"status": "ok", "info": {}, "error": {}, "details": {}})
        raise rest.not_found(request)
    caller = caller_of(request.authorization, store)
    if is_graphql:
        return graphql_api.answer(Call(store, caller, session_seconds), request)
    if isinstance(caller, Refused):
        return rest.refused(caller)
    body = rest.read_body(request)
    if store.dialect is Dialect.LEGACY:
        return keys_legacy.answer(store, request, body)
    return keys_core.answer(store, caller, request, body)
