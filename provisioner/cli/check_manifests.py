"""What `validate` looks at: whole directories of manifests, or single files in their context."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.errors.pluralize import pluralize
from provisioner.errors.problem import Place, Problem
from provisioner.manifests import ENVIRONMENTS, load, look_alikes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from provisioner.manifests import Manifests


@dataclass(frozen=True, slots=True)
class Checked:
    """The problems found, or what was found in order.

    Attributes:
        summary: one line that says how much was checked.
        files: those that were looked at.
        warnings: what is allowed and most likely not meant.
    """

    problems: tuple[Problem, ...]
    summary: str
    files: tuple[str, ...]
    warnings: tuple[Problem, ...] = ()


def check(paths: Iterable[Path], now: datetime, environments: Path | None = None) -> Checked:
    """Checks directories and files; a file is read together with its whole directory.

    Args:
        paths: directories of manifests, or files in them.
        now: what an expiry may not lie before.
        environments: read in place of the environments.yaml of each directory.
    """
    chosen: dict[Path, set[str] | None] = {}
    for path in paths:
        directory, file = _in_its_directory(path)
        if file is None:
            chosen[directory] = None
        elif (files := chosen.setdefault(directory, set())) is not None:
            files.add(file)
    problems: list[Problem] = []
    warnings: list[Problem] = []
    sources: list[str] = []
    keys = declared = 0
    for directory, files in chosen.items():
        manifests = load(directory, now=now, environments=environments)
        found = (*manifests.problems, *_no_manifest(manifests))
        problems += [one for one in found if _concerns(one, files, manifests)]
        warnings += [one for one in look_alikes(manifests) if _concerns(one, files, manifests)]
        problems += _unread(files or set(), manifests)
        sources += manifests.sources if files is None else sorted(files)
        keys += sum(map(len, manifests.desired.values()))
        declared += len(manifests.environments)
    summary = f"{pluralize(keys, 'key')} in {pluralize(declared, 'environment')}, no problems."
    return Checked(
        tuple(dict.fromkeys(problems)), summary, tuple(dict.fromkeys(sources)), tuple(warnings)
    )


def _in_its_directory(path: Path) -> tuple[Path, str | None]:
    """The manifests directory of a path, and the file in it where the path is one.

    It is the nearest above the file with an environments.yaml, also above where we stand.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - says no to names that no file can have
        return path, None
    for file in (path, path.absolute()):
        for folder in file.parents:
            if (folder / ENVIRONMENTS).is_file():
                return folder, file.as_posix()
    return path.parent, path.as_posix()


def _no_manifest(manifests: Manifests) -> Iterable[Problem]:
    """The problem that nothing but environments.yaml was read: there is nothing to check."""
    if manifests.none_read:
        message = "no manifest stands beside this file: write one, or name another directory"
        yield Problem(Place(manifests.sources[0]), "manifests_missing", message)


def _unread(files: set[str], manifests: Manifests) -> Iterable[Problem]:
    """Files that were asked about and that no run would read."""
    known = {*manifests.sources, *(problem.place.file for problem in manifests.problems)}
    message = (
        "this file is no manifest: only *.yaml and *.yml below the manifests directory are read, "
        "not hidden ones and not through linked folders"
    )
    for file in sorted(files - known):
        yield Problem(Place(file), "file_unread", message)


def _concerns(problem: Problem, files: set[str] | None, manifests: Manifests) -> bool:
    if files is None:
        return True
    places = {problem.place.file} | ({problem.related.file} if problem.related else set())
    return bool((places | problem.also_in) & files) or not manifests.environments
