"""What was examined and what is wrong with it, as these forms tell it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from provisioner.manifests import COUNTS

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.errors.problem import Problem

_LINE = re.compile(r"\bline \d+")


@dataclass(frozen=True, slots=True)
class Examined:
    """The files that were read, and what was found in them.

    Attributes:
        files: all that were read, in their order; those without a problem are sound.
        problems: in their order. Their paths and those of `files` count from the root of the
            repository where the files stand in it.
        moment: when it was done.
        warnings: what is allowed and most likely not meant; nothing fails for them.
    """

    files: tuple[str, ...]
    problems: tuple[Problem, ...]
    moment: datetime
    warnings: tuple[Problem, ...] = ()

    @property
    def all(self) -> tuple[tuple[Problem, bool], ...]:
        """Each problem, then each warning; True stands beside a warning."""
        return (
            *((one, False) for one in self.problems),
            *((one, True) for one in self.warnings),
        )

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """One for each entry of `all`: another for each, and the same when lines move."""
        seen: Counter[tuple[str, str, str]] = Counter()
        found = []
        for problem, _ in self.all:
            # Messages name the line of another place that takes part, and count keys.
            message = COUNTS.sub("", _LINE.sub("line", problem.message))
            what = problem.place.file, problem.code, message
            told = "\0".join((*what, str(seen[what])))
            seen[what] += 1
            found.append(sha256(told.encode(errors="backslashreplace")).hexdigest())
        return tuple(found)
