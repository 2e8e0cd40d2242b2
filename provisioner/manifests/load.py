"""A manifests directory to environments and desired keys, with every problem of the run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

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
_SHOWN = 60
"""Characters of a name that a warning shows."""
_DATES = frozenset({"expires"})


@dataclass(frozen=True, slots=True)
class Manifests:
    """What a manifests directory asks for.

    Attributes:
        directory: as given.
        root: its parent, where relative paths stand; absolute.
        environments: in the order of environments.yaml.
        desired: the keys of every environment, in the order of the files and lines; an
            environment that no manifest names has none. Empty when there is any problem, so
            that half a fleet is never taken for the whole.
        problems: all of them; environments.yaml first, then by file, line and column.
        sources: the files read, environments.yaml included, as the user would type them.
        environments_file: what is read as environments.yaml.
        environments_root: where relative paths in that file stand; absolute.
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
        """Those of environments.yaml alone."""
        file = _shown(self.environments_file)
        return tuple(one for one in self.problems if one.place.file == file and not one.also_in)

    @property
    def none_read(self) -> bool:
        """Whether environments.yaml was read and no manifest beside it."""
        return self.sources == (_shown(self.environments_file),)


def load(
    directory: Path, *, now: datetime | None = None, environments: Path | None = None
) -> Manifests:
    """Reads every file of a manifests directory; bad input gives problems, never an exception.

    Args:
        directory: the manifests directory, as the user typed it.
        now: when given, an absolute expiry that is not after it is the problem `expiry_past`.
        environments: read in place of the environments.yaml of the directory; relative paths in it
            stand in its own folder.
    """
    file = directory / ENVIRONMENTS if environments is None else environments
    root = Path(os.path.normpath(directory.absolute())).parent
    # The directory may be a pull request's: what a protected file names is not looked for in it.
    beside = root if environments is None else Path(os.path.normpath(file.absolute())).parent
    shown = _shown(directory)
    if not os.path.isdir(directory):  # noqa: PTH112 - says no to names that no file can have
        state = "is not a directory" if os.path.lexists(directory) else "is not there"
        message = (
            f"the manifests directory {state}: name one, or a file in one, or run `provision init`"
        )
        problem = Problem(Place(shown), "manifests_missing", message)
        return Manifests(directory, root, (), MappingProxyType({}), (problem,), (), file, beside)
    first = _shown(file)
    sources = []
    with gc_paused():
        declarations, problems = _environments(file)
        names = None if declarations is None else declarations.names
        collection = Collection(
            None if names is None else frozenset(names),
            now,
            policy_check={each.name: each.policy_check for each in declarations.environments}
            if declarations is not None
            else {},
            problems=problems,
        )
        if declarations is not None:
            sources.append(first)
        for path in sorted(_files(directory, problems), key=_shown):
            if environments is not None and _is_one_file(path, environments):
                continue
            sources.append(_shown(path))
            manifest = _document(path, problems)
            if manifest is not None:
                collection.add(manifest)
    problems += collection.causes.problems()
    problems.sort(key=lambda problem: (problem.place.file != first, problem.place, problem.code))
    return Manifests(
        directory,
        root,
        () if declarations is None else declarations.environments,
        MappingProxyType({} if problems else collection.desired(names or ())),
        tuple(problems),
        tuple(sources),
        file,
        beside,
    )


def look_alikes(manifests: Manifests) -> tuple[Problem, ...]:
    """Return a warning for each name that looks like an earlier one of its environment."""
    causes = Causes()
    for environment, keys in manifests.desired.items():
        first: dict[str, DesiredKey] = {}
        for key, identity in identified(keys):
            other = first.setdefault(skeleton(key.name), key)
            if other is not key:
                causes.add(
                    Cause("name_alike", key.place), partial(_look_alike, key, other), other.place
                ).add(identity, key.name, environment)
    return tuple(causes.problems())


def _look_alike(key: DesiredKey, other: DesiredKey, affected: Affected) -> str:
    return (
        f"{escaped(key.name[:_SHOWN])}{affected.other_keys} looks like "
        f"{escaped(other.name[:_SHOWN])} of {other.environment}{affected.other_environments}, "
        f"declared in {other.place.file} line {other.place.line}: rename one"
    )


def environment_names(directory: Path) -> tuple[str, ...]:
    """The names that environments.yaml alone declares; none where it cannot be read."""
    declarations, _ = _environments(directory / ENVIRONMENTS)
    return () if declarations is None else declarations.names or ()


def _is_one_file(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _environments(path: Path) -> tuple[Declarations | None, list[Problem]]:
    """What environments.yaml declares, None when it cannot be read, and its problems."""
    misnamed = path.with_name(_MISNAMED)
    problems: list[Problem] = []
    if not os.path.lexists(path):
        if path.name == ENVIRONMENTS and os.path.lexists(misnamed):
            message = f"there is {_MISNAMED} in its place: rename it to {ENVIRONMENTS}"
        else:
            message = "the file is not there: `provision init` writes a first one"
        return None, [Problem(Place(_shown(path)), "environments_missing", message)]
    if path.name == ENVIRONMENTS and os.path.lexists(misnamed):
        message = f"only {ENVIRONMENTS} is read, and it is there: remove this one"
        problems.append(Problem(Place(_shown(misnamed)), "environments_misnamed", message))
    found = _document(path, problems)
    if found is None:
        return None, problems
    declarations = declare(found)
    problems += declarations.problems
    return declarations, problems


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
    """Every manifest below the directory, in no order; hidden ones and linked folders not."""
    folders = [directory]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            message = f"the folder cannot be read: {text.reason(error)}"
            problems.append(Problem(Place(_shown(folder)), "file_unreadable", message))
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
    """A path as the user would type it; bytes that are not UTF-8 are replaced."""
    return os.fsencode(path.as_posix()).decode(errors="replace")
