"""The file of the embedded Twenty: shared, locked, read-only, another user's, or without space."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sqlite3
import subprocess
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import requests
from processes import Provision
from sandbox_control import Sandbox, dialect_of

from provisioner.sandbox.store import SandboxUnusableError, Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_control import SeededRole

NAMES = [f"key-{number}" for number in range(30)]
URLS = ("sandbox:", "sandbox:core-1", "sandbox:legacy")
NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


def project(folder: Path, url: str = "sandbox:", timeout: str = "30s") -> Path:
    manifests = folder / "manifests"
    manifests.mkdir()
    dev = {"url": url, "limits": {"timeout": timeout}}
    environments = {"version": 1, "environments": {"dev": dev}}
    (manifests / "environments.yaml").write_text(json.dumps(environments))
    keys = {
        "version": 1,
        "environment": "dev",
        "defaults": {"expires": "90d", "role": "Admin"},
        "keys": [{"name": name} for name in NAMES],
    }
    (manifests / "keys.yaml").write_text(json.dumps(keys))
    return folder


def start(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    return Provision(
        *(arguments or ("apply", "--format", "json")),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def result_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=55)
    assert "Traceback" not in err
    assert "bug in provision" not in err
    assert "failed to answer" not in err
    return process.returncode, out, err


def state(folder: Path) -> Path:
    return folder / ".provision" / "dev.sqlite3"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the write lock of the file, as another program does."""
    holder = sqlite3.connect(file, isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        yield
    finally:
        holder.close()


def failures(out: str) -> Counter[tuple[str, str]]:
    """Return the codes and messages of the environment's or its keys' errors, with counts."""
    [environment] = json.loads(out)["environments"]
    errors = (
        [environment["error"]]
        if environment["error"]
        else [result["error"] for result in environment["results"]]
    )
    return Counter((error["code"], error["message"]) for error in errors if error)


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("fresh", [True, False])
def test_two_runs_with_one_file_leave_one_key_per_name(tmp_path, url, fresh) -> None:
    """Both runs succeed, also if both create the file."""
    folder = project(tmp_path, url)
    if not fresh:
        with Sandbox(state(folder), dialect_of(url)):
            pass
    runs = [start(folder) for _ in range(2)]
    assert [result_of(run)[0] for run in runs] == [0, 0]
    with Sandbox(state(folder), dialect_of(url)) as sandbox:
        live = [key.name for key in sandbox.keys() if key.revoked_at is None]
    assert Counter(live) == Counter(NAMES)


@pytest.mark.parametrize("url", URLS)
def test_a_locked_file_fails_each_key_after_one_wait(tmp_path, url) -> None:
    """The error of each key names the file and what to do; no outcome is unknown."""
    folder = project(tmp_path, url, timeout="2s")
    with Sandbox(state(folder), dialect_of(url)):
        pass
    with locked(state(folder)):
        code, out, _ = result_of(start(folder))
    assert code == 4
    errors = failures(out)
    assert {code for code, _ in errors} == {"sandbox_unusable"}
    [(_, message)] = errors
    assert message == (
        f"dev: {state(folder)} is locked by another program. Close that program or "
        "wait until it finishes, then run the command again."
    )
    assert result_of(start(folder))[0] == 0


def without_root() -> None:
    """Make root obey file modes in the next process; for use as `preexec_fn`."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: capabilities(7)
            drop = ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: prctl(2)
            assert drop == 0


def cannot_write(file: Path) -> list[tuple[str, str]]:
    message = (
        f"The embedded Twenty cannot write {file}: this user may not write to the file or its "
        "folder. "
        f"Make {file.parent} writable, or run as the user who owns it."
    )
    return [("sandbox_unusable", message)]


@AS_ROOT
@pytest.mark.parametrize("existing", ["folder", "hidden folder", "file", "file in an open folder"])
def test_the_error_for_another_users_file_has_a_remedy(tmp_path: Path, existing: str) -> None:
    """The run exits with 4, and the error names the path and what to make writable."""
    file = state(project(tmp_path))
    if "file" in existing:
        with Sandbox(file):
            pass
        file.chmod(0o644)
        os.chown(file, NOBODY, NOBODY)
    file.parent.mkdir(exist_ok=True)
    file.parent.chmod(
        {"hidden folder": 0o700, "file in an open folder": 0o777}.get(existing, 0o755)
    )
    os.chown(file.parent, NOBODY, NOBODY)
    code, out, _ = result_of(start(tmp_path, preexec_fn=without_root))
    assert (code, list(failures(out))) == (4, cannot_write(file))


@pytest.mark.parametrize("existing", ["nothing", "folder", "file"])
def test_the_error_for_a_read_only_file_has_a_remedy(tmp_path: Path, existing: str) -> None:
    """A read-only project, `.provision/` or file is reported with what to make writable."""
    file = state(project(tmp_path))
    if existing == "file":
        with Sandbox(file):
            pass
        file.chmod(0o400)
    elif existing == "folder":
        file.parent.mkdir(mode=0o500)
    else:
        tmp_path.chmod(0o500)
    code, out, _ = result_of(start(tmp_path, preexec_fn=without_root))
    tmp_path.chmod(0o700)
    assert (code, list(failures(out))) == (4, cannot_write(file))


@pytest.mark.parametrize("home", ["/nonexistent", "read-only"])
def test_no_home_is_needed(tmp_path: Path, home: str) -> None:
    """The embedded Twenty needs no home directory."""
    folder = project(tmp_path)
    if home == "read-only":
        (folder / "home").mkdir(mode=0o500)
        home = str(folder / "home")
    env = os.environ | {"HOME": home}
    code, out, err = result_of(start(folder, preexec_fn=without_root, env=env))
    assert (code, err[-2000:]) == (0, err[-2000:])
    assert json.loads(out)["environments"][0]["summary"]["created"] == len(NAMES)


@pytest.mark.parametrize("limit", [0, 4096, 40_000, 60_000, 100_000])
def test_the_error_for_a_file_size_limit_has_a_remedy(tmp_path: Path, limit: int) -> None:
    """With `ulimit -f`, as with a full disk, the run exits with 4; the next one does the rest."""
    folder = project(tmp_path)

    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code, out, _ = result_of(start(folder, preexec_fn=set_limit))
    assert code == 4
    [(error_code, message)] = failures(out)
    assert error_code == "sandbox_unusable"
    assert f"cannot write {state(folder)}: " in message
    assert message.endswith("Free disk space, or raise the limit on file sizes (`ulimit -f`).")
    assert result_of(start(folder))[0] == 0
    with Sandbox(state(folder)) as sandbox:
        assert Counter(key.name for key in sandbox.keys()) == Counter(NAMES)


@pytest.mark.parametrize(("limit", "expected"), [(6, 4), (8, 4), (10, 4), (13, 4), (40, 0)])
def test_the_error_for_too_few_descriptors_names_the_limit(
    tmp_path: Path, limit: int, expected: int
) -> None:
    """The run ends before it starts anything, and the error names the limit to raise."""
    folder = project(tmp_path)

    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    code, _, err = result_of(start(folder, preexec_fn=set_limit))
    assert (code, "`ulimit -n`" in err) == (expected, expected == 4)
    assert expected == 0 or not state(folder).exists()


def test_a_request_that_fails_after_its_commit_gets_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a key was created and its role cannot be read, the connection closes without an answer."""
    with Sandbox(tmp_path / "state") as sandbox:
        role = sandbox.role("Admin").id
        session = sandbox.session_token()
        roles = iter([SandboxUnusableError("It is locked.", "Wait.")])

        def locked_once(_: Store) -> tuple[SeededRole, ...]:
            raise next(roles)

        monkeypatch.setattr(Store, "roles", locked_once)
        document = "mutation($k:CreateApiKeyInput!){createApiKey(input:$k){id role{id}}}"
        fields = {"name": "svc", "expiresAt": "2031-01-01T00:00:00.000Z", "roleId": role}
        with pytest.raises(requests.ConnectionError):
            requests.post(
                f"{sandbox.url}/metadata",
                json={"query": document, "variables": {"k": fields}},
                headers={"Authorization": f"Bearer {session}"},
                timeout=10,
            )
        assert [key.name for key in sandbox.keys()] == ["svc"]
