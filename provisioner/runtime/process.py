"""The programs that a run starts, none of which outlives it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_KILL_TIMEOUT = 1.0
"""Seconds for a killed program to terminate."""


@dataclass(eq=False)
class Processes:
    """The programs of one run; each leads a session of its own, which is killed as a whole."""

    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set, init=False)
    _closed: bool = field(default=False, init=False)

    @contextmanager
    def running(  # noqa: PLR0913 - the options of `Popen` that differ
        self,
        argv: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        executable: str | None = None,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start a program, and kill it at the end if it is still running.

        Its standard error is discarded, because it may contain secrets.

        Args:
            argv: the program and its arguments; no shell reads them.
            stdin: as for `subprocess.Popen`.
            stdout: as for `subprocess.Popen`.
            executable: the path of the program, if `argv` does not begin with it.
            cwd: the folder that it runs in; None for the current one.
            environ: its environment variables; None for those of this process.

        Raises:
            OSError: it cannot be started, or the run has ended.
            ValueError: an argument contains a NUL character.
        """
        # Under the lock, so that `close` finds every program that has started.
        with self._lock:
            if self._closed:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            process = subprocess.Popen(  # noqa: S603 - the user's own list of arguments, no shell
                argv,
                executable=executable,
                cwd=cwd,
                env=environ,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._running.add(process)
        try:
            yield process
        finally:
            with self._lock:
                self._running.discard(process)
            if process.poll() is None:
                _kill(process)
            for pipe in filter(None, (process.stdin, process.stdout)):
                with suppress(OSError):
                    pipe.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_TIMEOUT)

    def close(self) -> None:
        """Kill the programs that are still running, and all that they started; start no more."""
        with self._lock:
            self._closed = True
            for process in self._running:
                _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and its child processes."""
    if sys.platform == "win32":
        process.kill()
    else:
        # A program that has terminated, or now runs as another user, cannot be killed.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
