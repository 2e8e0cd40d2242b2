"""Tokens on the standard input of programs that succeed, fail or hang."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builders import END, observed_key
from compliance import FIRST, SECOND, Backend, Compliance
from model_server import token as token_of
from programs import wait_until_ended

from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_content import NoToken, Unreadable
from provisioner.plan.delivery import delivered_at, holds_good_token
from provisioner.secret import Secret
from provisioner.sinks import command as module
from provisioner.sinks.command import CommandAddress, Commands, CommandSink
from provisioner.sinks.probe import content_of
from provisioner.sinks.sink import StoredValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provisioner.sinks.sink import Sink

STORE = """
import os, sys, time
from pathlib import Path
hang, place = Path("hang"), Path("stored", sys.argv[2])
if hang.exists(): time.sleep(60)
if sys.argv[1] == "get": sys.exit(print(place.read_text()) if place.exists() else "nothing there")
token = sys.stdin.read()
aside = place.with_name(f"{place.name}-{os.getpid()}")
aside.write_text(token)
aside.replace(place)
print(token)
print(token, file=sys.stderr)
"""


class CommandBackend(Backend):
    def __init__(self, root: Path, *, check: bool) -> None:
        self.root = root
        self.commands = Commands(root)
        self.readable = check
        (root / "store.py").write_text(STORE)
        (root / "stored").mkdir()

    def named(self, name: str) -> Sink:
        program = (sys.executable, "store.py")
        check = (*program, "get", name) if self.readable else ()
        return self.commands.sink(CommandAddress((*program, "put", name), check))

    def sink(self, place: int = 0) -> Sink:
        return self.named(f"KEY_{place}")

    def stored(self, place: int = 0) -> str | None:
        path = self.root / "stored" / f"KEY_{place}"
        return path.read_text() if path.exists() else None

    def strange_names(self) -> tuple[Sink, ...]:
        return tuple(map(self.named, ("a b", "$(id)", "'\"", "-n", "ö🗝", "line\nend", "*", "\\")))

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        (self.root / "hang").touch()
        self.commands = Commands(self.root, timeout=0.2)
        yield
        self.commands = Commands(self.root)
        (self.root / "hang").unlink()


class TestCommand(Compliance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return CommandBackend(tmp_path, check=True)


class TestCommandWithoutCheck(Compliance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return CommandBackend(tmp_path, check=False)


def shell(root: Path, script: str, check: str = "", *, timeout: float = 60) -> CommandSink:
    address = CommandAddress(("sh", "-c", script), ("sh", "-c", check) if check else ())
    return Commands(root, timeout=timeout).sink(address)


def error_of(action: Callable[[], object]) -> SinkError:
    with pytest.raises(SinkError) as raised:
        action()
    assert raised.value.remedy
    return raised.value


# Programs


def test_the_token_is_the_whole_input(tmp_path: Path) -> None:
    """It has no line break and is in no argument or variable; the program runs in the root."""
    inner = (
        "import os, sys; print([os.getcwd(), sys.argv, dict(os.environ)], file=open('record','w'))"
    )
    script = f'cat > got; exec "{sys.executable}" -c "{inner}" one two'
    shell(tmp_path, script).write(Secret(FIRST))
    assert (tmp_path / "got").read_bytes() == FIRST.encode()
    record = (tmp_path / "record").read_text()
    assert "'one', 'two'" in record
    assert repr(str(tmp_path)) in record
    assert FIRST not in record


def test_arguments_are_not_passed_to_a_shell(tmp_path: Path) -> None:
    """The arguments arrive unchanged."""
    words = ("$(touch created)", "; touch created", "a  b", "")
    script = "import sys; open('record', 'w').write(repr(tuple(sys.argv[1:])))"
    address = CommandAddress((sys.executable, "-c", script, *words))
    Commands(tmp_path).sink(address).write(Secret(FIRST))
    assert (tmp_path / "record").read_text() == repr(words)
    assert not (tmp_path / "created").exists()


def executable(path: Path, text: str = "#!/bin/sh\ncat > stored\n", mode: int = 0o700) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


@pytest.mark.parametrize("name", ["./store", "bin/store", "bin/../bin/store"])
def test_a_name_with_a_slash_is_relative_to_the_root(
    tmp_path: Path, monkeypatch, name: str
) -> None:
    """The current folder and the PATH do not matter."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    executable(root / "store")
    executable(root / "bin" / "store")
    monkeypatch.chdir(elsewhere)
    sink = Commands(root).sink(CommandAddress((name,)))
    sink.check()
    sink.write(Secret(FIRST))
    assert (root / "stored").read_text() == FIRST


def test_a_bare_name_is_searched_only_on_the_path(tmp_path: Path, monkeypatch) -> None:
    """A relative entry of the PATH starts from the current folder of this process."""
    root = tmp_path / "root"
    root.mkdir()
    executable(tmp_path / "bin" / "store")
    executable(root / "other")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"bin:{os.environ['PATH']}")
    sink = Commands(root).sink(CommandAddress(("store",)))
    sink.check()
    sink.write(Secret(FIRST))
    assert (root / "stored").read_text() == FIRST
    assert error_of(Commands(root).sink(CommandAddress(("other",))).check).code == "sink_missing"


@pytest.mark.parametrize("name", ["no-such-program", "./none", "./not-executable", "./folder", ""])
@pytest.mark.parametrize("which", ["argv", "check"])
def test_a_missing_program_is_reported(tmp_path: Path, name: str, which: str) -> None:
    """A missing file, a file that is not executable or a folder is reported, for both programs."""
    executable(tmp_path / "not-executable", mode=0o600)
    (tmp_path / "folder").mkdir()
    good, bad = ("sh", "-c", "exit 0"), (name, "argument-canary")
    address = CommandAddress(bad) if which == "argv" else CommandAddress(good, bad)
    sink = Commands(tmp_path).sink(address)
    error = error_of(sink.check)
    assert error.code == "sink_missing"
    assert "argument-canary" not in error.message
    action = (lambda: sink.write(Secret(FIRST))) if which == "argv" else sink.read
    assert error_of(action).code == "sink_missing"


@pytest.mark.parametrize(
    ("argv", "text"),
    [(("./invalid",), "no program"), (("./invalid",), "#!/no/such/shell\n"), (("sh", "a\0b"), "")],
)
def test_a_program_that_cannot_be_started_is_reported(tmp_path: Path, argv, text: str) -> None:
    """If the system refuses to run a program, that is an error of the sink."""
    executable(tmp_path / "invalid", text)
    sink = Commands(tmp_path).sink(CommandAddress(argv, argv))
    assert error_of(lambda: sink.write(Secret(FIRST))).code == "sink_failed"
    assert error_of(sink.read).code == "sink_failed"


# Exit codes, signals and timeouts


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("cat >&2; exit 3", "exit code 3"),
        ("cat; exit 255", "exit code 255"),
        ("kill -TERM $$", "SIGTERM"),
        (f"kill -{signal.SIGRTMIN + 3} $$", f"signal {signal.SIGRTMIN + 3}"),
    ],
)
def test_a_failing_program_is_reported(
    tmp_path: Path, capfd, caplog, script: str, cause: str
) -> None:
    """The message has its exit code or signal, but not its output or arguments."""
    caplog.set_level(logging.DEBUG)
    sink = shell(tmp_path, f"{script} # argument-canary")
    error = error_of(lambda: sink.write(Secret(FIRST)))
    assert error.code == "sink_failed"
    assert error.message == f"command sh failed with {cause}."
    shown = repr((error.args, error.remedy, error.__cause__, sink, capfd.readouterr(), caplog.text))
    assert FIRST not in shown
    assert "argument-canary" not in shown


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("behaviour", ["exec <&-; sleep 0.1", "sleep 0.1", ""])
def test_unread_input_is_not_an_error(tmp_path: Path, code: int, behaviour: str) -> None:
    """The exit code counts, even if a program closes its input or never reads it."""
    sink = shell(tmp_path, f"{behaviour}\nexit {code}")
    for token in (FIRST, "x" * 1_000_000):
        if code:
            assert error_of(lambda token=token: sink.write(Secret(token))).code == "sink_failed"
        else:
            sink.write(Secret(token))


HANG = "sleep 60 & echo $! > child; echo $$ > pid; {}wait"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("behaviour", ["", "trap '' TERM INT HUP; ", "exec >&-; "])
@pytest.mark.parametrize("step", ["read", "write"])
def test_a_hanging_program_is_killed(tmp_path: Path, behaviour: str, step: str) -> None:
    """After the timeout its whole session is killed, whatever signals it ignores."""
    script = HANG.format(behaviour)
    sink = shell(tmp_path, script, script, timeout=0.5)
    error = error_of(sink.read if step == "read" else lambda: sink.write(Secret(FIRST)))
    assert error.code == "sink_unavailable"
    assert wait_until_ended(tmp_path / "pid")
    assert wait_until_ended(tmp_path / "child")


@pytest.mark.parametrize("step", ["read", "write"])
def test_a_child_process_is_not_waited_for(tmp_path: Path, step: str) -> None:
    """Only the end of the program counts, though its child process keeps the pipes open."""
    script = "sleep 60 & echo $! > child; printf stored"
    sink = shell(tmp_path, script, script)
    before = time.monotonic()
    if step == "read":
        content = sink.read()
        assert isinstance(content, StoredValue)
        assert content.value.reveal() == "stored"
    else:
        sink.write(Secret(FIRST))
    assert time.monotonic() - before < 30
    child = int((tmp_path / "child").read_text())
    os.kill(child, signal.SIGKILL)


def test_endless_output_is_discarded(tmp_path: Path) -> None:
    """The output of a program neither fills the memory nor stops the run."""
    sink = shell(tmp_path, "head -c 300000000 /dev/zero; cat > stored", "cat /dev/zero")
    sink.write(Secret(FIRST))
    assert (tmp_path / "stored").read_text() == FIRST
    content = sink.read()
    assert isinstance(content, StoredValue)
    assert len(content.value.reveal()) <= 2 * module._MAX_OUTPUT


def test_signals_are_as_a_program_expects(tmp_path: Path) -> None:
    """SIGPIPE kills it as in a shell, though Python itself ignores that signal."""
    sink = shell(tmp_path, "(yes; echo $? > code) | head -n 1; cat > stored")
    sink.write(Secret(FIRST))
    assert int((tmp_path / "code").read_text()) == 128 + signal.SIGPIPE


def test_programs_run_in_parallel(tmp_path: Path) -> None:
    """Each write is a separate process: two programs that wait for each other both finish."""
    script = "cat > stored-{0}; until [ -e stored-{1} ]; do sleep 0.01; done"
    sinks = [shell(tmp_path, script.format(*pair)) for pair in (("a", "b"), ("b", "a"))]
    threads = [threading.Thread(target=sink.write, args=(Secret(FIRST),)) for sink in sinks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def test_no_program_outlives_the_run(tmp_path: Path) -> None:
    """The end of the run kills a program that has only just been started, and starts no more."""
    commands = Commands(tmp_path)
    script = "echo $$ > pid; exec sleep 300"
    sink = commands.sink(CommandAddress(("sh", "-c", script)))
    started = threading.Event()
    popen = subprocess.Popen

    def slow(*args: object, **options: object) -> object:
        process = popen(*args, **options)
        started.set()
        closed.wait(0.2)
        return process

    closed = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", slow)
        thread = threading.Thread(target=lambda: error_of(lambda: sink.write(Secret(FIRST))))
        thread.start()
        started.wait(30)
        commands.processes.close()
        closed.set()
        thread.join(30)
    assert not thread.is_alive()
    assert wait_until_ended(tmp_path / "pid")
    assert error_of(lambda: sink.write(Secret(FIRST))).code == "sink_failed"


# Checks


@pytest.mark.parametrize(
    ("check", "value"),
    [
        ("printf token", "token"),
        ("echo token", "token"),
        ("printf 'token\\r\\n'", "token"),
        ("printf 'token\\n\\n'", "token\n"),
        ("printf 'token\\r'", "token\r"),
        ("printf ' token '", " token "),
        ("printf '\\377'", "\udcff"),
        ("echo token >&2", None),
        ("echo", None),
        ("printf '\\r\\n'", None),
        ("true", None),
        ("cat", None),
        ("echo token; exit 1", None),
    ],
)
def test_a_check_prints_the_stored_token(tmp_path: Path, check: str, value: str | None) -> None:
    """One line break is removed; no output, or an exit code, means no token; there is no input."""
    content = shell(tmp_path, "cat", check).read()
    assert isinstance(content, NoToken if value is None else StoredValue)
    if isinstance(content, StoredValue):
        assert content.value.reveal() == value


def test_an_exit_code_of_a_check_is_logged(tmp_path: Path, caplog) -> None:
    """The log explains why tokens are delivered again, without the output of the check."""
    caplog.set_level(logging.INFO)
    shell(tmp_path, "cat", f"echo {FIRST}; echo {FIRST} >&2; exit 7").read()
    assert [one.getMessage() for one in caplog.records] == [
        "check sh exited with code 7: no token found"
    ]


def test_a_crashing_check_is_an_error(tmp_path: Path) -> None:
    """A signal does not mean that there is no token."""
    error = error_of(shell(tmp_path, "cat", "kill -SEGV $$").read)
    assert (error.code, error.message) == ("sink_failed", "command sh failed with SIGSEGV.")


def test_a_check_may_print_the_receipt_of_the_token(tmp_path: Path) -> None:
    """The program finds it in a variable; it names the key and the expiry, not the token."""
    delivered = token_of("id-a", END)
    sink = shell(tmp_path, 'cat >token; echo "$TWENTY_KEY_RECEIPT" >receipt', "cat receipt")
    sink.write(delivered)
    assert (tmp_path / "token").read_text() == delivered.reveal()
    receipt = (tmp_path / "receipt").read_text()
    assert not any(part in receipt for part in delivered.reveal().split("."))
    content = sink.read()
    assert isinstance(content, Unreadable)
    assert content.proven_token == content_of(StoredValue(delivered))
    key = observed_key(id="id-a", expires_at=END)
    assert (holds_good_token(content, key), delivered_at(content, key)) == (True, key.created_at)
    assert not holds_good_token(content, observed_key(id="id-b", expires_at=END))


def test_without_a_check_nothing_is_read(tmp_path: Path) -> None:
    """No program is run."""
    assert shell(tmp_path, "touch created").read() == Unreadable(None)
    assert list(tmp_path.iterdir()) == []


# Real programs


def test_age_encrypts_a_token(tmp_path: Path) -> None:
    """The documented command for age creates a file that decrypts to the token."""
    if not (shutil.which("age") and shutil.which("age-keygen")):
        pytest.skip("age is not installed (Debian: age)")
    quietly("age-keygen", "-o", str(tmp_path / "id"))
    result = subprocess.run(
        ["age-keygen", "-y", tmp_path / "id"], check=True, stdout=subprocess.PIPE, text=True
    )
    recipient = result.stdout.strip()
    sink = Commands(tmp_path).sink(
        CommandAddress(
            ("age", "--encrypt", "--recipient", recipient, "--output", "key.age"),
            ("age", "--decrypt", "--identity", "id", "key.age"),
        )
    )
    sink.check()
    assert isinstance(sink.read(), NoToken)
    for token in (FIRST, SECOND):
        sink.write(Secret(token))
        assert token.encode() not in (tmp_path / "key.age").read_bytes()
        content = sink.read()
        assert isinstance(content, StoredValue)
        assert content.value.reveal() == token


def quietly(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture
def password_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Create a new password store with its own key."""
    if not (shutil.which("pass") and shutil.which("gpg") and shutil.which("gpgconf")):
        pytest.skip("pass is not installed (Debian: pass, gnupg)")
    # It contains the agent's socket, and the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:
        monkeypatch.setenv("GNUPGHOME", home)
        monkeypatch.setenv("PASSWORD_STORE_DIR", str(tmp_path / "store"))
        monkeypatch.delenv("PASSWORD_STORE_GPG_OPTS", raising=False)
        gpg = ("gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase", "")
        quietly(*gpg, "--quick-generate-key", "twenty@localhost", "default", "default", "never")
        quietly("pass", "init", "twenty@localhost")
        yield
        quietly("gpgconf", "--kill", "all")


@pytest.mark.usefixtures("password_store")
def test_pass_stores_a_token(tmp_path: Path) -> None:
    """The documented commands for pass create an entry, and replace it."""
    sink = Commands(tmp_path).sink(
        CommandAddress(
            ("pass", "insert", "--multiline", "--force", "twenty/key"),
            ("pass", "show", "twenty/key"),
        )
    )
    sink.check()
    assert isinstance(sink.read(), NoToken)
    for token in (FIRST, SECOND):
        sink.write(Secret(token))
        content = sink.read()
        assert isinstance(content, StoredValue)
        assert content.value.reveal() == token
