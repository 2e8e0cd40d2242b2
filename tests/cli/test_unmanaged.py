"""Keys that no manifest declares are counted, and listed where they are asked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sandbox_control import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

ENVIRONMENTS = 'version: 1\nenvironments: {dev: {url: "sandbox:", role: Admin}}\n'
KEYS = "version: 1\nenvironment: dev\nkeys: [{name: svc-a, expires: 90d}]\n"
COUNT = "2 unmanaged keys; list them with --unmanaged\n"


def test_an_option_or_a_variable_lists_unmanaged_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., tuple[int, str, str]]
) -> None:
    """It holds for the output, for reports, and for the merged output of shards."""
    monkeypatch.chdir(tmp_path)
    for folder in ("manifests", ".provision"):
        (tmp_path / folder).mkdir()
    (tmp_path / "manifests" / "environments.yaml").write_text(ENVIRONMENTS)
    (tmp_path / "manifests" / "keys.yaml").write_text(KEYS)
    with Sandbox(tmp_path / ".provision" / "dev.sqlite3") as sandbox:
        sandbox.seed(["old-a", "old-b"])
    shard, report = tmp_path / "shard.json", tmp_path / "report.md"

    _, out, _ = run("plan", "--shard", "1/1", "--report", f"json={shard}")
    assert (COUNT in out, "old-a" in out) == (True, False)
    assert [
        one["name"] for one in json.loads(shard.read_text())["environments"][0]["findings"]
    ] == [
        "old-a",
        "old-b",
    ]
    assert COUNT in run("merge", shard)[1]
    for command in (("merge", shard), ("plan",), ("apply", "--report", f"markdown={report}")):
        _, out, _ = run(*command, "--unmanaged")
        assert ("unmanaged  old-a" in out, COUNT in out) == (True, False)
    assert "<code>old-a</code>" in report.read_text()
    monkeypatch.setenv("PROVISION_UNMANAGED", "1")
    assert "unmanaged  old-b" in run("plan")[1]
