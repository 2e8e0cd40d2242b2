"""The sink `kubernetes`: Kubernetes Secrets, by the REST API of the cluster.

Sources: "Server-Side Apply", "Kubernetes API Concepts" (dry run), "Secret v1", "Secrets"
(immutable), "Resource Quotas", "Dynamic Admission Control", and the messages of `apiserver`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar

from provisioner.errors.codes import Code
from provisioner.model.sink_address import Address
from provisioner.model.sink_content import NoToken
from provisioner.secret import Secret
from provisioner.sinks.http import Api, Credential, Once, Reply, segment, unexpected_status
from provisioner.sinks.kind import Allowed, Option, SinkKind
from provisioner.sinks.kubeconfig import SERVICE_ACCOUNT, ClusterConfigError, cluster_of
from provisioner.sinks.sink import Content, StoredValue, naming, unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from provisioner.runtime.process import Processes
    from provisioner.sinks.kind import OptionValues

_MANAGER = "twenty-provisioner"
_MANAGER_LENGTH = 128
_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_MERGE = "application/merge-patch+json"
_MAX_REMOVALS = 8
_RETRY_STATUSES = frozenset(
    {409}
)  # another writer interfered; with `force` it is never a conflict of owners
_EXPLAINED_STATUSES = frozenset({403})
_PLACEHOLDER = base64.b64encode(b"placeholder").decode()
_NO_DRY_RUN_TEXT = re.compile(r"dry.?run", re.IGNORECASE)
_DENIED_TEXT = re.compile(r"denied (the )?request")
_VERB_TEXT = re.compile(r" cannot (create|patch) ")


@dataclass(frozen=True, slots=True)
class KubernetesAddress(Address):
    """A key of a Kubernetes Secret."""

    kind: ClassVar[str] = "kubernetes"
    namespace: str
    secret: str
    key: str = "token"

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the Secret with its namespace."""
        return (f"{self.namespace}/{self.secret}",)

    @property
    def removes(self) -> bool:
        """Return True: the sink can remove a token."""
        return True

    def __str__(self) -> str:
        return f"kubernetes {self.namespace}/{self.secret} {self.key}"


def _configured(environment: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the address of the cluster, empty without one, and its credential plugin."""
    try:
        cluster = cluster_of(environment)
    except ClusterConfigError:
        return "", None
    return cluster.route.base, cluster.program


class Kubernetes:
    """The Secrets of one cluster.

    Relies on: an apply removes what its field manager applied before and no longer does, so each
    key has its own manager; `force` takes over a key from any other manager ("Server-Side Apply");
    a Secret without `type` becomes `Opaque`, and its type can never change ("Secret v1").

    Args:
        environment: the environment variables, for `cluster_of`.
        wait: waits for a number of seconds.
        service_account: the folder with the credential of a pod.
        processes: the processes of the run, where a credential plugin belongs.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        wait: Callable[[float], None] = time.sleep,
        service_account: Path = SERVICE_ACCOUNT,
        processes: Processes | None = None,
    ) -> None:
        self._environment = environment
        self._wait = wait
        self._service_account = service_account
        self._processes = processes
        self._apis: Once[Api] = Once()

    def sink(self, address: KubernetesAddress) -> KubernetesSecret:
        """Return the sink of an address; nothing is read or sent yet."""
        return KubernetesSecret(lambda: self._apis.get(None, lambda: self._open(address)), address)

    def _open(self, address: KubernetesAddress) -> Api:
        with naming(address):
            cluster = cluster_of(self._environment, self._service_account, self._processes)

        def credential(requester: Address) -> Credential:
            with naming(requester):
                return cluster.credential()

        return Api(cluster.route, credential, {"Accept": "application/json"}, self._wait)


class KubernetesSecret:
    """One key of a Secret; created by `Kubernetes`."""

    def __init__(self, api: Callable[[], Api], address: KubernetesAddress) -> None:
        self._api = api
        self._address = address
        namespace, name = segment(address.namespace), segment(address.secret)
        self._path = f"/api/v1/namespaces/{namespace}/secrets/{name}"

    def check(self) -> None:
        """Read the Secret, and write a placeholder in a dry run."""
        self._check_mutable(self._get())
        reply = self._apply(_PLACEHOLDER, "&dryRun=All")
        # A webhook without support for dry runs refuses them, but may accept the write.
        if not _is_dry_run_unsupported(reply):
            self._check_reply(reply)

    def read(self) -> Content:
        """Return the value of the key."""
        found = self._get()
        value = (found.body.get("data") or {}).get(self._address.key) if found else None
        if value is None:
            return NoToken()
        return StoredValue(Secret.received(base64.b64decode(value).decode(errors="replace")))

    def write(self, token: Secret) -> None:
        """Apply the key, and create the Secret if it is missing; other keys stay unchanged."""
        self._check_reply(self._apply(_encoded(token)))

    def remove(self, token: Secret) -> bool:
        """Remove the key from the Secret, which stays even if it was the only key.

        The change names the version of the Secret that it is based on, so the cluster refuses it if
        another writer was faster.
        """
        key = self._address.key
        for attempt in range(1, _MAX_REMOVALS + 1):
            found = self._get()
            value = (found.body.get("data") or {}).get(key) if found else None
            if found is None or value is None:
                return True
            if value != _encoded(token):
                return False
            version = found.body.get("metadata", {}).get("resourceVersion")
            body = {"metadata": {"resourceVersion": version}, "data": {key: None}}
            reply = self._api().call(
                self._address,
                "PATCH",
                self._path,
                body,
                content_type=_MERGE,
                returned_statuses=_EXPLAINED_STATUSES,
            )
            if reply.status not in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                self._check_reply(reply)
                return True
            self._api().wait(attempt)
        reason = f"another writer changed the Secret {_MAX_REMOVALS} times"
        remedy = "Run the command again once nothing else is writing to this Secret."
        raise unusable(Code.SINK_FAILED, reason, remedy).error(self._address)

    def _apply(self, value: str, query: str = "") -> Reply:
        address = self._address
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"namespace": address.namespace, "name": address.secret},
            "data": {address.key: value},
        }
        path = f"{self._path}?fieldManager={segment(_field_manager(address.key))}&force=true{query}"
        return self._api().call(
            address,
            "PATCH",
            path,
            body,
            content_type=_APPLY,
            retry_statuses=_RETRY_STATUSES,
            returned_statuses=_EXPLAINED_STATUSES,
        )

    def _check_reply(self, reply: Reply) -> None:
        """Raise with an explanation if a write was refused; the answer itself is not shown."""
        message, namespace = _message(reply), self._address.namespace
        match reply.status:
            case 200 | 201:
                return
            case 404:
                code, reason = Code.SINK_MISSING, f"the namespace {namespace} does not exist"
                remedy = "Create the namespace, or correct its name."
            case 415:
                code = Code.SINK_UNSUITABLE
                reason = "this cluster does not support server-side apply"
                remedy = "Use a cluster with Kubernetes 1.22 or later."
            case 403 if "exceeded quota" in message:
                code, reason = (
                    Code.SINK_FAILED,
                    f"the quota of the namespace {namespace} is exhausted",
                )
                remedy = "Raise the quota of the namespace, or delete unused Secrets."
            case 403 if "being terminated" in message:
                code, reason = Code.SINK_UNSUITABLE, f"the namespace {namespace} is being deleted"
                remedy = "Create it again after the deletion, or use another namespace."
            case 400 | 403 | 422 if _DENIED_TEXT.search(message):
                code, reason = Code.SINK_DENIED, "an admission rule in the cluster rejects it"
                remedy = f"Check the admission webhooks and policies for secrets in {namespace}."
            case 403:
                verb = found[1] if (found := _VERB_TEXT.search(message)) else "patch and create"
                code, reason = Code.SINK_DENIED, f"this identity may not {verb} it"
                remedy = f"Grant the role the verb {verb} on secrets in {namespace}."
            case 422:
                self._check_mutable(self._get())
                code, reason = Code.SINK_UNSUITABLE, "the cluster rejects the Secret as invalid"
                remedy = "Check its names, and that it is smaller than 1 MiB."
            case _:
                raise unexpected_status(self._address, reply)
        raise unusable(code, reason, remedy).error(self._address)

    def _get(self) -> Reply | None:
        return self._api().find(self._address, self._path)

    def _check_mutable(self, found: Reply | None) -> None:
        if found is not None and found.body.get("immutable"):
            code, reason = Code.SINK_UNSUITABLE, "the Secret is immutable"
            remedy = "Create a Secret without `immutable`, under this name or another."
            raise unusable(code, reason, remedy).error(self._address)


def _encoded(token: Secret) -> str:
    return base64.b64encode(token.reveal().encode()).decode()


def _is_dry_run_unsupported(reply: Reply) -> bool:
    message = _message(reply)
    unknown = reply.status == 400 and _NO_DRY_RUN_TEXT.search(message)  # noqa: PLR2004 - refused
    return bool(unknown and not _DENIED_TEXT.search(message))


def _message(reply: Reply) -> str:
    """Return the text of a refusal, which may quote a part of the request."""
    return str(reply.body.get("message", ""))


def _field_manager(key: str) -> str:
    """Return the field manager that owns only this key."""
    name = f"{_MANAGER}.{key}"
    if len(name) <= _MANAGER_LENGTH:
        return name
    return f"{_MANAGER}.{hashlib.sha256(key.encode()).hexdigest()}"


def _address(values: OptionValues) -> KubernetesAddress:
    namespace, _, secret = values.text("kubernetes").partition("/")
    return KubernetesAddress(namespace, secret, values.text("key"))


_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"

SINK = SinkKind(
    title="Kubernetes",
    description="One key in a Kubernetes Secret.",
    options=(
        Option(
            "kubernetes",
            "Secret",
            "The namespace, a slash, and the name of the Secret.",
            # Kubernetes docs, "Object Names and IDs": a label, and a subdomain
            Allowed(
                re.compile(rf"(?=[^/]{{1,63}}/.{{1,253}}\Z){_LABEL}/{_LABEL}(?:\.{_LABEL})*"),
                "NAMESPACE/SECRET, in lowercase letters, digits and `-`; SECRET may also contain "
                "dots",
            ),
            examples=("billing/twenty",),
        ),
        Option(
            "key",
            "Key",
            "The key in the Secret that contains the token.",
            # Kubernetes docs, "Secrets", constraints on data; the API refuses these dots
            Allowed(
                re.compile(r"(?!\.\.|\.\Z)[-._a-zA-Z0-9]{1,253}"),
                "1 to 253 letters, digits, dots, - and _, but not . and not starting with ..",
            ),
            default="token",
        ),
    ),
    address=_address,
    connect=lambda context: (
        Kubernetes(context.environ, context.wait, processes=context.processes).sink
    ),
    server_of=lambda environ, _: _configured(environ)[0],
    program_of=lambda _, environ: _configured(environ)[1],
)
