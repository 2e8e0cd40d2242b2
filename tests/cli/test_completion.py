"""Shell completion in real shells: offline, and never with an error message."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from processes import install_program

from provisioner import manifests, schemas
from provisioner.cli import main
from provisioner.cli.group import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SHELLS = ("bash", "zsh", "fish")
ENVIRONMENTS = """\
version: 1
environments:
  staging:
    url: https://crm.staging.example.com
    auth: {token: "${NOWHERE_SET}"}
  production:
    url: https://crm.example.com
    auth: {token: "${NOWHERE_SET}"}
"""
KEYS = """\
version: 1
environments: [staging, production]
defaults: {expires: 90d, role: Admin}
keys: [{name: svc-billing}, {name: svc-mail}, {name: report}]
"""
PRODUCTION = """\
version: 1
environment: production
defaults: {expires: 90d, role: Admin}
keys:
  - name: only-here
  - name: "svc-$(touch owned)"
  - name: svc-a b
  - name: svc-`touch owned`
  - name: svc-x;touch owned
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with manifests and with `provision` on the path."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "environments.yaml").write_text(ENVIRONMENTS)
    (folder / "keys.yaml").write_text(KEYS)
    (folder / "production.yaml").write_text(PRODUCTION)
    programs = install_program(tmp_path / "bin").parent
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ask(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """Return a function that completes a command line, the last word of which is unfinished."""

    def ask_(*words: str, **variables: str) -> list[str]:
        request = {
            "_PROVISION_COMPLETE": "bash_complete",
            "COMP_WORDS": shlex.join(["provision", *words]),
            "COMP_CWORD": str(len(words)),
        }
        with monkeypatch.context() as patch:
            for name, value in {**request, **variables}.items():
                patch.setenv(name, value)
            assert main([]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return [line.removeprefix("plain,") for line in printed.out.splitlines() if line]

    return ask_


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_accepts_its_script(shell, capsys, tmp_path) -> None:
    """The output of `completion` has no syntax error, as the shell itself reports."""
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr()
    assert "_PROVISION_COMPLETE" in printed.out
    assert printed.err == ""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its script was printed but not checked")
    script = tmp_path / "script"
    script.write_text(printed.out)
    subprocess.run([shell, "-n", str(script)], check=True, timeout=60)


BASH = """
source ./script
ask() {
  COMP_WORDS=(provision "$@") COMP_CWORD=$# COMPREPLY=()
  _provision_completion provision
  echo "${COMPREPLY[*]}"
}
ask ""
ask plan --color a
ask plan -e stag
ask rotate -e production svc-
"""


def test_a_real_bash_completes(place, capsys) -> None:
    """The script and the program fill COMPREPLY with commands, choices and names."""
    assert main(["completion", "bash"]) == 0
    (place / "script").write_text(capsys.readouterr().out)
    command = ["bash", "--norc", "-c", BASH]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        " ".join(COMMANDS),
        "auto always",
        "staging",
        "svc-billing svc-mail",
    ]
    assert not (place / "owned").exists()


def test_commands_options_and_choices_are_completed(ask) -> None:
    """Commands, options, choices, schemas, shells and codes are offered."""
    assert ask("") == list(COMMANDS)
    assert ask("pl") == ["plan"]
    assert ask("plan", "--pru") == ["--prune"]
    assert ask("plan", "--color", "a") == ["auto", "always"]
    assert ask("schema", "") == list(schemas.NAMES)
    assert ask("completion", "") == list(SHELLS)
    assert ask("help", "re") == ["report", "revoke"]
    assert ask("explain", "plan_s") == ["plan_stale"]
    assert ask("explain", "plan_stale", "plan_") == [
        *("plan_unreadable", "plan_invalid", "plan_newer", "plan_applied", "plan_unconfirmed"),
    ]


def test_environments_are_those_of_the_manifests(ask, place) -> None:
    """`-e` offers the environments of -m, even if their variables are not set."""
    assert ask("plan", "-e", "") == ["staging", "production"]
    assert ask("token", "-e", "p") == ["production"]
    assert ask("plan", "-e", "staging", "--environment", "") == ["production"]
    (place / "manifests").rename(place / "else")
    assert ask("plan", "-e", "") == []
    assert ask("plan", "-m", "else", "-e", "s") == ["staging"]
    assert ask("plan", "-e", "s", PROVISION_MANIFESTS="else") == ["staging"]


@pytest.mark.parametrize("command", ["rotate", "revoke", "token"])
def test_names_of_keys_are_those_of_the_manifests(command, ask) -> None:
    """Commands that take the name of a key offer the names in the selected environments."""
    assert ask(command, "-e", "staging", "") == ["svc-billing", "svc-mail", "report"]
    assert ask(command, "o") == ["only-here"]


def test_names_that_are_already_typed_are_not_offered(ask) -> None:
    """Each name is offered once, for arguments and for --only."""
    assert ask("rotate", "svc-mail", "svc-") == ["svc-billing"]
    assert ask("apply", "--only", "svc-mail", "--only", "svc-") == ["svc-billing"]


def test_a_name_that_a_shell_would_interpret_is_not_offered(ask) -> None:
    """Bash inserts completions as they are, so names that need quotes are left out."""
    assert ask("rotate", "-e", "production", "svc-") == ["svc-billing", "svc-mail"]


@pytest.mark.parametrize(
    "broken", ["keys: [", "version: 1\nenvironments: nonsense\n", "\x00", "&a [*a]"]
)
def test_broken_manifests_are_silent(broken, ask, place) -> None:
    """With manifests that cannot be read, nothing is offered or printed, and nothing fails."""
    (place / "manifests" / "environments.yaml").write_text(broken)
    assert ask("plan", "-e", "") == []
    assert ask("rotate", "") == []


def test_a_broken_manifest_does_not_hide_the_environments(ask, place) -> None:
    """Only environments.yaml is read for them."""
    (place / "manifests" / "keys.yaml").write_text("keys: [")
    assert ask("plan", "-e", "") == ["staging", "production"]


def test_bugs_and_invalid_variables_are_silent(ask, monkeypatch) -> None:
    """An invalid variable, a file in place of a directory or a bug prints no message."""
    assert ask("plan", "-e", "s", PROVISION_PARALLEL="many") == ["staging"]
    assert ask("plan", "-e", "", PROVISION_MANIFESTS="manifests/keys.yaml") == []

    def fail(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(manifests, "environment_names", fail)
    assert ask("plan", "-e", "") == []


def test_completion_imports_no_heavy_library(place) -> None:
    """A key press imports nothing slower than YAML."""
    program = (
        "import sys; from provisioner.cli import main; main([]);"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        # Without coverage, which imports sqlite3.
        env={name: text for name, text in os.environ.items() if "COVERAGE" not in name}
        | {
            "_PROVISION_COMPLETE": "bash_complete",
            "COMP_WORDS": "provision rotate svc-b",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "plain,svc-billing\n"
    heavy = {"urllib3", "rich", "graphql", "jsonschema", "sqlite3", "provisioner.twenty"}
    assert not heavy & set(done.stderr.split())


class Terminal:
    """A shell on its own pseudo-terminal."""

    def __init__(self, *command: str) -> None:
        self.output = ""
        self.pid, self.file = pty.fork()
        if self.pid == 0:  # pragma: no cover - the shell
            os.environ |= {"TERM": "dumb", "PS1": "", "COLUMNS": "500"}
            os.execvp(command[0], command)

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def prints(self, text: str) -> bool:
        """Read until the text is printed, for a minute at most; return whether it was."""
        until = time.monotonic() + 60
        while text not in self.output:
            ready, _, _ = select.select([self.file], [], [], max(0, until - time.monotonic()))
            if not ready:
                return False
            self.output += os.read(self.file, 4096).decode(errors="replace")
        self.output = self.output.partition(text)[2]
        return True

    def close(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        os.close(self.file)


START = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
}
READY = {
    "bash": "",
    "zsh": "autoload -U compinit; compinit -u -D; ",
}


@pytest.fixture
def terminal(request: pytest.FixtureRequest, place: Path) -> Iterator[Terminal]:
    shell = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    one = Terminal(*START[shell])
    # The shell joins the words, so that the echo of the line does not look like its output.
    one.type(f'{READY[shell]}eval "$(provision completion {shell})"; echo rea""dy\n')
    assert one.prints("ready"), one.output
    yield one
    one.close()


@pytest.mark.parametrize("terminal", START, indirect=True)
def test_the_tab_key_completes_on_a_terminal(terminal, place) -> None:
    """In an interactive shell, the tab key completes an environment, a key and a directory."""
    terminal.type("echo provi''sion; provision plan -e stag\t")
    assert terminal.prints("staging"), terminal.output
    terminal.type("\x15provision rotate svc-b\t")
    assert terminal.prints("svc-billing"), terminal.output
    terminal.type("\x15provision plan -m mani\t")
    assert terminal.prints("manifests/"), terminal.output


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("provision plan -e ", {"staging", "production"}),
        ("provision rotate svc-", {"svc-billing", "svc-mail"}),
        ("provision plan -m mani", {"manifests/"}),
    ],
)
def test_fish_offers_the_same(line, offered, place) -> None:
    """Fish offers environments, keys and directories."""
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"provision completion fish | source; complete -C'{line}'"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == offered
