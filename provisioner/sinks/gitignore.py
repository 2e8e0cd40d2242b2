"""The rules of git's ignore files, for machines without git. Otherwise git itself decides.

Sources: gitignore(5), gitrepository-layout(5). The user's own excludes (`core.excludesFile`) are
not read: that can only make an ignored file count as not ignored, never the reverse.
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

_DIRECTORY_GROUP = "ps_d"
"""The group of pathspec's expressions that matches if a rule names a parent folder."""


_ANYTHING = re.compile("")


@dataclass(frozen=True, slots=True)
class _IgnoreRule:
    """One line of an ignore file.

    Attributes:
        ignores: False if the line begins with an exclamation mark.
        folders_only: True if the line ends in a slash.
    """

    ignores: bool
    folders_only: bool
    expression: re.Pattern[str]

    def matches(self, path: str, *, is_folder: bool) -> bool:
        """Return whether the rule matches this path itself, not only one of its parent folders."""
        if self.folders_only and not is_folder:
            return False
        found = self.expression.search(path)
        return found is not None and not found.groupdict().get(_DIRECTORY_GROUP)


class IgnoreFiles:
    """The ignore files of work trees. Each is read once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: dict[Path, tuple[_IgnoreRule, ...]] = {}

    def ignores(self, path: Path, tree: Path, *, is_folder: bool = False) -> bool:
        """Return whether git ignores a file or folder.

        Args:
            path: absolute, without symbolic links; its folders need not exist.
            tree: the root of its work tree.
            is_folder: True if the path is a folder.

        Raises:
            OSError: an ignore file cannot be read.
        """
        if "\n" in str(path.relative_to(tree)):  # no rule can contain a line break
            return False
        above = path.parents
        folders = reversed(above[: above.index(tree)])  # an ignored folder ignores its content
        return any(
            self._is_excluded(folder, tree, is_folder=True) for folder in folders
        ) or self._is_excluded(path, tree, is_folder=is_folder)

    def _is_excluded(self, path: Path, tree: Path, *, is_folder: bool) -> bool:
        """Return whether the last rule for a path ignores it; the nearest file counts first."""
        for base, file in self._ignore_files_for(path, tree):
            relative = path.relative_to(base).as_posix()
            for rule in reversed(self._rules_of(file)):
                if rule.matches(relative, is_folder=is_folder):
                    return rule.ignores
        return False

    @staticmethod
    def _ignore_files_for(path: Path, tree: Path) -> Iterator[tuple[Path, Path]]:
        """Yield the ignore files for a path, each with the folder that its rules start from."""
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
    """Return the folder that all work trees of a repository share."""
    folder = tree / ".git"
    if folder.is_file():  # a linked work tree or a submodule
        text = folder.read_text(encoding="utf-8", errors="surrogateescape")
        folder = tree / text.removeprefix("gitdir:").strip()
        common = folder / "commondir"
        if common.is_file():
            folder /= common.read_text(encoding="utf-8", errors="surrogateescape").strip()
    return folder


def _read(file: Path) -> str:
    """Return the text of an ignore file, empty without one. Git does not follow links here."""
    if file.is_symlink():
        return ""
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ""
    return os.fsdecode(data.removeprefix(b"\xef\xbb\xbf"))


def _rules(text: str) -> Iterator[_IgnoreRule]:
    for line in text.split("\n"):
        rule = _strip_trailing_spaces(line.removesuffix("\r"))
        body = rule.removesuffix("/")
        found = _expression(body)
        if found is not None:
            yield _IgnoreRule(not rule.startswith("!"), body != rule, found)
        elif rule.startswith("!"):
            # It may re-include any file. Refusing a file is safer than publishing it.
            yield _IgnoreRule(ignores=False, folders_only=False, expression=_ANYTHING)


def _expression(rule: str) -> re.Pattern[str] | None:
    """Return the pattern of a rule; None if pathspec and git would not agree about it."""
    from pathspec.patterns.gitignore.base import (  # noqa: PLC0415 - for machines without git
        GitIgnorePatternError,
    )
    from pathspec.patterns.gitignore.spec import (  # noqa: PLC0415 - as above
        GitIgnoreSpecPattern,
    )

    if rule.rstrip() != rule.rstrip(" "):  # git strips spaces, but no other whitespace
        return None
    try:
        return GitIgnoreSpecPattern(rule).regex
    except (GitIgnorePatternError, re.error):
        return None


def _strip_trailing_spaces(line: str) -> str:
    """Return a line without its trailing spaces, except one that a backslash keeps."""
    bare = line.rstrip(" ")
    backslashes = len(bare) - len(bare.rstrip("\\"))
    return f"{bare} " if backslashes % 2 and len(bare) < len(line) else bare
