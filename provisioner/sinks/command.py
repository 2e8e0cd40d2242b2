"""The sink `command`: a program of the user that reads the token from its standard input."""

from __future__ import annotations

import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from provisioner.errors.codes import Code
from provisioner.model.sink_address import Address
from provisioner.model.sink_content import NoToken, Receipt, Unreadable
from provisioner.runtime.process import Processes
from provisioner.secret import Secret
from provisioner.sinks.kind import Option, SinkKind
from provisioner.sinks.receipt import parse_receipt, receipt_text
from provisioner.sinks.sink import Content, SinkFailure, StoredValue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from provisioner.errors.exceptions import SinkError

_LOG = logging.getLogger(__name__)

_TIMEOUT = 60.0
"""Seconds for one program to finish."""

_MAX_OUTPUT = 65_536
"""Bytes to read from the output of `check`; no token is as long."""

RECEIPT_VARIABLE = "TWENTY_KEY_RECEIPT"
"""The environment variable with the receipt of the token, which is no secret."""


@dataclass(frozen=True, slots=True)
class CommandAddress(Address):
    """A program that takes the token on its standard input.

    Attributes:
        argv: the program and its arguments, run without a shell.
        check: a program that prints the stored token, or nothing if there is none; empty if the
            sink has no such program.
    """

    kind: ClassVar[str] = "command"
    argv: tuple[str, ...]
    check: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place."""
        return ("command", *self.argv)

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the names of the programs."""
        return tuple(program[0] for program in self.programs if program)

    @property
    def programs(self) -> tuple[tuple[str, ...], ...]:
        """Return the program, and `check`."""
        return (self.argv, self.check)

    @property
    def shows_delivery(self) -> bool:
        """Return whether there is a `check`."""
        return bool(self.check)

    def __str__(self) -> str:
        return f"command {' '.join(self.argv)}"


class Commands:
    """The programs of one run.

    Args:
        root: the folder that they run in, and that a name with a slash is relative to.
        processes: the processes of the run; it ends those that still run.
        timeout: seconds for one of them to finish.
    """

    def __init__(
        self, root: Path, processes: Processes | None = None, timeout: float = _TIMEOUT
    ) -> None:
        self.root = root.absolute()
        self.processes = processes or Processes()
        self.timeout = timeout

    def sink(self, address: CommandAddress) -> CommandSink:
        """Return the sink of an address; nothing is run yet."""
        return CommandSink(address, self)


class CommandSink:
    """Runs a program for each token, and another one, `check`, to read it back.

    The token is the whole standard input, without a line break. It is in no argument and no
    variable. The output of the programs is never shown, because it may repeat the token, and
    messages name only the program, because its arguments may contain secrets. The exit code of the
    program is trusted, even if it did not read its input.
    """

    def __init__(self, address: CommandAddress, commands: Commands) -> None:
        self._argv = address.argv
        self._check = address.check
        self._commands = commands

    def check(self) -> None:
        """Check that the programs exist, without running them.

        Raises:
            SinkError: one of them cannot be found or executed.
        """
        for argv in filter(None, (self._argv, self._check)):
            self._find_program(argv)

    def read(self) -> Content:
        """Return the output of `check` without its line break; Unreadable without a `check`.

        A `check` may print the receipt of the token instead of the token itself.

        A failing `check` counts as NoToken: password managers exit with the same code for a missing
        entry as for any other error (pass(1) and gh use 1). The token is then delivered, and an
        error that persists makes that fail.

        Raises:
            SinkError: `check` could not be started, timed out or was killed by a signal.
        """
        if not self._check:
            return Unreadable()
        with self._start(self._check, subprocess.DEVNULL, subprocess.PIPE) as process:
            output = _read_output(process, self._commands.timeout)
            code = 0 if len(output) > _MAX_OUTPUT else process.wait(self._commands.timeout)
        if code < 0:
            raise _exit_error(self._check, code)
        if code > 0:
            _LOG.info("check %s exited with code %d: no token found", self._check[0], code)
            return NoToken()
        text = output.decode("utf-8", "surrogateescape")
        if text.endswith("\n"):
            text = text[:-1].removesuffix("\r")
        if (receipt := parse_receipt(text)) is not None:
            return Unreadable(receipt=Receipt(receipt.token))
        return StoredValue(Secret.received(text)) if text else NoToken()

    def write(self, token: Secret) -> None:
        """Run the program with the token on its standard input.

        Raises:
            SinkError: the program could not be started, timed out or failed. It may have stored the
                token nevertheless.
        """
        receipt = receipt_text(token)
        environ = None if receipt is None else {**os.environ, RECEIPT_VARIABLE: receipt}
        with self._start(self._argv, subprocess.PIPE, subprocess.DEVNULL, environ) as process:
            data = token.reveal().encode("utf-8", "surrogatepass")
            process.communicate(data, self._commands.timeout)
        if process.returncode:
            raise _exit_error(self._argv, process.returncode)

    def _find_program(self, argv: tuple[str, ...]) -> str:
        """Return the path of a program, relative to the root or found on the PATH."""
        _refuse_on_windows(argv)
        name = argv[0]
        program = shutil.which(str(self._commands.root / name) if os.path.dirname(name) else name)  # noqa: PTH120 - a Path drops the dot of `./name`
        if program is None:
            reason = "does not exist or is not executable"
            remedy = "Install the program, or correct its name."
            raise _failure(Code.SINK_MISSING, argv, reason, remedy)
        return os.path.abspath(program)  # noqa: PTH100 - `which` returns a text too

    @contextmanager
    def _start(
        self,
        argv: tuple[str, ...],
        stdin: int,
        stdout: int,
        environ: Mapping[str, str] | None = None,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a program, and kill it with all that it started if anything fails.

        Raises:
            SinkError: it could not be started, or timed out.
        """
        program = self._find_program(argv)
        try:
            with self._commands.processes.running(
                argv,
                stdin=stdin,
                stdout=stdout,
                executable=program,
                cwd=self._commands.root,
                environ=environ,
            ) as process:
                yield process
        except subprocess.TimeoutExpired:
            reason = f"did not finish within {self._commands.timeout:.0f} seconds"
            remedy = "Find out what it waits for; it must not prompt for input."
            raise _failure(Code.SINK_UNAVAILABLE, argv, reason, remedy) from None
        except (OSError, ValueError) as error:
            cause = getattr(error, "strerror", "NUL character in an argument")
            reason, remedy = (
                f"could not be started: {cause}",
                "Correct the program or its arguments.",
            )
            raise _failure(Code.SINK_FAILED, argv, reason, remedy) from None


def _refuse_on_windows(argv: tuple[str, ...]) -> None:
    if sys.platform == "win32":
        reason = "cannot be used on Windows, where a program that hangs cannot be stopped"
        remedy = "Run on Linux or macOS, or use another kind of sink or target."
        raise _failure(Code.SINK_UNSUITABLE, argv, reason, remedy)


def _read_output(process: subprocess.Popen[bytes], timeout: float) -> bytes:
    """Return the output of a program up to slightly more than the maximum.

    Reading stops when the program terminates, even if a child process still has the pipe open.
    """
    if sys.platform != "win32":
        assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
        pipe = process.stdout.fileno()
        os.set_blocking(pipe, False)
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        deadline = time.monotonic() + timeout
        output = b""
        while len(output) <= _MAX_OUTPUT:
            has_exited = process.poll() is not None
            try:
                chunk = os.read(pipe, _MAX_OUTPUT)
            except BlockingIOError:
                if has_exited:
                    break
                if time.monotonic() > deadline:
                    raise subprocess.TimeoutExpired(process.args, timeout) from None
                poll.poll(50)
                continue
            if not chunk:
                break
            output += chunk
        return output
    raise NotImplementedError  # no program was started: Windows is refused


def _failure(code: Code, argv: tuple[str, ...], reason: str, remedy: str) -> SinkError:
    return SinkFailure(code, reason, remedy).error(f"command {argv[0]}")


def _exit_error(argv: tuple[str, ...], code: int) -> SinkError:
    cause = f"exit code {code}"
    if code < 0:
        cause = f"signal {-code}"
        with suppress(ValueError):
            cause = signal.Signals(-code).name
    remedy = "Run it manually with different input to see its output."
    return _failure(Code.SINK_FAILED, argv, f"failed with {cause}", remedy)


SINK = SinkKind(
    title="Command",
    description="A program that reads the token from its standard input.",
    options=(
        Option(
            "command",
            "Command",
            "The program and its arguments, run without a shell.",
            is_program=True,
            examples=(["gh", "secret", "set", "TWENTY_KEY", "--repo", "acme/billing"],),
        ),
        Option(
            "check",
            "Check",
            "A command (a program and its arguments) that prints the stored token or its receipt, "
            "or nothing if there is none.",
            is_program=True,
        ),
    ),
    address=lambda values: CommandAddress(values.program("command"), values.program("check")),
    connect=lambda context: Commands(context.root, context.processes).sink,
    program_of=lambda address, _: address.argv[0],
)
