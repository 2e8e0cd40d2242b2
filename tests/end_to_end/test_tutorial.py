"""docs/tutorial.md, followed as a reader does: in one shell, from top to bottom, word for word."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import pytest
import yaml
from processes import install_program

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
EXEMPT = {
    # It needs a network and a release.
    'pipx install "git+https://github.com/acme/provision@v1.0.0"': 'PATH="$TOOL:$PATH"',
}
TIMEOUT = 240
"""Seconds for the whole page, which takes about 20: a limit for a shell that hangs."""

BLOCK = re.compile(r"(?:(?<=\n\n)`([^`\n]+)`:\n\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^\$ (.+)\n", re.MULTILINE)
MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\dZ?)?"), "<moment>"),
    (re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\b[0-9a-f]{8}…"), "<id>…"),
    (re.compile(r"sha256(:|&#58;)[0-9a-f]{64}"), "<digest>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<address>"),
    (re.compile(r"About \d+ requests? and [\d.]+ s"), "<estimate>"),
)
STARTS, ENDS = "\x1e", "\x1f"


@dataclass(frozen=True)
class File:
    """A block with a file name above it: the reader writes that file in the current directory."""

    path: str
    text: str


@dataclass(frozen=True)
class Command:
    """A line to type, and its output on the page: None if the page shows no output."""

    line: str
    output: str | None


def steps(page=PAGE):
    """Return the steps of the page in order."""
    steps_ = []
    for path, language, text in BLOCK.findall(page):
        if path:
            steps_.append(File(path, text))
        elif language == "sh":
            steps_ += [Command(line, None) for line in text.splitlines()]
        elif language == "console":
            start, *rest = PROMPT.split(text)
            assert start == "", text
            steps_ += [Command(*one) for one in zip(rest[::2], rest[1::2], strict=True)]
        else:
            raise AssertionError(f"nothing says what to do with a block of {language!r}: {text}")
    return tuple(steps_)


def script(page_steps, files):
    """Return a bash program that does the steps and prints each one's number and exit code."""
    lines = ['last() { return "$1"; }', "code=0"]
    for number, step in enumerate(page_steps):
        match step:
            case File(path, text):
                staged = files / str(number)
                staged.write_text(text, encoding="utf-8")
                line = f"cp {shlex.quote(str(staged))} {path}"
            case Command(line, _):
                line = EXEMPT.get(line, line)
            case _:
                assert_never(step)
        # The next command sees the code of the one before it as `$?`, as at a prompt.
        lines += [
            rf"printf '\036{number}\037'",
            f'{{ last "$code"\n{line}\n}} < /dev/null',
            r"code=$?; printf '\037%s' $code",
        ]
    return "\n".join(lines) + "\n"


def follow(page_steps, folder):
    """Do the steps in a folder, with the tool of the tests; return exit code and output of each."""
    files, home = (folder / name for name in ("files", "home"))
    for directory in (files, home):
        directory.mkdir()
    program = folder / "program.bash"
    program.write_text(script(page_steps, files), encoding="utf-8")
    output_file = folder / "output"
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "TWENTY"))
    }
    tool = f"{install_program(folder / 'bin').parent}:{Path(sys.executable).parent}"
    variables |= {"HOME": str(home), "TOOL": tool}
    variables |= {"GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8"}
    for role in ("AUTHOR", "COMMITTER"):
        variables |= {f"GIT_{role}_NAME": "Reader", f"GIT_{role}_EMAIL": "reader@example.com"}
    with output_file.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc", str(program)],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            assert shell.wait(TIMEOUT) == 0
        finally:
            # Also kills the background processes of the page, if a step fails.
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
    parts = [part.split(ENDS) for part in output_file.read_text(encoding="utf-8").split(STARTS)[1:]]
    assert [int(number) for number, _, _ in parts] == list(range(len(page_steps)))
    return [(int(code), output) for _, output, code in parts]


def mask(output):
    for pattern, name in MASKS:
        output = pattern.sub(name, output)
    return output


def has_output(step):
    return isinstance(step, Command) and step.output is not None


def git(folder, *arguments):
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def transcript(page_steps, outputs):
    """Return commands and outputs as one text, so that a difference is shown in its context."""
    return "".join(
        f"$ {step.line}\n{mask(one)}" for step, one in zip(page_steps, outputs, strict=True)
    )


def test_the_page_can_be_followed_from_top_to_bottom(tmp_path):
    """Each command prints what the page shows, and only those fail whose exit code it shows."""
    page_steps = steps()
    results = follow(page_steps, tmp_path)
    shown_steps = [
        (step, out) for step, (_, out) in zip(page_steps, results, strict=True) if has_output(step)
    ]
    commands, printed = zip(*shown_steps, strict=True)
    assert transcript(commands, printed) == transcript(commands, [one.output for one in commands])
    after = [*page_steps[1:], None]
    for step, (code, output), following in zip(page_steps, results, after, strict=True):
        code_is_shown = isinstance(following, Command) and following.line == "echo $?"
        assert (code != 0) == code_is_shown, (step, code, output)
    tracked = git(tmp_path / "keys", "ls-files")
    assert {"nightly.sh", "manifests/production.yaml", ".gitignore"} <= set(tracked.splitlines())
    history = git(tmp_path / "keys", "log", "--all", "--patch")
    for path, number in (("keys/secrets/development.env", 10), ("vault/production.env", 3)):
        tokens = re.findall(r"=(eyJ.+)", (tmp_path / path).read_text(encoding="utf-8"))
        assert len(set(tokens)) == number
        assert not any(token in history for token in tokens)


def test_no_block_of_the_page_is_skipped():
    """Every block is typed or written, and the exempt lines exist."""
    assert 2 * len(BLOCK.findall(PAGE)) == len(re.findall(r"^ *```", PAGE, re.MULTILINE))
    lines = [step.line for step in steps() if isinstance(step, Command)]
    for exempt in EXEMPT:
        assert lines.count(exempt) == 1
    for step in steps():
        if isinstance(step, File) and step.path.endswith(".yaml"):
            assert yaml.safe_load(step.text)["version"] == 1


FAKE_PROVISION = """\
#!/bin/sh
echo "$1" >> "$TRACE"
case $1 in apply) exit "$APPLY" ;; report) exit "$REPORT" ;; esac
"""


@pytest.fixture
def nightly(tmp_path):
    """Write the script of the page to its own folder."""
    (match,) = (one for one in steps() if isinstance(one, File) and one.path == "nightly.sh")
    (tmp_path / match.path).write_text(match.text, encoding="utf-8")
    return tmp_path / match.path


@pytest.mark.parametrize(
    ("apply", "report", "ran", "message"),
    [
        (0, 0, "apply report", ""),
        (0, 2, "apply report", "report: a key is due or missing"),
        (0, 4, "apply report", "report: not everything could be read"),
        (0, 3, "apply report", "report: exit 3"),
        (4, 0, "apply report", "apply: some actions failed, the rest is done"),
        (5, 0, "apply", "apply: refused by a guard, nothing was changed"),
        (3, 0, "apply", "apply: exit 3"),
        (143, 0, "apply", "apply: exit 143"),
    ],
)
def test_the_nightly_job_handles_every_exit_code(nightly, tmp_path, apply, report, ran, message):
    """The script of the page fails whenever a person has to act, with a message."""
    (tmp_path / "provision").write_text(FAKE_PROVISION, encoding="utf-8")
    (tmp_path / "provision").chmod(0o755)
    trace = tmp_path / "trace"
    process = subprocess.run(
        ["sh", "nightly.sh"],
        cwd=nightly.parent,
        env=os.environ
        | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "TRACE": str(trace)}
        | {"APPLY": str(apply), "REPORT": str(report)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert trace.read_text(encoding="utf-8").split() == ran.split()
    assert process.stderr.strip() == message
    assert process.returncode == (1 if message else 0)


def test_the_nightly_job_passes_shellcheck(nightly):
    """Shellcheck finds no problem in the script of the page."""
    shellcheck = Path(sys.executable).with_name("shellcheck")
    process = subprocess.run(
        [shellcheck, "nightly.sh"],
        cwd=nightly.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (process.stdout, process.returncode) == ("", 0)
