"""The GitHub Action: its file, and its steps run in a real bash as a runner runs them."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import tomllib
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = ACTION["runs"]["steps"]
BOT = {"login": "github-actions[bot]", "type": "Bot"}
STRANGER = {"login": "mallory", "type": "User"}
TOKEN = "ghs-token-of-this-very-test"
MANIFESTS = {
    "environments.yaml": "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin}\n",
    "keys.yaml": (
        "version: 1\nenvironment: dev\ndefaults: {expires: 90d}\nkeys: [{name: a}, {name: b}]\n"
    ),
}


# A stand-in for GitHub, after docs.github.com/rest/issues/comments


@dataclass
class GitHub:
    """Comments of pull request 7 of acme/keys."""

    comments: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    login: str | None = None
    address: str = ""
    base: dict[str, str] = field(default_factory=dict)

    def add(self, body: str, user: dict[str, str]) -> None:
        number = len(self.comments) + 1
        self.comments.append({"id": number, "body": body, "user": user, "html_url": f"#{number}"})

    def listed(self, folder: str) -> tuple[int, object]:
        """A folder of the base branch, after docs.github.com/rest/repos/contents."""
        folder = folder.rstrip("/") + "/"
        names = {path.removeprefix(folder) for path in self.base if path.startswith(folder)}
        files = [name for name in names if "/" not in name]
        found = [
            {"name": one, "type": "file", "sha": blob(self.base[folder + one])} for one in files
        ]
        inner = {name.split("/")[0] for name in names if "/" in name}
        found += [{"name": one, "type": "dir", "sha": "0"} for one in inner]
        return (200, found) if found else (404, {"message": "Not Found"})

    @property
    def written(self) -> list[str]:
        """The requests about comments."""
        return [one for one in self.asked if "/contents/" not in one and "/blobs/" not in one]

    def answer(  # noqa: PLR0911 - one for each answer
        self, method: str, path: str, headers: Any, body: bytes
    ) -> tuple[int, object]:
        self.asked.append(f"{method} {path}")
        if headers["Authorization"] != f"Bearer {TOKEN}":
            return 401, {"message": "Bad credentials"}
        if method in self.refuse:
            return self.refuse[method], {"message": "Resource not accessible by integration"}
        url = urlsplit(path)
        if url.path == "/user":
            return (200, {"login": self.login}) if self.login else (403, {"message": "no"})
        if method == "GET" and "/contents/" in url.path:
            assert parse_qs(url.query) == {"ref": ["main"]}
            return self.listed(url.path.removeprefix("/repos/acme/keys/contents/"))
        if method == "GET" and "/git/blobs/" in url.path:
            text = next(one for one in self.base.values() if blob(one) == url.path.split("/")[-1])
            return 200, {"content": base64.b64encode(text.encode()).decode()}
        if method == "GET" and url.path == "/repos/acme/keys/issues/7/comments":
            query = parse_qs(url.query)
            size, page = int(query["per_page"][0]), int(query["page"][0])
            return 200, self.comments[(page - 1) * size : page * size]
        text = json.loads(body)["body"]
        if len(text) > 65536:
            return 422, {"message": "Body is too long (maximum is 65536 characters)"}
        if method == "POST" and url.path == "/repos/acme/keys/issues/7/comments":
            self.add(text, BOT)
            return 201, self.comments[-1]
        found = re.fullmatch(r"/repos/acme/keys/issues/comments/(\d+)", url.path)
        assert found, (method, path)
        assert method == "PATCH"
        comment = self.comments[int(found[1]) - 1]
        comment["body"] = text
        return 200, comment


def blob(text: str) -> str:
    """The name that git gives to a content."""
    given = ["git", "hash-object", "--stdin"]
    done = subprocess.run(given, input=text.encode(), capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.fixture
def github() -> Iterator[GitHub]:
    state = GitHub(base={f"manifests/{name}": text for name, text in MANIFESTS.items()})

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            given = self.rfile.read(size)
            status, document = state.answer(self.command, self.path, self.headers, given)
            content = json.dumps(document).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/user")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = handle_any  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


# A stand-in for the runner


@dataclass
class Ran:
    """What became of the action: its outputs, what its steps printed, the summary."""

    outputs: dict[str, str]
    printed: str
    summary: str
    code: int
    names: list[str]


@dataclass
class Runner:
    """Runs the steps of action.yml as docs.github.com says of composite actions."""

    place: Path
    api: str

    def environment(self, event: dict[str, Any], **more: str) -> dict[str, str]:
        """The default variables of a runner that matter here, and the machine's own."""
        (self.place / "event.json").write_text(json.dumps(event))
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        (self.place / "temp").mkdir(exist_ok=True)
        return {
            **own,
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_ACTOR": "octocat",
            "GITHUB_API_URL": self.api,
            "GITHUB_EVENT_NAME": "pull_request",
            "GITHUB_EVENT_PATH": str(self.place / "event.json"),
            "GITHUB_REF": "refs/pull/7/merge",
            "GITHUB_REPOSITORY": "acme/keys",
            "GITHUB_RUN_ID": "42",
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_SHA": "f" * 40,
            "GITHUB_STEP_SUMMARY": str(self.place / "summary.md"),
            "GITHUB_WORKSPACE": str(self.place / "work"),
            "RUNNER_TEMP": str(self.place / "temp"),
            **more,
        }

    def run(
        self,
        inputs: dict[str, str],
        event: dict[str, Any],
        steps: dict[str, dict[str, str]] | None = None,
        **more: str,
    ) -> Ran:
        """Runs the steps; those that `steps` names by id are taken as done with these outputs."""
        given = {name: one.get("default", "") for name, one in ACTION["inputs"].items()} | inputs
        outputs = {"install": {"python": sys.executable}} if steps is None else steps
        environment = self.environment(event, **more)
        printed, code, names = "", 0, []

        def value(expression: str) -> str:
            kind, _, rest = expression.partition(".")
            if expression == "github.token":
                return TOKEN
            if kind == "inputs":
                return value_in(given[rest])
            step, _, name = rest.removesuffix("").partition(".outputs.")
            assert kind == "steps", expression
            return outputs.get(step, {}).get(name, "")

        def value_in(text: str) -> str:
            return re.sub(r"\$\{\{ (.*?) \}\}", lambda found: value(found[1]), text)

        def due(step: dict[str, Any]) -> bool:
            if "if" not in step:
                return code == 0
            condition = re.fullmatch(r"\$\{\{ !cancelled\(\) && (.*) \}\}", step["if"])
            assert condition, step["if"]
            capabilities = [term.split(" == ") for term in condition[1].split(" && ")]
            return all(value(name) == wanted.strip("'") for name, wanted in capabilities)

        for step in STEPS:
            if step.get("id") in outputs or not due(step):
                continue
            names.append(step["name"])
            script, output = self.place / "step.sh", self.place / "output"
            script.write_text(step["run"])
            output.write_text("")
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
                cwd=self.place / "work" / value_in(step.get("working-directory", ".")),
                env=environment
                | {"GITHUB_OUTPUT": str(output)}
                | {name: value_in(text) for name, text in step["env"].items()},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=100,
                check=False,
            )
            printed += done.stdout
            code = code or done.returncode
            outputs.setdefault(step.get("id", ""), {}).update(told(output.read_text()))
        summary = self.place / "summary.md"
        return Ran(
            {name: value_in(one["value"]) for name, one in ACTION["outputs"].items()},
            printed,
            summary.read_text() if summary.exists() else "",
            code,
            names,
        )


def told(text: str) -> dict[str, str]:
    """The outputs in GITHUB_OUTPUT: `name=value`, or `name<<end`, the value, and `end`."""
    found = {}
    lines = iter(text.splitlines())
    for line in lines:
        if re.fullmatch(r"[\w-]+<<.+", line):
            name, _, end = line.partition("<<")
            found[name] = "\n".join(itertools.takewhile(lambda one, end=end: one != end, lines))
        else:
            name, _, found[name] = line.partition("=")
    return found


@pytest.fixture
def runner(tmp_path: Path, github: GitHub) -> Runner:
    """A runner that has checked out a repository with manifests for the embedded Twenty."""
    folder = tmp_path / "work" / "manifests"
    folder.mkdir(parents=True)
    for name, text in MANIFESTS.items():
        (folder / name).write_text(text)
    return Runner(tmp_path, github.address)


def pull_request(head: str = "acme/keys") -> dict[str, Any]:
    """The event of a pull request, as far as anything here reads it."""
    return {
        "pull_request": {
            "number": 7,
            "head": {"sha": "a" * 40, "repo": {"full_name": head}},
            "base": {"ref": "main"},
        },
        "repository": {"default_branch": "main"},
    }


PUSH = {"repository": {"default_branch": "main"}}
ON_MAIN = {"GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/heads/main"}


@pytest.fixture
def comment(runner: Runner, tmp_path: Path) -> Callable[..., Ran]:
    """Runs the step that comments alone, with this report."""

    def comment_(report: str, code: str = "0", **inputs: str) -> Ran:
        file = tmp_path / "report.md"
        file.write_text(report)
        steps = {
            "install": {"python": sys.executable},
            "run": {
                "command": "plan",
                "comment": "true",
                "exit-code": code,
                "report": str(file) if report else "",
            },
        }
        return runner.run(inputs, pull_request(), steps)

    return comment_


# The file


def checked(*command: str) -> None:
    """Runs a program of the checks, found beside the Python of these tests."""
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_action_is_one_by_the_published_schema():
    """action.yml is valid by the schema of actions that editors use."""
    checked("check-jsonschema", "--builtin-schema", "vendor.github-actions", "action.yml")


def test_no_input_reaches_a_script_as_text():
    """Nothing is expanded inside a script, so no input, branch or title can be run as one."""
    for step in STEPS:
        assert "${{" not in step["run"]
        assert step["shell"] == "bash"
        assert step["run"].startswith("set -euo pipefail\n")
        assert "uses" not in step
    checked("zizmor", "--offline", "--quiet", "action.yml")


def test_the_scripts_have_no_fault_that_shellcheck_knows(tmp_path):
    """The steps' scripts quote what they use."""
    assert STEPS
    for number, step in enumerate(STEPS):
        script = tmp_path / f"{number}.sh"
        script.write_text(f"#!/bin/bash\n{step['run']}")
        checked("shellcheck", str(script))


def test_every_input_and_output_is_used_and_explained():
    """What action.yml offers reaches a step, and says what it is."""
    used = "".join(text for step in STEPS for text in [*step["env"].values(), str(step)])
    for name, one in ACTION["inputs"].items():
        assert one["description"]
        assert f"inputs.{name} " in used, name
    for one in ACTION["outputs"].values():
        assert one["description"]


# Which command


@pytest.mark.parametrize(
    ("variables", "event", "command"),
    [
        ({}, pull_request(), "plan"),
        ({}, pull_request("mallory/keys"), "validate"),
        ({"GITHUB_ACTOR": "dependabot[bot]"}, pull_request(), "validate"),
        (ON_MAIN, PUSH, "apply"),
        (ON_MAIN | {"GITHUB_REF": "refs/heads/feature"}, PUSH, "plan"),
        (ON_MAIN | {"GITHUB_REF": "refs/tags/main"}, PUSH, "plan"),
        (ON_MAIN | {"GITHUB_EVENT_NAME": "schedule"}, {"schedule": "0 4 * * *"}, "apply"),
        (ON_MAIN | {"GITHUB_EVENT_NAME": "workflow_dispatch"}, PUSH, "apply"),
        (
            ON_MAIN | {"GITHUB_EVENT_NAME": "pull_request_target"},
            pull_request("m/keys"),
            "validate",
        ),
        (ON_MAIN | {"GITHUB_EVENT_NAME": "workflow_run"}, PUSH, "validate"),
        (ON_MAIN | {"GITHUB_EVENT_NAME": "issue_comment"}, PUSH, "validate"),
        (ON_MAIN | {"GITHUB_EVENT_NAME": "issues"}, PUSH, "validate"),
        (
            ON_MAIN | {"GITHUB_EVENT_NAME": "pull_request_review"},
            pull_request("m/keys"),
            "validate",
        ),
        (ON_MAIN | {"GITHUB_EVENT_NAME": "merge_group"}, PUSH, "plan"),
        (ON_MAIN, {"repository": {}}, "plan"),
    ],
)
def test_auto_applies_what_is_on_the_default_branch_alone(variables, event, command, script):
    """A pull request never applies, and one without secrets is validated."""
    assert script(event, **variables).fitting_the_event() == command


def module(name: str) -> Any:
    """A script of the action, imported."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f".github/action/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def script(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """run.py as a module, under the variables of a runner."""

    def script_(event: dict[str, Any], **variables: str) -> Any:
        for name, value in runner.environment(event, **variables).items():
            monkeypatch.setenv(name, value)
        return module("run")

    return script_


SELECTED = {
    "INPUT_MANIFESTS": "infra",
    "INPUT_ENVIRONMENT": "staging  production",
    "INPUT_ONLY": "svc-* $(x)",
    "INPUT_PRUNE": "true",
}
SELECTION = ["--environment", "staging", "--environment", "production"]
SELECTION += ["--only", "svc-*", "--only", "$(x)"]


@pytest.mark.parametrize(
    ("command", "inputs", "expected"),
    [
        ("validate", {}, []),
        ("plan", {}, [*SELECTION, "--report", "markdown=R", "--prune"]),
        (
            "apply",
            {"INPUT_DIGEST": "none"},
            [*SELECTION, "--report", "markdown=R", "--prune"],
        ),
        (
            "apply",
            {"INPUT_DIGEST": "none", "INPUT_PLAN_FILE": "-p.json"},
            ["--report", "markdown=R", "--", "-p.json"],
        ),
        (
            "apply",
            {"INPUT_DIGEST": "sha256:0"},
            [*SELECTION, "--report", "markdown=R", "--prune", "--digest", "sha256:0"],
        ),
        ("report", {"INPUT_EXPIRING_WITHIN": "14d"}, [*SELECTION, "--expiring-within", "14d"]),
        (
            "doctor",
            {"INPUT_ARGUMENTS": "--log-level\n\n debug \n--x=a b;c\n"},
            [*SELECTION, "--log-level", "debug", "--x=a b;c"],
        ),
    ],
)
def test_inputs_become_arguments(command, inputs, expected, script):
    """Each input is the option that its name says, each a word of its own whatever is in it."""
    made = script(PUSH, **SELECTED, **inputs).arguments(command, Path("R"), automatic=False)
    assert made == ["--manifests", "infra", *expected]


def test_a_plan_file_is_written_and_with_auto_not_applied(script, tmp_path, monkeypatch):
    """A plan file is written where later steps find it, and the apply of auto plans anew."""
    monkeypatch.chdir(tmp_path)
    module = script(PUSH, INPUT_PLAN_FILE="plan.json", INPUT_PRUNE="true")
    planned = module.arguments("plan", Path("R"), automatic=True)
    assert planned[-2:] == ["--out", str(tmp_path / "plan.json")]
    applied = module.arguments("apply", Path("R"), automatic=True)
    assert "--prune" in applied
    assert "plan.json" not in " ".join(applied)


@pytest.mark.parametrize("inputs", [{"command": "rotate"}, {"prune": "yes"}])
def test_wrong_inputs_are_wrong_usage(inputs, runner):
    """A command that the action does not run, or a flag that is no flag, fails with 64."""
    ran = runner.run(inputs, pull_request())
    assert ran.code == 64
    assert "::error title=provision::" in ran.printed
    assert ran.names == ["Run provision"]


# Whole runs


def test_a_pull_request_gets_its_plan_as_one_comment(runner, github):
    """The plan is made, commented, shown in the summary and output; a second run updates it."""
    ran = runner.run({"plan-file": "plan.json"}, pull_request())
    assert ran.code == 0, ran.printed
    assert ran.outputs["command"] == "plan"
    assert ran.outputs["changes"] == "true"
    assert ran.outputs["digest"].startswith("sha256:")
    assert ran.outputs["exit-code"] == "0"
    planned = json.loads(Path(ran.outputs["plan-file"]).read_text())
    assert planned["digest"] == ran.outputs["digest"]
    assert len(github.comments) == 1
    first = github.comments[0]["body"]
    assert first.startswith("<!-- provision plan manifests=manifests -->\n")
    assert (
        "Of commit aaaaaaaaaaaa, [this run](https://github.com/acme/keys/actions/runs/42)" in first
    )
    assert "dev" in ran.summary

    manifest = runner.place / "work" / "manifests" / "keys.yaml"
    manifest.write_text(manifest.read_text().replace("{name: b}", "{name: b}, {name: third}"))
    again = runner.run({}, pull_request())
    assert again.code == 0, again.printed
    assert len(github.comments) == 1
    assert "third" in github.comments[0]["body"]
    assert "third" not in first


def test_the_default_branch_is_applied_and_then_in_order(runner, github):
    """On main the keys are made, nothing is commented, and the next plan has no changes."""
    ran = runner.run({}, PUSH, **ON_MAIN)
    assert ran.code == 0, ran.printed
    assert ran.outputs["command"] == "apply"
    assert github.asked == []
    planned = runner.run({"command": "plan"}, PUSH, **ON_MAIN)
    assert planned.outputs["changes"] == "false"
    assert "No pull request" in planned.printed
    assert github.asked == []


def test_what_was_planned_is_applied(runner):
    """A plan file, or a digest alone, is held to by apply: what moved since is refused with 6."""
    planned = runner.run({"command": "plan", "plan-file": "p.json", "prune": "true"}, PUSH)
    assert planned.code == 0, planned.printed
    applying = {"command": "apply", "plan-file": planned.outputs["plan-file"], "prune": "true"}
    applied = runner.run(applying, PUSH, **ON_MAIN)
    assert applied.code == 0, applied.printed
    manifest = runner.place / "work" / "manifests" / "keys.yaml"
    manifest.write_text(manifest.read_text().replace("{name: b}", "{name: other}"))
    stale = runner.run(applying, PUSH, **ON_MAIN)
    assert (stale.code, stale.outputs["exit-code"]) == (6, "6"), stale.printed
    by_digest = {"command": "apply", "prune": "true", "digest": planned.outputs["digest"]}
    assert runner.run(by_digest, PUSH, **ON_MAIN).code == 6
    again = runner.run({"command": "plan", "prune": "true"}, PUSH)
    by_digest["digest"] = again.outputs["digest"]
    assert runner.run(by_digest, PUSH, **ON_MAIN).code == 0


def test_a_plan_that_fails_is_commented_and_fails(runner, github):
    """Invalid manifests are told on the pull request, and the step ends with provision's code."""
    (runner.place / "work" / "manifests" / "keys.yaml").write_text("version: 2\n")
    ran = runner.run({}, pull_request())
    assert (ran.code, ran.outputs["exit-code"]) == (3, "3")
    assert "`provision plan` ended with 3: invalid manifests" in github.comments[0]["body"]


def test_a_comment_that_may_not_be_written_leaves_the_plan_alone(runner, github):
    """A token that may only read is a warning; the plan stands."""
    github.refuse = {"POST": 403}
    ran = runner.run({}, pull_request())
    assert ran.code == 0, ran.printed
    assert "::warning title=provision::The plan is not on the pull request" in ran.printed
    assert "pull-requests: write" in ran.printed
    assert ran.outputs["changes"] == "true"


def test_a_fork_is_validated_without_secrets_or_comment(runner, github):
    """Manifests of a fork are checked, and their problems stand on their own lines."""
    ran = runner.run({}, pull_request("mallory/keys"))
    assert (ran.code, ran.outputs["command"]) == (0, "validate"), ran.printed
    (runner.place / "work" / "manifests" / "keys.yaml").write_text("version: 2\n")
    ran = runner.run({}, pull_request("mallory/keys"))
    assert ran.code == 3
    assert re.search(r"^::error .*file=manifests/keys\.yaml", ran.printed, re.MULTILINE)
    assert github.asked == []


def test_inputs_are_not_run_by_a_shell(runner, tmp_path):
    """Text with a shell's signs in every input that takes any is text, and nothing else."""
    bad = "$(touch owned) `touch owned`; touch owned \"' #"
    texts = ("manifests", "environment", "only", "plan-file")
    ran = runner.run({"command": "plan"} | dict.fromkeys(texts, bad), pull_request())
    assert ran.names == ["Run provision", "Comment on the pull request"]
    assert runner.run({"command": "apply", "digest": bad, "arguments": bad}, PUSH).code != 0
    assert runner.run({"command": bad}, PUSH).code == 64
    assert not list(tmp_path.rglob("owned"))


def test_files_of_the_repository_are_not_taken_for_modules(runner, tmp_path):
    """A `click.py` or `json.py` in the checked-out repository is not imported by any step."""
    for name in ("click", "json", "provisioner", "venv"):
        (tmp_path / "work" / f"{name}.py").write_text("open('owned', 'w').close()\n")
    assert runner.run({"command": "validate"}, pull_request()).code == 0
    assert not list(tmp_path.rglob("owned"))


def test_cancelling_reaches_provision(runner, tmp_path):
    """The signal that a runner sends to the step's shell ends provision in order."""
    folder = tmp_path / "work" / "manifests"
    (folder / "environments.yaml").write_text(
        "version: 1\nenvironments:\n  dev: {url: 'http://127.0.0.1:PORT', "
        "auth: {token: '${TOKEN}'}, role: Admin}\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        file = folder / "environments.yaml"
        file.write_text(file.read_text().replace("PORT", str(port)))
        script = tmp_path / "step.sh"
        script.write_text(STEPS[1]["run"])
        (tmp_path / "output").write_text("")
        environment = runner.environment(PUSH, TOKEN="x" * 20, VENV_PYTHON=sys.executable)
        environment |= {"INPUT_COMMAND": "plan", "GITHUB_OUTPUT": str(tmp_path / "output")}
        with subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=tmp_path / "work",
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as step:
            silent.settimeout(20)
            connection, _ = silent.accept()  # provision is waiting for an answer
            with connection:
                step.send_signal(signal.SIGINT)
                assert step.wait(30) == 130
    assert "exit-code=130\n" in (tmp_path / "output").read_text()


# Pull requests that change where credentials go


ELSEWHERE = (
    "version: 1\nenvironments:\n  dev: {url: 'http://127.0.0.1:PORT', "
    "auth: {token: '${TWENTY_TOKEN}'}, role: Admin}\n"
)
DELIVERED = MANIFESTS["keys.yaml"].replace("{name: b}", "{name: b, deliver: [SINK]}")
FILE = "{file: b.env}"
CHECK = "{command: [./take], check: [./check]}"


def test_a_changed_url_is_validated_and_told_how_to_approve(runner, github, listener):
    """No credential leaves; the comment and the summary say why, and the next plan replaces it."""
    file = runner.place / "work" / "manifests" / "environments.yaml"
    file.write_text(ELSEWHERE.replace("PORT", str(listener.port)))
    ran = runner.run({}, pull_request(), TWENTY_TOKEN="credential-of-this-run")
    assert (ran.code, ran.outputs["command"]) == (0, "validate"), ran.printed
    assert listener.heard == []
    for told_ in (github.comments[0]["body"], ran.summary):
        assert "it changes `environments.yaml`" in told_
        assert "To approve: review these changes, then start this workflow by hand" in told_
    planned = runner.run({"command": "plan"}, pull_request(), TWENTY_TOKEN="credential-of-this-run")
    assert planned.code == 4
    assert any(b"credential-of-this-run" in one for one in listener.heard)
    assert len(github.comments) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (FILE, CHECK),
        ("{command: [./take]}", CHECK),
        (FILE, "{vault: secret/b}"),
        ("{command: [./take, '{name}']}", "{command: [./take, '{name}']}"),
    ],
)
def test_a_changed_deliver_or_check_is_validated(runner, github, tmp_path, before, after):
    """Nothing of it runs; so also where a new name changes the arguments of a program."""
    work = runner.place / "work"
    for name in ("take", "check"):
        (work / name).write_text(f"#!/bin/sh\nenv >> '{tmp_path / 'owned'}'\n")
        (work / name).chmod(0o755)
    github.base["manifests/keys.yaml"] = DELIVERED.replace("SINK", before)
    changed = DELIVERED.replace("SINK", after).replace("name: b,", "name: c,")
    (work / "manifests" / "keys.yaml").write_text(changed)
    ran = runner.run({}, pull_request())
    assert (ran.code, ran.outputs["command"]) == (0, "validate"), ran.printed
    assert "it changes " in github.comments[0]["body"]
    assert not (tmp_path / "owned").exists()


def test_a_bare_repository_in_the_folder_of_a_sink_runs_nothing(runner, github, tmp_path):
    """The manifests are equal, so `auto` plans: no monitor of it is run."""
    work = runner.place / "work"
    bare = work / "secrets"
    for words in (["--quiet", str(work)], ["--quiet", "--bare", str(bare)]):
        subprocess.run(["git", "init", *words], check=True)
    (work / ".gitignore").write_text("*.env\n")
    monitor = bare / "monitor"
    monitor.write_text(f"#!/bin/sh\nenv >> '{tmp_path / 'owned'}'\n")
    monitor.chmod(0o755)
    (bare / "config").write_text(
        "[core]\n\tbare = false\n\tworktree = .\n\tfsmonitor = ./monitor\n\thooksPath = .\n"
    )
    text = DELIVERED.replace("SINK", "{file: secrets/b.env}")
    github.base["manifests/keys.yaml"] = text
    (work / "manifests" / "keys.yaml").write_text(text)
    ran = runner.run({}, pull_request())
    assert (ran.outputs["command"], ran.code) == ("plan", 0), ran.printed
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("by", ["variable", "arguments"])
def test_manifests_are_compared_under_the_environments_that_are_read(runner, github, tmp_path, by):
    """Those of the checkout may make problems of what the run then takes."""
    protected = tmp_path / "protected.yaml"
    protected.write_text(MANIFESTS["environments.yaml"])
    work = runner.place / "work"
    (work / "take").write_text(f"#!/bin/sh\nenv >> '{tmp_path / 'owned'}'\n")
    (work / "take").chmod(0o755)
    other = MANIFESTS["environments.yaml"].replace("dev:", "other:")
    github.base["manifests/environments.yaml"] = other
    (work / "manifests" / "environments.yaml").write_text(other)
    text = DELIVERED.replace("SINK", "{command: [./take, '{name}']}")
    github.base["manifests/keys.yaml"] = text
    (work / "manifests" / "keys.yaml").write_text(text.replace("name: b,", "name: c,"))
    if by == "variable":
        ran = runner.run({}, pull_request(), PROVISION_ENVIRONMENTS=str(protected))
    else:
        ran = runner.run({"arguments": f"--environments\n{protected}"}, pull_request())
    assert (ran.code, ran.outputs["command"]) == (0, "validate"), ran.printed
    why = (
        "the arguments of a `command`"
        if by == "variable"
        else "without the file of `--environments`"
    )
    assert why in github.comments[0]["body"]
    assert not (tmp_path / "owned").exists()


def test_an_equal_check_is_planned_and_not_run(runner, github, tmp_path):
    """The pull request may have changed the program itself: what it holds is unknown."""
    work = runner.place / "work"
    (work / "check").write_text(f"#!/bin/sh\nenv >> '{tmp_path / 'owned'}'\n")
    (work / "check").chmod(0o755)
    text = DELIVERED.replace("SINK", CHECK)
    github.base["manifests/keys.yaml"] = text
    (work / "manifests" / "keys.yaml").write_text(text)
    ran = runner.run({}, pull_request())
    assert (ran.outputs["command"], ran.code) == ("plan", 4), ran.printed
    assert "--no-programs" in github.comments[0]["body"]
    assert not (tmp_path / "owned").exists()


def test_a_new_key_with_a_deliver_that_is_there_is_planned(runner, github):
    """Also of a manifest in a folder that is new."""
    text = DELIVERED.replace("SINK", FILE)
    github.base["manifests/team/keys.yaml"] = text.replace("{name: a}, ", "")
    (runner.place / "work" / "manifests" / "team").mkdir()
    for name, content in (("keys.yaml", "name: x"), ("team/keys.yaml", "name: b")):
        changed = DELIVERED.replace("SINK", "{file: x.env}" if "team" not in name else FILE)
        changed = changed.replace("name: b", content).replace("{name: a}, ", "")
        (runner.place / "work" / "manifests" / name).write_text(changed)
    github.base["manifests/keys.yaml"] = DELIVERED.replace("SINK", "{file: x.env}")
    ran = runner.run({}, pull_request())
    assert (ran.outputs["command"], ran.code) == ("plan", 0), ran.printed


def test_a_base_that_is_not_the_default_branch_or_not_read_is_validated(runner, github):
    """Whoever may push a branch could make it the base, and no answer is no permission."""
    event = pull_request()
    event["pull_request"]["base"]["ref"] = "mallory"
    ran = runner.run({}, event)
    assert (ran.code, ran.outputs["command"]) == (0, "validate"), ran.printed
    assert "its base is not the default branch" in github.comments[0]["body"]
    github.refuse = {"GET": 403}
    ran = runner.run({}, pull_request())
    assert (ran.code, ran.outputs["command"]) == (0, "validate"), ran.printed
    assert "contents: read" in ran.summary


# The comment


def test_a_comment_beyond_the_first_page_is_found(comment, github):
    """Ours is found among hundreds, and a comment that says the same is not sent again."""
    for number in range(250):
        github.add(f"comment {number}", STRANGER)
    comment("first")
    assert len(github.comments) == 251
    github.asked.clear()
    comment("second")
    assert len(github.comments) == 251
    assert [line.partition("?")[0] for line in github.asked] == [
        *["GET /repos/acme/keys/issues/7/comments"] * 3,
        "PATCH /repos/acme/keys/issues/comments/251",
    ]
    github.asked.clear()
    assert "says so already" in comment("second").printed
    assert not [line for line in github.asked if not line.startswith("GET")]


def test_each_selection_has_a_comment_of_its_own(comment, github):
    """Two jobs of one pull request do not overwrite each other, wherever their manifests are."""
    for inputs in (
        {},
        {"manifests": "./manifests/"},
        {"working-directory": "manifests", "manifests": "../manifests"},
        {"environment": "staging"},
        {"environment": " staging"},
        {"only": "svc-*"},
        {"manifests": "a--><b"},
    ):
        comment("plan", **inputs)
    lines = [one["body"].splitlines()[0] for one in github.comments]
    assert lines == [
        "<!-- provision plan manifests=manifests -->",
        "<!-- provision plan manifests=manifests&environment=staging -->",
        "<!-- provision plan manifests=manifests&only=svc%2D%2A -->",
        "<!-- provision plan manifests=a%2D%2D%3E%3Cb -->",
    ]


def test_a_strangers_comment_is_never_taken_for_ours(comment, github):
    """Whoever writes our line first does not get our plan into a comment that they may change."""
    mark = "<!-- provision plan manifests=manifests -->"
    github.add(f"{mark}\nnothing changes, merge it", STRANGER)
    comment("the plan")
    assert "the plan" not in github.comments[0]["body"]
    assert "the plan" in github.comments[1]["body"]
    github.comments[1]["user"] = {"login": "robot", "type": "User"}
    github.login = "robot"
    comment("the new plan")
    assert len(github.comments) == 2
    assert "the new plan" in github.comments[1]["body"]


def test_a_long_plan_is_cut_honestly(comment, github):
    """The comment keeps below GitHub's limit, ends with a whole line, and says what is missing."""
    lines = [f"- {number} \N{KEY}" * 3 for number in range(9000)]
    comment("\n".join(lines))
    body = github.comments[0]["body"]
    assert 65_000 < len(body) <= 65_536
    note = re.search(r"\*\*Cut here\*\*: (\d+) of 9000 lines", body)
    assert note
    shown = body.splitlines()[1 : 1 + 9000 - int(note[1])]
    assert shown == lines[: len(shown)]
    assert f"{lines[len(shown)]}\n" not in body


@pytest.mark.parametrize(
    ("refuse", "word"),
    [
        ({"GET": 403}, "pull-requests: write"),
        ({"GET": 404}, "pull-requests: write"),
        ({"GET": 302}, "302"),
        ({"POST": 422}, "422"),
        ({"GET": 500}, "500"),
    ],
)
def test_every_refusal_is_a_warning(refuse, word, comment, github):
    """Whatever GitHub answers, the step ends well and says why there is no comment."""
    github.refuse = refuse
    ran = comment("plan")
    assert ran.code == 0
    assert word in ran.printed
    assert "::warning title=provision::" in ran.printed
    assert TOKEN not in ran.printed
    assert not github.comments


@pytest.mark.parametrize(
    "said",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_an_answer_that_is_none_is_a_warning(said, comment, runner, scripted):
    """What a proxy makes of it fails no job."""
    server = scripted(*[said] * 4)
    runner.api = server.url
    ran = comment("plan")
    assert (ran.code, "Traceback" in ran.printed) == (0, False)
    assert "::warning title=provision::" in ran.printed


def test_without_token_network_or_trust_there_is_a_warning(comment, runner, github):
    """No token, nobody there, and an address that would show the token, are warnings too."""
    assert "there is no github-token" in comment("plan", **{"github-token": ""}).printed
    assert "not accept" in comment("plan", **{"github-token": "other"}).printed
    runner.api = "http://github.example.com"
    assert "is not https" in comment("plan").printed
    runner.api = "http://127.0.0.1:9"
    ran = comment("plan")
    assert (ran.code, "GET failed" in ran.printed) == (0, True)
    assert github.comments == []


def test_comment_false_is_no_comment(comment, github):
    """Whoever wants no comment gets none."""
    assert comment("plan", comment="false").names == []
    assert github.asked == []


# The installation


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """An action's checkout whose tool is two lines and whose lock has one package."""
    place = tmp_path / "checkout"
    (place / ".github" / "action").mkdir(parents=True)
    install = (ROOT / ".github" / "action" / "install.py").read_text()
    (place / ".github" / "action" / "install.py").write_text(install)
    (place / "pyproject.toml").write_text("[project]\ndependencies = ['never-asked-for']\n")
    (place / "provisioner.py").write_text("import tiny\nprint('runs with', tiny.NAME)\n")
    wheel = tmp_path / "wheels" / "tiny-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        files = {
            "tiny.py": "NAME = 'tiny'\n",
            "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
            "tiny-1.0.dist-info/WHEEL": (
                "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            ),
        }
        record = ""
        for name, text in files.items():
            archive.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
            record += f"{name},sha256={digest.rstrip('=')},{len(text)}\n"
        archive.writestr("tiny-1.0.dist-info/RECORD", f"{record}tiny-1.0.dist-info/RECORD,,\n")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (place / "requirements.lock").write_text(f"tiny==1.0 --hash=sha256:{digest}\n")
    return place


def test_the_tool_is_installed_from_the_checkout_by_the_hashes_of_the_lock(runner, checkout):
    """Locked packages are installed by hash, the tool is the checkout, and once a job is enough."""
    variables = {
        "GITHUB_ACTION_PATH": str(checkout),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(checkout.parent / "wheels"),
    }
    inputs = {"command": "doctor", "python": sys.executable}
    (checkout / ".github" / "action" / "run.py").write_text(
        "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-Im', 'provisioner']))"
    )
    lock = checkout / "requirements.lock"
    right = lock.read_text()
    lock.write_text(right.replace("sha256:", "sha256:0")[:-2])
    refused = runner.run(inputs, PUSH, {}, **variables)
    assert refused.code == 1
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in refused.printed
    assert refused.names == ["Install provision"]
    lock.write_text(right)
    ran = runner.run(inputs, PUSH, {}, **variables)
    assert ran.code == 0, ran.printed
    assert "runs with tiny" in ran.printed
    lock.write_text("not looked at again")
    again = runner.run(inputs, PUSH, {}, **variables)
    assert again.code == 0, again.printed


@pytest.mark.parametrize("extras", ["vault --index-url=x", "test"])
def test_extras_are_those_of_sinks(extras, runner):
    """What is no sink's extra never reaches pip."""
    ran = runner.run({"extras": extras, "python": sys.executable}, PUSH, {})
    assert ran.code == 1
    assert "`extras` has" in ran.printed


def test_what_is_needed_is_the_lock_and_the_extras(tmp_path, monkeypatch):
    """The lock comes first where there is one, what pyproject.toml needs where not, then extras."""
    script = module("install")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    offered = project["optional-dependencies"]
    assert set(offered) - {"test"} == script.EXTRAS
    monkeypatch.setattr(script, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(script, "SINKS_LOCK", tmp_path / "sinks")
    assert script.needed([]) == [project["dependencies"]]
    assert script.needed(["gitlab"]) == [project["dependencies"]]
    (tmp_path / "lock").touch()
    locked = ["--require-hashes", "-r", str(tmp_path / "lock")]
    assert script.needed(["aws", "vault"]) == [locked, [*offered["aws"], *offered["vault"]]]
    (tmp_path / "sinks").touch()
    assert script.needed(["vault"]) == [["--require-hashes", "-r", str(tmp_path / "sinks")]]
    assert script.needed([]) == [locked]


def test_an_old_python_is_told_what_to_do(monkeypatch, capsys):
    """A runner whose Python is too old says so, and how to get another."""
    monkeypatch.setattr(sys, "version_info", (3, 10))
    assert module("install").main() == 1
    assert "Python 3.10 is too old" in capsys.readouterr().out
