"""`init` writes a project that works at once, and the pipeline file of its host."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from jsonschema import Draft202012Validator
from linters import problems_of

from provisioner import schemas
from provisioner.cli.pipeline_file import PipelineFile, pipeline_file
from provisioner.runtime.source import PLACEHOLDER, PLACEHOLDER_REVISION, PLACEHOLDER_TAG

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
TEMPLATE = (ROOT / "templates" / "provision.yml").read_text(encoding="utf-8")
INPUTS = yaml.safe_load(TEMPLATE.split("\n---\n")[0])["spec"]["inputs"]
REFERENCE = f"{PLACEHOLDER}@{PLACEHOLDER_REVISION}"
GITHUB = "git@github.com:acme/keys.git"
GITLAB = "https://someone:secret@gitlab.acme.example/platform/keys.git"
COMMENTED = re.compile(r"^( +)# (?!Replace)", re.MULTILINE)
NEXT = "Next: provision plan\n      provision apply\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that makes the working directory a repository with these remotes."""

    def project_(**remotes: str) -> Path:
        monkeypatch.chdir(tmp_path)
        git("init", "--quiet")
        for name, url in remotes.items():
            git("remote", "add", name, url)
        return tmp_path

    return project_


def git(*words: str) -> None:
    subprocess.run(["git", *words], check=True)


# The files of a project


def test_the_commented_environment_and_its_key_are_valid(run, project) -> None:
    """Without the comment signs, both environments are valid, and keys.yaml can name both."""
    folder = project() / "manifests"
    assert run("init")[0] == 0
    environments, keys = folder / "environments.yaml", folder / "keys.yaml"
    head, _, production = environments.read_text().partition("  # production:\n")
    text = f"{head}  # production:\n{production}"
    text = re.sub(r"^  # (production:| )", r"  \1", text, flags=re.MULTILINE)
    Draft202012Validator(schemas.load("environments")).validate(yaml.safe_load(text))
    environments.write_text(text)
    keys.write_text(keys.read_text().replace("[development]", "[development, production]"))
    code, out, _ = run("validate")
    assert (code, "10 keys in 2 environments, no problems" in out) == (0, True), out
    declared = yaml.safe_load(text)["environments"]
    assert [one["owns"] for one in declared.values()] == [["svc-*"]] * 2
    assert declared["production"]["auth"]["password"] == "${TWENTY_PASSWORD}"


def test_a_second_init_names_what_exists_and_changes_nothing(run, project) -> None:
    """Exit code 64, with every existing file of the example."""
    folder = project(origin=GITHUB)
    assert run("init")[0] == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out, err = run("init")
    assert (code, out) == (64, "")
    assert (
        "these already exist: manifests/environments.yaml, manifests/keys.yaml, "
        ".github/workflows/provision.yml." in err
    )
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before


# The pipeline file


def test_the_workflow_for_github_is_valid_and_safe(run, project) -> None:
    """It passes the published schema and an auditor, also with its comments in force."""
    file = project(origin=GITHUB) / ".github" / "workflows" / "provision.yml"
    code, out, err = run("init")
    assert (code, "wrote .github/workflows/provision.yml\n" in out) == (0, True)
    assert err == (
        f"In .github/workflows/provision.yml, replace {REFERENCE} with your copy of provision "
        f"(docs/adopting.md).\n{NEXT}"
    )
    full = file.with_name("full.yml")
    full.write_text(COMMENTED.sub(r"\1", file.read_text()))
    schema = ("check-jsonschema", "--builtin-schema", "vendor.github-workflows")
    assert problems_of(*schema, file, full) == ""
    assert problems_of("zizmor", "--offline", "--quiet", file, full) == ""
    for text, fields in ((file.read_text(), {"manifests"}), (full.read_text(), {"environment"})):
        jobs = yaml.safe_load(text)["jobs"]
        steps = [job["steps"][1] for job in jobs.values()]
        assert [step["uses"] for step in steps] == [REFERENCE] * 2
        assert all(fields <= set(step["with"]) <= set(ACTION["inputs"]) for step in steps)
    assert [set(step["env"]) for step in steps] == [
        {"PROVISION_ALLOW_HOST", "TWENTY_EMAIL", "TWENTY_PASSWORD"},
        {"TWENTY_EMAIL", "TWENTY_PASSWORD"},
    ]
    assert "pull_request_target" not in text


def test_the_file_for_gitlab_is_valid(run, project) -> None:
    """It includes the component with existing inputs, from the host of the remote."""
    file = project(origin=GITLAB) / ".gitlab-ci.yml"
    code, out, err = run("init", "-m", "ops/api keys")
    assert (code, "wrote .gitlab-ci.yml\n" in out) == (0, True)
    assert "secret" not in out + err + file.read_text()
    full = file.with_name("full.yml")
    full.write_text(COMMENTED.sub(r"\1", file.read_text()))
    schema = ("check-jsonschema", "--builtin-schema", "vendor.gitlab-ci")
    assert problems_of(*schema, file, full) == ""
    [include] = yaml.safe_load(full.read_text())["include"]
    assert include["component"] == f"$CI_SERVER_FQDN/{PLACEHOLDER}/provision@{PLACEHOLDER_REVISION}"
    assert (
        include["inputs"].items()
        >= {"manifests": "ops/api keys", "environment": "production"}.items()
    )
    assert include["inputs"]["install"].endswith(f"git+https://gitlab.acme.example/{REFERENCE}")
    assert set(include["inputs"]) <= set(INPUTS)


def test_an_existing_pipeline_is_kept(run, project) -> None:
    """GitLab reads one file, so what to include is printed; GitHub reads every file."""
    folder = project(origin=GITLAB)
    (folder / ".gitlab-ci.yml").write_text("stages: [build]\n")
    code, out, err = run("init")
    head, _, include = out.partition("\n\n")
    assert head.endswith(".gitlab-ci.yml exists. To run provision there, add this include to it:")
    assert len(yaml.safe_load(include)["include"]) == 1
    assert (code, err) == (0, NEXT)
    assert (folder / ".gitlab-ci.yml").read_text() == "stages: [build]\n"
    git("remote", "set-url", "origin", GITHUB)
    workflow = folder / ".github" / "workflows" / "provision.yml"
    workflow.parent.mkdir(parents=True)
    workflow.write_text("mine")
    code, _, err = run("init", "-m", "others")
    assert code == 0
    assert err.startswith(".github/workflows/provision.yml exists and was kept.\n")
    assert workflow.read_text() == "mine"


@pytest.mark.parametrize(
    ("remotes", "reason"),
    [
        ({}, "this repository has no remote on a server"),
        ({"origin": "../keys.git"}, "this repository has no remote on a server"),
        ({"a": GITHUB, "origin": "git@x.org:a/b"}, "x.org is neither GitHub nor GitLab"),
    ],
)  # fmt: skip
def test_without_a_known_host_there_is_no_pipeline_file(run, project, remotes, reason) -> None:
    """One line says why, and where pipelines are described."""
    folder = project(**remotes)
    _, _, err = run("init")
    reason = f"No pipeline file was written, because {reason} (docs/pipelines.md).\n"
    assert err == reason + NEXT
    assert not {".github", ".gitlab-ci.yml"} & {path.name for path in folder.iterdir()}


def test_outside_a_repository_there_is_no_pipeline_file(run, tmp_path, monkeypatch) -> None:
    """Neither without a repository nor without git is there a remote."""
    monkeypatch.chdir(tmp_path)
    assert "because this is not a git repository (" in run("init")[2]
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "because git is not installed (" in run("init", "-m", "others")[2]


# The source of the tool


def test_the_pipeline_is_pinned_to_the_installed_version(run, project, monkeypatch) -> None:
    """If pip installed the tool from a repository on the same host, nothing is to be replaced."""
    folder = project(origin=GITHUB)
    revision = "89abcdef" * 5
    record = folder / "site" / "twenty_provisioner-1.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: twenty-provisioner\nVersion: 1\n"
    )
    info = {"vcs": "git", "commit_id": revision, "requested_revision": "v1.2.0"}
    (record / "direct_url.json").write_text(
        json.dumps({"url": "https://github.com/tools/provision.git", "vcs_info": info})
    )
    monkeypatch.syspath_prepend(folder / "site")
    code, _, err = run("init")
    assert (code, err) == (0, NEXT)
    workflow = (folder / ".github" / "workflows" / "provision.yml").read_text()
    assert workflow.count(f"uses: tools/provision@{revision}  # v1.2.0\n") == 2
    assert (PLACEHOLDER in workflow, "Replace" in workflow) == (False, False)
    git("remote", "set-url", "origin", GITLAB)
    assert run("init", "-m", "others")[0] == 0
    assert REFERENCE in (folder / ".gitlab-ci.yml").read_text()
    (record / "direct_url.json").write_text('{"url": "file:///srv/clone", "dir_info": {}}')
    git("remote", "set-url", "origin", GITHUB)
    pipeline = pipeline_file(folder / "manifests")
    assert isinstance(pipeline, PipelineFile)
    assert pipeline.to_replace == REFERENCE
    assert pipeline.text.count(f"uses: {REFERENCE}  # {PLACEHOLDER_TAG}\n") == 2
