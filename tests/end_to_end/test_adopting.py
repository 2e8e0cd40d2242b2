"""docs/adopting.md: its examples match the files of this repository."""

from __future__ import annotations

import re
from pathlib import Path

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
        default = str(entry.get("default", "required"))
        # An empty list selects everything; without a file, the manifests' own one is read.
        empty = "none" if name == "environments" else "all"
        shown = {"": empty, "required": "required", "False": "`false`"}
        assert inputs[name][0] == shown.get(default, f"`{default}`"), name
    jobs = re.findall(r"^\$\[\[ inputs\.prefix \]\](-\w+):", TEMPLATE, re.MULTILINE)
    assert list(table("GitLab", "job")) == [f"provision{job}" for job in jobs]


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
