"""A vault of Azure Key Vault, and a managed identity that may use it, as documented.

After the Key Vault REST API reference 7.4, "Azure Key Vault REST API Error Codes", "Soft-delete",
"How to use managed identities for App Service" and the answers that users quote in public issues.
"""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from tls_server import HttpRequest, HttpResponse, TlsServer

IDENTITY_HEADER = "identity-header-canary-77"
ACCESS_TOKEN = "access-token-canary-41d7"


class AzureServer(TlsServer):
    """One vault with soft-delete, as all new ones.

    Attributes:
        secrets: the versions of each secret by its name in lowercase, the current one last.
        deleted: the same for secrets that were deleted and can be recovered.
        refusal: the answer to every request to the vault, if it is not None.
        resources: what each access token was requested for.
        lifetime: the seconds for which an access token is valid.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.reset()

    def reset(self) -> None:
        """Forget everything that a test has done."""
        self.requests.clear()
        self.outcomes.clear()
        self.secrets: dict[str, list[dict[str, Any]]] = {}
        self.deleted: dict[str, list[dict[str, Any]]] = {}
        self.refusal: HttpResponse | None = None
        self.resources: list[str] = []
        self.lifetime = 3600

    def answer(self, request: HttpRequest) -> HttpResponse:  # noqa: PLR0911 - one for each method
        if request.names == ("identity",):
            return self._identity(request)
        if request.headers.get("Authorization") != f"Bearer {ACCESS_TOKEN}":
            return error(401, "Unauthorized")
        if self.refusal is not None:
            return self.refusal
        assert request.query == {"api-version": "7.4"}
        kind, name = request.names[0], request.names[1].lower()
        if kind == "deletedsecrets":
            assert request.method == "GET"
            found = self.deleted.get(name)
            return HttpResponse(200, found[-1]) if found else error(404, "SecretNotFound")
        assert kind == "secrets"
        versions = self.secrets.get(name)
        if request.method == "PUT":
            return self._put(name, request.body)
        if versions is None:
            return error(404, "SecretNotFound")
        if request.method == "PATCH":
            version = next(
                (one for one in versions if one["id"] == self._id(*request.names[1:])), None
            )
            if version is None:
                return error(404, "SecretNotFound")
            version["attributes"] |= request.body["attributes"]
            return HttpResponse(200, {k: v for k, v in version.items() if k != "value"})
        assert request.method == "GET"
        if not versions[-1]["attributes"]["enabled"]:
            return error(403, "Forbidden", "SecretDisabled")
        return HttpResponse(200, versions[-1])

    def _put(self, name: str, body: dict[str, Any]) -> HttpResponse:
        if name in self.deleted:
            return error(409, "Conflict", "ObjectIsDeletedButRecoverable")
        self.add(name, **body)
        return HttpResponse(200, self.secrets[name][-1])

    def _identity(self, request: HttpRequest) -> HttpResponse:
        if request.headers.get("X-IDENTITY-HEADER") != IDENTITY_HEADER:
            return HttpResponse(401, {"statusCode": 401, "message": f"no {ACCESS_TOKEN}"})
        self.resources.append(request.query["resource"])
        body = {"access_token": ACCESS_TOKEN, "token_type": "Bearer"}
        return HttpResponse(
            200, body | {"expires_on": str(int(time.time()) + self.lifetime), "resource": "r"}
        )

    def add(self, name: str, value: str, *, enabled: bool = True, **more: Any) -> None:
        """Add a version by hand."""
        id_ = self._id(name, uuid4().hex)
        version = {"id": id_, "value": value, "attributes": {"enabled": enabled}, **more}
        self.secrets.setdefault(name.lower(), []).append(version)

    def _id(self, name: str, version: str) -> str:
        return f"{self.url}/secrets/{name.lower()}/{version}"

    def delete(self, name: str) -> None:
        """Delete a secret by hand, so that it can be recovered."""
        self.deleted[name] = self.secrets.pop(name)

    def values(self, name: str) -> list[str]:
        """Return the value of each version."""
        return [one["value"] for one in self.secrets[name]]

    def enabled(self, name: str) -> list[bool]:
        """Return whether each version can be read."""
        return [one["attributes"]["enabled"] for one in self.secrets[name]]


def error(status: int, code: str, inner: str = "", text: str = "") -> HttpResponse:
    """Return a refusal of Key Vault."""
    more = {"innererror": {"code": inner}} if inner else {}
    return HttpResponse(status, {"error": {"code": code, "message": text or code, **more}})
