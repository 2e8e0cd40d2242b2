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
from compliance import FIRST, SECOND, Compliance, Stand
from kubernetes_server import Kept, KubernetesServer
from throttling import Clock, Limit, delivered_within
from tls_server import Told

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


class KubernetesStand(Stand):
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

    def held(self, place: int = 0) -> str | None:
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
def stand(tmp_path: Path) -> Iterator[KubernetesStand]:
    with KubernetesServer() as server:
        yield KubernetesStand(server, tmp_path)


class TestKubernetes(Compliance):
    """What every sink promises."""


def error_of(sink: Sink, step: str = "check") -> SinkError:
    with pytest.raises(SinkError) as caught:
        sink.write(Secret(FIRST)) if step == "write" else getattr(sink, step)()
    assert FIRST not in f"{caught.value.message}{caught.value.remedy}"
    return caught.value


def code_of(sink: Sink, step: str = "check") -> str:
    return error_of(sink, step).code


def test_each_key_has_an_owner_of_its_own(stand: KubernetesStand) -> None:
    """One apply takes no key away that another one of ours set before."""
    stand.sink(0).write(Secret(FIRST))
    stand.sink(1).write(Secret(SECOND))
    owners = stand.server.secrets[HELD].owners
    assert owners == {"twenty-provisioner.key-0": {"key-0"}, "twenty-provisioner.key-1": {"key-1"}}


def test_the_stand_in_takes_away_what_is_applied_no_more(stand: KubernetesStand) -> None:
    """The trap is real here: one manager for two keys would lose the first."""
    kept = Kept()
    assert kept.apply("one", {"a": "1"}, force=True) is None
    assert kept.apply("one", {"b": "2"}, force=True) is None
    assert kept.data == {"b": "2"}
    assert kept.apply("two", {"b": "3"}, force=False) is not None


def test_a_long_key_has_an_owner_with_a_short_name(stand: KubernetesStand) -> None:
    """Field managers have 128 characters; keys that differ only at the end stay apart."""
    for number in range(2):
        stand.opened(KubernetesAddress("shop", "twenty", f"{'k' * 250}{number}")).write(Secret("x"))
    kept = stand.server.secrets[HELD]
    assert len(kept.data) == len(kept.owners) == 2


def test_what_others_own_is_kept_and_our_key_is_taken_over(stand: KubernetesStand) -> None:
    """A Secret made by hand keeps its type and its other keys."""
    theirs = Kept(type="kubernetes.io/basic-auth")
    theirs.apply("kubectl", {"key-0": coded("theirs"), "other": coded("kept")}, force=False)
    stand.server.secrets[HELD] = theirs
    stand.sink().check()
    stand.sink().write(Secret(FIRST))
    assert theirs.data == {"key-0": coded(FIRST), "other": coded("kept")}
    assert theirs.type == "kubernetes.io/basic-auth"
    assert theirs.owners["kubectl"] == {"other"}


def test_a_new_secret_is_opaque(stand: KubernetesStand) -> None:
    """The type is left to the cluster, which refuses another one later."""
    stand.sink().write(Secret(FIRST))
    assert stand.server.secrets[HELD].type == "Opaque"


def test_an_immutable_secret_is_told(stand: KubernetesStand) -> None:
    """It is found out beforehand, and told also when it became so meanwhile."""
    stand.server.secrets[HELD] = Kept(immutable=True)
    assert code_of(stand.sink()) == "sink_unsuitable"
    assert code_of(stand.sink(), "write") == "sink_unsuitable"


def refused(stand: KubernetesStand, address: KubernetesAddress = ADDRESS) -> SinkError:
    """What looking ahead and the write both end in; nothing was written by either."""
    before = dict(stand.server.secrets)
    ahead, written = error_of(stand.opened(address)), error_of(stand.opened(address), "write")
    assert (ahead.code, ahead.message) == (written.code, written.message)
    assert ahead.remedy == written.remedy
    assert stand.server.secrets == before
    return ahead


def test_a_dry_run_writes_nothing(stand: KubernetesStand) -> None:
    """Looking ahead leaves a Secret that is there as it was, and sends no token."""
    stand.sink().write(Secret(FIRST))
    stand.sink().check()
    assert stand.held() == FIRST
    dry = [one for one in stand.server.asked if one.query.get("dryRun") == "All"]
    assert len(dry) == 1
    assert FIRST not in str(dry[0].body)


def test_a_missing_namespace_is_told(stand: KubernetesStand) -> None:
    """Before a token is made, though a Secret that is not there looks the same."""
    error = refused(stand, KubernetesAddress("nowhere", "twenty"))
    assert error.code == "sink_missing"
    assert "Create the namespace" in error.remedy


def test_a_namespace_that_is_being_deleted_is_told(stand: KubernetesStand) -> None:
    """It takes nothing new; what is in it may still be written."""
    stand.server.terminating = {"shop"}
    error = refused(stand)
    assert error.code == "sink_unsuitable"
    assert "being deleted" in error.message
    stand.server.secrets[HELD] = Kept()
    stand.sink().check()


def test_a_quota_that_is_used_up_is_told(stand: KubernetesStand) -> None:
    """It is no matter of rights, though the cluster answers as if it were."""
    stand.server.quota = 0
    error = refused(stand)
    assert error.code == "sink_failed"
    assert "quota" in error.remedy


def test_an_admission_rule_that_refuses_is_told(stand: KubernetesStand) -> None:
    """Its words may be anything, those of a dry run too, and are not shown."""
    stand.server.webhook = "denies"
    error = refused(stand)
    assert error.code == "sink_denied"
    assert "admission" in error.remedy
    assert "policy.example.com" not in f"{error.message}{error.remedy}"


def test_a_policy_of_the_cluster_that_refuses_is_told(stand: KubernetesStand) -> None:
    """Validating policies answer as for an invalid object."""
    message = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"
    stand.server.turns = [Told(404), Told(422, {"message": message})]
    assert code_of(stand.sink()) == "sink_denied"


def test_a_cluster_that_cannot_try_is_not_refused(stand: KubernetesStand) -> None:
    """A webhook without dry runs has them refused, which says nothing of a write."""
    stand.server.webhook = "knows no dry run"
    stand.sink().check()
    stand.sink().write(Secret(FIRST))
    assert stand.held() == FIRST


@pytest.mark.parametrize(
    ("told", "code", "word"),
    [
        (Told(415), "sink_unsuitable", "1.22"),
        (Told(422), "sink_unsuitable", "1 MiB"),
        (Told(403), "sink_denied", "patch and create"),
        (Told(400, {"message": "no"}), "sink_failed", "400"),
    ],
)
def test_other_refusals_of_a_write_are_explained(
    stand: KubernetesStand, told: Told, code: str, word: str
) -> None:
    """Each with what to do about it."""
    stand.server.turns = [Told(404), told]
    error = error_of(stand.sink())
    assert error.code == code
    assert word in f"{error.message}{error.remedy}"


@pytest.mark.parametrize("verb", ["get", "patch", "create"])
def test_a_verb_that_is_not_allowed_is_told_beforehand(stand: KubernetesStand, verb: str) -> None:
    """The verb is named, as the cluster names it."""
    stand.server.verbs.remove(verb)
    error = error_of(stand.sink())
    assert error.code == "sink_denied"
    assert verb == "get" or verb in error.remedy
    assert stand.server.secrets == {}


def test_creating_need_not_be_allowed_where_the_secret_is(stand: KubernetesStand) -> None:
    """A role for one Secret that is there is enough."""
    stand.server.verbs.remove("create")
    stand.server.secrets[HELD] = Kept()
    stand.sink().check()
    stand.sink().write(Secret(FIRST))
    assert stand.held() == FIRST


@pytest.mark.parametrize("step", ["check", "read", "write"])
def test_an_answer_that_nothing_foresees_is_told(stand: KubernetesStand, step: str) -> None:
    """Its status is named."""
    stand.server.turns = [Told(418, {"message": FIRST})]
    assert code_of(stand.sink(), step) == "sink_failed"


def test_a_cluster_that_cannot_be_asked_is_told(stand: KubernetesStand) -> None:
    """A dry run that is lost is no permission."""
    stand.server.turns = [Told(404), *[Told(500)] * 4]
    assert code_of(stand.sink()) == "sink_unavailable"


def test_a_writer_in_between_is_no_failure(stand: KubernetesStand) -> None:
    """The cluster asks for another try, and gets it; a race without end is told."""
    stand.server.turns = [Told(409), Told(409)]
    stand.sink().write(Secret(FIRST))
    assert stand.held() == FIRST
    stand.server.turns = [Told(409)] * 4
    assert code_of(stand.sink(), "write") == "sink_failed"


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
    stand: KubernetesStand, address: KubernetesAddress
) -> None:
    """Nothing is sent for them."""
    assert code_of(stand.opened(address)) == "sink_unsuitable"
    assert stand.server.asked == []


def test_what_is_no_text_is_read_all_the_same(stand: KubernetesStand) -> None:
    """Bytes that someone put there are something, and not our token."""
    stand.server.secrets[HELD] = Kept(data={"key-0": base64.b64encode(b"\xff\xfe").decode()})
    assert isinstance(stand.sink().read(), StoredValue)
    assert isinstance(stand.sink(1).read(), Empty)


# How the cluster is found and who asks there.


def delivers(stand: KubernetesStand) -> bool:
    """Whether a token arrives in the cluster that the environment leads to."""
    stand.sink().write(Secret(FIRST))
    return stand.held() == FIRST


def test_a_pod_uses_its_service_account(stand: KubernetesStand) -> None:
    """Host, port, authority and token are the pod's, and a token that changed is read anew."""
    stand.account.mkdir()
    token = stand.account / "token"
    token.write_text("wrong")
    (stand.account / "ca.crt").write_text(Path(stand.server.ca_file).read_text())
    port = stand.server.url.rpartition(":")[2]
    stand.environment = {"KUBERNETES_SERVICE_HOST": "localhost", "KUBERNETES_SERVICE_PORT": port}
    sink = stand.sink()
    assert code_of(sink) == "sink_denied"
    token.write_text(f"{stand.server.token}\n")
    sink.check()


def test_a_kubeconfig_that_is_named_goes_before_the_pod(stand: KubernetesStand) -> None:
    """As with kubectl."""
    stand.account.mkdir()
    (stand.account / "token").write_text("wrong")
    stand.environment |= {"KUBERNETES_SERVICE_HOST": "nowhere", "KUBERNETES_SERVICE_PORT": "1"}
    assert delivers(stand)


def test_the_usual_kubeconfig_stands_at_home(stand: KubernetesStand) -> None:
    """~/.kube/config, where nothing else is named."""
    (stand.folder / ".kube").mkdir()
    (stand.folder / "config").rename(stand.folder / ".kube" / "config")
    stand.environment = {"HOME": str(stand.folder)}
    assert delivers(stand)


def test_several_kubeconfigs_are_one(stand: KubernetesStand) -> None:
    """What comes first stands, what is missing is left out, paths stand at their own file."""
    first = stand.write_config("a/one", current="here", user={"tokenFile": "token"})
    (first.parent / "token").write_text(stand.server.token)
    cluster = {"server": stand.server.url, "certificate-authority": "ca.pem"}
    second = stand.write_config("b/two", current="there", cluster=cluster, user={"token": "wrong"})
    (second.parent / "ca.pem").write_text(Path(stand.server.ca_file).read_text())
    third = stand.write_config("c/three", cluster={"server": "https://localhost:1"})
    files = [str(first), str(stand.folder / "missing"), "", str(second), str(third)]
    stand.environment["KUBECONFIG"] = os.pathsep.join(files)
    assert delivers(stand)


def test_a_user_with_name_and_password(stand: KubernetesStand) -> None:
    """Basic authentication, as some proxies in front of clusters want it."""
    stand.server.credentials = {f"Basic {coded('me:canary:1')}"}
    stand.configure({"username": "me", "password": "canary:1"})
    assert delivers(stand)


@pytest.mark.parametrize("inline", [True, False])
def test_a_client_certificate(tmp_path: Path, inline: bool) -> None:
    """It is shown to the cluster, from the kubeconfig itself or from files, and left nowhere."""
    clients = trustme.CA()
    mine = clients.issue_cert("me.example")
    key, chain = mine.private_key_pem.bytes(), mine.cert_chain_pems[0].bytes()
    with KubernetesServer(clients=clients) as server:
        server.credentials = {None}
        stand = KubernetesStand(server, tmp_path)
        if inline:
            pems = {"certificate": chain, "key": key}
            user = {f"client-{name}-data": coded(pem.decode()) for name, pem in pems.items()}
        else:
            (tmp_path / "me.pem").write_bytes(chain)
            (tmp_path / "me.key").write_bytes(key)
            user = {"client-certificate": "me.pem", "client-key": "me.key"}
        stand.configure(user)
        stand.sink().check()
        stand.configure({})
        assert code_of(stand.sink()) == "sink_unavailable"
        stand.configure(user | {"client-key-data": coded("no key")})
        assert code_of(stand.sink()) == "sink_unavailable"


def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    """`tls-server-name` is the name that is checked, instead of the server's."""

    class Elsewhere(KubernetesServer):
        name = "kubernetes.default.svc"

    with Elsewhere() as server:
        stand = KubernetesStand(server, tmp_path)
        error = error_of(stand.sink())
        assert (error.code, "not trusted" in error.message) == ("sink_unavailable", True)
        cluster = {"certificate-authority": server.ca_file, "tls-server-name": Elsewhere.name}
        stand.configure({"token": server.token}, **cluster)
        stand.sink().check()


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_an_unchecked_certificate_is_for_loopback_alone(stand: KubernetesStand) -> None:
    """`insecure-skip-tls-verify` is refused for every other server, before anything is sent."""
    insecure = {"insecure-skip-tls-verify": True}
    stand.configure({"token": stand.server.token}, **insecure)
    stand.sink().check()
    stand.configure({"token": "x"}, **insecure, server="https://cluster.example")
    error = error_of(stand.sink())
    assert (error.code, "overheard" in error.message) == ("sink_unsuitable", True)


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
def plugin(stand: KubernetesStand) -> Callable[..., Path]:
    """Writes a credential plugin and a kubeconfig that names it; gives the file of its runs."""

    def write(status: dict[str, Any], version: str = "v1") -> Path:
        file = stand.folder / "bin" / "plugin"
        file.parent.mkdir(exist_ok=True)
        text = PLUGIN.format(python=sys.executable, server=stand.server.url, status=status)
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
        stand.configure({"exec": settings})
        return file.with_name("runs")

    return write


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
@pytest.mark.parametrize(("hours", "runs"), [(None, 1), (1, 1), (-1, 2)])
def test_a_credential_plugin(
    stand: KubernetesStand, plugin: Callable[..., Path], version: str, hours: int | None, runs: int
) -> None:
    """It is run as kubectl would, and again once its credential has expired."""
    status = {"token": stand.server.token}
    if hours is not None:
        status["expirationTimestamp"] = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
    ran = plugin(status, version)
    stand.sink().check()
    assert len(stand.server.asked) == 2
    assert len(ran.read_text()) == runs


def test_a_credential_plugin_that_gives_a_certificate(
    tmp_path: Path, plugin: Callable[..., Path], stand: KubernetesStand
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
        stand.server = server
        plugin(status)
        assert delivers(stand)


@pytest.mark.parametrize(
    ("status", "how"),
    [
        ({}, "gives no credential"),
        ({"token": ""}, "gives no credential"),
        ({"token": "canary", "expirationTimestamp": "soon"}, "gives no credential"),
        ([], "gives no credential"),
        ("exit(3)", "ends with status 3"),
    ],
)
def test_a_credential_plugin_that_gives_nothing(
    stand: KubernetesStand, plugin: Callable[..., Path], status: Any, how: str
) -> None:
    """It is named with what went wrong, and nothing that it said."""
    plugin({})
    file = stand.folder / "bin" / "plugin"
    file.write_text(file.read_text().replace("status = {}", f"status = {status}"))
    error = error_of(stand.sink())
    assert error.code == "sink_denied"
    assert how in error.message
    assert "canary" not in error.message + error.remedy


def test_a_credential_plugin_that_is_not_there(stand: KubernetesStand) -> None:
    """It is named."""
    settings = {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin"}
    stand.configure({"exec": settings})
    error = error_of(stand.sink())
    assert (error.code, "no-such-plugin cannot" in error.message) == ("sink_denied", True)


def test_a_credential_plugin_that_hangs_is_ended(
    stand: KubernetesStand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the programs that it started."""
    monkeypatch.setattr("provisioner.sinks.kubeconfig._PLUGIN_SECONDS", 1.0)
    pipe = stand.folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    arguments = ["-c", 'exec 3>"$0"; echo begun >&3; sleep 60 & sleep 60', str(pipe)]
    version = "client.authentication.k8s.io/v1"
    stand.configure({"exec": {"apiVersion": version, "command": "sh", "args": arguments}})
    assert "takes longer" in error_of(stand.sink()).message
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
def test_a_user_that_cannot_be_used_is_told(stand: KubernetesStand, user: dict[str, Any]) -> None:
    """Nothing is sent as someone else than the kubeconfig says."""
    stand.configure(user)
    error = error_of(stand.sink())
    assert error.code == "sink_denied"
    assert "canary" not in error.message + error.remedy
    assert stand.server.asked == []


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
def test_a_kubeconfig_that_cannot_be_used_is_told(stand: KubernetesStand, text: str) -> None:
    """Whatever stands there, the error names what is wrong and quotes nothing."""
    (stand.folder / "config").write_text(text)
    error = error_of(stand.sink())
    assert error.code == "sink_denied"
    assert "canary" not in error.message + error.remedy


def test_no_kubeconfig_at_all_is_told(stand: KubernetesStand) -> None:
    """The error says what to set."""
    stand.environment["KUBECONFIG"] = str(stand.folder / "missing")
    error = error_of(stand.sink())
    assert (error.code, "KUBECONFIG" in error.remedy) == ("sink_denied", True)


BUSY = {"kind": "Status", "status": "Failure", "reason": "TooManyRequests", "code": 429}


@pytest.mark.parametrize(
    ("refusal", "tries"),
    [(Told(429, BUSY, {"Retry-After": "60"}), 1), (Told(429, b"Too many requests\n"), 7)],
)
def test_a_busy_cluster_is_one_pause_for_all_keys(
    stand: KubernetesStand, refusal: Told, tries: int
) -> None:
    """A 429 of priority and fairness, also of a proxy that names no wait: nothing is lost."""
    clock = Clock()
    limit = Limit(stand.server, clock, refusal)
    cluster = Kubernetes(stand.environment, clock.wait, stand.account)
    delivered_within(
        limit,
        lambda place: cluster.sink(KubernetesAddress("shop", "twenty", f"key-{place}")),
        tries,
    )
    assert len(stand.server.secrets[HELD].data) == 24


def test_a_cluster_that_stays_busy_costs_no_key(stand: KubernetesStand) -> None:
    """The credential is not blamed, and what was there stays."""
    stand.sink().write(Secret(FIRST))
    stand.server.turns = [Told(429, BUSY)] * 40
    with pytest.raises(SinkError) as caught:
        stand.sink().write(Secret(SECOND))
    assert caught.value.code == "sink_unavailable"
    assert "too many requests" in caught.value.message
    assert stand.held() == FIRST
