"""Wall time of `provision apply` against a loop that posts one key at a time.

Both create the same 137 keys on the same server with 200 other keys, in turns. Both are complete
processes from start to exit, and the server is a third one. A delayed create takes as long as on a
real server. The server runs several creates at a time, which `--parallel 1` prevents.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from _manifests import environment, names_of_every_depth, of_every_depth
from _process import Programs
from _report import Requirement, quick, table, verdict
from _served import Served

_LOOP = str(Path(__file__).with_name("_loop.py"))
_EXISTING = [f"existing-{number:03d}" for number in range(200)]
_RUNS = 3
_SERIAL = ("--parallel", "1")
_MOST = 1.0
"""Maximum of the ratio: no slower than the loop."""


@dataclass(frozen=True, slots=True)
class Case:
    """One server, and how `provision apply` is run there.

    Attributes:
        create_seconds: the additional time of one create or one batch.
        applies: options of `provision apply`, one row of the table for each.
        required: whether the first of these may not be slower than the loop.
    """

    dialect: str
    runs: int = _RUNS
    create_seconds: float = 0.0
    applies: tuple[tuple[str, ...], ...] = ((),)
    required: bool = False

    def __str__(self) -> str:
        works = f", {self.create_seconds:g} s a create" if self.create_seconds else ""
        return f"{self.dialect}{works}"


# The times of single creates are in docs/twenty-api.md, "Speed".
_CASES = (
    Case("legacy"),
    Case("core-1"),
    Case("core"),
    Case("legacy", 1, 0.055),
    Case("core-1", 1, 0.024, ((), _SERIAL)),
    Case("core", 1, 0.16, ((), _SERIAL), required=True),
)
_QUICK = (Case("legacy", 1), Case("core", 1, 0.01, required=True))


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
            if case.required and options == case.applies[0]:
                requirements.append(Requirement(f"{case}: {command} / loop", ratio, _MOST))
    table(
        f"{len(names_of_every_depth())} keys: medians in seconds, whole processes",
        ("server", "command", "runs", "loop", "apply", "apply/loop", "times as fast"),
        rows,
    )
    return verdict(requirements, smoke=smoke)


def _measure(case: Case) -> list[float]:
    """Return the median seconds of the loop, and of `apply` with each set of options."""
    with Served(case.dialect, create_seconds=case.create_seconds) as served, Programs() as programs:
        manifests = programs.folder / "manifests"
        environment(manifests, served.facts.url)
        of_every_depth(manifests)
        names = names_of_every_depth()
        task = json.dumps({**asdict(served.facts), "names": names})

        def loop(task: str = task) -> float:
            return programs.python(_LOOP, stdin=task).seconds

        def apply(*options: str, command: str = "apply") -> float:
            token = served.facts.token
            return programs.provision(command, manifests, *options, token=token).seconds

        # The first run of each compiles its imports and warms up the server.
        loop(json.dumps({**asdict(served.facts), "names": ["warm"]}))
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
