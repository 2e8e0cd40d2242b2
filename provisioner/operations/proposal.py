"""Proposes the fields `owns` and `ignore` of an environment whose keys are adopted.

A pure function of key names. It never proposes a glob that would let a run revoke a key that no
manifest declares.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from provisioner.errors.pluralize import pluralize
from provisioner.model.globs import literal, matches

if TYPE_CHECKING:
    from collections.abc import Iterable

MIN_NAMES = 3
"""Names with the same prefix that make a pattern; fewer are proposed as they are."""

MAX_GLOBS = 50
"""Globs that each of the two lists has at most."""

_PREFIX = re.compile(r"[^-_./:]+[-_./:]")
"""The start of a name, up to and including its first separator."""

_WORD = re.compile(r"[^\W\d_]+")
_WORDS_BY_HAND = frozenset(
    {
        *("copy", "debug", "delete", "demo", "dummy", "foo", "my", "old", "playground"),
        *("temp", "temporary", "test", "testing", "tmp", "trial", "untitled"),
    }
)
"""Words in the names of keys that people create to try something."""

_POSSESSIVE = re.compile(r"\w['\u2019]s\b")


class ProposedGlob(NamedTuple):
    """A glob, and why it is proposed."""

    glob: str
    reason: str


class Proposal(NamedTuple):
    """The proposed values of `owns` and `ignore`; no name matches globs of both.

    Attributes:
        owns: globs that match only adopted keys and keys that other manifests declare.
        ignore: globs of keys that a person seems to have created for a purpose of their own.
        owns_left_out: the number of further globs of `owns`, which has at most `MAX_GLOBS`.
        ignore_left_out: the same for `ignore`.
    """

    owns: tuple[ProposedGlob, ...]
    ignore: tuple[ProposedGlob, ...]
    owns_left_out: int = 0
    ignore_left_out: int = 0


def propose(
    adopted: Iterable[str],
    foreign: Iterable[str],
    ignorable: Iterable[str],
    owns: tuple[str, ...] = (),
) -> Proposal:
    """Return the globs that an environment lacks; adopted names that it owns need none.

    Names with a common prefix become a pattern, `svc-*`, unless it matches a foreign name.

    Args:
        adopted: the names that the new manifest declares.
        foreign: the names of all live keys that no manifest declares.
        ignorable: those foreign names that may be ignored.
        owns: the globs that the environment has already.
    """
    by_prefix: dict[str | None, list[str]] = {}
    for name in sorted(adopted):
        if not matches(name, owns):
            by_prefix.setdefault(_prefix(name), []).append(name)
    foreign_prefixes = {_prefix(name) for name in foreign}
    patterns: list[ProposedGlob] = []
    exact: list[ProposedGlob] = []
    ignored: list[ProposedGlob] = []
    for prefix, names in by_prefix.items():
        if prefix is not None and len(names) >= MIN_NAMES and prefix not in foreign_prefixes:
            reason = f"{len(names)} keys start with {prefix}"
            patterns.append(ProposedGlob(f"{literal(prefix)}*", reason))
            continue
        for name in names:
            by_hand = _made_by_hand(name)
            if by_hand is not None:
                reason = f"{by_hand}; to ignore it, also remove it below"
                ignored.append(ProposedGlob(literal(name), reason))
            else:
                exact.append(ProposedGlob(literal(name), _reason_for_one(prefix, names)))
    for name in sorted(ignorable):
        by_hand = None if matches(name, owns) else _made_by_hand(name)
        if by_hand is not None:
            ignored.append(ProposedGlob(literal(name), by_hand))
    owned = [*patterns, *exact]
    return Proposal(
        tuple(owned[:MAX_GLOBS]),
        tuple(ignored[:MAX_GLOBS]),
        max(0, len(owned) - MAX_GLOBS),
        max(0, len(ignored) - MAX_GLOBS),
    )


def _prefix(name: str) -> str | None:
    found = _PREFIX.match(name)
    return None if found is None else found[0]


def _reason_for_one(prefix: str | None, names: list[str]) -> str:
    """Return why a name is not part of a pattern, given all adopted names with its prefix."""
    if prefix is None:
        return "its name has no prefix"
    if len(names) >= MIN_NAMES:
        return f"a key that starts with {prefix} is not declared"
    verb = "starts" if len(names) == 1 else "start"
    return f"only {pluralize(len(names), 'key')} {verb} with {prefix}"


def _made_by_hand(name: str) -> str | None:
    """Return what in a name says that a person made the key for themselves; None if nothing."""
    if "@" in name:
        return "looks personal: it contains an @"
    if _POSSESSIVE.search(name):
        return "looks personal: it contains 's"
    word = next((one for one in _WORD.findall(name.lower()) if one in _WORDS_BY_HAND), None)
    return None if word is None else f"looks made by hand: it contains the word {word}"
