"""CPU time and memory of load, validate and diff, against the bare event loop of libyaml.

The bare loop reads the same files and ignores all events: no reader based on libyaml can be faster.
Every measurement is a fresh process, in turns. Times are only the CPU time of the task. Memory is
the maximum of the process, including the interpreter and the observed keys.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from _manifests import reconciler
from _process import Programs
from _report import Requirement, quick, table, verdict

_WORK = str(Path(__file__).with_name("_work.py"))
_MOST_RATIO = {"none": 2.0, "all": 2.3}
"""By the keys that are observed."""

_MOST_MB = 300
_REQUIRED_AT = 100_000
_REQUIRED_OF = "full"
"""The kind of keys with a requirement; lean keys need as much checking for less reading."""

_OBSERVED = ("none", "all")


@dataclass(frozen=True, slots=True)
class Size:
    """The number of keys, with 1000 in each file, and the runs of each task."""

    keys: int
    runs: int


@dataclass(frozen=True, slots=True)
class Took:
    """One run of a task.

    Attributes:
        parts: CPU time of each part in milliseconds: load with validate, and diff.
        peak: maximum resident memory in MB of 10**6 bytes.
    """

    parts: tuple[float, ...]
    peak: float


_SIZES = (Size(1_000, 3), Size(10_000, 3), Size(_REQUIRED_AT, 3))
_QUICK_SIZES = (Size(1_000, 2),)
_CHECKED, _QUICK_CHECKED = Size(10_000, 3), Size(1_000, 1)


def main() -> int:
    """Measure and print; return 1 if a bound on time or memory was exceeded."""
    smoke = quick(__doc__)
    rows: list[tuple[object, ...]] = []
    requirements: list[Requirement] = []
    with Programs() as programs:
        for kind in ("full", "lean"):
            for size in _QUICK_SIZES if smoke else _SIZES:
                took = _measure(programs, size, ("events", *_OBSERVED), lean=kind == "lean")
                bare = [_total(one) for one in took["events"]]
                for observed in _OBSERVED:
                    ours = took[observed]
                    # One ratio for each turn, since the speed of the machine varies.
                    pairs = zip(ours, bare, strict=True)
                    ratio = median(_total(one) / events for one, events in pairs)
                    peak = median(one.peak for one in ours)
                    load, diff = (median(one.parts[part] for one in ours) for part in (0, 1))
                    rows.append((kind, size.keys, observed, median(bare), load, diff, ratio, peak))
                    if size.keys == _REQUIRED_AT and kind == _REQUIRED_OF:
                        what = f"{size.keys} {kind} keys, {observed} observed"
                        requirements += [
                            Requirement(
                                f"{what}, times the bare loop", ratio, _MOST_RATIO[observed]
                            ),
                            Requirement(f"{what}, peak MB", peak, _MOST_MB),
                        ]
        table(
            "load with validate, and diff: medians in milliseconds of CPU time",
            ("kind", "keys", "observed", "bare loop", "load", "diff", "ratio", "peak MB"),
            rows,
        )
        size = _QUICK_CHECKED if smoke else _CHECKED
        took = _measure(programs, size, ("jsonschema-rs", "jsonschema"))
        times = {check: median(map(_total, runs)) for check, runs in took.items()}
        table(
            f"the schema on {size.keys} full keys: medians in milliseconds of CPU time",
            ("check", "time", "ratio"),
            [(check, time, time / times["jsonschema-rs"]) for check, time in times.items()],
        )
    return verdict(requirements, smoke=smoke)


def _measure(
    programs: Programs, size: Size, tasks: tuple[str, ...], *, lean: bool = False
) -> dict[str, list[Took]]:
    """Run the tasks in turns."""
    manifests = programs.folder / f"{'lean' if lean else 'full'}-{size.keys}"
    reconciler(manifests, size.keys, lean=lean)
    took: dict[str, list[Took]] = {task: [] for task in tasks}
    for _ in range(size.runs):
        for task, runs in took.items():
            found = json.loads(programs.python(_WORK, task, str(manifests)).output)
            runs.append(Took(tuple(1000 * part for part in found["parts"]), found["peak"]))
    return took


def _total(one: Took) -> float:
    return sum(one.parts)


if __name__ == "__main__":
    sys.exit(main())
