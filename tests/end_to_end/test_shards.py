"""Shards as processes, whose merged JSON is that of one run; and the templates for pipelines."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from processes import Provision, install_program

from provisioner import schemas
from provisioner.cli import main

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "templates"
JOB = TEMPLATES / "kubernetes" / "shards.yml"
JOB_SCHEMA = Path(__file__).with_name("kubernetes_job.schema.json")
COMPONENT = TEMPLATES / "provision-shards.yml"

TIME = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
DIALECTS = ("core", "core-1", "legacy", "core", "legacy")
SHARDS = 3


def write_fleet(folder: Path) -> Path:
    """Write five environments of three generations."""
    manifests = folder / "manifests"
    manifests.mkdir(parents=True)
    declared = {
        f"crm-{number}": {"url": f"sandbox:{dialect}", "role": "Admin", "owns": ["svc-*"]}
        for number, dialect in enumerate(DIALECTS)
    }
    (manifests / "environments.yaml").write_text(
        json.dumps({"version": 1, "environments": declared})
    )
    keys = [{"name": "svc-a", "expires": "2035-01-01"}, {"name": "svc-b", "expires": "90d"}]
    deliver = [{"file": "secrets/{environment}.env"}]
    (manifests / "keys.yaml").write_text(
        json.dumps(
            {
                "version": 1,
                "environments": [*declared],
                "defaults": {"deliver": deliver},
                "keys": keys,
            }
        )
    )
    return folder


def start(folder: Path, *arguments: object) -> Provision:
    return Provision(
        *arguments,
        cwd=folder,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def output_of(process: Provision, code: int) -> Any:
    with process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == code, err
    return json.loads(out)


def in_shards(folder: Path, command: str, code: int, merge_code: int, capsys: Any) -> Any:
    """Run a command as shards at the same time, and return their merged JSON."""
    processes = [
        start(folder, command, "--shard", f"{number}/{SHARDS}", "--format", "json")
        for number in range(1, SHARDS + 1)
    ]
    files = []
    for process in processes:
        document = output_of(process, code)
        name = document["format"].split("/")[1]
        Draft202012Validator(schemas.load(name)).validate(document)
        files.append(folder / f"{command}-{document['shard'].replace('/', '-')}.json")
        files[-1].write_text(json.dumps(document))
    assert (
        main(["merge", *map(str, files), "--format", "json", "--detailed-exitcode"]) == merge_code
    )
    return json.loads(capsys.readouterr().out)


def without_times(document: Any) -> Any:
    """Return a document with all times and random ids replaced."""
    return json.loads(ID.sub("ID", TIME.sub("TIME", json.dumps(document))))


def test_shards_as_processes_give_the_json_of_one_run(tmp_path, capsys) -> None:
    """The plan with its digest, the result and the report, except for times and random ids."""
    one, shards = write_fleet(tmp_path / "one"), tmp_path / "shards"
    output_of(start(one, "plan", "--format", "json"), 0)  # makes the workspaces
    shutil.copytree(one, shards)
    for command, code, merge_code in (("plan", 0, 2), ("apply", 0, 0), ("report", 0, 0)):
        process = start(one, command, "--format", "json")
        merged = in_shards(shards, command, code, merge_code, capsys)
        whole = output_of(process, code)
        assert [one["environment"] for one in merged["environments"]] == [
            f"crm-{number}" for number in range(len(DIALECTS))
        ]
        assert without_times(merged) == without_times(whole)
        assert merged.get("digest") == whole.get("digest")


# Templates


def check(*command: object) -> None:
    program = Path(sys.executable).with_name(str(command[0]))
    process = subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, timeout=100, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr


def test_every_shard_of_the_workflow_has_a_job() -> None:
    """The numbers of the matrix are those of all shards."""
    file = TEMPLATES / "github" / "shards.yml"
    job = yaml.safe_load(file.read_text())["jobs"]["shard"]
    numbers = job["strategy"]["matrix"]["shard"]
    assert numbers == [*range(1, len(numbers) + 1)]
    environment = {
        name: value for step in job["steps"] for name, value in step.get("env", {}).items()
    }
    assert environment["PROVISION_SHARD"] == "${{ matrix.shard }}/${{ strategy.job-total }}"


def test_the_job_follows_the_schema_of_kubernetes() -> None:
    """Its pods know how many shards there are, and it retries no decision of a run."""
    document = yaml.safe_load(JOB.read_text())
    validator = Draft202012Validator(json.loads(JOB_SCHEMA.read_text()))
    validator.validate(document)
    spec = document["spec"]
    assert not validator.is_valid(document | {"spec": {**spec, "completionsMode": "Indexed"}})
    [container] = spec["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "JOB_COMPLETIONS", "value": str(spec["completions"])}]
    assert (spec["completionMode"], spec["maxFailedIndexes"]) == ("Indexed", spec["completions"])


def component_jobs(**inputs: object) -> dict[str, Any]:
    """Return the jobs of the component as GitLab renders them."""
    header, body = COMPONENT.read_text().split("\n---\n")
    declared = yaml.safe_load(header)["spec"]["inputs"]
    values = {name: entry.get("default", ".") for name, entry in declared.items()} | inputs
    text = re.sub(r"\$\[\[ inputs\.([\w-]+) \]\]", lambda found: str(values[found[1]]), body)
    document = yaml.safe_load(text)
    jobs = {}
    for name, job in document.items():
        base = document.get(job.get("extends"), {})
        jobs[name] = base | job | {"variables": base.get("variables", job.get("variables"))}
    return jobs


def test_the_component_follows_the_schema_of_gitlab(tmp_path) -> None:
    """The header, and the jobs as they are rendered."""
    header = tmp_path / "header.yml"
    header.write_text(COMPONENT.read_text().split("\n---\n")[0])
    file = tmp_path / "jobs.yml"
    jobs = {name: job for name, job in component_jobs().items() if "script" in job}
    file.write_text(json.dumps(jobs))
    check("check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", header, file)


@pytest.fixture
def path(tmp_path) -> str:
    return f"{install_program(tmp_path / 'bin').parent}:/usr/bin:/bin"


def test_the_scripts_of_the_templates_run_in_a_shell(tmp_path, path) -> None:
    """A shard of the component, one of the Indexed Job, and the merge, which names the third."""
    folder = write_fleet(tmp_path / "fleet")
    jobs = component_jobs(install="", shards=3)

    def sh(script: str, code: int, **variables: str) -> str:
        process = subprocess.run(
            ["sh", "-ec", script],
            cwd=folder,
            env={"PATH": path, **variables},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert process.returncode == code, process.stdout + process.stderr
        return process.stdout

    shard, merge = jobs["provision-shard"], jobs["provision-merge"]
    assert shard["parallel"] == 3
    script = "\n".join([*shard["before_script"], *shard["script"]])
    sh(script, 0, CI_NODE_INDEX="1", CI_NODE_TOTAL="3", **shard["variables"])
    [container] = yaml.safe_load(JOB.read_text())["spec"]["template"]["spec"]["containers"]
    [shell, flag, command] = container["command"]
    assert (shell, flag) == ("sh", "-c")
    command = command.replace("/results/", "provision-shard-")
    sh(command, 0, JOB_COMPLETION_INDEX="1", JOB_COMPLETIONS="3")
    out = sh("\n".join([*merge["before_script"], *merge["script"]]), 4, **merge["variables"])
    assert "shard 3/3" in out
    assert all((folder / file).stat().st_size for file in merge["artifacts"]["paths"])
