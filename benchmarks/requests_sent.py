"""Requests that `provision apply` sends, against the fewest that can do the work.

A workspace contains 200 keys, and three manifests of depth 0, 1 and 2 declare 137 more.
Requests are counted in the journal of the server, for a first run that creates all 137 and for
the next run. Other runs create 20 keys and deliver their tokens to a file, or find nothing to do in
a workspace with 10 000 revoked keys.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from _manifests import (
    COUNTS,
    EMAIL_VARIABLE,
    environment,
    names_of_every_depth,
    of_every_depth,
    with_sink,
)
from _process import Programs
from _report import Requirement, quick, table, verdict
from _served import DIALECTS, Seen, Served

if TYPE_CHECKING:
    from collections.abc import Iterator

_QUICK_DIALECTS = ("core",)
_EXISTING = 200
_BATCH = 60
"""The documented maximum of legacy for a bulk create."""
_WITH_PERMISSIONS = 2
"""The depth at which records contain the permissions of the role, which core lists separately."""

_DOCUMENT = 20
"""Aliased creates in one document, if the server accepts several (1.x)."""

_DELIVERED = 20
_MOST_DELIVERING = {"legacy": 24, "core-1": 27, "core": 66}
"""The most requests that create and deliver 20 keys; with an API key, and on 2.x with a sign-in."""

_REVOKED = 10_000
_MOST_IDLE = {"legacy": 1, "core-1": 2, "core": 2}
"""The most requests of a run with nothing to do, however many keys were revoked."""

REASONS = f"""
The fewest possible requests, for a client that only knows the URL and observes all keys first:
  legacy  one list of keys (which shows the generation too), and for each depth one bulk create for
          every {_BATCH} keys
  core    one read that shows the generation, one list of keys and roles, one document with two
          creates to find out whether the server accepts several, one create for each key because
          it does not, and one read of permissions if a key has depth 2
  core-1  the same, but the document with two creates makes two keys, and the other keys are sent
          {_DOCUMENT} at a time
Reads after the last write verify the result: they have their own column, at most one list.

Delivering {_DELIVERED} keys needs a list before and after the creates, a proof of each token, and
  legacy  one bulk create and one document that mints all tokens
  core-1  a read that shows the generation, one that shows what the API key may do, two documents of
          creates and one of mints
  core    two requests to sign in, a read that shows the generation, a document that shows that the
          server creates one key a request, and a create and a mint for each key; a sign-out
          follows, which is not counted because 2.x servers before 2.33 do not have it"""


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
        for run, sent in _count(dialect):
            fewest = _fewest(dialect, run)
            looks_too_many += max(0, sent.after - 1)
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
    others = []
    for dialect in _QUICK_DIALECTS if smoke else _MOST_IDLE:
        for run, sent, most in _deliver_and_idle(dialect):
            others.append((dialect, run, sent, most))
            requirements.append(Requirement(f"{dialect}, {run}", sent, most))
    table("requests of other runs", ("dialect", "run", "requests", "at most"), others)
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


def _deliver_and_idle(dialect: str) -> Iterator[tuple[str, int, int]]:
    """Count the requests of two runs; yield what each does, and the most that it may send."""
    with Served(dialect) as served:
        os.environ[EMAIL_VARIABLE] = served.facts.email
        with Programs() as programs:
            manifests = programs.folder / "manifests"
            signs_in = dialect == "core"
            environment(manifests, served.facts.url, "password" if signs_in else "token")
            with_sink(manifests, _DELIVERED)
            served.reset()
            secret = served.facts.password if signs_in else served.api_token()
            served.journal()
            programs.provision("apply", manifests, token=secret)
            sent = len(served.journal()) - signs_in  # the sign-out
            yield f"{_DELIVERED} keys with a sink", sent, _MOST_DELIVERING[dialect]
            environment(manifests, served.facts.url)
            (manifests / "delivered.yaml").unlink()
            of_every_depth(manifests)
            existing = (f"existing-{number:03d}" for number in range(_EXISTING))
            served.reset([*names_of_every_depth(), *existing], _REVOKED)
            programs.provision("apply", manifests, token=served.facts.token)
            run = f"nothing to do, {_REVOKED} revoked keys"
            yield run, len(served.journal()), _MOST_IDLE[dialect]


def _sent(journal: list[Seen]) -> Sent:
    writes = [index for index, request in enumerate(journal) if request.write]
    last = writes[-1] if writes else len(journal)
    after = len(journal[last + 1 :])
    return Sent(len(journal) - len(writes) - after, len(writes), after)


def _fewest(dialect: str, run: str) -> int:
    missing = COUNTS if run == "first" else {}
    if dialect == "legacy":
        return 1 + sum(ceil(count / _BATCH) for count in missing.values())
    reads = 2 + (_WITH_PERMISSIONS in missing)
    keys = sum(missing.values())
    if not keys:
        return reads
    return reads + 1 + (ceil((keys - 2) / _DOCUMENT) if dialect == "core-1" else keys)


if __name__ == "__main__":
    sys.exit(main())
