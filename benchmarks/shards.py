"""Twenty shards as processes, merged: the same JSON as one run, and what they cost.

Every environment has its own embedded Twenty. Times and random ids are not compared.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from _process import Programs
from _report import Requirement, quick, table, verdict

if TYPE_CHECKING:
    from pathlib import Path

    from _process import Ran

_AT_ONCE = 4
"""Shards that run at the same time."""

_PROGRAM = f"{sysconfig.get_path('scripts')}/provision"
_JSON = ("--format", "json", "--log-level", "error")
_COMMANDS = ("plan", "apply", "report")
_VARYING = re.compile(
    rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)


def main() -> int:
    """Run, compare and print; return 1 if a merged document differs from that of one run."""
    smoke = quick(__doc__)
    environments, total = (2, 2) if smoke else (60, 20)
    rows: list[tuple[object, ...]] = []
    differing = 0
    with Programs() as programs:
        one, shards = (programs.folder / name / "manifests" for name in ("one", "shards"))
        _write_fleet(one, environments)
        programs.provision("plan", one, *_JSON)  # makes the workspaces
        shutil.copytree(one.parent, shards.parent)
        for command in _COMMANDS[:1] if smoke else _COMMANDS:
            whole = programs.provision(command, one, *_JSON)
            seconds, ran = _run_shards(programs, command, shards, total)
            files = [shards.parent / f"{number}.json" for number in range(1, total + 1)]
            for file, each in zip(files, ran, strict=True):
                file.write_bytes(each.output)
            merged = programs.run(_PROGRAM, "merge", *map(str, files), *_JSON)
            same = _comparable(merged, shards) == _comparable(whole, one)
            differing += not same
            cpu = sum(each.cpu for each in ran)
            rows.append((command, whole.seconds, whole.cpu, seconds, cpu, merged.seconds))
    table(
        f"{environments} environments: one run, {total} shards {_AT_ONCE} at a time, and the merge",
        ("command", "one run s", "CPU s", "shards s", "CPU s", "merge s"),
        rows,
    )
    return verdict([Requirement("merged documents that differ", differing, 0)], smoke=smoke)


def _write_fleet(manifests: Path, environments: int) -> None:
    manifests.mkdir(parents=True)
    dialects = ("core", "core-1", "legacy")
    names = [f"crm-{number:03d}" for number in range(environments)]
    declared = {
        name: {"url": f"sandbox:{dialects[number % len(dialects)]}", "role": "Admin"}
        for number, name in enumerate(names)
    }
    keys = [{"name": f"svc-{number}", "expires": "2035-01-01"} for number in range(5)]
    for file, content in (
        ("environments", {"environments": declared}),
        ("keys", {"environments": names, "keys": keys}),
    ):
        (manifests / f"{file}.yaml").write_text(json.dumps({"version": 1, **content}))


def _run_shards(
    programs: Programs, command: str, manifests: Path, total: int
) -> tuple[float, list[Ran]]:
    """Run all shards, and return the seconds that they took together."""

    def run(number: int) -> Ran:
        return programs.provision(command, manifests, "--shard", f"{number}/{total}", *_JSON)

    started = time.perf_counter()
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        ran = list(threads.map(run, range(1, total + 1)))
    return time.perf_counter() - started, ran


def _comparable(ran: Ran, manifests: Path) -> bytes:
    """Return the output without times, random ids, and the folder of the manifests."""
    return _VARYING.sub(b"", ran.output.replace(str(manifests).encode(), b""))


if __name__ == "__main__":
    sys.exit(main())
