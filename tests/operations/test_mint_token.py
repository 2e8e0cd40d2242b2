"""`provision token` writes the token of one key to its own file, and nowhere else."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import requests
from sandbox_control import Dialect

from provisioner.cli import main
from provisioner.model.token_claims import claims_of
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox_control import Exchange

TOKEN = "eyJhbGciOiJIUzI1NiJ9"
"""The prefix of every Twenty token."""

DIALECTS = pytest.mark.parametrize("dialect", Dialect)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, which is the parent of the manifests."""
    folder = tmp_path / "project"
    (folder / "manifests").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process and return the exit code, stdout and stderr.

    Fail if a token is on stdout or stderr.
    """

    def run_(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert TOKEN not in out + err
        return code, out, err

    return run_


@pytest.fixture
def shop(root: Path, serve, monkeypatch) -> Callable[..., Any]:
    """A server with a live key `svc`, declared as the only environment."""

    def shop_(dialect: Dialect = Dialect.CORE, **options: Any) -> Any:
        served = serve(dialect, **options)
        monkeypatch.setenv("SHOP", served.sandbox.session_token())
        (root / "manifests" / "environments.yaml").write_text(
            "version: 1\nenvironments:\n"
            f"  shop: {{url: '{served.sandbox.url}', auth: {{session_token: '${{SHOP}}'}}}}\n"
        )
        served.key_id = served.sandbox.seed(["svc"])[0]
        return served

    return shop_


def mints(journal: list[Exchange]) -> int:
    return sum(b"generateApiKeyToken" in one.body for one in journal)


def works(served: Any, token: str) -> bool:
    response = requests.post(
        f"{served.sandbox.url}/metadata",
        json={"query": "{__typename}"},
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    )
    return "errors" not in response.json()


def key_of(file: Path) -> str | None:
    claims = claims_of(Secret(file.read_text()))
    return None if claims is None else claims.key


@DIALECTS
def test_the_file_is_private_and_contains_only_the_token(run, shop, root, dialect) -> None:
    """No line break, mode 0600, folders created; the token works until the key expires."""
    served = shop(dialect)
    before = served.sandbox.keys()
    code, out, err = run("token", "svc", "--to", "secrets/svc.token")
    file = root / "secrets" / "svc.token"
    assert (code, err) == (0, "")
    assert out == (
        f"wrote secrets/svc.token: token of svc ({served.key_id}), expires 2031-01-01T00:00:00Z\n"
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]
    claims = claims_of(Secret(file.read_text()))
    assert claims is not None
    assert claims.key == served.key_id
    assert claims.expires_at is not None
    assert claims.expires_at.isoformat() == "2031-01-01T00:00:00+00:00"
    assert works(served, file.read_text())
    assert served.sandbox.keys() == before


def test_the_embedded_twenty_mints_tokens(run, root) -> None:
    """It does so for keys that `apply` created; relative paths start at the working directory."""
    (root / "manifests" / "environments.yaml").write_text(
        "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin}\n"
    )
    (root / "manifests" / "keys.yaml").write_text(
        "version: 1\nenvironment: dev\ndefaults: {expires: 90d}\nkeys: [{name: a}]\n"
    )
    assert run("apply")[0] == 0
    code, out, _ = run("token", "a", "--to", "a.token")
    assert code == 0
    assert f"a.token: token of a ({key_of(root / 'a.token')}), expires " in out


def test_an_existing_token_is_replaced_and_still_works(run, shop, root) -> None:
    """The file becomes private, whatever its mode was."""
    served = shop()
    file = root / "svc.token"
    assert run("token", "svc", "--to", "svc.token")[0] == 0
    first = file.read_text()
    file.chmod(0o644)
    assert run("token", "svc", "--to", str(file))[0] == 0
    assert key_of(file) == served.key_id
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert works(served, first)
    assert works(served, file.read_text())


@pytest.mark.parametrize(
    "content",
    [
        "DATABASE_URL=postgres://x\n",
        "-----BEGIN KEY-----\n",
        "x",
        f"A={TOKEN}.e30.abc\n",
        f"{TOKEN}.e30.{'x' * 43}",
        f"{TOKEN}.eyJqdGkiOiJhIn0.{'x' * 42}",
        "\x00\xff",
    ],
)
def test_a_file_with_other_content_is_refused_and_unchanged(run, shop, root, content: str) -> None:
    """This includes other tokens and truncated ones; nothing is minted."""
    served = shop()
    file = root / "precious"
    file.write_bytes(content.encode("latin-1"))
    file.chmod(0o640)
    before = file.stat()
    code, out, err = run("token", "svc", "--to", "precious")
    assert (code, out) == (4, "")
    assert err.startswith("sink_unsuitable: file precious ")
    assert file.read_bytes() == content.encode("latin-1")
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_mode,
    )
    assert mints(served.journal) == 0


def test_a_session_token_is_not_mistaken_for_a_token_of_the_key(run, shop, root) -> None:
    """A user who names the credential file by mistake does not lose it."""
    served = shop()
    file = root / "session"
    file.write_text(served.sandbox.session_token())
    before = file.read_text()
    assert run("token", "svc", "--to", "session")[0] == 4
    assert file.read_text() == before
    assert mints(served.journal) == 0
    assert run("token", "svc", "--to", "session")[2] == (
        "sink_unsuitable: file session already exists and does not contain a token for 'svc'. "
        "Choose a file that does not exist yet.\n"
        'Run "provision explain sink_unsuitable" to learn more.\n'
    )


def test_the_token_of_another_key_is_not_overwritten(run, shop, root) -> None:
    """It may be the credential of the run, which cannot be retrieved again."""
    served = shop()
    served.sandbox.seed(["other"])
    assert run("token", "other", "--to", "credential")[0] == 0
    before = (root / "credential").read_text()
    assert run("token", "svc", "--to", "credential")[0] == 4
    assert (root / "credential").read_text() == before


@DIALECTS
def test_the_token_of_a_revoked_key_of_the_name_is_replaced(run, shop, root, dialect) -> None:
    """No list has that key any more, but its own row still has the name."""
    served = shop(dialect)
    assert run("token", "svc", "--to", "svc.token")[0] == 0
    [key] = (one for one in served.sandbox.keys() if one.id == served.key_id)
    served.sandbox.put(replace(key, revoked_at="2026-01-01T00:00:00.000Z"))
    [successor] = served.sandbox.seed(["svc"])
    assert run("token", "svc", "--to", "svc.token")[0] == 0
    assert key_of(root / "svc.token") == successor


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/dev/null", "."])
def test_a_path_that_is_not_a_regular_file_is_refused(run, shop, place: str) -> None:
    """A stream, a device or a folder; nothing is minted."""
    served = shop()
    code, out, err = run("token", "svc", "--to", place)
    assert (code, out) == (4, "")
    assert err.startswith("sink_unsuitable: file ")
    assert mints(served.journal) == 0


def test_a_token_never_goes_to_a_terminal_or_pipe(run, shop, root) -> None:
    """This includes links to them."""
    served = shop()
    outside, terminal = pty.openpty()
    try:
        (root / "link").symlink_to(os.ttyname(terminal))
        os.mkfifo(root / "pipe")
        for place in (os.ttyname(terminal), "link", "pipe"):
            code, _, err = run("token", "svc", "--to", place)
            assert (code, err.partition(":")[0]) == (4, "sink_unsuitable")
        os.set_blocking(outside, False)
        with pytest.raises(BlockingIOError):
            os.read(outside, 1)
    finally:
        os.close(outside)
        os.close(terminal)
    assert mints(served.journal) == 0


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_file_that_git_could_publish_is_refused(run, shop, root) -> None:
    """A file must be ignored and untracked."""
    served = shop()
    git(root, "init", "--quiet")
    code, _, err = run("token", "svc", "--to", "svc.token")
    assert (code, "does not ignore it" in err) == (4, True)
    (root / ".gitignore").write_text("*.token\n")
    (root / "tracked.token").write_text("")
    git(root, "add", "--force", "tracked.token")
    git(root, "commit", "--quiet", "--message", "x")
    code, _, err = run("token", "svc", "--to", "tracked.token")
    assert (code, "is tracked by git" in err) == (4, True)
    assert (root / "tracked.token").read_text() == ""
    assert not (root / "svc.token").exists()
    assert mints(served.journal) == 0
    assert run("token", "svc", "--to", "svc.token")[0] == 0
    assert key_of(root / "svc.token") == served.key_id


@pytest.mark.parametrize("name", ["sv", "SVC", "dead", "over", "svc*"])
def test_no_token_is_minted_without_a_live_key(run, shop, root, name: str) -> None:
    """Revoked, expired or with another name: exit code 4, no file, nothing minted."""
    served = shop(Dialect.LEGACY)
    served.sandbox.seed(["dead"], revoked_at="2026-01-01T00:00:00.000Z")
    served.sandbox.seed(["over"], expires_at="2026-01-01T00:00:00.000Z")
    code, out, err = run("token", name, "--to", "x/svc.token")
    assert (code, out) == (4, "")
    assert err == (
        f"key_missing: There is no live key {name!r}. Run `provision list` to see the live keys.\n"
        'Run "provision explain key_missing" to learn more.\n'
    )
    assert not (root / "x").exists()
    assert mints(served.journal) == 0


def test_the_oldest_of_several_live_keys_is_used(run, shop, root) -> None:
    """As in a plan: ordered by creation time, then by id."""
    served = shop()
    [first] = served.sandbox.keys()
    older = replace(
        first,
        id="ffffffff-0000-4000-8000-000000000000",
        created_at="2025-01-01T00:00:00.000Z",
        expires_at="2030-06-30T00:00:00.417Z",
    )
    twin = replace(older, id="eeeeeeee-0000-4000-8000-000000000000")
    dead = replace(
        older, id="dddddddd-0000-4000-8000-000000000000", revoked_at="2026-01-01T00:00:00.000Z"
    )
    served.sandbox.put(older, twin, dead)
    code, out, _ = run("token", "svc", "--to", "svc.token")
    assert code == 0
    assert key_of(root / "svc.token") == twin.id
    assert f"({twin.id}), expires 2030-06-30T00:00:00Z" in out


def test_a_token_that_the_server_rejects_is_not_written(run, shop, root) -> None:
    """If the key is revoked while its token is minted, the old token stays in the file."""

    def around(request: Any, inner: Callable[[Any], Any]) -> Any:
        answer = inner(request)
        if b"generateApiKeyToken" in request.body and revoking:
            revoked_at = "2026-01-01T00:00:00.000Z"
            sandbox = served.sandbox
            sandbox.put(*(replace(one, revoked_at=revoked_at) for one in sandbox.keys()))
        return answer

    revoking = False
    served = shop(around=around)
    file = root / "svc.token"
    assert run("token", "svc", "--to", "svc.token")[0] == 0
    before = file.read_text()
    revoking = True
    code, out, err = run("token", "svc", "--to", "svc.token")
    assert (code, out, err.partition(":")[0]) == (4, "", "token_refused")
    assert file.read_text() == before


def test_the_environment_is_required_if_there_are_several(run, shop, root) -> None:
    """The message lists the names; no environment gets a request."""
    served = shop()
    file = root / "manifests" / "environments.yaml"
    file.write_text(f"{file.read_text()}  dev: {{url: 'sandbox:'}}\n")
    code, out, err = run("token", "svc", "--to", "svc.token")
    assert (code, out) == (64, "")
    assert "-e: shop, dev." in err
    code, _, err = run("token", "svc", "-e", "shp", "--to", "svc.token")
    assert (code, "'shop'" in err) == (64, True)
    assert served.journal == []
    assert not (root / "svc.token").exists()
    assert run("token", "svc", "-e", "shop", "--to", "svc.token")[0] == 0
    assert key_of(root / "svc.token") == served.key_id


def test_a_file_is_required_by_option_or_variable(run, shop, root, monkeypatch) -> None:
    """A token can never be printed."""
    served = shop()
    code, out, err = run("token", "svc")
    assert (code, out, "--to" in err) == (64, "", True)
    assert run("token", "--to", "svc.token")[0] == 64
    assert run("token", "svc", "--to", "-")[0] == 64
    assert not (root / "-").exists()
    monkeypatch.setenv("PROVISION_TO", "other.token")
    assert run("token", "svc")[0] == 0
    assert key_of(root / "other.token") == served.key_id


def test_quiet_prints_nothing(run, shop, root) -> None:
    """The file is written as usual."""
    served = shop()
    assert run("token", "svc", "--to", "svc.token", "-q") == (0, "", "")
    assert key_of(root / "svc.token") == served.key_id


@DIALECTS
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_log_shows_requests_but_no_part_of_a_token(
    run, shop, root, dialect: Dialect, log_format: str
) -> None:
    """At the debug level, in both formats; this includes the credential."""
    served = shop(dialect)
    options = ("--log-level", "debug", "--log-format", log_format)
    code, out, err = run("token", "svc", "--to", "svc.token", *options)
    assert code == 0
    assert "POST /metadata" in err
    token = (root / "svc.token").read_text()
    for secret in (token, os.environ["SHOP"]):
        for part in secret.split(".")[1:]:
            assert part not in out + err
    assert works(served, token)


def test_a_name_cannot_control_the_terminal(run, shop, root) -> None:
    """Unprintable characters are escaped in messages of success and failure."""
    served = shop()
    served.sandbox.seed(["a\x1b[2J"])
    code, out, _ = run("token", "a\x1b[2J", "--to", "a.token")
    assert (code, "a\\x1b[2J" in out, "\x1b" in out) == (0, True, False)
    code, _, err = run("token", "b\x1b[2J", "--to", "b.token")
    assert (code, "\x1b" in err) == (4, False)


def test_problems_of_key_manifests_do_not_matter(run, shop, root) -> None:
    """The key need not be declared, but environments.yaml must be valid."""
    served = shop()
    (root / "manifests" / "keys.yaml").write_text("version: 1\nkeys: 7\n")
    assert run("token", "svc", "--to", "svc.token")[0] == 0
    assert key_of(root / "svc.token") == served.key_id
    (root / "manifests" / "environments.yaml").write_text("version: 1\nenvironments: 7\n")
    assert run("token", "svc", "--to", "other.token")[0] == 3


def test_an_unreachable_server_is_an_error(run, shop, root) -> None:
    """Exit code 4 and no file."""
    served = shop()
    served.sandbox.stop()
    code, out, err = run("token", "svc", "--to", "svc.token")
    assert (code, out, err.partition(":")[0]) == (4, "", "unreachable")
    assert not (root / "svc.token").exists()
