"""Two pipelines at the same time: real processes, one workspace, the same 50 keys."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from processes import Provision
from sandbox_control import Dialect, Request, Response, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RACES = int(os.environ.get("RACES", "4"))
"""The number of races of each dialect; docs/reliability.md reports 50."""

NAMES = [f"svc-{number:02d}" for number in range(50)]
ROLE_SECONDS = 0.1


class StartingLine:
    """A middleware that delays the first create of each process until both have sent one."""

    def __init__(self) -> None:
        self._line = threading.Barrier(2)
        self._expiries: set[bytes] = set()
        self._lock = threading.Lock()
        self.raced = False

    def __call__(self, request: Request, answer: Callable[[Request], Response]) -> Response:
        if request.method == "POST" and b"svc-" in request.body:
            # The expiry of the first key, whose milliseconds differ between the runs.
            expiry = request.body.partition(b'expiresAt": "')[2][:24]
            with self._lock:
                first = expiry not in self._expiries and len(self._expiries) < 2
                self._expiries.add(expiry)
            if first:
                # A run that has seen the other's keys creates nothing, so the wait may time out.
                with suppress(threading.BrokenBarrierError):
                    self._line.wait(10.0)
                    self.raced = True
        return answer(request)


def write_manifests(folder: Path, url: str, *, role: bool) -> None:
    folder.mkdir()
    environment = {"url": url, "auth": {"token": "${TOKEN}"}}
    environments = {"version": 1, "environments": {"shop": environment}}
    manifest = {
        "version": 1,
        "environment": "shop",
        "depth": 1,
        "defaults": {"expires": "2030-01-01"} | ({"role": "Admin"} if role else {}),
        "keys": [{"name": name} for name in NAMES],
    }
    (folder / "environments.yaml").write_text(json.dumps(environments))
    (folder / "keys.yaml").write_text(json.dumps(manifest))


def start(folder: Path, token: str) -> subprocess.Popen[str]:
    return Provision(
        *("apply", "-m", folder, "--format", "json"),
        env={**os.environ, "TOKEN": token},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("race", range(RACES))
@pytest.mark.parametrize("dialect", Dialect)
def test_two_runs_at_once_leave_and_report_one_live_key_per_name(
    dialect: Dialect, race: int, tmp_path: Path
) -> None:
    """After both runs, exactly one key of each name is live, and both reports name that key."""
    line = StartingLine()
    with Sandbox(None, dialect, around=line, role_seconds=ROLE_SECONDS) as sandbox:
        token = sandbox.session_token()
        write_manifests(tmp_path / "manifests", sandbox.url, role=dialect is not Dialect.LEGACY)
        runs = [start(tmp_path / "manifests", token) for _ in range(2)]
        reports = [run.communicate(timeout=50) for run in runs]
        live = {key.id: key.name for key in sandbox.keys() if key.revoked_at is None}
    assert line.raced
    assert [run.returncode for run in runs] == [0, 0], reports
    assert Counter(live.values()) == Counter(NAMES), reports
    created = 0
    for out, _ in reports:
        [environment] = json.loads(out)["environments"]
        results, summary = environment["results"], environment["summary"]
        assert environment["findings"] == []
        assert {entry["id"]: entry["name"] for entry in results}.items() <= live.items()
        assert {entry["record"]["id"] for entry in results} == {entry["id"] for entry in results}
        assert all(entry["status"] == "done" for entry in results)
        assert summary["created"] + summary["kept"] == len(NAMES)
        created += summary["created"]
    assert created == len(NAMES), reports
