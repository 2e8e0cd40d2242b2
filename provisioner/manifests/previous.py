"""The manifests as they were before: in another directory, or at a revision of git.

A tool without a state file knows from them which sinks tokens were delivered to. They are not
needed for anything else, so what is wrong with them is a reason and never a problem of the run.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from provisioner.errors.pluralize import pluralize
from provisioner.manifests.load import load
from provisioner.manifests.reach import newly_reached
from provisioner.manifests.text import MAX_BYTES
from provisioner.runtime.git import find_git, run_git

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from provisioner.model.key import DesiredKey

_TIMEOUT = 60.0
"""Seconds for one command of git."""

_SUFFIXES = (".yaml", ".yml")
"""The suffixes of environments files, manifests and lists of values."""

_REGULAR_FILES = frozenset({b"100644", b"100755"})
"""The modes of files. A symbolic link is not followed, as it may lead anywhere."""

_NO_REVISION = re.compile("0{40}|0{64}")
"""What pipelines name as the commit before the first one of a branch."""


class PreviousManifests(NamedTuple):
    """The manifests as they were before.

    Attributes:
        source: the directory as written, or the id of the commit.
        desired: the keys of every environment; empty if they cannot be used.
        reason: why they cannot be used, as a sentence; empty if they can.
    """

    source: str
    desired: Mapping[str, tuple[DesiredKey, ...]] = MappingProxyType({})
    reason: str = ""


class _UnusableError(Exception):
    """The previous manifests cannot be used; its text says why, as a sentence."""


def load_previous(
    source: str, directory: Path, *, environments: Path | None = None, against: Path | None = None
) -> PreviousManifests:
    """Load previous manifests without expanding variables, and without touching the work tree.

    Args:
        source: a directory, or else a revision of the repository that contains the manifests.
        directory: the present manifests directory.
        environments: the file to read instead of environments.yaml.
        against: a directory of manifests that the previous ones may not reach beyond.
    """
    try:
        if os.path.isdir(source):  # noqa: PTH112 - False for impossible names
            return PreviousManifests(source, _keys(Path(source), source, environments, against))
        with _at_revision(source, directory) as (commit, folder):
            return PreviousManifests(commit, _keys(folder, source, environments, against))
    except _UnusableError as error:
        return PreviousManifests(source, reason=str(error))


def _keys(
    folder: Path, source: str, environments: Path | None, against: Path | None
) -> Mapping[str, tuple[DesiredKey, ...]]:
    manifests = load(folder, environments=environments)
    if manifests.problems:
        first = manifests.problems[0]
        raise _UnusableError(
            f"The manifests of {source} have {pluralize(len(manifests.problems), 'problem')}, the "
            f"first in {os.path.relpath(first.place.file, folder.parent)} line {first.place.line}: "
            f"{first.code}."
        )
    if against is not None and newly_reached(folder, against, environments) is not None:
        raise _UnusableError(f"The manifests of {source} reach more than those of {against}.")
    return manifests.desired


@contextmanager
def _at_revision(revision: str, directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield the id of a commit, and a copy of the manifests directory in it.

    Raises:
        _UnusableError: git cannot read it.
    """
    if _NO_REVISION.fullmatch(revision):
        raise _UnusableError("There is no commit before the first one of the branch.")
    git = _Repository(directory)
    commit = None
    if not revision.startswith("-"):  # it would be an option of git
        commit = git.text("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if commit is None and git.text("rev-parse", "--git-dir") is None:
        raise _UnusableError(
            f"{revision} is not a directory, and git finds no repository around {directory}."
        )
    if commit is None:
        raise _UnusableError(
            f"{revision} is not a directory, and the repository that contains {directory} has no "
            "such commit. In a shallow clone, fetch more history."
        )
    prefix = (git.text("rev-parse", "--show-prefix") or "").rstrip("/")
    with TemporaryDirectory(prefix="provision-") as temporary:
        folder = Path(temporary, Path(os.path.normpath(directory.absolute())).name)
        folder.mkdir()
        found = False
        for path, content in git.files(f"{commit}:{prefix}"):
            found = True
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if not found:
            raise _UnusableError(f"There are no manifests in {directory} at {revision}.")
        yield commit, folder


class _Repository:
    """The git repository that contains a directory."""

    def __init__(self, directory: Path) -> None:
        program = find_git()
        if program is None:
            raise _UnusableError("git is not installed, so no revision can be read.")
        self._program = program
        self._directory = directory

    def text(self, *arguments: str) -> str | None:
        """Return the one line that a command prints; None if it fails."""
        answer = run_git(self._program, self._directory, *arguments, timeout=_TIMEOUT)
        if answer is None or answer.exit_code:
            return None
        return os.fsdecode(answer.output).rstrip("\n")

    def files(self, tree: str) -> Iterator[tuple[str, bytes]]:
        """Yield the paths and contents of the YAML files of a tree."""
        listed = self._run("ls-tree", "-r", "-z", "-l", "--full-tree", tree)
        paths: list[tuple[str, bytes]] = []
        for entry in filter(None, listed.split(b"\0")):
            head, _, name = entry.partition(b"\t")
            mode, kind, id_, size = head.split()
            path = os.fsdecode(name)
            if (
                kind == b"blob"
                and mode in _REGULAR_FILES
                and path.endswith(_SUFFIXES)
                and int(size) <= MAX_BYTES
                and not {"", ".", "..", ".git"}.intersection(re.split(r"[/\\]", path))
            ):
                paths.append((path, id_))
        contents = self._run("cat-file", "--batch", stdin=b"\n".join(id_ for _, id_ in paths))
        start = 0
        for path, _ in paths:
            end = contents.index(b"\n", start)
            after = end + 1 + int(contents[start:end].split()[2])
            yield path, contents[end + 1 : after]
            start = after + 1

    def _run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        answer = run_git(self._program, self._directory, *arguments, timeout=_TIMEOUT, stdin=stdin)
        if answer is None or answer.exit_code:
            raise _UnusableError(f"git cannot read the manifests of {arguments[-1]}.")
        return answer.output
