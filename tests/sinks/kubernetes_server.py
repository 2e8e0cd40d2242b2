"""The Secrets of a cluster as its documentation has them, with the owners of each key.

After "Server-Side Apply" (ownership, conflicts, removal), "Secret v1", "Secrets" (immutable),
"SelfSubjectAccessReview v1" and "Kubernetes API Concepts" (creation by apply needs `create`).
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Any

from tls_server import Asked, TlsServer, Told

_KEY = re.compile(r"[-._A-Za-z0-9]{1,253}", re.ASCII)


@dataclass
class Kept:
    """A Secret, and which keys of its data each field manager owns."""

    data: dict[str, str] = field(default_factory=dict)
    owners: dict[str, set[str]] = field(default_factory=dict)
    type: str = "Opaque"
    immutable: bool = False

    def apply(self, manager: str, data: dict[str, str], *, force: bool) -> Told | None:
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
        reviews: whether they may ask what they may.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.token = "sa-credentialCanary.0123456789"
        self.credentials: set[str | None] = {f"Bearer {self.token}"}
        self.verbs = {"get", "patch", "create"}
        self.reviews = True
        self.namespaces = {"shop", "crm.eu"}
        self.secrets: dict[tuple[str, str], Kept] = {}

    def answer(self, asked: Asked) -> Told:  # noqa: PLR0911 - one for each refusal
        if asked.headers.get("Authorization") not in self.credentials:
            return _refusal(401, "Unauthorized")
        if asked.names[:3] == ("apis", "authorization.k8s.io", "v1"):
            return self._review(asked.body)
        _, _, _, namespace, _, name = asked.names
        verb = {"GET": "get", "PATCH": "patch"}[asked.method]
        kept = self.secrets.get((namespace, name))
        if verb not in self.verbs:
            return _refusal(403, "Forbidden")
        if verb == "get":
            return _refusal(404, "NotFound") if kept is None else _shown(namespace, name, kept)
        if asked.headers["Content-Type"] != "application/apply-patch+yaml":
            return _refusal(415, "UnsupportedMediaType")
        if kept is None and "create" not in self.verbs:
            return _refusal(403, "Forbidden")
        if namespace not in self.namespaces:
            return _refusal(404, "NotFound")
        return self._apply(namespace, name, asked)

    def _apply(self, namespace: str, name: str, asked: Asked) -> Told:
        body, manager = asked.body, asked.query.get("fieldManager", "")
        kept = self.secrets.get((namespace, name)) or Kept(type=body.get("type", "Opaque"))
        right = (body["apiVersion"], body["kind"], body["metadata"]) == (
            "v1",
            "Secret",
            {"namespace": namespace, "name": name},
        )
        if not right or not 0 < len(manager) <= 128 or body.get("type", kept.type) != kept.type:
            return _refusal(422, "Invalid")
        if not all(map(_KEY.fullmatch, body["data"])):
            return _refusal(422, "Invalid")
        refused = kept.apply(manager, body["data"], force=asked.query.get("force") == "true")
        if refused is not None:
            return refused
        new = (namespace, name) not in self.secrets
        self.secrets[namespace, name] = kept
        return _shown(namespace, name, kept, 201 if new else 200)

    def _review(self, body: dict[str, Any]) -> Told:
        wanted = body["spec"]["resourceAttributes"]
        if not self.reviews:
            return _refusal(403, "Forbidden")
        allowed = wanted["resource"] == "secrets" and wanted["verb"] in self.verbs
        return Told(201, body | {"status": {"allowed": allowed}})


def _shown(namespace: str, name: str, kept: Kept, status: int = 200) -> Told:
    for value in kept.data.values():
        base64.b64decode(value, validate=True)
    metadata = {"namespace": namespace, "name": name}
    shown = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kept.type}
    extra = {"immutable": True} if kept.immutable else {}
    return Told(status, shown | extra | ({"data": kept.data} if kept.data else {}))


def _refusal(status: int, reason: str) -> Told:
    failure = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
    return Told(status, failure | {"reason": reason, "code": status})
