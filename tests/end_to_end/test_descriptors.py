"""Many environments in a process that may open few files and connections."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from hostile import token
from urllib3.exceptions import NewConnectionError

from provisioner.runtime import file_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNT = 300
TOO_FEW = 5  # enough to start and to read files one by one, but not for a connection
SERVED = '  shop-{n}: {{url: "URL/{n}", generation: legacy, auth: {{token: "${{TOKEN_{n}}}"}}}}\n'


class Workspaces:
    """Legacy workspaces of one server, each under its own path; connections are kept open."""

    def __init__(self) -> None:
        self.keys: dict[str, list[dict[str, Any]]] = {}
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0

    def answer(self, method: str, path: str, raw: bytes) -> Any:
        keys = self.keys.setdefault(path.split("/")[1], [])
        if method == "GET":
            page = {"hasNextPage": False}
            return {"data": {"apiKeys": keys}, "pageInfo": page, "totalCount": len(keys)}
        defaults = {"revokedAt": None, "createdAt": "2026-01-01T00:00:00.000Z"}
        created = [defaults | record for record in json.loads(raw)]
        keys += created
        return {"data": {"createApiKeys": created}}


@contextmanager
def serving(workspaces: Workspaces) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with workspaces.lock:
                workspaces.at_once += 1
                workspaces.most_at_once = max(workspaces.at_once, workspaces.most_at_once)
                answer = json.dumps(workspaces.answer(self.command, self.path, raw)).encode()
            with workspaces.lock:
                workspaces.at_once -= 1
            self.send_response(200 if self.command == "GET" else 201)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = serve  # noqa: N815 - http.server's names

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


def apply(folder: Path, soft: int, hard: int) -> subprocess.CompletedProcess[str]:
    return run_with_limits(folder, soft, hard, "apply")


def run_with_limits(
    folder: Path, soft: int, hard: int, command: str, *options: str
) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {f"TOKEN_{n}": token(workspaceId=workspace(n)) for n in range(COUNT)}
    return subprocess.run(
        [sys.executable, "-m", "provisioner", command, "--format", "json", *options],
        cwd=folder,
        env=variables,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def workspace(number: int) -> str:
    return f"20202020-1c25-4d02-bf25-{number:012d}"


def write_manifests(folder: Path, count: int, body: str) -> None:
    lines = [body.format(n=number) for number in range(count)]
    (folder / "manifests").mkdir()
    (folder / "manifests" / "environments.yaml").write_text(
        "version: 1\nenvironments:\n" + "".join(lines)
    )
    names = ", ".join(f"shop-{number}" for number in range(count))
    (folder / "manifests" / "keys.yaml").write_text(
        f"version: 1\nenvironments: [{names}]\ndefaults: {{expires: never}}\nkeys:\n"
        "  - name: svc\n    role: Admin\n"
    )


@pytest.mark.parametrize(("soft", "hard"), [(256, 256), (64, 1024)])
def test_300_environments_need_few_descriptors(tmp_path: Path, soft: int, hard: int) -> None:
    """Connections are closed after each observation; a soft limit is raised to the hard one."""
    workspaces = Workspaces()
    with serving(workspaces) as url:
        write_manifests(tmp_path, COUNT, SERVED.replace("URL", url))
        ran = apply(tmp_path, soft, hard)
    assert (ran.returncode, ran.stderr[-2000:]) == (0, ran.stderr[-2000:])
    assert [len(keys) for keys in workspaces.keys.values()] == [1] * COUNT
    result = json.loads(ran.stdout)
    assert {environment["summary"]["created"] for environment in result["environments"]} == {1}


def test_width_bounds_the_environments_at_once(tmp_path: Path) -> None:
    """With `--width 1` no two environments are worked on at once, and all of them are done."""
    workspaces = Workspaces()
    with serving(workspaces) as url:
        write_manifests(tmp_path, 8, SERVED.replace("URL", url))
        ran = run_with_limits(tmp_path, 256, 256, "apply", "--width", "1")
    assert (ran.returncode, ran.stderr[-2000:]) == (0, ran.stderr[-2000:])
    assert [len(keys) for keys in workspaces.keys.values()] == [1] * 8
    assert workspaces.most_at_once == 1


@pytest.mark.large
def test_300_embedded_twenties_need_few_descriptors(tmp_path: Path) -> None:
    """They share one port, and their files are closed between observation and execution."""
    write_manifests(tmp_path, COUNT, '  shop-{n}: {{url: "sandbox:"}}\n')
    ran = apply(tmp_path, 256, 256)
    assert (ran.returncode, ran.stderr[-2000:]) == (0, ran.stderr[-2000:])
    result = json.loads(ran.stdout)
    assert {environment["summary"]["created"] for environment in result["environments"]} == {1}


def test_doctor_examines_many_embedded_workspaces_with_few_descriptors(tmp_path: Path) -> None:
    """Each workspace is closed after its checks."""
    write_manifests(tmp_path, 40, '  shop-{n}: {{url: "sandbox:"}}\n')
    ran = run_with_limits(tmp_path, 96, 96, "doctor")
    assert (ran.returncode, ran.stderr[-2000:]) == (0, ran.stderr[-2000:])


def test_a_run_without_a_descriptor_left_says_so(tmp_path: Path) -> None:
    """The error names the limit and the remedy; it is not reported as a bug or a full disk."""
    workspaces = Workspaces()
    with serving(workspaces) as url:
        write_manifests(tmp_path, 2, SERVED.replace("URL", url))
        ran = apply(tmp_path, TOO_FEW, TOO_FEW)
    output = ran.stdout + ran.stderr
    assert "bug" not in output
    assert "disk" not in output
    assert (ran.returncode, "`ulimit -n`" in output) == (4, True)


def test_the_cause_of_an_error_shows_that_no_descriptor_is_left() -> None:
    """The cause is found however the libraries wrap it."""
    cause = OSError(errno.EMFILE, "Too many open files")
    assert file_descriptors.is_out_of_descriptors(cause)
    assert file_descriptors.is_out_of_descriptors(ValueError(cause))
    wrapped = NewConnectionError(None, f"Failed: {cause}")  # type: ignore[arg-type]
    assert file_descriptors.is_out_of_descriptors(wrapped)
    assert not file_descriptors.is_out_of_descriptors(
        OSError(errno.ENOSPC, "No space left on device")
    )


def test_the_number_of_environments_at_once_fits_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many environments run at once as the limit allows, but at least one."""
    monkeypatch.setattr(os, "listdir", lambda _: ["0"] * 20)
    for soft, each, expected in ((256, 16, 10), (64, 16, 1), (resource.RLIM_INFINITY, 9, 65536)):
        limits = (soft, soft)
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=limits: limits)
        assert file_descriptors.max_parallel(each) == expected
