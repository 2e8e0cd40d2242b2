"""The guards in whole runs, from the command line to the server: no key is revoked by mistake."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import sqlite3
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import processes
import pytest
from sandbox_control import Dialect, Sandbox

from provisioner.cli import main

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

SEEDED = "20202020-1c25-4d02-bf25-6aeccf7ea419"


@pytest.fixture
def shop(tmp_path: Path, serve, monkeypatch) -> Callable[[Dialect], tuple[Path, Any]]:
    """Return a function that makes a workspace with owned keys and a folder for its manifests."""

    def make(dialect: Dialect) -> tuple[Path, Any]:
        served = serve(dialect)
        served.sandbox.seed(["svc-a", "svc-b", "other"])
        monkeypatch.setenv("TOKEN", served.sandbox.session_token())
        folder = tmp_path / "manifests"
        folder.mkdir()
        auth = {"session_token": "${TOKEN}"}
        shop = {"url": served.sandbox.url, "auth": auth, "owns": ["svc-*"], "role": "Admin"}
        document = {"version": 1, "environments": {"shop": shop}}
        (folder / "environments.yaml").write_text(json.dumps(document))
        return folder, served

    return make


def write_manifest(folder: Path, *names: str, file: str = "keys.yaml") -> None:
    manifest = {
        "version": 1,
        "environment": "shop",
        "defaults": {"expires": "90d"},
        "keys": [{"name": name} for name in names],
    }
    (folder / file).write_text(json.dumps(manifest))


def prune(folder: Path, *more: str) -> int:
    return main(["apply", "-m", str(folder), "--prune", "--max-revoke", "100", *more])


@pytest.mark.parametrize("dialect", Dialect)
def test_missing_manifests_revoke_no_key(shop, tmp_path, dialect) -> None:
    """An empty directory and a wrong -m exit with 3, manifests that vanished with 5."""
    folder, served = shop(dialect)
    before = served.sandbox.keys()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert prune(empty) == 3
    assert prune(tmp_path / "nowhere") == 3
    assert prune(folder / "environments.yaml") == 3
    assert served.journal == []
    assert prune(folder) == 5
    assert prune(folder, "--allow-protected") == 5
    assert served.sandbox.keys() == before
    assert served.writes() == []


@pytest.mark.parametrize("dialect", Dialect)
def test_prune_revokes_keys_that_owns_matches_and_no_manifest_declares(shop, dialect) -> None:
    """With a manifest the same keys are revoked, so it was the guards that kept them."""
    folder, served = shop(dialect)
    write_manifest(folder, "svc-a")
    assert prune(folder) == 0
    revoked = {row.name for row in served.sandbox.keys() if row.revoked_at}
    assert revoked == {"svc-b"}


@pytest.mark.parametrize("dialect", Dialect)
def test_a_glob_that_matches_nothing_revokes_no_key(shop, dialect) -> None:
    """`--only` limits revocations too, and a typing error in it changes nothing."""
    folder, served = shop(dialect)
    write_manifest(folder, "svc-a")
    before = served.sandbox.keys()
    prune(folder, "--only", "scv-*")
    assert served.sandbox.keys() == before
    assert served.writes() == []


def test_a_refusal_changes_nothing_in_any_environment(tmp_path, serve, monkeypatch) -> None:
    """The other environment has a key to create, and it is not created."""
    served = {dialect: serve(dialect) for dialect in (Dialect.LEGACY, Dialect.CORE)}
    environments = {}
    for dialect, one in served.items():
        name = dialect.name.lower()
        monkeypatch.setenv(f"{name.upper()}_TOKEN", one.sandbox.session_token())
        environments[name] = {
            "url": one.sandbox.url,
            "auth": {"session_token": f"${{{name.upper()}_TOKEN}}"},
            "owns": ["svc-*"],
            "role": "Admin",
        }
        one.sandbox.seed([f"svc-{number}" for number in range(4)])
    document = {"version": 1, "environments": environments}
    (tmp_path / "environments.yaml").write_text(json.dumps(document))
    kept = {"legacy": ["new", *(f"svc-{number}" for number in range(4))], "core": ["new"]}
    for name, names in kept.items():
        manifest = {
            "version": 1,
            "environment": name,
            "defaults": {"expires": "90d"},
            "keys": [{"name": each} for each in names],
        }
        (tmp_path / f"{name}.yaml").write_text(json.dumps(manifest))
    command = ["apply", "-m", str(tmp_path), "--prune"]
    assert main(command) == 5
    assert [one.writes() for one in served.values()] == [[], []]
    assert main([*command, "--max-revoke", "4"]) == 0
    assert [len(one.writes()) for one in served.values()] == [1, 5]


def forward(port: int, stack: ExitStack) -> int:
    """Forward a new port to a server, as a proxy with its own name does, and return the port."""

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as outer:
                back = threading.Thread(target=pass_on, args=(outer, self.request))
                back.start()
                pass_on(self.request, outer)
                back.join()

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    server = stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Forward))
    stack.callback(server.shutdown)
    threading.Thread(target=server.serve_forever, args=(0.05,)).start()
    return int(server.server_address[1])


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("id_", ["seeded", "random"])
@pytest.mark.parametrize("name", ["127.1", "localhost", "proxy"])
def test_two_names_of_one_server_revoke_no_key(tmp_path, dialect, id_, name) -> None:
    """With each of them `--prune` would revoke the keys that the other one's manifests declare."""
    file = tmp_path / "server.sqlite3"
    with Sandbox(file, dialect) as sandbox:
        sandbox.seed(["svc-a", "svc-b"])
    if id_ == "seeded":
        with sqlite3.connect(file) as state:
            state.execute("UPDATE workspace SET id = ?", (SEEDED,))
        state.close()
    with Sandbox(file, dialect) as sandbox, ExitStack() as stack:
        port = urlsplit(sandbox.url).port
        host = f"127.0.0.1:{forward(port, stack)}" if name == "proxy" else f"{name}:{port}"
        urls = {"one": sandbox.url, "two": f"http://{host}"}
        manifests = tmp_path / "manifests"
        manifests.mkdir()
        lines = [
            f"  {each}: {{url: '{url}', insecure: true, owns: ['svc-*'], role: Admin, "
            "auth: {session_token: '${TOKEN}'}}"
            for each, url in urls.items()
        ]
        text = "\n".join(["version: 1", "environments:", *lines])
        (manifests / "environments.yaml").write_text(text)
        for each, wanted in (("one", "svc-a"), ("two", "svc-b")):
            (manifests / f"{each}.yaml").write_text(
                f"version: 1\nenvironment: {each}\ndefaults: {{expires: 90d}}\n"
                f"keys: [{{name: {wanted}}}]\n"
            )
        before = sandbox.keys()

        def provision(*words: str) -> subprocess.CompletedProcess[str]:
            token = {"TOKEN": sandbox.session_token()}
            return processes.provision(*words, env=os.environ | token, cwd=tmp_path)

        done = provision("apply", "--prune", "--max-revoke", "9")
        assert (done.returncode, "workspace_shared: one and two" in done.stderr) == (5, True)
        assert sandbox.keys() == before
        checked = provision("doctor")
        assert (checked.returncode, checked.stdout.count("point to the same workspace")) == (4, 2)
        assert provision("apply", "--prune", "-e", "one").returncode == 0


def test_development_servers_that_share_their_seeded_id_are_changed_in_one_run(
    tmp_path, serve, monkeypatch
) -> None:
    """Each has its own keys, which is how they are told apart."""
    environments = {}
    for number, dialect in enumerate((Dialect.LEGACY, Dialect.CORE)):
        file = tmp_path / f"state-{dialect}" / "twenty.sqlite3"
        with Sandbox(file, dialect) as sandbox:
            sandbox.seed(["svc-a", "svc-b"])
        with sqlite3.connect(file) as state:
            state.execute("UPDATE workspace SET id = ?", (SEEDED,))
        state.close()
        served = serve(dialect)
        monkeypatch.setenv(f"TOKEN{number}", served.sandbox.session_token())
        environments[f"server-{number}"] = {
            "url": served.sandbox.url,
            "auth": {"session_token": f"${{TOKEN{number}}}"},
            "owns": ["svc-*"],
            "role": "Admin",
        }
    folder = tmp_path / "manifests"
    folder.mkdir()
    document = {"version": 1, "environments": environments}
    (folder / "environments.yaml").write_text(json.dumps(document))
    manifest = {
        "version": 1,
        "environments": list(environments),
        "defaults": {"expires": "90d"},
        "keys": [{"name": "svc-a"}, {"name": "svc-c"}],
    }
    (folder / "keys.yaml").write_text(json.dumps(manifest))
    assert main(["apply", "-m", str(folder), "--prune"]) == 0
