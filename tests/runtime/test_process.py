"""The programs of a run, none of which outlives it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from provisioner.runtime.process import Processes

WAITING = (sys.executable, "-S", "-c", "input()")


@pytest.mark.parametrize("end", ["of the block", "of the run"])
def test_a_program_is_killed_without_process_groups(monkeypatch, end: str) -> None:
    """Windows has no process groups, so the program itself is killed."""
    processes = Processes()
    with processes.running(WAITING, stdin=subprocess.PIPE) as process:
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.delattr(os, "killpg", raising=False)
        if end == "of the run":
            processes.close()
            process.wait(60)
    assert process.returncode not in (0, None)


def test_a_run_that_has_ended_starts_no_program() -> None:
    """A thread that comes too late gets an error instead of a program that nobody ends."""
    processes = Processes()
    processes.close()
    with pytest.raises(OSError, match="cancel"), processes.running(WAITING):
        pass
