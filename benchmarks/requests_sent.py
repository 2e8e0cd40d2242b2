"""Requests that `provision apply` sends, against the fewest that can do the work.

A workspace contains 200 keys, and three manifests of depth 0, 1 and 2 declare 137 more.
Requests are counted in the journal of the server, for a first run that creates all 137 and for
the next run.
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
"""The documented maximum of legacy, for a page and for a bulk create."""
_WITH_PERMISSIONS = 2
"""The depth at which records contain the permissions of the role, which core lists separately."""

_DOCUMENT = 20
"""Aliased creates in one document, if the server accepts several (1.x)."""

REASONS = f"""
The fewest possible requests, for a client that only knows the URL and observes all keys first:
  legacy  all pages of {_PAGE} keys (the first one shows the generation too), and for each depth
          one bulk create for every {_BATCH} keys
  core    one read that shows the generation, one list of keys and roles, one document with two
          creates to find out whether the server accepts several, one create for each key because
          it does not, and one read of permissions if a key has depth 2
  core-1  the same, but the document with two creates makes two keys, and the other keys are sent
          {_DOCUMENT} at a time
Reads after the last write verify the result: they have their own column, at most one list."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The requests of one run, by purpose."""

    before: int
    writes: int
    after: int

    @property
    def needed(self) -> int:
        """The requests without the verification of the result."""
        return self.before + self.writes


def main() -> int:
    """Count and print; return 1 if a run sent more than the fewest requests."""
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
        f"requests for {sum(COUNTS.values())} missing keys, {_EXISTING} others present",
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
    writes = [index for index, request in enumerate(journal) if request.write]
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
    """Return the number of requests for a list of that many keys."""
    return ceil(keys / _PAGE) if dialect == "legacy" else 1


if __name__ == "__main__":
    sys.exit(main())
