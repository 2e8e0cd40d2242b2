"""A run killed at each of its requests, before and after the commit, and then run again.

`KILLS=all` kills before and after each; otherwise each second request of a run with many is killed
before its commit, and the others after it.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import Counter
from typing import TYPE_CHECKING, Literal

import pytest
from processes import Provision

from provisioner.cli import main
from provisioner.sandbox import Dialect, Exchange, Request, Response, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Moment = Literal["before", "after"]

COUNTS = {0: 8, 1: 9, 2: 8}
MANY = 10
"""Requests from which a run is killed at a part of them."""
NAMES = [f"svc-{depth}-{number}" for depth, count in COUNTS.items() for number in range(count)]
DIALECTS = pytest.mark.parametrize("dialect", Dialect)


class Gallows:
    """Kills a process at one of its requests, from then on handles none, until it is taken down.

    Attributes:
        fell: whether the request came.
    """

    def __init__(self, number: int, moment: Moment) -> None:
        self._number = number
        self._moment = moment
        self._arrived = 0
        self._handling = 0
        self._changed = threading.Condition()
        self.process: subprocess.Popen[bytes] | None = None
        self.fell = False
        self.down = False

    def __call__(self, request: Request, answer: Callable[[Request], Response]) -> Response:
        with self._changed:
            number = self._arrived
            self._arrived += 1
            if not self.down and (self.fell or (number == self._number and self._before())):
                raise ConnectionResetError
            self._handling += 1
        try:
            answered = answer(request)
        finally:
            with self._changed:
                self._handling -= 1
                self._changed.notify_all()
        with self._changed:
            if not self.down and (self.fell or number == self._number):
                self._kill()
                raise ConnectionResetError
        return answered

    def take_down(self) -> None:
        """Waits until the server is done with what it had begun, and lets everyone through."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._handling, 10)
            self.down = True

    def _before(self) -> bool:
        if self._moment == "before":
            self._kill()
        return self.fell

    def _kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.fell = True


def write_manifests(folder: Path, url: str, dialect: Dialect) -> None:
    folder.mkdir()
    given = {"url": url, "auth": {"token": "${TOKEN}"}}
    environments = {"version": 1, "environments": {"shop": given}}
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
    """How many requests a run sends that nobody disturbs; docs/reliability.md has the figures."""
    return {Dialect.LEGACY: 5, Dialect.CORE_1: 7, Dialect.CORE: 30}[dialect]


def is_write(exchange: Exchange) -> bool:
    return exchange.path.startswith("/rest/batch") or b"mutation" in exchange.body


@DIALECTS
def test_the_points_of_a_run_are_all_its_requests(
    dialect: Dialect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs below are killed at every request that an undisturbed run sends."""
    journal: list[Exchange] = []
    with Sandbox(None, dialect, journal=journal) as sandbox:
        write_manifests(tmp_path / "manifests", sandbox.url, dialect)
        monkeypatch.setenv("TOKEN", sandbox.session_token())
        assert main(["apply", "-m", str(tmp_path / "manifests")]) == 0
    assert len(journal) == requests_of_a_run(dialect)


@pytest.mark.parametrize("moment", ["before", "after"])
@DIALECTS
def test_a_run_killed_at_any_request_is_finished_by_the_next_one(
    dialect: Dialect, moment: Moment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Every key is there exactly once after the next run, and the run after that sends no write."""
    requests = requests_of_a_run(dialect)
    every = 1 if os.environ.get("KILLS") == "all" or requests < MANY else 2
    first = 1 if every > 1 and moment == "after" else 0
    for number in range(first, requests, every):
        journal: list[Exchange] = []
        gallows = Gallows(number, moment)
        folder = tmp_path / f"manifests-{number}"
        with Sandbox(None, dialect, around=gallows, journal=journal) as sandbox:
            write_manifests(folder, sandbox.url, dialect)
            monkeypatch.setenv("TOKEN", sandbox.session_token())
            gallows.process = Provision(
                "apply", "-m", folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            assert gallows.process.wait(30) == -9, number
            gallows.take_down()
            assert main(["apply", "-m", str(folder)]) == 0, number
            live = Counter(key.name for key in sandbox.keys() if key.revoked_at is None)
            assert live == Counter(NAMES), number
            assert len(sandbox.keys()) == len(NAMES), number
            journal.clear()
            assert main(["apply", "-m", str(folder), "--format", "json"]) == 0, number
            assert not any(map(is_write, journal)), number
        capsys.readouterr()
