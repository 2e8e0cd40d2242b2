"""docs/adopting.md: its examples match the files of this repository."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from linters import problems_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adopting.md").read_text(encoding="utf-8")
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
TEMPLATE = (ROOT / "templates" / "provision.yml").read_text(encoding="utf-8")
INPUTS = yaml.safe_load(TEMPLATE.split("\n---\n")[0])["spec"]["inputs"]


def section(title):
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def blocks(title, language="yaml"):
    return re.findall(rf"^```{language}\n(.*?)^```$", section(title), re.MULTILINE | re.DOTALL)


def table(title, head):
    """Return the rows of the table whose first heading is `head`."""
    lines = section(title).partition(f"\n| {head} |")[2].split("\n\n")[0].splitlines()[2:]
    return {
        cells[0].strip("`"): cells[1:]
        for cells in ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    }


@pytest.fixture
def workflows(tmp_path):
    """Write the workflows of the page to files, as a reader does."""
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    files = [folder / f"{number}.yml" for number, _ in enumerate(blocks("GitHub"))]
    for file, text in zip(files, blocks("GitHub"), strict=True):
        file.write_text(text)
    assert len(files) == 3
    return files


def test_workflows_are_valid_and_safe(workflows):
    """Each workflow is valid under the published schema, and an auditor finds no problem."""
    schema = ("check-jsonschema", "--builtin-schema", "vendor.github-workflows")
    assert problems_of(*schema, *workflows) == ""
    assert problems_of("zizmor", "--offline", "--quiet", *workflows) == ""


def test_workflows_use_only_existing_inputs_and_outputs(workflows):
    """action.yml has every input that a workflow sets and every output that it reads."""
    steps = []
    for file in workflows:
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            steps += [
                entry for entry in job["steps"] if entry["uses"].startswith("acme/provision@")
            ]
        for step, output in re.findall(r"steps\.(\w+)\.outputs\.([\w-]+)", file.read_text()):
            assert step == "plan"
            assert output in ACTION["outputs"]
    assert len(steps) == 5
    for step in steps:
        assert set(step.get("with", {})) <= set(ACTION["inputs"])


def test_every_input_and_output_of_the_action_is_on_the_page():
    """The tables list the inputs and outputs of action.yml, with its defaults."""
    inputs = table("GitHub", "input")
    assert list(inputs) == list(ACTION["inputs"])
    for name, entry in ACTION["inputs"].items():
        default = inputs[name][0]
        assert default in (f"`{entry['default']}`", "all", "none", "the job's"), name
        assert (default in ("all", "none")) == (entry["default"] == ""), name
    assert list(table("GitHub", "output")) == list(ACTION["outputs"])


def test_every_input_and_job_of_the_template_is_on_the_page():
    """The tables list the inputs and jobs of templates/provision.yml, with its defaults."""
    inputs = table("GitLab", "input")
    assert list(inputs) == list(INPUTS)
    for name, entry in INPUTS.items():
        default = str(entry["default"]).lower() if entry["default"] is False else entry["default"]
        # An empty list selects everything; without a file, the manifests' own one is read.
        empty = "none" if name == "environments" else "all"
        assert inputs[name][0] == (f"`{default}`" if default else empty), name
    jobs = re.findall(r"^\$\[\[ inputs\.prefix \]\](-\w+):", TEMPLATE, re.MULTILINE)
    assert list(table("GitLab", "job")) == [f"provision{job}" for job in jobs]


def test_the_gitlab_file_is_valid_and_uses_existing_inputs(tmp_path):
    """The example is valid under GitLab's schema and uses the component's name and inputs."""
    (text,) = blocks("GitLab")
    file = tmp_path / ".gitlab-ci.yml"
    file.write_text(text)
    assert problems_of("check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", file) == ""
    (include,) = yaml.safe_load(text)["include"]
    assert re.search(r"/provision/provision@[0-9a-f]{40}$", include["component"])
    assert set(include["inputs"]) <= set(INPUTS)


def test_pre_commit_accepts_the_configurations(tmp_path):
    """Pre-commit accepts both files, and they name the hook of this repository."""
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    found = blocks("pre-commit")
    assert len(found) == 2
    for text in found:
        file = tmp_path / ".pre-commit-config.yaml"
        file.write_text(text)
        assert problems_of("pre-commit", "validate-config", file) == ""
        (entry,) = yaml.safe_load(text)["repos"][0]["hooks"]
        assert entry["id"] == hook["id"]


def test_completion_lines_name_existing_shells():
    """The lines for the start files of the shells are existing commands."""
    lines = "".join(blocks("Completion", "sh"))
    assert re.findall(r"provision completion (\w+)", lines) == ["bash", "zsh", "fish"]


def test_versions_in_the_page_are_placeholders_or_pinned():
    """No example uses a branch or a tag of somebody else's action."""
    used = re.findall(r"uses: (\S+)@(\S+)", PAGE)
    assert used
    for name, version in used:
        assert re.fullmatch("[0-9a-f]{40}", version), name
    assert json.dumps(used).count("acme/provision") == 5
