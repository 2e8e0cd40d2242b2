"""The content of a report: the manifests with their problems, and the outcome of a command."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from provisioner.manifests import COUNTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from provisioner.audit.key_audit import FleetAudit
    from provisioner.errors.failure import Failure
    from provisioner.errors.problem import Problem
    from provisioner.execution import RunResult
    from provisioner.model.key import DesiredKey
    from provisioner.model.shard import Shard
    from provisioner.plan import Plan

    Outcome = Plan | RunResult | FleetAudit


class ShardLabel(NamedTuple):
    """What the JSON of a shard says in addition, so that `provision merge` can join it.

    Attributes:
        shard: the shard.
        positions: the position of each environment in environments.yaml, from 0.
        desired: the desired keys that a plan covers, by environment.
    """

    shard: Shard
    positions: Mapping[str, int]
    desired: Mapping[str, tuple[DesiredKey, ...]]


_LINE = re.compile(r"\bline \d+")


@dataclass(frozen=True, slots=True)
class ReportInput:
    """The content of a report.

    Attributes:
        created_at: when the manifests were read.
        files: every manifest that was read, in order; one without a problem is valid.
        problems: the problems of manifests, in order.
        warnings: findings in manifests that are allowed but probably a mistake; they fail nothing.
        summary: the line that text shows for manifests without problems.
        outcome: the plan, the result of carrying it out, or the audit of live keys; None if the
            command made none of them.
        refusal: why a guard refused the plan; None if none did.
        quiet: whether text omits keys that need no attention from an audit.
        shard: the label of JSON; None if the run is not one of several shards.
        unmanaged: whether text and Markdown list unmanaged keys of a plan or result instead of
            counting them.
    """

    created_at: datetime
    files: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    summary: str = ""
    outcome: Outcome | None = None
    refusal: Failure | None = None
    quiet: bool = False
    shard: ShardLabel | None = None
    unmanaged: bool = False

    @property
    def entries(self) -> tuple[tuple[Problem, bool], ...]:
        """Each problem, then each warning; the second value is true for a warning."""
        problems = ((one, False) for one in self.problems)
        return (*problems, *((one, True) for one in self.warnings))

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

    def relocated(self, path_of: Callable[[str], str]) -> ReportInput:
        """Return this report with other paths of the manifests."""

        def relocate(problem: Problem) -> Problem:
            place, related = problem.place, problem.related
            return replace(
                problem,
                place=place._replace(file=path_of(place.file)),
                related=related and related._replace(file=path_of(related.file)),
            )

        return replace(
            self,
            files=tuple(map(path_of, self.files)),
            problems=tuple(map(relocate, self.problems)),
            warnings=tuple(map(relocate, self.warnings)),
        )
