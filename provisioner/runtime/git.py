"""Runs git in a work tree whose files may come from a stranger.

Nothing in the work tree may choose what git runs, so git starts at its root and without the
variables of the run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subprocess import CompletedProcess

_TIMEOUT = 10.0
"""Seconds to wait for an answer of git."""

_HARDENED = (
    *("-c", "safe.bareRepository=explicit"),
    *("-c", "core.fsmonitor=false"),
    *("-c", f"core.hooksPath={os.devnull}"),
)
"""Options that keep a repository's configuration from naming programs for git to run."""

_PASSED_VARIABLES = ("PATH", "HOME", *(("SYSTEMROOT", "USERPROFILE") if os.name == "nt" else ()))
"""The variables that git gets. The others may contain secrets."""


def find_git() -> str | None:
    """Return the absolute path of git; None if it is not installed."""
    from shutil import which  # noqa: PLC0415 - `validate` runs nothing

    program = which("git")
    # A relative path is in the current folder and may come from a pull request.
    return program if program and Path(program).is_absolute() else None


def is_work_tree(folder: Path) -> bool:
    """Return whether a folder is the root of a work tree."""
    return os.path.lexists(folder / ".git")


def run_git(program: str, tree: Path, *words: str) -> CompletedProcess[bytes] | None:
    """Run a git command at the root of a work tree; return None if git does not finish.

    Args:
        program: the path of git.
        tree: the root of the work tree.
        words: the command and its arguments.
    """
    import subprocess  # noqa: PLC0415 - `validate` runs nothing

    environment = {name: os.environ[name] for name in _PASSED_VARIABLES if name in os.environ}
    # Git must not search above the tree, or fetch objects that are missing.
    environment |= {"GIT_CEILING_DIRECTORIES": str(tree.parent), "GIT_ALLOW_PROTOCOL": "none"}
    try:
        return subprocess.run(  # noqa: S603 - a list, which no shell reads
            [program, *_HARDENED, "-C", str(tree), *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
