"""Start `provision` as a process of its own, without paying for its imports each time.

A server that has imported everything forks itself for each run. What comes of it is a real
process, and a child of the test: with its own streams, variables, folder and signals. Where the
system cannot do that, Python starts anew. A test that is about Python's own start runs
`[sys.executable, "-m", "provisioner"]`.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import socket
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

_SERVER = """
import gc, json, os, resource, signal, socket, sys, time
import pkgutil, importlib, provisioner
for module in pkgutil.walk_packages(provisioner.__path__, "provisioner."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import requests, yaml, jsonschema, nacl.public, rich.console
from provisioner.cli import main
gc.collect()
gc.freeze()
server = socket.socket(fileno=int(sys.argv[1]))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def run(order):
    if order["session"]:
        os.setsid()
    if order["address_space"]:
        resource.setrlimit(resource.RLIMIT_AS, (order["address_space"],) * 2)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    sys.argv = ["provision", *order["arguments"]]
    sys.stdin = open(0, encoding="utf-8")
    sys.stdout = open(1, "w", encoding="utf-8")
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    if order["script"] is None:
        return main()
    sys.argv[0] = "-c"
    exec(compile(order["script"], "<string>", "exec"), {"__name__": "__main__"})
    return 0

while True:
    order, files, _, _ = socket.recv_fds(server, 1 << 20, 4)
    if not order:
        break
    if os.fork() == 0:
        server.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        *streams, result = files
        process = os.fork()
        if process == 0:
            os.close(result)
            for number, file in enumerate(streams):
                os.dup2(file, number)
                os.close(file)
            sys.exit(run(json.loads(order)))
        for file in (0, 1, 2, *streams):
            os.close(file)
        os.write(result, process.to_bytes(8))
        _, status, usage = os.wait4(process, 0)
        os.write(result, status.to_bytes(8) + usage.ru_maxrss.to_bytes(8))
        os._exit(0)
    for file in files:
        os.close(file)
"""


class _Server:
    """Forks for the tests of one process, which may be several at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(its.fileno())],
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        its.close()
        atexit.register(self._end)

    def fork(self, order: dict[str, Any], streams: list[int]) -> tuple[int, int]:
        """Return the id of the process, and the file that tells its status at its end."""
        read, write = os.pipe()
        with self._lock:
            socket.send_fds(self._ours, [json.dumps(order).encode()], [*streams, write])
        os.close(write)
        return int.from_bytes(os.read(read, 8)), read

    def _end(self) -> None:
        self._ours.close()
        self._process.wait()


@cache
def _server_of(process: int) -> _Server | None:
    del process  # a test process that was forked has one of its own
    return _Server() if sys.platform.startswith("linux") else None


class Provision(subprocess.Popen[Any]):
    """`provision` in a process of its own; what else `subprocess.Popen` takes, it takes.

    Args:
        arguments: the words after `provision`.
        script: Python that runs in place of the command, which it may end in.
        address_space: bytes that it may map, where that is bounded.
        options: as of `subprocess.Popen`.

    Attributes:
        megabytes: the most memory that it had, once it is over; 0 where Python started anew.
    """

    _status: int | None = None

    def __init__(
        self,
        *arguments: object,
        script: str | None = None,
        address_space: int = 0,
        **options: Any,
    ) -> None:
        self._arguments = [str(one) for one in arguments]
        self._script = script
        self._address_space = address_space
        self.megabytes = 0.0
        program = ["-m", "provisioner"] if script is None else ["-c", script]
        super().__init__([sys.executable, *program, *self._arguments], **options)

    def _execute_child(self, *given: Any) -> None:
        inherited: Any = super()
        names = subprocess.Popen._execute_child.__code__.co_varnames[1:]  # type: ignore[attr-defined]
        named = dict(zip(names, given, strict=False))
        server = _server_of(os.getpid())
        if server is None or named["preexec_fn"] is not None or named["pass_fds"]:
            inherited._execute_child(*given)
            return
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        streams = (named["p2cread"], named["c2pwrite"], named["errwrite"])
        order = {
            "arguments": self._arguments,
            "script": self._script,
            "cwd": str(named["cwd"] or Path.cwd()),
            "env": dict(os.environ if named["env"] is None else named["env"]),
            "session": named["start_new_session"],
            "address_space": self._address_space,
        }
        files = [own if file == -1 else file for own, file in enumerate(streams)]
        self.pid, self._status = server.fork(order, files)
        self._child_created = True
        inherited._close_pipe_fds(*(named[one] for one in pipes))

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        inherited: Any = super()
        if self._status is None:
            found: tuple[int, int] = inherited._try_wait(wait_flags)
            return found
        if wait_flags & os.WNOHANG and not select.select([self._status], [], [], 0)[0]:
            return 0, 0
        found = os.read(self._status, 16)
        os.close(self._status)
        self.megabytes = int.from_bytes(found[8:]) / 1024
        return self.pid, int.from_bytes(found[:8])

    def _internal_poll(self, _deadstate: int | None = None, **more: Any) -> int | None:
        inherited: Any = super()
        if self._status is None:
            code: int | None = inherited._internal_poll(_deadstate, **more)
            return code
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):
            try:
                if self.returncode is None:
                    process, status = self._try_wait(os.WNOHANG)
                    if process:
                        inherited._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


def provision(
    *arguments: object, timeout: float = 60, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run `provision` to its end, without a terminal, and return its code and what it printed."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Provision(*arguments, **{**streams, "text": True, **options}) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)
