"""Loads a manifests directory into environments, desired keys and problems."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.problem import Place, Problem
from provisioner.manifests import document, text
from provisioner.manifests.causes import Cause, Causes, identified
from provisioner.manifests.characters import escaped, skeleton
from provisioner.manifests.environments import DeclaredEnvironment, EnvironmentNames, declare
from provisioner.manifests.keys import Collection
from provisioner.manifests.matrix import EnvironmentsFile, ValueLists
from provisioner.manifests.schema_errors import show
from provisioner.runtime.gc_pause import gc_paused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from provisioner.manifests.causes import Affected
    from provisioner.manifests.notify import DeclaredTarget
    from provisioner.model.key import DesiredKey

ENVIRONMENTS = "environments.yaml"
"""The name of the environments file."""

ENVIRONMENTS_FOLDER = "environments"
"""The directory beside it with more environments files; every other YAML file is a manifest."""

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
        environments: the environments, in the order of the environments files.
        names: the names of all environments; None if they are not known.
        desired: the keys of every environment, in the order of the files and lines. Empty if
            there is any problem, so that a part of the keys is never mistaken for all.
        problems: all problems: those in environments files, then by file, line and column.
        sources: the files that were read, environments files first, as the user would type them.
        environments_files: the paths of environments.yaml, which may be missing, of the other
            environments files and of the lists that they name.
        environments_root: the absolute directory where relative paths in these files start.
        notify: who is told after a run.
    """

    directory: Path
    root: Path
    environments: tuple[DeclaredEnvironment, ...]
    names: EnvironmentNames | None
    desired: Mapping[str, tuple[DesiredKey, ...]]
    problems: tuple[Problem, ...]
    sources: tuple[str, ...]
    environments_files: tuple[Path, ...]
    environments_root: Path
    notify: tuple[DeclaredTarget, ...] = ()

    @property
    def problems_of_environments(self) -> tuple[Problem, ...]:
        """Return the problems of environments files that do not depend on keys."""
        files = set(map(_shown, self.environments_files))
        return tuple(one for one in self.problems if one.place.file in files and not one.also_in)

    @property
    def none_read(self) -> bool:
        """Return whether environments files were read and no manifest."""
        return self.sources == tuple(map(_shown, self.environments_files))


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
            directory,
            root,
            (),
            None,
            MappingProxyType({}),
            (problem,),
            (),
            (file,),
            environments_root,
        )
    problems: list[Problem] = []
    with gc_paused():
        paths = sorted(_files(directory, problems), key=_shown)
        more = list(filter(partial(_is_environments_file, directory), paths))
        reader = _EnvironmentsReader(directory if environments is None else file.parent, problems)
        declared = declare(
            reader.read(file, more if environments is None else ()), reader.lists, problems
        )
        names = declared.names
        collection = Collection(names, now, declared.policy_checks, problems)
        sources = list(map(_shown, reader.files))
        others = {*reader.files, *more}
        # Most files need no system call: only a path that is written in another way.
        elsewhere = {
            os.path.realpath(path) for path in others.difference(paths, [directory / ENVIRONMENTS])
        }
        for path in paths:
            if path in others or (elsewhere and os.path.realpath(path) in elsewhere):
                continue
            sources.append(_shown(path))
            manifest = _document(path, problems)
            if manifest is not None:
                collection.add(manifest)
        collection.moves.resolve(collection.keys)
    problems += collection.causes.problems()
    environments_files = tuple(dict.fromkeys((file, *reader.files)))
    first = set(map(_shown, environments_files))
    problems.sort(
        key=lambda problem: (problem.place.file not in first, problem.place, problem.code)
    )
    desired = {
        name: tuple(collection.keys.get(name, {}).values()) for name in (names.all if names else ())
    }
    return Manifests(
        directory,
        root,
        declared.environments,
        names,
        MappingProxyType({} if problems else desired),
        tuple(problems),
        tuple(sources),
        environments_files,
        environments_root,
        declared.notify,
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
    """Return the names in the environments files; none if they cannot be read."""
    reader, files = _environments(directory)
    names = declare(files, reader.lists, []).names
    return () if names is None else tuple(names.all)


def environments_files(directory: Path) -> tuple[Path, ...]:
    """Return the paths of the environments files and the lists that they name."""
    reader, files = _environments(directory)
    return (*reader.files, *(path for one in files for path in one.lists()))


def _environments(directory: Path) -> tuple[_EnvironmentsReader, list[EnvironmentsFile]]:
    """Return the environments files of a directory, and their reader; problems are ignored."""
    reader = _EnvironmentsReader(directory, [])
    more = filter(partial(_is_environments_file, directory), _files(directory, []))
    return reader, reader.read(directory / ENVIRONMENTS, sorted(more))


def _is_environments_file(directory: Path, path: Path) -> bool:
    return path.parent == directory / ENVIRONMENTS_FOLDER


class _EnvironmentsReader:
    """Reads environments files, and the lists of values that they name.

    Attributes:
        files: the paths of the files that were read.
        lists: the lists.
    """

    def __init__(self, root: Path, problems: list[Problem]) -> None:
        self.files: list[Path] = []
        self.lists = ValueLists(root, self._read_list, problems)
        self._problems = problems
        self._read: dict[str, document.Document | None] = {}

    def read(self, file: Path, more: Iterable[Path]) -> list[EnvironmentsFile]:
        """Return the content of environments.yaml, which may be missing if there are others."""
        more = tuple(more)
        self.files += (file, *more) if _exists(file, self._problems, required=not more) else more
        found = []
        for path in self.files:
            content = self._read[os.path.realpath(path)] = _document(path, self._problems)
            if content is not None:
                found.append((os.path.realpath(path), EnvironmentsFile(content, path.parent)))
        named = {os.path.realpath(path) for _, one in found for path in one.lists()}
        return [one for path, one in found if path not in named]

    def _read_list(self, path: Path, place: Place) -> document.Document | None:
        """Return the content of the list that a place names; None if it has a problem."""
        real = os.path.realpath(path)
        if real not in self._read:
            self.files.append(path)
            problems: list[Problem] = []
            self._read[real] = _document(path, problems)
            self._problems += (
                replace(
                    one,
                    place=place,
                    message=one.message.replace("the file", f"the list {show(_shown(path))}", 1),
                )
                if one.code == Code.FILE_UNREADABLE
                else one
                for one in problems
            )
        return self._read[real]


def _exists(path: Path, problems: list[Problem], *, required: bool) -> bool:
    """Return whether the file environments.yaml exists, and report a wrong name."""
    misnamed = path.with_name(_MISNAMED)
    has_misnamed = path.name == ENVIRONMENTS and os.path.lexists(misnamed)
    exists = os.path.lexists(path)
    if exists and has_misnamed:
        message = f"this file is not read, because {ENVIRONMENTS} exists: remove it"
        problems.append(Problem(Place(_shown(misnamed)), Code.ENVIRONMENTS_MISNAMED, message))
    elif has_misnamed or (required and not exists):
        message = (
            f"the file is named {_MISNAMED}: rename it to {ENVIRONMENTS}"
            if has_misnamed
            else "the file does not exist: `provision init` writes an example"
        )
        problems.append(Problem(Place(_shown(path)), Code.ENVIRONMENTS_MISSING, message))
    return exists


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
