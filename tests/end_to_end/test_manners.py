"""Real processes in unusual pipelines, terminals, directories, locales and machines."""

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
from processes import Provision

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
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def minimal_environment() -> dict[str, str]:
    """Return almost no variables: no HOME, no terminal, no pipeline."""
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    return {"PATH": os.environ["PATH"]} | coverage


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "provisioner", *map(str, arguments)]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def provision(*arguments: object, env: dict[str, str] | None = None, **options: Any) -> Result:
    """Run a command in its own process, without a terminal."""
    with Provision(*arguments, **_options(env, options)) as process:
        return _result(process)


def provision_in_new_python(*arguments: object, env: dict[str, str], **options: Any) -> Result:
    """Run a command as above, in a Python that starts with these variables."""
    with subprocess.Popen(command(*arguments), **_options(env, options)) as process:
        return _result(process)


def _options(env: dict[str, str] | None, options: dict[str, Any]) -> dict[str, Any]:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return {**streams, "env": minimal_environment() | (env or {}), **options}


def _result(process: subprocess.Popen[bytes]) -> Result:
    streams = process.communicate(timeout=60)
    out, err = (stream.decode("utf-8", "surrogateescape") for stream in streams)
    assert "Traceback" not in err
    assert "bug of provision" not in err, err
    return Result(process.returncode, out, err)


def in_bash(script: str, folder: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script in a folder."""
    return subprocess.run(
        ["bash", "-c", script],
        check=False,
        cwd=folder,
        env=minimal_environment() | env,
        capture_output=True,
        timeout=60,
    )


def on_terminal(
    *arguments: object, typed: bytes = b"", prompt: bytes = b"", columns: int = 80, **env: str
) -> Result:
    """Run a command on a real terminal; type `typed` once it has shown `prompt`."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(
        command(*arguments),
        stdin=child,
        stdout=child,
        stderr=child,
        env=minimal_environment() | {"TERM": "xterm"} | env,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one call
    ) as process:
        os.close(child)
        output = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            # Type again after a while: a signal may arrive just before Python reads the line.
            readable = bool(select.select([parent], [], [], 5)[0])
            try:
                output += os.read(parent, 65536) if readable else b""
            except OSError:  # a closed terminal on Linux
                break
            if typed and prompt in output and (not readable or output.endswith(prompt)):
                os.write(parent, typed)
        code = process.wait(10)
    os.close(parent)
    return Result(code, output.decode(), "")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with one environment and two keys that do not exist yet."""
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


def test_the_variables_of_a_pipeline_do_not_change_the_output(project: Path) -> None:
    """The output in a pipeline is the same as on a developer's machine."""
    assert provision("apply", "-q", cwd=project).code == 0
    for arguments in ("validate", "plan"):
        assert provision(arguments, cwd=project, env=PIPELINES) == provision(arguments, cwd=project)


def test_without_a_terminal_no_question_is_asked(project: Path, serve: Callable[..., Any]) -> None:
    """Without a terminal, a real workspace is changed without a question."""
    served = serve()
    use_real_server(project, served)
    env = {"TOKEN": served.sandbox.session_token()}
    read, write = os.pipe()  # a standard input that is silent and stays open
    result = provision("apply", cwd=project, env=env, stdin=read)
    os.close(read)
    os.close(write)
    assert (result.code, "Apply this" in result.err + result.out) == (0, False)
    assert len(served.sandbox.keys()) == 2


def use_real_server(project: Path, served: Any) -> None:
    (project / "manifests" / "environments.yaml").write_text(
        f"version: 1\nenvironments:\n  dev: {{url: '{served.sandbox.url}', role: Admin, "
        "auth: {session_token: '${TOKEN}'}}\n"
    )


# terminals


def test_ctrl_c_at_the_question_changes_nothing(project: Path, serve: Callable[..., Any]) -> None:
    """On a real terminal, `n` and an interrupt at the question change nothing."""
    served = serve()
    use_real_server(project, served)
    token = served.sandbox.session_token()
    arguments = ("apply", "-m", project / "manifests")
    question = b"Apply this to dev? [y/N]: "
    no = on_terminal(*arguments, prompt=question, typed=b"n\n", TOKEN=token)
    assert (no.code, "Nothing was changed." in no.out) == (0, True)
    cut = on_terminal(*arguments, prompt=question, typed=b"\x03", TOKEN=token)
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
    """A terminal gets colour unless it is dumb or NO_COLOR is set; an empty NO_COLOR is ignored."""
    result = on_terminal("validate", "-m", project / "none", **env)
    assert (result.code, COLOUR.search(result.out) is not None) == (3, coloured)


def test_colour_without_a_terminal_has_to_be_forced(project: Path) -> None:
    """Without a terminal, escape sequences are only printed with FORCE_COLOR."""
    arguments = ("validate", "-m", project / "none")
    assert ESCAPE not in provision(*arguments, env={"TERM": "xterm"}).out
    assert ESCAPE in provision(*arguments, env={"FORCE_COLOR": "1"}).out


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_terminal_of_20_columns_is_enough(project: Path, term: str) -> None:
    """Help, progress bar and report work in 20 columns; a dumb terminal gets no escapes."""
    assert on_terminal("plan", "--help", columns=20, TERM=term).code == 0
    result = on_terminal("apply", "-m", project / "manifests", columns=20, TERM=term)
    summary = "Done: 2 created" if term == "dumb" else "Done: created 2 keys"
    assert (result.code, summary in " ".join(result.out.split())) == (0, True)
    assert (ESCAPE in result.out) == (term != "dumb")


# streams


@pytest.mark.parametrize(
    "arguments", ["--help", "schema plan", "init -m new/manifests", "validate"]
)
def test_every_kind_of_output_reports_a_full_device(project: Path, arguments: str) -> None:
    """A full stdout is reported as `output_failed`, not as a bug, by every command."""
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            command(*arguments.split()),
            check=False,
            cwd=project,
            env=minimal_environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (result.returncode, result.stderr.count(b"output_failed: ")) == (1, 1)
    assert b"bug" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "where"),
    [
        ("plan", 0, "/dev/full"),
        ("list -e zz", 64, "/dev/full"),
        ("plan -m zz", 3, "/dev/full"),
        ("plan -m zz", 3, "&-"),
        ("revoke zz", 4, "/dev/full"),
        ("nope", 64, "/dev/full"),
    ],
)
def test_the_exit_code_does_not_depend_on_stderr(
    project: Path, arguments: str, code: int, where: str
) -> None:
    """The exit code is the same if stderr is full or closed."""
    shell = f"exec {' '.join(command(arguments))} 2>{where}"
    assert in_bash(shell, project).returncode == code


@pytest.mark.parametrize("arguments", ["validate", "schema", "--help", "init -m new/manifests"])
def test_a_closed_stdout_stops_no_command(project: Path, arguments: str) -> None:
    """A command succeeds with a closed stdout (`>&-`) and with a reader that reads nothing."""
    shell = f"{' '.join(command(arguments))} "
    closed = f"{shell} >&- && rm -rf new && {shell} | true; exit ${{PIPESTATUS[0]}}"
    result = in_bash(closed, project)
    assert (result.returncode, result.stdout) == (0, b"")
    assert b"Traceback" not in result.stderr


# directories


def without_root() -> None:
    """Make root obey file modes in the next process; for use as `preexec_fn`."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: capabilities(7)
            drop = ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: prctl(2)
            assert drop == 0


def test_a_read_only_directory(project: Path) -> None:
    """Commands that write nothing work; the others say which path they cannot write."""
    project.chmod(0o500)
    for arguments, code, expected in (
        ("validate", 0, "2 keys"),
        ("schema", 0, "manifest"),
        ("plan", 4, "The embedded Twenty cannot write"),
        ("init -m new/manifests", 64, "not_writable"),
        ("sandbox", 64, "not_servable"),
    ):
        result = provision(*arguments.split(), cwd=project, preexec_fn=without_root)
        assert (result.code, expected in result.out + result.err) == (code, True), (
            arguments,
            result,
        )
    project.chmod(0o700)


def test_keys_are_created_from_a_read_only_directory(
    project: Path, serve: Callable[..., Any]
) -> None:
    """A run against a server writes no files; an unwritable file sink fails before the create."""
    served = serve()
    use_real_server(project, served)
    env = {"TOKEN": served.sandbox.session_token()}
    project.chmod(0o500)
    options = {"cwd": project, "env": env, "preexec_fn": without_root}
    denied = provision("apply", **options)
    assert (denied.code, "Give the current user write" in denied.out) == (4, True)
    assert served.sandbox.keys() == ()
    text = KEYS.replace("deliver: [{file: 'secrets/{environment}.env'}]", "depth: 1")
    (project / "manifests" / "keys.yaml").write_text(text.replace(", depth: 1", ""))
    assert provision("apply", **options).code == 0
    project.chmod(0o700)
    assert len(served.sandbox.keys()) == 2


def test_a_removed_working_directory(project: Path) -> None:
    """A relative path is reported as `directory_gone`; commands without one work."""
    missing = project / "gone"
    shell = f"rmdir '{missing}' && exec {' '.join(command())} "
    for arguments, code in (("plan", 64), ("validate x.yaml", 64), ("init", 64), ("schema", 0)):
        missing.mkdir()
        result = in_bash(shell + arguments, missing, PYTHONPATH=str(ROOT))
        assert (result.returncode, b"directory_gone" in result.stderr) == (code, code == 64)
    missing.mkdir()
    plan = shell + f"plan -m '{project}/manifests'"
    assert in_bash(plan, missing).returncode == 0


def test_a_file_name_that_is_too_long(project: Path) -> None:
    """A name that is too long for the file system is reported like any other wrong path."""
    assert provision("apply", "-q", cwd=project).code == 0
    for arguments, code, expected in (
        ("plan -m {}", 3, "manifests_missing"),
        ("validate {}", 3, "manifests_missing"),
        ("init -m {}", 64, "not_writable"),
        ("export --to {}", 64, "not_writable"),
        ("create --body {}", 3, "body_invalid"),
        ("token a --to {}", 4, "sink_unsuitable"),
        ("sandbox --file {}", 64, "not_servable"),
    ):
        result = provision(*arguments.format("n" * 300).split(), cwd=project)
        assert (result.code, expected in result.out + result.err) == (code, True), (
            arguments,
            result,
        )


def test_a_path_too_long_for_the_embedded_twenty(tmp_path: Path) -> None:
    """SQLite allows about 500 characters: a longer path fails its environment, with a remedy."""
    deep = tmp_path.joinpath(*["d" * 200] * 4)
    make_project(deep)
    result = provision("apply", "-m", deep / "manifests")
    assert (result.code, "a shorter path, at most about 500 characters" in result.out) == (4, True)
    assert provision("validate", "-m", deep / "manifests").code == 0


def test_paths_of_every_kind(tmp_path: Path) -> None:
    """Paths with spaces, non-ASCII characters, quotes and a leading dash can be used and shown."""
    name = "-m schlüssel 🔑 quo'te\"$(x)"
    folder = make_project(tmp_path / name) / "manifests"
    keys = KEYS.replace("secrets/", f"{name}/".replace("'", "''"))
    (folder / "keys.yaml").write_text(keys, "utf-8")
    result = provision("apply", f"--manifests={folder}")
    assert (result.code, "Done: 2 created" in result.out) == (0, True)
    assert (tmp_path / name / name / "dev.env").is_file()
    (folder / "keys.yaml").write_text("version: 2\n")
    result = provision("validate", f"--manifests={folder}")
    assert (result.code, result.out.startswith(f"{folder.as_posix()}/keys.yaml:1:")) == (3, True)


def test_a_path_that_is_not_unicode(tmp_path: Path) -> None:
    """A path with undecodable bytes can be used, and is shown as far as possible."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/man\xff"))
    shutil.copytree(make_project(tmp_path / "plain") / "manifests", folder)
    result = provision_in_new_python("apply", "-m", folder, "--format", "json", env={})
    [environment] = json.loads(result.out)["environments"]
    assert (result.code, environment["summary"]["created"]) == (0, 2)
    assert environment["results"][0]["manifest"] == f"{tmp_path}/man\ufffd/keys.yaml"


def test_invalid_environments_stop_a_command_that_needs_no_manifest(tmp_path: Path) -> None:
    """Invalid environments stop `list`, also if the path of the directory cannot be shown."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/man\xff"))
    shutil.copytree(make_project(tmp_path / "plain") / "manifests", folder)
    text = (folder / "environments.yaml").read_text("utf-8")
    (folder / "environments.yaml").write_text(text + "surplus: 1\n", "utf-8")
    result = provision("list", "-m", folder)
    assert (result.code, result.out) == (3, "")
    assert "environments.yaml" in result.err


def test_secrets_are_private_under_any_umask(project: Path) -> None:
    """Only this user can read tokens, the workspace and exported manifests."""
    run = " && ".join(
        " ".join(command(arguments))
        for arguments in ("apply -q", "token a --to t -q", "export --to e.yaml -q")
    )
    assert in_bash(f"umask 000; {run}", project).returncode == 0
    files = ("secrets/dev.env", "t", "e.yaml", ".provision/dev.sqlite3")
    assert {(project / path).stat().st_mode & 0o777 for path in files} == {0o600}
    folders = ("secrets", ".provision")
    assert {(project / path).stat().st_mode & 0o777 for path in folders} == {0o700}


# languages and machines


UMLAUTS = KEYS.replace("{name: a}", "{name: schlüssel-🔑}").replace("secrets/", "gehäuse/")
NO_UTF_8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_a_c_locale_loses_no_name(tmp_path: Path, locale: str) -> None:
    """Keys and files can have non-ASCII names in a C locale, and the output shows them."""
    project = make_project(tmp_path, UMLAUTS)
    result = provision_in_new_python("apply", cwd=project, env={"LC_ALL": locale})
    assert (result.code, "schlüssel-🔑" in result.out) == (0, True)
    assert (project / "gehäuse" / "dev.env").is_file()


def test_without_utf_8_an_error_names_the_path(tmp_path: Path) -> None:
    """The unusable path is reported before the key is created, in ASCII."""
    project = make_project(tmp_path, UMLAUTS)
    result = provision_in_new_python("apply", cwd=project, env=NO_UTF_8)
    assert (result.code, "cannot be encoded" in result.out, result.out.isascii()) == (4, True, True)


def test_log_lines_are_json_in_every_locale(tmp_path: Path) -> None:
    """A non-ASCII name does not break a line of the JSON log."""
    keys = UMLAUTS.replace(", deliver: [{file: 'gehäuse/{environment}.env'}]", "")
    project = make_project(tmp_path, keys)
    arguments = ("apply", "-q", "--log-format", "json", "--log-level", "debug")
    result = provision_in_new_python(*arguments, cwd=project, env=NO_UTF_8)
    lines = [json.loads(line) for line in result.err.splitlines()]
    assert "schlüssel-🔑" in {line.get("key") for line in lines}


def test_windows_line_endings_and_byte_order_marks(tmp_path: Path) -> None:
    """CRLF and a byte order mark do not change the plan or the positions of problems."""
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
    """Without HOME and with an unknown user id, as in containers, a kubeconfig is an error."""
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
# Import third-party modules before the POSIX calls are removed.
import click, yaml, jsonschema.validators, urllib3, rich.console, rich.progress, graphql, sqlite3
import ctypes.util, difflib, email.utils, encodings.idna, glob, html, http.server, platform
import shutil, subprocess, tempfile, traceback, uuid, boto3, nacl.public
for name in ("fcntl", "pwd", "grp", "termios", "resource", "posix"):
    sys.modules[name] = None
for module, names in (
    (os, "O_NONBLOCK O_CLOEXEC O_DIRECTORY O_NOFOLLOW fchown chown killpg getuid geteuid getgid "
         "getpgid setsid mkfifo fork set_blocking fchmod uname getpgrp sync fstatvfs statvfs "
         "pread pwrite posix_fallocate"),
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
for command_line in sys.argv[1:]:
    if code := main(command_line.split()):
        print(command_line, file=sys.stderr)
        sys.exit(code)
"""


def as_on_windows(*command_lines: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-c", WINDOWS, *command_lines]
    options = {"capture_output": True, "text": True, "timeout": 60} | options
    return subprocess.run(command_line, check=False, env=minimal_environment(), **options)


def test_a_run_works_without_posix_calls(project: Path) -> None:
    """Without the calls that Windows lacks, all modules can be imported and commands work."""
    owned = ENVIRONMENTS.replace("role: Admin", "role: Admin, owns: ['*']")
    (project / "manifests" / "environments.yaml").write_text(owned)
    result = as_on_windows(
        "validate",
        "plan --out plan.json --report markdown=plan.md",
        "apply plan.json",
        "plan --detailed-exitcode",
        "rotate a --now",
        "list --format json",
        "report --format html",
        "doctor",
        "export --environment dev --to exported.yaml",
        "token a --environment dev --to key.token",
        "revoke b",
        cwd=project,
    )
    assert (result.returncode, "Done: 2 created" in result.stdout) == (0, True), result.stderr
    assert {"plan.md", "exported.yaml", "key.token"} <= {file.name for file in project.iterdir()}
    lines = (project / "secrets" / "dev.env").read_text().splitlines()
    assert {line[:2] for line in lines} >= {"A=", "B="}


def test_a_program_as_a_sink_is_refused_on_windows(project: Path) -> None:
    """A `command` sink is refused with a message before any key is created."""
    keys = KEYS.replace("file: 'secrets/{environment}.env'", "command: ['true', '{name}']")
    (project / "manifests" / "keys.yaml").write_text(keys)
    result = as_on_windows("plan", cwd=project)
    assert (result.returncode, "cannot be used on Windows" in result.stdout) == (4, True), (
        result.stderr
    )


# files that init writes


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package in the layout of a wheel, outside the checkout."""
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
def test_schema_addresses_are_valid_after_an_installation(
    installed: Path, tmp_path: Path, option: tuple[str, ...], manifests: str
) -> None:
    """Each file names the path of a schema, relative to itself, and is valid under it."""
    project = tmp_path / "project"
    (project / "a").mkdir(parents=True)
    result = provision("init", *option, cwd=project, env={"PYTHONPATH": str(installed)})
    assert result.code == 0
    for name in ("environments", "keys"):
        file = project / manifests / f"{name}.yaml"
        text = file.read_text("utf-8")
        [address] = re.findall(r"^# yaml-language-server: \$schema=(.*)$", text, re.MULTILINE)
        schema = json.loads(Path(os.path.normpath(file.parent / address)).read_text("utf-8"))
        Draft202012Validator(schema).validate(yaml.safe_load(text))
        kind = "environments" if name == "environments" else "manifest"
        assert schema == schemas.load(kind)
    assert provision("validate", *option, cwd=project).code == 0


def test_init_does_not_overwrite_a_foreign_schema(tmp_path: Path) -> None:
    """`init` refuses to overwrite a foreign manifest.schema.json, and keeps ours of any version."""
    (tmp_path / "schemas").mkdir()
    existing = tmp_path / "schemas" / "manifest.schema.json"
    existing.write_text('{"$id": "https://example.com/app.schema.json"}')
    result = provision("init", cwd=tmp_path)
    assert (result.code, "is not a schema that provision wrote" in result.err) == (64, True)
    assert not (tmp_path / "manifests").exists()
    old = json.dumps(schemas.load("manifest") | {"title": "Of an older version"})
    existing.write_text(old)
    assert provision("init", cwd=tmp_path).code == 0
    assert existing.read_text() == old


# the log


def test_every_line_of_a_json_log_matches_its_schema(
    project: Path, serve: Callable[..., Any]
) -> None:
    """Each line has the run id, each request one line with its operation, each error its code."""
    served = serve()
    use_real_server(project, served)
    env = {"TOKEN": served.sandbox.session_token(), "PROVISION_LOG_FORMAT": "json"}
    result = provision("apply", "--log-level", "debug", cwd=project, env=env)
    lines = [valid_entry(line) for line in result.err.splitlines()]
    assert result.code == 0
    assert len({line["run"] for line in lines}) == 1
    # The manifests are loaded for all environments.
    assert {line.get("environment") for line in lines} == {None, "dev"}
    requests = [line for line in lines if "duration_ms" in line]
    assert len(requests) == len(served.journal)
    assert {line["status"] for line in requests} == {200}
    assert {line["attempt"] for line in requests} == {1}
    assert {line.get("key") for line in requests} == {None, "a", "b"}
    assert {line["operation"] for line in requests if line["path"] == "/metadata"} == {
        "apiKeys+getRoles",
        "createApiKey",
        "createApiKey x2",
        "currentWorkspace",
        "generateApiKeyToken",
    }
    assert not [line for line in lines if line["logger"].startswith("urllib3")]
    for arguments, exit_code, error_code in (
        ("plan -e zz", 64, "environment_unknown"),
        ("plan -m zz", 3, "manifests_missing"),
        ("revoke zz", 4, "key_missing"),
    ):
        failed = provision(*arguments.split(), cwd=project, env=env)
        entries = [valid_entry(line) for line in failed.err.splitlines()]
        assert failed.code == exit_code
        assert [line["code"] for line in entries if line["level"] == "error"] == [error_code]
        assert {line["run"] for line in entries} != {lines[0]["run"]}


def valid_entry(line: str) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(line)
    Draft202012Validator(schemas.load("log")).validate(entry)
    return entry


def test_the_attempts_of_a_request_are_counted(
    project: Path, scripted: Callable[..., Any], answer: Callable[..., bytes]
) -> None:
    """Each attempt is logged with its number; a lost answer has no status."""
    server = scripted(None, None, answer(401, "{}"))
    (project / "manifests" / "environments.yaml").write_text(
        f"version: 1\nenvironments:\n  dev: {{url: '{server.url}', role: Admin, "
        "auth: {session_token: 'x'}}\n".replace("'x'", "'${TOKEN}'")
    )
    env = {"TOKEN": "t.o.k"}
    arguments = ("list", "--log-level", "debug", "--log-format", "json")
    result = provision(*arguments, cwd=project, env=env)
    lines = [valid_entry(line) for line in result.err.splitlines()]
    attempts = [(line["attempt"], line.get("status")) for line in lines if "duration_ms" in line]
    assert (result.code, attempts) == (4, [(1, None), (2, None), (3, 401)])
    [failure] = [line for line in lines if line["level"] == "error"]
    assert (failure["environment"], failure["code"]) == ("dev", "credential_invalid")
