"""Kubernetes Secrets, against a server that knows the owner of each key."""

from __future__ import annotations

import base64
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
from provisioner.model.sink_address import KubernetesAddress
from provisioner.secret import Secret
from provisioner.sinks.kubernetes import Kubernetes
from provisioner.sinks.sink import Empty, StoredValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provisioner.sinks.sink import Sink

ADDRESS = KubernetesAddress("shop", "twenty", "key-0")
HELD = ("shop", "twenty")


def coded(text: str) -> str:
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
        authority = {"certificate-authority-data": coded(Path(self.server.ca_file).read_text())}
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

    def opened(self, address: KubernetesAddress = ADDRESS) -> Sink:
        return Kubernetes(self.environment, lambda _: None, self.account).sink(address)

    def sink(self, place: int = 0) -> Sink:
        return self.opened(KubernetesAddress("shop", "twenty", f"key-{place}"))

    def stored(self, place: int = 0) -> str | None:
        kept = self.server.secrets.get(HELD)
        value = kept and kept.data.get(f"key-{place}")
        return base64.b64decode(value).decode() if value else None

    def strange_names(self) -> tuple[Sink, ...]:
        return (
            self.opened(KubernetesAddress("crm.eu", "a.b-c.1", "._-A")),
            self.opened(KubernetesAddress("crm.eu", "a" * 253, "K" * 253)),
            self.opened(KubernetesAddress("crm.eu", "a" * 253, "K" * 252 + "L")),
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
    """What every sink promises."""


def error_of(sink: Sink, step: str = "check") -> SinkError:
    with pytest.raises(SinkError) as caught:
        sink.write(Secret(FIRST)) if step == "write" else getattr(sink, step)()
    assert FIRST not in f"{caught.value.message}{caught.value.remedy}"
    return caught.value


def code_of(sink: Sink, step: str = "check") -> str:
    return error_of(sink, step).code


def test_each_key_has_an_owner_of_its_own(backend: KubernetesBackend) -> None:
    """One apply takes no key away that another one of ours set before."""
    backend.sink(0).write(Secret(FIRST))
    backend.sink(1).write(Secret(SECOND))
    owners = backend.server.secrets[HELD].owners
    assert owners == {"twenty-provisioner.key-0": {"key-0"}, "twenty-provisioner.key-1": {"key-1"}}


def test_the_stand_in_takes_away_what_is_applied_no_more(backend: KubernetesBackend) -> None:
    """The trap is real here: one manager for two keys would lose the first."""
    kept = StoredSecret()
    assert kept.apply("one", {"a": "1"}, force=True) is None
    assert kept.apply("one", {"b": "2"}, force=True) is None
    assert kept.data == {"b": "2"}
    assert kept.apply("two", {"b": "3"}, force=False) is not None


def test_a_long_key_has_an_owner_with_a_short_name(backend: KubernetesBackend) -> None:
    """Field managers have 128 characters; keys that differ only at the end stay apart."""
    for number in range(2):
        backend.opened(KubernetesAddress("shop", "twenty", f"{'k' * 250}{number}")).write(
            Secret("x")
        )
    kept = backend.server.secrets[HELD]
    assert len(kept.data) == len(kept.owners) == 2


def test_what_others_own_is_kept_and_our_key_is_taken_over(backend: KubernetesBackend) -> None:
    """A Secret made by hand keeps its type and its other keys."""
    theirs = StoredSecret(type="kubernetes.io/basic-auth")
    theirs.apply("kubectl", {"key-0": coded("theirs"), "other": coded("kept")}, force=False)
    backend.server.secrets[HELD] = theirs
    backend.sink().check()
    backend.sink().write(Secret(FIRST))
    assert theirs.data == {"key-0": coded(FIRST), "other": coded("kept")}
    assert theirs.type == "kubernetes.io/basic-auth"
    assert theirs.owners["kubectl"] == {"other"}


def test_a_new_secret_is_opaque(backend: KubernetesBackend) -> None:
    """The type is left to the cluster, which refuses another one later."""
    backend.sink().write(Secret(FIRST))
    assert backend.server.secrets[HELD].type == "Opaque"


def test_an_immutable_secret_is_told(backend: KubernetesBackend) -> None:
    """It is found out beforehand, and told also when it became so meanwhile."""
    backend.server.secrets[HELD] = StoredSecret(immutable=True)
    assert code_of(backend.sink()) == "sink_unsuitable"
    assert code_of(backend.sink(), "write") == "sink_unsuitable"


def refused(backend: KubernetesBackend, address: KubernetesAddress = ADDRESS) -> SinkError:
    """What looking ahead and the write both end in; nothing was written by either."""
    before = dict(backend.server.secrets)
    ahead, written = error_of(backend.opened(address)), error_of(backend.opened(address), "write")
    assert (ahead.code, ahead.message) == (written.code, written.message)
    assert ahead.remedy == written.remedy
    assert backend.server.secrets == before
    return ahead


def test_a_dry_run_writes_nothing(backend: KubernetesBackend) -> None:
    """Looking ahead leaves a Secret that is there as it was, and sends no token."""
    backend.sink().write(Secret(FIRST))
    backend.sink().check()
    assert backend.stored() == FIRST
    dry = [one for one in backend.server.requests if one.query.get("dryRun") == "All"]
    assert len(dry) == 1
    assert FIRST not in str(dry[0].body)


def test_a_missing_namespace_is_told(backend: KubernetesBackend) -> None:
    """Before a token is made, though a Secret that is not there looks the same."""
    error = refused(backend, KubernetesAddress("nowhere", "twenty"))
    assert error.code == "sink_missing"
    assert "Create the namespace" in error.remedy


def test_a_namespace_that_is_being_deleted_is_told(backend: KubernetesBackend) -> None:
    """It takes nothing new; what is in it may still be written."""
    backend.server.terminating = {"shop"}
    error = refused(backend)
    assert error.code == "sink_unsuitable"
    assert "being deleted" in error.message
    backend.server.secrets[HELD] = StoredSecret()
    backend.sink().check()


def test_a_quota_that_is_used_up_is_told(backend: KubernetesBackend) -> None:
    """It is no matter of rights, though the cluster answers as if it were."""
    backend.server.quota = 0
    error = refused(backend)
    assert error.code == "sink_failed"
    assert "quota" in error.remedy


def test_an_admission_rule_that_refuses_is_told(backend: KubernetesBackend) -> None:
    """Its words may be anything, those of a dry run too, and are not shown."""
    backend.server.webhook = "denies"
    error = refused(backend)
    assert error.code == "sink_denied"
    assert "admission" in error.remedy
    assert "policy.example.com" not in f"{error.message}{error.remedy}"


def test_a_policy_of_the_cluster_that_refuses_is_told(backend: KubernetesBackend) -> None:
    """Validating policies answer as for an invalid object."""
    message = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"
    backend.server.outcomes = [HttpResponse(404), HttpResponse(422, {"message": message})]
    assert code_of(backend.sink()) == "sink_denied"


def test_a_cluster_that_cannot_try_is_not_refused(backend: KubernetesBackend) -> None:
    """A webhook without dry runs has them refused, which says nothing of a write."""
    backend.server.webhook = "knows no dry run"
    backend.sink().check()
    backend.sink().write(Secret(FIRST))
    assert backend.stored() == FIRST


@pytest.mark.parametrize(
    ("told", "code", "word"),
    [
        (HttpResponse(415), "sink_unsuitable", "1.22"),
        (HttpResponse(422), "sink_unsuitable", "1 MiB"),
        (HttpResponse(403), "sink_denied", "patch and create"),
        (HttpResponse(400, {"message": "no"}), "sink_failed", "400"),
    ],
)
def test_other_refusals_of_a_write_are_explained(
    backend: KubernetesBackend, told: HttpResponse, code: str, word: str
) -> None:
    """Each with what to do about it."""
    backend.server.outcomes = [HttpResponse(404), told]
    error = error_of(backend.sink())
    assert error.code == code
    assert word in f"{error.message}{error.remedy}"


@pytest.mark.parametrize("verb", ["get", "patch", "create"])
def test_a_verb_that_is_not_allowed_is_told_beforehand(
    backend: KubernetesBackend, verb: str
) -> None:
    """The verb is named, as the cluster names it."""
    backend.server.verbs.remove(verb)
    error = error_of(backend.sink())
    assert error.code == "sink_denied"
    assert verb == "get" or verb in error.remedy
    assert backend.server.secrets == {}


def test_creating_need_not_be_allowed_where_the_secret_is(backend: KubernetesBackend) -> None:
    """A role for one Secret that is there is enough."""
    backend.server.verbs.remove("create")
    backend.server.secrets[HELD] = StoredSecret()
    backend.sink().check()
    backend.sink().write(Secret(FIRST))
    assert backend.stored() == FIRST


@pytest.mark.parametrize("step", ["check", "read", "write"])
def test_an_answer_that_nothing_foresees_is_told(backend: KubernetesBackend, step: str) -> None:
    """Its status is named."""
    backend.server.outcomes = [HttpResponse(418, {"message": FIRST})]
    assert code_of(backend.sink(), step) == "sink_failed"


def test_a_cluster_that_cannot_be_asked_is_told(backend: KubernetesBackend) -> None:
    """A dry run that is lost is no permission."""
    backend.server.outcomes = [HttpResponse(404), *[HttpResponse(500)] * 4]
    assert code_of(backend.sink()) == "sink_unavailable"


def test_a_writer_in_between_is_no_failure(backend: KubernetesBackend) -> None:
    """The cluster asks for another try, and gets it; a race without end is told."""
    backend.server.outcomes = [HttpResponse(409), HttpResponse(409)]
    backend.sink().write(Secret(FIRST))
    assert backend.stored() == FIRST
    backend.server.outcomes = [HttpResponse(409)] * 4
    assert code_of(backend.sink(), "write") == "sink_failed"


@pytest.mark.parametrize(
    "address",
    [
        KubernetesAddress("shop", "Twenty"),
        KubernetesAddress("shop", "a/b"),
        KubernetesAddress("sh op", "twenty"),
        KubernetesAddress("shop", "a" * 254),
        KubernetesAddress("shop", "twenty", "a/b"),
        KubernetesAddress("shop", "twenty", ".."),
        KubernetesAddress("shop", "twenty", ""),
    ],
)
def test_names_that_no_cluster_takes_are_told_beforehand(
    backend: KubernetesBackend, address: KubernetesAddress
) -> None:
    """Nothing is sent for them."""
    assert code_of(backend.opened(address)) == "sink_unsuitable"
    assert backend.server.requests == []


def test_what_is_no_text_is_read_all_the_same(backend: KubernetesBackend) -> None:
    """Bytes that someone put there are something, and not our token."""
    backend.server.secrets[HELD] = StoredSecret(
        data={"key-0": base64.b64encode(b"\xff\xfe").decode()}
    )
    assert isinstance(backend.sink().read(), StoredValue)
    assert isinstance(backend.sink(1).read(), Empty)


# How the cluster is found and who asks there.


def delivers(backend: KubernetesBackend) -> bool:
    """Whether a token arrives in the cluster that the environment leads to."""
    backend.sink().write(Secret(FIRST))
    return backend.stored() == FIRST


def test_a_pod_uses_its_service_account(backend: KubernetesBackend) -> None:
    """Host, port, authority and token are the pod's, and a token that changed is read anew."""
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


def test_a_kubeconfig_that_is_named_goes_before_the_pod(backend: KubernetesBackend) -> None:
    """As with kubectl."""
    backend.account.mkdir()
    (backend.account / "token").write_text("wrong")
    backend.environment |= {"KUBERNETES_SERVICE_HOST": "nowhere", "KUBERNETES_SERVICE_PORT": "1"}
    assert delivers(backend)


def test_the_usual_kubeconfig_stands_at_home(backend: KubernetesBackend) -> None:
    """~/.kube/config, where nothing else is named."""
    (backend.folder / ".kube").mkdir()
    (backend.folder / "config").rename(backend.folder / ".kube" / "config")
    backend.environment = {"HOME": str(backend.folder)}
    assert delivers(backend)


def test_several_kubeconfigs_are_one(backend: KubernetesBackend) -> None:
    """What comes first stands, what is missing is left out, paths stand at their own file."""
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


def test_a_user_with_name_and_password(backend: KubernetesBackend) -> None:
    """Basic authentication, as some proxies in front of clusters want it."""
    backend.server.credentials = {f"Basic {coded('me:canary:1')}"}
    backend.configure({"username": "me", "password": "canary:1"})
    assert delivers(backend)


@pytest.mark.parametrize("inline", [True, False])
def test_a_client_certificate(tmp_path: Path, inline: bool) -> None:
    """It is shown to the cluster, from the kubeconfig itself or from files, and left nowhere."""
    clients = trustme.CA()
    mine = clients.issue_cert("me.example")
    key, chain = mine.private_key_pem.bytes(), mine.cert_chain_pems[0].bytes()
    with KubernetesServer(clients=clients) as server:
        server.credentials = {None}
        backend = KubernetesBackend(server, tmp_path)
        if inline:
            pems = {"certificate": chain, "key": key}
            user = {f"client-{name}-data": coded(pem.decode()) for name, pem in pems.items()}
        else:
            (tmp_path / "me.pem").write_bytes(chain)
            (tmp_path / "me.key").write_bytes(key)
            user = {"client-certificate": "me.pem", "client-key": "me.key"}
        backend.configure(user)
        backend.sink().check()
        backend.configure({})
        assert code_of(backend.sink()) == "sink_unavailable"
        backend.configure(user | {"client-key-data": coded("no key")})
        assert code_of(backend.sink()) == "sink_unavailable"


def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    """`tls-server-name` is the name that is checked, instead of the server's."""

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
def test_an_unchecked_certificate_is_for_loopback_alone(backend: KubernetesBackend) -> None:
    """`insecure-skip-tls-verify` is refused for every other server, before anything is sent."""
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
    """Writes a credential plugin and a kubeconfig that names it; gives the file of its runs."""

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
    """It is run as kubectl would, and again once its credential has expired."""
    status = {"token": backend.server.token}
    if hours is not None:
        status["expirationTimestamp"] = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
    ran = plugin(status, version)
    backend.sink().check()
    assert len(backend.server.requests) == 2
    assert len(ran.read_text()) == runs


def test_a_credential_plugin_that_gives_a_certificate(
    tmp_path: Path, plugin: Callable[..., Path], backend: KubernetesBackend
) -> None:
    """What it gives is shown to the cluster as a client certificate."""
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
def test_a_credential_plugin_that_gives_nothing(
    backend: KubernetesBackend, plugin: Callable[..., Path], status: Any, how: str
) -> None:
    """It is named with what went wrong, and nothing that it said."""
    plugin({})
    file = backend.folder / "bin" / "plugin"
    file.write_text(file.read_text().replace("status = {}", f"status = {status}"))
    error = error_of(backend.sink())
    assert error.code == "sink_denied"
    assert how in error.message
    assert "canary" not in error.message + error.remedy


def test_a_credential_plugin_that_is_not_there(backend: KubernetesBackend) -> None:
    """It is named."""
    settings = {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin"}
    backend.configure({"exec": settings})
    error = error_of(backend.sink())
    assert (error.code, "no-such-plugin cannot" in error.message) == ("sink_denied", True)


def test_a_credential_plugin_that_hangs_is_ended(
    backend: KubernetesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the programs that it started."""
    monkeypatch.setattr("provisioner.sinks.kubeconfig._PLUGIN_TIMEOUT", 1.0)
    pipe = backend.folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    arguments = ["-c", 'exec 3>"$0"; echo begun >&3; sleep 60 & sleep 60', str(pipe)]
    version = "client.authentication.k8s.io/v1"
    backend.configure({"exec": {"apiVersion": version, "command": "sh", "args": arguments}})
    assert "does not finish" in error_of(backend.sink()).message
    assert os.read(reader, 100) == b"begun\n"
    # The end of the pipe comes once nobody holds it any more.
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
def test_a_user_that_cannot_be_used_is_told(
    backend: KubernetesBackend, user: dict[str, Any]
) -> None:
    """Nothing is sent as someone else than the kubeconfig says."""
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
def test_a_kubeconfig_that_cannot_be_used_is_told(backend: KubernetesBackend, text: str) -> None:
    """Whatever stands there, the error names what is wrong and quotes nothing."""
    (backend.folder / "config").write_text(text)
    error = error_of(backend.sink())
    assert error.code == "sink_denied"
    assert "canary" not in error.message + error.remedy


def test_no_kubeconfig_at_all_is_told(backend: KubernetesBackend) -> None:
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
    """A 429 of priority and fairness, also of a proxy that names no wait: nothing is lost."""
    clock = Clock()
    limit = Limit(backend.server, clock, refusal)
    cluster = Kubernetes(backend.environment, clock.wait, backend.account)
    assert_all_delivered(
        limit,
        lambda place: cluster.sink(KubernetesAddress("shop", "twenty", f"key-{place}")),
        tries,
    )
    assert len(backend.server.secrets[HELD].data) == 24


def test_a_cluster_that_stays_busy_costs_no_key(backend: KubernetesBackend) -> None:
    """The credential is not blamed, and what was there stays."""
    backend.sink().write(Secret(FIRST))
    backend.server.outcomes = [HttpResponse(429, BUSY)] * 40
    with pytest.raises(SinkError) as caught:
        backend.sink().write(Secret(SECOND))
    assert caught.value.code == "sink_unavailable"
    assert "too many requests" in caught.value.message
    assert backend.stored() == FIRST
