"""Compatibility with the previous version: its JSON, exit codes, digests and plan files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from version_before import RECORDINGS, WORKSPACES, record_commands, record_plans, run, stage

if TYPE_CHECKING:
    from pathlib import Path


def recorded(name: str) -> Any:
    return json.loads((RECORDINGS / name).read_text())


@pytest.mark.parametrize("workspace", WORKSPACES)
def test_a_plan_is_unchanged(tmp_path: Path, workspace: str) -> None:
    """The JSON, the digest and the exit codes for one state are unchanged on each generation.

    Only the estimates may differ, and only because this version needs less. Counts of actions that
    the previous version did not know are zero.
    """
    commands, before = record_commands(tmp_path / "shop", workspace), recorded(f"{workspace}.json")
    needed, needed_before = take_estimates(commands), take_estimates(before)
    for _, out in commands.values():
        take_new_counts(out)
    assert commands == before
    for command, estimate in needed.items():
        assert estimate["requests"] <= needed_before[command]["requests"]
        assert estimate["seconds"] <= needed_before[command]["seconds"]


def take_estimates(commands: Any) -> dict[str, dict[str, float]]:
    """Remove the estimates from the plans of commands, and return them by command."""
    plans = {command: out for command, (_, out) in commands.items() if "digest" in out}
    assert plans
    return {command: out["environments"][0].pop("estimate") for command, out in plans.items()}


def take_new_counts(out: Any) -> None:
    """Remove the counts of actions that the previous version did not know, which are zero."""
    for environment in out["environments"] if "digest" in out else ():
        assert environment["summary"].pop("rename") == 0
        assert environment["summary"].pop("clean") == 0


def test_the_plans_of_the_examples_are_unchanged(tmp_path: Path) -> None:
    """Every field of a manifest affects the digest as before."""
    before = recorded("examples.json")
    plans = record_plans(tmp_path)
    for _, out in plans.values():
        take_new_counts(out)
    assert {example: plans[example] for example in before} == before


@pytest.mark.parametrize("workspace", WORKSPACES)
def test_a_plan_file_of_the_previous_version_is_applied(tmp_path: Path, workspace: str) -> None:
    """This version carries out all actions of a plan file that the previous version wrote."""
    root = tmp_path / "shop"
    stage(root, workspace)
    file = RECORDINGS / f"{workspace}.planfile.json"
    code, out = run(root, "apply", str(file), "--format", "json")
    result = json.loads(out)
    actions = result["environments"][0]["results"]
    assert code == 0
    assert result["digest"] == recorded(file.name)["digest"]
    assert {result["action"] for result in actions} == {
        "create",
        "update",
        "rotate",
        "deliver",
        "revoke",
    }
    assert {result["status"] for result in actions} == {"done"}
