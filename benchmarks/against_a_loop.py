"""Wall time of `provision apply` against a loop that posts one key at a time.

Both create the same 137 keys on the same server with 200 other keys, in turns. Both are complete
processes from start to exit, and the server is a third one. A delayed create takes as long as on a
real server. The server runs several creates at a time, which `--parallel 1` prevents.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from _manifests import (
    EMAIL_VARIABLE,
    environment,
    names_of_every_depth,
    of_every_depth,
    plain,
)
from _process import Programs
from _report import Requirement, quick, table, verdict
from _served import Served

_LOOP = str(Path(__file__).with_name("_loop.py"))
_EXISTING = [f"existing-{number:03d}" for number in range(200)]
_RUNS = 3
_SERIAL = ("--parallel", "1")
_SIGN_IN = "password"


@dataclass(frozen=True, slots=True)
class Case:
    """One server, and how `provision apply` is run there.

    Attributes:
        create_seconds: the additional time of one create or one batch.
        applies: options of `provision apply`, one row of the table for each.
        most: the maximum of the ratio to the loop for the first of these; None if it has none.
        keys: the number of keys without sinks; None for those of every depth, in three manifests.
        credential: of `apply`; the loop never signs in.
    """

    dialect: str
    runs: int = _RUNS
    create_seconds: float = 0.0
    applies: tuple[tuple[str, ...], ...] = ((),)
    most: float | None = None
    keys: int | None = None
    credential: str = "session_token"

    @property
    def one_at_a_time(self) -> bool:
        """Return whether the server runs one create at a time."""
        return self.keys is not None

    def __str__(self) -> str:
        works = f", {self.create_seconds:g} s a create" if self.create_seconds else ""
        one_at_a_time = f", one at a time, {self.keys} keys" if self.one_at_a_time else ""
        return f"{self.dialect}{works}{one_at_a_time}"


# The times of single creates are in docs/twenty-api.md, "Speed".
_CASES = (
    Case("legacy"),
    Case("core-1"),
    Case("core"),
    Case("legacy", 1, 0.055),
    Case("core-1", 1, 0.024, ((), _SERIAL)),
    Case("core", 1, 0.16, ((), _SERIAL), most=1.0),
    Case("legacy", 3, 0.16, most=0.4, keys=60),
    Case("core-1", 3, 0.16, most=0.4, keys=60),
    Case("core", 5, 0.16, most=1.1, keys=20, credential=_SIGN_IN),
)
_QUICK = (Case("legacy", 1), Case("core", 1, 0.01, most=1.1, keys=20, credential=_SIGN_IN))


def main() -> int:
    """Measure and print; return 1 if a required `apply` was slower than the loop."""
    smoke = quick(__doc__)
    rows: list[tuple[object, ...]] = []
    requirements: list[Requirement] = []
    for case in _QUICK if smoke else _CASES:
        loop, *applies = _measure(case)
        for options, seconds in zip(case.applies, applies, strict=True):
            ratio = seconds / loop
            command = " ".join(("apply", *options))
            rows.append((str(case), command, case.runs, loop, seconds, ratio, 1 / ratio))
            if case.most is not None and options == case.applies[0]:
                requirements.append(Requirement(f"{case}: {command} / loop", ratio, case.most))
    table(
        f"{len(names_of_every_depth())} keys if not said otherwise: medians in seconds",
        ("server", "command", "runs", "loop", "apply", "apply/loop", "times as fast"),
        rows,
    )
    return verdict(requirements, smoke=smoke)


def _measure(case: Case) -> list[float]:
    """Return the median seconds of the loop, and of `apply` with each set of options."""
    with ExitStack() as stack:
        seconds, one_at_a_time = case.create_seconds, case.one_at_a_time
        served = stack.enter_context(
            Served(case.dialect, create_seconds=seconds, one_at_a_time=one_at_a_time)
        )
        facts = served.facts
        os.environ[EMAIL_VARIABLE] = facts.email
        programs = stack.enter_context(Programs())
        manifests = programs.folder / "manifests"
        environment(manifests, facts.url, case.credential)
        token = facts.password if case.credential == _SIGN_IN else facts.token
        if case.keys is None:
            of_every_depth(manifests)
            names = names_of_every_depth()
        else:
            names = plain(manifests, case.keys)
        task = json.dumps({**asdict(facts), "names": names})

        def loop(task: str = task) -> float:
            return programs.python(_LOOP, stdin=task).seconds

        def apply(*options: str, command: str = "apply") -> float:
            return programs.provision(command, manifests, *options, token=token).seconds

        # The first run of each compiles its imports and warms up the server.
        loop(json.dumps({**asdict(facts), "names": ["warm"]}))
        apply(command="plan")
        columns: list[list[float]] = [[] for _ in range(1 + len(case.applies))]
        for _ in range(case.runs):
            for place, column in enumerate(columns):
                served.reset(_EXISTING)
                column.append(apply(*case.applies[place - 1]) if place else loop())
                if sorted(served.names()[len(_EXISTING) :]) != sorted(names):
                    raise SystemExit(f"{case}: the keys are not those of the manifests")
        return [median(column) for column in columns]


if __name__ == "__main__":
    sys.exit(main())
