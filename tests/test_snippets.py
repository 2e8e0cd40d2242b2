"""The pipelines on the pages and in the templates work in a repository that is no clone of this."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from linters import problems_of

from provisioner.runtime.source import PLACEHOLDER, PLACEHOLDER_REVISION, PLACEHOLDER_TAG

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
TEMPLATES = tuple(sorted(ROOT.glob("templates/**/*.yml")))
SOURCES = tuple(sorted((ROOT / "provisioner").glob("**/*.py")))

ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
COMPONENT = (ROOT / "templates" / "provision.yml").read_text(encoding="utf-8")
INPUTS = yaml.safe_load(COMPONENT.split("\n---\n")[0])["spec"]["inputs"]
REFERENCE = f"{PLACEHOLDER}@{PLACEHOLDER_REVISION}"

BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
USES = re.compile(r"uses: (\S+)@(\S+)(.*)")
INSTALLED = re.compile(r"\b(?:pipx? install|uv tool install|pipx inject)\b[^\n]*")
NAMED = re.compile(r"twenty-provisioner(?!_)(?:\[[\w,]+\])?(.{0,3})")
GIT = re.compile(r"git\+\w+://[^\s\"'`]+")


class Snippet(NamedTuple):
    """A pipeline that a reader copies into a repository of their own."""

    name: str
    text: str

    @property
    def document(self) -> Any:
        return yaml.safe_load(self.text)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps of a workflow that use the action."""
        jobs = self.document["jobs"].values()
        steps = [step for job in jobs for step in job["steps"]]
        return [step for step in steps if step.get("uses", "").startswith(f"{PLACEHOLDER}@")]


def on_pages(page: Path) -> list[Snippet]:
    texts = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Snippet(f"{page.stem}-{number}", text) for number, text in enumerate(texts)]


def is_gitlab(document: Any) -> bool:
    jobs = [entry for entry in document.values() if isinstance(entry, dict) and "script" in entry]
    return "include" in document or bool(jobs)


ALL = [one for page in PAGES for one in on_pages(page)]
WORKFLOWS = [one for one in ALL if isinstance(one.document, dict) and "jobs" in one.document] + [
    Snippet(file.stem, file.read_text(encoding="utf-8"))
    for file in TEMPLATES
    if file.parent.name == "github"
]
GITLAB = [one for one in ALL if isinstance(one.document, dict) and is_gitlab(one.document)]


def write(folder: Path, snippets: list[Snippet]) -> list[Path]:
    folder.mkdir(parents=True)
    files = [folder / f"{one.name}.yml" for one in snippets]
    for file, one in zip(files, snippets, strict=True):
        file.write_text(one.text, encoding="utf-8")
    return files


def test_all_pipelines_are_found() -> None:
    """The pages that show pipelines have them, and each is held to the rules of its host."""
    assert [one.name for one in WORKFLOWS] == [
        *("README-2", "adopting-0", "adopting-1", "adopting-2", "shards"),
    ]
    assert [one.name for one in GITLAB] == ["README-3", "adopting-3", "pipelines-0"]


def test_workflows_are_valid_and_safe(tmp_path: Path) -> None:
    """Each workflow is valid under the published schema, and an auditor finds no problem."""
    files = write(tmp_path / ".github" / "workflows", WORKFLOWS)
    schema = ("check-jsonschema", "--builtin-schema", "vendor.github-workflows")
    assert problems_of(*schema, *files) == ""
    assert problems_of("zizmor", "--offline", "--quiet", *files) == ""


def test_gitlab_files_are_valid(tmp_path: Path) -> None:
    """Each file is valid under GitLab's schema."""
    files = write(tmp_path / "gitlab", GITLAB)
    schema = ("check-jsonschema", "--builtin-schema", "vendor.gitlab-ci")
    assert problems_of(*schema, *files) == ""


@pytest.mark.fast
@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda one: one.name)
def test_workflows_use_only_existing_inputs_and_outputs(workflow: Snippet) -> None:
    """action.yml has every input that a workflow sets and every output that it reads."""
    for step in workflow.steps:
        assert set(step.get("with", {})) <= set(ACTION["inputs"])
    for step, output in re.findall(r"steps\.(\w+)\.outputs\.([\w-]+)", workflow.text):
        assert step == "plan"
        assert output in ACTION["outputs"]


@pytest.mark.fast
def test_gitlab_files_use_the_component_with_its_inputs() -> None:
    """They set every required input, and none that does not exist."""
    required = {name for name, entry in INPUTS.items() if "default" not in entry}
    includes = [one for snippet in GITLAB for one in snippet.document.get("include", [])]
    assert len(includes) == 2
    for include in includes:
        assert include["component"].endswith(f"/{PLACEHOLDER}/provision@{PLACEHOLDER_REVISION}")
        assert required <= set(include["inputs"]) <= set(INPUTS)


@pytest.mark.fast
def test_every_action_is_pinned_and_says_its_version() -> None:
    """A tag or a branch can be moved; the comment tells people and bots what the commit is."""
    used = [found for one in WORKFLOWS for found in USES.findall(one.text)]
    assert used
    for name, revision, comment in used:
        assert re.fullmatch("[0-9a-f]{40}", revision), name
        assert re.fullmatch(r"  # v\d+\.\d+\.\d+", comment), name
    tool = {found for found in used if not found[0].startswith("actions/")}
    assert tool == {(PLACEHOLDER, PLACEHOLDER_REVISION, f"  # {PLACEHOLDER_TAG}")}


@pytest.mark.fast
def test_no_pipeline_needs_a_clone_of_this_repository() -> None:
    """None installs or uses what is in the checkout."""
    for one in [*WORKFLOWS, *GITLAB]:
        assert not re.search(r"install (?:--?\S+ )*['\"]?\.|uses: \.|local:", one.text), one.name


@pytest.mark.fast
def test_no_command_installs_the_tool_by_its_name() -> None:
    """An index would decide what that is: each command says where the tool comes from."""
    for file in (*PAGES, *TEMPLATES, *SOURCES):
        text = file.read_text(encoding="utf-8")
        for command in INSTALLED.findall(text):
            assert [rest for rest in NAMED.findall(command) if rest != " @ "] == [], file
        assert re.findall(r"twenty-provisioner\[[^]]*\](?! @ )", text) == [], file


@pytest.mark.fast
def test_every_address_of_the_tool_is_the_placeholder() -> None:
    """Pipelines have the commit, and only people install a tag; docs say once what to replace."""
    pipelines = "".join(one.text for one in [*WORKFLOWS, *GITLAB])
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    hosts = ("github.com", "gitlab.example.com")
    pinned = {f"git+https://{host}/{REFERENCE}" for host in hosts}
    assert set(GIT.findall(pipelines)) == pinned
    tagged = f"git+https://github.com/{PLACEHOLDER}@{PLACEHOLDER_TAG}"
    assert set(GIT.findall(pages)) == {*pinned, tagged, "git+https://…"}
    known = {PLACEHOLDER_REVISION, PLACEHOLDER_TAG}
    assert set(re.findall(rf"{PLACEHOLDER}(?:/\w+)?@([\w.]+)", pages + pipelines)) == known
    adopting = (ROOT / "docs" / "adopting.md").read_text(encoding="utf-8")
    table = adopting.partition("| placeholder |")[2].partition("\n\n")[0]
    for word in (*known, *(f"{host}/{PLACEHOLDER}" for host in hosts)):
        assert f"`{word}`" in table
