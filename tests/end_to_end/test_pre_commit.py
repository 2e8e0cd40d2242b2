"""The hook for pre-commit, run by pre-commit itself in a repository with manifests."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
PACKAGE = (
    *("LICENSE", "README.md", "docs", "pyproject.toml", "provisioner", "sbom.cdx.json", "schemas"),
)
OURS = ("provisioner", "twenty_provisioner", "_twenty_provisioner", "__editable__", "pip")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    command = ["git", *identity, "-c", "init.defaultBranch=main", *arguments]
    return subprocess.check_output(command, cwd=folder, text=True, timeout=60).strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return this project as a git repository; the tests may run in a copy without one."""
    folder = tmp_path / "provision"
    folder.mkdir()
    for name in (*PACKAGE, ".pre-commit-hooks.yaml"):
        (folder / name).symlink_to(ROOT / name)
    copied = tmp_path / "repository"
    subprocess.run(["cp", "-rL", str(folder), str(copied)], check=True, timeout=60)
    git(copied, "init", "--quiet")
    git(copied, "add", "--all")
    git(copied, "commit", "--quiet", "--message", "all")
    return copied


@pytest.fixture
def pre_commit(tmp_path: Path, repository: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs pre-commit in `work`, with the hook of `repository`.

    The hook's environment gets the dependencies from the environment of these tests, but not
    this package. So nothing is downloaded, and the hook runs the package that it installed.
    """
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(folder).iterdir():
            if not entry.name.startswith(OURS):
                (libraries / entry.name).symlink_to(entry)
    work = tmp_path / "work"
    work.mkdir()
    git(work, "init", "--quiet")
    config = {
        "repo": str(repository),
        "rev": git(repository, "rev-parse", "HEAD"),
        "hooks": [{"id": "provision-validate"}],
    }
    (work / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [config]}))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        git(work, "add", "--all")
        return subprocess.run(
            [Path(sys.executable).with_name("pre-commit"), *arguments],
            cwd=work,
            env=os.environ
            | {
                "PIP_NO_BUILD_ISOLATION": "0",  # 0 means yes to pip
                "PIP_NO_DEPS": "1",
                "PIP_NO_INDEX": "1",
                "PRE_COMMIT_HOME": str(tmp_path / "home"),
                "PYTHONPATH": str(libraries),
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


def test_pre_commit_installs_and_runs_the_hook(pre_commit, tmp_path):
    """The hook is installed, skips files that are not manifests, and fails on invalid ones."""
    manifests = tmp_path / "work" / "manifests"
    (tmp_path / "work" / "unrelated.yaml").write_text("a: [")
    skipped = pre_commit("run")
    assert skipped.returncode == 0, skipped.stdout + skipped.stderr
    assert "Skipped" in skipped.stdout
    (manifests / "team").mkdir(parents=True)
    (manifests / "environments.yaml").write_text(
        "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin}\n"
    )
    keys = manifests / "team" / "keys.yml"
    keys.write_text("version: 1\nenvironment: dev\nkeys: [{name: a, expires: 90d}]\n")
    passed = pre_commit("run")
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "Passed" in passed.stdout
    git(tmp_path / "work", "commit", "--quiet", "--message", "all")
    # The changed file is valid, but it makes another file invalid.
    environments = manifests / "environments.yaml"
    environments.write_text(environments.read_text().replace("dev:", "other:"))
    failed = pre_commit("run")
    assert failed.returncode == 1
    assert "manifests/team/keys.yml:2:14" in failed.stdout


def test_pre_commit_accepts_the_hook_definition():
    """Pre-commit accepts .pre-commit-hooks.yaml."""
    command = [Path(sys.executable).with_name("pre-commit"), "validate-manifest"]
    command.append(".pre-commit-hooks.yaml")
    process = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=60)
    assert (process.returncode, process.stdout) == (0, b"")
