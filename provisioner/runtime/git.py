"""Git, started so that nothing in a repository can choose what it runs.

The files of a work tree may come from a stranger's pull request, so git gets options that keep the
configuration of a repository from naming programs, and none of the variables of the run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_HARDENED = (
    *("-c", "safe.bareRepository=explicit"),
    *("-c", "core.fsmonitor=false"),
    *("-c", f"core.hooksPath={os.devnull}"),
)
"""Options that keep a repository's configuration from naming programs for git to run."""

_PASSED_VARIABLES = ("PATH", "HOME", *(("SYSTEMROOT", "USERPROFILE") if os.name == "nt" else ()))
"""The variables that git gets. The others may contain secrets."""

_OFFLINE = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1"}
"""Variables that keep git from fetching objects that are missing."""


class GitAnswer(NamedTuple):
    """The end of a git command."""

    exit_code: int
    output: bytes


def find_git() -> str | None:
    """Return the path of git; None if it is not installed."""
    from shutil import which  # noqa: PLC0415 - `validate` runs nothing

    program = which("git")
    # A relative path is in the current folder and may come from a pull request.
    return program if program and Path(program).is_absolute() else None


def is_work_tree(folder: Path) -> bool:
    """Return whether a folder is the root of a work tree."""
    return os.path.lexists(folder / ".git")


def run_git(
    program: str,
    folder: Path,
    *arguments: str,
    timeout: float = 10.0,
    stdin: bytes = b"",
    variables: Mapping[str, str] | None = None,
) -> GitAnswer | None:
    """Run a git command, and return its output; None if it cannot be run or does not finish.

    Args:
        program: the path of git.
        folder: the folder to run it in.
        arguments: the command and its arguments.
        timeout: seconds to wait for its end.
        stdin: its input.
        variables: further environment variables for git.
    """
    import subprocess  # noqa: PLC0415 - `validate` runs nothing

    passed = {name: os.environ[name] for name in _PASSED_VARIABLES if name in os.environ}
    try:
        done = subprocess.run(  # noqa: S603 - a list, no shell
            [program, *_HARDENED, "-C", str(folder), *arguments],
            env=passed | _OFFLINE | dict(variables or {}),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return GitAnswer(done.returncode, done.stdout)
