"""Kubernetes Secrets, against a server that tracks the owner of each key."""

from __future__ import annotations

import base64
import io
import json
import os
import select
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml
from compliance import FIRST, SECOND, Backend, Compliance
from kubernetes_server import KubernetesServer, StoredSecret
from throttling import Clock, Limit, assert_all_delivered
from tls_server import HttpResponse

from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_content import NoToken
from provisioner.secret import Secret
from provisioner.sinks.kubernetes import Kubernetes, KubernetesAddress
from provisioner.sinks.sink import StoredValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provisioner.sinks.sink import Sink

ADDRESS = KubernetesAddress("shop", "twenty", "key-0")
SECRET = ("shop", "twenty")


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class KubernetesBackend(Backend):
    def __init__(self, server: KubernetesServer, folder: Path) -> None:
        self.server = server
        self.credential = server.token
        self.folder = folder
        self.environment = {"KUBECONFIG": str(folder / "config"), "PATH": os.environ["PATH"]}
        self.account = folder / "account"
        self.configure({"token": server.token})

    def configure(self, user: dict[str, Any], **cluster: Any) -> None:
        authority = {"certificate-authority-data": encode(Path(self.server.ca_file).read_text())}
        self.write_config(
            "config",
            current="here",
            cluster={"server": self.server.url} | (cluster or authority),
            user=user,
        )

    def write_config(
        self,
        file: str,
        *,
        current: str | None = None,
        cluster: dict[str, Any] | None = None,
        user: dict[str, Any] | None = None,
    ) -> Path:
        document: dict[str, Any] = {"apiVersion": "v1", "kind": "Config"}
        if current:
            document["current-context"] = current
            context = {"cluster": "twin", "user": "me"}
            document["contexts"] = [{"name": current, "context": context}]
        if cluster is not None:
            document["clusters"] = [{"name": "twin", "cluster": cluster}]
        if user is not None:
            document["users"] = [{"name": "me", "user": user}]
        path = self.folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(document))
        return path

    def open_sink(self, address: KubernetesAddress = ADDRESS) -> Sink:
        return Kubernetes(self.environment, lambda _: None, self.account).sink(address)

    def sink(self, place: int = 0) -> Sink:
        return self.open_sink(KubernetesAddress("shop", "twenty", f"key-{place}"))

    def stored(self, place: int = 0) -> str | None:
        secret = self.server.secrets.get(SECRET)
        value = secret and secret.data.get(f"key-{place}")
        return base64.b64decode(value).decode() if value else None

    def strange_names(self) -> tuple[Sink, ...]:
        return (
            self.open_sink(KubernetesAddress("crm.eu", "a.b-c.1", "._-A")),
            self.open_sink(KubernetesAddress("crm.eu", "a" * 253, "K" * 253)),
            self.open_sink(KubernetesAddress("crm.eu", "a" * 253, "K" * 252 + "L")),
        )

    @contextmanager
    def denied(self) -> Iterator[None]:
        self.server.verbs = set()
        yield
        self.server.verbs = {"get", "patch", "create"}

    def unreachable(self):
        return self.server.silent()

    @contextmanager
    def wrong_credential(self) -> Iterator[None]:
        self.credential = "wrongCanary"
        self.configure({"token": self.credential})
        yield


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[KubernetesBackend]:
    with KubernetesServer() as server:
        yield KubernetesBackend(server, tmp_path)


class TestKubernetes(Compliance):
    """The promises of every sink."""


def error_of(sink: Sink, step: str = "check") -> SinkError:
    with pytest.raises(SinkError) as caught:
        sink.write(Secret(FIRST)) if step == "write" else getattr(sink, step)()
    assert FIRST not in f"{caught.value.message}{caught.value.remedy}"
    return caught.value


def code_of(sink: Sink, step: str = "check") -> str:
    return error_of(sink, step).code


def test_each_key_has_its_own_owner(backend: KubernetesBackend) -> None:
    """Applying one key does not remove another key that was applied before."""
    backend.sink(0).write(Secret(FIRST))
    backend.sink(1).write(Secret(SECOND))
    owners = backend.server.secrets[SECRET].owners
    assert owners == {"twenty-provisioner.key-0": {"key-0"}, "twenty-provisioner.key-1": {"key-1"}}


def test_the_test_server_removes_keys_that_are_no_longer_applied(
    backend: KubernetesBackend,
) -> None:
    """The danger is real in these tests: one manager for two keys would lose the first."""
    secret = StoredSecret()
    assert secret.apply("one", {"a": "1"}, force=True) is None
    assert secret.apply("one", {"b": "2"}, force=True) is None
    assert secret.data == {"b": "2"}
    assert secret.apply("two", {"b": "3"}, force=False) is not None


def test_a_long_key_has_an_owner_with_a_short_name(backend: KubernetesBackend) -> None:
    """Field managers have 128 characters, and keys that differ only at the end stay separate."""
    for number in range(2):
        backend.open_sink(KubernetesAddress("shop", "twenty", f"{'k' * 250}{number}")).write(
            Secret("x")
        )
    secret = backend.server.secrets[SECRET]
    assert len(secret.data) == len(secret.owners) == 2


def test_keys_of_other_owners_are_kept(backend: KubernetesBackend) -> None:
    """A Secret that was created by hand keeps its type and its other keys."""
    existing = StoredSecret(type="kubernetes.io/basic-auth")
    existing.apply("kubectl", {"key-0": encode("theirs"), "other": encode("kept")}, force=False)
    backend.server.secrets[SECRET] = existing
    backend.sink().check()
    backend.sink().write(Secret(FIRST))
    assert existing.data == {"key-0": encode(FIRST), "other": encode("kept")}
    assert existing.type == "kubernetes.io/basic-auth"
    assert existing.owners["kubectl"] == {"other"}


def test_a_new_secret_is_opaque(backend: KubernetesBackend) -> None:
    """The cluster chooses the type, because it cannot be changed later."""
    backend.sink().write(Secret(FIRST))
    assert backend.server.secrets[SECRET].type == "Opaque"


def test_an_immutable_secret_is_refused(backend: KubernetesBackend) -> None:
    """The check and the write both report it."""
    backend.server.secrets[SECRET] = StoredSecret(immutable=True)
    assert code_of(backend.sink()) == "sink_unsuitable"
    assert code_of(backend.sink(), "write") == "sink_unsuitable"


def error_of_check_and_write(
    backend: KubernetesBackend, address: KubernetesAddress = ADDRESS
) -> SinkError:
    """Return the error of the check and of the write, which are equal, and write nothing."""
    before = dict(backend.server.secrets)
    checked = error_of(backend.open_sink(address))
    written = error_of(backend.open_sink(address), "write")
    assert (checked.code, checked.message) == (written.code, written.message)
    assert checked.remedy == written.remedy
    assert backend.server.secrets == before
    return checked


def test_a_dry_run_writes_nothing(backend: KubernetesBackend) -> None:
    """The check leaves an existing Secret unchanged, and sends no token."""
    backend.sink().write(Secret(FIRST))
    backend.sink().check()
    assert backend.stored() == FIRST
    dry_runs = [one for one in backend.server.requests if one.query.get("dryRun") == "All"]
    assert len(dry_runs) == 1
    assert FIRST not in str(dry_runs[0].body)


def test_a_missing_namespace_is_reported(backend: KubernetesBackend) -> None:
    """The check finds it, though a read cannot distinguish it from a missing Secret."""
    error = error_of_check_and_write(backend, KubernetesAddress("nowhere", "twenty"))
    assert error.code == "sink_missing"
    assert "Create the namespace" in error.remedy


def test_a_namespace_that_is_being_deleted_is_reported(backend: KubernetesBackend) -> None:
    """It accepts no new Secret, but its existing ones can be written."""
    backend.server.terminating = {"shop"}
    error = error_of_check_and_write(backend)
    assert error.code == "sink_unsuitable"
    assert "being deleted" in error.message
    backend.server.secrets[SECRET] = StoredSecret()
    backend.sink().check()


def test_an_exhausted_quota_is_reported(backend: KubernetesBackend) -> None:
    """It is not reported as a missing permission, though the status is the same."""
    backend.server.quota = 0
    error = error_of_check_and_write(backend)
    assert error.code == "sink_failed"
    assert "quota" in error.remedy


def test_a_refusing_admission_rule_is_reported(backend: KubernetesBackend) -> None:
    """Its message may be anything, even mention a dry run, and is not shown."""
    backend.server.webhook = "denies"
    error = error_of_check_and_write(backend)
    assert error.code == "sink_denied"
    assert "admission" in error.remedy
    assert "policy.example.com" not in f"{error.message}{error.remedy}"


def test_a_refusing_admission_policy_is_reported(backend: KubernetesBackend) -> None:
    """Validating policies answer like for an invalid object."""
    message = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"
    backend.server.outcomes = [HttpResponse(404), HttpResponse(422, {"message": message})]
    assert code_of(backend.sink()) == "sink_denied"


def test_a_cluster_without_dry_runs_is_not_refused(backend: KubernetesBackend) -> None:
    """A webhook without support for dry runs refuses them, but may accept the write."""
    backend.server.webhook = "no dry run support"
    backend.sink().check()
    backend.sink().write(Secret(FIRST))
    assert backend.stored() == FIRST


@pytest.mark.parametrize(
    ("answer", "code", "word"),
    [
        (HttpResponse(415), "sink_unsuitable", "1.22"),
        (HttpResponse(422), "sink_unsuitable", "1 MiB"),
        (HttpResponse(403), "sink_denied", "patch and create"),
        (HttpResponse(400, {"message": "no"}), "sink_failed", "400"),
    ],
)
def test_other_refusals_of_a_write_are_explained(
    backend: KubernetesBackend, answer: HttpResponse, code: str, word: str
) -> None:
    """Each of them has a remedy."""
    backend.server.outcomes = [HttpResponse(404), answer]
    error = error_of(backend.sink())
    assert error.code == code
    assert word in f"{error.message}{error.remedy}"


@pytest.mark.parametrize("verb", ["get", "patch", "create"])
def test_a_missing_verb_is_found_by_the_check(backend: KubernetesBackend, verb: str) -> None:
    """The remedy names the verb like the cluster does."""
    backend.server.verbs.remove(verb)
    error = error_of(backend.sink())
    assert error.code == "sink_denied"
    assert verb == "get" or verb in error.remedy
    assert backend.server.secrets == {}


def test_an_existing_secret_needs_no_create_permission(backend: KubernetesBackend) -> None:
    """A role for one existing Secret is sufficient."""
    backend.server.verbs.remove("create")
    backend.server.secrets[SECRET] = StoredSecret()
    backend.sink().check()
    backend.sink().write(Secret(FIRST))
    assert backend.stored() == FIRST


@pytest.mark.parametrize("step", ["check", "read", "write"])
def test_an_unexpected_status_is_reported(backend: KubernetesBackend, step: str) -> None:
    """The message has the status."""
    backend.server.outcomes = [HttpResponse(418, {"message": FIRST})]
    assert code_of(backend.sink(), step) == "sink_failed"


def test_a_failed_dry_run_is_reported(backend: KubernetesBackend) -> None:
    """A dry run without an answer does not count as a success."""
    backend.server.outcomes = [HttpResponse(404), *[HttpResponse(500)] * 4]
    assert code_of(backend.sink()) == "sink_unavailable"


def test_a_conflict_is_retried(backend: KubernetesBackend) -> None:
    """The cluster asks for another attempt, and an endless conflict is reported."""
    backend.server.outcomes = [HttpResponse(409), HttpResponse(409)]
    backend.sink().write(Secret(FIRST))
    assert backend.stored() == FIRST
    backend.server.outcomes = [HttpResponse(409)] * 4
    assert code_of(backend.sink(), "write") == "sink_failed"


def test_binary_content_is_read(backend: KubernetesBackend) -> None:
    """Bytes that someone wrote are content, but not the token."""
    backend.server.secrets[SECRET] = StoredSecret(
        data={"key-0": base64.b64encode(b"\xff\xfe").decode()}
    )
    assert isinstance(backend.sink().read(), StoredValue)
    assert isinstance(backend.sink(1).read(), NoToken)


# The cluster and the credential


def delivers(backend: KubernetesBackend) -> bool:
    """Return whether a token arrives in the cluster that the environment names."""
    backend.sink().write(Secret(FIRST))
    return backend.stored() == FIRST


def test_a_pod_uses_its_service_account(backend: KubernetesBackend) -> None:
    """It uses the pod's host, port, CA certificate and token, and reads a changed token again."""
    backend.account.mkdir()
    token = backend.account / "token"
    token.write_text("wrong")
    (backend.account / "ca.crt").write_text(Path(backend.server.ca_file).read_text())
    port = backend.server.url.rpartition(":")[2]
    backend.environment = {"KUBERNETES_SERVICE_HOST": "localhost", "KUBERNETES_SERVICE_PORT": port}
    sink = backend.sink()
    assert code_of(sink) == "sink_denied"
    token.write_text(f"{backend.server.token}\n")
    sink.check()


def test_kubeconfig_takes_precedence_over_the_pod(backend: KubernetesBackend) -> None:
    """This is the precedence of kubectl."""
    backend.account.mkdir()
    (backend.account / "token").write_text("wrong")
    backend.environment |= {"KUBERNETES_SERVICE_HOST": "nowhere", "KUBERNETES_SERVICE_PORT": "1"}
    assert delivers(backend)


def test_the_default_kubeconfig_is_in_the_home_folder(backend: KubernetesBackend) -> None:
    """It is ~/.kube/config, if nothing else is set."""
    (backend.folder / ".kube").mkdir()
    (backend.folder / "config").rename(backend.folder / ".kube" / "config")
    backend.environment = {"HOME": str(backend.folder)}
    assert delivers(backend)


def test_several_kubeconfigs_are_merged(backend: KubernetesBackend) -> None:
    """The first value counts, missing files are skipped, and paths start from their own file."""
    first = backend.write_config("a/one", current="here", user={"tokenFile": "token"})
    (first.parent / "token").write_text(backend.server.token)
    cluster = {"server": backend.server.url, "certificate-authority": "ca.pem"}
    second = backend.write_config(
        "b/two", current="there", cluster=cluster, user={"token": "wrong"}
    )
    (second.parent / "ca.pem").write_text(Path(backend.server.ca_file).read_text())
    third = backend.write_config("c/three", cluster={"server": "https://localhost:1"})
    files = [str(first), str(backend.folder / "missing"), "", str(second), str(third)]
    backend.environment["KUBECONFIG"] = os.pathsep.join(files)
    assert delivers(backend)


def test_a_kubeconfig_is_read_as_utf_8(backend: KubernetesBackend, monkeypatch) -> None:
    """It means the same where the system has another encoding, as Windows does."""
    (backend.folder / "schlüssel").write_text(backend.server.token)
    backend.configure({"tokenFile": "NAME"})
    config = backend.folder / "config"
    config.write_text(config.read_text().replace("NAME", "schlüssel"), encoding="utf-8")
    monkeypatch.setattr(io, "text_encoding", lambda encoding, _=2: encoding or "cp1252")
    assert delivers(backend)


def test_a_user_with_name_and_password(backend: KubernetesBackend) -> None:
    """Basic authentication works, as some proxies in front of clusters need it."""
    backend.server.credentials = {f"Basic {encode('me:canary:1')}"}
    backend.configure({"username": "me", "password": "canary:1"})
    assert delivers(backend)


@pytest.mark.parametrize("inline", [True, False])
def test_a_client_certificate(tmp_path: Path, inline: bool) -> None:
    """It is sent to the cluster, from the kubeconfig or from files, and leaves no copy behind."""
    clients = trustme.CA()
    mine = clients.issue_cert("me.example")
    key, chain = mine.private_key_pem.bytes(), mine.cert_chain_pems[0].bytes()
    with KubernetesServer(clients=clients) as server:
        server.credentials = {None}
        backend = KubernetesBackend(server, tmp_path)
        if inline:
            pems = {"certificate": chain, "key": key}
            user = {f"client-{name}-data": encode(pem.decode()) for name, pem in pems.items()}
        else:
            (tmp_path / "me.pem").write_bytes(chain)
            (tmp_path / "me.key").write_bytes(key)
            user = {"client-certificate": "me.pem", "client-key": "me.key"}
        backend.configure(user)
        backend.sink().check()
        backend.configure({})
        assert code_of(backend.sink()) == "sink_unavailable"
        backend.configure(user | {"client-key-data": encode("no key")})
        assert code_of(backend.sink()) == "sink_unavailable"


def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    """`tls-server-name` replaces the server's name when the certificate is verified."""

    class Elsewhere(KubernetesServer):
        name = "kubernetes.default.svc"

    with Elsewhere() as server:
        backend = KubernetesBackend(server, tmp_path)
        error = error_of(backend.sink())
        assert (error.code, "not trusted" in error.message) == ("sink_unavailable", True)
        cluster = {"certificate-authority": server.ca_file, "tls-server-name": Elsewhere.name}
        backend.configure({"token": server.token}, **cluster)
        backend.sink().check()


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_an_unverified_certificate_is_only_for_loopback(backend: KubernetesBackend) -> None:
    """`insecure-skip-tls-verify` is refused for every other server, before a request."""
    insecure = {"insecure-skip-tls-verify": True}
    backend.configure({"token": backend.server.token}, **insecure)
    backend.sink().check()
    backend.configure({"token": "x"}, **insecure, server="https://cluster.example")
    error = error_of(backend.sink())
    assert (error.code, "not secure" in error.message) == ("sink_unsuitable", True)


PLUGIN = """#!{python}
import json, os, sys
from pathlib import Path
runs = Path(__file__).with_name("runs")
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
assert info["spec"]["cluster"]["server"] == {server!r}
assert info["spec"]["cluster"]["certificate-authority-data"]
assert info["spec"]["interactive"] is False and sys.stdin.read() == ""
assert sys.argv[1:] == ["get token", "$HOME"] and os.environ["PLUGIN_MODE"] == "on"
print("noise with a secret", file=sys.stderr)
status = {status}
print(json.dumps({{"apiVersion": info["apiVersion"], "kind": "ExecCredential", "status": status}}))
"""


@pytest.fixture
def plugin(backend: KubernetesBackend) -> Callable[..., Path]:
    """Write a credential plugin and a kubeconfig for it; return the file that counts its runs."""

    def write(status: dict[str, Any], version: str = "v1") -> Path:
        file = backend.folder / "bin" / "plugin"
        file.parent.mkdir(exist_ok=True)
        text = PLUGIN.format(python=sys.executable, server=backend.server.url, status=status)
        file.write_text(text)
        file.chmod(0o700)
        settings = {
            "apiVersion": f"client.authentication.k8s.io/{version}",
            "command": "bin/plugin",
            "args": ["get token", "$HOME"],
            "env": [{"name": "PLUGIN_MODE", "value": "on"}],
            "interactiveMode": "IfAvailable",
            "provideClusterInfo": True,
        }
        backend.configure({"exec": settings})
        return file.with_name("runs")

    return write


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
@pytest.mark.parametrize(("hours", "runs"), [(None, 1), (1, 1), (-1, 2)])
def test_a_credential_plugin(
    backend: KubernetesBackend,
    plugin: Callable[..., Path],
    version: str,
    hours: int | None,
    runs: int,
) -> None:
    """It runs like with kubectl, and again after its credential has expired."""
    status = {"token": backend.server.token}
    if hours is not None:
        status["expirationTimestamp"] = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
    runs_file = plugin(status, version)
    backend.sink().check()
    assert len(backend.server.requests) == 2
    assert len(runs_file.read_text()) == runs


def test_a_credential_plugin_may_return_a_certificate(
    tmp_path: Path, plugin: Callable[..., Path], backend: KubernetesBackend
) -> None:
    """The certificate is sent to the cluster as a client certificate."""
    clients = trustme.CA()
    mine = clients.issue_cert("me.example")
    status = {
        "clientCertificateData": mine.cert_chain_pems[0].bytes().decode(),
        "clientKeyData": mine.private_key_pem.bytes().decode(),
    }
    with KubernetesServer(clients=clients) as server:
        server.credentials = {None}
        backend.server = server
        plugin(status)
        assert delivers(backend)


@pytest.mark.parametrize(
    ("status", "how"),
    [
        ({}, "returns no valid credential"),
        ({"token": ""}, "returns no valid credential"),
        ({"token": "canary", "expirationTimestamp": "soon"}, "returns no valid credential"),
        ([], "returns no valid credential"),
        ("exit(3)", "exits with code 3"),
    ],
)
def test_a_failing_credential_plugin_is_reported(
    backend: KubernetesBackend, plugin: Callable[..., Path], status: Any, how: str
) -> None:
    """The message has its name and the reason, but none of its output."""
    plugin({})
    file = backend.folder / "bin" / "plugin"
    file.write_text(file.read_text().replace("status = {}", f"status = {status}"))
    error = error_of(backend.sink())
    assert error.code == "sink_denied"
    assert how in error.message
    assert "canary" not in error.message + error.remedy


def test_a_missing_credential_plugin_is_reported(backend: KubernetesBackend) -> None:
    """The message has its name."""
    settings = {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin"}
    backend.configure({"exec": settings})
    error = error_of(backend.sink())
    assert (error.code, "no-such-plugin cannot" in error.message) == ("sink_denied", True)


def test_a_hanging_credential_plugin_is_killed(
    backend: KubernetesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The programs that it started are killed too."""
    monkeypatch.setattr("provisioner.sinks.kubeconfig._PLUGIN_TIMEOUT", 1.0)
    pipe = backend.folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    arguments = ["-c", 'exec 3>"$0"; echo started >&3; sleep 60 & sleep 60', str(pipe)]
    version = "client.authentication.k8s.io/v1"
    backend.configure({"exec": {"apiVersion": version, "command": "sh", "args": arguments}})
    assert "does not finish" in error_of(backend.sink()).message
    assert os.read(reader, 100) == b"started\n"
    # The pipe ends when no process has it open.
    assert select.select([reader], [], [], 10)[0]
    assert os.read(reader, 100) == b""
    os.close(reader)


@pytest.mark.parametrize(
    "user",
    [
        {"auth-provider": {"name": "gcp"}},
        {"token": "canary", "as": "admin"},
        {"exec": {"apiVersion": "client.authentication.k8s.io/v1alpha1", "command": "x"}},
        {"exec": {"apiVersion": "client.authentication.k8s.io/v1"}},
        {
            "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": "x",
                "interactiveMode": "Always",
            }
        },
        {"client-certificate-data": "no base64: canary", "client-key-data": "canary"},
        {"tokenFile": "missing"},
        {"exec": "canary"},
    ],
)
def test_an_unsupported_user_is_reported(backend: KubernetesBackend, user: dict[str, Any]) -> None:
    """No request is sent with another identity than that of the kubeconfig."""
    backend.configure(user)
    error = error_of(backend.sink())
    assert error.code == "sink_denied"
    assert "canary" not in error.message + error.remedy
    assert backend.server.requests == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- canary",
        "canary: [",
        "\x00canary",
        json.dumps({"current-context": "x"}),
        json.dumps({"current-context": "x", "contexts": [{"name": "x", "context": None}]}),
        json.dumps(
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x"}}],
                "clusters": [{"name": "x", "cluster": {}}],
            }
        ),
        json.dumps({"contexts": "canary", "clusters": ["canary"]}),
    ],
)
def test_an_invalid_kubeconfig_is_reported(backend: KubernetesBackend, text: str) -> None:
    """The error names the problem, and quotes nothing of the file."""
    (backend.folder / "config").write_text(text)
    error = error_of(backend.sink())
    assert error.code == "sink_denied"
    assert "canary" not in error.message + error.remedy


def test_a_missing_kubeconfig_is_reported(backend: KubernetesBackend) -> None:
    """The error says what to set."""
    backend.environment["KUBECONFIG"] = str(backend.folder / "missing")
    error = error_of(backend.sink())
    assert (error.code, "KUBECONFIG" in error.remedy) == ("sink_denied", True)


BUSY = {"kind": "Status", "status": "Failure", "reason": "TooManyRequests", "code": 429}


@pytest.mark.parametrize(
    ("refusal", "tries"),
    [
        (HttpResponse(429, BUSY, {"Retry-After": "60"}), 1),
        (HttpResponse(429, b"Too many requests\n"), 7),
    ],
)
def test_a_busy_cluster_is_one_pause_for_all_keys(
    backend: KubernetesBackend, refusal: HttpResponse, tries: int
) -> None:
    """A 429 of API priority and fairness, or of a proxy that names no wait, loses no key."""
    clock = Clock()
    limit = Limit(backend.server, clock, refusal)
    cluster = Kubernetes(backend.environment, clock.wait, backend.account)
    assert_all_delivered(
        limit,
        lambda place: cluster.sink(KubernetesAddress("shop", "twenty", f"key-{place}")),
        tries,
    )
    assert len(backend.server.secrets[SECRET].data) == 24


def test_a_cluster_that_stays_busy_changes_nothing(backend: KubernetesBackend) -> None:
    """The error does not blame the credential, and the stored token stays."""
    backend.sink().write(Secret(FIRST))
    backend.server.outcomes = [HttpResponse(429, BUSY)] * 40
    with pytest.raises(SinkError) as caught:
        backend.sink().write(Secret(SECOND))
    assert caught.value.code == "sink_unavailable"
    assert "too many requests" in caught.value.message
    assert backend.stored() == FIRST


def test_a_removal_is_based_on_the_version_that_was_read(backend: KubernetesBackend) -> None:
    """If another writer changes the Secret in between, it is read and compared again."""
    backend.sink().write(Secret(FIRST))
    backend.sink(1).write(Secret(SECOND))
    secret = backend.server.secrets[SECRET]
    merge = secret.merge

    def overtaken(version: str, data: dict[str, str | None]) -> HttpResponse | None:
        secret.merge = merge
        secret.apply("kubectl", {"key-0": encode("theirs")}, force=True)
        return merge(version, data)

    secret.merge = overtaken
    assert not backend.sink().remove(Secret(FIRST))
    assert secret.data == {"key-0": encode("theirs"), "key-1": encode(SECOND)}


def test_a_key_can_be_written_again_after_its_removal(backend: KubernetesBackend) -> None:
    """A removal leaves no owner behind, and the Secret stays."""
    backend.sink().write(Secret(FIRST))
    assert backend.sink().remove(Secret(FIRST))
    assert backend.server.secrets[SECRET].data == {}
    backend.sink().write(Secret(SECOND))
    assert backend.stored() == SECOND


def test_an_immutable_secret_keeps_its_token(backend: KubernetesBackend) -> None:
    """The removal fails and says why."""
    backend.sink().write(Secret(FIRST))
    backend.server.secrets[SECRET].immutable = True
    with pytest.raises(SinkError, match="immutable") as caught:
        backend.sink().remove(Secret(FIRST))
    assert caught.value.code == "sink_unsuitable"
    assert backend.stored() == FIRST
