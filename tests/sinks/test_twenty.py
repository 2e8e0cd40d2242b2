"""Tokens in the configuration of Twenty's own command line: private, and nothing else is lost."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from builders import URL, environment_with
from compliance import FIRST, SECOND, Backend, Compliance
from files import DiskBackend, as_user

from provisioner.errors.exceptions import SinkError
from provisioner.model.environment import ApiToken
from provisioner.model.sink_content import NoToken
from provisioner.runtime.cancellation import Cancellation
from provisioner.secret import Secret
from provisioner.sinks.registry import SinkRegistry
from provisioner.sinks.sink import StoredValue
from provisioner.sinks.twenty import Remotes, TwentyAddress
from provisioner.twenty.connect import connect

if TYPE_CHECKING:
    from provisioner.sinks.sink import Sink


class TwentyBackend(DiskBackend):
    def __init__(self, home: Path) -> None:
        super().__init__(home, home / ".twenty" / "config.json")

    def named(self, remote: str) -> Sink:
        remotes = Remotes(self.root, {"HOME": str(self.root)}, {"shop": URL}, self.folders)
        return remotes.sink(TwentyAddress(remote, "shop"))

    def sink(self, place: int = 0) -> Sink:
        return self.named(f"shop-{place}")

    def stored(self, place: int = 0) -> str | None:
        with as_user(os.getuid()):
            if not self.path.exists():
                return None
            assert stat.S_IMODE(self.path.stat().st_mode) == 0o600
            remote = json.loads(self.path.read_text())["remotes"].get(f"shop-{place}", {})
        assert remote.get("apiUrl", URL) == URL
        return remote.get("apiKey")

    def strange_names(self) -> tuple[Sink, ...]:
        return tuple(map(self.named, ("a b", "ключ", 'quote"', "a/b", "__proto__", "🗝", ".")))


class TestTwenty(Compliance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return TwentyBackend(tmp_path)


def open_remote(home: Path, remote: str = "shop", url: str = URL) -> Sink:
    environments = [environment_with(url=url)]
    sinks = SinkRegistry(home, {"HOME": str(home)}, Cancellation(), environments=environments)
    return sinks.open(TwentyAddress(remote, "shop"))


def write_config(home: Path, content: Any) -> Path:
    """Write the file, with content that is JSON or bytes, and return its path."""
    path = home / ".twenty" / "config.json"
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


@pytest.mark.parametrize("before", [None, b"", b" \n", b"{}", b"\0\0"])
def test_a_new_file_is_what_the_command_line_writes(tmp_path: Path, before: bytes | None) -> None:
    """The first remote is the default one; the folder and the file are private."""
    if before is not None:
        write_config(tmp_path, before)
    open_remote(tmp_path).write(Secret(FIRST))
    path = tmp_path / ".twenty" / "config.json"
    assert json.loads(path.read_text()) == {
        "version": 1,
        "defaultRemote": "shop",
        "remotes": {"shop": {"apiUrl": URL, "apiKey": FIRST}},
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if before is None:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_everything_else_is_kept(tmp_path: Path) -> None:
    """This includes other remotes, unknown members on every level, and their order."""
    before = {
        "$comment": "é",
        "remotes": {
            "local": {"apiUrl": "http://localhost:3000", "apiKey": "x"},
            "shop": {"apiKey": "old", "accessTokenExpiry": 1.5, "apiUrl": "https://old"},
            "last": None,
        },
        "version": 1,
        "defaultRemote": "local",
        "telemetry": {"id": 12345678901234567890, "on": False},
    }
    path = write_config(tmp_path, b"\xef\xbb\xbf" + json.dumps(before).encode())
    path.chmod(0o644)
    open_remote(tmp_path).write(Secret(FIRST))
    before["remotes"]["shop"] |= {"apiKey": FIRST, "apiUrl": URL}
    assert path.read_text().startswith('{\n  "$comment": "é",\n  "remotes": {\n    "local"')
    assert json.loads(path.read_text()) == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_remote_of_another_server_holds_no_token(tmp_path: Path) -> None:
    """A key with the URL of another server is delivered again, with the right one."""
    open_remote(tmp_path, url="https://old.example.com").write(Secret(FIRST))
    assert isinstance(open_remote(tmp_path).read(), NoToken)
    open_remote(tmp_path).write(Secret(SECOND))
    content = open_remote(tmp_path).read()
    assert isinstance(content, StoredValue)
    assert content.value.reveal() == SECOND


def test_a_session_that_is_used_instead_is_a_warning(tmp_path: Path, caplog) -> None:
    """The key is delivered, the session is kept, and one warning a run names both places."""
    remote = {"twentyCLIAccessToken": "session", "apiUrl": URL}
    path = write_config(tmp_path, {"remotes": {"shop": remote, "other": {}}})
    sink = open_remote(tmp_path)
    for _ in range(2):
        sink.check()
    sink.write(Secret(FIRST))
    assert json.loads(path.read_text())["remotes"]["shop"] == remote | {"apiKey": FIRST}
    (warning,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert f"twenty shop has a twentyCLIAccessToken in {path}" in warning.getMessage()
    caplog.clear()
    open_remote(tmp_path, "other").check()
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "is in a file that is not JSON"),
        (b"\xff{}", "is in a file that is not JSON"),
        (b'{"a": NaN}', "is in a file that is not JSON"),
        (b'{"a": 1e999}', "is in a file that is not JSON"),
        (b'{"a": "\\ud800"}', "is in a file that is not JSON"),
        (b"[" * 100_000, "is in a file that is not JSON"),
        ([], "is in a file that is not a JSON object"),
        ("text", "is in a file that is not a JSON object"),
        ({"version": 2}, "is in a file of another version than 1"),
        ({"remotes": []}, "has a 'remotes' that is not a JSON object"),
        ({"remotes": {"shop": "x"}}, "has a 'shop' that is not a JSON object"),
    ],
)
def test_a_file_of_another_structure_is_refused(tmp_path: Path, content, reason: str) -> None:
    """Every step fails with the file and the remedy, and the file stays as it is."""
    path = write_config(tmp_path, content)
    before = path.read_bytes()
    assert_refused(tmp_path, f"twenty shop in {path} {reason}.")
    assert path.read_bytes() == before


def test_a_key_that_is_not_text_is_not_read(tmp_path: Path) -> None:
    """The reader of the file would fail too; a write replaces it."""
    write_config(tmp_path, {"remotes": {"shop": {"apiKey": 1}}})
    with pytest.raises(SinkError) as caught:
        open_remote(tmp_path).read()
    assert "has an apiKey that is not text" in caught.value.message


@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe"])
def test_only_a_regular_file_is_replaced(tmp_path: Path, kind: str) -> None:
    """A link may lead into a repository of settings; a pipe would be read for ever."""
    target = tmp_path / "target.json"
    if kind == "link":
        target.write_text('{"remotes": {}}')
    path = tmp_path / ".twenty" / "config.json"
    path.parent.mkdir()
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to(target)
    is_link = kind in ("link", "dangling")
    reason = "is a symbolic link" if is_link else "is not a regular file"
    assert_refused(tmp_path, f"twenty shop in {path} {reason}.")
    assert path.is_symlink() == is_link
    assert not target.exists() or target.read_text() == '{"remotes": {}}'


def test_a_file_that_git_would_publish_is_refused(tmp_path: Path) -> None:
    """A home directory may be a work tree."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    for name in ("objects", "refs"):
        (tmp_path / ".git" / name).mkdir()
    for step in ("check", "write"):
        with pytest.raises(SinkError) as caught:
            step_of(open_remote(tmp_path), step)
        assert "is in a git work tree that does not ignore it" in caught.value.message
    assert not (tmp_path / ".twenty").exists()


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}])
def test_a_missing_home_is_reported(tmp_path: Path, monkeypatch, environ: dict[str, str]) -> None:
    """A container may have neither HOME nor an account for its user."""

    def no_home(_: type[Path]) -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", classmethod(no_home))
    with pytest.raises(SinkError) as caught:
        Remotes(tmp_path, environ, {"shop": URL}).sink(TwentyAddress("shop", "shop"))
    assert caught.value.code == "sink_unsuitable"
    assert "~/.twenty/config.json, because HOME is not set." in caught.value.message
    assert caught.value.remedy == "Set HOME."


def test_the_embedded_twenty_has_no_remote(tmp_path: Path) -> None:
    """It can be reached only during the run, so its remote would lead nowhere."""
    with pytest.raises(SinkError) as caught:
        open_remote(tmp_path, url="sandbox:core")
    assert "the embedded Twenty has no address after the run" in caught.value.message
    assert not list(tmp_path.iterdir())


def test_a_run_delivers_a_key_that_works(serve, run, tmp_path: Path, monkeypatch) -> None:
    """Plan files, restrictions, policies and `doctor` know the sink; a second run changes nothing.

    The url and the key of the remote together are accepted by the server.
    """
    served = serve()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOKEN", served.sandbox.session_token())
    folder = tmp_path / "manifests"
    folder.mkdir()
    environments = f"""\
version: 1
environments:
  crm:
    {{url: "${{TWENTY:-{served.sandbox.url}}}", auth: {{session_token: "${{TOKEN}}"}}, role: Admin}}
"""
    (folder / "environments.yaml").write_text(environments)
    keys = "keys: [{name: a, deliver: [{twenty: '{environment}-{name}'}]}]"
    (folder / "keys.yaml").write_text(
        f"version: 1\nenvironment: crm\ndefaults: {{expires: 90d}}\n{keys}\n"
    )
    plan = tmp_path / "plan.json"
    assert run("plan", "-m", folder, "--out", plan, "--allow-sink", "twenty:crm-*")[0] == 0
    code, _, err = run("plan", "-m", folder, "--allow-sink", "twenty:shop-*")
    assert (code, "twenty crm-a is not allowed" in err) == (5, True)
    code, out, err = run("apply", plan, "-m", folder)
    assert (code, "twenty crm-a" in out) == (0, True), err
    config = json.loads((tmp_path / "home" / ".twenty" / "config.json").read_text())
    remote = config["remotes"]["crm-a"]
    assert remote["apiUrl"] == served.sandbox.url
    credential = ApiToken(Secret(remote["apiKey"]))
    workspace = connect(served.environment(), remote["apiUrl"], credential, Cancellation())
    served.stack.callback(workspace.close)
    assert [key.name for key in workspace.observe().keys] == ["a"]
    before = len(served.writes())
    assert run("apply", "-m", folder)[0] == 0
    assert len(served.writes()) == before
    code, out, _ = run("doctor", "-m", folder)
    assert (code, "1 sink" in out) == (0, True), out
    policy = environments.replace("role:", "policy: {sinks: {forbid: [twenty]}}, role:")
    (folder / "environments.yaml").write_text(policy)
    assert "policy_sink_forbidden" in run("validate", "-m", folder)[1]


def test_two_keys_cannot_have_one_remote(run, tmp_path: Path) -> None:
    """All environments share the file, so a name without a placeholder collides."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "environments.yaml").write_text(
        "version: 1\nenvironments: {a: {url: 'sandbox:'}, b: {url: 'sandbox:'}}\n"
    )
    (folder / "keys.yaml").write_text(
        "version: 1\nenvironments: [a, b]\nkeys: [{name: k, expires: 9d, "
        "deliver: [{twenty: local}]}]\n"
    )
    code, out, _ = run("validate", "-m", folder)
    assert (code, "sink_collision" in out) == (3, True)


def assert_refused(home: Path, message: str) -> None:
    """Assert that each step fails with this message and a remedy."""
    for step in ("check", "read", "write"):
        with pytest.raises(SinkError) as caught:
            step_of(open_remote(home), step)
        assert (caught.value.code, caught.value.message) == ("sink_unsuitable", message)
        assert caught.value.remedy


def step_of(sink: Sink, step: str) -> object:
    return sink.write(Secret(FIRST)) if step == "write" else getattr(sink, step)()
