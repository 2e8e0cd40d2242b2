"""Renames on every dialect: whole, killed in between, and with lost answers.

`KILLS=all` kills before and after each request of a run, by default only in the middle of one.
"""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, get_args

import pytest
from laboratory import ClosedAfter, Laboratory, When, is_write, scripted
from processes import Provision
from sandbox_control import Dialect, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

DIALECTS = pytest.mark.parametrize("dialect", Dialect)


def write_manifests(folder: Path, url: str, count: int, parallel: int = 4) -> None:
    """Write a manifest with so many keys, which were once named `old-N`."""
    folder.mkdir()
    environment = {"url": url, "auth": {"token": "${TOKEN}"}, "owns": ["svc-*", "old-*"]}
    environment |= {"limits": {"parallel": parallel}}
    environments = {"version": 1, "environments": {"shop": environment}}
    (folder / "environments.yaml").write_text(json.dumps(environments))
    manifest = {
        "version": 1,
        "environment": "shop",
        "defaults": {"expires": "never", "role": "Admin"},
        "keys": [{"name": "svc-{n}", "matrix": {"n": list(map(str, range(count)))}}],
        "moved": [{"from": "old-{n}", "to": "svc-{n}"}],
    }
    (folder / "keys.yaml").write_text(json.dumps(manifest))


def old_names(count: int) -> list[str]:
    return [f"old-{number}" for number in range(count)]


def assert_renamed(sandbox: Sandbox, ids: tuple[str, ...]) -> None:
    """Check that each key has its new name, and that there is no other one."""
    names = {key.id: key.name for key in sandbox.keys()}
    assert names == {id_: f"svc-{number}" for number, id_ in enumerate(ids)}
    assert all(key.revoked_at is None for key in sandbox.keys())


@DIALECTS
def test_renamed_keys_keep_their_ids_and_their_tokens(
    dialect: Dialect, serve, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 keys take 50 requests, nothing is created, and the next run does nothing."""
    served, folder = serve(dialect), tmp_path / "manifests"
    ids = served.sandbox.seed(old_names(50))
    before = {key.id: key for key in served.sandbox.keys()}
    tokens = [served.sandbox.token_of(ids[number]) for number in (0, 49)]
    write_manifests(folder, served.sandbox.url, 50)
    monkeypatch.setenv("TOKEN", served.sandbox.session_token())
    apply = ("apply", "-m", folder, "--format", "json")
    code, out, _ = run(*apply)
    [environment] = json.loads(out)["environments"]
    assert code == 0
    counts = {name: count for name, count in environment["summary"].items() if count}
    assert counts == {"renamed": 50}
    assert {(one["old_name"], one["name"], one["id"]) for one in environment["results"]} == {
        (f"old-{number}", f"svc-{number}", id_) for number, id_ in enumerate(ids)
    }
    assert len(served.writes()) == 50
    assert not any(b"revokedAt" in one.body for one in served.writes())
    assert_renamed(served.sandbox, ids)
    for key in served.sandbox.keys():
        assert (key.expires_at, key.role_id) == (before[key.id].expires_at, before[key.id].role_id)
    for token in tokens:
        monkeypatch.setenv("TOKEN", token)
        assert run("list", "-m", folder)[0] == 0
    monkeypatch.setenv("TOKEN", served.sandbox.session_token())
    served.journal.clear()
    code, out, _ = run(*apply)
    assert (code, served.writes()) == (0, [])
    assert json.loads(out)["environments"][0]["summary"]["kept"] == 50


@DIALECTS
def test_renames_killed_at_any_of_them_are_finished_by_the_next_run(
    dialect: Dialect, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key is created or renamed twice, whether or not the last rename was handled."""
    count, folder = 6, tmp_path / "manifests"
    kills: list[tuple[int, When]] = [(2, "before"), (3, "after")]
    if os.environ.get("KILLS") == "all":
        kills = [(number, when) for number in range(count) for when in get_args(When)]
    with Laboratory(dialect) as laboratory:
        # One at a time, so that no other request of a killed run is handled later.
        write_manifests(folder, laboratory.url, count, parallel=1)
        monkeypatch.setenv("TOKEN", laboratory.sandbox.session_token())
        for number, when in kills:
            laboratory.reset()
            ids = laboratory.sandbox.seed(old_names(count))
            started: Future[subprocess.Popen[bytes]] = Future()
            kill = partial(_kill, started)
            laboratory.kill_at(number, when, kill, only_writes=True)
            process = Provision(
                "apply", "-m", folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            started.set_result(process)
            assert process.wait(30) == -9, number
            laboratory.wait_until_idle()
            laboratory.heal()
            left = sum(key.name.startswith("old-") for key in laboratory.sandbox.keys())
            for writes in (left, 0):
                laboratory.wait_until_idle()
                seen = len(laboratory.journal)
                assert run("apply", "-m", folder)[0] == 0, number
                assert_renamed(laboratory.sandbox, ids)
                assert sum(map(is_write, laboratory.journal[seen:])) == writes, number


def _kill(started: Future[subprocess.Popen[bytes]]) -> None:
    started.result(30).kill()


@DIALECTS
def test_renames_whose_answers_are_lost_are_done_once(
    dialect: Dialect, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run finds out that they are done, and delivers nothing and creates nothing twice."""
    folder = tmp_path / "manifests"
    with Laboratory(dialect) as laboratory:
        ids = laboratory.sandbox.seed(old_names(3))
        write_manifests(folder, laboratory.url, 3)
        monkeypatch.setenv("TOKEN", laboratory.sandbox.session_token())
        laboratory.use(scripted({1: ClosedAfter()}, only_writes=True))
        code, out, _ = run("apply", "-m", folder, "--format", "json")
        assert (code, json.loads(out)["environments"][0]["summary"]["renamed"]) == (0, 3)
        assert_renamed(laboratory.sandbox, ids)
