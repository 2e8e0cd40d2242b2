"""The example of docs/extending.md is a complete sink: one file, and a line in a list."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from project_copy import ROOT, copy_project, example_in, run

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = """\
version: 1
environment: development
defaults: {expires: 90d, role: Admin}
keys:
  - name: svc-billing
    deliver: [{systemd: "credentials/{environment}"}]
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a copy of the project with the example, made as the page says."""
    copy = copy_project(tmp_path_factory.mktemp("copy"), "provisioner", "schemas", ".ci", "docs")
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    (copy / "provisioner/sinks/systemd.py").write_text(example_in(page), encoding="utf-8")
    registry = copy / "provisioner/sinks/registry.py"
    text = registry.read_text(encoding="utf-8")
    before, after = text.split('"file",', 1)
    registry.write_text(f'{before}"file",\n    "systemd",{after}')
    subprocess.run([sys.executable, copy / ".ci/schemas"], check=True)
    return copy


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "credentials/development").mkdir(parents=True)
    environments = 'version: 1\nenvironments: {development: {url: "sandbox:"}}\n'
    (tmp_path / "manifests/environments.yaml").write_text(environments)
    (tmp_path / "manifests/keys.yaml").write_text(MANIFEST)
    return tmp_path


def test_the_example_delivers_a_token(copy: Path, project: Path) -> None:
    """The token arrives, and the next run reads it back and changes nothing."""
    first = run(copy, project, "apply", "--format", "json")
    assert first.returncode == 0, first.stderr
    file = project / "credentials/development/SVC_BILLING"
    assert file.read_text().startswith("eyJ")
    assert file.stat().st_mode & 0o777 == 0o600
    second = run(copy, project, "apply", "--format", "json")
    assert second.returncode == 0, second.stderr
    (environment,) = json.loads(second.stdout)["environments"]
    assert environment["results"] == []


def test_a_rejected_value_is_reported_with_the_advice_of_the_file(
    copy: Path, project: Path
) -> None:
    """The problem has its line, and the advice stands in the file of the sink."""
    manifest = MANIFEST.replace('}"}]', '}", credential: "a b"}]')
    (project / "manifests/keys.yaml").write_text(manifest)
    done = run(copy, project, "validate")
    assert done.returncode == 3
    assert "up to 255 letters, digits, - and _" in done.stdout
    manifest = MANIFEST.replace('}"}]', '}", credentials: a}]')
    (project / "manifests/keys.yaml").write_text(manifest)
    assert "did you mean `credential`?" in run(copy, project, "validate").stdout


def test_policies_and_restrictions_know_the_kind(copy: Path, project: Path) -> None:
    """A policy can forbid it, and `--allow-sink` can allow it."""
    allowed = run(copy, project, "plan", "--allow-sink", "systemd:credentials/*")
    assert allowed.returncode == 0, allowed.stderr
    refused = run(copy, project, "plan", "--allow-sink", "file")
    assert (refused.returncode, "sink_not_allowed" in refused.stderr) == (5, True)
    environments = project / "manifests/environments.yaml"
    text = environments.read_text().replace(
        '"sandbox:"', '"sandbox:", policy: {sinks: {forbid: [systemd]}}'
    )
    environments.write_text(text)
    assert "policy_sink_forbidden" in run(copy, project, "validate").stdout


def test_plan_files_know_the_kind(copy: Path, project: Path) -> None:
    """A plan file with the sink is applied."""
    planned = run(copy, project, "plan", "--out", "plan.json")
    assert planned.returncode == 0, planned.stderr
    applied = run(copy, project, "apply", "plan.json")
    assert applied.returncode == 0, applied.stderr
    assert (project / "credentials/development/SVC_BILLING").exists()


@pytest.mark.skipif(
    not (find_spec("ruff") and find_spec("mypy")),
    reason="ruff and mypy are in requirements-dev.txt; `.ci/run` runs this with them",
)
def test_the_example_is_clean(copy: Path) -> None:
    """It follows the rules of this project for style and types."""
    file = copy / "provisioner/sinks/systemd.py"
    configuration = ROOT / "pyproject.toml"
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", configuration, file]
        assert subprocess.run(ruff, check=False).returncode == 0
    mypy = [sys.executable, "-m", "mypy", "--config-file", configuration]
    checked = subprocess.run([*mypy, "-m", "provisioner.sinks.systemd"], cwd=copy, check=False)
    assert checked.returncode == 0
