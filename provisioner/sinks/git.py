"""Detects files that git would publish: in a work tree, and tracked there or not ignored.

The files of a work tree may come from a stranger's pull request, so git is started at its root.
"""

from __future__ import annotations

import logging
import os
import threading
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.runtime.git import find_git, is_work_tree, run_git
from provisioner.sinks.sink import SinkFailure, unsuitable

if TYPE_CHECKING:
    from provisioner.sinks.gitignore import IgnoreFiles

_LOG = logging.getLogger(__name__)

_INSIDE_GIT_FOLDER = unsuitable("is in a .git folder", "Choose a path outside it.")
_TRACKED = unsuitable(
    "is tracked by git",
    "Remove it from git with `git rm --cached`, and add it to .gitignore.",
)
_NOT_IGNORED = unsuitable(
    "is in a git work tree that does not ignore it",
    "Add it to .gitignore, or choose a path outside the work tree.",
)
_NESTED = unsuitable(
    "is in a repository inside a git work tree that does not ignore that repository",
    "Add the inner repository to the outer .gitignore, or choose a path outside the work tree.",
)
_NO_ANSWER = unsuitable(
    "is in a git work tree, and git cannot tell whether it ignores the file",
    "Run `git check-ignore` on it to see why, or choose a path outside the work tree.",
)
_UNREADABLE = unsuitable(
    "is in a git work tree with a .gitignore that cannot be read",
    "Give the current user read access to it, or choose a path outside the work tree.",
)


class Git:
    """Asks git about the files of one run, or reads the ignore files if git is not installed.

    Args:
        root: the folder of the run; the work tree around it is asked first.
    """

    def __init__(self, root: Path) -> None:
        self._program = find_git()
        self._root = root
        self._lock = threading.Lock()

    @cached_property
    def _checkout(self) -> Path | None:
        """The work tree that contains the root; looked up for the first file."""
        inside = Path(os.path.realpath(self._root), ".git")
        return next(filter(is_work_tree, inside.parents), None)

    @cached_property
    def _ignore_files(self) -> IgnoreFiles:
        from provisioner.sinks.gitignore import IgnoreFiles  # noqa: PLC0415 - only without git

        _LOG.warning(
            "git is not installed, so only .gitignore files were read; tracked files were not "
            "detected"
        )
        return IgnoreFiles()

    def publication_failure(self, path: Path) -> SinkFailure | None:
        """Return the failure of a file that git would publish; None if git would not.

        A tracked file is never ignored: git-check-ignore(1), "DESCRIPTION". An inner repository
        cannot answer for the outer one: both must ignore the file.

        Args:
            path: absolute, without symbolic links.
        """
        if ".git" in path.parts:
            return _INSIDE_GIT_FOLDER
        # From the work tree of the run on; a path outside of it has only its nearest one.
        trees = [folder for folder in reversed(path.parents) if is_work_tree(folder)]
        trees = trees[trees.index(self._checkout) if self._checkout in trees else -1 :]
        for tree, inner in zip_longest(trees, trees[1:]):
            check = self._check_ignore_files if self._program is None else self._check_with_git
            failure = check(path if inner is None else inner, tree, nested=inner is not None)
            if failure is not None:
                return failure
        return None

    def _check_ignore_files(self, path: Path, tree: Path, *, nested: bool) -> SinkFailure | None:
        with self._lock:
            ignore_files = self._ignore_files
        try:
            ignored = ignore_files.ignores(path, tree, is_folder=nested)
        except OSError:
            return _UNREADABLE
        if ignored:
            return None
        return _NESTED if nested else _NOT_IGNORED

    def _check_with_git(self, path: Path, tree: Path, *, nested: bool) -> SinkFailure | None:
        assert self._program is not None  # noqa: S101 - for the type checker
        match _exit_code(self._program, path, tree, "check-ignore", "--quiet"):
            case 0:
                return None
            case 1 if nested:
                return _NESTED
            case 1:
                tracked = _exit_code(
                    *(self._program, path, tree),
                    *("--literal-pathspecs", "ls-files", "--error-unmatch"),
                )
                return _TRACKED if tracked == 0 else _NOT_IGNORED
            case _:
                return _NO_ANSWER


def _exit_code(program: str, path: Path, tree: Path, *command: str) -> int | None:
    """Return the exit code of a git command about one path; None if git does not finish."""
    # The leading dot turns pathspec magic off; check-ignore has no option for that. After the
    # dashes a path is no option. Git must not search above the tree.
    answer = run_git(
        program,
        tree,
        *(*command, "--", f"./{path.relative_to(tree).as_posix()}"),
        variables={"GIT_CEILING_DIRECTORIES": str(tree.parent)},
    )
    return None if answer is None else answer.exit_code
