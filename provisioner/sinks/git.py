"""Files that git would publish: in a work tree, and tracked there or not ignored.

The files of a work tree may be a stranger's, of a pull request. Nothing that they hold may choose
what git runs: it is called at the root of a work tree, with no variable of the run.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import threading
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from provisioner.sinks.file_write import FileTrouble
from provisioner.sinks.gitignore import IgnoreFiles

_LOG = logging.getLogger(__name__)

_TIMEOUT = 10.0
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
_NESTED = FileTrouble(
    "sink_unsuitable",
    "stands in a repository inside of a git work tree that does not ignore that repository",
    "Add the inner repository to the outer .gitignore, or choose a path outside the work tree.",
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


_HARDENED = (
    *("-c", "safe.bareRepository=explicit"),
    *("-c", "core.fsmonitor=false"),
    *("-c", f"core.hooksPath={os.devnull}"),
)
"""Options under which no configuration names a program that git runs."""

_KEPT = ("PATH", "HOME", *(("SYSTEMROOT", "USERPROFILE") if os.name == "nt" else ()))
"""Variables that git gets; no other of the run, which has secrets in them."""


class Git:
    """The answers of git for the files of one run, or of its ignore files where there is no git.

    Args:
        root: the folder that the run works from; the work tree around it has the first say.
    """

    def __init__(self, root: Path) -> None:
        program = shutil.which("git")
        # A relative one was found in the current folder: it may be the pull request's.
        self._program = program if program and Path(program).is_absolute() else None
        self._root = root
        self._ignore_files = IgnoreFiles()
        self._lock = threading.Lock()
        self._told = False

    @cached_property
    def _checkout(self) -> Path | None:
        """The work tree that the run stands in, looked for with the first file."""
        return _nearest_tree(Path(os.path.realpath(self._root), ".git"))

    def publishes(self, path: Path) -> FileTrouble | None:
        """Return what is wrong with a file that git publishes; None where it does not.

        A file that is tracked is never ignored: git-check-ignore(1), "DESCRIPTION". An inner
        repository cannot answer for the outer one: both have to ignore the file.

        Args:
            path: absolute, without symbolic links.
        """
        if ".git" in path.parts:
            return _INSIDE
        trees = _trees(path, self._checkout)
        for tree, inner in zip_longest(trees, trees[1:]):
            ask = self._by_files if self._program is None else self._by_program
            trouble = ask(path if inner is None else inner, tree, nested=inner is not None)
            if trouble is not None:
                return trouble
        return None

    def _by_files(self, path: Path, tree: Path, *, nested: bool) -> FileTrouble | None:
        with self._lock:
            if not self._told:
                self._told = True
                _LOG.warning(
                    "git is not installed, so only .gitignore files were read: nobody checked "
                    "whether a file is tracked"
                )
        try:
            ignored = self._ignore_files.ignore(path, tree, is_folder=nested)
        except OSError:
            return _UNREADABLE
        if ignored:
            return None
        return _NESTED if nested else _NOT_IGNORED

    def _by_program(self, path: Path, tree: Path, *, nested: bool) -> FileTrouble | None:
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


def _nearest_tree(path: Path) -> Path | None:
    """The root of the innermost work tree that a path stands in."""
    return next((one for one in path.parents if os.path.lexists(one / ".git")), None)


def _trees(path: Path, checkout: Path | None) -> tuple[Path, ...]:
    """The work trees that a path stands in, the outermost that matters first.

    From the one of the run inwards; of a path elsewhere the nearest one.
    """
    if checkout is None or checkout not in path.parents:
        nearest = _nearest_tree(path)
        return () if nearest is None else (nearest,)
    above = path.parents
    within = reversed(above[: above.index(checkout) + 1])
    return tuple(one for one in within if os.path.lexists(one / ".git"))


def _exit_code(program: str, path: Path, tree: Path, *command: str) -> int | None:
    """The exit code of a git command about one path; None where git does not run, or not end."""
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # Git looks for no repository above the tree, and fetches nothing that one lacks.
    environment |= {"GIT_CEILING_DIRECTORIES": str(tree.parent), "GIT_ALLOW_PROTOCOL": "none"}
    words = [*_HARDENED, "-C", str(tree), *command]
    # With the dot before it a path has no magic, and check-ignore takes no other way to say so.
    try:
        return subprocess.run(  # noqa: S603 - a list, and a path after the dashes is no option
            [program, *words, "--", f"./{path.relative_to(tree).as_posix()}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT,
            check=False,
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return None
