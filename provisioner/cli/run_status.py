"""What a run is doing, told in words: a line for each environment that it works on, and a total.

It listens to the events and activities of the run. Each of them takes the same time however many
environments there are, since only those that are worked on have a line.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, assert_never

from provisioner.cli.live_area import SPINNER_WIDTH
from provisioner.errors.pluralize import pluralize
from provisioner.execution import (
    ActionBegun,
    ActionEnded,
    EnvironmentFinished,
    EnvironmentObserved,
    Failed,
    PlanMade,
    RunEnded,
    RunStarted,
    StepsSettled,
    Unfinished,
)
from provisioner.execution.remaining import Pace, Workload, together, workload
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
from provisioner.plan import Planned, Unobserved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from provisioner.cli.live_area import Size
    from provisioner.execution import Event
    from provisioner.execution.remaining import Kind
    from provisioner.model.activity import Activity
    from provisioner.model.environment import Environment, Limits
    from provisioner.plan import Plan, Step

_ESTIMATE_INTERVAL = 1.0
"""Seconds between two estimates, since a fleet has many environments to look at."""

_NO_WORK = Workload({})
_MAX_NAME, _MIN_NAME = 40, 12
_STATE = len("    waiting 14 s because the server asked")
"""Columns that a line needs beside a name, so that no word is broken."""

_NO_LIMIT = 1000
"""Columns of a line for a log."""

_MINUTE, _HOUR = 60, 3600
_ROUNDED_FROM = 20
_ROUNDED_TO = 5
_WORK_WORDS: dict[Kind, tuple[str, Step]] = {
    "create": ("creating", "create"),
    "mint": ("minting tokens,", "deliver"),
    "prove": ("delivering", "deliver"),
    "write": ("delivering", "deliver"),
    "change": ("changing", "change"),
}
"""The words for each kind of work, and the step that it belongs to."""

_KINDS: dict[Step, Kind] = {
    "create": "create",
    "deliver": "write",
    "change": "change",
    "revoke": "change",
    "clean": "change",
}
_CHANGES: dict[Step, str] = {
    "change": "changing",
    "revoke": "revoking",
    "clean": "removing tokens",
}
"""The words for each step of the kind `change`."""


@dataclass(slots=True)
class _Line:
    """An environment that the run works on.

    Attributes:
        since: when the work began.
        pace: the work that is done, with its times.
        doing: what it does, except for the work of a plan.
        kind: the kind of work that it does; None while it only reads.
        waits_until: the end of a wait.
        reason: why it waits, in words.
        steps: the steps of its plan.
        settled: those whose outcome is known.
        left: the work that is left.
    """

    since: float
    pace: Pace
    doing: str = "connecting"
    kind: Kind | None = None
    waits_until: float = 0.0
    reason: str = ""
    steps: Counter[Step] = field(default_factory=Counter)
    settled: Counter[Step] = field(default_factory=Counter)
    left: Workload = _NO_WORK

    def words(self, now: float) -> str:
        """Return what it does, in words."""
        if self.waits_until > now:
            return f"waiting {max(1, round(self.waits_until - now))} s {self.reason}"
        if self.kind is None:
            return self.doing
        words, step = _WORK_WORDS[self.kind]
        if step == "change":
            words = " and ".join(_CHANGES[one] for one in _CHANGES if self.steps[one]) or words
            total = sum(map(self._of, _CHANGES))
            done = sum(self.settled[one] for one in _CHANGES)
            return f"{words} {number(done)} of {number(total)}"
        done = self.settled[step]
        if self.kind == "mint":
            done = self._of(step) - self.left.units.get("mint", 0)
        return f"{words} {number(min(done, self._of(step)))} of {number(self._of(step))}"

    def _of(self, step: Step) -> int:
        return max(self.steps[step], self.settled[step])


class RunStatus:
    """The status of one run; called from many threads.

    Args:
        environments: the environments of the run.
        clock: seconds that only grow.
    """

    def __init__(
        self, environments: Iterable[Environment], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits: Mapping[str, Limits] = {one.name: one.limits for one in environments}
        self._clock = clock
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._plans: dict[str, Planned] = {}
        self._keys: dict[str, int] = {}
        self._rested: set[str] = set()
        self._unobserved: set[str] = set()
        self._finished = 0
        self._failed = 0
        self._writes = False
        self._settled = 0
        self._steps = 0
        now = clock()
        self._pace = Pace(now, now)
        self._answers = Pace(now, now)
        self._left = Workload({"observe": len(self._limits)})
        self._estimate: tuple[float, float | None] = (-_ESTIMATE_INTERVAL, None)

    def __call__(self, event: Event | Activity, /) -> None:
        """Receive an event or an activity."""
        with self._lock:
            self._receive(event, self._clock())

    def begin(self, environment: str, creates: int) -> None:
        """Begin to create keys that no plan contains."""
        with self._lock:
            now = self._clock()
            line = self._line(environment, now)
            line.steps = Counter({"create": creates})
            line.kind = "create"
            limits = self._limits[environment]
            line.left = Workload({"create": creates}, {}, limits.parallel)
            line.pace = line.pace.resumed(now)
            self._begin(line.left, creates, now)

    def remaining(self) -> float | None:
        """Return the seconds that the work still takes, as far as it can be estimated now."""
        with self._lock:
            return self._remaining(self._clock())

    def frame(self, size: Size) -> list[str]:
        """Return the lines for a terminal, of which the last one is the total."""
        with self._lock:
            now = self._clock()
            total = self._total(now, size.columns - SPINNER_WIDTH)
            if len(self._limits) == 1 and self._lines and not self._writes:
                ((name, line),) = self._lines.items()
                return [f"{name}: {line.words(now)}{_passed(now - line.since)}"]
            room = max(0, size.lines - 2)
            shown = list(islice(self._lines.items(), room))
            most = min(_MAX_NAME, max(_MIN_NAME, size.columns - _STATE))
            width = min(most, max((len(name) for name, _ in shown), default=0))
            rows = [_row(name, line, width, size.columns, now) for name, line in shown]
            if more := len(self._lines) - len(shown):
                rows.append(f"  and {number(more)} more at work")
            return [*rows, total]

    def line(self) -> str:
        """Return the status in one line, for a log."""
        with self._lock:
            now = self._clock()
            if len(self._limits) == 1 and self._lines:
                ((name, line),) = self._lines.items()
                return f"{name}: {line.words(now)}{self._left_words(now)}"
            return self._total(now)

    def _receive(self, event: Event | Activity, now: float) -> None:  # noqa: C901, PLR0912 - one for each
        match event:
            case Connecting():
                self._writes = False
                self._read(event.environment, "connecting", now)
            case SigningIn():
                self._read(event.environment, "signing in", now)
            case Connected():
                self._read(event.environment, "connected", now)
            case Listing():
                self._list(event, now)
            case ReadingSinks(sinks=sinks):
                words = f"reading {pluralize(sinks, 'sink')}" if sinks else "comparing"
                self._read(event.environment, words, now)
            case CheckingSinks(sinks=sinks):
                if sinks:
                    self._read(event.environment, f"checking {pluralize(sinks, 'sink')}", now)
            case Waiting():
                line = self._line(event.environment, now)
                line.waits_until = now + event.seconds
                line.reason = _reason_of(event)
            case Answered():
                self._answered(event, now)
            case Rested():
                self._rest(event.environment, now)
            case EnvironmentObserved():
                self._observe(event, now)
            case PlanMade(plan=plan):
                self._plan(plan, now)
            case ActionBegun():
                self._act(event.environment, now)
            case StepsSettled():
                self._settle(event, now)
            case EnvironmentFinished(outcome=outcome):
                self._lines.pop(event.environment, None)
                self._plans.pop(event.environment, None)
                failed = isinstance(outcome, Unobserved) or any(
                    isinstance(one, Failed | Unfinished) for one in outcome.results
                )
                self._failed += failed
                self._finished += not failed
            case RunStarted() | ActionEnded() | RunEnded():
                pass
            case _:
                assert_never(event)

    def _line(self, environment: str, now: float) -> _Line:
        line = self._lines.get(environment)
        if line is None:
            line = self._lines[environment] = _Line(now, Pace(now, now))
        return line

    def _read(self, environment: str, doing: str, now: float) -> None:
        line = self._line(environment, now)
        line.doing, line.waits_until = doing, 0.0
        if not line.steps:
            line.kind = None

    def _list(self, event: Listing, now: float) -> None:
        known = event.total or self._keys.get(event.environment)
        if known and event.keys:
            words = f"listing {number(event.keys)} of {number(max(known, event.keys))} keys"
        elif known or event.keys:
            words = f"listing {number(known or event.keys)} keys"
        else:
            words = "listing keys"
        line = self._line(event.environment, now)
        line.doing, line.kind, line.waits_until = words, None, 0.0

    def _observe(self, event: EnvironmentObserved, now: float) -> None:
        name, outcome = event.environment, event.outcome
        if isinstance(outcome, Unobserved):
            self._unobserved.add(name)
        else:
            self._unobserved.discard(name)
            self._keys[name] = len(outcome.keys)
        if name not in self._lines:  # a worker of a cluster read it, and its activities stay there
            self._rest(name, now)

    def _rest(self, environment: str, now: float) -> None:
        self._lines.pop(environment, None)
        if environment in self._rested:  # the next stage of the run
            self._rested.clear()
            self._left = Workload({"observe": len(self._limits)})
            self._pace = Pace(now, now)
        self._rested.add(environment)
        self._left = Workload({"observe": len(self._limits) - len(self._rested)})
        self._pace = self._pace.after("observe", 1, now)

    def _plan(self, plan: Plan, now: float) -> None:
        planned = [one for one in plan.environments if isinstance(one, Planned) and one.unblocked]
        self._plans = {one.environment: one for one in planned}
        self._lines.clear()
        loads = [workload(one, self._limits[one.environment]) for one in planned]
        self._begin(together(loads), plan.steps, now)

    def _begin(self, left: Workload, steps: int, now: float) -> None:
        self._writes = True
        self._finished = self._failed = self._settled = 0
        self._steps = steps
        self._left = left
        self._pace = self._answers.resumed(now)

    def _act(self, environment: str, now: float) -> None:
        planned = self._plans.pop(environment, None)
        if planned is None:
            return
        line = self._lines[environment] = _Line(now, self._pace.resumed(now))
        line.steps = planned.steps
        line.left = workload(planned, self._limits[environment])
        first: Step = next(iter(line.steps), "create")
        line.kind = "mint" if first == "deliver" else _KINDS[first]

    def _answered(self, event: Answered, now: float) -> None:
        line = self._lines.get(event.environment)
        if line is not None:
            line.waits_until = 0.0
        if event.work is None or not event.done:
            return
        if line is not None:
            # Reading does not interrupt the work of a plan.
            if event.work != "list" and line.steps:
                line.kind = event.work
            line.pace = line.pace.after(event.work, event.units, now, duration=event.seconds)
            # Creates and changes count when their outcome is known.
            if event.work in {"list", "mint", "prove"}:
                line.left = _less(line.left, event.work, event.units)
        if not self._writes:
            self._answers = self._answers.after(
                event.work, event.units, now, duration=event.seconds
            )
        else:
            self._pace = self._pace.after(event.work, event.units, now, duration=event.seconds)
            if event.work in {"list", "mint", "prove"}:
                self._left = _less(self._left, event.work, event.units)

    def _settle(self, event: StepsSettled, now: float) -> None:
        kind = _KINDS[event.step]
        self._settled += event.steps
        self._left = _less(self._left, kind, event.steps)
        line = self._lines.get(event.environment)
        if line is not None:
            line.settled[event.step] += event.steps
            line.left = _less(line.left, kind, event.steps)
            line.kind = line.kind or kind
        if kind == "write":
            self._pace = self._pace.after("write", event.steps, now)
            if line is not None:
                line.kind = "write"
                line.pace = line.pace.after("write", event.steps, now)

    def _total(self, now: float, columns: int = _NO_LIMIT) -> str:
        """Return the total, without its last counts if there is no room for them."""
        total, left = len(self._limits), self._left_words(now)
        if self._writes and total == 1:
            steps = f"{number(self._settled)} of {number(self._steps)} steps done"
            return steps + left
        if self._writes:
            done, failed, at_work = self._finished, self._failed, len(self._lines)
            waiting = len(self._plans)
        else:
            failed = len(self._unobserved)
            done, at_work = max(0, len(self._rested) - failed), len(self._lines)
            waiting = max(0, total - done - failed - at_work)
        word = "done" if self._writes else "read"
        noun = "environment" if total == 1 else "environments"
        counts = [f"{number(done)} of {number(total)} {noun} {word}"]
        counts += [f"{number(failed)} failed"] if failed else []
        counts += [f"{number(at_work)} at work"] if at_work else []
        counts += [f"{number(waiting)} waiting"] if waiting else []
        while len(counts) > 1 and len(", ".join(counts) + left) > columns:
            counts.pop()
        return ", ".join(counts) + left

    def _left_words(self, now: float) -> str:
        """Return the estimated time that is left, with a word that it is one."""
        if self._writes and not self._lines and not self._plans:  # every environment is finished
            return ""
        made_at, estimate = self._estimate
        if now - made_at >= _ESTIMATE_INTERVAL:
            made_at, estimate = self._estimate = now, self._remaining(now)
        seconds = 0.0 if estimate is None else estimate - (now - made_at)
        return f"; estimate: {_about(seconds)} left" if seconds > 0 else ""

    def _remaining(self, now: float) -> float | None:
        """Return the estimated seconds of the work, of all environments or of the longest one."""
        parallel = sum(one.left.parallel for one in self._lines.values()) or 1
        shared = self._pace.remaining(self._left._replace(parallel=parallel), now)
        if shared is None or not self._writes:
            return shared
        alone = [
            (line.pace.remaining(line.left, now) or 0.0) + max(0.0, line.waits_until - now)
            for line in self._lines.values()
        ]
        return max(shared, *alone, 0.0)


def number(value: int) -> str:
    """Return a number with its thousands apart."""
    return f"{value:,}".replace(",", " ")


def _less(load: Workload, kind: Kind, units: int) -> Workload:
    units_left = dict(load.units)
    units_left[kind] = max(0, units_left.get(kind, 0) - units)
    if kind == "write":  # a delivery that failed needs no token and no proof either
        for before in ("mint", "prove"):
            units_left[before] = min(units_left.get(before, 0), units_left["write"])
    return load._replace(units=units_left)


def _reason_of(event: Waiting) -> str:
    match event.reason:
        case "asked":
            return "because the server asked"
        case "failed":
            return "after a failed request"
        case "settle":
            return "for other runs"
        case _:
            assert_never(event.reason)


def _row(name: str, line: _Line, width: int, columns: int, now: float) -> str:
    label = name if len(name) <= width else f"{name[: max(1, width - 3)]}..."
    row = f"  {label:{width}}  {line.words(now)}"
    passed = _passed(now - line.since)
    return row + passed if len(row) + len(passed) <= columns else row


def _passed(seconds: float) -> str:
    """Return the time that has passed, once it is worth telling."""
    return f" ({_about(seconds).removeprefix('about ')})" if seconds >= 1 else ""


def _about(seconds: float) -> str:
    """Return a duration for people, rounded so that it does not flicker."""
    if seconds >= _HOUR:
        hours, rest = divmod(round(seconds / _MINUTE), 60)
        return f"about {hours} h {rest} min"
    if seconds >= 2 * _MINUTE:
        return f"about {round(seconds / _MINUTE)} min"
    if seconds >= _ROUNDED_FROM:
        return f"about {_ROUNDED_TO * round(seconds / _ROUNDED_TO)} s"
    return f"about {max(1, round(seconds))} s"
