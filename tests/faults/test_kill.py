"""A run killed at each of its requests, before and after the commit, and then repeated.

`KILLS=all` kills before and after each request. By default, a run with many requests is killed
before every second one, and after the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import Counter
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal

import pytest
from processes import Provision
from sandbox_control import Dialect, Exchange, Request, Response, Sandbox

from provisioner.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

When = Literal["before", "after"]

COUNTS = {0: 8, 1: 9, 2: 8}
MANY = 10
"""The number of requests from which a run is killed only at some of them."""
NAMES = [f"svc-{depth}-{number}" for depth, count in COUNTS.items() for number in range(count)]
DIALECTS = pytest.mark.parametrize("dialect", Dialect)


class KillPoint:
    """A middleware that kills a process at one of its requests and then handles none.

    Attributes:
        process: the process to kill; its first request may come before it is set.
        fired: true once the process was killed.
        disabled: true once all requests are handled again.
    """

    def __init__(self, number: int, when: When) -> None:
        self._number = number
        self._when = when
        self._arrived = 0
        self._handling = 0
        self._changed = threading.Condition()
        self.process: Future[subprocess.Popen[bytes]] = Future()
        self.fired = False
        self.disabled = False

    def __call__(self, request: Request, answer: Callable[[Request], Response]) -> Response:
        with self._changed:
            number = self._arrived
            self._arrived += 1
            if not self.disabled and (
                self.fired or (number == self._number and self._kill_before())
            ):
                raise ConnectionResetError
            self._handling += 1
        try:
            result = answer(request)
        finally:
            with self._changed:
                self._handling -= 1
                self._changed.notify_all()
        with self._changed:
            if not self.disabled and (self.fired or number == self._number):
                self._kill()
                raise ConnectionResetError
        return result

    def disable(self) -> None:
        """Wait until the requests in progress are handled, then handle all later ones."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._handling, 10)
            self.disabled = True

    def _kill_before(self) -> bool:
        if self._when == "before":
            self._kill()
        return self.fired

    def _kill(self) -> None:
        self.process.result(30).kill()
        self.fired = True


def write_manifests(folder: Path, url: str, dialect: Dialect) -> None:
    folder.mkdir()
    environment = {"url": url, "auth": {"token": "${TOKEN}"}}
    environments = {"version": 1, "environments": {"shop": environment}}
    (folder / "environments.yaml").write_text(json.dumps(environments))
    role = {} if dialect is Dialect.LEGACY else {"role": "Admin"}
    for depth in COUNTS:
        names = [name for name in NAMES if name.startswith(f"svc-{depth}-")]
        manifest = {
            "version": 1,
            "environment": "shop",
            "depth": depth,
            "defaults": {"expires": "90d"} | role,
            "keys": [{"name": name} for name in names],
        }
        (folder / f"depth-{depth}.yaml").write_text(json.dumps(manifest))


def requests_of_a_run(dialect: Dialect) -> int:
    """Return the number of requests of an undisturbed run; docs/reliability.md has the figures."""
    return {Dialect.LEGACY: 5, Dialect.CORE_1: 7, Dialect.CORE: 30}[dialect.recorded]


def is_write(exchange: Exchange) -> bool:
    return exchange.path.startswith("/rest/batch") or b"mutation" in exchange.body


@DIALECTS
def test_the_kill_points_are_all_requests_of_a_run(
    dialect: Dialect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An undisturbed run sends the number of requests that the test below kills at."""
    journal: list[Exchange] = []
    with Sandbox(None, dialect, journal=journal) as sandbox:
        write_manifests(tmp_path / "manifests", sandbox.url, dialect)
        monkeypatch.setenv("TOKEN", sandbox.session_token())
        assert main(["apply", "-m", str(tmp_path / "manifests")]) == 0
    assert len(journal) == requests_of_a_run(dialect)


@pytest.mark.parametrize("when", ["before", "after"])
@DIALECTS
def test_a_run_killed_at_any_request_is_finished_by_the_next_one(
    dialect: Dialect, when: When, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """After the next run every key exists exactly once, and the run after that sends no write."""
    requests = requests_of_a_run(dialect)
    every = 1 if os.environ.get("KILLS") == "all" or requests < MANY else 2
    first = 1 if every > 1 and when == "after" else 0
    for number in range(first, requests, every):
        journal: list[Exchange] = []
        kill_point = KillPoint(number, when)
        folder = tmp_path / f"manifests-{number}"
        with Sandbox(None, dialect, around=kill_point, journal=journal) as sandbox:
            write_manifests(folder, sandbox.url, dialect)
            monkeypatch.setenv("TOKEN", sandbox.session_token())
            process = Provision(
                "apply", "-m", folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            kill_point.process.set_result(process)
            assert process.wait(30) == -9, number
            kill_point.disable()
            assert main(["apply", "-m", str(folder)]) == 0, number
            live = Counter(key.name for key in sandbox.keys() if key.revoked_at is None)
            assert live == Counter(NAMES), number
            assert len(sandbox.keys()) == len(NAMES), number
            journal.clear()
            assert main(["apply", "-m", str(folder), "--format", "json"]) == 0, number
            assert not any(map(is_write, journal)), number
        capsys.readouterr()
