"""Find what git would publish: files of a work tree that are tracked or not ignored."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING

from provisioner.sinks.file_disk import FileTrouble
from provisioner.sinks.gitignore import IgnoreFiles

if TYPE_CHECKING:
    from pathlib import Path

_LOG = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds to wait for an answer of git."""

_INSIDE = FileTrouble("sink_unsuitable", "is in a .git folder", "Choose a path outside of it.")
_TRACKED = FileTrouble(
    "sink_unsuitable",
    "is tracked by git",
    "Take it out of git with `git rm --cached`, and add it to .gitignore.",
)
_NOT_IGNORED = FileTrouble(
    "sink_unsuitable",
    "is in a git work tree that does not ignore it",
    "Add it to .gitignore, or choose a path outside the work tree.",
)
_NO_ANSWER = FileTrouble(
    "sink_unsuitable",
    "is in a git work tree, and git does not say whether it ignores the file",
    "Run `git check-ignore` on it to see why, or choose a path outside the work tree.",
)
_UNREADABLE = FileTrouble(
    "sink_unsuitable",
    "is in a git work tree with a .gitignore that cannot be read",
    "Let the user of this run read it, or choose a path outside the work tree.",
)


class Git:
    """Asks git about the files of one run, or reads its ignore files where there is no git."""

    def __init__(self) -> None:
        self._program = shutil.which("git")
        self._ignore_files = IgnoreFiles()
        self._lock = threading.Lock()
        self._told = False

    def publishes(self, path: Path) -> FileTrouble | None:
        """Return what is wrong with a file that git publishes; None where it does not.

        A file that is tracked is never ignored: git-check-ignore(1), "DESCRIPTION".

        Args:
            path: absolute, without symbolic links.
        """
        if ".git" in path.parts:
            return _INSIDE
        tree = next((one for one in path.parents if os.path.lexists(one / ".git")), None)
        if tree is None:
            return None
        if self._program is None:
            return self._by_files(path, tree)
        return _by_program(self._program, path)

    def _by_files(self, path: Path, tree: Path) -> FileTrouble | None:
        with self._lock:
            if not self._told:
                self._told = True
                _LOG.warning(
                    "git is not installed, so only .gitignore files were read: nobody checked "
                    "whether a file is tracked"
                )
        try:
            return None if self._ignore_files.ignore(path, tree) else _NOT_IGNORED
        except OSError:
            return _UNREADABLE


def _by_program(program: str, path: Path) -> FileTrouble | None:
    match _exit_code(program, path, "check-ignore", "--quiet"):
        case 0:
            return None
        case 1:
            tracked = _exit_code(
                program, path, "--literal-pathspecs", "ls-files", "--error-unmatch"
            )
            return _TRACKED if tracked == 0 else _NOT_IGNORED
        case _:
            return _NO_ANSWER


def _exit_code(program: str, path: Path, *command: str) -> int | None:
    """The exit code of a git command about one path; None where git does not run, or not end."""
    folder = next(parent for parent in path.parents if parent.is_dir())
    # A hook, among others, has variables that lead to one repository wherever git is run.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_")
        or (name.startswith("GIT_CONFIG_") and name != "GIT_CONFIG_PARAMETERS")
    }
    # With the dot before it a path has no magic, and check-ignore takes no other way to say so.
    try:
        return subprocess.run(  # noqa: S603 - a list, and a path after the dashes is no option
            [program, "-C", str(folder), *command, "--", f"./{path.relative_to(folder)}"],
            env=environment | {"GIT_DISCOVERY_ACROSS_FILESYSTEM": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return None
