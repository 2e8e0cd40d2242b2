"""Matching names against globs."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def matches(name: str, globs: Iterable[str]) -> bool:
    """Return whether a name matches one of the globs; matching is case-sensitive."""
    return any(fnmatchcase(name, glob) for glob in globs)


def literal(name: str) -> str:
    """Return the glob that matches only this name."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def covers(glob: str, other: str) -> bool:
    """Return whether a glob matches every name that another one matches; False if in doubt."""
    if "[" in glob or "[" in other or "?" in glob:
        return glob in {"*", other}
    # Without these, a glob that matches the text of the other one matches whatever it stands for.
    return fnmatchcase(other, glob)
