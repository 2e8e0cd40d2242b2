"""How the cluster is reached and who asks there: from a kubeconfig, or from within a pod.

Sources: "Organizing Cluster Access Using kubeconfig Files" (merging, relative paths),
"kubeconfig (v1)" (members), "Authenticating" section "client-go credential plugins",
"Accessing the Kubernetes API from a Pod".
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from provisioner.secret import Secret
from provisioner.sinks.http import Grant, Route, route_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its token and the authority of the cluster."""

_PLUGIN_SECONDS = 60.0
_EARLY = timedelta(seconds=30)
_EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_IMPERSONATION = ("as", "as-uid", "as-groups", "as-user-extra")


class ClusterConfigError(Exception):
    """The configuration leads to no cluster.

    Attributes:
        reason: follows "cannot be used: "; holds no secret.
        remedy: one sentence.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Cluster:
    """The way to a cluster.

    Attributes:
        grant: what proves who asks, as of now; a `ClusterConfigError` where there is nothing.
        program: the credential plugin that `grant` runs; None without one.
    """

    route: Route
    grant: Callable[[], Grant]
    program: str | None = None


def cluster_of(environment: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT) -> Cluster:
    """The cluster that kubectl would talk to.

    Args:
        environment: `KUBECONFIG`, files apart by the system's separator, else the pod's own
            `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, else `HOME`.
        service_account: the folder of the pod's credential.

    Raises:
        ClusterConfigError: there is no configuration, or it cannot be used.
    """
    named = environment.get("KUBECONFIG", "")
    host, port = (environment.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
    if not named and host and port and (service_account / "token").is_file():
        base = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        route = Route(base, authority=str(service_account / "ca.crt"))
        return Cluster(
            route, lambda: _bearer(_text(service_account / "token", "the token of the pod"))
        )
    files = named.split(os.pathsep) if named else [_at_home(environment)]
    try:
        return _Merged([Path(file) for file in files if file]).cluster(environment)
    except (AttributeError, KeyError, TypeError):
        reason = "the kubeconfig does not have the shape of one"
    raise ClusterConfigError(reason, "Correct the kubeconfig.")


def _at_home(environment: Mapping[str, str]) -> str:
    try:
        home = Path(environment.get("HOME") or Path.home())
    except RuntimeError:  # no HOME, and a user whom the system does not know, as in containers
        reason = "there is no kubeconfig, because HOME is not set"
        raise ClusterConfigError(reason, "Set KUBECONFIG, or HOME.") from None
    return str(home / ".kube" / "config")


class _Merged:
    """Several kubeconfig files as one: what comes first stands."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._current = ""
        self._entries: dict[tuple[str, str], tuple[Mapping[str, Any], Path]] = {}
        for file in files:
            if file.exists():
                self._add(_yaml(file), file.absolute().parent)

    def _add(self, document: Mapping[str, Any], folder: Path) -> None:
        self._current = self._current or str(document.get("current-context") or "")
        for kind in ("cluster", "context", "user"):
            for entry in document.get(f"{kind}s") or ():
                if isinstance(entry, Mapping) and isinstance(entry.get(kind) or {}, Mapping):
                    key = (kind, str(entry.get("name")))
                    self._entries.setdefault(key, (entry.get(kind) or {}, folder))

    def cluster(self, environment: Mapping[str, str]) -> Cluster:
        if not self._current:
            raise ClusterConfigError(
                "there is no kubeconfig with a current context",
                "Set KUBECONFIG to one, or run in a pod with a service account.",
            )
        context, _ = self._entry("context", self._current)
        members, folder = self._entry("cluster", context.get("cluster"))
        # A context without a user is anonymous, as kubectl has it.
        user, home = self._entry("user", context["user"]) if context.get("user") else ({}, folder)
        route = _route(members, folder, environment)
        info = _cluster_info(members, folder)
        plugin = user.get("exec")
        program = str(plugin["command"]) if plugin else None
        return Cluster(route, _granting(user, home, info, environment), program)

    def _entry(self, kind: str, name: object) -> tuple[Mapping[str, Any], Path]:
        if (entry := self._entries.get((kind, str(name)))) is None:
            raise ClusterConfigError(
                f"the kubeconfig has no {kind} named {name}", "Correct the kubeconfig."
            )
        return entry


def _route(members: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> Route:
    if not members.get("server"):
        raise ClusterConfigError("its cluster has no server", "Correct the kubeconfig.")
    base = str(members["server"]).rstrip("/")
    text = _data(members, "certificate-authority", folder)
    return Route(
        base,
        authority=route_of(base, environment).authority,
        authority_text=text,
        server_name=members.get("tls-server-name"),
        verified=not members.get("insecure-skip-tls-verify"),
        proxy=members.get("proxy-url"),
    )


def _granting(
    user: Mapping[str, Any],
    folder: Path,
    cluster: dict[str, Any],
    environment: Mapping[str, str],
) -> Callable[[], Grant]:
    for member in (*_IMPERSONATION, "auth-provider"):
        if user.get(member):
            raise ClusterConfigError(
                f"its kubeconfig has `{member}`, which is not supported",
                "Use a token, a client certificate or a credential plugin.",
            )
    if user.get("exec"):
        return _Plugin(user["exec"], folder, cluster, environment).grant
    certificate = _data(user, "client-certificate", folder)
    key = _data(user, "client-key", folder)
    identity = Secret(f"{certificate}\n{key}\n") if certificate and key else None
    if user.get("tokenFile"):
        file = folder / str(user["tokenFile"])
        return lambda: _bearer(_text(file, "the file that `tokenFile` names"), identity)
    if user.get("token"):
        grant = _bearer(str(user["token"]), identity)
    elif user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}".encode()
        basic = Secret(f"Basic {base64.b64encode(pair).decode()}")
        grant = Grant({"Authorization": basic}, identity)
    else:
        grant = Grant({}, identity)
    return lambda: grant


class _Plugin:
    """A program that gives the credential, run again once it has expired."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        folder: Path,
        cluster: dict[str, Any],
        environment: Mapping[str, str],
    ) -> None:
        version, command = settings.get("apiVersion"), str(settings.get("command") or "")
        if version not in _EXEC_VERSIONS or not command:
            raise ClusterConfigError(
                "its credential plugin has no command or no known apiVersion",
                "Use client.authentication.k8s.io/v1.",
            )
        if settings.get("interactiveMode") == "Always":
            raise ClusterConfigError(
                "its credential plugin wants a terminal", "Use one that works without."
            )
        spec: dict[str, Any] = {"interactive": False}
        if settings.get("provideClusterInfo"):
            spec["cluster"] = cluster
        info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
        self._version = version
        # As the shell looks for it, but a relative path stands at the kubeconfig's folder.
        self._program = str(folder / command) if os.sep in command else command
        self._arguments = [str(one) for one in settings.get("args") or ()]
        self._environment = {
            **environment,
            **{str(one["name"]): str(one["value"]) for one in settings.get("env") or ()},
            "KUBERNETES_EXEC_INFO": json.dumps(info),
        }
        self._lock = threading.Lock()
        self._given: tuple[Grant, datetime | None] | None = None

    def grant(self) -> Grant:
        """The credential; the program is run where there is none that lasts."""
        with self._lock:
            if self._given is None or _over(self._given[1]):
                self._given = self._ask()
            return self._given[0]

    def _ask(self) -> tuple[Grant, datetime | None]:
        try:
            answer = json.loads(self._run())
            if answer["kind"] != "ExecCredential" or answer["apiVersion"] != self._version:
                answer = {}
            status = answer["status"]
            until = status.get("expirationTimestamp")
            certificate, key = (status.get(f"client{part}Data") for part in ("Certificate", "Key"))
            identity = Secret(f"{certificate}\n{key}\n") if certificate and key else None
            token = status.get("token")
            if not (identity or token):
                answer = {}
            grant = _bearer(str(token), identity) if token else Grant({}, identity)
            given = (grant, datetime.fromisoformat(until).astimezone(UTC) if until else None)
        except (ValueError, KeyError, TypeError, AttributeError):
            answer = {}
        if not answer:
            raise self._useless("gives no credential that can be read")
        return given

    def _run(self) -> bytes:
        """What the program prints; what it says beside that may hold secrets and goes nowhere."""
        command = [self._program, *self._arguments]
        try:
            with subprocess.Popen(  # noqa: S603 - the user's own kubeconfig names it
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,
            ) as process:
                try:
                    printed, _ = process.communicate(timeout=_PLUGIN_SECONDS)
                except BaseException:
                    _kill(process)
                    raise
        except subprocess.TimeoutExpired:
            raise self._useless(f"takes longer than {_PLUGIN_SECONDS:.0f} s") from None
        except OSError:
            raise self._useless("cannot be started") from None
        if process.returncode != 0:
            raise self._useless(f"ends with status {process.returncode}")
        return printed

    def _useless(self, how: str) -> ClusterConfigError:
        return ClusterConfigError(
            f"the credential plugin {self._program} {how}",
            "Run kubectl once to see what it says.",
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a program, with what it started, which would hold its output open."""
    if sys.platform == "win32":
        process.kill()
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _cluster_info(members: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The cluster as `ExecCredential` writes it."""
    names = ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url")
    info = {name: members[name] for name in names if name in members}
    if (text := _data(members, "certificate-authority", folder)) is not None:
        info["certificate-authority-data"] = base64.b64encode(text.encode()).decode()
    return info


def _over(until: datetime | None) -> bool:
    return until is not None and datetime.now(UTC) + _EARLY >= until


def _bearer(token: str, identity: Secret | None = None) -> Grant:
    return Grant({"Authorization": Secret(f"Bearer {token.strip()}")}, identity)


def _data(members: Mapping[str, Any], name: str, folder: Path) -> str | None:
    """A PEM text that stands in the configuration itself, or else in the file that it names."""
    try:
        if data := members.get(f"{name}-data"):
            return base64.b64decode(str(data), validate=True).decode()
    except ValueError:
        data = None
    else:
        if not members.get(name):
            return None
        return _text(folder / str(members[name]), f"the file that `{name}` names")
    raise ClusterConfigError(f"its kubeconfig has a wrong `{name}-data`", "Correct the kubeconfig.")


def _text(file: Path, what: str) -> str:
    """The text of a file; its path is not shown, for a secret may stand in its place by mistake."""
    try:
        return file.read_text()
    except (OSError, ValueError):
        reason = f"{what} cannot be read"
    raise ClusterConfigError(reason, "Check that it is there and readable.")


def _yaml(file: Path) -> Mapping[str, Any]:
    text = _text(file, str(file))
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        document = None  # without the parser's words, which quote the file
    if not isinstance(document, Mapping):
        raise ClusterConfigError(f"{file} is no kubeconfig", "Correct the file.")
    return document
