"""Runs one command of provision as the inputs of the action say.

Outputs `command`, `exit-code`, `report`, the Markdown of a plan or why there is none, and
`comment`, whether that is for the pull request; provision itself outputs `changes`, `digest` and
`plan-file`.
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
    """Runs the command; the exit code is its own."""
    command = asked("COMMAND")
    automatic = command == "auto"
    why = None
    if automatic:
        command = fitting_the_event()
        if command == "plan" and (why := why_not_planned()) is not None:
            command = "validate"
        print(f"command: auto, here {command}", flush=True)
    if command not in COMMANDS:
        return wrong(f"`command` is {command!r}, and one of auto, {', '.join(COMMANDS)} is meant.")
    if command == "apply" and not asked("DIGEST"):
        return wrong(
            "`digest` is empty: a step that should have given one did not. `none` asks none."
        )
    if asked("PRUNE") not in ("true", "false", ""):
        return wrong("`prune` is true or false.")
    report = Path(tempfile.mkdtemp(dir=os.environ["RUNNER_TEMP"])) / "report.md"
    code = carry_out([command, *arguments(command, report, automatic=automatic)])
    outputs = {"command": command, "exit-code": code, "comment": "false"}
    if command == "plan":
        outputs["comment"] = "true"
    if why is not None:
        report.write_text(base_branch.explanation(why), encoding="utf-8")
        with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as summary:
            summary.write(report.read_text(encoding="utf-8"))
        print(f"::notice title=provision::Only validated, because {why}.")
        outputs["comment"] = "true"
    if report.is_file():
        outputs["report"] = report
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in outputs.items())
    return code


_OF_MAINTAINERS = ("push", "workflow_dispatch", "repository_dispatch", "merge_group")
"""Events that nobody but who may write to the repository brings about."""

_OF_PULL_REQUESTS = ("pull_request", "pull_request_target")


def fitting_the_event() -> str:
    """What `auto` means: apply what is on the default branch, plan what maintainers bring about.

    Only events that nobody but a maintainer brings about apply: `pull_request_target` and
    `workflow_run` stand on the default branch too. What a stranger can bring about, and what is
    not known here, is not even planned: the manifests that were checked out may be theirs, and
    have programs as sinks.
    """
    name = os.environ.get("GITHUB_EVENT_NAME", "")
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    repository = event.get("repository") or {}
    default = repository.get("default_branch")
    if name == "schedule":
        return "apply"  # runs on the default branch alone, and its event may not name it
    if name in ("push", "workflow_dispatch"):
        here = os.environ.get("GITHUB_REF") == f"refs/heads/{default}"
        return "apply" if default and here else "plan"
    if name in _OF_PULL_REQUESTS:
        head = (event.get("pull_request", {}).get("head") or {}).get("repo") or {}
        fork = head.get("full_name") != os.environ.get("GITHUB_REPOSITORY")
        dependabot = os.environ.get("GITHUB_ACTOR") == "dependabot[bot]"
        return "validate" if fork or dependabot else "plan"
    return "plan" if name in _OF_MAINTAINERS else "validate"


def of_pull_request() -> bool:
    """Whether the event is about a pull request, whose manifests nobody may have reviewed."""
    return os.environ.get("GITHUB_EVENT_NAME") in _OF_PULL_REQUESTS


def why_not_planned() -> str | None:
    """Why a pull request is not planned with credentials; None where it is, or there is none."""
    if not of_pull_request():
        return None
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    return base_branch.why_not_planned(event, Path.cwd() / (asked("MANIFESTS") or "manifests"))


def arguments(command: str, report: Path, *, automatic: bool) -> list[str]:
    """The command line after the command."""
    made = ["--manifests", asked("MANIFESTS") or "manifests"]
    plan_file = asked("PLAN_FILE")
    applied = command == "apply" and plan_file and not automatic
    if command != "validate" and not applied:
        for name in ("ENVIRONMENT", "ONLY"):
            for value in asked(name).split():
                made += [f"--{name.lower()}", value]
    if command in ("plan", "apply"):
        made += ["--report", f"markdown={report}"]
        if asked("PRUNE") == "true" and not applied:
            made.append("--prune")
    if automatic and command == "plan" and of_pull_request():
        made.append("--no-programs")  # the pull request may have changed the programs themselves
    if command == "plan" and plan_file:
        made += ["--out", os.path.abspath(plan_file)]  # noqa: PTH100 - may not be there yet
    if command == "apply" and asked("DIGEST") != "none":
        made += ["--digest", asked("DIGEST")]
    if command == "report" and asked("EXPIRING_WITHIN"):
        made += ["--expiring-within", asked("EXPIRING_WITHIN")]
    made += filter(None, map(str.strip, asked("ARGUMENTS").splitlines()))
    return [*made, "--", plan_file] if applied else made


def carry_out(words: list[str]) -> int:
    """Runs provision, and passes on the signals by which a runner ends a step."""
    running: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        for process in running:
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    # -I: no file of the repository that is checked out here is taken for a module.
    ours = {name: value for name, value in os.environ.items() if name != "INPUT_GITHUB_TOKEN"}
    command = [sys.executable, "-I", "-m", "provisioner", *words]
    with subprocess.Popen(command, env=ours) as process:
        running.append(process)
        code = process.wait()
    return code if code >= 0 else 128 - code


def asked(name: str) -> str:
    """An input of the action."""
    return os.environ.get(f"INPUT_{name}", "").strip()


def wrong(message: str) -> int:
    """Wrong usage of the action."""
    print(f"::error title=provision::{message}")
    return USAGE


if __name__ == "__main__":
    sys.exit(main())
