"""The router: every request passes through it to its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.sandbox import graphql_api, rest, rest_core, rest_legacy
from provisioner.sandbox.access import Anonymous, Caller, Refused, SignedIn, caller_of
from provisioner.sandbox.dialect import Dialect
from provisioner.sandbox.exchange import Request, Response, json_answer
from provisioner.sandbox.rejected import RejectedError
from provisioner.sandbox.store import UnusableError

if TYPE_CHECKING:
    from provisioner.sandbox.store import Store


class Router:
    """The router of one workspace.

    Args:
        store: its state.
        session_seconds: the lifetime of the access token that a sign-in returns.
    """

    def __init__(self, store: Store, session_seconds: float) -> None:
        self._store = store
        self._endpoints = graphql_api.endpoints_of(store, session_seconds)

    def answer(self, request: Request) -> Response:
        """Answer one request; if the file is unusable, the answer has the reason."""
        commits = self._store.commits
        try:
            return self._answered(request)
        except RejectedError as error:
            return json_answer(error.status, error.body())
        except UnusableError as error:
            if self._store.commits > commits:
                # Something was committed, so an answer that nothing was changed would be wrong.
                raise ConnectionError from error
            return rest.file_unusable(error)

    def _answered(self, request: Request) -> Response:
        if request.method == "OPTIONS":  # `131-rest-options`: a browser's preflight request
            return Response(204)
        endpoint = self._endpoints.get(request.path)
        if endpoint is None and not request.path.startswith("/rest/"):
            if request.method == "GET" and request.path == "/healthz":  # `221-healthz`
                return json_answer(200, {"status": "ok", "info": {}, "error": {}, "details": {}})
            raise rest.not_found(request)
        caller = caller_of(request.authorization, self._store)
        if endpoint is not None:
            return endpoint.answer(caller, request)
        return self._rest(caller, request)

    def _rest(self, caller: Caller, request: Request) -> Response:
        match caller:
            case Anonymous():
                return rest.refused(rest.MISSING_TOKEN)
            case Refused():
                return rest.refused(caller)
            case SignedIn():
                body = rest.read_body(request)
                if self._store.dialect is Dialect.LEGACY:
                    return rest_legacy.answer(self._store, request, body)
                return rest_core.answer(self._store, caller, request, body)
            case _:
                assert_never(caller)
