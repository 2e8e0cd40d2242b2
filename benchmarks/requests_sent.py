"""Requests that `provision apply` sends, against the fewest that can do the work.

A workspace holds 200 keys, three manifests of depth 0, 1 and 2 ask for 137 more. Requests are
counted from the journal of the server, once when all 137 are missing and once right after.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import ceil

from _manifests import COUNTS, environment, names_of_every_depth, of_every_depth
from _process import Programs
from _report import Requirement, quick, table, verdict
from _served import DIALECTS, Seen, Served

_QUICK_DIALECTS = ("legacy", "core")
_EXISTING = 200
_PAGE = _BATCH = 60
"""The documented most of legacy, of a page and of a bulk create."""
_WITH_PERMISSIONS = 2
"""The depth whose records hold the permissions of the role, which core lists apart."""

_DOCUMENT = 20
"""Aliased creates in one document, where the server takes several (1.x)."""

REASONS = f"""
The fewest possible, for a client that is told nothing but the URL and sees all keys first:
  legacy  the pages of {_PAGE} keys that there are (the first one shows the generation too),
          and one bulk create of at most {_BATCH} keys for each {_BATCH} begun of a depth
  core    one read that shows the generation, one list of keys and roles, one document of two
          that asks whether several are taken, one create a key because they are not, and one
          read of permissions when a key has depth 2
  core-1  the same, but the document of two makes two keys, and the others go {_DOCUMENT} at a time
Reads after the last write are the look at what came of it: its own column, at most one list."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The requests of one run, by what they were for."""

    before: int
    writes: int
    after: int

    @property
    def needed(self) -> int:
        """All but the look at what came of it."""
        return self.before + self.writes


def main() -> int:
    """Counts, prints, and says whether it is the fewest."""
    smoke = quick(__doc__)
    rows: list[tuple[object, ...]] = []
    requirements = []
    looks_too_many = 0
    for dialect in _QUICK_DIALECTS if smoke else DIALECTS:
        one_list = _list(dialect, _EXISTING + sum(COUNTS.values()))
        for run, sent in _count(dialect):
            fewest = _fewest(dialect, run)
            looks_too_many += max(0, sent.after - one_list)
            rows.append(
                (dialect, run, sent.before, sent.writes, sent.after, fewest, sent.needed / fewest)
            )
            requirements.append(Requirement(f"{dialect}, {run} run", sent.needed, fewest))
    requirements.append(Requirement("reads after beyond one list", looks_too_many, 0))
    table(
        f"requests for {sum(COUNTS.values())} missing keys beside {_EXISTING} others",
        ("dialect", "run", "reads", "creates", "reads after", "fewest", "ratio"),
        rows,
    )
    print(REASONS)
    return verdict(requirements, smoke=smoke)


def _count(dialect: str) -> list[tuple[str, Sent]]:
    with Served(dialect) as served, Programs() as programs:
        manifests = programs.folder / "manifests"
        environment(manifests, served.facts.url)
        of_every_depth(manifests)
        served.reset(f"existing-{number:03d}" for number in range(_EXISTING))
        found = []
        for run in ("first", "second"):
            programs.provision("apply", manifests, token=served.facts.token)
            found.append((run, _sent(served.journal())))
        if sorted(served.names()[_EXISTING:]) != sorted(names_of_every_depth()):
            raise SystemExit(f"{dialect}: the keys are not those of the manifests")
        return found


def _sent(journal: list[Seen]) -> Sent:
    writes = [place for place, seen in enumerate(journal) if seen.write]
    last = writes[-1] if writes else len(journal)
    after = len(journal[last + 1 :])
    return Sent(len(journal) - len(writes) - after, len(writes), after)


def _fewest(dialect: str, run: str) -> int:
    missing = COUNTS if run == "first" else {}
    present = _EXISTING + (0 if missing else sum(COUNTS.values()))
    if dialect == "legacy":
        return _list(dialect, present) + sum(ceil(count / _BATCH) for count in missing.values())
    reads = 1 + _list(dialect, present) + (_WITH_PERMISSIONS in missing)
    keys = sum(missing.values())
    if not keys:
        return reads
    return reads + 1 + (keys if dialect == "core" else ceil((keys - 2) / _DOCUMENT))


def _list(dialect: str, keys: int) -> int:
    """The requests of one list of that many keys."""
    return ceil(keys / _PAGE) if dialect == "legacy" else 1


if __name__ == "__main__":
    sys.exit(main())
