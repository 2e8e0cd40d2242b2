"""CPU time and bytes written of `provision apply` for many new keys whose tokens go into one file.

Each key is a variable of the same dotenv file. Both grow with the number of keys if the file is
written in groups, and with its square if it is written for each key. The server is another process.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from _manifests import ENVIRONMENT, environment
from _process import Programs
from _report import Requirement, quick, table, verdict
from _served import DIALECTS, Served

_SMALL, _LARGE = 500, 5000
_QUICK_SMALL, _QUICK_LARGE = 20, 60
_MOST_CPU, _MOST_WRITTEN = 1.5, 60.0

_PROGRAM = """\
import sys
from provisioner.cli import main
code = main(sys.argv[1:])
counters = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
print(counters["wchar"])
sys.exit(code)
"""
"""Runs a command of `provision` and prints the bytes that it wrote, without those that it sent."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run.

    Attributes:
        keys: keys, each a variable of the file.
        cpu: CPU time of the process in seconds.
        written: bytes that the process wrote.
        size: bytes of the file afterwards.
        again: CPU time in seconds of a second run, which only reads the file.
    """

    keys: int
    cpu: float
    written: int
    size: int
    again: float

    @property
    def cpu_per_key(self) -> float:
        """Return milliseconds of CPU time for each key."""
        return 1000 * self.cpu / self.keys


def main() -> int:
    """Measure and print; return 1 if a requirement was missed."""
    smoke = quick(__doc__)
    sizes = (_QUICK_SMALL, _QUICK_LARGE) if smoke else (_SMALL, _LARGE)
    rows: list[tuple[object, ...]] = []
    requirements: list[Requirement] = []
    for dialect in DIALECTS[:1] if smoke else DIALECTS:
        small, large = (_measure(dialect, keys) for keys in sizes)
        for one in (small, large):
            times = one.written / one.size
            rows.append((dialect, one.keys, one.cpu, one.cpu_per_key, one.size, times, one.again))
        ratio = large.cpu_per_key / small.cpu_per_key
        most = f"{large.keys} keys"
        requirements += (
            Requirement(f"{dialect}: CPU a key, {most} / {small.keys}", ratio, _MOST_CPU),
            Requirement(f"{dialect}: written / file, {most}", times, _MOST_WRITTEN),
        )
    table(
        "new keys in one file, one run each",
        ("server", "keys", "cpu s", "cpu ms/key", "file bytes", "written/file", "again cpu s"),
        rows,
    )
    return verdict(requirements, smoke=smoke)


def _measure(dialect: str, keys: int) -> Measured:
    with Served(dialect) as served, Programs() as programs:
        manifests = programs.folder / "manifests"
        environment(manifests, served.facts.url)
        declared = [{"name": f"svc-{number:05d}"} for number in range(keys)]
        deliver = [{"file": "secrets/all.env"}]
        manifest = {"version": 1, "environment": ENVIRONMENT, "keys": declared}
        manifest["defaults"] = {"expires": "90d", "deliver": deliver}
        (manifests / "keys.yaml").write_text(json.dumps(manifest))
        programs.provision("plan", manifests, "-q", token=served.facts.token)  # compiles
        apply = ("-c", _PROGRAM, "apply", "-q", "-m", str(manifests))
        first, second = (
            programs.run(sys.executable, *apply, token=served.facts.token) for _ in range(2)
        )
        file = programs.folder / "secrets" / "all.env"
        if len(file.read_text().splitlines()) != keys:
            raise SystemExit(f"{dialect}: {file} does not have {keys} variables")
        written = int(first.output.split()[-1])
        return Measured(keys, first.cpu, written, file.stat().st_size, second.cpu)


if __name__ == "__main__":
    sys.exit(main())
