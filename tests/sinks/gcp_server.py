"""Google's Secret Manager API, and its token service, as documented.

After the API reference of `projects.secrets` and `projects.secrets.versions`, "Resource
consistency" and the answers that users of Google quote in public issues.
"""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qs

from tls_server import HttpRequest, HttpResponse, TlsServer

SUBJECT_TOKEN = "subject-token-of-the-pipeline"
ACCESS_TOKEN = "ya29.access-token-canary-5c21"
Versions = list[dict[str, Any]]


class GoogleServer(TlsServer):
    """Projects of one organisation, and an identity that may do everything there.

    Attributes:
        secrets: the versions of each secret, by its project and name; the first one is number 1.
        refused: the permissions that the identity lacks.
        latest_is_late: True if `latest` does not lead to the newest version yet.
        refusal: the answer to every request of the API, if it is not None.
        tokens: the number of access tokens that were given.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.reset()

    def reset(self) -> None:
        """Forget everything that a test has done."""
        self.requests.clear()
        self.outcomes.clear()
        self.secrets: dict[tuple[str, str], Versions] = {}
        self.refused: set[str] = set()
        self.latest_is_late = False
        self.refusal: HttpResponse | None = None
        self.tokens = 0

    def answer(self, request: HttpRequest) -> HttpResponse:  # noqa: PLR0911 - one for each method
        if request.names == ("token",):
            return self._token(request)
        if request.headers.get("Authorization") != f"Bearer {ACCESS_TOKEN}":
            return error(401, "UNAUTHENTICATED")
        if self.refusal is not None:
            return self.refusal
        version, projects, project, secrets, *rest = request.names
        assert (version, projects, secrets) == ("v1", "projects", "secrets")
        if not rest:
            return self._create(project, request)
        name, _, method = rest[0].partition(":")
        versions = self.secrets.get((project, name))
        if method == "testIamPermissions":
            asked = request.body["permissions"] if versions is not None else ()
            granted = [one for one in asked if one not in self.refused]
            return HttpResponse(200, {"permissions": granted} if granted else {})
        if method == "addVersion":
            return self._add(project, name, versions, request.body)
        if len(rest) == 1:
            return self._allowed("secrets.get") or _found(versions, f"projects/1/secrets/{name}")
        number, _, method = rest[2].partition(":")
        return self._of_version(f"projects/1/secrets/{name}", versions, number, method)

    def _allowed(self, permission: str) -> HttpResponse | None:
        is_refused = f"secretmanager.{permission}" in self.refused
        return error(403, "PERMISSION_DENIED", "IAM_PERMISSION_DENIED") if is_refused else None

    def _token(self, request: HttpRequest) -> HttpResponse:
        form = {name: values[0] for name, values in parse_qs(request.raw.decode()).items()}
        if form.get("subject_token") != SUBJECT_TOKEN and "assertion" not in form:
            return HttpResponse(400, {"error": "invalid_grant", "error_description": ACCESS_TOKEN})
        self.tokens += 1
        body = {"access_token": ACCESS_TOKEN, "token_type": "Bearer", "expires_in": 3600}
        return HttpResponse(
            200, body | {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}
        )

    def _create(self, project: str, request: HttpRequest) -> HttpResponse:
        if refusal := self._allowed("secrets.create"):
            return refusal
        assert request.body == {"replication": {"automatic": {}}}
        place = (project, request.query["secretId"])
        if place in self.secrets:
            return error(409, "ALREADY_EXISTS")
        self.secrets[place] = []
        return HttpResponse(200, {"name": f"projects/1/secrets/{place[1]}"})

    def _add(
        self, project: str, name: str, versions: Versions | None, body: dict[str, Any]
    ) -> HttpResponse:
        if refusal := self._allowed("versions.add"):
            return refusal
        if versions is None:
            return error(404, "NOT_FOUND")
        versions.append({"data": body["payload"]["data"], "state": "ENABLED"})
        number = len(versions)
        assert (project, name) in self.secrets
        return HttpResponse(200, {"name": f"projects/1/secrets/{name}/versions/{number}"})

    def _of_version(
        self, secret: str, versions: Versions | None, asked: str, method: str
    ) -> HttpResponse:
        if refusal := self._allowed(f"versions.{method}"):
            return refusal
        number = len(versions or ()) - self.latest_is_late if asked == "latest" else int(asked)
        if not versions or not 0 < number <= len(versions):
            return error(404, "NOT_FOUND")
        version = versions[number - 1]
        if version["state"] == "DESTROYED" or (
            method == "access" and version["state"] != "ENABLED"
        ):
            text = f"Secret Version [{secret}/versions/{number}] is in {version['state']} state."
            return error(400, "FAILED_PRECONDITION", text=text)
        if method == "destroy":
            version.update(data="", state="DESTROYED")
        name = f"{secret}/versions/{number}"
        return HttpResponse(200, {"name": name, "payload": {"data": version["data"]}})

    def add(self, place: tuple[str, str], *values: str, state: str = "ENABLED") -> Versions:
        """Add versions by hand."""
        versions = self.secrets.setdefault(place, [])
        for value in values:
            data = base64.b64encode(value.encode()).decode()
            versions.append({"data": data, "state": state})
        return versions

    def values(self, place: tuple[str, str]) -> list[str | None]:
        """Return the value of each version; None for one that is not enabled."""
        return [
            base64.b64decode(one["data"]).decode() if one["state"] == "ENABLED" else None
            for one in self.secrets[place]
        ]


def error(status: int, name: str, reason: str = "", text: str = "") -> HttpResponse:
    """Return a refusal of Google's APIs."""
    kind = "type.googleapis.com/google.rpc.ErrorInfo"
    details = [{"@type": kind, "reason": reason, "domain": "googleapis.com"}] if reason else []
    body = {"code": status, "message": text or name, "status": name, "details": details}
    return HttpResponse(status, {"error": body})


def _found(versions: Versions | None, name: str) -> HttpResponse:
    return error(404, "NOT_FOUND") if versions is None else HttpResponse(200, {"name": name})
