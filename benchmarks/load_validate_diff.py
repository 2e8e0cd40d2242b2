"""CPU time and memory of load, validate and diff, against the bare event loop of libyaml.

The bare loop reads the same files and looks at no event: no reader over libyaml can be faster.
Every measurement is a fresh process, in turns; times are CPU times of the work alone, memory is
the most that the process ever held, the interpreter and the observed keys included.
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
_MOST_RATIO = 2.5
_MOST_MB = 300
_REQUIRED_AT = 100_000
_REQUIRED_OF = "full"
"""Lean keys are measured and held to nothing: there is little to read, and as much to check."""

_OBSERVED = ("none", "all")


@dataclass(frozen=True, slots=True)
class Size:
    """How many keys, 1000 a file, and how often each work is done."""

    keys: int
    runs: int


@dataclass(frozen=True, slots=True)
class Took:
    """One work, done once.

    Attributes:
        parts: milliseconds of CPU time of each part: of load with validate, and of the diff.
        peak: MB of 10**6 bytes.
    """

    parts: tuple[float, ...]
    peak: float


_SIZES = (Size(1_000, 3), Size(10_000, 3), Size(_REQUIRED_AT, 3))
_QUICK_SIZES = (Size(1_000, 2),)
_CHECKED, _QUICK_CHECKED = Size(10_000, 3), Size(1_000, 1)


def main() -> int:
    """Measures, prints, and says whether time and memory stay within their bounds."""
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
                    # Of each turn, for the machine is not as fast in all of them.
                    pairs = zip(ours, bare, strict=True)
                    ratio = median(_total(one) / events for one, events in pairs)
                    peak = median(one.peak for one in ours)
                    load, diff = (median(one.parts[part] for one in ours) for part in (0, 1))
                    rows.append((kind, size.keys, observed, median(bare), load, diff, ratio, peak))
                    if size.keys == _REQUIRED_AT and kind == _REQUIRED_OF:
                        what = f"{size.keys} {kind} keys, {observed} observed"
                        requirements += [
                            Requirement(f"{what}, times the bare loop", ratio, _MOST_RATIO),
                            Requirement(f"{what}, peak MB", peak, _MOST_MB),
                        ]
        table(
            "load with validate, and diff: medians in milliseconds of CPU time",
            ("kind", "keys", "observed", "bare loop", "load", "diff", "ratio", "peak MB"),
            rows,
        )
        size = _QUICK_CHECKED if smoke else _CHECKED
        took = _measure(programs, size, ("compiled", "jsonschema"))
        times = {check: median(map(_total, runs)) for check, runs in took.items()}
        table(
            f"the schema on {size.keys} full keys: medians in milliseconds of CPU time",
            ("check", "time", "ratio"),
            [(check, time, time / times["compiled"]) for check, time in times.items()],
        )
    return verdict(requirements, smoke=smoke)


def _measure(
    programs: Programs, size: Size, works: tuple[str, ...], *, lean: bool = False
) -> dict[str, list[Took]]:
    """Does each work in turns."""
    manifests = programs.folder / f"{'lean' if lean else 'full'}-{size.keys}"
    reconciler(manifests, size.keys, lean=lean)
    took: dict[str, list[Took]] = {work: [] for work in works}
    for _ in range(size.runs):
        for work, runs in took.items():
            found = json.loads(programs.python(_WORK, work, str(manifests)).output)
            runs.append(Took(tuple(1000 * part for part in found["parts"]), found["peak"]))
    return took


def _total(one: Took) -> float:
    return sum(one.parts)


if __name__ == "__main__":
    sys.exit(main())
