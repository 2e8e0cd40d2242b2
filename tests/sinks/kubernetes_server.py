"""The Secrets of a cluster as its documentation has them, with the owners of each key.

After "Server-Side Apply" (ownership, conflicts, removal), "Secret v1", "Secrets" (immutable),
"Kubernetes API Concepts" (creation by apply needs `create`; dry run), "Resource Quotas",
"Namespaces" and "Dynamic Admission Control" (what refuses, with the words of `apiserver`).
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
    """A Secret, and which keys of its data each field manager owns."""

    data: dict[str, str] = field(default_factory=dict)
    owners: dict[str, set[str]] = field(default_factory=dict)
    type: str = "Opaque"
    immutable: bool = False

    def apply(self, manager: str, data: dict[str, str], *, force: bool) -> HttpResponse | None:
        """Has a manager apply its whole opinion; None where that went well."""
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
        gone = self.owners.get(manager, set()) - data.keys()
        self.owners[manager] = set(data)
        for key in gone - set().union(*self.owners.values()):
            del self.data[key]
        self.data |= data
        return None


class KubernetesServer(TlsServer):
    """One cluster with the namespaces `shop` and `crm.eu`.

    Attributes:
        credentials: the values of `Authorization` that open it; None stands for a certificate.
        verbs: what they may do with Secrets.
        quota: how many Secrets a namespace may have.
        terminating: the namespaces that are being deleted.
        webhook: what an admission webhook makes of every write.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.token = "sa-credentialCanary.0123456789"
        self.credentials: set[str | None] = {f"Bearer {self.token}"}
        self.verbs = {"get", "patch", "create"}
        self.quota = 100
        self.terminating: set[str] = set()
        self.webhook: Literal["allows", "denies", "knows no dry run"] = "allows"
        self.namespaces = {"shop", "crm.eu"}
        self.secrets: dict[tuple[str, str], StoredSecret] = {}

    def answer(self, request: HttpRequest) -> HttpResponse:  # noqa: PLR0911 - one for each refusal
        if request.headers.get("Authorization") not in self.credentials:
            return _refusal(401, "Unauthorized")
        _, _, _, namespace, _, name = request.names
        verb = {"GET": "get", "PATCH": "patch"}[request.method]
        kept = self.secrets.get((namespace, name))
        if verb not in self.verbs:
            return _forbidden(namespace, name, verb)
        if verb == "get":
            return _refusal(404, "NotFound") if kept is None else _shown(namespace, name, kept)
        if request.headers["Content-Type"] != "application/apply-patch+yaml":
            return _refusal(415, "UnsupportedMediaType")
        if kept is None and "create" not in self.verbs:
            return _forbidden(namespace, name, "create")
        if namespace not in self.namespaces:
            return _refusal(404, "NotFound", f'namespaces "{namespace}" not found')
        return self._admitted(namespace, name, request) or self._apply(namespace, name, request)

    def _admitted(self, namespace: str, name: str, request: HttpRequest) -> HttpResponse | None:
        """What the rules of the cluster have against a write; None for nothing."""
        forbidden = f'secrets "{name}" is forbidden: '
        if (namespace, name) not in self.secrets:
            if namespace in self.terminating:
                text = f"unable to create new content in namespace {namespace} because it is "
                return _refusal(403, "Forbidden", f"{forbidden}{text}being terminated")
            if sum(one == namespace for one, _ in self.secrets) >= self.quota:
                return _refusal(403, "Forbidden", f"{forbidden}exceeded quota: few, requested: ...")
        webhook = 'admission webhook "policy.example.com"'
        if self.webhook == "knows no dry run" and "dryRun" in request.query:
            return _refusal(400, "BadRequest", f"{webhook} does not support dry run")
        if self.webhook == "denies":
            return _refusal(
                400, "BadRequest", f"{webhook} denied the request: no, not even dry run"
            )
        return None

    def _apply(self, namespace: str, name: str, request: HttpRequest) -> HttpResponse:
        body, manager = request.body, request.query.get("fieldManager", "")
        kept = self.secrets.get((namespace, name)) or StoredSecret(type=body.get("type", "Opaque"))
        if request.query.get("dryRun") == "All":
            kept = deepcopy(kept)
        right = (body["apiVersion"], body["kind"], body["metadata"]) == (
            "v1",
            "Secret",
            {"namespace": namespace, "name": name},
        )
        if not right or not 0 < len(manager) <= 128 or body.get("type", kept.type) != kept.type:
            return _refusal(422, "Invalid")
        if not all(map(_KEY.fullmatch, body["data"])):
            return _refusal(422, "Invalid")
        refused = kept.apply(manager, body["data"], force=request.query.get("force") == "true")
        if refused is not None:
            return refused
        new = (namespace, name) not in self.secrets
        if request.query.get("dryRun") != "All":
            self.secrets[namespace, name] = kept
        return _shown(namespace, name, kept, 201 if new else 200)


def _shown(namespace: str, name: str, kept: StoredSecret, status: int = 200) -> HttpResponse:
    for value in kept.data.values():
        base64.b64decode(value, validate=True)
    metadata = {"namespace": namespace, "name": name}
    shown = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kept.type}
    extra = {"immutable": True} if kept.immutable else {}
    return HttpResponse(status, shown | extra | ({"data": kept.data} if kept.data else {}))


def _refusal(status: int, reason: str, message: str = "") -> HttpResponse:
    failure = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message}
    return HttpResponse(status, failure | {"reason": reason, "code": status})


def _forbidden(namespace: str, name: str, verb: str) -> HttpResponse:
    text = (
        f'secrets "{name}" is forbidden: User "ci" cannot {verb} resource "secrets" in API group '
    )
    return _refusal(403, "Forbidden", f'{text}"" in the namespace "{namespace}"')
