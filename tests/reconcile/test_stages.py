"""The stages of the pipeline one by one: each failure is a value, in place and whole."""

from __future__ import annotations

import errno
import threading
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from builders import (
    NOW,
    URL,
    desired_key,
    environment_with,
    file_sink,
    observation_with,
    observed_key,
)

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import RefusedError, WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.execution import EnvironmentObserved
from provisioner.model.sink_content import NoToken, Unreadable
from provisioner.plan import Unobserved
from provisioner.reconcile.proposal import ObservedEnvironment, PlanRequest
from provisioner.reconcile.reconciler import Reconciler
from provisioner.runtime.cancellation import STOPPED, Cancellation
from provisioner.runtime.executor import ThreadExecutor

if TYPE_CHECKING:
    from provisioner.execution import Event
    from provisioner.model.environment import Environment
    from provisioner.model.observed import Observation
    from provisioner.model.sink_address import Address
    from provisioner.sinks.sink import Content

pytestmark = pytest.mark.fast

SHOP = environment_with(owns=("svc-*",))
AWAY = environment_with(name="away", url="https://away.example.com")
SINK, OTHER = file_sink(), file_sink("b.env")


@dataclass
class FakeWorkspace:
    """A workspace that returns these observations one after another, and records its calls."""

    observations: list[Observation]
    calls: list[str] = field(default_factory=list)

    def observe(self) -> Observation:
        self.calls.append("observe")
        return self.observations.pop(0)

    def lift_observe_limits(self) -> None:
        """Have no limits to lift."""

    def close_idle_connections(self) -> None:
        self.calls.append("close idle")

    def close(self) -> None:
        self.calls.append("close")


@dataclass
class FakeSink:
    """A sink with this content."""

    content: Content

    def check(self) -> None:
        """Find no problem."""

    def read(self) -> Content:
        return self.content


@dataclass
class Stages:
    """The pipeline over fake workspaces and sinks, with all that it did."""

    opened: list[str] = field(default_factory=list)
    sinks: list[Address] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    stop: Cancellation = field(default_factory=Cancellation)

    def over(
        self,
        workspaces: dict[str, Any],
        environments: tuple[Environment, ...] = (SHOP,),
        contents: dict[Address, Content] | None = None,
    ) -> Any:
        """Return the pipeline; a workspace that is an exception is raised when it is opened."""

        def connect(environment: Environment, stack: ExitStack) -> Any:
            self.opened.append(environment.name)
            found = workspaces[environment.name]
            if isinstance(found, Exception):
                raise found
            stack.callback(found.close)
            return found

        def open_sink(address: Address) -> Any:
            self.sinks.append(address)
            return FakeSink((contents or {}).get(address, NoToken()))

        return closing(
            Reconciler(
                environments, connect, open_sink, ThreadExecutor(2), self.stop, self.events.append
            )
        )


@pytest.fixture
def stages() -> Stages:
    return Stages()


def internal_error(name: str, error: str) -> Failure:
    return Failure(
        Code.INTERNAL_ERROR,
        f"{name} failed because of a bug in provision ({error}).",
        "Please report it, and run `provision list` to see which keys exist.",
    )


REFUSED = RefusedError(Code.WORKSPACE_MISMATCH, "shop is another workspace.", remedy="Check it.")
FAILED = WorkspaceError(Code.UNREACHABLE, "shop cannot be reached.", remedy="Check `url`.")
BUG = ZeroDivisionError("no")
NO_FILES = OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (REFUSED, Unobserved("shop", URL, REFUSED.failure, refusal=REFUSED)),
        (FAILED, Unobserved("shop", URL, FAILED.failure)),
        (BUG, Unobserved("shop", URL, internal_error("shop", "ZeroDivisionError"), bug=BUG)),
        (
            NO_FILES,
            Unobserved(
                "shop",
                URL,
                Failure(
                    Code.UNREACHABLE,
                    "Cannot reach shop: this process has reached its limit on open files.",
                    "Raise the limit (`ulimit -n`), or process fewer environments at once.",
                ),
            ),
        ),
    ],
)
def test_an_environment_that_fails_is_reported_whole_and_stops_no_other(
    stages, error, outcome
) -> None:
    """It keeps its name, its address, its failure, and the refusal or bug behind it."""
    observation = observation_with()
    workspaces = {"shop": error, "away": FakeWorkspace([observation])}
    with stages.over(workspaces, (SHOP, AWAY)) as reconciler:
        observed = reconciler.observe()
    assert observed == (
        outcome,
        ObservedEnvironment(AWAY, workspaces["away"], observation),
    )
    events = {event.environment: event for event in stages.events}
    assert events == {
        "shop": EnvironmentObserved("shop", outcome),
        "away": EnvironmentObserved("away", observation),
    }
    assert workspaces["away"].calls == ["observe", "close idle", "close"]


def test_an_environment_that_a_stop_came_before_is_not_contacted(stages) -> None:
    """It counts as not observed, with advice to run again, and a later stage leaves it so."""
    stages.stop.request()
    with stages.over({}, (SHOP, AWAY)) as reconciler:
        observed = reconciler.observe()
        assert reconciler.plan(observed, PlanRequest({}, NOW)) == observed
    assert observed == (
        Unobserved("shop", URL, STOPPED),
        Unobserved("away", AWAY.url, STOPPED),
    )
    assert stages.opened == []


def test_a_workspace_that_is_only_opened_is_not_observed(stages) -> None:
    """`create` and `token` need no list of keys; the end of the run closes the workspace."""
    workspace = FakeWorkspace([])
    with stages.over({"shop": workspace, "away": FAILED}) as reconciler:
        assert reconciler.open(SHOP) is workspace
        with pytest.raises(WorkspaceError) as failed:
            reconciler.open(AWAY)
        assert failed.value is FAILED
        assert workspace.calls == []
    assert workspace.calls == ["close"]
    assert stages.opened == ["shop", "away"]


def test_a_stop_opens_no_workspace_and_waits_for_none(stages) -> None:
    """Before the stop nothing has been written, so a server that hangs is left behind."""
    ended, begun = threading.Event(), threading.Event()

    def hang(_: Environment, __: ExitStack) -> NoReturn:
        begun.set()
        ended.wait(20)
        raise AssertionError

    stop = Cancellation(grace=20)
    with closing(Reconciler((SHOP,), hang, FakeSink, ThreadExecutor(1), stop)) as reconciler:
        stopper = threading.Thread(target=lambda: (begun.wait(20), stop.request()))
        stopper.start()
        assert reconciler.open(SHOP) is None
        assert not ended.is_set()
        begun.clear()
        assert reconciler.open(SHOP) is None
        assert not begun.is_set()
        ended.set()
        stopper.join(20)


def test_the_sinks_of_live_keys_are_read_for_a_report(stages) -> None:
    """Those of keys that do not exist or are not selected are not, nor those of a lost server."""
    live = observed_key("svc-a")
    observation = observation_with(live)
    desired = {
        "shop": (
            desired_key("svc-a", SINK),
            desired_key("svc-b", OTHER),
        )
    }
    contents = {SINK: Unreadable(NOW)}
    workspace = FakeWorkspace([observation])
    with stages.over({"shop": workspace, "away": FAILED}, (SHOP, AWAY), contents) as reconciler:
        observed = reconciler.observe()
        first, second = reconciler.read_key_sinks(observed, PlanRequest(desired, NOW))
    assert first == (ObservedEnvironment(SHOP, workspace, observation), contents)
    assert second == Unobserved("away", AWAY.url, FAILED.failure)
    assert stages.sinks == [SINK]
