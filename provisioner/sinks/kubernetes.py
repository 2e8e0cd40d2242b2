"""Kubernetes Secrets, by the REST interface of the cluster.

Sources: "Server-Side Apply", "Kubernetes API Concepts" (dry run), "Secret v1", "Secrets"
(immutable), "Resource Quotas", "Dynamic Admission Control", and the words of `apiserver`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from typing import TYPE_CHECKING

from provisioner.secret import Secret
from provisioner.sinks.http import Api, Grant, Once, Reply, segment, unexpected
from provisioner.sinks.kubeconfig import SERVICE_ACCOUNT, ClusterConfigError, cluster_of
from provisioner.sinks.sink import Content, Empty, StoredValue, failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from provisioner.errors.exceptions import SinkError
    from provisioner.model.sink_address import Address, KubernetesAddress
    from provisioner.sinks.sink import SinkCode

_OBJECT = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
)
_KEY = re.compile(r"(?!\.\.|\.\Z)[-._A-Za-z0-9]{1,253}", re.ASCII)
_MANAGER = "twenty-provisioner"
_MANAGER_LENGTH = 128
_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_RACE = frozenset({409})  # another writer was between; with `force` no owner is in the way
_REFUSALS = frozenset({403})
_PLACEHOLDER = base64.b64encode(b"placeholder").decode()
_NO_DRY_RUN = re.compile(r"dry.?run", re.IGNORECASE)
_DENIED = re.compile(r"denied (the )?request")
_VERB = re.compile(r" cannot (create|patch) ")


def server_of(environment: Mapping[str, str]) -> str:
    """Return the address of the cluster; empty where no configuration leads to one."""
    try:
        return cluster_of(environment).route.base
    except ClusterConfigError:
        return ""


def program_of(environment: Mapping[str, str]) -> str | None:
    """Return the credential plugin of the kubeconfig; None without one."""
    try:
        return cluster_of(environment).program
    except ClusterConfigError:
        return None


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

    def check(self) -> None:
        """Reads the Secret, and has the cluster try a write of another value as a dry run."""
        address = self._address
        names = (address.namespace, address.secret)
        if not (all(map(_OBJECT.fullmatch, names)) and _KEY.fullmatch(address.key)):
            raise failed(
                "sink_unsuitable",
                f"{address} cannot be used: Kubernetes takes no such name.",
                "Write names of a-z, 0-9, - and . alone, and keys of letters, digits, -, _ and .",
            )
        self._refuse_immutable(self._get())
        reply = self._apply(_PLACEHOLDER, "&dryRun=All")
        # A webhook that knows no dry run has it refused, and says nothing of a write.
        if not _cannot_try(reply):
            self._judge(reply)

    def read(self) -> Content:
        """What stands under the key."""
        found = self._get()
        value = (found.body.get("data") or {}).get(self._address.key) if found else None
        if value is None:
            return Empty()
        return StoredValue(Secret.received(base64.b64decode(value).decode(errors="replace")))

    def write(self, token: Secret) -> None:
        """Applies the key, and the Secret where there is none; other keys are left alone."""
        self._judge(self._apply(base64.b64encode(token.reveal().encode()).decode()))

    def _apply(self, value: str, more: str = "") -> Reply:
        address = self._address
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"namespace": address.namespace, "name": address.secret},
            "data": {address.key: value},
        }
        path = f"{self._path}?fieldManager={segment(_manager(address.key))}&force=true{more}"
        return self._api().call(
            address, "PATCH", path, body, kind=_APPLY, again=_RACE, explained=_REFUSALS
        )

    def _judge(self, reply: Reply) -> None:
        """Explains why a write was refused, by what the cluster says; none of that is shown."""
        said, namespace = _said(reply), self._address.namespace
        match reply.status:
            case 200 | 201:
                return
            case 404:
                raise self._error(
                    "sink_missing",
                    f"there is no namespace {namespace}",
                    "Create the namespace, or correct its name.",
                )
            case 415:
                raise self._error(
                    "sink_unsuitable",
                    "this cluster knows no server-side apply",
                    "Use a cluster of Kubernetes 1.22 or later.",
                )
            case 403 if "exceeded quota" in said:
                raise self._error(
                    "sink_failed",
                    f"the quota of {namespace} is used up",
                    "Have the quota of the namespace raised, or remove what nobody needs.",
                )
            case 403 if "being terminated" in said:
                raise self._error(
                    "sink_unsuitable",
                    f"the namespace {namespace} is being deleted",
                    "Create it again when it is gone, or name another one.",
                )
            case 400 | 403 | 422 if _DENIED.search(said):
                raise self._error(
                    "sink_denied",
                    "an admission rule of the cluster refuses it",
                    f"Look at the admission webhooks and policies for secrets in {namespace}.",
                )
            case 403:
                verb = found[1] if (found := _VERB.search(said)) else "patch and create"
                raise self._error(
                    "sink_denied",
                    f"the cluster does not allow us to {verb} it",
                    f"Give the role the verb {verb} on secrets in {namespace}.",
                )
            case 422:
                self._refuse_immutable(self._get())
                raise self._error(
                    "sink_unsuitable",
                    "the cluster takes no such Secret",
                    "Check its names, and that it stays below 1 MiB.",
                )
            case _:
                raise unexpected(self._address, reply)

    def _get(self) -> Reply | None:
        reply = self._api().call(self._address, "GET", self._path)
        if reply.status not in (200, 404):
            raise unexpected(self._address, reply)
        return reply if reply.status == 200 else None  # noqa: PLR2004 - found

    def _refuse_immutable(self, found: Reply | None) -> None:
        if found is not None and found.body.get("immutable"):
            raise self._error(
                "sink_unsuitable",
                "the Secret is immutable",
                "Create a Secret without `immutable`, under this name or another.",
            )

    def _error(self, code: SinkCode, what: str, remedy: str) -> SinkError:
        return failed(code, f"{self._address} cannot be used: {what}.", remedy)


def _cannot_try(reply: Reply) -> bool:
    said = _said(reply)
    unknown = reply.status == 400 and _NO_DRY_RUN.search(said)  # noqa: PLR2004 - refused
    return bool(unknown and not _DENIED.search(said))


def _said(reply: Reply) -> str:
    """The words of a refusal, which may show a part of what was sent."""
    return str(reply.body.get("message", ""))


def _manager(key: str) -> str:
    """The field manager that owns a key, and nothing else."""
    name = f"{_MANAGER}.{key}"
    if len(name) <= _MANAGER_LENGTH:
        return name
    return f"{_MANAGER}.{hashlib.sha256(key.encode()).hexdigest()}"


def _unusable(address: Address, error: ClusterConfigError) -> SinkError:
    return failed("sink_denied", f"{address} cannot be used: {error.reason}.", error.remedy)
