"""What `validate` looks at: whole directories of manifests, or single files in their context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.manifests import load
from provisioner.report.text import count

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from provisioner.manifests import Manifests
    from provisioner.problem import Problem


@dataclass(frozen=True, slots=True)
class Checked:
    """The problems found, or what was found in order.

    Attributes:
        summary: one line that says how much was checked.
    """

    problems: tuple[Problem, ...]
    summary: str


def check(paths: Iterable[Path], now: datetime) -> Checked:
    """Checks directories and files; a file is read together with its whole directory.

    Args:
        paths: directories of manifests, or files in them.
        now: what an expiry may not lie before.
    """
    chosen: dict[Path, set[str] | None] = {}
    for path in paths:
        directory = _directory_of(path)
        if path == directory:
            chosen[directory] = None
        elif (files := chosen.setdefault(directory, set())) is not None:
            files.add(path.as_posix())
    problems: list[Problem] = []
    keys = environments = 0
    for directory, files in chosen.items():
        manifests = load(directory, now=now)
        problems += [one for one in manifests.problems if _concerns(one, files, manifests)]
        keys += sum(map(len, manifests.desired.values()))
        environments += len(manifests.environments)
    summary = f"{count(keys, 'key')} in {count(environments, 'environment')}, no problems."
    return Checked(tuple(dict.fromkeys(problems)), summary)


def _directory_of(path: Path) -> Path:
    """The manifests directory that a file belongs to: the nearest with an environments.yaml."""
    if not path.is_file():
        return path
    for folder in path.parents:
        if (folder / "environments.yaml").is_file():
            return folder
    return path.parent


def _concerns(problem: Problem, files: set[str] | None, manifests: Manifests) -> bool:
    if files is None:
        return True
    places = {problem.place.file} | ({problem.related.file} if problem.related else set())
    return bool(places & files) or not manifests.environments
