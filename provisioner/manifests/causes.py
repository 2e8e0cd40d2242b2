"""Problems merged by their cause: a default that is wrong for 40 keys is one problem, not 40.

A check records every failure together with its cause, the line that has to change. `Causes` keeps
one problem for each cause and counts the keys and environments that it affects.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from provisioner.errors.pluralize import pluralize
from provisioner.errors.problem import Place, Problem
from provisioner.manifests.schema_errors import show

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sized

    from provisioner.errors.codes import Code
    from provisioner.manifests.policy_check import Rule
    from provisioner.model.key import DesiredKey

    Describe = Callable[["Affected"], str]
    """Returns the message of a problem, given what its cause affects."""

    KeyId = tuple[Place, Hashable]
    """The place of a key and its number there, since a matrix gives several.

    It is the same in all environments of a manifest, where names may differ.
    """

COUNTS = re.compile(
    r' \((?:(?:for|in) (?:"(?:[^"\\]|\\.)*"|\S+) )?and \d+ other (?:key|environment)s?\)'
)
"""The parts of a message that count keys and environments, and change as soon as one is added."""


class Cause(NamedTuple):
    """The mistake behind a problem.

    Attributes:
        code: the code of the problem.
        place: the line that has to change, where the problem is reported.
        describe: returns the message.
        related: another place that takes part.
        identity: failures of one code and one identity have the same cause; None for the place.
        single: where the problem is reported if it affects only one key; None for the place.
        rank: of several failures with one cause, the first of the lowest rank gives the message.
    """

    code: Code
    place: Place
    describe: Describe
    related: Place | None = None
    identity: Hashable = None
    single: Place | None = None
    rank: float = 0


@dataclass(slots=True)
class Affected:
    """The keys and environments that a cause affects.

    Attributes:
        name: the name of the first key.
        keys: all keys, those of a matrix one by one.
        environments: in the order found, each with the rule of its policy that is broken, if any.
    """

    name: str = ""
    keys: set[KeyId] = field(default_factory=set)
    environments: dict[str, Rule | None] = field(default_factory=dict)

    def add(
        self, key: KeyId | None, name: str, environment: str | None, rule: Rule | None = None
    ) -> None:
        """Count a key in an environment; one of them is None if the problem has none."""
        if key is not None:
            if not self.keys:
                self.name = name
            self.keys.add(key)
        if environment is not None:
            self.environments.setdefault(environment, rule)

    @property
    def key(self) -> str:
        """Return the name of the first key, and the number of others."""
        return f"{show(self.name)}{self.other_keys}"

    @property
    def other_keys(self) -> str:
        """Return the number of keys except the first; empty if there is only one."""
        return _others(self.keys, "key")

    @property
    def for_keys(self) -> str:
        """Return the keys for a message that names none; empty if there is only one."""
        return _others(self.keys, "key", f"for {show(self.name)} ")

    @property
    def other_environments(self) -> str:
        """Return the number of environments except the first; empty if there is only one."""
        return _others(self.environments, "environment")

    @property
    def in_environments(self) -> str:
        """Return the environments for a message that names none; empty if there is only one."""
        return _others(self.environments, "environment", f"in {next(iter(self.environments), '')} ")


def _others(found: Sized, noun: str, first: str = "") -> str:
    others = len(found) - 1
    return f" ({first}and {pluralize(others, f'other {noun}')})" if others > 0 else ""


class Causes:
    """All causes of problems, each with the keys and environments that it affects."""

    def __init__(self) -> None:
        self._found: dict[tuple[Code, Hashable], tuple[Cause, Affected]] = {}

    def add(self, cause: Cause) -> Affected:
        """Record a failure and return what its cause affects, for the caller to count."""
        identity = cause.code, cause.place if cause.identity is None else cause.identity
        first, affected = self._found.setdefault(identity, (cause, Affected()))
        if cause.rank < first.rank:
            described = first._replace(
                describe=cause.describe, related=cause.related, rank=cause.rank
            )
            self._found[identity] = described, affected
        return affected

    def problems(self) -> list[Problem]:
        """Return one problem for each cause, in the order in which they were found."""
        merged: dict[tuple[Code, Hashable], tuple[Place, Cause, Affected]] = {}
        for (code, identity), (cause, affected) in self._found.items():
            single = cause.single if len(affected.keys) == 1 else None
            kept = merged.setdefault(
                (code, single or identity), (single or cause.place, cause, affected)
            )[2]
            if kept is not affected:
                kept.keys |= affected.keys
                kept.environments |= affected.environments
        return [_problem(*one) for one in merged.values()]


def identified(keys: Iterable[DesiredKey]) -> Iterator[tuple[DesiredKey, KeyId]]:
    """Yield each key of one environment with what identifies it in all of them."""
    numbers = Counter[Place]()
    for key in keys:
        yield key, (key.place, numbers[key.place])
        numbers[key.place] += 1


def _problem(place: Place, cause: Cause, affected: Affected) -> Problem:
    files = {at.file for at, _ in affected.keys}
    shown = {place.file, place.file if cause.related is None else cause.related.file}
    message = cause.describe(affected)
    return Problem(place, cause.code, message, cause.related, frozenset(files - shown))
