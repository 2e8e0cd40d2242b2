"""Start `provision` in its own process, without importing everything each time.

A server that has imported everything forks itself for each run. The result is a real process with
its own streams, variables, folder and signals. On systems other than Linux, a new Python starts
instead. Tests of the start itself run `[sys.executable, "-m", "provisioner"]`. Scripts find a
program `provision`, written by `install_program`, that asks the same server.
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
import gc, json, os, resource, select, signal, socket, sys, time
import pkgutil, importlib, provisioner
for module in pkgutil.walk_packages(provisioner.__path__, "provisioner."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import requests, yaml, jsonschema, nacl.public, rich.console
for name in sys.argv[3:]:
    importlib.import_module(name)
from provisioner.cli import main
gc.collect()
gc.freeze()
server, programs = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def run(order):
    if order["session"]:
        os.setsid()
    if order["address_space"]:
        resource.setrlimit(resource.RLIMIT_AS, (order["address_space"],) * 2)
    if "umask" in order:
        os.umask(order["umask"])
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
    source = select.select([server, programs], [], [])[0][0]
    if source is programs:
        source, _ = programs.accept()
    order, files, _, _ = socket.recv_fds(source, 1 << 20, 4)
    if source is not server:
        source.close()
    elif not order:
        break
    if order and os.fork() == 0:
        server.close()
        programs.close()
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
    """Server that forks processes for one test process and all its threads.

    Args:
        preload: what it imports besides the product.
    """

    def __init__(self, preload: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self._socket, child_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        programs = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        programs.bind("")  # Linux chooses a name outside the file system
        programs.listen(64)
        self.address: bytes = programs.getsockname()
        files = [child_socket.fileno(), programs.fileno()]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, *map(str, files), *preload],
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        child_socket.close()
        programs.close()
        atexit.register(self._stop)

    def fork(self, order: dict[str, Any], streams: list[int]) -> tuple[int, int]:
        """Start a process; return its id, and the file that receives its status when it ends."""
        read, write = os.pipe()
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(order).encode()], [*streams, write])
        os.close(write)
        return int.from_bytes(os.read(read, 8)), read

    def _stop(self) -> None:
        self._socket.close()
        self._process.wait()


@cache
def _server_of(process: int, preload: tuple[str, ...]) -> _Server | None:
    del process  # a forked test process has its own servers
    return _Server(preload) if sys.platform.startswith("linux") else None


_PROGRAM = """\
#!{python} -IS
import json, os, signal, socket, sys
order = {{
    "arguments": sys.argv[1:],
    "script": None,
    "cwd": os.getcwd(),
    "env": dict(os.environ),
    "umask": os.umask(0),
    "session": False,
    "address_space": 0,
}}
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
result, write = os.pipe()
socket.send_fds(server, [json.dumps(order).encode()], [0, 1, 2, write])
os.close(write)
process = int.from_bytes(os.read(result, 8))
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(process, number))
sys.exit(os.waitstatus_to_exitcode(int.from_bytes(os.read(result, 16)[:8])))
"""


def install_program(folder: Path) -> Path:
    """Write a program `provision` into a folder, for scripts, and return its path.

    It waits for the process that the server forks, and passes on the signals that end a command.
    """
    server = _server_of(os.getpid(), ())
    text = f'#!/bin/sh\nexec "{sys.executable}" -m provisioner "$@"\n'
    if server is not None:
        text = _PROGRAM.format(python=sys.executable, address=server.address)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "provision"
    path.write_text(text)
    path.chmod(0o755)
    return path


class Provision(subprocess.Popen[Any]):
    """A run of `provision` in its own process, with the options of `subprocess.Popen`.

    Args:
        arguments: the command line after `provision`.
        script: Python code to run instead of the command; it may call the command.
        address_space: bytes that the process may map; 0 for no limit.
        preload: modules that many processes of a test import, and that take long to import.
        options: the options of `subprocess.Popen`.

    Attributes:
        megabytes: the peak memory of the process, after its end; 0 if a new Python was started.
    """

    _status: int | None = None

    def __init__(
        self,
        *arguments: object,
        script: str | None = None,
        address_space: int = 0,
        preload: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        self._arguments = [str(argument) for argument in arguments]
        self._script = script
        self._address_space = address_space
        self._preload = preload
        self.megabytes = 0.0
        program = ["-m", "provisioner"] if script is None else ["-c", script]
        super().__init__([sys.executable, *program, *self._arguments], **options)

    def _execute_child(self, *arguments: Any) -> None:
        inherited: Any = super()
        names = subprocess.Popen._execute_child.__code__.co_varnames[1:]  # type: ignore[attr-defined]
        options = dict(zip(names, arguments, strict=False))
        server = _server_of(os.getpid(), self._preload)
        if server is None or options["preexec_fn"] is not None or options["pass_fds"]:
            inherited._execute_child(*arguments)
            return
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        streams = (options["p2cread"], options["c2pwrite"], options["errwrite"])
        order = {
            "arguments": self._arguments,
            "script": self._script,
            "cwd": str(options["cwd"] or Path.cwd()),
            "env": dict(os.environ if options["env"] is None else options["env"]),
            "session": options["start_new_session"],
            "address_space": self._address_space,
        }
        files = [own if file == -1 else file for own, file in enumerate(streams)]
        self.pid, self._status = server.fork(order, files)
        self._child_created = True
        inherited._close_pipe_fds(*(options[one] for one in pipes))

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
    """Run `provision` without a terminal until it ends, and return its exit code and output."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Provision(*arguments, **{**streams, "text": True, **options}) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)
