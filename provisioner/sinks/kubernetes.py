"""Kubernetes Secrets, by the REST interface of the cluster.

Sources: "Server-Side Apply", "Secret v1", "SelfSubjectAccessReview v1", "Secrets" (immutable).
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from typing import TYPE_CHECKING

from provisioner.errors import SinkError
from provisioner.secret import Secret
from provisioner.sinks.http import Api, Grant, Once, Reply, segment, unexpected
from provisioner.sinks.kubeconfig import SERVICE_ACCOUNT, ClusterConfigError, cluster_of
from provisioner.sinks.sink import Content, Holds, Nothing, failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from provisioner.address import Address, KubernetesAddress

_OBJECT = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
)
_KEY = re.compile(r"(?!\.\.|\.\Z)[-._A-Za-z0-9]{1,253}", re.ASCII)
_MANAGER = "twenty-provisioner"
_MANAGER_LENGTH = 128
_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_RACE = frozenset({409})  # another writer was between; with `force` no owner is in the way
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Kubernetes:
    """The Secrets of one cluster.

    Relies on: an apply takes away what its field manager applied before and does not now, so
    each key has a manager of its own; `force` takes a key from whoever had it ("Server-Side
    Apply"); a Secret without `type` becomes `Opaque`, and no type can change later ("Secret v1").

    Args:
        environment: as `cluster_of` reads it.
        wait: waits so many seconds.
        service_account: the folder of a pod's credential.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        wait: Callable[[float], None] = time.sleep,
        service_account: Path = SERVICE_ACCOUNT,
    ) -> None:
        self._environment = environment
        self._wait = wait
        self._service_account = service_account
        self._apis: Once[Api] = Once()

    def sink(self, address: KubernetesAddress) -> KubernetesSecret:
        """The sink of an address; nothing is read or sent yet."""
        return KubernetesSecret(lambda: self._apis.get(None, lambda: self._open(address)), address)

    def _open(self, address: KubernetesAddress) -> Api:
        try:
            cluster = cluster_of(self._environment, self._service_account)
        except ClusterConfigError as error:
            raise _unusable(address, error) from None

        def grant(asking: Address) -> Grant:
            try:
                return cluster.grant()
            except ClusterConfigError as error:
                raise _unusable(asking, error) from None

        return Api(cluster.route, grant, {"Accept": "application/json"}, self._wait)


class KubernetesSecret:
    """One key of a Secret; made by `Kubernetes`."""

    def __init__(self, api: Callable[[], Api], address: KubernetesAddress) -> None:
        self._api = api
        self._address = address
        namespace, name = segment(address.namespace), segment(address.secret)
        self._path = f"/api/v1/namespaces/{namespace}/secrets/{name}"

    def prepare(self) -> None:
        """Reads the Secret and asks the cluster whether it may be written."""
        address = self._address
        names = (address.namespace, address.secret)
        if not (all(map(_OBJECT.fullmatch, names)) and _KEY.fullmatch(address.key)):
            raise failed(
                "sink_unsuitable",
                f"{address} cannot be used: Kubernetes takes no such name.",
                "Write names of a-z, 0-9, - and . alone, and keys of letters, digits, -, _ and .",
            )
        found = self._get()
        self._refuse_immutable(found)
        for verb in ("patch",) if found else ("patch", "create"):
            if not self._may(verb):
                raise failed(
                    "sink_denied",
                    f"{address} cannot be used: the cluster does not allow us to {verb} it.",
                    f"Give the role the verb {verb} on secrets in {address.namespace}.",
                )

    def read(self) -> Content:
        """What stands under the key."""
        found = self._get()
        value = (found.body.get("data") or {}).get(self._address.key) if found else None
        if value is None:
            return Nothing()
        return Holds(Secret.found(base64.b64decode(value).decode(errors="replace")))

    def write(self, token: Secret) -> None:
        """Applies the key, and the Secret where there is none; other keys are left alone."""
        address = self._address
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"namespace": address.namespace, "name": address.secret},
            "data": {address.key: base64.b64encode(token.reveal().encode()).decode()},
        }
        path = f"{self._path}?fieldManager={segment(_manager(address.key))}&force=true"
        reply = self._api().call(address, "PATCH", path, body, kind=_APPLY, again=_RACE)
        if reply.status == 404:  # noqa: PLR2004 - not found
            raise failed(
                "sink_missing",
                f"{address} cannot be used: there is no namespace {address.namespace}.",
                "Create the namespace.",
            )
        if reply.status not in (200, 201):
            self._refuse_immutable(self._get())
            raise unexpected(address, reply)

    def _get(self) -> Reply | None:
        reply = self._api().call(self._address, "GET", self._path)
        if reply.status not in (200, 404):
            raise unexpected(self._address, reply)
        return reply if reply.status == 200 else None  # noqa: PLR2004 - found

    def _may(self, verb: str) -> bool:
        """Whether the cluster says so; also where it does not want to be asked."""
        attributes = {
            "namespace": self._address.namespace,
            "name": self._address.secret,
            "resource": "secrets",
            "verb": verb,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        try:
            reply = self._api().call(self._address, "POST", _REVIEWS, body)
        except SinkError as error:
            if error.slug == "sink_denied":
                return True
            raise
        return bool((reply.body.get("status") or {}).get("allowed", True))

    def _refuse_immutable(self, found: Reply | None) -> None:
        if found is not None and found.body.get("immutable"):
            raise failed(
                "sink_unsuitable",
                f"{self._address} cannot be used: the Secret is immutable.",
                "Create a Secret without `immutable`, under this name or another.",
            )


def _manager(key: str) -> str:
    """The field manager that owns a key, and nothing else."""
    name = f"{_MANAGER}.{key}"
    if len(name) <= _MANAGER_LENGTH:
        return name
    return f"{_MANAGER}.{hashlib.sha256(key.encode()).hexdigest()}"


def _unusable(address: Address, error: ClusterConfigError) -> SinkError:
    return failed("sink_denied", f"{address} cannot be used: {error.reason}.", error.remedy)
