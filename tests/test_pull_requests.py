"""What the files of a pull request may make a run do, shown by real processes and a real git."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

CREDENTIAL = "credential-of-this-very-run"
LOOKS = (("plan",), ("doctor",), ("report",), ("apply",))

ENVIRONMENTS = "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin}\n"
KEYS = """\
version: 1
environment: dev
defaults: {{expires: 90d}}
keys:
  - name: a
    deliver: [{sink}]
"""


@dataclass(frozen=True)
class Checkout:
    """A checked-out pull request.

    Attributes:
        folder: the work tree.
        marker: a file that what must not run would write.
    """

    folder: Path
    marker: Path

    def write(self, sink: str, environments: str = ENVIRONMENTS) -> None:
        """Writes the manifests of the pull request."""
        manifests = self.folder / "manifests"
        manifests.mkdir(exist_ok=True)
        (manifests / "environments.yaml").write_text(environments)
        (manifests / "keys.yaml").write_text(KEYS.format(sink=sink))

    def program(self, name: str, printed: str = "") -> Path:
        """A program that leaves its variables in the marker."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\nenv >> '{self.marker}'\nprintf '%s' '{printed}'\n")
        file.chmod(0o755)
        return file

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs provision at the root of the checkout, with a credential among its variables."""
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(
            [sys.executable, "-m", "provisioner", *arguments],
            cwd=self.folder,
            env={**own, "TWENTY_TOKEN": CREDENTIAL, **variables},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A new work tree that ignores the files of its sinks."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "checkout"
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    (folder / ".gitignore").write_text("*.env\n.provision/\n")
    return Checkout(folder, tmp_path / "marker")


# A bare repository in the folder of a sink


def bare_repository(checkout: Checkout, folder: str) -> None:
    """Commits a repository without `.git` that names a program as its file system monitor."""
    place = checkout.folder / folder
    subprocess.run(["git", "init", "--quiet", "--bare", str(place)], check=True)
    checkout.program(f"{folder}/monitor")
    (place / "config").write_text(
        "[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tworktree = .\n"
        "\tfsmonitor = ./monitor\n\thooksPath = .\n\texcludesFile = everything\n"
    )
    (place / "everything").write_text("*\n")


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_a_bare_repository_in_the_folder_of_a_sink_runs_nothing(checkout, command):
    """Its `core.fsmonitor` would run with all variables of the run."""
    bare_repository(checkout, "secrets")
    checkout.write("{file: secrets/a.env}")
    done = checkout.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not checkout.marker.exists(), checkout.marker.read_text()
    assert (checkout.folder / "secrets" / "a.env").exists() == (command == ("apply",))


def test_a_bare_repository_cannot_ignore_a_file_for_the_checkout(checkout):
    """Its `core.excludesFile` would have the token published."""
    bare_repository(checkout, "secrets")
    checkout.write("{file: secrets/a.txt}")
    done = checkout.run("apply")
    assert done.returncode == 4
    assert "does not ignore it" in done.stdout + done.stderr
    assert not (checkout.folder / "secrets" / "a.txt").exists()
    assert not checkout.marker.exists()


def test_git_gets_no_variable_of_the_run(checkout, tmp_path):
    """Whatever it runs, the credentials of the run are not among its variables."""
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\nenv > '{checkout.marker}'\nexit 0\n")
    fake.chmod(0o755)
    checkout.write("{file: secrets/a.env}")
    done = checkout.run("plan", PATH=f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    names = {line.partition("=")[0] for line in checkout.marker.read_text().splitlines()}
    ours = {"GIT_CEILING_DIRECTORIES", "GIT_ALLOW_PROTOCOL"}
    assert names - ours - {"PWD", "OLDPWD", "SHLVL", "_"} <= {"PATH", "HOME"}


def test_a_git_of_the_checkout_is_not_run(checkout):
    """A `PATH` with an empty entry would find the pull request's own `git`."""
    checkout.program("git")
    checkout.write("{file: secrets/a.env}")
    done = checkout.run("plan", PATH=f"{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert not checkout.marker.exists()
