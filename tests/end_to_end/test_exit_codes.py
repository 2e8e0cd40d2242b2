"""Exit codes of real processes: every command, with every code that it can exit with."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from builders import NOW, create, part_with, plan_with
from processes import Provision
from sandbox_control import Dialect, Sandbox

from provisioner.cli.group import COMMANDS, CommandGroup
from provisioner.model.shard import Shard
from provisioner.render.formats import render
from provisioner.render.report import ReportInput, ShardLabel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox_control import Request, Response

ROOT = Path(__file__).parents[2]
SIGNALS = {130: signal.SIGINT, 143: signal.SIGTERM}
OTHER_WORKSPACE = "20202020-1c25-4d02-bf25-6aeccf7ea419"


class Row(NamedTuple):
    """One exit code of one command, and the smallest real situation that causes it.

    Attributes:
        arguments: the command line; {good}, {none} … are manifests directories, {tmp} is empty.
        broken: a module whose import fails, as in a broken installation.
        signal_when: the event after which the process gets a signal: it `connects` to the
            hanging server, `prints` a line, or `creates` the key that takes long.
    """

    code: int
    arguments: str
    broken: str = ""
    signal_when: str = ""


SERVER_COMMANDS = {
    "plan": "plan",
    "apply": "apply",
    "list": "list",
    "export": "export",
    "report": "report",
    "doctor": "doctor",
    "rotate": "rotate svc-rotated --now",
    "revoke": "revoke svc-unwanted",
    "token": "token svc-kept --to {tmp}/token",
    "create": "create --body {body}",
}
"""The commands that send requests to servers, with valid arguments."""


def rows_of(arguments: str) -> tuple[Row, ...]:
    """Return the rows that every command with requests to servers has."""
    return (
        Row(0, f"{arguments} -m {{good}}"),
        Row(1, f"{arguments} -m {{good}}", broken="yaml"),
        Row(3, f"{arguments} -m {{none}}"),
        Row(4, f"{arguments} -m {{down}}"),
        Row(64, f"{arguments} -m {{good}} --nope"),
        *(Row(code, f"{arguments} -m {{hanging}}", signal_when="connects") for code in SIGNALS),
    )


TABLE = {
    "init": (
        Row(0, "init -m {tmp}/manifests"),
        Row(1, "init -m {tmp}/manifests", broken="provisioner.schemas"),
        Row(64, "init -m {good}"),
    ),
    "validate": (
        Row(0, "validate {good}"),
        Row(1, "validate {good}", broken="yaml"),
        Row(3, "validate {none}"),
        Row(64, "validate --format xml"),
    ),
    "schema": (
        Row(0, "schema plan"),
        Row(1, "schema plan", broken="provisioner.schemas"),
        Row(64, "schema nope"),
    ),
    "help": (
        Row(0, "help plan"),
        Row(1, "help plan", broken="provisioner.cli.commands.show_help"),
        Row(64, "help nope"),
    ),
    "explain": (
        Row(0, "explain plan_stale"),
        Row(1, "explain plan_stale", broken="provisioner.errors.explanations"),
        Row(64, "explain nope"),
    ),
    "completion": (
        Row(0, "completion bash"),
        Row(1, "completion bash", broken="click.shell_completion"),
        Row(64, "completion nope"),
    ),
    "sandbox": (
        Row(1, "sandbox --file {tmp}/new", broken="graphql"),
        Row(4, "sandbox legacy --file {state}"),
        Row(64, "sandbox --file {good}/environments.yaml/new"),
        *(Row(code, "sandbox --file {tmp}/new", signal_when="prints") for code in SIGNALS),
    ),
    "merge": (
        Row(0, "merge {whole}"),
        Row(1, "merge {whole}", broken="provisioner.render.shards"),
        Row(2, "merge {whole} --detailed-exitcode"),
        Row(4, "merge {half}"),
        Row(64, "merge {body}"),
    ),
    **{name: rows_of(arguments) for name, arguments in SERVER_COMMANDS.items()},
}
TABLE["plan"] += (Row(2, "plan -m {missing} --detailed-exitcode"),)
TABLE["report"] += (Row(2, "report -m {good} --expiring-within 36500d"),)
for name in SERVER_COMMANDS.keys() - {"doctor"}:  # it reports a guard like any other failure
    TABLE[name] += (Row(5, f"{SERVER_COMMANDS[name]} -m {{pinned}}"),)
OTHER_DIGEST = f"--digest sha256:{'0' * 64}"
TABLE["apply"] += (
    Row(6, "apply {body} -m {good}"),  # not a plan file
    Row(6, f"apply -m {{missing}} {OTHER_DIGEST}"),
    Row(64, "apply {tmp}/none -m {good}"),
)

PRECEDENCE = (
    # 4 before 2
    Row(4, "plan -m {missing_down} --detailed-exitcode"),
    Row(4, "report -m {missing_down} --expiring-within 36500d"),
    # 5 before 4 and 2
    Row(5, "plan -m {missing_down_pinned} --detailed-exitcode"),
    Row(5, "apply -m {missing_down_pinned}"),
    Row(5, "list -m {missing_down_pinned}"),
    # 6 before 5 and 4
    Row(6, f"apply -m {{missing_pinned}} {OTHER_DIGEST}"),
    Row(6, f"apply -m {{missing_down}} {OTHER_DIGEST}"),
    # 3 before 6, 5 and 4
    Row(3, "apply -m {invalid_down_pinned}"),
    Row(3, f"apply -m {{invalid_down_pinned}} {OTHER_DIGEST}"),
    # 130 and 143 before 6, 5, 4 and 2
    Row(130, "plan -m {missing_down_pinned_hanging} --detailed-exitcode", signal_when="connects"),
    Row(143, "apply -m {missing_down_pinned_hanging}", signal_when="connects"),
    Row(130, f"apply -m {{missing_down_pinned_hanging}} {OTHER_DIGEST}", signal_when="connects"),
    Row(143, "list -m {down_pinned_hanging}", signal_when="connects"),
    Row(130, "report -m {down_pinned_hanging} --expiring-within 36500d", signal_when="connects"),
    # 1 before all
    Row(1, "plan -m {bug_down_pinned} --detailed-exitcode", broken="graphql"),
    Row(1, "apply -m {bug_slow}", broken="graphql", signal_when="creates"),
)
"""Situations in which several codes apply: the first of 1, 130 or 143, 3, 6, 5, 4, 2, 0 is used."""

BREAK = """\
import os, sys
class Break:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ.get("BROKEN"):
            raise RuntimeError("a broken installation")
sys.meta_path.insert(0, Break())
"""


@dataclass
class World:
    """A server, a folder with manifests in every state, and two events of a slow create."""

    root: Path
    server: Sandbox
    create_started: threading.Event
    continue_create: threading.Event

    def manifests(self, state: str, hanging: str) -> Path:
        """Return a manifests directory with one environment for each part of the state."""
        folder = self.root / f"{state}-{hanging.rpartition(':')[2]}" / "manifests"
        if state == "none" or folder.is_dir():
            return folder
        folder.mkdir(parents=True)
        states = state.split("_")
        url = self.server.url
        urls = {"good": url, "missing": url, "pinned": url, "down": "http://127.0.0.1:9"}
        urls |= {"hanging": hanging, "bug": "sandbox:", "invalid": url, "slow": url}
        lines = ["version: 1", "environments:"]
        for name in states:
            pin = f", workspace: {OTHER_WORKSPACE}" if name == "pinned" else ""
            auth = "" if name == "bug" else ", auth: {session_token: '${TOKEN}'}"
            lines.append(
                f"  {name}: {{url: '{urls[name]}', role: Admin, owns: ['svc-*']{auth}{pin}}}"
            )
        (folder / "environments.yaml").write_text("\n".join(lines) + "\n")
        names = [
            "kept",
            "rotated",
            *(name for name in states if name in ("missing", "slow")),
        ]
        version = 2 if "invalid" in states else 1
        (folder / "keys.yaml").write_text(
            f"version: {version}\nenvironments: [{', '.join(states)}]\n"
            "defaults: {expires: 2031-01-01}\n"
            "keys:\n  - name: 'svc-{which}'\n"
            f"    matrix: {{which: [{', '.join(names)}]}}\n"
            "    deliver: [{file: 'secrets/{environment}-{name}'}]\n"
        )
        return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    (root / "sitecustomize.py").write_text(BREAK)
    with Sandbox(root / "core.sqlite3", Dialect.CORE):
        pass
    create_started, continue_create = threading.Event(), threading.Event()

    def delay_create(request: Request, answer: Callable[[Request], Response]) -> Response:
        if b"svc-slow" in request.body:
            create_started.set()
            continue_create.wait(60)
        return answer(request)

    with Sandbox(None, Dialect.CORE, around=delay_create) as server:
        server.seed(["svc-kept", "svc-rotated", "svc-unwanted"])
        body = {
            "name": "svc-bulk",
            "expiresAt": "2031-01-01T00:00:00Z",
            "roleId": server.role("Admin").id,
        }
        (root / "body.json").write_text(json.dumps(body))
        for name, shard in (("whole", Shard(1, 1)), ("half", Shard(1, 2))):
            label = ShardLabel(shard, {"shop": 0}, {})
            report = ReportInput(NOW, outcome=plan_with(part_with(create())), shard=label)
            (root / f"{name}.json").write_text(render(report, "json"))
        yield World(root, server, create_started, continue_create)


@pytest.fixture
def run_row(world: World, tmp_path: Path) -> Iterator[Callable[[Row], None]]:
    """Return a function that runs a row's process and checks its exit code."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(60)
        hanging = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def run(row: Row) -> tuple[int, str]:
            paths = {"tmp": tmp_path, "body": world.root / "body.json"}
            paths["state"] = world.root / "core.sqlite3"
            paths |= {name: world.root / f"{name}.json" for name in ("whole", "half")}
            for state in re.findall(r"{(\w+)}", row.arguments):
                if state not in paths:
                    paths[state] = world.manifests(state, hanging)
            arguments = row.arguments.format(**paths).split()
            # A broken module has to be broken from the start of Python.
            fresh_process = [sys.executable, "-m", "provisioner", *arguments]
            start = (
                partial(subprocess.Popen, fresh_process)
                if row.broken
                else partial(Provision, *arguments)
            )
            process = start(
                env={
                    **{one: os.environ[one] for one in os.environ if one.startswith("COVERAGE_")},
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(world.root),
                    "BROKEN": row.broken,
                    "TOKEN": world.server.session_token(),
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
            )
            with process:
                match row.signal_when:
                    case "connects":
                        stack.enter_context(listener.accept()[0])
                        process.send_signal(SIGNALS[row.code])
                    case "creates":
                        assert world.create_started.wait(60)
                        process.send_signal(signal.SIGTERM)
                        world.continue_create.set()
                    case "prints":
                        assert process.stdout is not None
                        assert process.stdout.readline()
                        process.send_signal(SIGNALS[row.code])
                out, err = process.communicate(timeout=60)
            assert ("This is a bug in provision" in err) == (row.code == 1), err
            assert row.code == 1 or "Traceback" not in out + err
            return process.returncode, out + err

        yield run


def row_id(row: Row) -> str:
    return f"{row.code}-{row.arguments}{'-bug' if row.broken else ''}"


@pytest.mark.parametrize("row", [row for rows in TABLE.values() for row in rows], ids=row_id)
def test_every_command_exits_with_each_of_its_codes(
    row: Row, run_row: Callable[[Row], tuple[int, str]]
) -> None:
    """The process exits with the documented code, and only code 1 asks for a bug report."""
    code, output = run_row(row)
    assert code == row.code, output


@pytest.mark.parametrize("row", PRECEDENCE, ids=row_id)
def test_if_several_codes_apply_the_most_serious_one_is_used(
    row: Row, run_row: Callable[[Row], tuple[int, str]]
) -> None:
    """The exit code shows the most serious of several errors."""
    code, output = run_row(row)
    assert code == row.code, output


def documented(page: str) -> set[int]:
    """Return the codes in a page's table of exit codes."""
    text = (ROOT / page).read_text("utf-8")
    table = text[text.index("## Exit codes") :].partition("\n## ")[0]
    cells = re.findall(r"^\| ([0-9, ]+) \|", table, re.MULTILINE)
    return {int(code) for cell in cells for code in cell.split(", ")}


def test_the_table_is_complete() -> None:
    """Every command has rows, and every option that adds an exit code has a row for it."""
    assert TABLE.keys() == COMMANDS.keys()
    covered = {name: {row.code for row in rows} for name, rows in TABLE.items()}
    assert set().union(*covered.values()) == documented("docs/errors.md") == documented("README.md")
    group = CommandGroup()
    for name in COMMANDS:
        command = group.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        options = {parameter.name for parameter in command.params}
        expected = {1, 64}
        if name != "sandbox":  # it serves until a signal
            expected |= {0}
        if "manifests" in options and name != "init":
            expected |= {3}
        if "environment" in options or "selection" in options:
            expected |= {4, 130, 143}
        if "max_revoke" in options:
            expected |= {5}
        if options & {"detailed_exitcode", "expiring_within"}:
            expected |= {2}
        assert expected <= covered[name], name
