"""Shared helpers for the tests of files: other users, locks, and temporary mounts."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from compliance import Backend

from provisioner.sinks.file_write import Folders, LockWait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = 65534

STEPS = """
import logging, sys
from pathlib import Path
from provisioner.sinks.file import FileAddress
from provisioner.errors.exceptions import SinkError
from provisioner.secret import Secret
from provisioner.sinks.file import Files
logging.basicConfig(format="warning|%(message)s|", stream=sys.stdout)
root, name, *steps = sys.argv[1:]
files = Files(Path(root))
for step in steps:
    sink = files.sink(FileAddress(name, "KEY"))
    try:
        sink.check() if step == "check" else sink.write(Secret(step))
    except SinkError as error:
        print(error.code, error.message, error.remedy, sep="|")
    else:
        print("ok||")
"""
"""Checks a sink, or writes a token to it, and prints the result of each step."""


@dataclass(frozen=True)
class Step:
    """The result of one step, or a warning between two steps."""

    code: str
    message: str
    remedy: str


@contextmanager
def as_user(user: int) -> Iterator[None]:
    """Act as another user for a while, which only root can."""
    before = os.geteuid()
    if before != user:
        os.seteuid(0 if before else user)
        os.seteuid(user)
    try:
        yield
    finally:
        if before != user:
            os.seteuid(0 if user else before)
            os.seteuid(before)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


class DiskBackend(Backend):
    """A sink in one file, below a folder that may be read-only or locked.

    Args:
        root: the folder.
        path: the file.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self.root = root
        self.path = path
        self.folders = Folders()

    @contextmanager
    def denied(self) -> Iterator[None]:
        self.root.chmod(0o500)
        with as_user(os.getuid() or NOBODY):
            yield
        self.root.chmod(0o700)

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self.folders = Folders(LockWait(0.1))
        self.path.parent.mkdir(exist_ok=True)
        with locked(self.path.parent):
            yield
        self.folders = Folders()


def require_mounts() -> None:
    """Skip a test if mounts that end with a process cannot be created."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    result = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if result.returncode:
        pytest.skip("this user may not mount anything")


def run_steps(mounts: str, root: Path, name: str, *steps: str) -> list[Step]:
    """Run steps one after the other in one process that has its own mounts, and return the results.

    Args:
        mounts: lines of a shell script that create them, with the folder as `$1`.
        root: the folder.
        name: the name of the file in it.
        steps: `check`, or a token to write.
    """
    require_mounts()
    script = f'set -e\n{mounts}\nshift\nexec "$@"'
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", root, sys.executable, "-c", STEPS]
        + [root, name, *steps],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [Step(*line.split("|")) for line in result.stdout.splitlines()]
