"""What the tests of files share: other users, locks, and mounts that end with a process."""

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

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = 65534

STEPS = """
import logging, sys
from pathlib import Path
from provisioner.model.sink_address import FileAddress
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
        print("fine||")
"""
"""Prepares a sink, or writes a token into it, and says how each of the steps ended."""


@dataclass(frozen=True)
class Step:
    """How one step ended, or a warning in between."""

    code: str
    message: str
    remedy: str


@contextmanager
def as_user(user: int) -> Iterator[None]:
    """As another user, whom a test that runs as root can be for a while."""
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


def require_mounts() -> None:
    """Skips a test where mounts that end with a process cannot be made."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    tried = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("this user may not mount anything")


def run_steps(mounts: str, root: Path, name: str, *steps: str) -> list[Step]:
    """How steps went, one after the other in one run, in a process with mounts of its own.

    Args:
        mounts: lines of a shell that make them, with the folder as `$1`.
        root: the folder.
        name: of the file in it.
        steps: `prepare`, or a token to be written.
    """
    require_mounts()
    script = f'set -e\n{mounts}\nshift\nexec "$@"'
    told = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", root, sys.executable, "-c", STEPS]
        + [root, name, *steps],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [Step(*line.split("|")) for line in told.stdout.splitlines()]
