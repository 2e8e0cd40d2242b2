"""The status of a run in words, from its events and activities."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from builders import (
    create,
    deliver,
    environment_with,
    file_sink,
    observation_with,
    observed_key,
    part_with,
    plan_with,
    revoke,
    update,
)

from provisioner.cli.live_area import Size
from provisioner.cli.run_status import RunStatus
from provisioner.errors.failure import Failure
from provisioner.execution import (
    ActionBegun,
    EnvironmentFinished,
    EnvironmentObserved,
    Executed,
    PlanMade,
    StepsSettled,
)
from provisioner.model.activity import (
    Answered,
    CheckingSinks,
    Connecting,
    Listing,
    ReadingSinks,
    Rested,
    SigningIn,
    Waiting,
)
from provisioner.plan import Unobserved

pytestmark = pytest.mark.fast

WIDE = Size(100, 40)


@dataclass
class Watched:
    """A status, and the clock that it looks at."""

    names: tuple[str, ...] = ("shop",)
    now: float = 0.0
    status: RunStatus = field(init=False)

    def __post_init__(self) -> None:
        environments = tuple(environment_with(name=name) for name in self.names)
        self.status = RunStatus(environments, lambda: self.now)

    def frame(self, size: Size = WIDE) -> list[str]:
        return self.status.frame(size)


def test_reading_an_environment_is_told_step_by_step() -> None:
    """Each activity has its words, and the time that the environment has taken so far."""
    watched = Watched()
    assert watched.frame() == ["0 of 1 environment read, 1 waiting"]
    for activity, words in (
        (Connecting("shop"), "connecting"),
        (SigningIn("shop"), "signing in"),
        (Listing("shop"), "listing keys"),
        (Listing("shop", 1000, 3400), "listing 1 000 of 3 400 keys"),
        (Listing("shop", 2000), "listing 2 000 keys"),
        (ReadingSinks("shop", 40), "reading 40 sinks"),
        (CheckingSinks("shop", 1), "checking 1 sink"),
    ):
        watched.status(activity)
        assert watched.frame() == [f"shop: {words}"]
    watched.now = 14.0
    assert watched.frame() == ["shop: checking 1 sink (14 s)"]
    watched.status(Rested("shop"))
    assert watched.frame() == ["1 of 1 environment read"]


def test_a_second_list_knows_how_many_keys_there_are() -> None:
    """After creating, the keys are listed again; the first list told their number."""
    watched = Watched()
    keys = tuple(observed_key(f"k{number}", number + 1) for number in range(3))
    watched.status(Connecting("shop"))
    watched.status(EnvironmentObserved("shop", observation_with(*keys)))
    watched.status(Listing("shop"))
    assert watched.frame() == ["shop: listing 3 keys"]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("asked", "because the server asked"),
        ("failed", "after a failed request"),
        ("settle", "for other runs"),
    ],
)
def test_a_wait_is_counted_down(reason, words) -> None:
    """It says for how long and why, and then what is done again."""
    watched = Watched()
    watched.status(Listing("shop"))
    watched.status(Waiting("shop", 14.0, reason))
    watched.now = 4.0
    assert watched.frame() == [f"shop: waiting 10 s {words} (4 s)"]
    watched.now = 14.5
    assert watched.frame() == ["shop: listing keys (14 s)"]


def plan_of(names: tuple[str, ...], keys: int):
    actions = tuple(create(f"k{number}", file_sink()) for number in range(keys))
    return plan_with(*(part_with(*actions, environment=name) for name in names))


def test_work_is_counted_and_its_rest_estimated() -> None:
    """One line says how much of what is done, and the total estimates the rest from that."""
    watched = Watched()
    plan = plan_of(("shop",), 60)
    watched.status(PlanMade(plan))
    [part] = plan.environments
    watched.status(ActionBegun("shop", part.actions[0]))
    assert watched.frame() == ["  shop  creating 0 of 60", "0 of 120 steps done"]
    for number in range(12):
        watched.now = number + 1.0
        watched.status(Answered("shop", "create", 1, 4.0, done=True))
        watched.status(StepsSettled("shop", "create", 1))
    # A second each: 48 creates, 60 mints, 60 proofs, of which 40 or so twice, and some writes.
    line, total = watched.frame()
    assert line == "  shop  creating 12 of 60 (12 s)"
    assert total == "12 of 120 steps done; estimate: about 4 min left"
    assert watched.status.line() == "shop: creating 12 of 60; estimate: about 4 min left"
    watched.status(Answered("shop", "create", 48, 4.0, done=True))
    watched.status(StepsSettled("shop", "create", 48))
    watched.status(Answered("shop", "mint", 20, 1.0, done=True))
    assert watched.frame()[0] == "  shop  minting tokens, 20 of 60 (12 s)"
    watched.status(Answered("shop", "prove", 1, 1.0, done=True))
    watched.status(StepsSettled("shop", "deliver", 1))
    assert watched.frame()[0] == "  shop  delivering 1 of 60 (12 s)"
    watched.status(EnvironmentFinished("shop", Executed(part, ())))
    assert watched.frame() == ["61 of 120 steps done"]


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        ((revoke("a"), revoke("b")), "revoking 1 of 2"),
        ((update("a"), revoke("b")), "changing and revoking 1 of 2"),
        ((update("a"),), "changing 0 of 1"),
    ],
)
def test_revocations_and_changes_have_words_of_their_own(actions, words) -> None:
    """What is revoked is said to be, alone and beside changes."""
    watched = Watched()
    plan = plan_with(part_with(*actions, environment="shop"))
    watched.status(PlanMade(plan))
    watched.status(ActionBegun("shop", actions[0]))
    if len(actions) > 1:
        watched.status(StepsSettled("shop", "revoke", 1))
    assert watched.frame()[0] == f"  shop  {words}"


def test_a_refused_or_lost_answer_is_no_progress() -> None:
    """A throttled mint mints nothing, so the count stays where it is."""
    watched = Watched()
    action = deliver("a", file_sink())
    watched.status(PlanMade(plan_with(part_with(action, environment="shop"))))
    watched.status(ActionBegun("shop", action))
    watched.status(Answered("shop", "mint", 1, 1.0, done=False))
    assert watched.frame()[0] == "  shop  minting tokens, 0 of 1"


NAMES = tuple(f"crm-{number:05d}" for number in range(10_000))


def test_a_fleet_shows_the_busiest_and_counts() -> None:
    """As many lines as fit, the longest at work first, and one that counts all."""
    watched = Watched(NAMES)
    failure = Failure("unreachable", "x")
    for name in NAMES[:50]:
        watched.status(Connecting(name))
        watched.now += 0.1
    for name in NAMES[:3]:
        watched.status(EnvironmentObserved(name, Unobserved(name, "u", failure)))
        watched.status(Rested(name))
    for name in NAMES[3:20]:
        watched.status(EnvironmentObserved(name, observation_with()))
        watched.status(Rested(name))
    rows = watched.frame(Size(119, 10))
    assert rows[:2] == ["  crm-00020  connecting (3 s)", "  crm-00021  connecting (3 s)"]
    assert len(rows) == 10
    assert rows[-2] == "  and 22 more at work"
    counts = "17 of 10 000 environments read, 3 failed, 30 at work, 9 950 waiting"
    assert rows[-1] == f"{counts}; estimate: about 42 min left"
    assert watched.status.line() == rows[-1]


def test_the_parts_of_a_fleet_that_write_are_counted() -> None:
    """Finished, failed and waiting environments are counted; only those at work have a line."""
    names = NAMES[:100]
    watched = Watched(names)
    plan = plan_of(names, 1)
    watched.status(PlanMade(plan))
    for part in plan.environments[:20]:
        watched.status(ActionBegun(part.environment, part.actions[0]))
    for part in plan.environments[:5]:
        watched.status(EnvironmentFinished(part.environment, Executed(part, ())))
    lost = Unobserved(names[5], "u", Failure("unreachable", "x"))
    watched.status(EnvironmentFinished(names[5], lost))
    rows = watched.frame(Size(79, 6))
    assert rows[0] == "  crm-00006  creating 0 of 1"
    assert rows[-2:] == [
        "  and 10 more at work",
        "5 of 100 environments done, 1 failed, 14 at work, 80 waiting",
    ]


def test_the_answer_of_a_person_may_change_everything() -> None:
    """After a question all is read and planned again, and told as reading."""
    watched = Watched()
    watched.status(Connecting("shop"))
    watched.status(Rested("shop"))
    watched.status(PlanMade(plan_of(("shop",), 5)))
    watched.status(Connecting("shop"))
    assert watched.frame() == ["shop: connecting"]
    watched.status(Rested("shop"))
    assert watched.frame() == ["1 of 1 environment read"]


def test_a_cluster_is_told_by_the_environments_that_come_back() -> None:
    """Activities stay on its workers, so only results are counted."""
    watched = Watched(("a", "b"))
    watched.status(EnvironmentObserved("a", observation_with()))
    assert watched.frame() == ["1 of 2 environments read, 1 waiting"]


def test_keys_that_no_plan_contains_are_counted() -> None:
    """`provision create` has a list of its own."""
    watched = Watched()
    watched.status(Connecting("shop"))
    watched.status.begin("shop", 30)
    watched.status(StepsSettled("shop", "create", 12))
    assert watched.frame() == ["  shop  creating 12 of 30", "12 of 30 steps done"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "1 s"), (17, "17 s"), (43, "45 s"), (119, "120 s"), (150, "2 min"), (4000, "1 h 7 min")],
)
def test_times_are_rounded_as_people_tell_them(seconds, words) -> None:
    """Seconds up to twenty, then fives, minutes and hours."""
    watched = Watched()
    watched.status(Connecting("shop"))
    watched.now = float(seconds)
    assert watched.frame() == [f"shop: connecting ({words})"]


@pytest.mark.parametrize("columns", [59, 79])
def test_no_word_is_cut_on_a_narrow_terminal(columns: int) -> None:
    """A total without room leaves out its last counts, and a long name is cut before its state."""
    names = tuple(f"customer-{number:04}-with-a-long-name-in-eu-west" for number in range(200))
    watched = Watched(names)
    watched.status(PlanMade(plan_of(names, 60)))
    for name in names[:64]:
        part = plan_of((name,), 60).environments[0]
        watched.status(ActionBegun(name, part.actions[0]))
        watched.status(Waiting(name, 14.0, "asked"))
    watched.status(Answered(names[0], "create", 1, 4.0, done=True))
    watched.now = 2.0
    *rows, total = watched.status.frame(Size(columns, 8))
    assert all(len(row) <= columns for row in rows)
    assert rows[1].endswith("waiting 12 s because the server asked")
    assert len(total) <= columns - 2
    assert total.startswith("0 of 200 environments done")
    assert total.endswith("left")
