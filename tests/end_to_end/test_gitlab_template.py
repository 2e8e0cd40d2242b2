"""The GitLab CI template: its file, which pipeline runs which job, and the jobs in a real shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "templates" / "provision.yml"
HEADER, BODY = TEMPLATE.read_text(encoding="utf-8").split("\n---\n")
INPUTS = yaml.safe_load(HEADER)["spec"]["inputs"]


def rendered(**inputs: str) -> dict[str, Any]:
    """The jobs as GitLab makes them: inputs put in as text, `extends` merged."""
    given = {name: one["default"] for name, one in INPUTS.items()}
    given |= {name.replace("_", "-"): value for name, value in inputs.items()}

    def value(found: re.Match[str]) -> str:
        one = given[found[1]]
        return str(one).lower() if isinstance(one, bool) else one

    document = yaml.safe_load(re.sub(r"\$\[\[ inputs\.([\w-]+) \]\]", value, BODY))
    jobs = {}
    for name, job in document.items():
        base = document.get(job.get("extends"), {})
        jobs[name] = base | job
        jobs[name]["variables"] = base.get("variables", {}) | job.get("variables", {})
    return jobs


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with manifests for the embedded Twenty, and `provision` on the path."""
    folder = tmp_path / "project" / "manifests"
    folder.mkdir(parents=True)
    (folder / "environments.yaml").write_text(
        "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin, owns: ['*']}\n"
        "  other: {url: 'sandbox:', role: Admin}\n"
    )
    (folder / "keys.yaml").write_text(
        "version: 1\nenvironment: dev\ndefaults: {expires: 90d}\nkeys: [{name: a}, {name: b}]\n"
    )
    program = tmp_path / "bin" / "provision"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m provisioner "$@"\n')
    program.chmod(0o755)
    return tmp_path / "project"


@pytest.fixture
def run(project: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a job's scripts as a runner does, in `sh`."""

    def run_(job: dict[str, Any], **more: str) -> subprocess.CompletedProcess[str]:
        lines = ["set -e", *job["before_script"], *job["script"]]
        return subprocess.run(
            ["sh", "-c", "\n".join(lines)],
            cwd=project,
            env={
                "PATH": f"{project.parent / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "CI": "true",
                "GITLAB_CI": "true",
                **job["variables"],
                **more,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run_


def test_the_template_is_one_by_gitlabs_schema(tmp_path):
    """Header and jobs are valid by the schema that GitLab publishes, with and without defaults."""
    header = tmp_path / "header.yml"
    header.write_text(HEADER)
    files = [header]
    for number, inputs in enumerate([{}, {"apply_when": "manual", "prefix": "keys"}]):
        file = tmp_path / f"{number}.yml"
        jobs = rendered(**inputs)
        # The schema knows a header and jobs, not what inputs make of them.
        file.write_text(json.dumps({name: one for name, one in jobs.items() if "script" in one}))
        files.append(file)
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [program, "--builtin-schema", "vendor.gitlab-ci", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_inputs_are_explained_used_and_never_text_of_a_script():
    """Every input is described and used, and reaches scripts as a variable alone."""
    for name, one in INPUTS.items():
        assert one["description"]
        assert f"$[[ inputs.{name} ]]" in BODY, name
    strange = {"manifests": "M$(x)", "environment": "E;x", "only": "O`x`", "install": "I'x"}
    for job in rendered(**strange).values():
        text = "\n".join(job.get("before_script", []) + job.get("script", []))
        assert not [value for value in strange.values() if value in text]


MERGE_REQUEST = {
    "CI_PIPELINE_SOURCE": "merge_request_event",
    "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH": "acme/keys",
}
ON_MAIN = {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "main"}


@pytest.mark.parametrize(
    ("pipeline", "jobs"),
    [
        (MERGE_REQUEST, {"validate", "plan"}),
        (MERGE_REQUEST | {"CI_MERGE_REQUEST_SOURCE_PROJECT_PATH": "fork/keys"}, {"validate"}),
        (ON_MAIN, {"validate", "plan", "apply"}),
        (ON_MAIN | {"CI_PIPELINE_SOURCE": "schedule"}, {"validate", "plan", "apply", "report"}),
        (ON_MAIN | {"CI_COMMIT_BRANCH": "feature"}, set()),
        ({"CI_PIPELINE_SOURCE": "schedule", "CI_COMMIT_BRANCH": "feature"}, set()),
        ({"CI_PIPELINE_SOURCE": "web", "CI_COMMIT_BRANCH": "feature"}, {"plan"}),
        ({"CI_PIPELINE_SOURCE": "web", "CI_COMMIT_TAG": "v1"}, set()),
        (ON_MAIN | {"CI_PIPELINE_SOURCE": "web"}, {"validate", "plan", "apply"}),
        ({"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_TAG": "main"}, set()),
    ],
)
def test_each_pipeline_runs_its_jobs(pipeline, jobs):
    """Merge requests plan, forks validate, the default branch applies, and nights report."""
    variables = {"CI_DEFAULT_BRANCH": "main", "CI_PROJECT_PATH": "acme/keys", **pipeline}

    def holds(condition: str, own: dict[str, str]) -> bool:
        known = variables | own
        capabilities = [term.split(" == ") for term in condition.split(" && ")]
        sides = [
            [known.get(side[1:]) if side.startswith("$") else side.strip('"') for side in term]
            for term in capabilities
        ]
        return all(one[0] == one[1] if one[1:] else bool(one[0]) for one in sides)

    for inputs, by_hand in (({}, []), ({"apply_when": "manual"}, ["provision-apply"])):
        found, manual = set(), []
        for name, job in rendered(**inputs).items():
            rules = [rule for rule in job.get("rules", ()) if holds(rule["if"], job["variables"])]
            if rules:
                found.add(name.removeprefix("provision-"))
                manual += [name] if rules[0].get("when") == "manual" else []
        assert found == jobs
        assert manual == (by_hand if "apply" in jobs else [])


def test_the_plan_of_a_pipeline_is_what_it_applies(run, project):
    """The plan file is the artifact that apply takes; one that no longer holds changes nothing."""
    jobs = rendered(install="", environment="dev", prune="true")
    plan, apply_ = jobs["provision-plan"], jobs["provision-apply"]
    planned = run(plan)
    assert planned.returncode == 0, planned.stderr
    for artifact in plan["artifacts"]["paths"]:
        assert (project / artifact).is_file()
    assert "other" not in planned.stdout
    applied = run(apply_)
    assert applied.returncode == 0, applied.stderr
    stale = run(apply_)
    assert stale.returncode == 6, stale.stderr
    assert apply_["resource_group"] == "provision"


# Merge requests that change where credentials go


ON_A_MERGE_REQUEST = {
    "CI_PIPELINE_SOURCE": "merge_request_event",
    "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
    "CI_DEFAULT_BRANCH": "main",
    "TWENTY_TOKEN": "credential-of-this-run",
}
KEY = (
    "version: 1\nenvironment: dev\ndefaults: {{expires: 90d}}\nkeys:\n  - {{name: {name}{sink}}}\n"
)


@pytest.fixture
def merge_request(run, project: Path, tmp_path: Path) -> Callable[..., Any]:
    """Plans the project as a merge request to the branches of a real repository, as it was."""
    origin = tmp_path / "origin"
    shutil.copytree(project, origin)

    def commit(*branches: str) -> None:
        words = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example", "-C", str(origin)]
        done = [["init", "--quiet", "--initial-branch=main"], ["add", "--all"]]
        done += [["commit", "--quiet", "--allow-empty", "--message=x"]]
        for command in [*done, *(["branch", "--force", one] for one in branches)]:
            subprocess.run([*words, *command], check=True)

    def plan(base: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        if base:
            (origin / "manifests" / "keys.yaml").write_text(base)
        commit("mallory")
        job = rendered(install="", environment="dev")["provision-plan"]
        return run(job, **{**ON_A_MERGE_REQUEST, "CI_REPOSITORY_URL": str(origin), **more})

    return plan


def program(project: Path, name: str) -> Path:
    """A program of the merge request that would leave its variables behind."""
    file = project / name
    file.write_text(f"#!/bin/sh\nenv >> '{project.parent / 'owned'}'\n")
    file.chmod(0o755)
    return file


def only_validated(done: subprocess.CompletedProcess[str], project: Path, why: str) -> None:
    """Nothing was planned, and log and artifact say why and how to approve."""
    assert done.returncode == 0, done.stderr
    assert not (project / "provision-plan.json").exists()
    for told in (done.stdout, (project / "provision-plan.md").read_text()):
        assert why in told
        assert "To approve: review these changes, then run a pipeline by hand" in told
    assert not (project.parent / "owned").exists()


def test_a_merge_request_that_reaches_nothing_new_is_planned(merge_request, project):
    """A new key with a sink that the default branch has: the plan is made and kept."""
    sink = ", deliver: [{file: '{name}.env'}]"
    keys = project / "manifests" / "keys.yaml"
    base = KEY.format(name="a", sink=sink)
    keys.write_text(f"{base}  - {{name: b{sink}}}\n")
    done = merge_request(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "+ b" in done.stdout
    assert (project / "provision-plan.json").is_file()


def test_a_changed_url_of_a_merge_request_gets_no_credential(merge_request, project, listener):
    """The same job without the comparison sends it, so that the test can fail."""
    (project / "manifests" / "environments.yaml").write_text(
        f"version: 1\nenvironments: {{dev: {{url: 'http://127.0.0.1:{listener.port}', "
        "auth: {token: '${TWENTY_TOKEN}'}, role: Admin}}\n"
    )
    done = merge_request()
    only_validated(done, project, "it changes `environments.yaml`")
    assert listener.heard == []
    by_hand = merge_request(CI_PIPELINE_SOURCE="web")
    assert by_hand.returncode == 1, by_hand.stderr
    assert any(b"credential-of-this-run" in one for one in listener.heard)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "{command: [./take], check: [./check]}"),
        ("{command: [./take]}", "{command: [./take], check: [./check]}"),
        ("{file: b.env}", "{vault: secret/b}"),
        ("{command: [./take, '{name}']}", "{command: [./take, '{name}']}"),
    ],
)
def test_a_changed_deliver_or_check_of_a_merge_request_is_not_run(
    merge_request, project, before, after
):
    """So also where a new name changes the arguments of a program."""
    for name in ("take", "check"):
        program(project, name)
    text = KEY.format(name="b", sink=f", deliver: [{before}]" if before else "")
    (project / "manifests" / "keys.yaml").write_text(
        KEY.format(name="c", sink=f", deliver: [{after}]")
    )
    only_validated(merge_request(text), project, "it changes ")


def test_an_equal_check_of_a_merge_request_is_planned_and_not_run(merge_request, project):
    """The merge request may have changed the program itself."""
    text = KEY.format(name="b", sink=", deliver: [{command: [./take], check: [./check]}]")
    for name in ("take", "check"):
        program(project, name)
    (project / "manifests" / "keys.yaml").write_text(text)
    done = merge_request(text)
    assert (done.returncode, "program_not_run" in done.stdout) == (4, True), done.stderr
    assert not (project.parent / "owned").exists()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "mallory"}, "its target is not the default"),
        ({"CI_REPOSITORY_URL": "/nowhere"}, "the default branch could not be read"),
        ({"PROVISION_MANIFESTS": "../project/manifests"}, "are not in the checkout"),
    ],
)
def test_no_answer_about_the_default_branch_is_no_permission(merge_request, project, more, why):
    """Whoever may push a branch could make it the target."""
    only_validated(merge_request(**more), project, why)


def test_without_git_a_merge_request_is_validated(merge_request, project):
    """An image without it cannot compare."""
    fake = project.parent / "bin" / "git"
    fake.write_text("#!/bin/sh\nexit 127\n")
    fake.chmod(0o755)
    done = merge_request(PATH=f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    only_validated(done, project, "the image needs git")


def test_the_address_with_the_token_is_no_argument(merge_request, project):
    """Whoever lists processes does not see it."""
    real = shutil.which("git")
    fake = project.parent / "bin" / "git"
    fake.write_text(f'#!/bin/sh\necho "$@" >> "{project.parent}/words"\nexec {real} "$@"\n')
    fake.chmod(0o755)
    assert merge_request().returncode == 0
    words = (project.parent / "words").read_text()
    assert "fetch" in words
    assert str(project.parent / "origin") not in words


@pytest.mark.parametrize("name", ["provision-plan", "provision-report", "provision-apply"])
def test_the_restrictions_are_inputs(run, project, tmp_path, name):
    """Each job that holds credentials is bound by them, and empty ones bind nothing."""
    protected = tmp_path / "protected.yaml"
    protected.write_text(
        "version: 1\nenvironments: {dev: {url: 'http://127.0.0.1:1', auth: {token: '${TOKEN}'}}}\n"
    )
    job = rendered(
        install="",
        environments=str(protected),
        allow_host="crm.example.com *.example.org",
        allow_sink="vault file:secrets/*",
        no_programs="true",
    )[name]
    if name == "provision-apply":
        job["script"] = ["provision apply"]
    done = run(job, TOKEN="t" * 20)
    assert (done.returncode, "host_not_allowed" in done.stderr) == (5, True), done.stderr
    assert str(protected) in done.stderr
    shown = run({**job, "script": ["env"]}).stdout
    assert "PROVISION_ALLOW_SINK=vault file:secrets/*\n" in shown
    assert "PROVISION_NO_PROGRAMS=true\n" in shown
    plain = run({**rendered(install="")[name], "script": ["env"]}).stdout
    for one in ("ENVIRONMENTS", "ALLOW_HOST", "ALLOW_SINK"):
        assert f"PROVISION_{one}=" not in plain


def test_inputs_that_are_empty_leave_their_variables_out(run):
    """An empty variable is wrong usage; without the inputs the jobs work on everything."""
    for inputs in ({}, {"environment": "dev"}, {"only": "a*"}, {"environment": "dev", "only": "a"}):
        jobs = rendered(install="", **inputs)
        planned = run(jobs["provision-plan"])
        assert planned.returncode == 0, planned.stderr
        assert ("other" in planned.stdout) == ("environment" not in inputs)
        assert ("+ b" in planned.stdout) == ("only" not in inputs)
    assert run(jobs["provision-apply"]).returncode == 0
    shown = {"script": ["env"], "variables": rendered()["provision-plan"]["variables"]}
    told = run(jobs["provision-plan"] | shown, INSTALL="").stdout
    assert "PROVISION_ENVIRONMENT" not in told
    assert "PROVISION_ONLY" not in told


def test_an_old_date_stops_its_key_and_no_other(run, project):
    """`validate` says so, and `plan` and `apply` do the rest; the pipeline goes on from plan."""
    keys = project / "manifests" / "keys.yaml"
    keys.write_text(keys.read_text().replace("{name: b}", "{name: old, expires: 2020-01-01}"))
    jobs = rendered(install="", environment="dev")
    plan, apply_ = jobs["provision-plan"], jobs["provision-apply"]
    assert run(jobs["provision-validate"]).returncode == 3
    assert run(plan).returncode == 4
    assert (plan["needs"], plan["allow_failure"]) == ([], {"exit_codes": [4]})
    assert apply_["needs"] == ["provision-plan"]
    applied = run(apply_)
    assert (applied.returncode, "1 failed" in applied.stdout) == (4, True)
    assert " 0 created" not in applied.stdout
    assert [rule["when"] for rule in jobs["provision-report"]["rules"]] == ["always"]


def test_an_environment_that_is_not_reached_fails_the_plan(run, project):
    """There is no plan file then, and nothing that apply could take."""
    environments = project / "manifests" / "environments.yaml"
    token = "auth: {session_token: '${TOKEN}'}"
    environments.write_text(
        f"version: 1\nenvironments: {{dev: {{url: 'http://127.0.0.1:1', {token}}}}}\n"
    )
    plan = rendered(install="")["provision-plan"]
    plan["variables"] |= {"TOKEN": "eyJ.a.b"}
    done = run(plan)
    assert (done.returncode, (project / "provision-plan.json").exists()) == (1, False), done.stderr


def test_validate_leaves_reports_that_gitlab_reads(run, project):
    """Both reports are where the job says, with problems as without."""
    job = rendered(install="")["provision-validate"]
    reports = [project / name for name in job["artifacts"]["reports"].values()]
    done = run(job)
    assert done.returncode == 0, done.stderr
    assert json.loads(reports[0].read_text()) == []
    (project / "manifests" / "keys.yaml").write_text("version: 2\n")
    done = run(job)
    assert done.returncode == 3
    assert json.loads(reports[0].read_text())[0]["location"]["path"] == "manifests/keys.yaml"
    assert reports[1].is_file()


def test_the_nightly_report_fails_when_a_key_is_due(run):
    """A key that ends within the time of the input ends the job with 2."""
    jobs = rendered(install="", environment="dev")
    report = jobs["provision-report"]
    made = run({**report, "script": ["provision apply"], "variables": {"INSTALL": ""}})
    assert made.returncode == 0, made.stderr
    assert run(report).returncode == 0
    later = rendered(install="", environment="dev", expiring_within="100d")
    assert run(later["provision-report"]).returncode == 2


@pytest.mark.parametrize(
    ("install", "locked", "expected"),
    [
        (
            "twenty-provisioner @ https://example.com/a b",
            True,
            [["twenty-provisioner @ https://example.com/a b"]],
        ),
        (".", False, [["."]]),
        (".", True, [["--require-hashes", "-r", "requirements.lock"], ["--no-deps", "."]]),
    ],
)
def test_what_is_installed_is_what_the_input_says(install, locked, expected, run, project):
    """Pip gets the input as one word, and a clone with a lock is installed by its hashes."""
    lock = project / "requirements.lock"
    if locked:
        lock.write_text("")
    # Stands in for venv: `pip` there writes down what it is asked for, and has a `provision`.
    stand_in = project.parent / "bin" / "python3"
    stand_in.write_text(
        '#!/bin/sh\nmkdir -p "$3/bin"\n'
        'echo \'for one; do echo "$one"; done >>asked; echo >>asked\' >"$3/bin/pip"\n'
        'chmod +x "$3/bin/pip"\n'
    )
    stand_in.chmod(0o755)
    job = rendered(install=install)["provision-validate"]
    done = run({**job, "script": ["true"]})
    assert done.returncode == 0, done.stderr
    asked = [block.split("\n") for block in (project / "asked").read_text().strip().split("\n\n")]
    assert asked == [["install", "--quiet", *words] for words in expected]
