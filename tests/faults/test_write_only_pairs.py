"""Two runs and a sink that cannot be read: no dead token behind two good exit codes.

One run delivers the token of the key that is there, another one rotates the key meanwhile, and
GitHub takes up to 1.5 seconds for each write. PAIRS pairs are played (6 where nothing is said);
after each pair two plain runs follow, each three days later.
"""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from write_only import Shop, SlowGithub

from provisioner.sandbox import Dialect, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

PAIRS = int(os.environ.get("PAIRS", "6"))
AT_ONCE = 6


@pytest.mark.parametrize("dialect", Dialect)
def test_no_dead_token_lies_behind_good_exit_codes(dialect, tmp_path) -> None:
    """Whichever run writes last, and whether the old key ends at once, later, or never."""
    pairs = range(-(-PAIRS // len(Dialect)))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda number: pair(dialect, number, tmp_path / f"{number}"), pairs))
    assert found == [[] for _ in pairs]


def pair(dialect: Dialect, number: int, root: Path) -> list[str]:
    """What was wrong with one pair and the two plain runs after it."""
    chance = random.Random(f"{dialect}/{number}")
    root.mkdir()
    wrong: list[str] = []
    with SlowGithub(chance) as github, Sandbox(None, dialect) as sandbox:
        shop = Shop(sandbox, github, root)
        assert shop.run()[0]
        shop.days_pass(20)
        github.slow = True
        runs: list[dict[str, Any]] = [
            {"redeliver": True},
            {"rotate": frozenset({"svc-a"}), "at_once": chance.random() < 0.5},
        ]
        waits = [chance.uniform(0, 1.0), chance.uniform(0, 1.0)]
        good: list[bool] = []

        def one(wait: float, options: dict[str, Any]) -> None:
            time.sleep(wait)
            good.append(shop.run(**options)[0])

        threads = [threading.Thread(target=one, args=two) for two in zip(waits, runs, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if all(good) and not shop.works:
            wrong.append(f"pair {number}: dead at once, {runs}")
        github.slow = False
        for later in range(2):
            shop.days_pass(3)
            ends_well, _ = shop.run()
            if ends_well and not shop.works:
                wrong.append(f"pair {number}: dead after run {later}, {runs}")
    return wrong
