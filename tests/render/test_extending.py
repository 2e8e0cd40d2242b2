"""The section on report formats in docs/extending.md: its table, and its example."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from project_copy import ROOT, copy_project, example_in, run

from provisioner.render.formats import FORMATS, formats_of

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## A report format\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a copy of the project with the example, made as the page says."""
    copy = copy_project(tmp_path_factory.mktemp("copy"), "provisioner", "schemas", "docs")
    formats = copy / "provisioner" / "render" / "formats"
    (formats / "teamcity.py").write_text(example_in(SECTION), encoding="utf-8")
    registry = (formats / "__init__.py").read_text(encoding="utf-8")
    entry = re.search(r"^1\. Add `(.*)` to `FORMATS`", SECTION, re.MULTILINE)
    assert entry is not None
    changed = registry.replace('    "json": Format', f'    {entry[1]}\n    "json": Format', 1)
    assert changed != registry
    (formats / "__init__.py").write_text(changed, encoding="utf-8")
    return copy


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Provide a directory with a manifest for the embedded Twenty."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "environments.yaml").write_text(
        "version: 1\nenvironments: {dev: {url: 'sandbox:'}}\n"
    )
    (folder / "keys.yaml").write_text(
        "version: 1\nenvironment: dev\ndefaults: {expires: 90d, role: Admin}\nkeys: [{name: a}]\n"
    )
    return tmp_path


def test_the_table_lists_every_format() -> None:
    """It says what each can show, as the code does; the page on pipelines has the same names."""
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| `(\w+)` \|$", SECTION, re.MULTILINE)
    assert [(name, tuple(re.findall(r"\w+", shows)), syntax) for name, shows, syntax in rows] == [
        (name, one.shows, one.syntax) for name, one in FORMATS.items()
    ]
    reports = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    table = reports.partition("\n| format | type | content |\n")[2].partition("\n\n")[0]
    cells = "".join(line.split(" | ")[0] for line in table.splitlines())
    assert tuple(re.findall(r"`(\w+)`", cells)) == formats_of("problems")


def test_the_example_is_a_format_of_the_command_line(copy: Path, project: Path) -> None:
    """Each command that can show it offers it, and writes it to stdout and to files."""
    done = run(copy, project, "apply", "--format", "json", "--report", "teamcity=out")
    assert done.returncode == 0, done.stderr
    summary = "##teamcity[buildStatus text='Done: 1 created, 0 kept.']\n"
    assert (project / "out").read_text() == summary
    assert run(copy, project, "apply", "--format", "teamcity").stdout == (
        summary.replace("1 created, 0 kept", "0 created, 1 kept")
    )
    assert "teamcity" in run(copy, project, "plan", "--help").stdout
    assert "teamcity" not in run(copy, project, "report", "--help").stdout
    keys = project / "manifests" / "keys.yaml"
    keys.write_text(keys.read_text().replace("name: a}", 'name: "a|\'", no: 1}'))
    done = run(copy, project, "validate", "--format", "teamcity")
    assert done.returncode == 3
    assert re.fullmatch(
        r"##teamcity\[buildProblem description='manifests/keys.yaml:\d+:\d+: .+'\]\n", done.stdout
    )


@pytest.mark.skipif(
    not (find_spec("ruff") and find_spec("mypy")),
    reason="ruff and mypy are in requirements-dev.txt; `.ci/run` runs this with them",
)
def test_the_example_follows_the_rules_of_this_project(copy: Path) -> None:
    """Its style and its types are checked as the code itself."""
    file = copy / "provisioner" / "render" / "formats" / "teamcity.py"
    configuration = ["--config", str(ROOT / "pyproject.toml")]
    for words in (["check", "--ignore=PLC0415"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *words, *configuration, str(file)]
        assert subprocess.run(command, check=False, timeout=120).returncode == 0
