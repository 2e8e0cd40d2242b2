"""A guest in other people's pipelines, terminals and machines: real processes in odd places."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from provisioner import schemas
from provisioner.sinks.kubeconfig import ClusterConfigError, cluster_of

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin}\n"
KEYS = """\
version: 1
environment: dev
defaults: {expires: 2035-01-01, deliver: [{file: 'secrets/{environment}.env'}]}
keys: [{name: a}, {name: b}]
"""
ESCAPE = "\x1b"


def bare() -> dict[str, str]:
    """Hardly any variables: no HOME, no terminal, no pipeline."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    return {"PATH": os.environ["PATH"]} | kept


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "provisioner", *map(str, arguments)]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def provision(*arguments: object, env: dict[str, str] | None = None, **options: Any) -> Done:
    """Runs a command in a process of its own, without a terminal."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 60} | options
    done = subprocess.run(command(*arguments), check=False, env=bare() | (env or {}), **options)
    out, err = (stream.decode("utf-8", "surrogateescape") for stream in (done.stdout, done.stderr))
    assert "Traceback" not in err
    assert "bug in provision" not in err, err
    return Done(done.returncode, out, err)


def on_terminal(
    *arguments: object, typed: bytes = b"", at: bytes = b"", columns: int = 80, **env: str
) -> Done:
    """Runs a command on a real terminal; types once it has shown `at`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(
        command(*arguments),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=bare() | {"TERM": "xterm"} | env,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one call
    ) as process:
        os.close(theirs)
        shown = b""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            # Again after a while: a signal just before Python reads a line is seen after the line.
            said = bool(select.select([ours], [], [], 0.5)[0])
            try:
                shown += os.read(ours, 65536) if said else b""
            except OSError:  # how a terminal ends on Linux
                break
            if typed and at in shown and (not said or shown.endswith(at)):
                os.write(ours, typed)
        code = process.wait(10)
    os.close(ours)
    return Done(code, shown.decode(), "")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one environment and two keys that are not made yet."""
    return make_project(tmp_path)


def make_project(root: Path, keys: str = KEYS) -> Path:
    (root / "manifests").mkdir(parents=True)
    (root / "manifests" / "environments.yaml").write_text(ENVIRONMENTS, "utf-8")
    (root / "manifests" / "keys.yaml").write_text(keys, "utf-8")
    return root


# pipelines


PIPELINES = {
    "GITHUB_ACTIONS": "true",
    "GITLAB_CI": "true",
    "CI": "true",
    "TF_BUILD": "True",
    "BUILDKITE": "true",
    "CI_JOB_TOKEN": "x",
    "GITHUB_REPOSITORY": "acme/billing",
}


def test_the_variables_of_a_pipeline_change_no_word(project: Path) -> None:
    """What a person sees at home is what the log of a pipeline shows."""
    assert provision("apply", "-q", cwd=project).code == 0
    for words in ("validate", "plan"):
        assert provision(words, cwd=project, env=PIPELINES) == provision(words, cwd=project)


def test_without_a_terminal_nothing_asks(project: Path, serve: Callable[..., Any]) -> None:
    """A real workspace is changed at once, whatever waits on standard input."""
    served = serve()
    with_real(project, served)
    env = {"TOKEN": served.sandbox.session_token()}
    read, write = os.pipe()  # a standard input that says nothing and does not end
    done = provision("apply", cwd=project, env=env, stdin=read)
    os.close(read)
    os.close(write)
    assert (done.code, "Apply this" in done.err + done.out) == (0, False)
    assert len(served.sandbox.keys()) == 2


def with_real(project: Path, served: Any) -> None:
    (project / "manifests" / "environments.yaml").write_text(
        f"version: 1\nenvironments:\n  dev: {{url: '{served.sandbox.url}', role: Admin, "
        "auth: {session_token: '${TOKEN}'}}\n"
    )


# terminals


def test_a_terminal_is_asked_and_ctrl_c_is_a_no(project: Path, serve: Callable[..., Any]) -> None:
    """On a real terminal: the question, `n`, and an interrupt at the question change nothing."""
    served = serve()
    with_real(project, served)
    token = served.sandbox.session_token()
    words = ("apply", "-m", project / "manifests")
    question = b"Apply this to dev? [y/N]: "
    no = on_terminal(*words, at=question, typed=b"n\n", TOKEN=token)
    assert (no.code, "Nothing was changed." in no.out) == (0, True)
    cut = on_terminal(*words, at=question, typed=b"\x03", TOKEN=token)
    assert (cut.code, "interrupted" in cut.out) == (130, True)
    assert served.sandbox.keys() == ()


@pytest.mark.parametrize(
    ("env", "coloured"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
    ],
)
def test_colour_on_a_terminal(project: Path, env: dict[str, str], coloured: bool) -> None:
    """Where it shows, unless it is not wanted; an empty NO_COLOR says nothing."""
    done = on_terminal("validate", "-m", project / "none", **env)
    assert (done.code, ESCAPE in done.out) == (3, coloured)


def test_colour_without_a_terminal_has_to_be_forced(project: Path) -> None:
    """A log file gets escape sequences only by FORCE_COLOR, as pipelines set it that show them."""
    words = ("validate", "-m", project / "none")
    assert ESCAPE not in provision(*words, env={"TERM": "xterm"}).out
    assert ESCAPE in provision(*words, env={"FORCE_COLOR": "1"}).out


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_terminal_of_20_columns_is_enough(project: Path, term: str) -> None:
    """Help, a run with its progress bar and its report; a dumb terminal gets no escapes at all."""
    assert on_terminal("plan", "--help", columns=20, TERM=term).code == 0
    done = on_terminal("apply", "-m", project / "manifests", columns=20, TERM=term)
    assert (done.code, "Done: 2 created" in done.out) == (0, True)
    assert (ESCAPE in done.out) == (term != "dumb")


# streams


@pytest.mark.parametrize("words", ["--help", "schema plan", "init -m new/manifests", "validate"])
def test_a_full_device_is_told_by_every_kind_of_output(project: Path, words: str) -> None:
    """Stdout that takes no more is `output_failed`, no bug, whoever writes on it."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(*words.split()),
            check=False,
            cwd=project,
            env=bare(),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (done.returncode, done.stderr.count(b"output_failed: ")) == (1, 1)
    assert b"bug" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "where"),
    [
        ("plan", 0, "/dev/full"),
        ("list -e zz", 64, "/dev/full"),
        ("plan -m zz", 3, "/dev/full"),
        ("plan -m zz", 3, "&-"),
        ("revoke zz", 4, "/dev/full"),
        ("nope", 64, "/dev/full"),
    ],
)
def test_an_exit_code_needs_no_stderr(project: Path, words: str, code: int, where: str) -> None:
    """Where nobody can be told what went wrong, the code still says it."""
    shell = f"exec {' '.join(command(words))} 2>{where}"
    done = subprocess.run(
        ["bash", "-c", shell], check=False, cwd=project, env=bare(), capture_output=True, timeout=60
    )
    assert done.returncode == code


@pytest.mark.parametrize("words", ["validate", "schema", "--help", "init -m new/manifests"])
def test_nobody_on_stdout_stops_nothing(project: Path, words: str) -> None:
    """`>&-`, and a reader that goes away before the first word."""
    shell = f"{' '.join(command(words))} "
    closed = f"{shell} >&- && rm -rf new && {shell} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", closed],
        check=False,
        cwd=project,
        env=bare(),
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Traceback" not in done.stderr


# directories


def without_root() -> None:
    """Takes from root, for a process to be, the right to write where modes forbid it."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: capabilities(7)
            drop = ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: prctl(2)
            assert drop == 0


def test_a_read_only_directory(project: Path) -> None:
    """What needs no writing works; what does says where it cannot."""
    project.chmod(0o500)
    for words, code, told in (
        ("validate", 0, "2 keys"),
        ("schema", 0, "manifest"),
        ("plan", 4, "The embedded Twenty cannot write"),
        ("init -m new/manifests", 64, "not_writable"),
        ("sandbox", 64, "not_servable"),
    ):
        done = provision(*words.split(), cwd=project, preexec_fn=without_root)
        assert (done.code, told in done.out + done.err) == (code, True), (words, done)
    project.chmod(0o700)


def test_a_read_only_directory_keeps_no_key_from_being_made(
    project: Path, serve: Callable[..., Any]
) -> None:
    """Against a server nothing of ours is written; a file sink that cannot be is told first."""
    served = serve()
    with_real(project, served)
    env = {"TOKEN": served.sandbox.session_token()}
    project.chmod(0o500)
    options = {"cwd": project, "env": env, "preexec_fn": without_root}
    denied = provision("apply", **options)
    assert (denied.code, "Let the user of this run write" in denied.out) == (4, True)
    assert served.sandbox.keys() == ()
    text = KEYS.replace("deliver: [{file: 'secrets/{environment}.env'}]", "depth: 1")
    (project / "manifests" / "keys.yaml").write_text(text.replace(", depth: 1", ""))
    assert provision("apply", **options).code == 0
    project.chmod(0o700)
    assert len(served.sandbox.keys()) == 2


def test_a_working_directory_that_is_gone(project: Path) -> None:
    """A relative path leads nowhere, which is no bug; what needs none works."""
    gone = project / "gone"
    shell = f"rmdir '{gone}' && exec {' '.join(command())} "
    for words, code in (("plan", 64), ("validate x.yaml", 64), ("init", 64), ("schema", 0)):
        gone.mkdir()
        done = subprocess.run(
            ["bash", "-c", shell + words],
            check=False,
            cwd=gone,
            env=bare() | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=60,
        )
        assert (done.returncode, b"directory_gone" in done.stderr) == (code, code == 64)
    gone.mkdir()
    plan = shell + f"plan -m '{project}/manifests'"
    done = subprocess.run(
        ["bash", "-c", plan], check=False, cwd=gone, env=bare(), capture_output=True, timeout=60
    )
    assert done.returncode == 0


def test_a_name_that_no_file_can_have(project: Path) -> None:
    """Longer than a file system takes: said like any other wrong path."""
    assert provision("apply", "-q", cwd=project).code == 0
    for words, code, told in (
        ("plan -m {}", 3, "manifests_missing"),
        ("validate {}", 3, "manifests_missing"),
        ("init -m {}", 64, "not_writable"),
        ("export --to {}", 64, "not_writable"),
        ("create --body {}", 3, "body_invalid"),
        ("token a --to {}", 4, "sink_unsuitable"),
        ("sandbox --file {}", 64, "not_servable"),
    ):
        done = provision(*words.format("n" * 300).split(), cwd=project)
        assert (done.code, told in done.out + done.err) == (code, True), (words, done)


def test_a_path_too_long_for_the_embedded_twenty(tmp_path: Path) -> None:
    """SQLite takes some 500 characters: its environment fails, with what to do."""
    deep = tmp_path.joinpath(*["d" * 200] * 4)
    make_project(deep)
    done = provision("apply", "-m", deep / "manifests")
    assert (done.code, "its path may have some 500 characters" in done.out) == (4, True)
    assert provision("validate", "-m", deep / "manifests").code == 0


def test_paths_of_every_kind(tmp_path: Path) -> None:
    """Blanks, signs beyond ASCII, quotes and a leading dash: written, read and shown."""
    name = "-m schlüssel 🔑 quo'te\"$(x)"
    folder = make_project(tmp_path / name) / "manifests"
    keys = KEYS.replace("secrets/", f"{name}/".replace("'", "''"))
    (folder / "keys.yaml").write_text(keys, "utf-8")
    done = provision("apply", f"--manifests={folder}")
    assert (done.code, "Done: 2 created" in done.out) == (0, True)
    assert (tmp_path / name / name / "dev.env").is_file()
    (folder / "keys.yaml").write_text("version: 2\n")
    done = provision("validate", f"--manifests={folder}")
    assert (done.code, done.out.startswith(f"{folder.as_posix()}/keys.yaml:1:")) == (3, True)


def test_a_path_that_is_no_unicode(tmp_path: Path) -> None:
    """Bytes that no encoding explains are read all the same, and shown with what can be shown."""
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/man\xff"))
    shutil.copytree(make_project(tmp_path / "plain") / "manifests", odd)
    done = provision("apply", "-m", odd, "--format", "json")
    [environment] = json.loads(done.out)["environments"]
    assert (done.code, environment["summary"]["created"]) == (0, 2)
    assert environment["results"][0]["manifest"] == f"{tmp_path}/man\ufffd/keys.yaml"


def test_problems_of_environments_end_a_command_that_needs_no_manifest(tmp_path: Path) -> None:
    """Also where the path of the directory cannot be shown as it is."""
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/man\xff"))
    shutil.copytree(make_project(tmp_path / "plain") / "manifests", odd)
    text = (odd / "environments.yaml").read_text("utf-8")
    (odd / "environments.yaml").write_text(text + "surplus: 1\n", "utf-8")
    done = provision("list", "-m", odd)
    assert (done.code, done.out) == (3, "")
    assert "environments.yaml" in done.err


def test_no_umask_opens_what_is_secret(project: Path) -> None:
    """Tokens, the workspace and exported manifests are for this user alone."""
    run = " && ".join(
        " ".join(command(words))
        for words in ("apply -q", "token a --to t -q", "export --to e.yaml -q")
    )
    shell = ["bash", "-c", f"umask 000; {run}"]
    subprocess.run(shell, check=True, cwd=project, env=bare(), capture_output=True, timeout=60)
    files = ("secrets/dev.env", "t", "e.yaml", ".provision/dev.sqlite3")
    assert {(project / path).stat().st_mode & 0o777 for path in files} == {0o600}
    folders = ("secrets", ".provision")
    assert {(project / path).stat().st_mode & 0o777 for path in folders} == {0o700}


# languages and machines


UMLAUTS = KEYS.replace("{name: a}", "{name: schlüssel-🔑}").replace("secrets/", "gehäuse/")
NO_UTF_8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_a_c_locale_loses_no_name(tmp_path: Path, locale: str) -> None:
    """Keys and files get names beyond ASCII, and they are shown."""
    project = make_project(tmp_path, UMLAUTS)
    done = provision("apply", cwd=project, env={"LC_ALL": locale})
    assert (done.code, "schlüssel-🔑" in done.out) == (0, True)
    assert (project / "gehäuse" / "dev.env").is_file()


def test_a_python_without_utf_8_says_which_path_it_cannot_write(tmp_path: Path) -> None:
    """Told of the sink before its key is made, in signs that the terminal has."""
    done = provision("apply", cwd=make_project(tmp_path, UMLAUTS), env=NO_UTF_8)
    assert (done.code, "no Unicode" in done.out, done.out.isascii()) == (4, True, True)


def test_log_lines_are_json_in_every_locale(tmp_path: Path) -> None:
    """A name beyond ASCII does not break a line for whoever parses it."""
    keys = UMLAUTS.replace(", deliver: [{file: 'gehäuse/{environment}.env'}]", "")
    project = make_project(tmp_path, keys)
    words = ("apply", "-q", "--log-format", "json", "--log-level", "debug")
    done = provision(*words, cwd=project, env=NO_UTF_8)
    lines = [json.loads(line) for line in done.err.splitlines()]
    assert "schlüssel-🔑" in {line.get("key") for line in lines}


def test_line_ends_and_marks_of_windows(tmp_path: Path) -> None:
    """CRLF and a byte order mark change neither what is planned nor where a problem is."""
    unix, windows = make_project(tmp_path / "unix"), tmp_path / "windows"
    plans = [json.loads(provision("plan", "--format", "json", cwd=unix).out)]
    shutil.copytree(unix, windows)  # with the same workspace
    for file in (windows / "manifests").iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    plans.append(json.loads(provision("plan", "--format", "json", cwd=windows).out))
    assert plans[0]["digest"] == plans[1]["digest"]
    assert [one["line"] for one in plans[1]["environments"][0]["actions"]] == [4, 4]
    for one in (unix, windows):
        for file in (one / "manifests").iterdir():
            file.write_bytes(file.read_bytes().replace(b"version: 1", b"version: 2"))
    problems = [provision("validate", cwd=one).out for one in (unix, windows)]
    assert problems[0] == problems[1]
    assert "manifests/environments.yaml:1:10: " in problems[0]


def test_a_user_without_a_home_and_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As containers run: no HOME, and an id that the system does not know."""
    import pwd

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    with pytest.raises(ClusterConfigError, match="HOME is not set"):
        cluster_of({})


# Windows


WINDOWS = """
import sys, os, select, signal, pkgutil, importlib
# All that is not ours comes as this machine has it.
import click, yaml, jsonschema.validators, requests, rich.console, rich.progress, graphql, sqlite3
import ctypes.util, difflib, email.utils, encodings.idna, glob, html, http.server, platform
import shutil, subprocess, tempfile, traceback, uuid, boto3, hvac, nacl.public
for name in ("fcntl", "pwd", "grp", "termios", "resource", "posix"):
    sys.modules[name] = None
for module, names in (
    (os, "O_NONBLOCK O_CLOEXEC O_DIRECTORY O_NOFOLLOW fchown chown killpg getuid geteuid getgid "
         "getpgid setsid mkfifo fork set_blocking fchmod uname getpgrp sync"),
    (signal, "SIGKILL SIGHUP SIGUSR1 SIGALRM SIGCHLD SIGPIPE SIGQUIT pthread_sigmask setitimer"),
    (select, "poll epoll"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
os.O_BINARY = 0
sys.platform = "win32"
import provisioner
for module in pkgutil.walk_packages(provisioner.__path__, "provisioner."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from provisioner.cli import main
sys.exit(main(sys.argv[1:]))
"""


def as_on_windows(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", WINDOWS, *map(str, arguments)]
    options = {"capture_output": True, "text": True, "timeout": 60} | options
    return subprocess.run(words, check=False, env=bare(), **options)


def test_nothing_but_posix_is_needed_for_a_run(project: Path) -> None:
    """With every call away that Windows lacks, all modules are imported and a run is whole."""
    done = as_on_windows("apply", cwd=project)
    assert (done.returncode, "Done: 2 created" in done.stdout) == (0, True), done.stderr
    lines = (project / "secrets" / "dev.env").read_text().splitlines()
    assert {line[:2] for line in lines} >= {"A=", "B="}


def test_a_program_as_a_sink_is_refused_on_windows(project: Path) -> None:
    """Before any key is made, in words, not by a call that is not there."""
    keys = KEYS.replace("file: 'secrets/{environment}.env'", "command: ['true', '{name}']")
    (project / "manifests" / "keys.yaml").write_text(keys)
    done = as_on_windows("plan", cwd=project)
    assert (done.returncode, "cannot be used on Windows" in done.stdout) == (4, True), done.stderr


# what init writes


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a wheel lays it out, far from the checkout."""
    site = tmp_path_factory.mktemp("site")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "provisioner", site / "provisioner", ignore=ignored)
    shutil.copytree(ROOT / "schemas", site / "provisioner" / "_schemas")
    return site


@pytest.mark.parametrize(
    ("option", "manifests"),
    [
        ((), "manifests"),
        (("-m", "."), "."),
        (("-m", "ops/api keys"), "ops/api keys"),
        (("-m", ".."), ".."),
        (("-m", "a/../b"), "b"),
    ],
)
def test_schema_addresses_hold_after_an_installation(
    installed: Path, tmp_path: Path, option: tuple[str, ...], manifests: str
) -> None:
    """Each address leads, from the file that it stands in, to a schema that the file keeps to."""
    here = tmp_path / "project"
    (here / "a").mkdir(parents=True)
    done = provision("init", *option, cwd=here, env={"PYTHONPATH": str(installed)})
    assert done.code == 0
    for name in ("environments", "keys"):
        file = here / manifests / f"{name}.yaml"
        text = file.read_text("utf-8")
        [address] = re.findall(r"^# yaml-language-server: \$schema=(.*)$", text, re.MULTILINE)
        schema = json.loads(Path(os.path.normpath(file.parent / address)).read_text("utf-8"))
        Draft202012Validator(schema).validate(yaml.safe_load(text))
        kind = "environments" if name == "environments" else "manifest"
        assert schema == schemas.load(kind)
    assert provision("validate", *option, cwd=here).code == 0


def test_init_takes_no_other_schema_for_its_own(tmp_path: Path) -> None:
    """A project may have a manifest.schema.json of its own; ours of another version is left."""
    (tmp_path / "schemas").mkdir()
    theirs = tmp_path / "schemas" / "manifest.schema.json"
    theirs.write_text('{"$id": "https://example.com/app.schema.json"}')
    done = provision("init", cwd=tmp_path)
    assert (done.code, "is not a schema of provision" in done.err) == (64, True)
    assert not (tmp_path / "manifests").exists()
    old = json.dumps(schemas.load("manifest") | {"title": "Of an older version"})
    theirs.write_text(old)
    assert provision("init", cwd=tmp_path).code == 0
    assert theirs.read_text() == old


# the log


def test_every_line_of_a_json_log_keeps_to_its_schema(
    project: Path, serve: Callable[..., Any]
) -> None:
    """One run id, and environment and key even in the lines of libraries and threads and errors."""
    served = serve()
    with_real(project, served)
    env = {"TOKEN": served.sandbox.session_token(), "PROVISION_LOG_FORMAT": "json"}
    done = provision("apply", "--log-level", "debug", cwd=project, env=env)
    lines = [checked(line) for line in done.err.splitlines()]
    assert done.code == 0
    assert len({line["run"] for line in lines}) == 1
    assert {line["environment"] for line in lines} == {"dev"}
    requests = [line for line in lines if "duration_ms" in line]
    assert len(requests) == len(served.journal)
    assert {line["status"] for line in requests} == {200}
    assert {line["attempt"] for line in requests} == {1}
    assert {line.get("key") for line in requests} == {None, "a", "b"}
    libraries = [line for line in lines if line["logger"].startswith("urllib3")]
    assert {line.get("key") for line in libraries} == {None, "a", "b"}
    for words, exit_code, code in (
        ("plan -e zz", 64, "environment_unknown"),
        ("plan -m zz", 3, "manifests_missing"),
        ("revoke zz", 4, "key_missing"),
    ):
        failed = provision(*words.split(), cwd=project, env=env)
        told = [checked(line) for line in failed.err.splitlines()]
        assert failed.code == exit_code
        assert [line["code"] for line in told if line["level"] == "error"] == [code]
        assert {line["run"] for line in told} != {lines[0]["run"]}


def checked(line: str) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(line)
    Draft202012Validator(schemas.load("log")).validate(entry)
    return entry


def test_the_tries_of_a_request_are_counted(
    project: Path, scripted: Callable[..., Any], answer: Callable[..., bytes]
) -> None:
    """Lost answers have no status; the one that came has the number of its try."""
    server = scripted(None, None, answer(401, "{}"))
    (project / "manifests" / "environments.yaml").write_text(
        f"version: 1\nenvironments:\n  dev: {{url: '{server.url}', role: Admin, "
        "auth: {session_token: 'x'}}\n".replace("'x'", "'${TOKEN}'")
    )
    env = {"TOKEN": "t.o.k"}
    words = ("list", "--log-level", "debug", "--log-format", "json")
    done = provision(*words, cwd=project, env=env)
    lines = [checked(line) for line in done.err.splitlines()]
    tries = [(line["attempt"], line.get("status")) for line in lines if "duration_ms" in line]
    assert (done.code, tries) == (4, [(1, None), (2, None), (3, 401)])
    [failure] = [line for line in lines if line["level"] == "error"]
    assert (failure["environment"], failure["code"]) == ("dev", "credential_invalid")
