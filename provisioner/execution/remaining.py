"""The time that a run still takes, learnt from the work that it has already done.

Each kind of work has a pace of its own, because minting a token may take ten times as long as
creating a key. The time between two results counts for the kind of the later one. So all times
together are the time that has passed, however much of the work is done side by side, and a server
that makes the run wait is as slow as it looks.

Before a kind has been seen, its pace follows from how long the server takes to answer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from math import exp, log
from operator import mul
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

from provisioner.execution.create import SETTLE_DELAY
from provisioner.execution.deliver import REVERIFY_AFTER
from provisioner.execution.token_flow import MAX_MINTED, PARALLEL_MINTS
from provisioner.sinks.group_commit import MAX_WAIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from provisioner.model.environment import Limits
    from provisioner.plan.actions import Planned

Kind = Literal["observe", "list", "create", "mint", "prove", "write", "change"]
"""The kinds of work: to observe an environment, to list its keys after creating, to create a key,
to mint a token, to prove that the server accepts it, to write it to its sinks, and to change or
revoke a key."""

_WRITE_SHARE = 0.3
"""Time of a write as a share of an answer, before one was seen: most sinks are files."""

_IN_FLIGHT = MAX_MINTED * PARALLEL_MINTS
"""Tokens that are minted at most before the first of them is written."""

_MANY = 3
"""Times as many written tokens as are in flight, which show how many are proven again."""

_EARLY = REVERIFY_AFTER - 0.5
"""Seconds from minting to writing after which some tokens are proven again, because the tokens of a
group are not minted at the same moment; after another second all are."""

_SEVERAL = 1.5
"""Units in an answer, on average, that show that the server accepts several in a request."""

_WAVES = 2
"""Results of each of the requests in flight after which only the time that has passed counts."""

_MEMORY = 0.5
"""Share of the time so far that counts most: older results fade, as servers become slower."""

_ANSWERS = 10
"""Answers of a kind that count when it is asked how long one takes, besides the last."""

_SHORTEST = 1e-6
_MINUTE = 60.0
_NO_WORK: Mapping[Kind, int] = MappingProxyType({})


class Workload(NamedTuple):
    """The work that is left in one or several environments.

    Attributes:
        units: how much is left of each kind.
        shared: how many units of a kind share one request, unless it is one.
        parallel: how many requests are in flight at most.
        per_minute: the requests that the manifests allow in a minute; None without a limit.
    """

    units: Mapping[Kind, int]
    shared: Mapping[Kind, int] = _NO_WORK
    parallel: int = 1
    per_minute: int | None = None


def workload(planned: Planned, limits: Limits) -> Workload:
    """Return the work of a plan."""
    steps = planned.steps
    creates, tokens = steps["create"], steps["deliver"]
    units: dict[Kind, int] = {
        "create": creates,
        "list": int(creates > 0),
        "mint": tokens,
        "prove": tokens,
        "write": tokens,
        "change": steps["change"] + steps["revoke"] + steps["clean"],
    }
    shared: dict[Kind, int] = {}
    if planned.generation == "legacy":
        shared = {"create": limits.batch, "mint": MAX_MINTED}
    return Workload(units, shared, limits.parallel, limits.requests_per_minute)


class Seen(NamedTuple):
    """The results of one kind.

    Attributes:
        total: all units.
        units: the units, of which old ones count less.
        seconds: the time in which they came, of which old times count less.
        answers: the answers with these results.
        answered: the units in them.
        duration: seconds that these answers took, of which old ones count less.
        recent: the answers, of which old ones count less.
    """

    total: int = 0
    units: float = 0.0
    seconds: float = 0.0
    answers: int = 0
    answered: int = 0
    duration: float = 0.0
    recent: float = 0.0


_NOTHING = Seen()


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of a run at some time, which `after` continues with each result.

    All times are seconds of one clock.

    Attributes:
        started: when the work began.
        last: when the last result came.
        seen: the results of each kind.
    """

    started: float
    last: float
    seen: Mapping[Kind, Seen] = field(default_factory=dict)

    def after(self, kind: Kind, units: int, at: float, *, duration: float | None = None) -> Pace:
        """Return the pace after a result.

        Args:
            kind: the kind of the result.
            units: how much was done.
            at: when the result came.
            duration: seconds that the request took, with the wait for its turn, if there was one.
        """
        interval = max(0.0, at - self.last)
        memory = _MEMORY * (at - self.started)
        fade = exp(-interval / memory) if interval and memory > 0 else 1.0
        faded = {
            one: seen._replace(units=seen.units * fade, seconds=seen.seconds * fade)
            for one, seen in self.seen.items()
        }
        old = faded.get(kind, _NOTHING)
        if duration is not None and not old.total:
            interval = min(interval, duration)  # the time before it was sent was for something else
        new = old._replace(
            total=old.total + units, units=old.units + units, seconds=old.seconds + interval
        )
        if duration is not None:
            new = new._replace(answers=new.answers + 1, answered=new.answered + units)
            # A list with all the new keys takes longer than the answers that follow it.
            if kind != "list" or not self.seen.get("create", _NOTHING).total:
                kept = min(1.0, _ANSWERS / new.recent) if new.recent else 1.0
                new = new._replace(
                    duration=new.duration * kept + duration, recent=new.recent * kept + 1
                )
        return replace(self, last=max(at, self.last), seen=faded | {kind: new})

    def resumed(self, at: float) -> Pace:
        """Return the pace of work that begins now, on a server that has answered before."""
        known = {
            kind: Seen(duration=seen.duration, recent=seen.recent)
            for kind, seen in self.seen.items()
        }
        return Pace(at, at, known)

    def remaining(self, left: Workload, at: float) -> float | None:
        """Return the seconds that the work still takes; None if nothing is known yet.

        Between two results it shrinks with the time, but not to less than a half: whatever takes
        longer than expected is not about to end.
        """
        latency = self._latency()
        if latency is None:
            return None
        waited = max(0.0, at - self.last)
        begun = next((kind for kind, units in left.units.items() if units > 0), None)
        # Before the first answer of a kind comes, it is known how long it takes at least.
        total = sum(
            units * self._cost(kind, units, max(latency, waited * (kind == begun)), left)
            for kind, units in self._units(left, latency)
            if units > 0
        )
        if left.units.get("list", 0) > 0:
            total += SETTLE_DELAY
        return max(total - waited, total / 2, self._until_allowed(left, at))

    def _latency(self) -> float | None:
        """Return the seconds that an answer takes, of any kind; without answers, any result.

        The geometric mean, since a kind that is much slower than the others says little about them.
        """
        answered = [one for one in self.seen.values() if one.recent > 0]
        # An answer about several keys takes longer.
        answered = [one for one in answered if one.answered <= _SEVERAL * one.answers] or answered
        if answered:
            weights = [max(one.answers, 1) for one in answered]
            logs = [log(max(one.duration / one.recent, _SHORTEST)) for one in answered]
            return exp(sum(map(mul, weights, logs)) / sum(weights))
        units = sum(seen.units for seen in self.seen.values())
        return sum(seen.seconds for seen in self.seen.values()) / units if units else None

    def _units(self, left: Workload, latency: float) -> Iterator[tuple[Kind, float]]:
        """Yield the units that are left of each kind."""
        for kind, units in left.units.items():
            yield kind, self._proofs(units, left, latency) if kind == "prove" else units

    def _proofs(self, units: int, left: Workload, latency: float) -> float:
        """Return how many proofs are left: a token is proven again if it is written late."""
        writes, written = left.units.get("write", 0), self.seen.get("write", _NOTHING).total
        proven = self.seen.get("prove", _NOTHING).total
        if not writes:
            return units
        if written >= _MANY * _IN_FLIGHT:
            again = (proven - written - _IN_FLIGHT / 2) / written
        else:
            in_flight = min(writes + written, _IN_FLIGHT)
            cost = self._cost("prove", max(units, writes), latency, left)
            again = in_flight * cost + MAX_WAIT - _EARLY
            if written >= _IN_FLIGHT:  # not more than were proven again, or are in flight
                again = min(again, (proven - written) / written)
        return max(0.0, (writes + written) * (1 + min(1.0, max(0.0, again))) - proven)

    def _cost(self, kind: Kind, units: float, latency: float, left: Workload) -> float:
        """Return the seconds that a unit takes, while others are in flight."""
        seen = self.seen.get(kind, _NOTHING)
        if kind == "observe":  # the times between environments, since none is one answer
            return seen.seconds / seen.units if seen.units else latency
        shared = self._shared(kind) or self._expected_share(kind, left)
        duration = seen.duration / seen.recent if seen.recent else latency
        if kind == "write":
            duration *= _WRITE_SHARE
        side_by_side = 1 if kind == "list" else min(left.parallel, max(1.0, units / shared))
        expected = duration / (shared * side_by_side)
        # What is in flight at first comes back nearly at once.
        wave = side_by_side * shared
        weight = max(0.0, wave - seen.total / _WAVES)
        if seen.units + weight <= 0:
            return expected
        return (expected * weight + seen.seconds) / (weight + seen.units)

    def _shared(self, kind: Kind) -> float:
        """Return how many units the answers had so far; 0 without one."""
        seen = self.seen.get(kind, _NOTHING)
        return seen.answered / seen.answers if seen.answers else 0.0

    def _expected_share(self, kind: Kind, left: Workload) -> float:
        """Return how many units will share a request; who creates several also mints several."""
        if kind == "mint" and self._shared("create") > _SEVERAL:
            return MAX_MINTED
        return left.shared.get(kind, 1)

    def _until_allowed(self, left: Workload, at: float) -> float:
        """Return the seconds before which the declared rate does not allow the last request."""
        if left.per_minute is None:
            return 0.0
        requests = sum(
            units / left.shared.get(kind, 1)
            for kind, units in left.units.items()
            if kind != "write"
        )
        sent = sum(seen.answers for seen in self.seen.values())
        allowed = left.per_minute * (1 + (at - self.started) / _MINUTE) - sent
        return max(0.0, requests - max(0.0, allowed)) * _MINUTE / left.per_minute


def together(loads: list[Workload]) -> Workload:
    """Return the work of several environments that are worked on side by side."""
    units: Counter[Kind] = Counter()
    shared: dict[Kind, int] = {}
    for one in loads:
        units.update(one.units)
        shared |= one.shared
    return Workload(units, shared, sum(one.parallel for one in loads))
