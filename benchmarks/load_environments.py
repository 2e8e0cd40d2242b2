"""CPU time and memory of `validate` for a matrix of environments, each with one key.

The manifests have one entry with a `matrix`, whose values are in a file of their own. Every
measurement is a fresh process, in turns. CPU time and memory are those of the whole process.
"""

from __future__ import annotations

import sys
from statistics import median

from _process import Programs, Ran
from _report import Requirement, quick, table, verdict

_SIZES, _QUICK_SIZES = (1_000, 2_000, 10_000), (100, 200)
_MOST_RATIO = 1.2
"""Of CPU time for each environment, at the largest size and at the smallest."""

_ENTRY = """\
version: 1
environments:
  "crm-{customer}":
    matrix: {customer: {file: customers.yaml}}
    url: "https://{customer}.example.com"
    auth: {token: "${TOKEN_{customer}}"}
    owns: ["svc-*"]
    role: Integrations
"""
_KEY = """\
version: 1
environment: "crm-{customer}"
keys: [{name: svc-billing, expires: 90d, deliver: [{file: "secrets/{environment}.env"}]}]
"""


def main() -> int:
    """Measure and print; return 1 if the time grows faster than the number of environments."""
    smoke = quick(__doc__)
    sizes = _QUICK_SIZES if smoke else _SIZES
    with Programs() as programs:
        runs: dict[int, list[Ran]] = {size: [] for size in sizes}
        for size in sizes:
            folder = programs.folder / str(size)
            folder.mkdir()
            (folder / "environments.yaml").write_text(_ENTRY)
            (folder / "customers.yaml").write_text("".join(f"- c{n}\n" for n in range(size)))
            (folder / "keys.yaml").write_text(_KEY)
        for _ in range(1 if smoke else 3):
            for size in sizes:
                runs[size].append(programs.provision("validate", programs.folder / str(size)))
    cpu = {size: median(one.cpu for one in found) for size, found in runs.items()}
    table(
        "validate: medians",
        ("environments", "CPU s", "ms each", "peak MB"),
        [
            (size, cpu[size], 1000 * cpu[size] / size, median(one.peak for one in found))
            for size, found in runs.items()
        ],
    )
    first, last = sizes[0], sizes[-1]
    ratio = cpu[last] / last / (cpu[first] / first)
    what = f"CPU time for each of {last} environments, times that of {first}"
    return verdict([Requirement(what, ratio, _MOST_RATIO)], smoke=smoke)


if __name__ == "__main__":
    sys.exit(main())
