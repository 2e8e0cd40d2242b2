"""The estimated time that `provision apply` still takes, against the time that it then took.

The estimate is the one on the terminal, before it is rounded, and is compared when 10 %, 25 % and
50 % of the time are over: from the plan, when the run begins to write, to its end. The server is a
process of its own that answers each request after a delay.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from _manifests import TOKEN_VARIABLE, environment, with_sink
from _report import Requirement, quick, table, verdict
from _served import Served

from provisioner.cli.options import Selection
from provisioner.cli.run import prepare, reconciler_of
from provisioner.cli.run_status import RunStatus
from provisioner.execution import PlanMade
from provisioner.plan import PlanOptions
from provisioner.runtime.cancellation import Cancellation

_SHARES = (0.1, 0.25, 0.5)
_INTERVAL = 0.01
_ANY = "/"
_MINT = "generateApiKeyToken"
_MOST = 2.0


@dataclass(frozen=True, slots=True)
class Case:
    """One server, and the keys that are created there.

    Attributes:
        delays: as for `Served`.
    """

    server: str
    dialect: str
    keys: int
    delays: dict[str, float] = field(default_factory=dict)


def _cases() -> list[Case]:
    """Return fast and slow servers, and one that mints ten times as slowly as it creates."""
    return [
        *(Case("fast", dialect, 20) for dialect in ("legacy", "core-1", "core")),
        *(Case("fast", dialect, 2000) for dialect in ("legacy", "core-1", "core")),
        *(Case("0.1 s", dialect, 60, {_ANY: 0.1}) for dialect in ("legacy", "core-1", "core")),
        *(Case("0.1 s", dialect, 500, {_ANY: 0.1}) for dialect in ("legacy", "core-1", "core")),
        *(Case("1 s", dialect, 20, {_ANY: 1.0}) for dialect in ("legacy", "core-1", "core")),
        Case("1 s", "core", 60, {_ANY: 1.0}),
        Case("slow mints", "core", 500, {_MINT: 0.4, _ANY: 0.04}),
    ]


def _ratios(case: Case) -> tuple[list[float], float]:
    """Return by what the estimate is off at each share, at least 1, and the seconds of the run."""
    samples: list[tuple[float, float | None]] = []
    ended = threading.Event()
    with (
        tempfile.TemporaryDirectory() as folder,
        Served(case.dialect, delays=case.delays) as served,
    ):
        manifests = Path(folder, "manifests")
        environment(manifests, served.facts.url)
        with_sink(manifests, case.keys)
        os.environ[TOKEN_VARIABLE] = served.facts.token
        prepared = prepare(Selection(manifests))
        status = RunStatus(prepared.environments)

        def sample() -> None:
            while not ended.wait(_INTERVAL):
                samples.append((time.monotonic(), status.remaining()))

        with reconciler_of(prepared, Cancellation(), status, status) as reconciler:
            proposal = reconciler.propose(prepared.request(PlanOptions()))
            status(PlanMade(proposal.plan))
            started = time.monotonic()
            sampler = threading.Thread(target=sample)
            sampler.start()
            result = reconciler.execute(proposal)
            end = time.monotonic()
            ended.set()
            sampler.join()
        if result.incomplete:
            raise SystemExit(f"{case} is incomplete")
    return [_ratio(samples, started, end, share) for share in _SHARES], end - started


def _ratio(
    samples: list[tuple[float, float | None]], started: float, end: float, share: float
) -> float:
    """Return by what the estimate is off after a share of the run; infinite without one."""
    due = started + share * (end - started)
    at, estimate = min(samples, key=lambda one: abs(one[0] - due))
    left = end - at
    return max(estimate / left, left / estimate) if estimate else float("inf")


def main() -> int:
    """Run all cases, or two small ones."""
    smoke = quick(__doc__)
    cases = [Case("fast", "core", 20), Case("0.1 s", "legacy", 20, {_ANY: 0.1})]
    rows = []
    worst = 0.0
    for case in cases if smoke else _cases():
        ratios, seconds = _ratios(case)
        worst = max(worst, *ratios)
        rows.append((case.server, case.dialect, case.keys, seconds, *ratios))
    header = ("server", "dialect", "keys", "seconds", *(f"at {share:.0%}" for share in _SHARES))
    table("estimated time left, off by a factor of", header, rows)
    return verdict([Requirement("factor, at worst", worst, _MOST)], smoke=smoke)


if __name__ == "__main__":
    sys.exit(main())
