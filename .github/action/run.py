"""Runs one command of provision with the inputs of the action.

Outputs `command`, `exit-code`, `report` and `comment`. `report` is the file with the Markdown of a
plan, or of the reason why it failed; `comment` says whether it belongs on the pull request.
provision itself outputs `changes`, `digest` and `plan-file`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # -I leaves it out
import base_branch

COMMANDS = ("validate", "plan", "apply", "report", "doctor")
USAGE = 64


def main() -> int:
    """Run the command and return its exit code."""
    command = action_input("COMMAND")
    automatic = command == "auto"
    reason = None
    if automatic:
        command = command_for_event()
        if command == "plan" and (reason := reason_not_to_plan()) is not None:
            command = "validate"
        print(f"command: auto, which runs {command} here", flush=True)
    if command not in COMMANDS:
        *others, last = COMMANDS
        return fail(f"`command` is {command!r}. Use auto, {', '.join(others)} or {last}.")
    if command == "apply" and not action_input("DIGEST"):
        return fail(
            "`digest` is empty, because an earlier step did not output one. "
            "Use `none` to apply without a digest."
        )
    if action_input("PRUNE") not in ("true", "false", ""):
        return fail(f"`prune` is {action_input('PRUNE')!r}. Use true or false.")
    report = Path(tempfile.mkdtemp(dir=os.environ["RUNNER_TEMP"])) / "report.md"
    code = run_provision([command, *arguments(command, report, automatic=automatic)])
    outputs = {"command": command, "exit-code": code, "comment": "false"}
    if command == "plan":
        outputs["comment"] = "true"
    if reason is not None:
        report.write_text(base_branch.explanation(reason), encoding="utf-8")
        with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as summary:
            summary.write(report.read_text(encoding="utf-8"))
        print(f"::notice title=provision::Only validated, because {reason}.")
        outputs["comment"] = "true"
    if report.is_file():
        outputs["report"] = report
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in outputs.items())
    return code


_MAINTAINER_EVENTS = ("push", "workflow_dispatch", "repository_dispatch", "merge_group")
"""Events that only people with write access to the repository can cause."""

_PULL_REQUEST_EVENTS = ("pull_request", "pull_request_target")


def command_for_event() -> str:
    """Return the command of `auto`: apply on the default branch, else plan or validate.

    Only events that maintainers cause, and schedules, may apply: `pull_request_target` and
    `workflow_run` run on the default branch too. An event that anyone can cause, or that is not
    known here, is only validated, because the checked-out manifests may be a stranger's and may
    have programs as sinks.
    """
    name = os.environ.get("GITHUB_EVENT_NAME", "")
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    repository = event.get("repository") or {}
    default = repository.get("default_branch")
    if name == "schedule":
        return "apply"  # runs only on the default branch, which its event may not name
    if name in ("push", "workflow_dispatch"):
        on_default = os.environ.get("GITHUB_REF") == f"refs/heads/{default}"
        return "apply" if default and on_default else "plan"
    if name in _PULL_REQUEST_EVENTS:
        head = (event.get("pull_request", {}).get("head") or {}).get("repo") or {}
        fork = head.get("full_name") != os.environ.get("GITHUB_REPOSITORY")
        dependabot = os.environ.get("GITHUB_ACTOR") == "dependabot[bot]"
        return "validate" if fork or dependabot else "plan"
    return "plan" if name in _MAINTAINER_EVENTS else "validate"


def on_pull_request() -> bool:
    """Return whether a pull request caused the event, so its manifests may be unreviewed."""
    return os.environ.get("GITHUB_EVENT_NAME") in _PULL_REQUEST_EVENTS


def reason_not_to_plan() -> str | None:
    """Return why a pull request must not get credentials; None if it may, and outside of one."""
    if not on_pull_request():
        return None
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    manifests = Path.cwd() / (action_input("MANIFESTS") or "manifests")
    return base_branch.reason_not_to_plan(event, manifests)


def arguments(command: str, report: Path, *, automatic: bool) -> list[str]:
    """Return the command line after the command."""
    result = ["--manifests", action_input("MANIFESTS") or "manifests"]
    plan_file = action_input("PLAN_FILE")
    applies_file = command == "apply" and plan_file and not automatic
    if command != "validate" and not applies_file:
        for name in ("ENVIRONMENT", "ONLY"):
            for value in action_input(name).split():
                result += [f"--{name.lower()}", value]
    if command in ("plan", "apply"):
        result += ["--report", f"markdown={report}"]
        if action_input("PRUNE") == "true" and not applies_file:
            result.append("--prune")
    if automatic and command == "plan" and on_pull_request():
        result.append("--no-programs")  # the pull request may have changed these programs
    if command == "plan" and plan_file:
        result += ["--out", os.path.abspath(plan_file)]  # noqa: PTH100 - the file may not exist
    if command == "apply" and action_input("DIGEST") != "none":
        result += ["--digest", action_input("DIGEST")]
    if command == "report" and action_input("EXPIRING_WITHIN"):
        result += ["--expiring-within", action_input("EXPIRING_WITHIN")]
    result += filter(None, map(str.strip, action_input("ARGUMENTS").splitlines()))
    return [*result, "--", plan_file] if applies_file else result


def run_provision(words: list[str]) -> int:
    """Run provision, and forward the signals with which a runner stops a step."""
    running: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: object) -> None:
        for process in running:
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    # -I keeps Python from importing files of the checked-out repository.
    command = [sys.executable, "-I", "-m", "provisioner", *words]
    variables = {key: value for key, value in os.environ.items() if key != "INPUT_GITHUB_TOKEN"}
    with subprocess.Popen(command, env=variables) as process:
        running.append(process)
        code = process.wait()
    return code if code >= 0 else 128 - code


def action_input(name: str) -> str:
    """Return an input of the action, without surrounding spaces; empty if it is not set."""
    return os.environ.get(f"INPUT_{name}", "").strip()


def fail(message: str) -> int:
    """Print an error annotation and return the exit code for wrong usage."""
    print(f"::error title=provision::{message}")
    return USAGE


if __name__ == "__main__":
    sys.exit(main())
