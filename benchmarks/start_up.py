"""Time of `provision --help`, compared with the bare interpreter and with importing click.

All are complete processes, run in turns. `--help` may take the time of click, which parses the
command line, and little more, since commands are imported when they run.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from statistics import median

from _manifests import environment, of_every_depth
from _process import Programs, Ran
from _report import Requirement, quick, table, verdict

_RUNS, _QUICK_RUNS = 41, 5
_MOST = 1.2
"""Maximum ratio to the import of click."""


def main() -> int:
    """Measure and print; return 1 if `--help` starts too slowly."""
    smoke = quick(__doc__)
    with Programs() as programs:
        manifests = programs.folder / "manifests"
        environment(manifests)
        of_every_depth(manifests)
        provision = str(Path(sysconfig.get_path("scripts"), "provision"))
        commands = {
            "python -c pass": (sys.executable, "-c", "pass"),
            'python -c "import click"': (sys.executable, "-c", "import click"),
            "provision --help": (provision, "--help"),
            "provision validate (137 keys)": (provision, "validate", "-m", str(manifests)),
        }
        for command in commands.values():  # the first run compiles its imports
            programs.run(*command)
        runs: dict[str, list[Ran]] = {name: [] for name in commands}
        for _ in range(_QUICK_RUNS if smoke else _RUNS):
            for name, command in commands.items():
                runs[name].append(programs.run(*command))
    medians = {name: median(ran.seconds for ran in found) for name, found in runs.items()}
    bare, click, shown, _ = medians.values()
    table(
        f"start-up: medians of {_QUICK_RUNS if smoke else _RUNS} runs, in milliseconds",
        ("command", "wall", "cpu", "wall/python", "wall/click"),
        [
            (
                name,
                1000 * wall,
                1000 * median(ran.cpu for ran in runs[name]),
                wall / bare,
                wall / click,
            )
            for name, wall in medians.items()
        ],
    )
    what = "time of `provision --help` / time of importing click"
    return verdict([Requirement(what, shown / click, _MOST)], smoke=smoke)


if __name__ == "__main__":
    sys.exit(main())
