"""The check of `validate`: directories of manifests, or single files within them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.pluralize import pluralize
from provisioner.errors.problem import Place, Problem
from provisioner.manifests import ENVIRONMENTS, load, look_alikes
from provisioner.render.report import ReportInput

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from provisioner.manifests import Manifests


def check(paths: Iterable[Path], now: datetime, environments: Path | None = None) -> ReportInput:
    """Check directories and files; a file is read together with its whole directory.

    Args:
        paths: directories of manifests, or files in them.
        now: the current time; an earlier expiry is a problem.
        environments: a file to read instead of the environments.yaml of each directory.
    """
    selected: dict[Path, set[str] | None] = {}
    for path in paths:
        directory, file = _split_path(path)
        if file is None:
            selected[directory] = None
        elif (files := selected.setdefault(directory, set())) is not None:
            files.add(file)
    problems: list[Problem] = []
    warnings: list[Problem] = []
    sources: list[str] = []
    keys = declared = 0
    for directory, files in selected.items():
        manifests = load(directory, now=now, environments=environments)
        found = (*manifests.problems, *_not_read(files or set(), manifests))
        problems += [one for one in found if _concerns(one, files, manifests)]
        warnings += [one for one in look_alikes(manifests) if _concerns(one, files, manifests)]
        sources += manifests.sources if files is None else sorted(files)
        keys += sum(map(len, manifests.desired.values()))
        declared += len(manifests.environments)
    summary = f"{pluralize(keys, 'key')} in {pluralize(declared, 'environment')}, no problems."
    unique = tuple(dict.fromkeys(problems))
    return ReportInput(now, tuple(dict.fromkeys(sources)), unique, tuple(warnings), summary)


def _split_path(path: Path) -> tuple[Path, str | None]:
    """Return the manifests directory of a path, and the file if the path is one.

    The directory is the nearest parent with environments files, even above the working
    directory.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - is False for names that are too long
        return path, None
    for file in (path, path.absolute()):
        for folder in file.parents:
            if (folder / ENVIRONMENTS).is_file() or any((folder / "environments").glob("*.y*ml")):
                return folder, file.as_posix()
    return path.parent, path.as_posix()


def _not_read(files: set[str], manifests: Manifests) -> Iterable[Problem]:
    """Yield a problem if there is no manifest, and one for each file that no run would read."""
    if manifests.none_read:
        message = (
            "there is no manifest in this file's directory: write one, or give another directory"
        )
        yield Problem(Place(manifests.sources[0]), Code.MANIFESTS_MISSING, message)
    message = (
        "this file is not read: a manifest must be a *.yaml or *.yml file below the manifests "
        "directory, and must not be hidden or in a linked folder"
    )
    known = {*manifests.sources, *(problem.place.file for problem in manifests.problems)}
    for file in sorted(files - known):
        yield Problem(Place(file), Code.FILE_UNREAD, message)


def _concerns(problem: Problem, files: set[str] | None, manifests: Manifests) -> bool:
    if files is None:
        return True
    places = {problem.place.file} | ({problem.related.file} if problem.related else set())
    return bool((places | problem.also_in) & files) or not manifests.environments
