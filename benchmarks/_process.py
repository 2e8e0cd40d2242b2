"""Programs run as users run them, as separate processes from start to exit."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from _manifests import TOKEN_VARIABLE

if TYPE_CHECKING:
    from types import TracebackType

_BYTES_PER_KIB = 1024


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of a program.

    Attributes:
        seconds: wall time in seconds.
        cpu: CPU time in seconds.
        peak: maximum resident memory in MB of 10**6 bytes.
        output: stdout.
    """

    seconds: float
    cpu: float
    peak: float
    output: bytes


class Programs:
    """Runs programs, with a folder that is removed after the benchmark.

    The folder also holds bytecode, so that all programs except the first find it compiled, as in
    an installation, even if the checkout is not writable.

    Attributes:
        folder: the folder, for manifests.
    """

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self._scratch.name)
        # A PROVISION_FORMAT of the user would change the result.
        self._environment = {
            name: text
            for name, text in os.environ.items()
            if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("PROVISION_")
        }
        self._environment["PYTHONPYCACHEPREFIX"] = str(self.folder / "bytecode")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scratch.cleanup()

    def python(self, *arguments: str, stdin: str = "") -> Ran:
        """Run this interpreter."""
        return self.run(sys.executable, *arguments, stdin=stdin)

    def provision(self, command: str, manifests: Path, *options: str, token: str = "none") -> Ran:
        """Run a command of `provision` on a manifests directory.

        Args:
            command: the command, such as `apply`.
            manifests: the manifests directory.
            options: options of the command.
            token: the value of the variable in the environments.yaml of the benchmarks.
        """
        program = str(Path(sysconfig.get_path("scripts"), "provision"))
        return self.run(program, command, "-m", str(manifests), *options, token=token)

    def run(self, *command: str, stdin: str = "", token: str = "none") -> Ran:
        """Run any program.

        Raises:
            SystemExit: if its exit code is not 0.
        """
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as sink:
            source.write(stdin.encode())
            source.seek(0)
            started = time.perf_counter()
            process = subprocess.Popen(
                command,
                stdin=source,
                stdout=sink,
                env={**self._environment, TOKEN_VARIABLE: token},
            )
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                raise SystemExit(f"{' '.join(command)} exited with code {process.returncode}")
            sink.seek(0)
            cpu = usage.ru_utime + usage.ru_stime
            # On Linux a process inherits the peak of its parent, so this one stays small.
            return Ran(seconds, cpu, usage.ru_maxrss * _BYTES_PER_KIB / 1e6, sink.read())
