"""What the log tells of a run at info, and the line that a pipeline sees now and then."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest
from builders import (
    create,
    environment_with,
    file_sink,
    observation_with,
    observed_key,
    part_with,
    plan_with,
)

from provisioner.cli import watch
from provisioner.cli.live_area import LiveArea
from provisioner.cli.options import OutputOptions
from provisioner.cli.story import Story
from provisioner.errors.failure import Failure
from provisioner.execution import (
    ActionBegun,
    ActionEnded,
    Done,
    EnvironmentFinished,
    EnvironmentObserved,
    Executed,
    Failed,
    PlanMade,
    RunEnded,
    RunStarted,
    StepsSettled,
)
from provisioner.model.activity import (
    Answered,
    CheckingSinks,
    Connected,
    Connecting,
    Listing,
    ReadingSinks,
    Rested,
    SigningIn,
    Waiting,
)
from provisioner.plan import Unobserved

if TYPE_CHECKING:
    from provisioner.execution import Event
    from provisioner.model.activity import Activity

pytestmark = pytest.mark.fast

SHOP = "shop"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture):
    """Return a function that passes events to a new story and returns the lines of the log."""
    caplog.set_level(logging.INFO, "provisioner")

    def tell(*events: Event | Activity) -> list[str]:
        caplog.clear()
        story = Story()
        for event in events:
            story(event)
        return [record.getMessage() for record in caplog.records]

    return tell


def run_of(*, here: bool) -> list[Event | Activity]:
    """Return the events of a run of two creates, of which one fails; `here` or on a cluster."""
    actions = (create("a", file_sink()), create("b"))
    part = part_with(*actions)
    results = (Done(actions[0], "id", None), Failed(actions[1], Failure("unreachable", "x")))
    answer = (Answered(SHOP, "create", 1, 0.5, done=True),) if here else ()
    activities = (
        Connecting(SHOP),
        SigningIn(SHOP),
        Connected(SHOP, "https://crm.example.com", "core", "password"),
        Listing(SHOP),
        ReadingSinks(SHOP, 1),
        CheckingSinks(SHOP, 1),
        Waiting(SHOP, 1.0, "asked"),
        Rested(SHOP),
    )
    return [
        RunStarted("apply", "1", (SHOP,)),
        *(activities if here else ()),
        EnvironmentObserved(SHOP, observation_with(observed_key("z", 1))),
        PlanMade(plan_with(part)),
        ActionBegun(SHOP, actions[0]),
        *answer,
        StepsSettled(SHOP, "create", 2),
        StepsSettled(SHOP, "deliver", 1),
        *(ActionEnded(SHOP, one) for one in results),
        EnvironmentFinished(SHOP, Executed.of(part, results, {})),
        RunEnded(4),
    ]


def without_times(lines: list[str]) -> list[str]:
    return [line.replace("0.0 s", "T") for line in lines]


def test_a_run_is_told_in_a_few_lines(told) -> None:
    """How it connected, what it found, planned and did; a failure is not told as a success."""
    requests = observation_with().requests
    assert without_times(told(*run_of(here=True))) == [
        "shop: connected to https://crm.example.com with a user's password (core)",
        f"shop: listed 1 key after {requests} request{'s' * (requests != 1)}",
        "shop: planned 2 to create",
        "shop: processed 2 creates in T",
        "shop: processed 1 token in T",
        "shop: done in T with 1 answer: 1 created, 1 failed",
    ]


def test_nothing_is_said_of_times_that_only_a_worker_knows(told) -> None:
    """On a cluster, all steps arrive at once, and the answers stay on the workers."""
    assert told(*run_of(here=False))[1:] == [
        "shop: planned 2 to create",
        "shop: done: 1 created, 1 failed",
    ]


def test_an_environment_that_cannot_be_read_is_told_by_its_code(told) -> None:
    """The error itself is printed at the end of the run."""
    lost = Unobserved(SHOP, "https://crm.example.com", Failure("unreachable", "No answer."))
    assert told(EnvironmentObserved(SHOP, lost)) == ["shop: could not be read: unreachable"]


class FakeConsole:
    """A console without a terminal, which keeps what is printed."""

    def __init__(self) -> None:
        self.output = OutputOptions(quiet=False, log_level="info", log_format="text", color="never")
        self.area = LiveArea(None)
        self.lines: list[str] = []

    def print_stderr(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("json", [False, True])
def test_a_pipeline_sees_a_line_now_and_then(
    json: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a terminal the status is printed; in a JSON log it is information, no warning."""
    caplog.set_level(logging.INFO, "provisioner")
    monkeypatch.setattr(watch, "_LINE_INTERVAL", 0.001)
    monkeypatch.setattr(watch, "logs_json", lambda: json)
    console, threads = FakeConsole(), threading.active_count()
    told = threading.Event()
    status = watch.RunStatus.line

    def line(self: watch.RunStatus) -> str:
        lines = [one.getMessage() for one in caplog.records] + console.lines
        is_other = threading.current_thread() is not threading.main_thread()
        if is_other and any(one.startswith(f"{SHOP}: ") for one in lines):
            told.set()
        return status(self)

    monkeypatch.setattr(watch.RunStatus, "line", line)
    with watch.watching(console, (environment_with(name=SHOP),)) as watched:  # type: ignore[arg-type]
        watched(Connecting(SHOP))
        assert told.wait(10)
    assert threading.active_count() == threads, "a line could still come after the result"
    assert {one.levelname for one in caplog.records} == ({"INFO"} if json else set())
    assert bool(console.lines) is not json
