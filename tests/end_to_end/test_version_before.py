"""What the version before wrote still holds: its JSON, exit codes, digests and plan files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from version_before import RECORDINGS, WORKSPACES, observed, planned, run, stage

if TYPE_CHECKING:
    from pathlib import Path


def recorded(name: str) -> Any:
    return json.loads((RECORDINGS / name).read_text())


@pytest.mark.parametrize("workspace", WORKSPACES)
def test_a_plan_says_what_it_said(tmp_path: Path, workspace: str) -> None:
    """The JSON, the digest and the exit code of one state and one manifest, on each generation."""
    assert observed(tmp_path / "shop", workspace) == recorded(f"{workspace}.json")


def test_an_example_is_planned_as_it_was(tmp_path: Path) -> None:
    """Whatever a manifest may say counts in the digest as it did."""
    assert planned(tmp_path) == recorded("examples.json")


@pytest.mark.parametrize("workspace", WORKSPACES)
def test_a_plan_file_of_the_version_before_is_applied(tmp_path: Path, workspace: str) -> None:
    """What was reviewed with the version before is carried out by this one, to the last action."""
    root = tmp_path / "shop"
    stage(root, workspace)
    file = RECORDINGS / f"{workspace}.planfile.json"
    code, out = run(root, "apply", str(file), "--format", "json")
    result = json.loads(out)
    actions = result["environments"][0]["results"]
    assert code == 0
    assert result["digest"] == recorded(file.name)["digest"]
    assert {one["action"] for one in actions} == {"create", "update", "rotate", "deliver", "revoke"}
    assert {one["status"] for one in actions} == {"done"}
