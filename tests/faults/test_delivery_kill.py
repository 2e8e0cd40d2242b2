"""Runs that create keys and deliver tokens, killed at every step and then repeated.

The steps are the requests of the run, before and after the server's commit, the system calls of a
file sink, the writes of vendors, and the programs of a command sink and sops, which kill the run
themselves.

`KILLS=all` kills at every request. The default is before every third and after every fourth one:
the server's state after one request is the same as before the next.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from delivering import (
    CHECK,
    STORE,
    Command,
    Completed,
    DotenvFile,
    Github,
    N8n,
    Project,
    SinkFixture,
    Sops,
    assert_one_token_per_key,
    is_write,
    shop,
    sink_fixture,
)
from laboratory import Laboratory
from sandbox_control import Dialect

from provisioner.cli import main

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable

DIALECTS = pytest.mark.parametrize("dialect", Dialect)
NAMES = [f"svc-{number}" for number in range(6)]
PAIR = NAMES[:2]
MOST_REQUESTS = 60


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def run(project: Project, monkeypatch, capsys) -> Callable[..., Completed]:
    """Return a function that runs a command in this process."""

    def run_command(command: str, *arguments: str) -> Completed:
        with monkeypatch.context() as patch:
            for name, value in project.environ.items():
                patch.setenv(name, value)
            capsys.readouterr()
            code = main([command, "-m", str(project.manifests), *arguments])
        return Completed(code, *capsys.readouterr())

    return run_command


def open_shop(
    project: Project, laboratory: Laboratory, *sinks: SinkFixture, names: Iterable[str] = NAMES
) -> None:
    """Declare keys, whose tokens go to all of these sinks."""
    deliver = [entry.item for entry in sinks]
    project.write(shop(laboratory.sandbox), {"shop": [(name, deliver) for name in names]})
    project.environ["TOKEN"] = laboratory.sandbox.session_token()


def assert_converges(
    laboratory: Laboratory,
    run: Callable[..., Completed],
    *sinks: SinkFixture,
    names: Iterable[str] = NAMES,
) -> None:
    """Assert that the next run completes everything, and the one after it has nothing to do."""
    laboratory.heal()
    laboratory.wait_until_idle()
    ran = run("apply")
    assert ran.code == 0, ran
    for sink in sinks:
        assert_one_token_per_key(laboratory.sandbox, {name: sink.stored(name) for name in names})
    journal_length = len(laboratory.journal)
    assert run("plan", "--detailed-exitcode").code == 0
    assert run("apply").code == 0
    assert not any(map(is_write, laboratory.journal[journal_length:]))


def wait_for_orphans(root: Path) -> None:
    """Wait for the programs of a killed run, which outlive it and store what they received."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(folder.name)
            description = (
                os.fsencode((folder / "cwd").readlink()) + (folder / "cmdline").read_bytes()
            )
            if pid == os.getpid() or os.fsencode(root) not in description:
                continue
            descriptor = os.pidfd_open(pid)
        except OSError:  # the process has ended
            continue
        try:
            assert select.select([descriptor], [], [], 30)[0], description
        finally:
            os.close(descriptor)


# At each of its requests


@pytest.mark.parametrize("when", ["before", "after"])
@DIALECTS
def test_a_run_killed_at_any_request_is_finished_by_the_next_one(
    dialect: Dialect, when: Literal["before", "after"], project: Project, run
) -> None:
    """Wherever a run is killed, the next run leaves one key of each name and its token."""
    sink = DotenvFile(project.root)
    kills = 0
    with Laboratory(dialect) as laboratory:
        every = 1 if os.environ.get("KILLS") == "all" else 3 if when == "before" else 4
        for number in range(0, MOST_REQUESTS, every):
            laboratory.reset()
            sink.clear()
            open_shop(project, laboratory, sink)
            started: Future[subprocess.Popen[str]] = Future()
            laboratory.kill_at(number, when, lambda: started.result(30).kill())  # noqa: B023 - of this turn
            process = project.start("apply")
            started.set_result(process)
            out, err = process.communicate(timeout=60)
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, (number, out, err)
            kills += 1
            assert_converges(laboratory, run, sink)
    # A proof of each token, one mint or one of each token, and those for creating the keys.
    mints = 1 if dialect in (Dialect.LEGACY, Dialect.CORE_1) else len(NAMES)
    assert mints + len(NAMES) + 3 <= every * kills < MOST_REQUESTS


# In the sinks


KILL_AT_STEP = """
import os, sys
folder, last, done = os.path.realpath(sys.argv.pop()), int(sys.argv.pop()), 0
pid = os.getpid()
import provisioner.sinks.file
from provisioner.sinks import group_commit
group_commit.MAX_TOKENS = 2
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
"""A script that kills itself before its n-th system call on a path below a folder.

Tokens are written in pairs, so that a kill may come between two groups.
"""


@pytest.mark.parametrize("dialect_index", range(len(Dialect)))
def test_a_run_killed_at_any_step_of_a_file_is_finished_by_the_next_one(
    dialect_index: int, project: Project, run
) -> None:
    """The file is always complete, and after the next run no other file has a secret."""
    sink = DotenvFile(project.root)
    with Laboratory(list(Dialect)[dialect_index]) as laboratory:
        open_shop(project, laboratory, sink)
        folder = str(sink.file.parent)
        undisturbed = project.run("apply", "0", folder, script=KILL_AT_STEP)
        assert undisturbed.code == 0, undisturbed
        steps = int(undisturbed.out.split()[-1])
        # Each write needs the folder, the temporary file and its move; reads count too.
        assert steps > 5 * len(NAMES) / 2
        for step in range(1 + dialect_index, steps - 2, 4):
            laboratory.reset()
            sink.file.write_text("NEIGHBOUR=stays\n")
            open_shop(project, laboratory, sink)
            killed = project.run("apply", str(step), folder, script=KILL_AT_STEP)
            assert killed.code == -signal.SIGKILL, (step, killed)
            assert sink.stored("neighbour") == "stays", step
            for token in map(sink.stored, NAMES):
                assert token is None or token.count(".") == 2, step
            assert_converges(laboratory, run, sink)
            remaining = [entry for entry in sink.file.parent.rglob("*") if entry.is_file()]
            assert [entry for entry in remaining if b"eyJ" in entry.read_bytes()] == [sink.file], (
                step
            )


def killing_script(script: str, name: str, when: str) -> str:
    """Return a script of a command sink that kills the run once, for one key."""
    kill = f'[ "${{0##*/}}" != {name} ] || [ -e fell ] || {{ : > fell; kill -9 $PPID; }}'
    parts = (kill, script) if when == "before" else (script, kill)
    return "\n".join(parts)


POINTS = [
    (when, name, list(Dialect)[(offset + number) % len(Dialect)])
    for offset, when in enumerate(("before", "after", "check"))
    for number, name in enumerate(NAMES)
]


@pytest.mark.parametrize(("when", "name", "dialect"), POINTS)
def test_a_run_killed_by_its_own_sink_is_finished_by_the_next_one(
    when: str, name: str, dialect: Dialect, project: Project, run
) -> None:
    """The run is killed before a token is stored, after it, or when the token is read back."""
    store, check = STORE, CHECK
    if when == "check":
        check = killing_script(check, name, "before")
    else:
        store = killing_script(store, name, when)
    sink = Command(project.root, store, check)
    with Laboratory(dialect) as laboratory:
        open_shop(project, laboratory, sink)
        killed = project.run("apply")
        assert killed.code == -signal.SIGKILL, killed
        wait_for_orphans(project.root)
        assert (project.root / "fell").exists()
        assert_converges(laboratory, run, sink)


@pytest.mark.parametrize("when", ["before", "after"])
@DIALECTS
def test_the_plan_reports_an_unknown_delivery_of_a_killed_run(
    dialect: Dialect, when: str, project: Project, run
) -> None:
    """Without a check, the keys are `delivery_unknown`, and `--redeliver` repairs them."""
    sink = Command(project.root, killing_script(STORE, "svc-2", when), check="")
    with Laboratory(dialect) as laboratory:
        open_shop(project, laboratory, sink)
        assert project.run("apply").code == -signal.SIGKILL
        wait_for_orphans(project.root)
        created = laboratory.sandbox.keys()
        assert sorted(key.name for key in created) == NAMES
        planned = run("plan", "--detailed-exitcode", "--format", "json")
        assert planned.code == 0
        found = planned.environment["findings"]
        assert {entry["name"]: entry["finding"] for entry in found} == dict.fromkeys(
            NAMES, "delivery_unknown"
        )
        assert run("apply", "--redeliver").code == 0
        assert laboratory.sandbox.keys() == created
        assert_one_token_per_key(laboratory.sandbox, {name: sink.stored(name) for name in NAMES})


@DIALECTS
def test_the_run_after_a_killed_one_replaces_older_secrets(
    dialect: Dialect, project: Project, run
) -> None:
    """GitHub shows no values: old tokens have no receipt of the new keys, and are replaced."""
    with ExitStack() as stack, Laboratory(dialect) as laboratory:
        github = Github(stack)
        project.environ |= github.environ
        open_shop(project, laboratory, github)
        for name in NAMES[:3]:
            github.put(name, "the token of a former key")
            github.stored_secrets[name.upper().replace("-", "_")].updated_at = datetime(
                2026, 1, 1, tzinfo=UTC
            )
        started: Future[subprocess.Popen[str]] = Future()
        answer_request = github.server.answer
        puts = []

        def answer(request):
            puts.append(request.method == "PUT")
            if sum(puts) == 3 and puts[-1]:
                started.result(30).kill()
            return answer_request(request)

        github.server.answer = answer
        process = project.start("apply")
        started.set_result(process)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert any(github.stored(name) is None for name in NAMES[3:]) or any(
            github.stored(name) == "the token of a former key" for name in NAMES[:3]
        )
        planned = run("plan", "--format", "json")
        assert planned.actions
        assert set(planned.actions.values()) <= {
            ("deliver", "token_unproven"),
            ("deliver", "token_missing"),
        }
        assert_converges(laboratory, run, github)


# In the newer sinks

VENDOR_POINTS = [
    (kind, when, list(Dialect)[(number + 2 * offset) % len(Dialect)])
    for number, kind in enumerate(("ssm", "gcp", "azure", "n8n"))
    for offset, when in enumerate(("before", "after"))
]


def apply_and_kill(project: Project, sinks: Any, when: str) -> None:
    """Kill a run when the vendor gets its first token, before or after the vendor keeps it."""
    started: Future[subprocess.Popen[str]] = Future()
    fell = threading.Event()

    def around(write: Callable[[], Any]) -> Any:
        if fell.is_set():
            return write()
        fell.set()
        if when == "after":
            write()
        started.result(30).kill()
        raise ConnectionAbortedError

    sinks.around_writes(around)
    process = project.start("apply")
    started.set_result(process)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, (out, err)


@pytest.mark.parametrize(("kind", "when", "dialect"), VENDOR_POINTS)
def test_a_run_killed_at_the_write_of_a_vendor_is_finished_by_the_next_one(
    kind: str, when: str, dialect: Dialect, project: Project, run
) -> None:
    """The next run leaves one key of each name and its token there; the one after it does nothing.

    The time of n8n's last change shows that a token is missing, if it is older than the key.
    """
    with ExitStack() as stack, Laboratory(dialect) as laboratory:
        sinks = sink_fixture(kind, stack, project.root)
        project.environ |= sinks.environ
        for name in PAIR:
            sinks.make_place(name)
        open_shop(project, laboratory, sinks, names=PAIR)
        apply_and_kill(project, sinks, when)
        kept = [token for name in PAIR if (token := sinks.stored(name))]
        assert when == "before" or kept
        assert_converges(laboratory, run, sinks, names=PAIR)
        assert {*kept} <= {sinks.stored(name) for name in PAIR}


def test_a_credential_of_n8n_that_changed_after_a_killed_run_needs_a_redelivery(
    project: Project, run
) -> None:
    """Its time may hide that the token is missing: the finding says so, `--redeliver` delivers."""
    with ExitStack() as stack, Laboratory(Dialect.CORE) as laboratory:
        n8n = N8n(stack)
        project.environ |= n8n.environ
        n8n.make_place("svc-0")
        open_shop(project, laboratory, n8n, names=["svc-0"])
        apply_and_kill(project, n8n, "before")
        laboratory.wait_until_idle()
        n8n.touch("svc-0")
        created = laboratory.sandbox.keys()
        planned = run("plan", "--detailed-exitcode", "--format", "json")
        assert (planned.code, planned.actions) == (0, {})
        [finding] = planned.environment["findings"]
        assert (finding["name"], finding["finding"]) == ("svc-0", "delivery_unknown")
        assert n8n.stored("svc-0") is None
        assert run("apply", "--redeliver").code == 0
        assert laboratory.sandbox.keys() == created
        assert_one_token_per_key(laboratory.sandbox, {"svc-0": n8n.stored("svc-0")})


SOPS_KILLS = """
[ "$1" = set ] || exec "$SOPS" "$@"
value=$(cat)
fall() {{ case $value in *eyJ*) [ -e fell ] || {{ : > fell; kill -9 $PPID; }} ;; esac }}
[ {when} = after ] || fall
printf %s "$value" | "$SOPS" "$@"
fall
"""
"""A program sops that kills the run once, when it gets a token and not the placeholder."""


@pytest.mark.parametrize(
    ("when", "dialect"), [("before", Dialect.LEGACY), ("after", Dialect.CORE_NEWEST)]
)
def test_a_run_killed_while_sops_encrypts_is_finished_by_the_next_one(
    when: str, dialect: Dialect, project: Project, run
) -> None:
    """The file can be decrypted at any time, with its neighbours, and no other has a token."""
    sops = Sops(project.root, script=SOPS_KILLS.format(when=when))
    scratch = project.root / "tmp"
    scratch.mkdir()
    project.environ |= sops.environ | {"TMPDIR": str(scratch)}
    with Laboratory(dialect) as laboratory:
        open_shop(project, laboratory, sops, names=PAIR)
        [file] = sops.files
        before = file.read_bytes()
        killed = project.run("apply")
        assert killed.code == -signal.SIGKILL, killed
        wait_for_orphans(project.root)
        assert file.with_name("fell").exists()
        assert file.read_bytes() == before
        assert [one for one in scratch.rglob("*") if one.is_file()]
        assert_converges(laboratory, run, sops, names=PAIR)
    assert not [
        one for one in project.root.rglob("*") if one.is_file() and b"eyJhbGci" in one.read_bytes()
    ]
