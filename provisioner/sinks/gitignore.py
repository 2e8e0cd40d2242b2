"""The rules of git's ignore files, for machines without git; git itself is asked where it is.

Sources: gitignore(5), gitrepository-layout(5). The user's own excludes (`core.excludesFile`) are
left out: without them a file may be taken for one that is not ignored, and never the reverse.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DIRECTORY_MARK = "ps_d"
"""The group of pathspec's expressions that matches where a rule is about a folder above."""


_ANYTHING = re.compile("")


@dataclass(frozen=True, slots=True)
class _IgnoreRule:
    """One line of an ignore file.

    Attributes:
        ignores: False for a line that begins with an exclamation mark.
        folders_only: for a line that ends in a slash.
    """

    ignores: bool
    folders_only: bool
    expression: re.Pattern[str]

    def is_about(self, path: str, *, is_folder: bool) -> bool:
        """Return whether it matches this very path, and not only a folder above it."""
        if self.folders_only and not is_folder:
            return False
        found = self.expression.search(path)
        return found is not None and not found.groupdict().get(_DIRECTORY_MARK)


class IgnoreFiles:
    """The ignore files of work trees, each read once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: dict[Path, tuple[_IgnoreRule, ...]] = {}

    def ignore(self, path: Path, tree: Path, *, is_folder: bool = False) -> bool:
        """Return whether git ignores a file, or a folder.

        Args:
            path: absolute, without symbolic links; folders of it may be missing.
            tree: the root of its work tree.
            is_folder: whether the path is a folder.

        Raises:
            OSError: when an ignore file cannot be read.
        """
        if "\n" in str(path.relative_to(tree)):  # no line of a file can have meant it
            return False
        above = path.parents
        folders = reversed(above[: above.index(tree)])  # what is in an ignored folder is ignored
        return any(self._rule_out(one, tree, is_folder=True) for one in folders) or self._rule_out(
            path, tree, is_folder=is_folder
        )

    def _rule_out(self, path: Path, tree: Path, *, is_folder: bool) -> bool:
        """Return whether the last rule about a path ignores it; the nearest file goes first."""
        for base, file in self._files_about(path, tree):
            relative = path.relative_to(base).as_posix()
            for rule in reversed(self._rules_of(file)):
                if rule.is_about(relative, is_folder=is_folder):
                    return rule.ignores
        return False

    @staticmethod
    def _files_about(path: Path, tree: Path) -> Iterator[tuple[Path, Path]]:
        """The ignore files for a path, each with the folder that its lines are relative to."""
        above = path.parents
        for folder in above[: above.index(tree) + 1]:
            yield folder, folder / ".gitignore"
        yield tree, _repository(tree) / "info" / "exclude"

    def _rules_of(self, file: Path) -> tuple[_IgnoreRule, ...]:
        with self._lock:
            if file not in self._rules:
                self._rules[file] = tuple(_rules(_read(file)))
            return self._rules[file]


def _repository(tree: Path) -> Path:
    """The folder with what all work trees of a repository share."""
    folder = tree / ".git"
    if folder.is_file():  # of a linked work tree, or a submodule
        text = folder.read_text(encoding="utf-8", errors="surrogateescape")
        folder = tree / text.removeprefix("gitdir:").strip()
        common = folder / "commondir"
        if common.is_file():
            folder /= common.read_text(encoding="utf-8", errors="surrogateescape").strip()
    return folder


def _read(file: Path) -> str:
    """The text of an ignore file, empty without one; git follows no link to one."""
    if file.is_symlink():
        return ""
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ""
    return os.fsdecode(data.removeprefix(b"\xef\xbb\xbf"))


def _rules(text: str) -> Iterator[_IgnoreRule]:
    for line in text.split("\n"):
        rule = _without_blanks(line.removesuffix("\r"))
        body = rule.removesuffix("/")
        found = _expression(body)
        if found is not None:
            yield _IgnoreRule(not rule.startswith("!"), body != rule, found)
        elif rule.startswith("!"):
            # It may take any file out: better to refuse one than to have it published.
            yield _IgnoreRule(ignores=False, folders_only=False, expression=_ANYTHING)


def _expression(rule: str) -> re.Pattern[str] | None:
    """Return what a rule matches; None where pathspec and git would not agree on it."""
    from pathspec.patterns.gitignore.base import (  # noqa: PLC0415 - for machines without git
        GitIgnorePatternError,
    )
    from pathspec.patterns.gitignore.spec import (  # noqa: PLC0415 - as above
        GitIgnoreSpecPattern,
    )

    if rule.rstrip() != rule.rstrip(" "):  # git takes spaces away, and no other blank
        return None
    try:
        return GitIgnoreSpecPattern(rule).regex
    except (GitIgnorePatternError, re.error):
        return None


def _without_blanks(line: str) -> str:
    """A line without the spaces at its end, unless a backslash keeps one."""
    bare = line.rstrip(" ")
    backslashes = len(bare) - len(bare.rstrip("\\"))
    return f"{bare} " if backslashes % 2 and len(bare) < len(line) else bare
