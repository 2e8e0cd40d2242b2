"""GitLab's API for CI/CD variables as documented.

After "Project-level CI/CD variables API", "Group-level Variables API", "Projects API" and "Mask a
CI/CD variable".
"""

from __future__ import annotations

import re
from typing import Any

from tls_server import HttpRequest, HttpResponse, TlsServer

_MASKABLE = re.compile(r"[A-Za-z0-9_+=/@:.~-]{8,}", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9_]{1,255}", re.ASCII)
_ATTRIBUTES = {
    "variable_type": "env_var",
    "protected": False,
    "masked": False,
    "hidden": False,
    "raw": False,
    "environment_scope": "*",
    "description": None,
}


class GitlabServer(TlsServer):
    """One project and one group, and the token of a maintainer of both.

    Attributes:
        variables: the variables of each project and group, in the order of their creation.
        archived: the paths of the archived ones.
        filters_groups: whether `filter` works for groups; on older servers it does not.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.token = "glpat-credentialCanary012345"
        self.allowed = True
        self.archived: set[str] = set()
        self.filters_groups = True
        self.variables: dict[tuple[str, str], list[dict[str, Any]]] = {
            ("projects", "acme/billing"): [],
            ("groups", "acme/all-of-it"): [],
        }

    def answer(self, request: HttpRequest) -> HttpResponse:  # noqa: PLR0911 - one for each refusal
        if request.headers.get("PRIVATE-TOKEN") != self.token:
            return HttpResponse(401, {"message": "401 Unauthorized"})
        api, version, kind, path, *rest = request.names
        if (api, version) != ("api", "v4") or (kind, path) not in self.variables:
            return HttpResponse(404, {"message": f"404 {kind[:-1].title()} Not Found"})
        variables = self.variables[kind, path]
        if not rest:
            return HttpResponse(200, {"id": 1, "path": path, "archived": path in self.archived})
        if not self.allowed or (path in self.archived and request.method != "GET"):
            return HttpResponse(403, {"message": "403 Forbidden"})
        if request.method == "POST":
            return _create(variables, request.body)
        scope = request.query.get("filter[environment_scope]")
        if kind == "groups" and not self.filters_groups:
            scope = None
        found = [
            one
            for one in variables
            if one["key"] == rest[1] and scope in (None, one["environment_scope"])
        ]
        if not found:
            return HttpResponse(404, {"message": "404 Variable Not Found"})
        if len(found) > 1 and kind == "projects":
            return HttpResponse(409, {"message": {"base": ["There are multiple variables"]}})
        return _handle(request, variables, found[0])


def _handle(
    request: HttpRequest, variables: list[dict[str, Any]], variable: dict[str, Any]
) -> HttpResponse:
    """Answer a request for one variable."""
    if request.method == "DELETE":
        variables.remove(variable)
        return HttpResponse(204, None)
    if request.method == "PUT":
        return _save(variable, request.body, 200)
    return HttpResponse(200, _variable_body(variable))


def _create(variables: list[dict[str, Any]], body: dict[str, Any]) -> HttpResponse:
    scope = body.get("environment_scope", "*")
    if any((one["key"], one["environment_scope"]) == (body["key"], scope) for one in variables):
        return HttpResponse(400, {"message": {"key": [f"({body['key']}) has already been taken"]}})
    if not _KEY.fullmatch(body["key"]):
        return HttpResponse(
            400, {"message": {"key": ["can contain only letters, digits and '_'."]}}
        )
    new = dict(_ATTRIBUTES)
    response = _save(new, body, 201)
    if response.status == 201:
        variables.append(new)
    return response


def _save(variable: dict[str, Any], changes: dict[str, Any], status: int) -> HttpResponse:
    after = variable | changes
    if after["masked"] and not _MASKABLE.fullmatch(after["value"]):
        return HttpResponse(400, {"message": {"value": ["is invalid"]}})
    variable.update(after)
    return HttpResponse(status, _variable_body(variable))


def _variable_body(variable: dict[str, Any]) -> dict[str, Any]:
    return variable | ({"value": None} if variable["hidden"] else {})
