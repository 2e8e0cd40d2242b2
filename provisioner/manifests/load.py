"""Loads a manifests directory into environments, desired keys and problems."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.problem import Place, Problem
from provisioner.manifests import document, text
from provisioner.manifests.causes import Cause, Causes, identified
from provisioner.manifests.characters import escaped, skeleton
from provisioner.manifests.environments import Declarations, DeclaredEnvironment, declare
from provisioner.manifests.keys import Collection
from provisioner.runtime.gc_pause import gc_paused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from provisioner.manifests.causes import Affected
    from provisioner.model.key import DesiredKey

ENVIRONMENTS = "environments.yaml"
"""The name of the environments file; every other YAML file is a manifest."""

_MISNAMED = "environments.yml"
_SUFFIXES = (".yaml", ".yml")
_MAX_SHOWN = 60
"""The number of characters of a name that a warning shows."""
_DATES = frozenset({"expires"})


@dataclass(frozen=True, slots=True)
class Manifests:
    """The content of a manifests directory.

    Attributes:
        directory: the directory as given.
        root: the absolute path of its parent, where relative paths start.
        environments: the environments, in the order of environments.yaml.
        desired: the keys of every environment, in the order of the files and lines. Empty if
            there is any problem, so that a part of the keys is never mistaken for all.
        problems: all problems: those in environments.yaml, then by file, line and column.
        sources: the files that were read, including environments.yaml, as the user would type them.
        environments_file: the path of the file that was read as environments.yaml.
        environments_root: the absolute directory where relative paths in that file start.
    """

    directory: Path
    root: Path
    environments: tuple[DeclaredEnvironment, ...]
    desired: Mapping[str, tuple[DesiredKey, ...]]
    problems: tuple[Problem, ...]
    sources: tuple[str, ...]
    environments_file: Path
    environments_root: Path

    @property
    def problems_of_environments(self) -> tuple[Problem, ...]:
        """Return the problems of environments.yaml that do not depend on keys."""
        file = _shown(self.environments_file)
        return tuple(one for one in self.problems if one.place.file == file and not one.also_in)

    @property
    def none_read(self) -> bool:
        """Return whether environments.yaml was read and no manifest."""
        return self.sources == (_shown(self.environments_file),)


def load(
    directory: Path, *, now: datetime | None = None, environments: Path | None = None
) -> Manifests:
    """Read every file of a manifests directory; invalid input gives problems, not exceptions.

    Args:
        directory: the manifests directory, as the user typed it.
        now: the time that an expiry date must be later than, or it is the problem `expiry_past`;
            None to accept all dates.
        environments: the file to read instead of the environments.yaml of the directory. Relative
            paths in it start at its own directory.
    """
    file = directory / ENVIRONMENTS if environments is None else environments
    root = Path(os.path.normpath(directory.absolute())).parent
    # The directory may come from a pull request, so a protected file never refers into it.
    environments_root = (
        root if environments is None else Path(os.path.normpath(file.absolute())).parent
    )
    shown = _shown(directory)
    if not os.path.isdir(directory):  # noqa: PTH112 - False for impossible names
        state = "is not a directory" if os.path.lexists(directory) else "does not exist"
        message = f"the manifests directory {state}: use another path, or run `provision init`"
        problem = Problem(Place(shown), Code.MANIFESTS_MISSING, message)
        return Manifests(
            directory, root, (), MappingProxyType({}), (problem,), (), file, environments_root
        )
    problems: list[Problem] = []
    sources = []
    with gc_paused():
        declared = Declarations(None, (), {})
        content = _environments(file, problems)
        if content is not None:
            sources.append(_shown(file))
            declared = declare(content, problems)
        names = declared.names
        known = None if names is None else frozenset(names)
        collection = Collection(known, now, declared.policy_checks, problems)
        for path in sorted(_files(directory, problems), key=_shown):
            if environments is not None and os.path.realpath(path) == os.path.realpath(file):
                continue
            sources.append(_shown(path))
            manifest = _document(path, problems)
            if manifest is not None:
                collection.add(manifest)
    problems += collection.causes.problems()
    problems.sort(
        key=lambda problem: (problem.place.file != _shown(file), problem.place, problem.code)
    )
    desired = {name: tuple(collection.keys.get(name, {}).values()) for name in names or ()}
    return Manifests(
        directory,
        root,
        declared.environments,
        MappingProxyType({} if problems else desired),
        tuple(problems),
        tuple(sources),
        file,
        environments_root,
    )


def look_alikes(manifests: Manifests) -> tuple[Problem, ...]:
    """Return a warning for each name that looks like an earlier name of its environment."""
    causes = Causes()
    for environment, keys in manifests.desired.items():
        first: dict[str, DesiredKey] = {}
        for key, identity in identified(keys):
            other = first.setdefault(skeleton(key.name), key)
            if other is not key:
                describe = partial(_look_alike, key, other)
                cause = Cause(Code.NAME_ALIKE, key.place, describe, other.place)
                causes.add(cause).add(identity, key.name, environment)
    return tuple(causes.problems())


def _look_alike(key: DesiredKey, other: DesiredKey, affected: Affected) -> str:
    return (
        f"{escaped(key.name[:_MAX_SHOWN])}{affected.other_keys} looks like "
        f"{escaped(other.name[:_MAX_SHOWN])} in {other.environment}{affected.other_environments}, "
        f"declared in {other.place.file} line {other.place.line}: rename one"
    )


def environment_names(directory: Path) -> tuple[str, ...]:
    """Return the names in environments.yaml; none if it cannot be read."""
    content = _environments(directory / ENVIRONMENTS, [])
    return () if content is None else declare(content, []).names or ()


def _environments(path: Path, problems: list[Problem]) -> document.Document | None:
    """Return the content of environments.yaml; None if it cannot be read."""
    misnamed = path.with_name(_MISNAMED)
    has_misnamed = path.name == ENVIRONMENTS and os.path.lexists(misnamed)
    if not os.path.lexists(path):
        message = "the file does not exist: `provision init` writes an example"
        if has_misnamed:
            message = f"the file is named {_MISNAMED}: rename it to {ENVIRONMENTS}"
        problems.append(Problem(Place(_shown(path)), Code.ENVIRONMENTS_MISSING, message))
        return None
    if has_misnamed:
        message = f"this file is not read, because {ENVIRONMENTS} exists: remove it"
        problems.append(Problem(Place(_shown(misnamed)), Code.ENVIRONMENTS_MISNAMED, message))
    return _document(path, problems)


def _document(path: Path, problems: list[Problem]) -> document.Document | None:
    shown = _shown(path)
    content = text.read(path, shown)
    if isinstance(content, Problem):
        problems.append(content)
        return None
    found, faults = document.read(content, shown, dates=_DATES)
    problems += faults
    return found


def _files(directory: Path, problems: list[Problem]) -> Iterator[Path]:
    """Yield every manifest below the directory, without hidden files and linked directories."""
    folders = [directory]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            message = f"the directory cannot be read: {text.reason(error)}"
            problems.append(Problem(Place(_shown(folder)), Code.FILE_UNREADABLE, message))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.name.endswith(_SUFFIXES) and not (
                (entry.is_symlink() and path.is_dir())
                or (folder == directory and entry.name in (ENVIRONMENTS, _MISNAMED))
            ):
                yield path


def _shown(path: Path) -> str:
    """Return a path as the user would type it, with bytes that are not UTF-8 replaced."""
    return os.fsencode(path.as_posix()).decode(errors="replace")
