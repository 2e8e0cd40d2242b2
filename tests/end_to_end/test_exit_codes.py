"""Exit codes as seen from outside: every command, every code that it can give."""

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
from processes import Provision

from provisioner.cli.group import COMMANDS, CommandGroup
from provisioner.sandbox import Dialect, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provisioner.sandbox import Request, Response

ROOT = Path(__file__).parents[2]
SIGNALS = {130: signal.SIGINT, 143: signal.SIGTERM}
STRANGE = "20202020-1c25-4d02-bf25-6aeccf7ea419"


class Row(NamedTuple):
    """One code of one command, and the smallest real situation that gives it.

    Attributes:
        words: of the command line; {good}, {none} … are manifests directories, {tmp} is empty.
        broken: a module that fails to be imported, as one of a broken installation does.
        ready: what the process does before it gets a signal: `connects` to the hanging server,
            `prints` a line, or `creates` the key that takes long.
    """

    code: int
    words: str
    broken: str = ""
    ready: str = ""


AT_WORK = {
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
"""The commands that go to servers, in words that work."""


def rows_of(words: str) -> tuple[Row, ...]:
    """What every command that goes to servers has in common."""
    return (
        Row(0, f"{words} -m {{good}}"),
        Row(1, f"{words} -m {{good}}", broken="yaml"),
        Row(3, f"{words} -m {{none}}"),
        Row(4, f"{words} -m {{down}}"),
        Row(64, f"{words} -m {{good}} --nope"),
        *(Row(code, f"{words} -m {{hanging}}", ready="connects") for code in SIGNALS),
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
        Row(1, "explain plan_stale", broken="provisioner.cli.explanations"),
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
        *(Row(code, "sandbox --file {tmp}/new", ready="prints") for code in SIGNALS),
    ),
    **{name: rows_of(words) for name, words in AT_WORK.items()},
}
TABLE["plan"] += (Row(2, "plan -m {missing} --detailed-exitcode"),)
TABLE["report"] += (Row(2, "report -m {good} --expiring-within 36500d"),)
for name in AT_WORK.keys() - {"doctor"}:  # which tells of a guard as of any failure
    TABLE[name] += (Row(5, f"{AT_WORK[name]} -m {{pinned}}"),)
OTHER = f"--digest sha256:{'0' * 64}"
TABLE["apply"] += (
    Row(6, "apply {body} -m {good}"),  # which is no plan file
    Row(6, f"apply -m {{missing}} {OTHER}"),
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
    Row(6, f"apply -m {{missing_pinned}} {OTHER}"),
    Row(6, f"apply -m {{missing_down}} {OTHER}"),
    # 3 before 6, 5 and 4
    Row(3, "apply -m {invalid_down_pinned}"),
    Row(3, f"apply -m {{invalid_down_pinned}} {OTHER}"),
    # 130 and 143 before 6, 5, 4 and 2
    Row(130, "plan -m {missing_down_pinned_hanging} --detailed-exitcode", ready="connects"),
    Row(143, "apply -m {missing_down_pinned_hanging}", ready="connects"),
    Row(130, f"apply -m {{missing_down_pinned_hanging}} {OTHER}", ready="connects"),
    Row(143, "list -m {down_pinned_hanging}", ready="connects"),
    Row(130, "report -m {down_pinned_hanging} --expiring-within 36500d", ready="connects"),
    # 1 before all
    Row(1, "plan -m {bug_down_pinned} --detailed-exitcode", broken="graphql"),
    Row(1, "apply -m {bug_slow}", broken="graphql", ready="creates"),
)
"""Situations in which several codes hold: the first of 1, 130 or 143, 3, 6, 5, 4, 2, 0 is given."""

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
    """A server, manifests in every state, and what processes need to use them."""

    root: Path
    server: Sandbox
    creates: threading.Event
    goes_on: threading.Event

    def manifests(self, state: str, hanging: str) -> Path:
        """A directory whose environments are those that the state names, each in its trouble."""
        folder = self.root / f"{state}-{hanging.rpartition(':')[2]}" / "manifests"
        if state == "none" or folder.is_dir():
            return folder
        folder.mkdir(parents=True)
        trouble = state.split("_")
        url = self.server.url
        urls = {"good": url, "missing": url, "pinned": url, "down": "http://127.0.0.1:9"}
        urls |= {"hanging": hanging, "bug": "sandbox:", "invalid": url, "slow": url}
        lines = ["version: 1", "environments:"]
        for one in trouble:
            pin = f", workspace: {STRANGE}" if one == "pinned" else ""
            auth = "" if one == "bug" else ", auth: {session_token: '${TOKEN}'}"
            lines.append(
                f"  {one}: {{url: '{urls[one]}', role: Admin, owns: ['svc-*']{auth}{pin}}}"
            )
        (folder / "environments.yaml").write_text("\n".join(lines) + "\n")
        names = ["kept", "rotated", *(one for one in trouble if one in ("missing", "slow"))]
        version = 2 if "invalid" in trouble else 1
        (folder / "keys.yaml").write_text(
            f"version: {version}\nenvironments: [{', '.join(trouble)}]\n"
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
    creates, goes_on = threading.Event(), threading.Event()

    def slowly(request: Request, inner: Callable[[Request], Response]) -> Response:
        if b"svc-slow" in request.body:
            creates.set()
            goes_on.wait(60)
        return inner(request)

    with Sandbox(None, Dialect.CORE, around=slowly) as server:
        server.seed(["svc-kept", "svc-rotated", "svc-unwanted"])
        body = {
            "name": "svc-bulk",
            "expiresAt": "2031-01-01T00:00:00Z",
            "roleId": server.role("Admin").id,
        }
        (root / "body.json").write_text(json.dumps(body))
        yield World(root, server, creates, goes_on)


@pytest.fixture
def proven(world: World, tmp_path: Path) -> Iterator[Callable[[Row], None]]:
    """Runs a row's process and looks at its exit code."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(60)
        hanging = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def run(row: Row) -> None:
            paths = {"tmp": tmp_path, "body": world.root / "body.json"}
            paths["state"] = world.root / "core.sqlite3"
            for state in re.findall(r"{(\w+)}", row.words):
                if state not in paths:
                    paths[state] = world.manifests(state, hanging)
            words = row.words.format(**paths).split()
            # What is broken on purpose is so from Python's own start on.
            anew = [sys.executable, "-m", "provisioner", *words]
            start = partial(subprocess.Popen, anew) if row.broken else partial(Provision, *words)
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
                match row.ready:
                    case "connects":
                        stack.enter_context(listener.accept()[0])
                        process.send_signal(SIGNALS[row.code])
                    case "creates":
                        assert world.creates.wait(60)
                        process.send_signal(signal.SIGTERM)
                        world.goes_on.set()
                    case "prints":
                        assert process.stdout is not None
                        assert process.stdout.readline()
                        process.send_signal(SIGNALS[row.code])
                out, err = process.communicate(timeout=60)
            assert ("This is a bug in provision" in err) == (row.code == 1), err
            assert row.code == 1 or "Traceback" not in out + err
            assert row.code == process.returncode, out + err

        yield run


def named(row: Row) -> str:
    return f"{row.code}-{row.words}{'-bug' if row.broken else ''}"


@pytest.mark.parametrize("row", [row for rows in TABLE.values() for row in rows], ids=named)
def test_every_command_gives_each_of_its_codes(row: Row, proven: Callable[[Row], None]) -> None:
    """What is documented is what the process ends with, and 1 alone asks for a report."""
    proven(row)


@pytest.mark.parametrize("row", PRECEDENCE, ids=named)
def test_where_several_codes_hold_the_gravest_is_given(
    row: Row, proven: Callable[[Row], None]
) -> None:
    """A pipeline that looks at one number sees the worst of what happened."""
    proven(row)


def documented(page: str) -> set[int]:
    """The codes of a page's table of exit codes."""
    text = (ROOT / page).read_text("utf-8")
    table = text[text.index("## Exit codes") :].partition("\n## ")[0]
    cells = re.findall(r"^\| ([0-9, ]+) \|", table, re.MULTILINE)
    return {int(code) for cell in cells for code in cell.split(", ")}


def test_the_table_is_whole() -> None:
    """A command without rows, or with an option whose code has none, does not go unnoticed."""
    assert TABLE.keys() == COMMANDS.keys()
    given = {name: {row.code for row in rows} for name, rows in TABLE.items()}
    assert set().union(*given.values()) == documented("docs/errors.md") == documented("README.md")
    group = CommandGroup()
    for name in COMMANDS:
        command = group.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        options = {parameter.name for parameter in command.params}
        wanted = {1, 64}
        if name != "sandbox":  # it serves until a signal
            wanted |= {0}
        if "manifests" in options and name != "init":
            wanted |= {3}
        if "environment" in options or "selection" in options:
            wanted |= {4, 130, 143}
        if "max_revoke" in options:
            wanted |= {5}
        if options & {"detailed_exitcode", "expiring_within"}:
            wanted |= {2}
        assert wanted <= given[name], name
