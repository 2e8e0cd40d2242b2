"""Wall time and memory of a fleet: against a bare loop of the same requests, and as it grows.

The loop sends the requests of a run with nothing to do in 64 threads. Both are complete processes
from start to exit, in turns, and the simulated workspaces are a third one, which answers after
20 ms. Every `provision` may open 256 files.
"""

from __future__ import annotations

import shlex
import sys
import sysconfig
from pathlib import Path
from statistics import median

from _fleet import Fleet
from _process import Programs, Ran
from _report import Requirement, quick, table, verdict

_LOOP = str(Path(__file__).with_name("_fleet.py"))
_PROVISION = str(Path(sysconfig.get_path("scripts"), "provision"))
_RUNS, _COUNT, _COUNTS = 3, 1_000, (2_000, 10_000)
_QUICK_RUNS, _QUICK_COUNT, _QUICK_COUNTS = 1, 10, (5, 10)
_MOST_RATIO = 1.5
_MOST_MB = 150
_MOST_GROWTH = 1.2
"""Maximum memory of the larger fleet, compared with the smaller one."""


def main() -> int:
    """Measure and print; return 1 if a bound was exceeded."""
    smoke = quick(__doc__)
    runs, count = (_QUICK_RUNS, _QUICK_COUNT) if smoke else (_RUNS, _COUNT)
    rows: list[tuple[object, ...]] = []
    with Programs() as programs, Fleet() as fleet:
        manifests = programs.folder / "idle"
        fleet.manifests(manifests, count, keys=1)
        _provision(programs, "apply", manifests)  # compiles the imports
        turns = [
            (
                programs.python(_LOOP, "loop", stdin=fleet.loop_input(count)),
                _provision(programs, "apply", manifests),
            )
            for _ in range(runs)
        ]
        ratio = median(apply.seconds / loop.seconds for loop, apply in turns)
        for name, ran in zip(("loop", "apply"), zip(*turns, strict=True), strict=True):
            medians = (median(getattr(one, part) for one in ran) for part in _PARTS)
            rows.append((count, name, "nothing", *medians))
        peak = max(apply.peak for _, apply in turns)
        peaks = []
        for size in _QUICK_COUNTS if smoke else _COUNTS:
            manifests = programs.folder / f"new-{size}"
            with Fleet() as growing:
                growing.manifests(manifests, size, keys=2)
                for command in ("plan", "apply"):
                    once = _provision(programs, command, manifests)
                    rows.append((size, command, "a key each", *(getattr(once, p) for p in _PARTS)))
            peaks.append(once.peak)
    table(
        "a fleet with a limit of 256 open files: whole processes",
        ("environments", "program", "to do", "seconds", "CPU s", "peak MB"),
        rows,
    )
    requirements = [
        Requirement(f"{count} environments, nothing to do: apply / loop", ratio, _MOST_RATIO),
        Requirement(f"{count} environments, nothing to do: peak MB", peak, _MOST_MB),
        Requirement(
            "memory of the largest fleet / the smaller one", peaks[1] / peaks[0], _MOST_GROWTH
        ),
    ]
    return verdict(requirements, smoke=smoke)


_PARTS = ("seconds", "cpu", "peak")


def _provision(programs: Programs, command: str, manifests: Path) -> Ran:
    program = (_PROVISION, command, "-m", str(manifests), "--log-level", "error")
    return programs.run("sh", "-c", f"ulimit -n 256; exec {shlex.join(program)}")


if __name__ == "__main__":
    sys.exit(main())
