"""Two runs and a sink that cannot be read: no invalid token after two successful runs.

One run delivers the token of the existing key while another rotates the key, and GitHub takes up
to 1.5 seconds for each write. PAIRS pairs are run (6 by default); after each pair follow two
normal runs, three days apart.
"""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sandbox_control import Dialect, Sandbox
from write_only import Shop, SlowGithub

if TYPE_CHECKING:
    from pathlib import Path

PAIRS = int(os.environ.get("PAIRS", "6"))
PARALLEL_PAIRS = 6


@pytest.mark.parametrize("dialect", Dialect)
def test_no_dead_token_after_successful_runs(dialect, tmp_path) -> None:
    """The secret has a valid token, whichever run writes last or revokes the old key."""
    pairs = range(-(-PAIRS // len(Dialect)))
    with ThreadPoolExecutor(PARALLEL_PAIRS) as pool:
        found = list(
            pool.map(lambda number: play_pair(dialect, number, tmp_path / f"{number}"), pairs)
        )
    assert found == [[] for _ in pairs]


def play_pair(dialect: Dialect, number: int, root: Path) -> list[str]:
    """Return the problems of one pair and the two runs after it."""
    rng = random.Random(f"{dialect}/{number}")
    root.mkdir()
    problems: list[str] = []
    with SlowGithub(rng) as github, Sandbox(None, dialect) as sandbox:
        shop = Shop(sandbox, github, root)
        assert shop.run()[0]
        shop.days_pass(20)
        github.slow = True
        runs: list[dict[str, Any]] = [
            {"redeliver": True},
            {"rotate": frozenset({"svc-a"}), "at_once": rng.random() < 0.5},
        ]
        delays = [rng.uniform(0, 1.0), rng.uniform(0, 1.0)]
        succeeded: list[bool] = []

        def run_after_delay(delay: float, options: dict[str, Any]) -> None:
            time.sleep(delay)
            succeeded.append(shop.run(**options)[0])

        threads = [
            threading.Thread(target=run_after_delay, args=arguments)
            for arguments in zip(delays, runs, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if all(succeeded) and not shop.works:
            problems.append(f"pair {number}: dead at once, {runs}")
        github.slow = False
        for later in range(2):
            shop.days_pass(3)
            success, _ = shop.run()
            if success and not shop.works:
                problems.append(f"pair {number}: dead after run {later}, {runs}")
    return problems
