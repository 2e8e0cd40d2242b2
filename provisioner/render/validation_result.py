"""The result of validating manifests, which every format of problems shows."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from provisioner.manifests import COUNTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from provisioner.errors.problem import Problem

_LINE = re.compile(r"\bline \d+")


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """The manifests that were read, and their problems.

    Attributes:
        files: every file that was read, in order; one without a problem is valid.
        problems: the problems in order. Their paths, and those in `files`, are relative to the
            root of the repository if the file is inside it.
        checked_at: when the manifests were read.
        warnings: findings that are allowed but probably a mistake; they fail nothing.
    """

    files: tuple[str, ...]
    problems: tuple[Problem, ...]
    checked_at: datetime
    warnings: tuple[Problem, ...] = ()

    @property
    def entries(self) -> tuple[tuple[Problem, bool], ...]:
        """Each problem, then each warning; the second value is true for a warning."""
        return (
            *((one, False) for one in self.problems),
            *((one, True) for one in self.warnings),
        )

    @property
    def fingerprinted(self) -> Iterator[tuple[Problem, bool, str]]:
        """Each of `entries` with a distinct fingerprint, which stays the same when lines move."""
        occurrences: Counter[tuple[str, str, str]] = Counter()
        for problem, warns in self.entries:
            # A message may name the line of another place, which moves too, and counts keys.
            message = COUNTS.sub("", _LINE.sub("line", problem.message))
            identity = problem.place.file, problem.code, message
            text = "\0".join((*identity, str(occurrences[identity])))
            occurrences[identity] += 1
            yield problem, warns, sha256(text.encode(errors="backslashreplace")).hexdigest()
