"""What the tests of delivery share: real sinks and stand-ins of vendors, and runs against them."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import requests
from github_server import GithubServer
from github_server import StoredSecret as GithubSecret
from gitlab_server import GitlabServer
from kubernetes_server import KubernetesServer
from kubernetes_server import StoredSecret as KubernetesSecret
from processes import Provision
from vault_server import ALL, DEFAULT_POLICY, VaultStandIn

from provisioner.model.token_claims import claims_of
from provisioner.sandbox import Dialect, Exchange, Sandbox
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import ExitStack
    from pathlib import Path

    from provisioner.sandbox import ApiKey

Item: TypeAlias = dict[str, Any]
"""One item of `deliver`; `{name}` in it is the key's name."""

READ_BACK = ("dotenv", "json", "command", "vault", "aws", "gitlab", "kubernetes")
ALL_KINDS = (*READ_BACK, "github")

AWS_REGION = "eu-central-1"
TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_REPOSITORY = ("repos", "acme", "billing", "actions")
STORE = 'umask 077; mkdir -p kept; cat > "$0.new"; mv "$0.new" "$0"'
CHECK = 'exec cat "$0"'


class Place(ABC):
    """One kind of sink, with a place for each key.

    Attributes:
        item: of `deliver`, for every key.
        environ: what leads a run there and opens it.
        own: the files that may hold tokens.
        secrets: what opens it; shown nowhere.
    """

    item: Item
    own: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.environ: dict[str, str] = {}

    @abstractmethod
    def held(self, name: str) -> str | None:
        """What the place of a key holds, seen from the vendor's side."""

    @abstractmethod
    def put(self, name: str, value: str | None) -> None:
        """Puts something there by hand; None for nothing."""


class DotenvFile(Place):
    item: ClassVar[Item] = {"file": "secrets/keys.env"}
    own = ("secrets",)

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.file = root / "secrets" / "keys.env"

    def clear(self) -> None:
        self.file.unlink(missing_ok=True)

    def held(self, name: str) -> str | None:
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


class JsonFile(Place):
    item: ClassVar[Item] = {"file": "secrets/keys.json", "format": "json", "variable": "{name}"}
    own = ("secrets",)

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._file = root / "secrets" / "keys.json"

    def held(self, name: str) -> str | None:
        return self._values().get(name)

    def put(self, name: str, value: str | None) -> None:
        values = self._values() | {name: value}
        kept = {key: text for key, text in values.items() if text is not None}
        self._file.write_text(json.dumps(kept))

    def _values(self) -> dict[str, str]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}


class Command(Place):
    """A shell that keeps a token in a file.

    Args:
        root: the parent of the manifests.
        store: the script, given the file as `$0` and the token on its standard input.
        check: likewise; empty for a command that cannot be read back.
    """

    own = ("kept",)

    def __init__(self, root: Path, store: str = STORE, check: str = CHECK) -> None:
        super().__init__()
        self._folder = root / "kept"
        self.item = {"command": ["sh", "-c", _literal(store), "kept/{name}"]}
        if check:
            self.item["check"] = ["sh", "-c", _literal(check), "kept/{name}"]

    def held(self, name: str) -> str | None:
        file = self._folder / name
        return file.read_text() if file.exists() else None

    def put(self, name: str, value: str | None) -> None:
        (self._folder / name).unlink(missing_ok=True)
        if value is not None:
            (self._folder / name).write_text(value)


class Vault(Place):
    item: ClassVar[Item] = {"vault": "secret/twenty/{name}"}
    secrets = ("hvs.vault-canary-8d3e02",)

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self.server = stack.enter_context(VaultStandIn())
        self.server.policies[self.secrets[0]] = {**DEFAULT_POLICY, "secret/*": ALL}
        self.environ = {"VAULT_ADDR": self.server.url, "VAULT_TOKEN": self.secrets[0]}

    def held(self, name: str) -> str | None:
        return self.server.latest(f"secret/twenty/{name}").get("token")

    def put(self, name: str, value: str | None) -> None:
        self.server.put(f"secret/twenty/{name}", {} if value is None else {"token": value})

    def redirect(self, through: Callable[[str], str]) -> None:
        """Leads runs to another address, made from the true one."""
        self.environ["VAULT_ADDR"] = through(self.server.url)


class Aws(Place):
    item: ClassVar[Item] = {"aws": "twenty/{name}", "region": AWS_REGION}
    secrets = ("aws-secret-canary-77c1/+0a",)

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
            "AWS_ENDPOINT_URL": self._url,
        }

    def held(self, name: str) -> str | None:
        kept = self._secrets().get(f"twenty/{name}")
        return kept and kept.versions[kept.default_version_id]["secret_string"]

    def put(self, name: str, value: str | None) -> None:
        kept = self._secrets().get(f"twenty/{name}")
        if kept and value is not None:
            kept.versions[kept.default_version_id]["secret_string"] = value
        elif kept:
            self._secrets().pop(f"twenty/{name}")

    def redirect(self, through: Callable[[str], str]) -> None:
        self.environ["AWS_ENDPOINT_URL"] = through(self._url)

    @staticmethod
    def _secrets() -> Any:
        from moto.backends import get_backend
        from moto.core import DEFAULT_ACCOUNT_ID

        return get_backend("secretsmanager")[DEFAULT_ACCOUNT_ID][AWS_REGION].secrets


class Github(Place):
    item: ClassVar[Item] = {"github": "acme/billing"}
    secrets = ("ghp_credentialCanary0123456789abcdef",)

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self.server = stack.enter_context(GithubServer(plain=True))
        self.environ = {"GH_TOKEN": self.server.token, "GITHUB_API_URL": self.server.url}

    @property
    def kept(self) -> dict[str, GithubSecret]:
        return self.server.containers[_REPOSITORY]

    def held(self, name: str) -> str | None:
        found = self.kept.get(_variable(name))
        return found and found.value

    def put(self, name: str, value: str | None) -> None:
        self.kept.pop(_variable(name), None)
        if value is not None:
            self.kept[_variable(name)] = GithubSecret(value, datetime.now(UTC))

    def redirect(self, through: Callable[[str], str]) -> None:
        self.environ["GITHUB_API_URL"] = through(self.server.url)


class Gitlab(Place):
    item: ClassVar[Item] = {"gitlab": "acme/billing"}
    secrets = ("glpat-credentialCanary012345",)

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self.server = stack.enter_context(GitlabServer(plain=True))
        url = f"{self.server.url}/api/v4"
        self.environ = {"GITLAB_TOKEN": self.server.token, "CI_API_V4_URL": url}

    def held(self, name: str) -> str | None:
        found = [one for one in self._variables if one["key"] == _variable(name)]
        return found[0]["value"] if found else None

    def put(self, name: str, value: str | None) -> None:
        [found] = [one for one in self._variables if one["key"] == _variable(name)]
        if value is None:
            self._variables.remove(found)
        else:
            found["value"] = value

    def redirect(self, through: Callable[[str], str]) -> None:
        self.environ["CI_API_V4_URL"] = f"{through(self.server.url)}/api/v4"

    @property
    def _variables(self) -> list[dict[str, Any]]:
        return self.server.variables["projects", "acme/billing"]


class Kubernetes(Place):
    item: ClassVar[Item] = {"kubernetes": "shop/twenty", "key": "{name}"}
    secrets = ("sa-credentialCanary.0123456789",)
    own = ("kubeconfig",)

    def __init__(self, stack: ExitStack, root: Path) -> None:
        super().__init__()
        self.server = stack.enter_context(KubernetesServer(plain=True))
        self._config = root / "kubeconfig"
        self.environ = {"KUBECONFIG": str(self._config)}
        self.redirect(lambda url: url)

    @property
    def kept(self) -> KubernetesSecret:
        return self.server.secrets.get(("shop", "twenty"), KubernetesSecret())

    def held(self, name: str) -> str | None:
        value = self.kept.data.get(name)
        return value and base64.b64decode(value).decode()

    def put(self, name: str, value: str | None) -> None:
        self.kept.data.pop(name, None)
        if value is not None:
            self.kept.data[name] = base64.b64encode(value.encode()).decode()

    def redirect(self, through: Callable[[str], str]) -> None:
        config = {
            "current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "b", "user": "c"}}],
            "clusters": [{"name": "b", "cluster": {"server": through(self.server.url)}}],
            "users": [{"name": "c", "user": {"token": self.server.token}}],
        }
        self._config.write_text(json.dumps(config))


def place(kind: str, stack: ExitStack, root: Path) -> Any:
    """A new place of a kind; what it needs ends with the stack."""
    makers: dict[str, Callable[[], Place]] = {
        "dotenv": lambda: DotenvFile(root),
        "json": lambda: JsonFile(root),
        "command": lambda: Command(root),
        "vault": lambda: Vault(stack),
        "aws": lambda: Aws(stack, root),
        "github": lambda: Github(stack),
        "gitlab": lambda: Gitlab(stack),
        "kubernetes": lambda: Kubernetes(stack, root),
    }
    return makers[kind]()


@dataclass(frozen=True)
class Ran:
    """A run that ended."""

    code: int
    out: str
    err: str

    @property
    def environment(self) -> dict[str, Any]:
        """The only environment of its JSON."""
        [found] = json.loads(self.out)["environments"]
        return found

    @property
    def actions(self) -> dict[str, tuple[str, str]]:
        """What a plan would do to each key, and why."""
        return {one["name"]: (one["action"], one["reason"]) for one in self.environment["actions"]}

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.environment["results"]}


@dataclass
class Project:
    """A directory of manifests, and the variables that its runs have."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    def write(
        self,
        environments: Mapping[str, Mapping[str, Any]],
        keys: Mapping[str, Iterable[tuple[str, list[Item]]]],
        **of_manifest: Any,
    ) -> None:
        """Writes a manifest for each environment, of keys and where they are delivered."""
        self.manifests.mkdir(exist_ok=True)
        document = {"version": 1, "environments": environments}
        (self.manifests / "environments.yaml").write_text(json.dumps(document))
        for environment, those in keys.items():
            manifest = {
                "version": 1,
                "environment": environment,
                "defaults": {"expires": "90d"},
                "keys": [{"name": name, "deliver": deliver} for name, deliver in those],
                **of_manifest,
            }
            (self.manifests / f"{environment}.yaml").write_text(json.dumps(manifest))

    def start(
        self, *arguments: str, script: str | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """A process of the command; with a script, of one that is to end in `main()`."""
        options = {
            "env": {**os.environ, **self.environ},
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            **options,
        }
        command, *rest = arguments
        return Provision(command, "-m", str(self.manifests), *rest, script=script, **options)

    def command(self, *arguments: str, script: str | None = None) -> list[str]:
        """What starts such a process."""
        program = ["-m", "provisioner"] if script is None else ["-c", script]
        command, *rest = arguments
        return [sys.executable, *program, command, "-m", str(self.manifests), *rest]

    def run(self, *arguments: str, script: str | None = None) -> Ran:
        process = self.start(*arguments, script=script)
        out, err = process.communicate(timeout=120)
        return Ran(process.returncode, out, err)


def shop(sandbox: Sandbox, **more: Any) -> dict[str, dict[str, Any]]:
    """One environment, `shop`, whose session token is in the variable TOKEN."""
    role = {} if sandbox.dialect is Dialect.LEGACY else {"role": "Admin"}
    auth = {"session_token": "${TOKEN}"}
    return {"shop": {"url": sandbox.url, "auth": auth, **role, **more}}


def live(sandbox: Sandbox) -> list[ApiKey]:
    """The keys that work."""
    return [key for key in sandbox.keys() if key.revoked_at is None and key.deleted_at is None]


def works(sandbox: Sandbox, token: str) -> bool:
    """Whether the server accepts a token, asked with a request of its own."""
    answer = requests.post(
        f"{sandbox.url}/graphql",
        json={"query": "{__typename}"},
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    ).json()
    return "errors" not in answer and bool(answer.get("data"))


def key_of(token: str | None) -> str | None:
    """The id of the key that a token says it is for."""
    claims = claims_of(Secret(token or ""))
    return claims and claims.key


def deliver_nothing_else(sandbox: Sandbox, held: Mapping[str, str | None]) -> None:
    """Each name has one key, no key is there besides, and each sink a working token of its own."""
    keys = sandbox.keys()
    assert sorted(key.name for key in keys) == sorted(held)
    assert len(live(sandbox)) == len(held)
    ids = {key.name: key.id for key in keys}
    for name, token in held.items():
        assert key_of(token) == ids[name], name
        assert works(sandbox, token or ""), name


def is_write(exchange: Exchange) -> bool:
    """Whether an exchange made a key or a token, or ended one."""
    return exchange.path.startswith("/rest/batch") or b"mutation" in exchange.body


def _variable(name: str) -> str:
    return re.sub(r"\W", "_", name.upper())


def _literal(text: str) -> str:
    """Text of a manifest in which no brace is a placeholder."""
    return text.replace("{", "{{").replace("}", "}}")
