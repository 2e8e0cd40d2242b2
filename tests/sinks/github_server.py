"""GitHub's API for secrets and variables as documented, with real sealed boxes.

After "REST API endpoints for GitHub Actions Secrets", "REST API endpoints for GitHub Actions
variables", "REST API endpoints for repositories", "Archiving repositories" and "Rate limits for the
REST API". Not documented are the answers to a write with an outdated key, 422 here, and to a create
of a variable that exists, 409 here.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from nacl.public import PrivateKey, SealedBox
from tls_server import HttpRequest, HttpResponse, TlsServer


@dataclass
class StoredSecret:
    """A secret as GitHub stores it."""

    value: str
    updated_at: datetime
    visibility: str | None = None
    repositories: list[int] = field(default_factory=list)


@dataclass
class StoredVariable:
    """A variable as GitHub stores it."""

    value: str
    visibility: str | None = None
    repositories: list[int] = field(default_factory=list)


class GithubServer(TlsServer):
    """The organisation `acme`, its repositories, and one token.

    Attributes:
        containers: the paths that contain secrets, with their secrets by upper-case name.
        variables: the same with their variables.
        variable_rights: what the token may do with variables: write them, only read them, or
            nothing.
        archived: the archived repositories, as owner and name.
        repository: the answer to a request for a repository; None for the normal one.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.token = "ghp_credentialCanary0123456789abcdef"
        self.allowed = True
        self.archived: set[tuple[str, str]] = set()
        self.repository: HttpResponse | None = None
        self.containers: dict[tuple[str, ...], dict[str, StoredSecret]] = {
            ("orgs", "acme", "actions"): {},
            ("repos", "acme", "billing", "actions"): {},
            ("repos", "acme", "billing", "environments", "production"): {},
            ("repos", "acme", "billing", "environments", "eu/west é 1"): {},
        }
        self.variables: dict[tuple[str, ...], dict[str, StoredVariable]] = {
            container: {} for container in self.containers
        }
        self.variable_rights: Literal["write", "read", "none"] = "write"
        self.change_key()

    def clear(self) -> None:
        """Delete every secret and every variable, and give the token all rights again."""
        self.clock_skew, self.variable_rights = timedelta(0), "write"
        for container in self.containers:
            self.containers[container].clear()
            self.variables[container].clear()

    def edit_settings(self, container: tuple[str, ...], name: str) -> None:
        """Change a setting of a secret, such as the repositories that may see it; not its value."""
        self.containers[container][name].updated_at = self._now()

    def days_pass(self, age: timedelta) -> None:
        """Make every secret, and what receipts say of the time of its write, older."""
        for secrets in self.containers.values():
            for secret in secrets.values():
                secret.updated_at -= age
        for variables in self.variables.values():
            for variable in variables.values():
                if variable.value.startswith("{"):
                    receipt = json.loads(variable.value)
                    for name in ("issued_at", "written_at"):
                        time = datetime.fromisoformat(receipt[name]) - age
                        receipt[name] = time.isoformat()
                    variable.value = json.dumps(receipt)

    def _now(self) -> datetime:
        return (datetime.now(UTC) + self.clock_skew).replace(microsecond=0)

    def change_key(self) -> None:
        """Encrypt secrets with another key from now on."""
        self._key = PrivateKey.generate()
        self.key_id = str(int.from_bytes(bytes(self._key.public_key)[:6], "big"))

    def answer(self, request: HttpRequest) -> HttpResponse:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return HttpResponse(401, {"message": "Bad credentials"})
        if not self.allowed:
            return HttpResponse(
                403, {"message": "Resource not accessible by personal access token"}
            )
        if len(request.names) == 3 and request.names[0] == "repos":
            return self.repository or self._repository(request.names[1:])
        return (self._variable if "variables" in request.names else self._secret)(request)

    def _secret(self, request: HttpRequest) -> HttpResponse:  # noqa: PLR0911 - one for each refusal
        container, rest = _split(request.names, "secrets")
        if (secrets := self.containers.get(container)) is None or not rest:
            return HttpResponse(404, {"message": "Not Found"})
        if rest == ("public-key",):
            public = base64.b64encode(bytes(self._key.public_key)).decode()
            return HttpResponse(200, {"key_id": self.key_id, "key": public})
        name = rest[0].upper()
        if request.method == "PUT":
            if container[1:3] in self.archived:
                return HttpResponse(403, {"message": "Repository was archived so is read-only."})
            return self._put(container, secrets, name, request.body)
        if name not in secrets:
            return HttpResponse(404, {"message": "Not Found"})
        if request.method == "DELETE":
            del secrets[name]
            return HttpResponse(204)
        if rest[1:] == ("repositories",):
            return _repositories(secrets[name], request.query)
        return HttpResponse(200, _secret_body(name, secrets[name]))

    def _repository(self, names: tuple[str, ...]) -> HttpResponse:
        if not any(container[:3] == ("repos", *names) for container in self.containers):
            return HttpResponse(404, {"message": "Not Found"})
        archived = names in self.archived
        return HttpResponse(200, {"id": 1, "full_name": "/".join(names), "archived": archived})

    def _put(
        self,
        container: tuple[str, ...],
        secrets: dict[str, StoredSecret],
        name: str,
        body: dict[str, Any],
    ) -> HttpResponse:
        if body["key_id"] != self.key_id:
            return HttpResponse(422, {"message": "Validation Failed"})
        if container[0] == "orgs" and body.get("visibility") not in ("all", "private", "selected"):
            return HttpResponse(422, {"message": "Invalid request"})
        if "selected_repository_ids" in body and body["visibility"] != "selected":
            return HttpResponse(422, {"message": "Invalid request"})
        value = SealedBox(self._key).decrypt(base64.b64decode(body["encrypted_value"])).decode()
        secret = StoredSecret(
            value,
            self._now(),
            body.get("visibility"),
            body.get("selected_repository_ids", []),
        )
        status = 204 if name in secrets else 201
        secrets[name] = secret
        return HttpResponse(status, None if status == 204 else {})

    def _variable(self, request: HttpRequest) -> HttpResponse:  # noqa: PLR0911 - as above
        container, rest = _split(request.names, "variables")
        if (variables := self.variables.get(container)) is None:
            return HttpResponse(404, {"message": "Not Found"})
        if self.variable_rights == "none" or (
            self.variable_rights == "read" and request.method != "GET"
        ):
            return HttpResponse(
                403, {"message": "Resource not accessible by personal access token"}
            )
        if not rest and request.method == "GET":
            return HttpResponse(200, {"total_count": len(variables), "variables": []})
        body = request.body
        name = (rest[0] if rest else body["name"]).upper()
        if (name in variables) is (request.method == "POST"):
            return HttpResponse(409 if request.method == "POST" else 404, {"message": "No"})
        if request.method == "GET":
            return HttpResponse(200, {"name": name, "value": variables[name].value})
        if request.method == "DELETE":
            del variables[name]
            return HttpResponse(204)
        if container[0] == "orgs" and request.method == "POST" and "visibility" not in body:
            return HttpResponse(422, {"message": "Invalid request"})
        stored = variables.setdefault(name, StoredVariable(""))
        stored.value = body.get("value", stored.value)
        stored.visibility = body.get("visibility", stored.visibility)
        stored.repositories = body.get("selected_repository_ids", stored.repositories)
        return HttpResponse(201, {}) if request.method == "POST" else HttpResponse(204)


def _split(names: tuple[str, ...], part: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the path before a part, and what follows it."""
    position = names.index(part) if part in names else len(names)
    return names[:position], names[position + 1 :]


def _secret_body(name: str, secret: StoredSecret) -> dict[str, Any]:
    updated_at = secret.updated_at.isoformat().replace("+00:00", "Z")
    body = {"name": name, "created_at": updated_at, "updated_at": updated_at}
    return body | ({"visibility": secret.visibility} if secret.visibility else {})


def _repositories(secret: StoredSecret, query: dict[str, str]) -> HttpResponse:
    size, page = int(query.get("per_page", 30)), int(query.get("page", 1))
    selected = secret.repositories[(page - 1) * size : page * size]
    found = [{"id": id_, "name": f"repository-{id_}"} for id_ in selected]
    return HttpResponse(200, {"total_count": len(secret.repositories), "repositories": found})
