"""The router: every request passes through it to its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.sandbox import graphql_api, rest, rest_core, rest_legacy
from provisioner.sandbox.access import Anonymous, Caller, KeyCaller, Refused, UserCaller, caller_of
from provisioner.sandbox.dialect import Dialect
from provisioner.sandbox.exchange import Request, Response, json_answer
from provisioner.sandbox.store import UnusableError

if TYPE_CHECKING:
    from provisioner.sandbox.workspace import SandboxWorkspace


class Router:
    """The router of one workspace."""

    def __init__(self, workspace: SandboxWorkspace) -> None:
        self._workspace = workspace
        self._endpoints = graphql_api.endpoints_of(workspace.dialect)

    def answer(self, request: Request) -> Response:
        """Answer one request; if the file is unusable, the answer has the reason."""
        commits = self._workspace.store.commits
        try:
            return self._answered(request)
        except UnusableError as error:
            if self._workspace.store.commits > commits:
                # Something was committed, so an answer that nothing was changed would be wrong.
                raise ConnectionError from error
            return rest.file_unusable(error)

    def _answered(self, request: Request) -> Response:
        workspace = self._workspace
        if request.method == "OPTIONS":  # `131-rest-options`: a browser's preflight request
            return Response(204)
        endpoint = self._endpoints.get(request.path)
        if endpoint is None and not request.path.startswith("/rest/"):
            if request.method == "GET" and request.path == "/healthz":  # `221-healthz`
                return json_answer(200, {"status": "ok", "info": {}, "error": {}, "details": {}})
            return rest.not_found(request)
        caller = caller_of(request.authorization, workspace.store, workspace.dialect)
        if endpoint is not None:
            return endpoint.answer(workspace, caller, request)
        return self._rest(caller, request)

    def _rest(self, caller: Caller, request: Request) -> Response:
        workspace = self._workspace
        match caller:
            case Anonymous():
                return rest.refused(rest.MISSING_TOKEN)
            case Refused():
                return rest.refused(caller)
            case KeyCaller() | UserCaller():
                body = rest.read_body(request)
                if isinstance(body, Response):
                    return body
                if workspace.dialect is Dialect.LEGACY:
                    return rest_legacy.answer(workspace, request, body)
                return rest_core.answer(workspace, caller, request, body)
            case _:
                assert_never(caller)
