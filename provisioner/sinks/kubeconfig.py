"""The address of the cluster and its credential, from a kubeconfig or from inside a pod.

Sources: "Organizing Cluster Access Using kubeconfig Files" (merging, relative paths), "kubeconfig
(v1)" (members), "Authenticating" section "client-go credential plugins", "Accessing the Kubernetes
API from a Pod".
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from provisioner.errors.codes import Code
from provisioner.http_client.exchange import Route, ca_path_of
from provisioner.runtime.process import Processes
from provisioner.secret import Secret
from provisioner.sinks.http import Credential
from provisioner.sinks.sink import UnusableError, unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""The folder where a pod finds its token and the CA certificate of the cluster."""

_PLUGIN_TIMEOUT = 60.0
_EXPIRY_MARGIN = timedelta(seconds=30)
_EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_UNSUPPORTED = ("as", "as-uid", "as-groups", "as-user-extra", "auth-provider")

_CLUSTER_INFO = ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url")
"""Members of a cluster that a credential plugin may get, in the format of `ExecCredential`."""


_Entries = dict[tuple[str, str], tuple[Mapping[str, Any], Path]]
"""The members of each entry by its kind and name, with the folder of its file."""


class ClusterConfigError(UnusableError):
    """The configuration does not lead to a cluster.

    Args:
        reason: continues a message after "cannot be used: "; contains no secret.
        remedy: one sentence that says what to do.
    """

    def __init__(self, reason: str, remedy: str = "Correct the kubeconfig.") -> None:
        super().__init__(unusable(Code.SINK_DENIED, reason, remedy))


@dataclass(frozen=True, slots=True)
class Cluster:
    """The route to a cluster, and the credential for it.

    Attributes:
        credential: returns the current credential; raises `ClusterConfigError` without one.
        program: the credential plugin that `credential` runs; None without one.
    """

    route: Route
    credential: Callable[[], Credential]
    program: str | None = None


def cluster_of(
    environment: Mapping[str, str],
    service_account: Path = SERVICE_ACCOUNT,
    processes: Processes | None = None,
) -> Cluster:
    """Return the cluster that kubectl would use.

    Args:
        environment: `KUBECONFIG`, a list of files with the system's path separator, or else the
            pod's `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, or else `HOME`.
        service_account: the folder with the credential of the pod.
        processes: the processes of the run, where a credential plugin belongs.

    Raises:
        ClusterConfigError: there is no configuration, or it cannot be used.
    """
    named = environment.get("KUBECONFIG", "")
    host, port = (environment.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
    if not named and host and port and (service_account / "token").is_file():
        base = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        route = Route(base, str(service_account / "ca.crt"), ca_setting="the pod's ca.crt")
        return Cluster(
            route, lambda: _bearer(_read_text(service_account / "token", "the pod's token"))
        )
    files = named.split(os.pathsep) if named else [_default_path(environment)]
    try:
        merged = _merged([Path(file) for file in files if file])
        return _cluster(*merged, environment, processes or Processes())
    except (AttributeError, KeyError, TypeError):
        reason = "the structure of the kubeconfig is not valid"
    raise ClusterConfigError(reason)


def _default_path(environment: Mapping[str, str]) -> str:
    try:
        home = Path(environment.get("HOME") or Path.home())
    except RuntimeError:  # no HOME, and a user without an account, as in containers
        reason = "there is no kubeconfig, because HOME is not set"
        raise ClusterConfigError(reason, "Set KUBECONFIG or HOME.") from None
    return str(home / ".kube" / "config")


def _merged(files: Sequence[Path]) -> tuple[str, _Entries]:
    """Return the current context and the entries of all files; the first value of a name counts."""
    current = ""
    entries: _Entries = {}
    for file in filter(Path.exists, files):
        document, folder = _read_yaml(file), file.absolute().parent
        current = current or str(document.get("current-context") or "")
        for kind in ("cluster", "context", "user"):
            for entry in document.get(f"{kind}s") or ():
                if isinstance(entry, Mapping) and isinstance(entry.get(kind) or {}, Mapping):
                    key = (kind, str(entry.get("name")))
                    entries.setdefault(key, (entry.get(kind) or {}, folder))
    return current, entries


def _cluster(
    current: str, entries: _Entries, environment: Mapping[str, str], processes: Processes
) -> Cluster:
    def entry(kind: str, name: object) -> tuple[Mapping[str, Any], Path]:
        if (found := entries.get((kind, str(name)))) is None:
            raise ClusterConfigError(f"the kubeconfig has no {kind} named {name}")
        return found

    if not current:
        raise ClusterConfigError(
            "there is no kubeconfig with a current context",
            "Set KUBECONFIG, or run in a pod with a service account.",
        )
    context, _ = entry("context", current)
    cluster, folder = entry("cluster", context.get("cluster"))
    # As for kubectl, a context without a user is anonymous.
    user, user_folder = entry("user", context["user"]) if context.get("user") else ({}, folder)
    if not cluster.get("server"):
        raise ClusterConfigError("its cluster has no server")
    authority = _read_pem(cluster, "certificate-authority", folder)
    route = Route(
        str(cluster["server"]).rstrip("/"),
        ca_path=ca_path_of(environment),
        ca_pem=authority,
        server_name=cluster.get("tls-server-name"),
        verify=not cluster.get("insecure-skip-tls-verify"),
        ca_setting="the kubeconfig",
        proxy=cluster.get("proxy-url"),
    )
    if unsupported := next(filter(user.get, _UNSUPPORTED), None):
        raise ClusterConfigError(
            f"its kubeconfig has `{unsupported}`, which is not supported",
            "Use a token, a client certificate or a credential plugin instead.",
        )
    if not user.get("exec"):
        return Cluster(route, _credential_source(user, user_folder))
    info = {name: cluster[name] for name in _CLUSTER_INFO if name in cluster}
    if authority is not None:
        info["certificate-authority-data"] = base64.b64encode(authority.encode()).decode()
    plugin = _Plugin(user["exec"], user_folder, info, environment, processes)
    return Cluster(route, plugin.credential, str(user["exec"]["command"]))


def _credential_source(user: Mapping[str, Any], folder: Path) -> Callable[[], Credential]:
    """Return what reads the credential of a user without a credential plugin."""
    client_certificate = _identity(
        *(_read_pem(user, f"client-{part}", folder) for part in ("certificate", "key"))
    )
    if user.get("tokenFile"):
        file = folder / str(user["tokenFile"])
        name = "the file that `tokenFile` names"
        return lambda: _bearer(_read_text(file, name), client_certificate)
    credential = _bearer(user.get("token"), client_certificate)
    if not user.get("token") and user.get("username"):
        user_and_password = f"{user['username']}:{user.get('password', '')}".encode()
        basic = Secret(f"Basic {base64.b64encode(user_and_password).decode()}")
        credential = Credential({"Authorization": basic}, client_certificate)
    return lambda: credential


class _Plugin:
    """A program that returns the credential; it runs again after the credential expires."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        folder: Path,
        cluster: dict[str, Any],
        environment: Mapping[str, str],
        processes: Processes,
    ) -> None:
        version, command = settings.get("apiVersion"), str(settings.get("command") or "")
        if version not in _EXEC_VERSIONS or not command:
            raise ClusterConfigError(
                "its credential plugin has no command or an unsupported apiVersion",
                "Use client.authentication.k8s.io/v1.",
            )
        if settings.get("interactiveMode") == "Always":
            raise ClusterConfigError(
                "its credential plugin needs a terminal", "Use one that works without a terminal."
            )
        spec: dict[str, Any] = {"interactive": False}
        if settings.get("provideClusterInfo"):
            spec["cluster"] = cluster
        info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
        self._version = version
        self._processes = processes
        # Found on the PATH, except that a path is relative to the folder of the kubeconfig.
        self._program = str(folder / command) if os.sep in command else command
        self._arguments = [str(one) for one in settings.get("args") or ()]
        self._environment = {
            **environment,
            **{str(one["name"]): str(one["value"]) for one in settings.get("env") or ()},
            "KUBERNETES_EXEC_INFO": json.dumps(info),
        }
        self._lock = threading.Lock()
        self._cached: tuple[Credential, datetime | None] | None = None

    def credential(self) -> Credential:
        """Return the credential, and run the program if there is none or it has expired."""
        with self._lock:
            if self._cached is None or (
                self._cached[1] and datetime.now(UTC) + _EXPIRY_MARGIN >= self._cached[1]
            ):
                self._cached = self._fetch()
            return self._cached[0]

    def _fetch(self) -> tuple[Credential, datetime | None]:
        try:
            answer = json.loads(self._run())
            is_valid = answer["kind"] == "ExecCredential" and answer["apiVersion"] == self._version
            status = answer["status"]
            certificate, key = (status.get(f"client{part}Data") for part in ("Certificate", "Key"))
            credential = _bearer(status.get("token"), _identity(certificate, key))
            is_valid = is_valid and credential != Credential({})
            expires_at = status.get("expirationTimestamp")
            expiry = datetime.fromisoformat(expires_at).astimezone(UTC) if expires_at else None
        except (ValueError, KeyError, TypeError, AttributeError):
            is_valid = False
        if not is_valid:
            raise self._plugin_error("returns no valid credential")
        return credential, expiry

    def _run(self) -> bytes:
        """Return the standard output of the program; its standard error may contain secrets."""
        argv = [self._program, *self._arguments]
        try:
            with self._processes.running(
                argv, stdout=subprocess.PIPE, environ=self._environment
            ) as process:
                output, _ = process.communicate(timeout=_PLUGIN_TIMEOUT)
        except (OSError, ValueError):
            raise self._plugin_error("cannot be started") from None
        except subprocess.TimeoutExpired:
            raise self._plugin_error(f"does not finish within {_PLUGIN_TIMEOUT:.0f} s") from None
        if process.returncode != 0:
            raise self._plugin_error(f"exits with code {process.returncode}")
        return output

    def _plugin_error(self, reason: str) -> ClusterConfigError:
        return ClusterConfigError(
            f"the credential plugin {self._program} {reason}",
            "Run kubectl once to see its error message.",
        )


def _bearer(token: object, client_certificate: Secret | None = None) -> Credential:
    """Return the credential with a bearer token, if there is one."""
    bearer = {"Authorization": Secret(f"Bearer {str(token).strip()}")} if token else {}
    return Credential(bearer, client_certificate)


def _identity(certificate: object, key: object) -> Secret | None:
    """Return a client certificate with its key; None without one of them."""
    return Secret(f"{certificate}\n{key}\n") if certificate and key else None


def _read_pem(members: Mapping[str, Any], name: str, folder: Path) -> str | None:
    """Return a PEM text that is part of the configuration, or else of the file that it names."""
    try:
        if data := members.get(f"{name}-data"):
            return base64.b64decode(str(data), validate=True).decode()
    except ValueError:
        data = None
    else:
        if not members.get(name):
            return None
        return _read_text(folder / str(members[name]), f"the file that `{name}` names")
    raise ClusterConfigError(f"its kubeconfig has an invalid `{name}-data`")


def _read_text(file: Path, description: str) -> str:
    """Return the text of a file. No error shows its path, which may be a secret by mistake."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        reason = f"{description} cannot be read"
    raise ClusterConfigError(reason, "Check that it exists and is readable.")


def _read_yaml(file: Path) -> Mapping[str, Any]:
    text = _read_text(file, str(file))
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        document = None  # the parser's message quotes the file
    if not isinstance(document, Mapping):
        raise ClusterConfigError(f"{file} is not a kubeconfig", "Correct the file.")
    return document
