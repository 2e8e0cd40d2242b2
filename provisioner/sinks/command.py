"""The sink `command`: a program of the user's that takes the token on its standard input."""

from __future__ import annotations

import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from provisioner.secret import Secret
from provisioner.sinks.sink import Content, Empty, StoredValue, WriteOnly, failed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from provisioner.errors.exceptions import SinkError
    from provisioner.model.sink_address import CommandAddress

_LOG = logging.getLogger(__name__)

_TIMEOUT = 60.0
"""Seconds for one program to end."""

_DYING = 1.0
"""Seconds for a program that was killed to be gone."""

_MOST = 65_536
"""Bytes to read of what `check` prints; no token is as long."""


class Commands:
    """The programs of one run.

    Args:
        root: the folder in which they run, and from which a name with a slash leads.
        timeout: seconds for one of them to end.
    """

    def __init__(self, root: Path, timeout: float = _TIMEOUT) -> None:
        self._root = root
        self.timeout = timeout
        self._lock = threading.Lock()
        self._running: set[int] = set()

    def sink(self, address: CommandAddress) -> CommandSink:
        """The sink of an address; nothing is run yet."""
        return CommandSink(address, self._root, self)

    @contextmanager
    def running(self, session: int) -> Iterator[None]:
        """Notes a program for as long as it runs."""
        with self._lock:
            self._running.add(session)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(session)

    def close(self) -> None:
        """Ends the programs that are still running, with what they started."""
        with self._lock:
            for session in self._running:
                _kill(session)


class CommandSink:
    """Runs a program for each token, and another one, `check`, to read it back.

    The token is the whole standard input, without a line end; it stands in no argument and no
    variable. What the programs print is never shown, because it may repeat the token, and
    messages name the program alone, because its arguments may hold what should not be there. The
    exit code of the program is believed, even where it did not read its input.

    Args:
        root: the folder in which the programs run, and from which a name with a slash leads.
    """

    def __init__(
        self, address: CommandAddress, root: Path, commands: Commands | None = None
    ) -> None:
        self._commands = commands or Commands(root)
        self._argv = address.argv
        self._check = address.check
        self._root = root.absolute()

    def check(self) -> None:
        """Looks whether the programs are there; neither is run.

        Raises:
            SinkError: when one cannot be found or executed.
        """
        for argv in filter(None, (self._argv, self._check)):
            self._program(argv)

    def read(self) -> Content:
        """What `check` prints, less one line end; Unread without a `check`.

        Nothing also when it ends with an exit code: programs that keep secrets have one, often
        the same as for every other trouble, for an entry that is not there (pass(1) and gh have
        1). The token is then delivered, and a trouble that lasts fails that.

        Raises:
            SinkError: when `check` could not be run, did not end in time or ended by a signal.
        """
        if not self._check:
            return WriteOnly()
        with self._running(self._check, subprocess.DEVNULL, subprocess.PIPE) as process:
            output = _output(process, self._commands.timeout)
            code = 0 if len(output) > _MOST else process.wait(self._commands.timeout)
        if code < 0:
            raise _ended(self._check, code)
        if code > 0:
            _LOG.info("%s, a check, ended with exit code %d: no token", self._check[0], code)
            return Empty()
        text = output.decode("utf-8", "surrogateescape")
        if text.endswith("\n"):
            text = text[:-1].removesuffix("\r")
        return StoredValue(Secret.received(text)) if text else Empty()

    def write(self, token: Secret) -> None:
        """Runs the program with the token on its standard input.

        Raises:
            SinkError: when it could not be run, did not end in time or did not end with exit
                code 0; it may have stored the token even so.
        """
        with self._running(self._argv, subprocess.PIPE, subprocess.DEVNULL) as process:
            said = token.reveal().encode("utf-8", "surrogatepass")
            process.communicate(said, self._commands.timeout)
        if process.returncode:
            raise _ended(self._argv, process.returncode)

    def _program(self, argv: tuple[str, ...]) -> str:
        """The path of a program, from the root or on the PATH."""
        name = argv[0]
        if sys.platform == "win32":
            raise failed(
                "sink_unsuitable",
                f"{_named(argv)} cannot be used on Windows, where a program that hangs cannot be "
                "ended together with what it started.",
                "Use another sink, or run on Linux or macOS.",
            )
        program = shutil.which(str(self._root / name) if os.path.dirname(name) else name)  # noqa: PTH120 - a Path forgets the dot of `./name`
        if program is None:
            raise failed(
                "sink_missing",
                f"{_named(argv)} is not there or cannot be executed.",
                "Install the program, or correct its name.",
            )
        return os.path.abspath(program)  # noqa: PTH100 - as `which`, in texts

    @contextmanager
    def _running(
        self, argv: tuple[str, ...], stdin: int, stdout: int
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A running program; neither it nor what it started in its session outlives a trouble."""
        program = self._program(argv)
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own list of arguments, no shell
                argv,
                executable=program,
                cwd=self._root,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "a NUL in an argument"
            raise failed(
                "sink_failed",
                f"{_named(argv)} could not be started: {why}.",
                "Mend the program or its arguments.",
            ) from None
        try:
            try:
                with self._commands.running(process.pid):
                    yield process
            except subprocess.TimeoutExpired:
                raise failed(
                    "sink_unavailable",
                    f"{_named(argv)} did not end within {self._commands.timeout:.0f} seconds.",
                    "Look what it waits for; it must not ask for anything.",
                ) from None
            finally:
                if process.poll() is None:
                    _kill(process.pid)
        finally:
            for pipe in filter(None, (process.stdin, process.stdout)):
                with suppress(OSError):
                    pipe.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_DYING)


def _kill(session: int) -> None:
    # One that is gone needs no end, and one that has become another user's is left behind.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)


def _output(process: subprocess.Popen[bytes], timeout: float) -> bytes:
    """What a program prints until it ends, and hardly more of it than the most.

    Its end counts, not that of the pipe, which a program that it started may hold open.
    """
    assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    end = time.monotonic() + timeout
    output = b""
    while len(output) <= _MOST:
        ended = process.poll() is not None
        try:
            part = os.read(pipe, _MOST)
        except BlockingIOError:
            if ended:
                break
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(process.args, timeout) from None
            poll.poll(50)
            continue
        if not part:
            break
        output += part
    return output


def _named(argv: tuple[str, ...]) -> str:
    return f"command {argv[0]}"


def _ended(argv: tuple[str, ...], code: int) -> SinkError:
    ending = f"exit code {code}"
    if code < 0:
        ending = f"signal {-code}"
        with suppress(ValueError):
            ending = signal.Signals(-code).name
    return failed(
        "sink_failed",
        f"{_named(argv)} ended with {ending}.",
        "Run it by hand with another input to see what it says.",
    )
