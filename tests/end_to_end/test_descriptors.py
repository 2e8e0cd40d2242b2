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
LEAST = 5  # enough to start and to read files one by one, and for no connection beside them


class Workspaces:
    """Legacy workspaces of one server, each below a path of its own; connections are kept."""

    def __init__(self) -> None:
        self.keys: dict[str, list[dict[str, Any]]] = {}
        self.lock = threading.Lock()

    def answer(self, method: str, path: str, raw: bytes) -> Any:
        keys = self.keys.setdefault(path.split("/")[1], [])
        if method == "GET":
            page = {"hasNextPage": False}
            return {"data": {"apiKeys": keys}, "pageInfo": page, "totalCount": len(keys)}
        created = "2026-01-01T00:00:00.000Z"
        made = [{"revokedAt": None, "createdAt": created} | one for one in json.loads(raw)]
        keys += made
        return {"data": {"createApiKeys": made}}


@contextmanager
def serving(workspaces: Workspaces) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with workspaces.lock:
                told = json.dumps(workspaces.answer(self.command, self.path, raw)).encode()
            self.send_response(200 if self.command == "GET" else 201)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

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
    return ran_within(folder, soft, hard, "apply")


def ran_within(
    folder: Path, soft: int, hard: int, command: str
) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {f"TOKEN_{n}": token(workspaceId=workspace(n)) for n in range(COUNT)}
    return subprocess.run(
        [sys.executable, "-m", "provisioner", command, "--format", "json"],
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


def manifests(folder: Path, count: int, body: str) -> None:
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
def test_three_hundred_environments_need_few_descriptors(
    tmp_path: Path, soft: int, hard: int
) -> None:
    """Connections are closed after the look; a soft limit is raised to the hard one."""
    workspaces = Workspaces()
    with serving(workspaces) as url:
        manifests(
            tmp_path,
            COUNT,
            f'  shop-{{n}}: {{{{url: "{url}/{{n}}", generation: legacy, '
            'auth: {{token: "${{TOKEN_{n}}}"}}}}\n',
        )
        ran = apply(tmp_path, soft, hard)
    assert (ran.returncode, ran.stderr[-2000:]) == (0, ran.stderr[-2000:])
    assert [len(keys) for keys in workspaces.keys.values()] == [1] * COUNT
    result = json.loads(ran.stdout)
    assert {one["summary"]["created"] for one in result["environments"]} == {1}


def test_three_hundred_embedded_twenties_need_few_descriptors(tmp_path: Path) -> None:
    """They share one port, and between look and work none holds its file open."""
    manifests(tmp_path, COUNT, '  shop-{n}: {{url: "sandbox:"}}\n')
    ran = apply(tmp_path, 256, 256)
    assert (ran.returncode, ran.stderr[-2000:]) == (0, ran.stderr[-2000:])
    result = json.loads(ran.stdout)
    assert {one["summary"]["created"] for one in result["environments"]} == {1}


def test_doctor_examines_many_embedded_workspaces_with_few_descriptors(tmp_path: Path) -> None:
    """What was examined is closed."""
    manifests(tmp_path, 40, '  shop-{n}: {{url: "sandbox:"}}\n')
    ran = ran_within(tmp_path, 96, 96, "doctor")
    assert (ran.returncode, ran.stderr[-2000:]) == (0, ran.stderr[-2000:])


def test_a_run_without_a_descriptor_left_says_so(tmp_path: Path) -> None:
    """What is missing is named with its remedy; it is no bug and no lack of disk space."""
    workspaces = Workspaces()
    with serving(workspaces) as url:
        manifests(
            tmp_path,
            2,
            f'  shop-{{n}}: {{{{url: "{url}/{{n}}", generation: legacy, '
            'auth: {{token: "${{TOKEN_{n}}}"}}}}\n',
        )
        ran = apply(tmp_path, LEAST, LEAST)
    told = ran.stdout + ran.stderr
    assert "bug" not in told
    assert "disk" not in told
    assert (ran.returncode, "`ulimit -n`" in told) == (4, True)


def test_what_led_to_an_error_tells_that_no_descriptor_is_left() -> None:
    """However the libraries wrap it."""
    cause = OSError(errno.EMFILE, "Too many open files")
    assert file_descriptors.is_out_of_descriptors(cause)
    assert file_descriptors.is_out_of_descriptors(ValueError(cause))
    wrapped = NewConnectionError(None, f"Failed: {cause}")  # type: ignore[arg-type]
    assert file_descriptors.is_out_of_descriptors(wrapped)
    assert not file_descriptors.is_out_of_descriptors(
        OSError(errno.ENOSPC, "No space left on device")
    )


def test_the_room_follows_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least one environment at a time, and as many as have room."""
    monkeypatch.setattr(file_descriptors, "_open_count", lambda: 20)
    for soft, each, expected in ((256, 16, 10), (64, 16, 1), (resource.RLIM_INFINITY, 9, 65536)):
        limits = (soft, soft)
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=limits: limits)
        assert file_descriptors.max_parallel(each) == expected
