"""The GitHub Action: its file, and its steps, run in a real bash as on a runner."""

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
OTHER_USER = {"login": "mallory", "type": "User"}
TOKEN = "ghs-token-of-this-very-test"
MANIFESTS = {
    "environments.yaml": "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin}\n",
    "keys.yaml": (
        "version: 1\nenvironment: dev\ndefaults: {expires: 90d}\nkeys: [{name: a}, {name: b}]\n"
    ),
}


# A fake GitHub API, after docs.github.com/rest/issues/comments


@dataclass
class GitHub:
    """The state of the fake: pull request 7 of acme/keys, its comments and its base branch."""

    comments: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    login: str | None = None
    address: str = ""
    base: dict[str, str] = field(default_factory=dict)

    def add(self, body: str, user: dict[str, str]) -> None:
        number = len(self.comments) + 1
        self.comments.append({"id": number, "body": body, "user": user, "html_url": f"#{number}"})

    def list_folder(self, folder: str) -> tuple[int, object]:
        """List a folder of the base branch, after docs.github.com/rest/repos/contents."""
        folder = folder.rstrip("/") + "/"
        names = {path.removeprefix(folder) for path in self.base if path.startswith(folder)}
        files = [name for name in names if "/" not in name]
        found = [
            {"name": name, "type": "file", "sha": blob(self.base[folder + name])} for name in files
        ]
        inner = {name.split("/")[0] for name in names if "/" in name}
        found += [{"name": name, "type": "dir", "sha": "0"} for name in inner]
        return (200, found) if found else (404, {"message": "Not Found"})

    @property
    def comment_requests(self) -> list[str]:
        """The requests about comments."""
        return [
            request
            for request in self.requests
            if "/contents/" not in request and "/blobs/" not in request
        ]

    def answer(  # noqa: PLR0911 - one for each answer
        self, method: str, path: str, headers: Any, body: bytes
    ) -> tuple[int, object]:
        self.requests.append(f"{method} {path}")
        if headers["Authorization"] != f"Bearer {TOKEN}":
            return 401, {"message": "Bad credentials"}
        if method in self.refuse:
            return self.refuse[method], {"message": "Resource not accessible by integration"}
        url = urlsplit(path)
        if url.path == "/user":
            return (200, {"login": self.login}) if self.login else (403, {"message": "no"})
        if method == "GET" and "/contents/" in url.path:
            assert parse_qs(url.query) == {"ref": ["main"]}
            return self.list_folder(url.path.removeprefix("/repos/acme/keys/contents/"))
        if method == "GET" and "/git/blobs/" in url.path:
            text = next(
                entry for entry in self.base.values() if blob(entry) == url.path.split("/")[-1]
            )
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
    """Return git's object name for a content."""
    command = ["git", "hash-object", "--stdin"]
    process = subprocess.run(command, input=text.encode(), capture_output=True, check=True)
    return process.stdout.decode().strip()


@pytest.fixture
def github() -> Iterator[GitHub]:
    state = GitHub(base={f"manifests/{name}": text for name, text in MANIFESTS.items()})

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            status, document = state.answer(self.command, self.path, self.headers, body)
            content = json.dumps(document).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/user")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = handle_any  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


# A fake runner


@dataclass
class ActionResult:
    """The result of the action: its outputs, its printed text, its summary and its exit code."""

    outputs: dict[str, str]
    printed: str
    summary: str
    code: int
    names: list[str]


@dataclass
class Runner:
    """A runner that runs the steps of action.yml as docs.github.com describes composite actions."""

    folder: Path
    api: str

    def environment(self, event: dict[str, Any], **variables: str) -> dict[str, str]:
        """Return the runner's default variables that matter here, and those of this machine."""
        (self.folder / "event.json").write_text(json.dumps(event))
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        (self.folder / "temp").mkdir(exist_ok=True)
        return {
            **own,
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_ACTOR": "octocat",
            "GITHUB_API_URL": self.api,
            "GITHUB_EVENT_NAME": "pull_request",
            "GITHUB_EVENT_PATH": str(self.folder / "event.json"),
            "GITHUB_REF": "refs/pull/7/merge",
            "GITHUB_REPOSITORY": "acme/keys",
            "GITHUB_RUN_ID": "42",
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_SHA": "f" * 40,
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"),
            "GITHUB_WORKSPACE": str(self.folder / "work"),
            "RUNNER_TEMP": str(self.folder / "temp"),
            **variables,
        }

    def run(
        self,
        inputs: dict[str, str],
        event: dict[str, Any],
        steps: dict[str, dict[str, str]] | None = None,
        **variables: str,
    ) -> ActionResult:
        """Run the steps, except those in `steps`, which maps their ids to given outputs."""
        values = {
            name: entry.get("default", "") for name, entry in ACTION["inputs"].items()
        } | inputs
        outputs = {"install": {"python": sys.executable}} if steps is None else steps
        environment = self.environment(event, **variables)
        printed, code, names = "", 0, []

        def value(expression: str) -> str:
            kind, _, rest = expression.partition(".")
            if expression == "github.token":
                return TOKEN
            if kind == "inputs":
                return value_in(values[rest])
            step, _, name = rest.removesuffix("").partition(".outputs.")
            assert kind == "steps", expression
            return outputs.get(step, {}).get(name, "")

        def value_in(text: str) -> str:
            return re.sub(r"\$\{\{ (.*?) \}\}", lambda found: value(found[1]), text)

        def is_due(step: dict[str, Any]) -> bool:
            if "if" not in step:
                return code == 0
            condition = re.fullmatch(r"\$\{\{ !cancelled\(\) && (.*) \}\}", step["if"])
            assert condition, step["if"]
            terms = [term.split(" == ") for term in condition[1].split(" && ")]
            return all(value(name) == expected.strip("'") for name, expected in terms)

        for step in STEPS:
            if step.get("id") in outputs or not is_due(step):
                continue
            names.append(step["name"])
            script, output = self.folder / "step.sh", self.folder / "output"
            script.write_text(step["run"])
            output.write_text("")
            process = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
                cwd=self.folder / "work" / value_in(step.get("working-directory", ".")),
                env=environment
                | {"GITHUB_OUTPUT": str(output)}
                | {name: value_in(text) for name, text in step["env"].items()},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=100,
                check=False,
            )
            printed += process.stdout
            code = code or process.returncode
            outputs.setdefault(step.get("id", ""), {}).update(parse_outputs(output.read_text()))
        summary = self.folder / "summary.md"
        return ActionResult(
            {name: value_in(entry["value"]) for name, entry in ACTION["outputs"].items()},
            printed,
            summary.read_text() if summary.exists() else "",
            code,
            names,
        )


def parse_outputs(text: str) -> dict[str, str]:
    """Parse GITHUB_OUTPUT: `name=value`, or `name<<end`, the value, and `end`."""
    found = {}
    lines = iter(text.splitlines())
    for line in lines:
        if re.fullmatch(r"[\w-]+<<.+", line):
            name, _, end = line.partition("<<")
            found[name] = "\n".join(itertools.takewhile(lambda entry, end=end: entry != end, lines))
        else:
            name, _, found[name] = line.partition("=")
    return found


@pytest.fixture
def runner(tmp_path: Path, github: GitHub) -> Runner:
    """Return a runner with a checkout of a repository for the embedded Twenty."""
    folder = tmp_path / "work" / "manifests"
    folder.mkdir(parents=True)
    for name, text in MANIFESTS.items():
        (folder / name).write_text(text)
    return Runner(tmp_path, github.address)


def pull_request(head: str = "acme/keys") -> dict[str, Any]:
    """Return the parts of a pull request event that the action reads."""
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
def comment(runner: Runner, tmp_path: Path) -> Callable[..., ActionResult]:
    """Return a function that runs only the comment step, with a given report."""

    def run_comment(report: str, code: str = "0", **inputs: str) -> ActionResult:
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

    return run_comment


# The file


def run_check(*command: str) -> None:
    """Run a check program from the virtual environment of these tests."""
    program = Path(sys.executable).with_name(command[0])
    process = subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert process.returncode == 0, process.stdout + process.stderr


def test_the_action_matches_the_published_schema():
    """action.yml is valid under the schema of actions that editors use."""
    run_check("check-jsonschema", "--builtin-schema", "vendor.github-actions", "action.yml")


def test_no_input_reaches_a_script_as_text():
    """No script contains an expression, so no input, branch or title can run as code."""
    for step in STEPS:
        assert "${{" not in step["run"]
        assert step["shell"] == "bash"
        assert step["run"].startswith("set -euo pipefail\n")
        assert "uses" not in step
    run_check("zizmor", "--offline", "--quiet", "action.yml")


def test_the_scripts_pass_shellcheck(tmp_path):
    """Shellcheck finds no problem in the scripts of the steps."""
    assert STEPS
    for number, step in enumerate(STEPS):
        script = tmp_path / f"{number}.sh"
        script.write_text(f"#!/bin/bash\n{step['run']}")
        run_check("shellcheck", str(script))


def test_every_input_and_output_is_used_and_described():
    """Every input and output has a description, and every input reaches a step."""
    used = "".join(text for step in STEPS for text in [*step["env"].values(), str(step)])
    for name, entry in ACTION["inputs"].items():
        assert entry["description"]
        assert f"inputs.{name} " in used, name
    for entry in ACTION["outputs"].values():
        assert entry["description"]


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
def test_auto_applies_only_on_the_default_branch(variables, event, command, script):
    """`auto` never applies on a pull request, and validates one without secrets."""
    assert script(event, **variables).command_for_event() == command


def module(name: str) -> Any:
    """Import a script of the action."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f".github/action/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that imports run.py with the variables of a runner."""

    def load_script(event: dict[str, Any], **variables: str) -> Any:
        for name, value in runner.environment(event, **variables).items():
            monkeypatch.setenv(name, value)
        return module("run")

    return load_script


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
    """Each input becomes the option of its name, as one argument whatever it contains."""
    arguments = script(PUSH, **SELECTED, **inputs).arguments(command, Path("R"), automatic=False)
    assert arguments == ["--manifests", "infra", *expected]


def test_a_plan_file_is_written_and_with_auto_not_applied(script, tmp_path, monkeypatch):
    """The plan file is written where later steps find it; `auto` applies without it."""
    monkeypatch.chdir(tmp_path)
    module = script(PUSH, INPUT_PLAN_FILE="plan.json", INPUT_PRUNE="true")
    planned = module.arguments("plan", Path("R"), automatic=True)
    assert planned[-2:] == ["--out", str(tmp_path / "plan.json")]
    applied = module.arguments("apply", Path("R"), automatic=True)
    assert "--prune" in applied
    assert "plan.json" not in " ".join(applied)


@pytest.mark.parametrize("inputs", [{"command": "rotate"}, {"prune": "yes"}])
def test_wrong_inputs_are_wrong_usage(inputs, runner):
    """An unsupported command or an invalid flag fails with 64."""
    ran = runner.run(inputs, pull_request())
    assert ran.code == 64
    assert "::error title=provision::" in ran.printed
    assert ran.names == ["Run provision"]


# Whole runs


def test_a_pull_request_gets_its_plan_as_one_comment(runner, github):
    """The plan is in the comment, the summary and the outputs; a second run updates the comment."""
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
    run_link = "[this run](https://github.com/acme/keys/actions/runs/42)"
    assert f"From {run_link} for commit aaaaaaaaaaaa" in first
    assert "dev" in ran.summary

    manifest = runner.folder / "work" / "manifests" / "keys.yaml"
    manifest.write_text(manifest.read_text().replace("{name: b}", "{name: b}, {name: third}"))
    second = runner.run({}, pull_request())
    assert second.code == 0, second.printed
    assert len(github.comments) == 1
    assert "third" in github.comments[0]["body"]
    assert "third" not in first


def test_the_default_branch_is_applied_and_then_unchanged(runner, github):
    """On main, keys are created without a comment, and the next plan has no changes."""
    ran = runner.run({}, PUSH, **ON_MAIN)
    assert ran.code == 0, ran.printed
    assert ran.outputs["command"] == "apply"
    assert github.requests == []
    planned = runner.run({"command": "plan"}, PUSH, **ON_MAIN)
    assert planned.outputs["changes"] == "false"
    assert "No pull request" in planned.printed
    assert github.requests == []


def test_apply_follows_the_plan_file_or_digest(runner):
    """`apply` carries out a plan file or a digest; if anything changed, it exits with 6."""
    planned = runner.run({"command": "plan", "plan-file": "p.json", "prune": "true"}, PUSH)
    assert planned.code == 0, planned.printed
    applying = {"command": "apply", "plan-file": planned.outputs["plan-file"], "prune": "true"}
    applied = runner.run(applying, PUSH, **ON_MAIN)
    assert applied.code == 0, applied.printed
    manifest = runner.folder / "work" / "manifests" / "keys.yaml"
    manifest.write_text(manifest.read_text().replace("{name: b}", "{name: other}"))
    stale = runner.run(applying, PUSH, **ON_MAIN)
    assert (stale.code, stale.outputs["exit-code"]) == (6, "6"), stale.printed
    by_digest = {"command": "apply", "prune": "true", "digest": planned.outputs["digest"]}
    assert runner.run(by_digest, PUSH, **ON_MAIN).code == 6
    second = runner.run({"command": "plan", "prune": "true"}, PUSH)
    by_digest["digest"] = second.outputs["digest"]
    assert runner.run(by_digest, PUSH, **ON_MAIN).code == 0


def test_a_plan_that_fails_is_commented_and_fails(runner, github):
    """A comment reports invalid manifests, and the step exits with provision's code."""
    (runner.folder / "work" / "manifests" / "keys.yaml").write_text("version: 2\n")
    ran = runner.run({}, pull_request())
    assert (ran.code, ran.outputs["exit-code"]) == (3, "3")
    assert "`provision plan` exited with code 3: invalid manifests" in github.comments[0]["body"]


def test_a_refused_comment_does_not_fail_the_plan(runner, github):
    """With a read-only token the step prints a warning, and the plan is unaffected."""
    github.refuse = {"POST": 403}
    ran = runner.run({}, pull_request())
    assert ran.code == 0, ran.printed
    assert "::warning title=provision::Cannot comment on the pull request" in ran.printed
    assert "pull-requests: write" in ran.printed
    assert ran.outputs["changes"] == "true"


def test_a_fork_is_validated_without_secrets_or_comment(runner, github):
    """The manifests of a fork are validated, and problems are annotated at their lines."""
    ran = runner.run({}, pull_request("mallory/keys"))
    assert (ran.code, ran.outputs["command"]) == (0, "validate"), ran.printed
    (runner.folder / "work" / "manifests" / "keys.yaml").write_text("version: 2\n")
    ran = runner.run({}, pull_request("mallory/keys"))
    assert ran.code == 3
    assert re.search(r"^::error .*file=manifests/keys\.yaml", ran.printed, re.MULTILINE)
    assert github.requests == []


def test_inputs_are_not_run_by_a_shell(runner, tmp_path):
    """Shell syntax in an input is never executed."""
    bad = "$(touch owned) `touch owned`; touch owned \"' #"
    texts = ("manifests", "environment", "only", "plan-file")
    ran = runner.run({"command": "plan"} | dict.fromkeys(texts, bad), pull_request())
    assert ran.names == ["Run provision", "Comment on the pull request"]
    assert runner.run({"command": "apply", "digest": bad, "arguments": bad}, PUSH).code != 0
    assert runner.run({"command": bad}, PUSH).code == 64
    assert not list(tmp_path.rglob("owned"))


def test_files_of_the_repository_are_not_imported_as_modules(runner, tmp_path):
    """No step imports a `click.py` or `json.py` of the checked-out repository."""
    for name in ("click", "json", "provisioner", "venv"):
        (tmp_path / "work" / f"{name}.py").write_text("open('owned', 'w').close()\n")
    assert runner.run({"command": "validate"}, pull_request()).code == 0
    assert not list(tmp_path.rglob("owned"))


def test_cancelling_reaches_provision(runner, tmp_path):
    """The runner's signal to the step's shell stops provision properly."""
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


def test_a_changed_url_is_validated_and_the_comment_says_how_to_approve(runner, github, listener):
    """No credential is sent; the comment and the summary say why, and the next plan replaces it."""
    file = runner.folder / "work" / "manifests" / "environments.yaml"
    file.write_text(ELSEWHERE.replace("PORT", str(listener.port)))
    ran = runner.run({}, pull_request(), TWENTY_TOKEN="credential-of-this-run")
    assert (ran.code, ran.outputs["command"]) == (0, "validate"), ran.printed
    assert listener.heard == []
    for text in (github.comments[0]["body"], ran.summary):
        assert "it changes `environments.yaml`" in text
        assert "To approve it, review these changes. Then start this workflow by hand" in text
    planned = runner.run({"command": "plan"}, pull_request(), TWENTY_TOKEN="credential-of-this-run")
    assert planned.code == 4
    assert any(b"credential-of-this-run" in entry for entry in listener.heard)
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
    """No changed program runs, also if a new name only changes a program's arguments."""
    work = runner.folder / "work"
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
    """With unchanged manifests `auto` plans, and git does not run the repository's monitor."""
    work = runner.folder / "work"
    bare = work / "secrets"
    for arguments in (["--quiet", str(work)], ["--quiet", "--bare", str(bare)]):
        subprocess.run(["git", "init", *arguments], check=True)
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
def test_manifests_are_compared_with_the_environments_that_the_run_reads(
    runner, github, tmp_path, by
):
    """The comparison uses the environments file of the run, not the one in the checkout."""
    protected = tmp_path / "protected.yaml"
    protected.write_text(MANIFESTS["environments.yaml"])
    work = runner.folder / "work"
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
    reasons = {
        "variable": "it changes the arguments of a `command` in `deliver`",
        "arguments": "without the file of `--environments`",
    }
    assert reasons[by] in github.comments[0]["body"]
    assert not (tmp_path / "owned").exists()


def test_an_equal_check_is_planned_and_not_run(runner, github, tmp_path):
    """An unchanged `check` is not run: the pull request may have changed the program itself."""
    work = runner.folder / "work"
    (work / "check").write_text(f"#!/bin/sh\nenv >> '{tmp_path / 'owned'}'\n")
    (work / "check").chmod(0o755)
    text = DELIVERED.replace("SINK", CHECK)
    github.base["manifests/keys.yaml"] = text
    (work / "manifests" / "keys.yaml").write_text(text)
    ran = runner.run({}, pull_request())
    assert (ran.outputs["command"], ran.code) == ("plan", 4), ran.printed
    assert "--no-programs" in github.comments[0]["body"]
    assert not (tmp_path / "owned").exists()


def test_a_new_key_with_an_existing_deliver_is_planned(runner, github):
    """A key with a known `deliver` is planned, also in a manifest in a new folder."""
    text = DELIVERED.replace("SINK", FILE)
    github.base["manifests/team/keys.yaml"] = text.replace("{name: a}, ", "")
    (runner.folder / "work" / "manifests" / "team").mkdir()
    for name, content in (("keys.yaml", "name: x"), ("team/keys.yaml", "name: b")):
        changed = DELIVERED.replace("SINK", "{file: x.env}" if "team" not in name else FILE)
        changed = changed.replace("name: b", content).replace("{name: a}, ", "")
        (runner.folder / "work" / "manifests" / name).write_text(changed)
    github.base["manifests/keys.yaml"] = DELIVERED.replace("SINK", "{file: x.env}")
    ran = runner.run({}, pull_request())
    assert (ran.outputs["command"], ran.code) == ("plan", 0), ran.printed


def test_a_base_that_is_unreadable_or_not_the_default_branch_is_validated(runner, github):
    """A pull request is only planned if its base is the default branch and can be read."""
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
    """Our comment is found among hundreds, and an unchanged comment is not sent again."""
    for number in range(250):
        github.add(f"comment {number}", OTHER_USER)
    comment("first")
    assert len(github.comments) == 251
    github.requests.clear()
    comment("second")
    assert len(github.comments) == 251
    assert [line.partition("?")[0] for line in github.requests] == [
        *["GET /repos/acme/keys/issues/7/comments"] * 3,
        "PATCH /repos/acme/keys/issues/comments/251",
    ]
    github.requests.clear()
    assert "is up to date" in comment("second").printed
    assert not [line for line in github.requests if not line.startswith("GET")]


def test_each_selection_has_a_comment_of_its_own(comment, github):
    """Jobs with other manifests, environments or globs do not overwrite each other's comment."""
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
    lines = [entry["body"].splitlines()[0] for entry in github.comments]
    assert lines == [
        "<!-- provision plan manifests=manifests -->",
        "<!-- provision plan manifests=manifests&environment=staging -->",
        "<!-- provision plan manifests=manifests&only=svc%2D%2A -->",
        "<!-- provision plan manifests=a%2D%2D%3E%3Cb -->",
    ]


def test_the_comment_of_another_user_is_never_overwritten(comment, github):
    """The plan is never written into a comment of another user that starts with our line."""
    first_line = "<!-- provision plan manifests=manifests -->"
    github.add(f"{first_line}\nnothing changes, merge it", OTHER_USER)
    comment("the plan")
    assert "the plan" not in github.comments[0]["body"]
    assert "the plan" in github.comments[1]["body"]
    github.comments[1]["user"] = {"login": "robot", "type": "User"}
    github.login = "robot"
    comment("the new plan")
    assert len(github.comments) == 2
    assert "the new plan" in github.comments[1]["body"]


def test_a_long_plan_is_cut_with_a_note(comment, github):
    """The comment stays below GitHub's limit, ends with a full line and says what is missing."""
    lines = [f"- {number} \N{KEY}" * 3 for number in range(9000)]
    comment("\n".join(lines))
    body = github.comments[0]["body"]
    assert 65_000 < len(body) <= 65_536
    note = re.search(r"\*\*Truncated\*\*: (\d+) of 9000 lines", body)
    assert note
    kept_lines = body.splitlines()[1 : 1 + 9000 - int(note[1])]
    assert kept_lines == lines[: len(kept_lines)]
    assert f"{lines[len(kept_lines)]}\n" not in body


@pytest.mark.parametrize(
    ("refuse", "expected"),
    [
        ({"GET": 403}, "pull-requests: write"),
        ({"GET": 404}, "pull-requests: write"),
        ({"GET": 302}, "302"),
        ({"POST": 422}, "422"),
        ({"GET": 500}, "500"),
    ],
)
def test_every_refusal_is_a_warning(refuse, expected, comment, github):
    """If GitHub refuses the comment, the step succeeds and prints the reason as a warning."""
    github.refuse = refuse
    ran = comment("plan")
    assert ran.code == 0
    assert expected in ran.printed
    assert "::warning title=provision::" in ran.printed
    assert TOKEN not in ran.printed
    assert not github.comments


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_an_invalid_answer_is_a_warning(answer, comment, runner, scripted):
    """An invalid answer, as from a proxy, does not fail the job."""
    server = scripted(*[answer] * 4)
    runner.api = server.url
    ran = comment("plan")
    assert (ran.code, "Traceback" in ran.printed) == (0, False)
    assert "::warning title=provision::" in ran.printed


def test_without_token_network_or_https_there_is_a_warning(comment, runner, github):
    """A missing token, an unreachable server and an address without https are warnings too."""
    assert "`github-token` is empty" in comment("plan", **{"github-token": ""}).printed
    assert "not accept" in comment("plan", **{"github-token": "other"}).printed
    runner.api = "http://github.example.com"
    assert "is not https" in comment("plan").printed
    runner.api = "http://127.0.0.1:9"
    ran = comment("plan")
    assert (ran.code, "GET failed" in ran.printed) == (0, True)
    assert github.comments == []


def test_comment_false_writes_no_comment(comment, github):
    """`comment: false` skips the step and sends no request."""
    assert comment("plan", comment="false").names == []
    assert github.requests == []


# The installation


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout of the action with a two-line tool and one locked package."""
    checkout = tmp_path / "checkout"
    (checkout / ".github" / "action").mkdir(parents=True)
    install = (ROOT / ".github" / "action" / "install.py").read_text()
    (checkout / ".github" / "action" / "install.py").write_text(install)
    (checkout / "pyproject.toml").write_text("[project]\ndependencies = ['never-asked-for']\n")
    (checkout / "provisioner.py").write_text("import tiny\nprint('runs with', tiny.NAME)\n")
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
    (checkout / "requirements.lock").write_text(f"tiny==1.0 --hash=sha256:{digest}\n")
    return checkout


def test_the_tool_is_installed_from_the_checkout_by_the_hashes_of_the_lock(runner, checkout):
    """Packages are installed by the hashes of the lock, once per job; the tool is the checkout."""
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
    lock.write_text("not read again")
    second = runner.run(inputs, PUSH, {}, **variables)
    assert second.code == 0, second.printed


@pytest.mark.parametrize("extras", ["vault --index-url=x", "test"])
def test_extras_are_those_of_sinks(extras, runner):
    """Only the extras of sinks reach pip."""
    ran = runner.run({"extras": extras, "python": sys.executable}, PUSH, {})
    assert ran.code == 1
    assert "`extras` has unknown names" in ran.printed


def test_the_needed_packages_are_the_lock_and_the_extras(tmp_path, monkeypatch):
    """Pip gets the lock, or the dependencies of pyproject.toml without one, then the extras."""
    script = module("install")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    offered = project["optional-dependencies"]
    assert set(offered) - {"test"} == script.EXTRAS
    monkeypatch.setattr(script, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(script, "SINKS_LOCK", tmp_path / "sinks")
    assert script.pip_arguments([]) == [project["dependencies"]]
    assert script.pip_arguments(["gitlab"]) == [project["dependencies"]]
    (tmp_path / "lock").touch()
    locked = ["--require-hashes", "-r", str(tmp_path / "lock")]
    assert script.pip_arguments(["aws", "github"]) == [
        locked,
        [*offered["aws"], *offered["github"]],
    ]
    (tmp_path / "sinks").touch()
    assert script.pip_arguments(["github"]) == [["--require-hashes", "-r", str(tmp_path / "sinks")]]
    assert script.pip_arguments([]) == [locked]


def test_the_error_for_an_old_python_says_what_to_do(monkeypatch, capsys):
    """On a runner with an old Python, the step names the version and fails."""
    monkeypatch.setattr(sys, "version_info", (3, 10))
    assert module("install").main() == 1
    assert "Python 3.10 is too old" in capsys.readouterr().out
