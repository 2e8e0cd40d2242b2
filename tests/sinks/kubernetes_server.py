"""The Secrets of a cluster as documented, with the owners of each key.

After "Server-Side Apply" (ownership, conflicts, removal), "Secret v1", "Secrets" (immutable),
"Kubernetes API Concepts" (creation by apply needs `create`; dry run), "Resource Quotas",
"Namespaces" and "Dynamic Admission Control" (refusals, with the texts of `apiserver`).
"""

from __future__ import annotations

import base64
import re
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

from tls_server import HttpRequest, HttpResponse, TlsServer

_KEY = re.compile(r"[-._A-Za-z0-9]{1,253}", re.ASCII)


@dataclass
class StoredSecret:
    """A Secret, and the keys of its data that each field manager owns."""

    data: dict[str, str] = field(default_factory=dict)
    owners: dict[str, set[str]] = field(default_factory=dict)
    type: str = "Opaque"
    immutable: bool = False
    version: int = 1

    def merge(self, version: str, data: dict[str, str | None]) -> HttpResponse | None:
        """Merge data if this is the current version; return None on success, or else the refusal.

        A key that is removed has no owner any more.
        """
        if version != str(self.version):
            return _refusal(409, "Conflict", "the object has been modified")
        if self.immutable:
            return _refusal(422, "Invalid")
        for key, value in data.items():
            for keys in self.owners.values():
                keys.discard(key)
            self.data.pop(key, None)
            if value is not None:
                self.data[key] = value
        self.version += 1
        return None

    def apply(self, manager: str, data: dict[str, str], *, force: bool) -> HttpResponse | None:
        """Apply the complete data of a manager; return None on success, or else the refusal."""
        contested = {
            key
            for other, keys in self.owners.items()
            for key in keys
            if other != manager and key in data and self.data[key] != data[key]
        }
        if contested and not force:
            return _refusal(409, "Conflict")
        if self.immutable and any(self.data.get(key) != value for key, value in data.items()):
            return _refusal(422, "Invalid")
        for other in self.owners.keys() - {manager}:
            self.owners[other] -= contested
        removed = self.owners.get(manager, set()) - data.keys()
        self.owners[manager] = set(data)
        for key in removed - set().union(*self.owners.values()):
            del self.data[key]
        self.data |= data
        self.version += 1
        return None


class KubernetesServer(TlsServer):
    """A cluster with the namespaces `shop` and `crm.eu`.

    Attributes:
        credentials: the accepted values of `Authorization`; None stands for a certificate.
        verbs: the verbs that they may use on Secrets.
        quota: the number of Secrets that a namespace may have.
        terminating: the namespaces that are being deleted.
        webhook: the reaction of an admission webhook to every write.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.token = "sa-credentialCanary.0123456789"
        self.credentials: set[str | None] = {f"Bearer {self.token}"}
        self.verbs = {"get", "patch", "create"}
        self.quota = 100
        self.terminating: set[str] = set()
        self.webhook: Literal["allows", "denies", "no dry run support"] = "allows"
        self.namespaces = {"shop", "crm.eu"}
        self.secrets: dict[tuple[str, str], StoredSecret] = {}

    def answer(self, request: HttpRequest) -> HttpResponse:  # noqa: PLR0911 - one for each refusal
        if request.headers.get("Authorization") not in self.credentials:
            return _refusal(401, "Unauthorized")
        _, _, _, namespace, _, name = request.names
        verb = {"GET": "get", "PATCH": "patch"}[request.method]
        secret = self.secrets.get((namespace, name))
        if verb not in self.verbs:
            return _forbidden(namespace, name, verb)
        if verb == "get":
            return (
                _refusal(404, "NotFound")
                if secret is None
                else _secret_body(namespace, name, secret)
            )
        if request.headers["Content-Type"] == "application/merge-patch+json":
            if secret is None:
                return _refusal(404, "NotFound")
            return (
                self._admission_refusal(namespace, name, request)
                or secret.merge(request.body["metadata"]["resourceVersion"], request.body["data"])
                or _secret_body(namespace, name, secret)
            )
        if request.headers["Content-Type"] != "application/apply-patch+yaml":
            return _refusal(415, "UnsupportedMediaType")
        if secret is None and "create" not in self.verbs:
            return _forbidden(namespace, name, "create")
        if namespace not in self.namespaces:
            return _refusal(404, "NotFound", f'namespaces "{namespace}" not found')
        return self._admission_refusal(namespace, name, request) or self._apply(
            namespace, name, request
        )

    def _admission_refusal(
        self, namespace: str, name: str, request: HttpRequest
    ) -> HttpResponse | None:
        """Return the refusal of a write by the rules of the cluster; None without one."""
        forbidden = f'secrets "{name}" is forbidden: '
        if (namespace, name) not in self.secrets:
            if namespace in self.terminating:
                text = f"unable to create new content in namespace {namespace} because it is "
                return _refusal(403, "Forbidden", f"{forbidden}{text}being terminated")
            if sum(one == namespace for one, _ in self.secrets) >= self.quota:
                return _refusal(403, "Forbidden", f"{forbidden}exceeded quota: few, requested: ...")
        webhook = 'admission webhook "policy.example.com"'
        if self.webhook == "no dry run support" and "dryRun" in request.query:
            return _refusal(400, "BadRequest", f"{webhook} does not support dry run")
        if self.webhook == "denies":
            return _refusal(
                400, "BadRequest", f"{webhook} denied the request: no, not even dry run"
            )
        return None

    def _apply(self, namespace: str, name: str, request: HttpRequest) -> HttpResponse:
        body, manager = request.body, request.query.get("fieldManager", "")
        secret = self.secrets.get((namespace, name)) or StoredSecret(
            type=body.get("type", "Opaque")
        )
        if request.query.get("dryRun") == "All":
            secret = deepcopy(secret)
        is_valid = (body["apiVersion"], body["kind"], body["metadata"]) == (
            "v1",
            "Secret",
            {"namespace": namespace, "name": name},
        )
        if (
            not is_valid
            or not 0 < len(manager) <= 128
            or body.get("type", secret.type) != secret.type
        ):
            return _refusal(422, "Invalid")
        if not all(map(_KEY.fullmatch, body["data"])):
            return _refusal(422, "Invalid")
        refusal = secret.apply(manager, body["data"], force=request.query.get("force") == "true")
        if refusal is not None:
            return refusal
        is_new = (namespace, name) not in self.secrets
        if request.query.get("dryRun") != "All":
            self.secrets[namespace, name] = secret
        return _secret_body(namespace, name, secret, 201 if is_new else 200)


def _secret_body(
    namespace: str, name: str, secret: StoredSecret, status: int = 200
) -> HttpResponse:
    for value in secret.data.values():
        base64.b64decode(value, validate=True)
    metadata = {"namespace": namespace, "name": name, "resourceVersion": str(secret.version)}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": secret.type}
    extra = {"immutable": True} if secret.immutable else {}
    return HttpResponse(status, body | extra | ({"data": secret.data} if secret.data else {}))


def _refusal(status: int, reason: str, message: str = "") -> HttpResponse:
    failure = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message}
    return HttpResponse(status, failure | {"reason": reason, "code": status})


def _forbidden(namespace: str, name: str, verb: str) -> HttpResponse:
    text = (
        f'secrets "{name}" is forbidden: User "ci" cannot {verb} resource "secrets" in API group '
    )
    return _refusal(403, "Forbidden", f'{text}"" in the namespace "{namespace}"')
