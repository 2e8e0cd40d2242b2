"""Fixtures for the tests of delivery: real sinks, fake vendors, and runs against them."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from urllib.parse import urlsplit

import azure_server
import gcp_server
import requests
from github_server import GithubServer
from github_server import StoredSecret as GithubSecret
from gitlab_server import GitlabServer
from kubernetes_server import KubernetesServer
from kubernetes_server import StoredSecret as KubernetesSecret
from n8n_server import N8nServer
from processes import Provision
from sandbox_control import Dialect, Exchange, Sandbox
from sops_program import AGE_KEY, decrypted, encrypted, program
from vault_server import ALL, DEFAULT_POLICY, VaultStandIn

from provisioner.model.token_claims import claims_of
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import ExitStack
    from pathlib import Path

    from sandbox_control import ApiKey
    from tls_server import HttpRequest, HttpResponse, TlsServer
    from trustme import CA

Item: TypeAlias = dict[str, Any]
"""An item of `deliver`; `{name}` in it is the key's name."""

Around: TypeAlias = "Callable[[Callable[[], Any]], Any]"
"""A function that is called in place of a write to a vendor, with a function that does it."""

READABLE = (
    "dotenv", "json", "command", "vault", "aws", "gitlab", "kubernetes", "ssm", "gcp", "azure",
    "sops",
)  # fmt: skip
ALL_KINDS = (*READABLE, "github", "n8n")
"""A GitHub secret cannot be read, but has a receipt and a time of its last write. The credential of
an n8n cannot be read either, and the time of its last change proves no delivery."""

LIBRARIES = ("azure.identity", "boto3", "google.auth.identity_pool")
"""The libraries of vendors, which take a second to import."""

AWS_REGION = "eu-central-1"
TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_REPOSITORY = ("repos", "acme", "billing", "actions")
STORE = 'umask 077; mkdir -p kept; cat > "$0.new"; mv "$0.new" "$0"'
CHECK = 'exec cat "$0"'


class SinkFixture(ABC):
    """A sink of one kind, with a place for the token of each key.

    Attributes:
        item: the item of `deliver` for every key.
        environ: the variables with the address and the credentials for a run.
        token_paths: the files and folders that may contain tokens.
        secrets: the credentials and other values, which must not be shown anywhere.
        authority: who certifies the vendor's server; None for a server without TLS.
    """

    item: Item
    token_paths: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    authority: CA | None = None

    def __init__(self) -> None:
        self.environ: dict[str, str] = {}

    @abstractmethod
    def stored(self, name: str) -> str | None:
        """Return the stored token of a key, read directly from the vendor's state."""

    @abstractmethod
    def put(self, name: str, value: str | None) -> None:
        """Store a value by hand, or remove it if it is None."""

    def make_place(self, name: str) -> None:  # noqa: B027 - most sinks need nothing
        """Create the place of a key's token, if a run does not create it."""


class DotenvFile(SinkFixture):
    item: ClassVar[Item] = {"file": "secrets/keys.env"}
    token_paths = ("secrets",)

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.file = root / "secrets" / "keys.env"

    def clear(self) -> None:
        self.file.unlink(missing_ok=True)

    def stored(self, name: str) -> str | None:
        return self._values().get(_variable(name))

    def put(self, name: str, value: str | None) -> None:
        values = self._values() | {_variable(name): value}
        lines = [f"{key}={text}\n" for key, text in values.items() if text is not None]
        self.file.write_text("".join(lines))

    def _values(self) -> dict[str, str | None]:
        if not self.file.exists():
            return {}
        lines = self.file.read_text().splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}


class JsonFile(SinkFixture):
    item: ClassVar[Item] = {"file": "secrets/keys.json", "format": "json", "variable": "{name}"}
    token_paths = ("secrets",)

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._file = root / "secrets" / "keys.json"

    def stored(self, name: str) -> str | None:
        return self._values().get(name)

    def put(self, name: str, value: str | None) -> None:
        values = self._values() | {name: value}
        values = {key: text for key, text in values.items() if text is not None}
        self._file.write_text(json.dumps(values))

    def _values(self) -> dict[str, str]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}


class Command(SinkFixture):
    """A `command` sink: a shell script that stores a token in a file.

    Args:
        root: the parent of the manifests.
        store: the script; `$0` is the file, and the token is on standard input.
        check: the script that prints the token; empty for a sink that cannot be read.
    """

    token_paths = ("kept",)

    def __init__(self, root: Path, store: str = STORE, check: str = CHECK) -> None:
        super().__init__()
        self._folder = root / "kept"
        self.item = {"command": ["sh", "-c", _literal(store), "kept/{name}"]}
        if check:
            self.item["check"] = ["sh", "-c", _literal(check), "kept/{name}"]

    def stored(self, name: str) -> str | None:
        file = self._folder / name
        return file.read_text() if file.exists() else None

    def put(self, name: str, value: str | None) -> None:
        (self._folder / name).unlink(missing_ok=True)
        if value is not None:
            (self._folder / name).write_text(value)


class Vault(SinkFixture):
    item: ClassVar[Item] = {"vault": "secret/twenty/{name}"}
    secrets = ("hvs.vault-canary-8d3e02",)

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self.server = stack.enter_context(VaultStandIn())
        self.server.policies[self.secrets[0]] = {**DEFAULT_POLICY, "secret/*": ALL}
        self.environ = {"VAULT_ADDR": self.server.url, "VAULT_TOKEN": self.secrets[0]}

    def stored(self, name: str) -> str | None:
        return self.server.latest(f"secret/twenty/{name}").get("token")

    def put(self, name: str, value: str | None) -> None:
        self.server.put(f"secret/twenty/{name}", {} if value is None else {"token": value})

    def redirect(self, proxy: Callable[[str], str]) -> None:
        """Give runs the address of a proxy, which `proxy` returns for the real address."""
        self.environ["VAULT_ADDR"] = proxy(self.server.url)


class AwsService(SinkFixture):
    """A service of moto's server, whose content exists once per process.

    Attributes:
        endpoint: the variable with the address of the service.
    """

    secrets = ("aws-secret-canary-77c1/+0a",)
    endpoint: ClassVar[str]

    def __init__(self, stack: ExitStack, root: Path) -> None:
        from moto.server import ThreadedMotoServer

        super().__init__()
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        stack.callback(server.stop)
        host, port = server.get_host_and_port()
        self._url = f"http://{host}:{port}"
        requests.post(f"{self._url}/moto-api/reset", timeout=30).raise_for_status()
        self.environ = {
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": self.secrets[0],
            "AWS_CONFIG_FILE": str(root / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(root / "no-credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            self.endpoint: self._url,
        }

    def redirect(self, proxy: Callable[[str], str]) -> None:
        self.environ[self.endpoint] = proxy(self._url)

    @staticmethod
    def _backend(service: Any) -> Any:
        from moto.backends import get_backend
        from moto.core import DEFAULT_ACCOUNT_ID

        return get_backend(service)[DEFAULT_ACCOUNT_ID][AWS_REGION]


class Aws(AwsService):
    item: ClassVar[Item] = {"aws": "twenty/{name}", "region": AWS_REGION}
    endpoint = "AWS_ENDPOINT_URL_SECRETS_MANAGER"

    def stored(self, name: str) -> str | None:
        secret = self._secrets().get(f"twenty/{name}")
        return secret and secret.versions[secret.default_version_id]["secret_string"]

    def put(self, name: str, value: str | None) -> None:
        secret = self._secrets().get(f"twenty/{name}")
        if secret and value is not None:
            secret.versions[secret.default_version_id]["secret_string"] = value
        elif secret:
            self._secrets().pop(f"twenty/{name}")

    def _secrets(self) -> Any:
        return self._backend("secretsmanager").secrets


class Ssm(AwsService):
    item: ClassVar[Item] = {"ssm": "/twenty/{name}", "region": AWS_REGION}
    endpoint = "AWS_ENDPOINT_URL_SSM"

    def stored(self, name: str) -> str | None:
        # Other than `[]`, this creates no parameter without a version.
        versions = self._parameters.get(f"/twenty/{name}")
        if versions is None:
            return None
        assert versions[-1].parameter_type == "SecureString"
        value: str = versions[-1].decrypt(versions[-1].value)
        return value

    def put(self, name: str, value: str | None) -> None:
        if value is None:
            self._parameters.pop(f"/twenty/{name}")
        else:
            newest = self._parameters[f"/twenty/{name}"][-1]
            newest.value = newest.encrypt(value)

    def around_writes(self, around: Around) -> None:
        """Let a function do each write of a token, until moto is emptied."""
        backend = self._backend("ssm")
        put_parameter = backend.put_parameter

        def put(*arguments: Any, **named: Any) -> Any:
            return around(lambda: put_parameter(*arguments, **named))

        backend.put_parameter = put

    @property
    def _parameters(self) -> Any:
        return self._backend("ssm")._parameters


class Gcp(SinkFixture):
    """Google Secret Manager, for a pipeline with a workload identity."""

    item: ClassVar[Item] = {"gcp": "acme-prod/{name}"}
    token_paths = ("gcp",)
    secrets = (gcp_server.SUBJECT_TOKEN, gcp_server.ACCESS_TOKEN)

    def __init__(self, stack: ExitStack, root: Path) -> None:
        super().__init__()
        self.server = stack.enter_context(gcp_server.GoogleServer(plain=True))
        self._folder = root / "gcp"
        self._folder.mkdir()
        (self._folder / "token").write_text(gcp_server.SUBJECT_TOKEN)
        self.redirect(lambda url: url)

    def stored(self, name: str) -> str | None:
        place = ("acme-prod", name)
        return self.server.values(place)[-1] if self.server.secrets.get(place) else None

    def put(self, name: str, value: str | None) -> None:
        if value is None:
            self.server.secrets.pop(("acme-prod", name))
        else:
            self.server.add(("acme-prod", name), value)

    def redirect(self, proxy: Callable[[str], str]) -> None:
        url = proxy(self.server.url)
        configuration = {
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{url}/token",
            "credential_source": {"file": str(self._folder / "token")},
        }
        file = self._folder / "credential.json"
        file.write_text(json.dumps(configuration))
        self.environ = {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": url,
            "GOOGLE_APPLICATION_CREDENTIALS": str(file),
        }

    def around_writes(self, around: Around) -> None:
        """Let a function do each write of a token to a secret that exists."""

        def place(request: HttpRequest) -> tuple[str, str]:
            return request.names[2], request.names[4].partition(":")[0]

        _around_writes(self.server, around, lambda request: place(request) in self.server.secrets)


class Azure(SinkFixture):
    """Azure Key Vault, for a machine with a managed identity. A vault is always asked by TLS."""

    secrets = (azure_server.IDENTITY_HEADER, azure_server.ACCESS_TOKEN)

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self.server = stack.enter_context(azure_server.AzureServer())
        self.authority = self.server.authority
        self.environ = {
            "IDENTITY_ENDPOINT": f"{self.server.url}/identity",
            "IDENTITY_HEADER": azure_server.IDENTITY_HEADER,
            "REQUESTS_CA_BUNDLE": self.server.ca_file,
        }
        self.redirect(lambda url: url)

    def stored(self, name: str) -> str | None:
        return self.server.values(name)[-1] if name in self.server.secrets else None

    def put(self, name: str, value: str | None) -> None:
        if value is None:
            self.server.secrets.pop(name)
        else:
            self.server.add(name, value)

    def redirect(self, proxy: Callable[[str], str]) -> None:
        self.item = {"azure": f"{urlsplit(proxy(self.server.url)).netloc}/{{name}}"}

    def around_writes(self, around: Around) -> None:
        """Let a function do each write of a token."""
        _around_writes(self.server, around)


class N8n(SinkFixture):
    """An n8n, in which somebody created the credentials an hour ago."""

    item: ClassVar[Item] = {"n8n": "Twenty {name}"}
    secrets = ("n8n-credentialCanary-0123",)

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self.server = stack.enter_context(N8nServer("2.40.7", plain=True))
        assert self.server.key == self.secrets[0]
        self.environ = {"N8N_URL": self.server.url, "N8N_API_KEY": self.server.key}

    def make_place(self, name: str) -> None:
        id_ = re.sub(r"\W", "", name)
        credential = self.server.add(id_, f"Twenty {name}", domain="crm.acme.example")
        hour_ago = datetime.now(UTC) - timedelta(hours=1)
        credential["updatedAt"] = hour_ago.isoformat(timespec="milliseconds")

    def stored(self, name: str) -> str | None:
        value: str | None = self.credential(name)["data"].get("apiKey")
        return value

    def put(self, name: str, value: str | None) -> None:
        data = {} if value is None else {"apiKey": value}
        self.credential(name)["data"] = {"domain": "crm.acme.example", **data}
        self.touch(name)

    def touch(self, name: str) -> None:
        """Change another field by hand, which moves the time of the last change."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.credential(name)["updatedAt"] = now

    def credential(self, name: str) -> dict[str, Any]:
        """Return a credential with its data, as n8n keeps it."""
        return next(one for one in self.server.credentials if one["name"] == f"Twenty {name}")

    def redirect(self, proxy: Callable[[str], str]) -> None:
        self.environ["N8N_URL"] = proxy(self.server.url)

    def around_writes(self, around: Around) -> None:
        """Let a function do each write of a token."""
        _around_writes(self.server, around)


class Sops(SinkFixture):
    """An encrypted file for each environment, and the real program sops on PATH.

    Args:
        root: the parent of the manifests.
        environments: their names.
        script: a shell script that runs in place of sops; `$SOPS` is the real program.
    """

    item: ClassVar[Item] = {"sops": "sealed/{environment}/keys.json", "path": ["twenty", "{name}"]}
    NEIGHBOUR = "sops-neighbour-canary-40b7"
    secrets = (AGE_KEY, NEIGHBOUR)

    def __init__(
        self, root: Path, environments: Iterable[str] = ("shop",), script: str = 'exec "$SOPS" "$@"'
    ) -> None:
        super().__init__()
        folder = root / "sealed"
        self.files = [folder / environment / "keys.json" for environment in environments]
        for file in self.files:
            file.parent.mkdir(parents=True)
            self._store(file, {})
        wrapper = folder / "bin" / "sops"
        wrapper.parent.mkdir()
        wrapper.write_text(f"#!/bin/sh\nSOPS='{program()}'\n{script}\n")
        wrapper.chmod(0o700)
        path = f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}"
        self.environ = {"PATH": path, "SOPS_AGE_KEY": AGE_KEY}
        self._read: dict[bytes, dict[str, str]] = {}

    def stored(self, name: str) -> str | None:
        return next((found for file in self.files if (found := self._values(file).get(name))), None)

    def put(self, name: str, value: str | None) -> None:
        [file] = self.files
        values: dict[str, str | None] = {**self._values(file), name: value}
        self._store(file, {key: text for key, text in values.items() if text is not None})

    def _store(self, file: Path, values: Mapping[str, str]) -> None:
        content = {"neighbour": self.NEIGHBOUR, "twenty": values}
        file.write_bytes(encrypted(json.dumps(content), "json"))

    def _values(self, file: Path) -> dict[str, str]:
        """Return the tokens in a file; its neighbour must still be there."""
        content = file.read_bytes()
        if content not in self._read:
            document = json.loads(decrypted(file))
            assert document["neighbour"] == self.NEIGHBOUR
            self._read[content] = document["twenty"]
        return self._read[content]


class Github(SinkFixture):
    item: ClassVar[Item] = {"github": "acme/billing"}
    secrets = ("ghp_credentialCanary0123456789abcdef",)

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self.server = stack.enter_context(GithubServer(plain=True))
        self.environ = {"GH_TOKEN": self.server.token, "GITHUB_API_URL": self.server.url}

    @property
    def stored_secrets(self) -> dict[str, GithubSecret]:
        return self.server.containers[_REPOSITORY]

    def stored(self, name: str) -> str | None:
        found = self.stored_secrets.get(_variable(name))
        return found and found.value

    def put(self, name: str, value: str | None) -> None:
        self.stored_secrets.pop(_variable(name), None)
        if value is not None:
            self.stored_secrets[_variable(name)] = GithubSecret(value, datetime.now(UTC))

    def redirect(self, proxy: Callable[[str], str]) -> None:
        self.environ["GITHUB_API_URL"] = proxy(self.server.url)


class Gitlab(SinkFixture):
    item: ClassVar[Item] = {"gitlab": "acme/billing"}
    secrets = ("glpat-credentialCanary012345",)

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self.server = stack.enter_context(GitlabServer(plain=True))
        url = f"{self.server.url}/api/v4"
        self.environ = {"GITLAB_TOKEN": self.server.token, "CI_API_V4_URL": url}

    def stored(self, name: str) -> str | None:
        found = [entry for entry in self._variables if entry["key"] == _variable(name)]
        return found[0]["value"] if found else None

    def put(self, name: str, value: str | None) -> None:
        [found] = [entry for entry in self._variables if entry["key"] == _variable(name)]
        if value is None:
            self._variables.remove(found)
        else:
            found["value"] = value

    def redirect(self, proxy: Callable[[str], str]) -> None:
        self.environ["CI_API_V4_URL"] = f"{proxy(self.server.url)}/api/v4"

    @property
    def _variables(self) -> list[dict[str, Any]]:
        return self.server.variables["projects", "acme/billing"]


class Kubernetes(SinkFixture):
    item: ClassVar[Item] = {"kubernetes": "shop/twenty", "key": "{name}"}
    secrets = ("sa-credentialCanary.0123456789",)
    token_paths = ("kubeconfig",)

    def __init__(self, stack: ExitStack, root: Path) -> None:
        super().__init__()
        self.server = stack.enter_context(KubernetesServer(plain=True))
        self._config = root / "kubeconfig"
        self.environ = {"KUBECONFIG": str(self._config)}
        self.redirect(lambda url: url)

    @property
    def stored_secrets(self) -> KubernetesSecret:
        return self.server.secrets.get(("shop", "twenty"), KubernetesSecret())

    def stored(self, name: str) -> str | None:
        value = self.stored_secrets.data.get(name)
        return value and base64.b64decode(value).decode()

    def put(self, name: str, value: str | None) -> None:
        self.stored_secrets.data.pop(name, None)
        if value is not None:
            self.stored_secrets.data[name] = base64.b64encode(value.encode()).decode()

    def redirect(self, proxy: Callable[[str], str]) -> None:
        config = {
            "current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "b", "user": "c"}}],
            "clusters": [{"name": "b", "cluster": {"server": proxy(self.server.url)}}],
            "users": [{"name": "c", "user": {"token": self.server.token}}],
        }
        self._config.write_text(json.dumps(config))


def sink_fixture(kind: str, stack: ExitStack, root: Path) -> Any:
    """Return a new sink of a kind; its servers stop with the stack."""
    factories: dict[str, Callable[[], SinkFixture]] = {
        "dotenv": lambda: DotenvFile(root),
        "json": lambda: JsonFile(root),
        "command": lambda: Command(root),
        "vault": lambda: Vault(stack),
        "aws": lambda: Aws(stack, root),
        "github": lambda: Github(stack),
        "gitlab": lambda: Gitlab(stack),
        "kubernetes": lambda: Kubernetes(stack, root),
        "ssm": lambda: Ssm(stack, root),
        "gcp": lambda: Gcp(stack, root),
        "azure": lambda: Azure(stack),
        "sops": lambda: Sops(root),
        "n8n": lambda: N8n(stack),
    }
    return factories[kind]()


def writes_token(method: str, headers: Mapping[str, str], path: str) -> bool:
    """Return whether a request writes a token to a vendor."""
    target = headers.get("X-Amz-Target", "")
    if target:
        return target.endswith(("PutSecretValue", "CreateSecret", "PutParameter"))
    if method == "POST":
        return "/data/" in path or path.endswith(("/variables", ":addVersion"))
    # The check of an n8n writes a placeholder to a credential that does not exist.
    return method in ("PUT", "PATCH") and not path.endswith("/provision-check")


def _around_writes(
    server: TlsServer, around: Around, exists: Callable[[HttpRequest], bool] = lambda _: True
) -> None:
    answer = server.answer

    def answer_around(request: HttpRequest) -> HttpResponse:
        if writes_token(request.method, request.headers, request.target) and exists(request):
            done: HttpResponse = around(lambda: answer(request))
            return done
        return answer(request)

    server.answer = answer_around  # type: ignore[method-assign]


@dataclass(frozen=True)
class Completed:
    """A completed run."""

    code: int
    out: str
    err: str

    @property
    def environment(self) -> dict[str, Any]:
        """The only environment of its JSON document."""
        [found] = json.loads(self.out)["environments"]
        return found

    @property
    def actions(self) -> dict[str, tuple[str, str]]:
        """The action and the reason for each key of a plan."""
        return {
            entry["name"]: (entry["action"], entry["reason"])
            for entry in self.environment["actions"]
        }

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        return {entry["name"]: entry for entry in self.environment["results"]}


@dataclass
class Project:
    """A directory of manifests, the variables of its runs, and what they need not import."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    preload: tuple[str, ...] = ()

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    def write(
        self,
        environments: Mapping[str, Mapping[str, Any]],
        keys: Mapping[str, Iterable[tuple[str, list[Item]]]],
        notify: Iterable[Item] = (),
        **manifest_fields: Any,
    ) -> None:
        """Write a manifest for each environment, with its keys and their sinks."""
        self.manifests.mkdir(exist_ok=True)
        document = {"version": 1, "environments": environments, "notify": list(notify)}
        (self.manifests / "environments.yaml").write_text(json.dumps(document))
        for environment, deliveries in keys.items():
            manifest = {
                "version": 1,
                "environment": environment,
                "defaults": {"expires": "90d"},
                "keys": [{"name": name, "deliver": deliver} for name, deliver in deliveries],
                **manifest_fields,
            }
            (self.manifests / f"{environment}.yaml").write_text(json.dumps(manifest))

    def start(
        self, *arguments: str, script: str | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a process of the command, or of a script that ends with `main()`."""
        options = {
            "env": {**os.environ, **self.environ},
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "preload": self.preload,
            **options,
        }
        command, *rest = arguments
        return Provision(command, "-m", str(self.manifests), *rest, script=script, **options)

    def command(self, *arguments: str, script: str | None = None) -> list[str]:
        """Return the command line of a process that `start` starts."""
        program = ["-m", "provisioner"] if script is None else ["-c", script]
        command, *rest = arguments
        return [sys.executable, *program, command, "-m", str(self.manifests), *rest]

    def run(self, *arguments: str, script: str | None = None) -> Completed:
        process = self.start(*arguments, script=script)
        out, err = process.communicate(timeout=120)
        return Completed(process.returncode, out, err)


def shop(sandbox: Sandbox, **fields: Any) -> dict[str, dict[str, Any]]:
    """Return the environment `shop`, whose session token is in the variable TOKEN."""
    role = {} if sandbox.dialect is Dialect.LEGACY else {"role": "Admin"}
    auth = {"session_token": "${TOKEN}"}
    return {"shop": {"url": sandbox.url, "auth": auth, **role, **fields}}


def live_keys(sandbox: Sandbox) -> list[ApiKey]:
    """Return the keys that are not revoked or deleted."""
    return [key for key in sandbox.keys() if key.revoked_at is None and key.deleted_at is None]


def is_accepted(sandbox: Sandbox, token: str) -> bool:
    """Return whether the server accepts a token in a request."""
    answer = requests.post(
        f"{sandbox.url}/graphql",
        json={"query": "{__typename}"},
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    ).json()
    return "errors" not in answer and bool(answer.get("data"))


def key_id_of(token: str | None) -> str | None:
    """Return the id of the key that a token names."""
    claims = claims_of(Secret(token or ""))
    return claims and claims.key


def assert_one_token_per_key(sandbox: Sandbox, tokens: Mapping[str, str | None]) -> None:
    """Assert that each name has exactly one key, and its sink a valid token of that key."""
    keys = sandbox.keys()
    assert sorted(key.name for key in keys) == sorted(tokens)
    assert len(live_keys(sandbox)) == len(tokens)
    ids = {key.name: key.id for key in keys}
    for name, token in tokens.items():
        assert key_id_of(token) == ids[name], name
        assert is_accepted(sandbox, token or ""), name


def is_write(exchange: Exchange) -> bool:
    """Return whether an exchange created or revoked a key, or minted a token."""
    return exchange.path.startswith("/rest/batch") or b"mutation" in exchange.body


def _variable(name: str) -> str:
    return re.sub(r"\W", "_", name.upper())


def _literal(text: str) -> str:
    """Escape the braces of a text for a manifest."""
    return text.replace("{", "{{").replace("}", "}}")
