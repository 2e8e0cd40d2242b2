"""Runs that make keys and deliver their tokens, killed at every step, and then run again.

The steps are the requests of the run, before and after the server's commit, what a file sink asks
of the system, and the programs of a command sink, which kill the run themselves.

`KILLS=all` kills at every request, where before every third and after every fourth one is the rule:
what a server has done after one request it has also done before the next.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from delivering import (
    CHECK,
    STORE,
    Command,
    DotenvFile,
    Github,
    Project,
    Ran,
    deliver_nothing_else,
    is_write,
    shop,
)
from laboratory import Laboratory

from provisioner.cli import main
from provisioner.sandbox import Dialect

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

DIALECTS = pytest.mark.parametrize("dialect", Dialect)
NAMES = [f"svc-{number}" for number in range(6)]
MOST_REQUESTS = 60


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def run(project: Project, monkeypatch, capsys) -> Callable[..., Ran]:
    """Runs a command in this process."""

    def run_(command: str, *arguments: str) -> Ran:
        with monkeypatch.context() as patch:
            for name, value in project.environ.items():
                patch.setenv(name, value)
            capsys.readouterr()
            code = main([command, "-m", str(project.manifests), *arguments])
        return Ran(code, *capsys.readouterr())

    return run_


def open_shop(project: Project, laboratory: Laboratory, *sinks: DotenvFile | Command) -> None:
    """Six keys, whose tokens go to all of these sinks."""
    deliver = [one.item for one in sinks]
    project.write(shop(laboratory.sandbox), {"shop": [(name, deliver) for name in NAMES]})
    project.environ["TOKEN"] = laboratory.sandbox.session_token()


def converges(
    laboratory: Laboratory, run: Callable[..., Ran], *sinks: DotenvFile | Command
) -> None:
    """The next run makes it whole, and the one after it has nothing to do."""
    laboratory.heal()
    laboratory.quiet()
    ran = run("apply")
    assert ran.code == 0, ran
    for sink in sinks:
        deliver_nothing_else(laboratory.sandbox, {name: sink.held(name) for name in NAMES})
    so_far = len(laboratory.journal)
    assert run("plan", "--detailed-exitcode").code == 0
    assert run("apply").code == 0
    assert not any(map(is_write, laboratory.journal[so_far:]))


def orphans_end(root: Path) -> None:
    """Waits for programs of a killed run: they outlive it, and store what they were given of it."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(folder.name)
            about = os.fsencode((folder / "cwd").readlink()) + (folder / "cmdline").read_bytes()
            if pid == os.getpid() or os.fsencode(root) not in about:
                continue
            descriptor = os.pidfd_open(pid)
        except OSError:  # it has ended
            continue
        try:
            assert select.select([descriptor], [], [], 30)[0], about
        finally:
            os.close(descriptor)


# At each of its requests


@pytest.mark.parametrize("when", ["before", "after"])
@DIALECTS
def test_a_run_killed_at_any_request_is_finished_by_the_next_one(
    dialect: Dialect, when: Literal["before", "after"], project: Project, run
) -> None:
    """Wherever it dies, before or after a commit, the next run leaves one key and its token."""
    sink = DotenvFile(project.root)
    deaths = 0
    with Laboratory(dialect) as laboratory:
        every = 1 if os.environ.get("KILLS") == "all" else 3 if when == "before" else 4
        for number in range(0, MOST_REQUESTS, every):
            laboratory.reset()
            sink.clear()
            open_shop(project, laboratory, sink)
            dying: list[subprocess.Popen[str]] = []
            laboratory.kill_at(number, when, lambda: dying[0].kill())  # noqa: B023, PLW0108 - of this turn
            dying.append(project.start("apply"))
            out, err = dying[0].communicate(timeout=60)
            if dying[0].returncode == 0:
                break
            assert dying[0].returncode == -signal.SIGKILL, (number, out, err)
            deaths += 1
            converges(laboratory, run, sink)
    # Two for each delivery, and what making the keys takes.
    assert 2 * len(NAMES) + 3 <= every * deaths < MOST_REQUESTS


# In the sinks


AT_STEP = """
import os, sys
folder, last, done = os.path.realpath(sys.argv.pop()), int(sys.argv.pop()), 0
pid = os.getpid()
import provisioner.sinks.file
def step(event, arguments):
    global done
    if event not in {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}:
        return
    paths = [one for one in arguments if isinstance(one, (str, os.PathLike))]
    if any(os.path.realpath(one).startswith(folder) for one in paths):
        done += 1
        if done == last:
            os.kill(pid, 9)
sys.addaudithook(step)
from provisioner.cli import main
code = main()
print(done)
sys.exit(code)
"""
"""Kills itself before the n-th thing that it asks the system to do below a folder."""


@pytest.mark.parametrize("third", range(3))
def test_a_run_killed_at_any_step_of_a_file_is_finished_by_the_next_one(
    third: int, project: Project, run
) -> None:
    """The file is whole at any moment, and no secret is left beside it after the next run."""
    sink = DotenvFile(project.root)
    with Laboratory(list(Dialect)[third]) as laboratory:
        open_shop(project, laboratory, sink)
        folder = str(sink.file.parent)
        undisturbed = project.run("apply", "0", folder, script=AT_STEP)
        assert undisturbed.code == 0, undisturbed
        steps = int(undisturbed.out.split()[-1])
        # Of each write the folder, the file aside, its move; the looks before count too.
        assert steps > 5 * len(NAMES)
        for step in range(1 + third, steps - 2, 7):
            laboratory.reset()
            sink.file.write_text("NEIGHBOUR=stays\n")
            open_shop(project, laboratory, sink)
            killed = project.run("apply", str(step), folder, script=AT_STEP)
            assert killed.code == -signal.SIGKILL, (step, killed)
            assert sink.held("neighbour") == "stays", step
            for token in map(sink.held, NAMES):
                assert token is None or token.count(".") == 2, step
            converges(laboratory, run, sink)
            left = [one for one in sink.file.parent.rglob("*") if one.is_file()]
            assert [one for one in left if b"eyJ" in one.read_bytes()] == [sink.file], step


def fatal(script: str, name: str, moment: str) -> str:
    """A script of a command sink that kills the run once, when it is about one key."""
    kill = f'[ "${{0##*/}}" != {name} ] || [ -e fell ] || {{ : > fell; kill -9 $PPID; }}'
    parts = (kill, script) if moment == "before" else (script, kill)
    return "\n".join(parts)


POINTS = [
    (moment, name, list(Dialect)[(turn + number) % 3])
    for turn, moment in enumerate(("before", "after", "check"))
    for number, name in enumerate(NAMES)
]


@pytest.mark.parametrize(("moment", "name", "dialect"), POINTS)
def test_a_run_killed_by_its_own_sink_is_finished_by_the_next_one(
    moment: str, name: str, dialect: Dialect, project: Project, run
) -> None:
    """Before a token is stored, after it, and when it is read back."""
    store, check = STORE, CHECK
    if moment == "check":
        check = fatal(check, name, "before")
    else:
        store = fatal(store, name, moment)
    sink = Command(project.root, store, check)
    with Laboratory(dialect) as laboratory:
        open_shop(project, laboratory, sink)
        killed = project.run("apply")
        assert killed.code == -signal.SIGKILL, killed
        orphans_end(project.root)
        assert (project.root / "fell").exists()
        converges(laboratory, run, sink)


@pytest.mark.parametrize("moment", ["before", "after"])
@DIALECTS
def test_where_nobody_can_tell_what_a_killed_run_delivered_the_plan_says_so(
    dialect: Dialect, moment: str, project: Project, run
) -> None:
    """Without a check the keys are `delivery_unknown`, and `--redeliver` repairs them."""
    sink = Command(project.root, fatal(STORE, "svc-2", moment), check="")
    with Laboratory(dialect) as laboratory:
        open_shop(project, laboratory, sink)
        assert project.run("apply").code == -signal.SIGKILL
        orphans_end(project.root)
        made = laboratory.sandbox.keys()
        assert sorted(key.name for key in made) == NAMES
        planned = run("plan", "--detailed-exitcode", "--format", "json")
        assert planned.code == 0
        found = planned.environment["findings"]
        assert {one["name"]: one["finding"] for one in found} == dict.fromkeys(
            NAMES, "delivery_unknown"
        )
        assert run("apply", "--redeliver").code == 0
        assert laboratory.sandbox.keys() == made
        deliver_nothing_else(laboratory.sandbox, {name: sink.held(name) for name in NAMES})


@DIALECTS
def test_a_secret_older_than_its_key_is_written_by_the_run_after_a_killed_one(
    dialect: Dialect, project: Project, run
) -> None:
    """GitHub shows no value: tokens of former keys are told by their time, none by its absence."""
    with ExitStack() as stack, Laboratory(dialect) as laboratory:
        github = Github(stack)
        project.environ |= github.environ
        open_shop(project, laboratory, github)
        for name in NAMES[:3]:
            github.put(name, "the token of a former key")
            github.kept[name.upper().replace("-", "_")].updated_at = datetime(
                2026, 1, 1, tzinfo=UTC
            )
        dying: list[subprocess.Popen[str]] = []
        inner = github.server.answer
        puts = []

        def answer(asked):
            puts.append(asked.method == "PUT")
            if sum(puts) == 3 and puts[-1] and dying:
                dying.pop().kill()
            return inner(asked)

        github.server.answer = answer
        process = project.start("apply")
        dying.append(process)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert any(github.held(name) is None for name in NAMES[3:]) or any(
            github.held(name) == "the token of a former key" for name in NAMES[:3]
        )
        planned = run("plan", "--format", "json")
        assert planned.actions
        assert set(planned.actions.values()) <= {
            ("deliver", "token_outdated"),
            ("deliver", "token_missing"),
        }
        converges(laboratory, run, github)
