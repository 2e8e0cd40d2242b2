"""The secrets of a credential are read from the stores that keep them, once a run."""

import base64
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import boto3
import pytest
from kubernetes_server import KubernetesServer, StoredSecret
from moto.server import ThreadedMotoServer
from vault_server import DEFAULT_POLICY, VaultStandIn

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.manifests import load, resolve
from provisioner.model.environment import Environment, SignIn, StoredCredential
from provisioner.model.restrictions import Restrictions
from provisioner.reconcile.connection import CredentialStores, WorkspaceOpener
from provisioner.runtime.cancellation import Cancellation
from provisioner.secret import Secret
from provisioner.sinks.registry import SinkRegistry

STOP = Cancellation()
VAULT = "{vault: secret/crm/acme}"


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def vault(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> VaultStandIn:
    """Return a Vault, which the run finds; its token may only read."""
    server = stack.enter_context(VaultStandIn())
    server.policies["t"] = {**DEFAULT_POLICY, "secret/*": ("read",)}
    monkeypatch.setenv("VAULT_ADDR", server.url)
    monkeypatch.setenv("VAULT_TOKEN", "t")
    return server


def declared(root: Path, auth: str, url: str = "https://crm.example.com") -> Environment:
    """Return the environment with this `auth`, from a file."""
    (root / "manifests").mkdir(exist_ok=True)
    (root / "manifests" / "environments.yaml").write_text(
        f"version: 1\nenvironments:\n  crm: {{url: '{url}', role: Admin, auth: {auth}}}\n"
    )
    manifests = load(root / "manifests")
    assert manifests.problems == ()
    (environment,), problems = resolve(manifests.environments, {"E": "e@x"}, root)
    assert problems == ()
    return environment


def stores(root: Path, **rules: bool) -> CredentialStores:
    registry = SinkRegistry(root, os.environ, STOP, restrictions=Restrictions(**rules))
    return CredentialStores(registry.open, STOP)


def credential_of(environment: Environment, found: CredentialStores):
    assert isinstance(environment.credential, StoredCredential)
    return environment.credential.read(partial(found.read, environment.name))


def failure_of(environment: Environment, found: CredentialStores) -> Failure:
    with pytest.raises(WorkspaceError) as failed:
        credential_of(environment, found)
    return failed.value.failure


def keep_in_vault(stack, monkeypatch, root: Path, value: str) -> str:
    server = stack.enter_context(VaultStandIn())
    server.policies["t"] = {**DEFAULT_POLICY, "secret/*": ("read",)}
    server.put("secret/crm/acme", {"value": value})
    monkeypatch.setenv("VAULT_ADDR", server.url)
    monkeypatch.setenv("VAULT_TOKEN", "t")
    return "{vault: secret/crm/acme, field: value}"


def keep_in_kubernetes(stack, monkeypatch, root: Path, value: str) -> str:
    server = stack.enter_context(KubernetesServer())
    server.verbs = {"get"}
    data = base64.b64encode(value.encode()).decode()
    server.secrets["shop", "crm"] = StoredSecret({"session": data})
    authority = base64.b64encode(Path(server.ca_file).read_bytes()).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [
            {
                "name": "c",
                "cluster": {"server": server.url, "certificate-authority-data": authority},
            }
        ],
        "users": [{"name": "u", "user": {"token": server.token}}],
    }
    (root / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(root / "kubeconfig"))
    return "{kubernetes: shop/crm, key: session}"


def keep_in_aws(stack, monkeypatch, root: Path, value: str) -> str:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    stack.callback(server.stop)
    host, port = server.get_host_and_port()
    for name, setting in {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "k",
        "AWS_CONFIG_FILE": str(root / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(root / "none"),
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, setting)
    client = boto3.client("secretsmanager", region_name="eu-central-1")
    client.create_secret(Name="crm/acme", SecretString=value)
    return "{aws: crm/acme, region: eu-central-1}"


def keep_in_command(stack, monkeypatch, root: Path, value: str) -> str:
    (root / "secret").write_text(value)
    return "{command: [cat, secret]}"


@pytest.mark.parametrize("keep", [keep_in_vault, keep_in_kubernetes, keep_in_aws, keep_in_command])
def test_each_kind_of_store_gives_the_token_of_an_environment(
    keep: Callable[..., str], stack, monkeypatch, tmp_path, serve
) -> None:
    """The workspace is opened with it; a byte order mark and line breaks around it are removed."""
    served = serve()
    token = served.sandbox.session_token()
    store = keep(stack, monkeypatch, tmp_path, f"\ufeff{token}\r\n")
    environment = declared(tmp_path, f"{{token: {store}}}", served.sandbox.url)
    opener = WorkspaceOpener(tmp_path, STOP, stores=stores(tmp_path))
    assert opener(environment, stack).observe().keys is not None
    assert token not in repr(environment)


def test_a_sign_in_may_have_its_secrets_in_a_store(vault: VaultStandIn, tmp_path: Path) -> None:
    """The field is named as the value in `auth` by default; a password keeps its quotes."""
    vault.put("secret/crm/acme", {"password": '"p" \n', "totp": "jbsw y3dp ehpk 3pxp"})
    environment = declared(tmp_path, f'{{email: "${{E}}", password: {VAULT}, totp: {VAULT}}}')
    assert not environment.has_api_token
    credential = credential_of(environment, stores(tmp_path))
    secrets = Secret("e@x"), Secret('"p" '), Secret("JBSWY3DPEHPK3PXP")
    assert credential == SignIn(*secrets)


def test_a_place_is_read_once_a_run(vault: VaultStandIn, tmp_path: Path) -> None:
    """Threads that need the same secret at the same time wait for one read."""
    vault.put("secret/crm/acme", {"token": "a.b.c"})
    environment = declared(tmp_path, f"{{token: {VAULT}}}")
    assert environment.has_api_token
    found, together = stores(tmp_path), threading.Barrier(8)

    def read(_: int):
        together.wait(5)
        return credential_of(environment, found)

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(read, range(8)))) == 1
    assert vault.count("GET", "secret/data/*") == 1
    assert {one.method for one in vault.journal} == {"GET"}


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (None, "vault secret/crm/acme token has no value"),
        ({"other": "a"}, "vault secret/crm/acme token has no value"),
        ({"token": "'canary.b.c'"}, "the value of vault secret/crm/acme token is in quotes"),
    ],
)
def test_a_secret_that_is_missing_or_no_token_fails_its_environment(
    vault: VaultStandIn, tmp_path: Path, stored: dict[str, str] | None, reason: str
) -> None:
    """The message names the environment and the place, and never shows the value."""
    if stored is not None:
        vault.put("secret/crm/acme", stored)
    failure = failure_of(declared(tmp_path, f"{{token: {VAULT}}}"), stores(tmp_path))
    assert failure.code is Code.CREDENTIAL_UNREADABLE
    assert failure.message.startswith(f"The token of crm cannot be read: {reason}")
    assert "canary" not in failure.text


def test_a_store_that_may_not_be_read_fails_its_environment(
    vault: VaultStandIn, tmp_path: Path
) -> None:
    """The message has the cause, and asks for no more than the permission to read."""
    vault.policies["t"] = {**DEFAULT_POLICY, "secret/other": ("read",)}
    failure = failure_of(declared(tmp_path, f"{{token: {VAULT}}}"), stores(tmp_path))
    assert failure.code is Code.CREDENTIAL_UNREADABLE
    assert failure.text.startswith(
        "The token of crm cannot be read: vault secret/crm/acme token cannot be read with this "
        "Vault token. Grant read"
    )


def test_no_program_is_run_if_programs_are_not_allowed(tmp_path: Path) -> None:
    """`--no-programs` holds for stores, too."""
    environment = declared(tmp_path, "{token: {command: [touch, ran]}}")
    failure = failure_of(environment, stores(tmp_path, programs=False))
    assert failure.code is Code.PROGRAM_NOT_RUN
    assert "crm" in failure.message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--allow-host", "*.example.com"), "host_not_allowed"),
        (("--allow-sink", "file"), "sink_not_allowed"),
    ],
)
def test_a_run_that_may_not_read_a_store_is_refused(
    vault: VaultStandIn, tmp_path: Path, run, options: tuple[str, str], code: str
) -> None:
    """Nothing is read, whether the option restricts its host or its kind."""
    declared(tmp_path, f"{{token: {VAULT}}}")
    exit_code, _, err = run("list", "-m", tmp_path / "manifests", *options)
    assert exit_code == 5
    assert code in err
    assert vault.journal == []


def test_validate_reads_no_store(vault: VaultStandIn, tmp_path: Path, run) -> None:
    """It is offline."""
    declared(tmp_path, f"{{token: {VAULT}}}")
    keys = "version: 1\nenvironment: crm\nkeys: [{name: a, expires: 90d}]\n"
    (tmp_path / "manifests" / "keys.yaml").write_text(keys)
    assert run("validate", "-m", tmp_path / "manifests")[0] == 0
    assert vault.journal == []
