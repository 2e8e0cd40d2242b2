"""The story of a run in the log, at info level: a line for each stage of each environment."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.pluralize import pluralize
from provisioner.execution import (
    ActionBegun,
    ActionEnded,
    EnvironmentFinished,
    EnvironmentObserved,
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
from provisioner.plan import Planned, Unobserved
from provisioner.render.outcome.rows import plan_summary, result_summary
from provisioner.runtime.log_context import extra

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioner.execution import Event
    from provisioner.model.activity import Activity, CredentialKind
    from provisioner.plan import Step

_LOG = logging.getLogger("provisioner")

_CREDENTIALS: Mapping[CredentialKind, str] = {
    "password": "a user's password",
    "api_key": "an API key",
    "session": "a session token",
}
_NOUNS: Mapping[Step, str] = {
    "create": "create",
    "change": "change",
    "deliver": "token",
    "revoke": "revocation",
    "clean": "removal",
}


@dataclass(slots=True)
class _Chapter:
    """What has happened in one environment.

    Attributes:
        since: when the work on it began.
        requests: its answers.
        steps: the steps of its plan.
        settled: those whose outcome is known.
        executing_since: when the first action began; 0 before.
    """

    since: float
    requests: int = 0
    steps: Counter[Step] = field(default_factory=Counter)
    settled: Counter[Step] = field(default_factory=Counter)
    executing_since: float = 0.0


class Story:
    """Logs what happens in a run; called from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chapters: dict[str, _Chapter] = {}

    def __call__(self, event: Event | Activity, /) -> None:
        """Receive an event or an activity."""
        with self._lock:
            text = self._text(event, time.monotonic())
        environment = getattr(event, "environment", None)
        if text and environment is not None:
            _LOG.info("%s: %s", environment, text, extra=extra(environment=environment))
        elif isinstance(event, PlanMade):
            self._log_plan(event)

    def _text(self, event: Event | Activity, now: float) -> str:  # noqa: C901, PLR0911 - one for each
        """Return what to log about an event; empty if nothing."""
        match event:
            case Connecting():
                self._chapters.setdefault(event.environment, _Chapter(now))
            case Answered():
                self._chapter(event.environment, now).requests += 1
            case Connected():
                how = _CREDENTIALS[event.credential]
                return f"connected to {event.address} with {how} ({event.generation})"
            case EnvironmentObserved(outcome=outcome):
                if isinstance(outcome, Unobserved):
                    return f"could not be read: {outcome.failure.code}"
                keys = pluralize(len(outcome.keys), "key")
                return f"listed {keys} after {pluralize(outcome.requests, 'request')}"
            case ActionBegun():
                chapter = self._chapter(event.environment, now)
                chapter.executing_since = chapter.executing_since or now
            case StepsSettled():
                return self._settle(event, now)
            case EnvironmentFinished(outcome=finished):
                chapter = self._chapters.pop(event.environment, _Chapter(now))
                counts = {k: n for k, n in result_summary(finished).items() if n}
                words = ", ".join(f"{n} {kind}" for kind, n in counts.items()) or "nothing to do"
                if not chapter.requests:  # a worker of a cluster did it
                    return f"done: {words}"
                answers = pluralize(chapter.requests, "answer")
                return f"done in {now - chapter.since:.1f} s with {answers}: {words}"
            case (
                SigningIn()
                | Listing()
                | ReadingSinks()
                | CheckingSinks()
                | Waiting()
                | Rested()
                | RunStarted()
                | PlanMade()
                | ActionEnded()
                | RunEnded()
            ):
                pass
            case _:
                assert_never(event)
        return ""

    def _chapter(self, environment: str, now: float) -> _Chapter:
        return self._chapters.setdefault(environment, _Chapter(now))

    def _settle(self, event: StepsSettled, now: float) -> str:
        chapter = self._chapter(event.environment, now)
        chapter.settled[event.step] += event.steps
        done, total = chapter.settled[event.step], chapter.steps[event.step]
        if done != total or not chapter.requests:
            return ""
        seconds = now - (chapter.executing_since or chapter.since)
        return f"processed {pluralize(done, _NOUNS[event.step])} in {seconds:.1f} s"

    def _log_plan(self, event: PlanMade) -> None:
        for part in event.plan.environments:
            if not isinstance(part, Planned):
                continue
            with self._lock:
                chapter = self._chapter(part.environment, time.monotonic())
                chapter.steps, chapter.executing_since = part.steps, 0.0
            counts = {kind: n for kind, n in plan_summary(part).items() if n}
            words = ", ".join(f"{n} {_planned(kind)}" for kind, n in counts.items())
            context = extra(environment=part.environment)
            _LOG.info("%s: planned %s", part.environment, words or "nothing", extra=context)


def _planned(kind: str) -> str:
    return kind if kind == "findings" else f"to {kind}"
