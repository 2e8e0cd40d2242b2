"""The estimated time of a run, against simulated runs whose truth is known."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from builders import create, deliver, limits_with, part_with, revoke, rotate, update, vault_sink
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from provisioner.execution.deliver import REVERIFY_AFTER
from provisioner.execution.remaining import Pace, Workload, together, workload

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioner.execution.remaining import Kind

pytestmark = pytest.mark.fast

Result = tuple[float, "Kind", int, float | None]
"""When a result came, its kind, its units, and how long its answer took."""


@dataclass
class Server:
    """A server and its client: requests side by side, each of which takes some time.

    Attributes:
        seconds: what a request of each kind takes.
        parallel: requests in flight at most.
        jitter: how much the times differ: 0.5 is from half to one and a half.
        one_at_a_time: whether the server works on one request after the other.
        slow_from: the time from which on everything takes `slower` times as long.
        refill: seconds from one allowed request to the next, after a burst.
    """

    seconds: dict[Kind, float]
    parallel: int = 4
    jitter: float = 0.0
    one_at_a_time: bool = False
    slow_from: float = float("inf")
    slower: float = 1.0
    refill: float = 0.0
    burst: int = 0
    now: float = 0.0
    results: list[Result] = field(default_factory=list)
    random: random.Random = field(default_factory=lambda: random.Random(1))

    def work(self, kind: Kind, sizes: Iterable[int]) -> None:
        """Send requests of these sizes, and wait for all of them."""
        free = [self.now] * self.parallel
        busy_until = self.now
        for size in sizes:
            turn = start = heapq.heappop(free)
            if self.refill and kind != "write":
                if self.burst > 0:
                    self.burst -= 1
                    self.allowed = start
                else:
                    self.allowed = max(start, self.allowed + self.refill)
                    start = self.allowed
            took = self.seconds[kind] * (1 + self.jitter * self.random.uniform(-1, 1))
            took *= self.slower if start >= self.slow_from else 1.0
            begins = max(start, busy_until) if self.one_at_a_time else start
            end = begins + took
            busy_until = end
            heapq.heappush(free, end)
            self.results.append((end, kind, size, None if kind == "write" else end - turn))
        self.now = max(free)

    def run(self, keys: int, *, batch: int = 1, mints: int = 1) -> list[Result]:
        """Create keys and deliver their tokens, as a run does."""
        self.work("create", _parts(keys, batch))
        self.now += 0.3
        self.work("list", [1])
        for group in _parts(keys, 40):  # two groups at a time
            self.work("mint", _parts(group, mints))
            minted_at = self.now
            self.work("prove", [1] * group)
            if self.now - minted_at < REVERIFY_AFTER:
                self.work("write", [1] * group)
                continue
            # What is written late is proven again, and done then.
            before = len(self.results)
            self.work("prove", [1] * group)
            self.results += [(at, "write", n, None) for at, _, n, _ in self.results[before:]]
        return sorted(self.results, key=lambda one: one[0])


def _parts(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def factors(
    results: list[Result], load: Workload, observed: float, since: float = 0.0
) -> list[tuple[float, float]]:
    """Return the share of a run that is over at each result, and by what the estimate is off.

    The factor is at least 1. The last tenth is left out, where less is left than a request takes.

    Args:
        results: of the run.
        load: all of its work.
        observed: how long an answer took before the run.
        since: the time that the shares count from.
    """
    end = results[-1][0]
    pace = Pace(-observed, -observed).after("list", 1, 0.0, duration=observed).resumed(0.0)
    left = dict(load.units)
    found = []
    for at, kind, units, duration in results:
        pace = pace.after(kind, units, at, duration=duration)
        left[kind] = max(0, left[kind] - units)
        share = (at - since) / (end - since)
        if 0.0 <= share <= 0.9:
            estimate = pace.remaining(load._replace(units=left), at)
            assert estimate is not None
            found.append((share, max(estimate / (end - at), (end - at) / max(estimate, 1e-9))))
    return found


def worst(found: list[tuple[float, float]], after: float = 0.1) -> float:
    return max(factor for share, factor in found if share >= after)


def begun(results: list[Result], kind: Kind, count: int) -> float:
    """Return the share of a run after which so many results of a kind have come."""
    return [at for at, one, _, _ in results if one == kind][count - 1] / results[-1][0]


def load_of(server: Server, keys: int, **shared: int) -> Workload:
    units: dict[Kind, int] = dict.fromkeys(("create", "mint", "prove", "write"), keys)
    return Workload(units | {"list": 1}, shared, server.parallel)  # type: ignore[arg-type]


EVEN: dict[Kind, float] = dict.fromkeys(("list", "create", "mint", "prove"), 1.0) | {"write": 0.01}


@pytest.mark.parametrize("keys", [20, 60, 1000])
@pytest.mark.parametrize("scale", [0.005, 0.05, 10.0])
@pytest.mark.parametrize("batches", [(1, 1), (20, 20), (60, 20)])
def test_the_estimate_is_right_after_a_tenth_of_the_run(keys, scale, batches) -> None:
    """On slow and fast servers, of every generation, it is within a factor of two."""
    batch, mints = batches
    server = Server({kind: scale * one for kind, one in EVEN.items()}, jitter=0.5)
    results = server.run(keys, batch=batch, mints=mints)
    shared = {} if batch == 1 else {"create": batch, "mint": mints}
    assert worst(factors(results, load_of(server, keys, **shared), scale)) <= 2


KINDS: tuple[Kind, ...] = ("create", "mint", "prove", "write")
SPEEDS = st.sampled_from((0.02, 0.1, 0.3, 1.0))


@settings(max_examples=15, deadline=None)
@given(
    keys=st.integers(20, 200),
    create=SPEEDS,
    mint=SPEEDS,
    prove=SPEEDS,
    write=st.sampled_from((0.0, 0.02, 0.3)),
    parallel=st.sampled_from((1, 4, 16)),
    one_at_a_time=st.booleans(),
    seed=st.integers(0, 100),
)
def test_the_estimate_is_right_once_each_kind_was_seen(
    keys, create, mint, prove, write, parallel, one_at_a_time, seed
) -> None:
    """Whatever takes longest, once two waves of each kind came, it is within a factor of two.

    That holds for runs that are clearly too quick to prove a token twice.
    """
    speeds: dict[Kind, float] = {
        "list": 0.1,
        "create": create,
        "mint": mint,
        "prove": prove,
        "write": write,
    }
    server = Server(
        speeds,
        parallel=min(parallel, keys // 10 or 1),
        jitter=0.5,
        one_at_a_time=one_at_a_time,
        random=random.Random(seed),
    )
    results = server.run(keys)
    side_by_side = 1 if one_at_a_time else server.parallel
    assume(min(keys, 40) * prove / side_by_side <= REVERIFY_AFTER / 2)
    share = max(begun(results, kind, 2 * server.parallel) for kind in KINDS)
    found = [one for one in factors(results, load_of(server, keys), 0.1) if one[0] <= 0.8]
    assert worst([*found, (1.0, 1.0)], max(0.1, share)) <= 2


@pytest.mark.parametrize("kind", ["mint", "prove", "write"])
@pytest.mark.parametrize("keys", [200, 500])
def test_a_delivery_ten_times_as_slow_is_noticed_when_it_begins(kind: Kind, keys: int) -> None:
    """Each kind has its own pace, so that quick creates do not promise quick deliveries."""
    server = Server(EVEN | {"create": 0.1, "list": 0.1, "mint": 0.1, "prove": 0.1, kind: 1.0})
    results = server.run(keys)
    found = factors(results, load_of(server, keys), 0.1)
    assert worst(found, max(0.1, begun(results, kind, 2 * server.parallel))) <= 2


@pytest.mark.parametrize("keys", [60, 500])
def test_a_server_that_becomes_slower_is_noticed(keys: int) -> None:
    """A quarter of the rest later, the estimate follows what the server does now."""
    quick = Server(EVEN).run(keys)[-1][0]
    server = Server(EVEN, slow_from=quick / 3, slower=5.0)
    results = server.run(keys)
    found = factors(results, load_of(server, keys), 1.0, since=quick / 3)
    assert worst(found, 0.25) <= 2


@pytest.mark.parametrize("keys", [200, 1000])
def test_a_throttled_run_is_as_slow_as_it_looks(keys: int) -> None:
    """A burst and then 100 requests a minute: waits count, though each answer comes at once."""
    server = Server(dict.fromkeys(EVEN, 0.05), refill=0.6, burst=100)
    results = server.run(keys)
    assert worst(factors(results, load_of(server, keys), 0.05)) <= 2


def test_a_declared_rate_is_known_before_the_burst_is_over() -> None:
    """The manifests say how many requests a minute are allowed, so a quick burst fools nobody."""
    server = Server(dict.fromkeys(EVEN, 0.05), refill=0.6, burst=100)
    results = server.run(200)
    load = load_of(server, 200)._replace(per_minute=100)
    assert worst(factors(results, load, 0.05), 0.0) <= 2


def test_an_estimate_shrinks_while_nothing_comes_but_not_to_nothing() -> None:
    """What takes longer than expected is not about to end."""
    pace = Pace(0.0, 0.0).after("create", 1, 1.0, duration=1.0)
    load = Workload({"create": 4})
    assert pace.remaining(load, 1.0) == 4.0
    assert pace.remaining(load, 2.0) == 3.0
    assert pace.remaining(load, 60.0) == 2.0


def test_a_first_answer_that_does_not_come_is_slow_already() -> None:
    """500 mints take at least as long as the first one has been waited for."""
    pace = Pace(0.0, 0.0).after("create", 1, 0.04, duration=0.04)
    load = Workload({"create": 0, "mint": 500}, parallel=4)
    soon, later = (pace.remaining(load, 0.04 + waited) for waited in (0.0, 0.3))
    assert soon == pytest.approx(500 * 0.04 / 4)
    assert later == pytest.approx(500 * 0.3 / 4, rel=0.02)


def test_a_list_of_all_new_keys_does_not_make_the_rest_look_slow() -> None:
    """It has thousands of records, and the answers after it have one or twenty."""
    left: dict[Kind, int] = {"list": 1, "mint": 2000, "prove": 2000, "write": 2000}
    pace = Pace(-1.0, -1.0).after("list", 1, 0.0, duration=0.02).resumed(0.0)
    for number in range(100):
        pace = pace.after("create", 20, 0.02 * (number + 1), duration=0.08)
    before = pace.remaining(Workload(left, parallel=4), 2.0)
    pace = pace.after("list", 1, 2.5, duration=0.3)
    after = pace.remaining(Workload({**left, "list": 0}, parallel=4), 2.5)
    assert before is not None
    assert after == pytest.approx(before, rel=0.2)


def test_nothing_is_estimated_before_anything_is_known() -> None:
    """No answer, no estimate."""
    assert Pace(0.0, 0.0).remaining(Workload({"create": 4}), 5.0) is None


def test_a_fleet_is_estimated_by_the_environments_that_are_done() -> None:
    """Environments need no answers of a known kind."""
    pace = Pace(0.0, 0.0)
    for number in range(10):
        pace = pace.after("observe", 1, number + 1.0)
    assert pace.remaining(Workload({"observe": 90}, parallel=4), 10.0) == pytest.approx(90, rel=0.1)


def test_the_work_of_a_plan() -> None:
    """Creates, tokens and changes are counted as the run will do them."""
    part = part_with(
        create("a", vault_sink()),
        rotate(create("b", vault_sink())),
        deliver("c", vault_sink()),
        update("d"),
        revoke("e"),
        generation="legacy",
    )
    load = workload(part, limits_with(batch=30, parallel=2, requests_per_minute=9))
    steps = part.steps
    assert load.units == {
        "create": 2,
        "list": 1,
        **dict.fromkeys(("mint", "prove", "write"), 3),
        "change": steps["change"] + steps["revoke"],
    }
    assert load[1:] == ({"create": 30, "mint": 20}, 2, 9)
    both = together([load, replace_parallel(load, 5)])
    assert (both.units["create"], both.parallel) == (4, 7)


def replace_parallel(load: Workload, parallel: int) -> Workload:
    return load._replace(parallel=parallel)
