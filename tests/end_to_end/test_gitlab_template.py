"""The GitLab CI template: its file, its rules, and its jobs in a real shell."""

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
from processes import install_program

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "templates" / "provision.yml"
HEADER, BODY = TEMPLATE.read_text(encoding="utf-8").split("\n---\n")
INPUTS = yaml.safe_load(HEADER)["spec"]["inputs"]


def render_jobs(**inputs: str) -> dict[str, Any]:
    """Return the jobs as GitLab renders them: inputs inserted as text, `extends` merged."""
    values = {name: entry.get("default", ".") for name, entry in INPUTS.items()}
    values |= {name.replace("_", "-"): value for name, value in inputs.items()}

    def value(found: re.Match[str]) -> str:
        entry = values[found[1]]
        return str(entry).lower() if isinstance(entry, bool) else entry

    document = yaml.safe_load(re.sub(r"\$\[\[ inputs\.([\w-]+) \]\]", value, BODY))
    jobs = {}
    for name, job in document.items():
        base = document.get(job.get("extends"), {})
        jobs[name] = base | job
        jobs[name]["variables"] = base.get("variables", {}) | job.get("variables", {})
    return jobs


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with manifests for the embedded Twenty, with `provision` in the path."""
    folder = tmp_path / "project" / "manifests"
    folder.mkdir(parents=True)
    (folder / "environments.yaml").write_text(
        "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin, owns: ['*']}\n"
        "  other: {url: 'sandbox:', role: Admin}\n"
    )
    (folder / "keys.yaml").write_text(
        "version: 1\nenvironment: dev\ndefaults: {expires: 90d}\nkeys: [{name: a}, {name: b}]\n"
    )
    install_program(tmp_path / "bin")
    return tmp_path / "project"


@pytest.fixture
def run(project: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a job's scripts in `sh`, as a runner does."""

    def run_job(job: dict[str, Any], **variables: str) -> subprocess.CompletedProcess[str]:
        lines = ["set -e", *job["before_script"], *job["script"]]
        return subprocess.run(
            ["sh", "-c", "\n".join(lines)],
            cwd=project,
            env={
                "PATH": f"{project.parent / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "CI": "true",
                "GITLAB_CI": "true",
                **job["variables"],
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run_job


def test_the_template_matches_gitlabs_schema(tmp_path):
    """Header and jobs are valid under GitLab's published schema, with and without defaults."""
    header = tmp_path / "header.yml"
    header.write_text(HEADER)
    files = [header]
    for number, inputs in enumerate([{}, {"apply_when": "manual", "prefix": "keys"}]):
        file = tmp_path / f"{number}.yml"
        jobs = render_jobs(**inputs)
        # The schema describes a header and jobs, but not inputs, so these are rendered.
        file.write_text(
            json.dumps({name: entry for name, entry in jobs.items() if "script" in entry})
        )
        files.append(file)
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [program, "--builtin-schema", "vendor.gitlab-ci", *files]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 0, process.stdout + process.stderr


def test_inputs_are_described_used_and_never_part_of_a_script():
    """Every input is described and used, and reaches scripts only as a variable."""
    for name, entry in INPUTS.items():
        assert entry["description"]
        assert f"$[[ inputs.{name} ]]" in BODY, name
    marked = {"manifests": "M$(x)", "environment": "E;x", "only": "O`x`", "install": "I'x"}
    for job in render_jobs(**marked).values():
        text = "\n".join(job.get("before_script", []) + job.get("script", []))
        assert not [value for value in marked.values() if value in text]


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
    """Merge requests plan, forks validate, the default branch applies, schedules also report."""
    variables = {"CI_DEFAULT_BRANCH": "main", "CI_PROJECT_PATH": "acme/keys", **pipeline}

    def holds(condition: str, own: dict[str, str]) -> bool:
        known = variables | own
        terms = [term.split(" == ") for term in condition.split(" && ")]
        sides = [
            [known.get(side[1:]) if side.startswith("$") else side.strip('"') for side in term]
            for term in terms
        ]
        return all(entry[0] == entry[1] if entry[1:] else bool(entry[0]) for entry in sides)

    for inputs, by_hand in (({}, []), ({"apply_when": "manual"}, ["provision-apply"])):
        found, manual = set(), []
        for name, job in render_jobs(**inputs).items():
            rules = [rule for rule in job.get("rules", ()) if holds(rule["if"], job["variables"])]
            if rules:
                found.add(name.removeprefix("provision-"))
                manual += [name] if rules[0].get("when") == "manual" else []
        assert found == jobs
        assert manual == (by_hand if "apply" in jobs else [])


def test_a_pipeline_applies_its_plan(run, project):
    """The plan file is the artifact that apply uses; an outdated one changes nothing."""
    jobs = render_jobs(install="", environment="dev", prune="true")
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
    """Return a function that plans the project as a merge request to a real repository."""
    origin = tmp_path / "origin"
    shutil.copytree(project, origin)

    def commit(*branches: str) -> None:
        arguments = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example", "-C", str(origin)]
        process = [["init", "--quiet", "--initial-branch=main"], ["add", "--all"]]
        process += [["commit", "--quiet", "--allow-empty", "--message=x"]]
        for command in [*process, *(["branch", "--force", entry] for entry in branches)]:
            subprocess.run([*arguments, *command], check=True)

    def plan(base: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        if base:
            (origin / "manifests" / "keys.yaml").write_text(base)
        commit("mallory")
        job = render_jobs(install="", environment="dev")["provision-plan"]
        return run(job, **{**ON_A_MERGE_REQUEST, "CI_REPOSITORY_URL": str(origin), **variables})

    return plan


def program(project: Path, name: str) -> Path:
    """Write a program of the merge request that leaves a file with its variables if it runs."""
    file = project / name
    file.write_text(f"#!/bin/sh\nenv >> '{project.parent / 'owned'}'\n")
    file.chmod(0o755)
    return file


def assert_only_validated(
    process: subprocess.CompletedProcess[str], project: Path, reason: str
) -> None:
    """Assert that nothing was planned, and that log and artifact say why and how to approve."""
    assert process.returncode == 0, process.stderr
    assert not (project / "provision-plan.json").exists()
    for text in (process.stdout, (project / "provision-plan.md").read_text()):
        assert reason in text
        assert "To approve it, review these changes. Then run a pipeline by hand" in text
    assert not (project.parent / "owned").exists()


def test_a_merge_request_that_reaches_nothing_new_is_planned(merge_request, project):
    """A new key with a sink that the default branch has is planned, with a plan file."""
    sink = ", deliver: [{file: '{name}.env'}]"
    keys = project / "manifests" / "keys.yaml"
    base = KEY.format(name="a", sink=sink)
    keys.write_text(f"{base}  - {{name: b{sink}}}\n")
    process = merge_request(base)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "+ b" in process.stdout
    assert (project / "provision-plan.json").is_file()


def test_a_changed_url_of_a_merge_request_gets_no_credential(merge_request, project, listener):
    """The credential is not sent; the same job without the comparison does send it."""
    (project / "manifests" / "environments.yaml").write_text(
        f"version: 1\nenvironments: {{dev: {{url: 'http://127.0.0.1:{listener.port}', "
        "auth: {token: '${TWENTY_TOKEN}'}, role: Admin}}\n"
    )
    process = merge_request()
    assert_only_validated(process, project, "it changes `environments.yaml`")
    assert listener.heard == []
    by_hand = merge_request(CI_PIPELINE_SOURCE="web")
    assert by_hand.returncode == 1, by_hand.stderr
    assert any(b"credential-of-this-run" in entry for entry in listener.heard)


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
    """No changed program runs, also if a new name only changes a program's arguments."""
    for name in ("take", "check"):
        program(project, name)
    text = KEY.format(name="b", sink=f", deliver: [{before}]" if before else "")
    (project / "manifests" / "keys.yaml").write_text(
        KEY.format(name="c", sink=f", deliver: [{after}]")
    )
    assert_only_validated(merge_request(text), project, "it changes ")


def test_an_equal_check_of_a_merge_request_is_planned_and_not_run(merge_request, project):
    """An unchanged `check` is not run: the merge request may have changed the program itself."""
    text = KEY.format(name="b", sink=", deliver: [{command: [./take], check: [./check]}]")
    for name in ("take", "check"):
        program(project, name)
    (project / "manifests" / "keys.yaml").write_text(text)
    process = merge_request(text)
    assert (process.returncode, "program_not_run" in process.stdout) == (4, True), process.stderr
    assert not (project.parent / "owned").exists()


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "mallory"}, "its target is not the default"),
        ({"CI_REPOSITORY_URL": "/nowhere"}, "the default branch could not be read"),
        ({"PROVISION_MANIFESTS": "../project/manifests"}, "are not in the checkout"),
    ],
)
def test_without_a_comparison_a_merge_request_is_only_validated(
    merge_request, project, variables, reason
):
    """A merge request is only validated if it cannot be compared with the default branch."""
    assert_only_validated(merge_request(**variables), project, reason)


def test_without_git_a_merge_request_is_validated(merge_request, project):
    """Without git, the manifests cannot be compared, so they are only validated."""
    fake = project.parent / "bin" / "git"
    fake.write_text("#!/bin/sh\nexit 127\n")
    fake.chmod(0o755)
    process = merge_request(PATH=f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    assert_only_validated(process, project, "the image needs git")


def test_the_address_with_the_token_is_not_an_argument(merge_request, project):
    """A list of processes does not show the address of the repository."""
    real = shutil.which("git")
    fake = project.parent / "bin" / "git"
    fake.write_text(f'#!/bin/sh\necho "$@" >> "{project.parent}/arguments"\nexec {real} "$@"\n')
    fake.chmod(0o755)
    assert merge_request().returncode == 0
    arguments = (project.parent / "arguments").read_text()
    assert "fetch" in arguments
    assert str(project.parent / "origin") not in arguments


@pytest.mark.parametrize("name", ["provision-plan", "provision-report", "provision-apply"])
def test_the_restrictions_are_inputs(run, project, tmp_path, name):
    """The restrictions apply to each job with credentials; empty inputs restrict nothing."""
    protected = tmp_path / "protected.yaml"
    protected.write_text(
        "version: 1\nenvironments: {dev: {url: 'http://127.0.0.1:1', auth: {token: '${TOKEN}'}}}\n"
    )
    job = render_jobs(
        install="",
        environments=str(protected),
        allow_host="crm.example.com *.example.org",
        allow_sink="vault file:secrets/*",
        no_programs="true",
    )[name]
    if name == "provision-apply":
        job["script"] = ["provision apply"]
    process = run(job, TOKEN="t" * 20)
    assert (process.returncode, "host_not_allowed" in process.stderr) == (5, True), process.stderr
    assert str(protected) in process.stderr
    printed = run({**job, "script": ["env"]}).stdout
    assert "PROVISION_ALLOW_SINK=vault file:secrets/*\n" in printed
    assert "PROVISION_NO_PROGRAMS=true\n" in printed
    without_inputs = run({**render_jobs(install="")[name], "script": ["env"]}).stdout
    for entry in ("ENVIRONMENTS", "ALLOW_HOST", "ALLOW_SINK"):
        assert f"PROVISION_{entry}=" not in without_inputs


def test_empty_inputs_set_no_variables(run):
    """Without inputs the jobs work on everything; an empty variable would be wrong usage."""
    for inputs in ({}, {"environment": "dev"}, {"only": "a*"}, {"environment": "dev", "only": "a"}):
        jobs = render_jobs(install="", **inputs)
        planned = run(jobs["provision-plan"])
        assert planned.returncode == 0, planned.stderr
        assert ("other" in planned.stdout) == ("environment" not in inputs)
        assert ("+ b" in planned.stdout) == ("only" not in inputs)
    assert run(jobs["provision-apply"]).returncode == 0
    print_variables = {"script": ["env"], "variables": render_jobs()["provision-plan"]["variables"]}
    printed = run(jobs["provision-plan"] | print_variables, INSTALL="").stdout
    assert "PROVISION_ENVIRONMENT" not in printed
    assert "PROVISION_ONLY" not in printed


def test_an_old_date_stops_only_its_key(run, project):
    """`validate` fails, but the pipeline continues, and `plan` and `apply` do the rest."""
    keys = project / "manifests" / "keys.yaml"
    keys.write_text(keys.read_text().replace("{name: b}", "{name: old, expires: 2020-01-01}"))
    jobs = render_jobs(install="", environment="dev")
    plan, apply_ = jobs["provision-plan"], jobs["provision-apply"]
    assert run(jobs["provision-validate"]).returncode == 3
    assert run(plan).returncode == 4
    assert (plan["needs"], plan["allow_failure"]) == ([], {"exit_codes": [4]})
    assert apply_["needs"] == ["provision-plan"]
    applied = run(apply_)
    assert (applied.returncode, "1 failed" in applied.stdout) == (4, True)
    assert " 0 created" not in applied.stdout
    assert [rule["when"] for rule in jobs["provision-report"]["rules"]] == ["always"]


def test_an_unreachable_environment_fails_the_plan(run, project):
    """The job fails without a plan file, so there is nothing to apply."""
    environments = project / "manifests" / "environments.yaml"
    token = "auth: {session_token: '${TOKEN}'}"
    environments.write_text(
        f"version: 1\nenvironments: {{dev: {{url: 'http://127.0.0.1:1', {token}}}}}\n"
    )
    plan = render_jobs(install="")["provision-plan"]
    plan["variables"] |= {"TOKEN": "eyJ.a.b"}
    process = run(plan)
    assert (process.returncode, (project / "provision-plan.json").exists()) == (1, False), (
        process.stderr
    )


def test_validate_writes_reports_for_gitlab(run, project):
    """Both reports are at the paths of the job, with and without problems."""
    job = render_jobs(install="")["provision-validate"]
    reports = [project / name for name in job["artifacts"]["reports"].values()]
    process = run(job)
    assert process.returncode == 0, process.stderr
    assert json.loads(reports[0].read_text()) == []
    (project / "manifests" / "keys.yaml").write_text("version: 2\n")
    process = run(job)
    assert process.returncode == 3
    assert json.loads(reports[0].read_text())[0]["location"]["path"] == "manifests/keys.yaml"
    assert reports[1].is_file()


def test_the_nightly_report_fails_when_a_key_is_due(run):
    """The job exits with 2 if a key expires within the time of the input."""
    jobs = render_jobs(install="", environment="dev")
    report = jobs["provision-report"]
    applied = run({**report, "script": ["provision apply"], "variables": {"INSTALL": ""}})
    assert applied.returncode == 0, applied.stderr
    assert run(report).returncode == 0
    later = render_jobs(install="", environment="dev", expiring_within="100d")
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
def test_pip_installs_what_the_input_names(install, locked, expected, run, project):
    """Pip gets the input as one argument; a clone with a lock is installed by its hashes."""
    lock = project / "requirements.lock"
    if locked:
        lock.write_text("")
    # A fake venv, whose `pip` writes its arguments to a file.
    fake_python = project.parent / "bin" / "python3"
    fake_python.write_text(
        '#!/bin/sh\nmkdir -p "$3/bin"\n'
        'echo \'for one; do echo "$one"; done >>calls; echo >>calls\' >"$3/bin/pip"\n'
        'chmod +x "$3/bin/pip"\n'
    )
    fake_python.chmod(0o755)
    job = render_jobs(install=install)["provision-validate"]
    process = run({**job, "script": ["true"]})
    assert process.returncode == 0, process.stderr
    calls = [block.split("\n") for block in (project / "calls").read_text().strip().split("\n\n")]
    assert calls == [["install", "--quiet", *arguments] for arguments in expected]
