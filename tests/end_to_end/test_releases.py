"""The workflows of this repository, and the version of a release."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from linters import problems_of

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CI = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
RELEASE = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text("utf-8"))


def test_workflows_are_valid_and_safe():
    """Each workflow is valid under the published schema, and an auditor finds no problem."""
    schema = ("check-jsonschema", "--builtin-schema", "vendor.github-workflows")
    assert len(WORKFLOWS) == 2
    assert problems_of(*schema, *WORKFLOWS) == ""
    assert problems_of("zizmor", "--offline", "--quiet", *WORKFLOWS) == ""


def test_actions_are_pinned_to_a_commit_with_its_tag():
    """Each action has a full commit id and names its tag, the same everywhere."""
    lines = [
        found[1]
        for file in WORKFLOWS
        for found in re.finditer(r"^\s+(?:- )?uses: (.*)$", file.read_text("utf-8"), re.MULTILINE)
        if not found[1].startswith("./.github/")
    ]
    pin = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert [line for line in lines if not pin.fullmatch(line)] == []
    assert len(set(lines)) == len({line.partition("@")[0] for line in lines})


def test_a_downloaded_program_that_was_replaced_is_not_run(tmp_path):
    """A download with another content than the pinned one fails its step before it is unpacked."""
    (step,) = (step for step in CI["jobs"]["workflows"]["steps"] if "env" in step)
    for name in ("curl", "tar"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ntouch {name}.ran actionlint.tar.gz\n")
        program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.run(
        ["bash", "-e", "-c", step["run"]],
        env=step["env"] | {"PATH": path, "RUNNER_TEMP": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (process.returncode, process.stdout) == (1, "actionlint.tar.gz: FAILED\n")
    assert [file.name for file in tmp_path.glob("*.ran")] == ["curl.ran"]


def test_the_jobs_that_test_and_build_the_wheel_cannot_write_or_sign():
    """Only those that attest, push the image or publish can, and they wait for the tests."""
    jobs = RELEASE["jobs"]
    assert RELEASE["permissions"] == {}
    writing = {
        name: {right for right, value in job["permissions"].items() if value == "write"}
        for name, job in jobs.items()
    }
    assert {name: rights for name, rights in writing.items() if rights} == {
        "attest": {"id-token", "attestations"},
        "image": {"packages", "id-token", "attestations"},
        "release": {"contents"},
        "publish": {"id-token"},
    }
    assert all("test" in jobs[name]["needs"] for name in ("attest", "image"))
    assert jobs["release"]["needs"] == ["attest", "image"]
    assert jobs["publish"]["needs"] == ["release"]
    assert jobs["publish"]["if"] == "vars.PUBLISH == 'true'"


@pytest.fixture
def copy(tmp_path):
    """Copy the files that a release changes or reads."""
    for name in ("release", "sbom"):
        (tmp_path / ".ci").mkdir(exist_ok=True)
        shutil.copy(ROOT / ".ci" / name, tmp_path / ".ci" / name)
    for name in ("pyproject.toml", "requirements.lock", "sbom.cdx.json"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "provisioner").mkdir()
    shutil.copy(ROOT / "provisioner" / "__init__.py", tmp_path / "provisioner")
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- New.\n\n## [0.0.1] - 2026-01-01\n\n- A\n"
    )
    return tmp_path


def release(copy, *arguments):
    return subprocess.run(
        [sys.executable, copy / ".ci" / "release", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_release_has_one_version(copy):
    """One command writes the version everywhere; a tag of another version is refused."""
    assert release(copy, "7.8.9").returncode == 0
    assert '__version__ = "7.8.9"' in (copy / "provisioner" / "__init__.py").read_text()
    assert "pkg:pypi/twenty-provisioner@7.8.9" in (copy / "sbom.cdx.json").read_text()
    changelog = (copy / "CHANGELOG.md").read_text()
    assert re.search(
        r"## \[Unreleased\]\n\n## \[7\.8\.9\] - \d{4}-\d\d-\d\d\n\n### Added", changelog
    )
    checked = release(copy, "--check", "v7.8.9")
    assert (checked.returncode, checked.stdout) == (0, "### Added\n\n- New.\n")
    other = release(copy, "--check", "v7.8.8")
    assert (other.returncode, other.stdout) == (1, "")
    assert "has version 7.8.9" in other.stderr
    assert "already has a section" in release(copy, "7.8.9").stderr
    assert release(copy, "7.8").returncode == 64
