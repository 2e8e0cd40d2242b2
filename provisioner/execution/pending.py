"""One action on its way: what was sent for it, what is known of it, and what it came to."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.failure import Failure
from provisioner.execution.conflict import NotFound
from provisioner.execution.results import CreatedByAnotherRun, Done, Failed, Skipped, Unfinished
from provisioner.runtime.cancellation import STOPPED
from provisioner.twenty.workspace import (
    IN_FLIGHT,
    Created,
    NotCreated,
    NotSent,
    Unknown,
    outcome_unknown,
)

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.execution.conflict import Conflict, Resolution
    from provisioner.execution.results import Result
    from provisioner.execution.run_marker import RunMarker
    from provisioner.plan import Create
    from provisioner.twenty.workspace import Outcome, Record

_ALONE = 4
"""Tries after which a key is sent in a request of its own."""

_REFUSALS = 2
"""Refusals of a key by itself, each followed by a look without it, that make it certain."""


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """The live key that stands for a create, made by this run or by another.

    Attributes:
        expires_at: of the key, as the workspace has it.
    """

    action: Create
    id: str
    expires_at: datetime


@dataclass(slots=True)
class PendingCreate:
    """One action on its way.

    Attributes:
        chooses_ids: whether this run chooses the ids of keys, as on legacy.
        id: of the next try; it names the key on legacy, and only the try on core.
        ids: of keys that are this run's: chosen by it, or shown by the server.
        sent: whether a request with it may be under way, or came to an unknown end.
        expected: how many keys may have come of its requests.
        tries: how often it was sent without becoming known.
        refusals: how often it was refused by itself, with a look without it after that.
        doubt: why the last try does not tell.
        cause: why it is not known to be made.
        refusal: why it will not be made, once that is certain.
        shown: what an answer showed of it.
        found: what a look showed of it.
        unsettled: whether no look after creating said which key of the name stays.
        result: once nothing can change it.
    """

    action: Create
    chooses_ids: bool
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    ids: set[str] = field(default_factory=set)
    sent: bool = False
    expected: int = 0
    tries: int = 0
    refusals: int = 0
    doubt: Unknown | None = None
    cause: Failure | None = None
    refusal: Failure | None = None
    shown: Created | None = None
    found: Resolution | None = None
    unsettled: bool = False
    result: Result | None = None

    @property
    def open(self) -> bool:
        """Whether it is still to be made, or to be found."""
        return self.shown is None and self.found is None and self.refusal is None

    @property
    def touched(self) -> bool:
        """Whether it may have come to something: sent, or found to be made by another run."""
        return self.sent or self.found is not None

    def note(self, outcome: Outcome) -> None:
        """Takes in what a request said."""
        match outcome:
            case Created(id=id_):
                self.shown = outcome
                self.ids.add(id_)
                self.expected = self._one_more()
            case NotCreated(failure=failure):
                self.sent = self.expected > 0
                self.refusal = failure
            case NotSent(failure=failure):
                self.sent = self.expected > 0
                # An earlier try that went out says more than this one, which did not.
                self.cause = self.cause if self.sent else failure
            case Unknown(cause=cause):
                self.doubt = outcome
                self.cause = cause
                self.expected = self._one_more()
            case _:
                assert_never(outcome)

    def missed(self) -> None:
        """Takes in that a look did not show it: how to try again, or that it is in vain."""
        if self.doubt is None:
            return
        match self.doubt.reason:
            case "lost":
                self.tries += 1
            case "taken":
                if self.tries >= _ALONE:
                    # The server refuses the id and no list shows it: it is buried for good.
                    self.id = str(uuid.uuid4())
                self.tries = _ALONE
            case "refused":
                self.refusals += self.tries >= _ALONE
                self.tries = _ALONE
                # The server answered when it was done, twice, and the key is not there.
                if self.refusals >= _REFUSALS:
                    self.refusal = self.doubt.cause
            case _:
                assert_never(self.doubt.doubt)

    def arrived(self, conflict: Conflict, *, first: bool) -> bool:
        """Whether a look, the first or a later one, shows all that can be expected of it."""
        if isinstance(conflict, NotFound):
            return not first and self.shown is None and self.found is None
        return conflict.whole and (conflict.settled or not first)

    def conclude(self, conflict: Conflict) -> None:
        """Takes in what the last look shows."""
        if isinstance(conflict, NotFound):
            self.result = Failed(self.action, self._why_missing())
            return
        self.found = conflict
        if not conflict.whole:
            self.result = self._half(conflict)

    @property
    def duplicates(self) -> tuple[str, ...]:
        """The ids of this run's keys that are to go; none for a key that is not whole itself."""
        return self.found.duplicates if self.found is not None and self.found.whole else ()

    def gave_way(self, failed: tuple[str, ...], why: Failure | None) -> None:
        """Takes in which of its losers could not be revoked, and why."""
        if self.found is not None:
            self.found = replace(self.found, duplicates=failed)
            if why is not None:
                self.result = self._left(self.found, why.message)

    @property
    def unread(self) -> str | None:
        """The id of the key that stands for it and whose record no answer has shown."""
        if self.result is not None or self.found is None or self._shows(self.found):
            return None
        return self.found.key.id

    def half(self) -> None:
        """Takes in that the key that a look showed cannot be read with its role: it has none."""
        if self.found is not None:
            self.result = self._half(self.found)

    def read(self, record: Record | None) -> None:
        """Takes in the record of the key that a look showed, if it could be read."""
        if self.found is not None:
            self.result = self._resolve(self.found, record)

    def made(self, mark: RunMarker) -> CreatedKey | None:
        """The key that stands for it, where one does."""
        match self.known(None):
            case Done(id=id_) | CreatedByAnotherRun(id=id_):
                expires_at = mark.on(self.action.expires_at)
                if self.found is not None:
                    expires_at = self.found.key.expires_at
                return CreatedKey(self.action, id_, expires_at)
            case _:
                return None

    def known(self, otherwise: Failure | None) -> Result:
        """The result as far as it is known; a failure where a bug ended the run."""
        if self.result is not None:
            return self.result
        if (unfinished := self._unfinished()) is not None:
            return unfinished
        if self.shown is not None and (self.found is None or self._shows(self.found)):
            return Done(self.action, self.shown.id, self.shown.record)
        if self.found is not None:
            return self._resolve(self.found, None)
        why = self.refusal or otherwise
        if why is None and self.sent:
            why = outcome_unknown(self.cause or IN_FLIGHT)
        if why is None and self.cause != STOPPED:
            why = self.cause
        return Skipped(self.action, STOPPED) if why is None else Failed(self.action, why)

    def _one_more(self) -> int:
        """The keys that may have come of one more request: one for each id, or one more."""
        return len(self.ids) if self.chooses_ids else self.expected + 1

    def _shows(self, resolution: Resolution) -> bool:
        """Whether the answer to the create showed the very key that stays."""
        return self.shown is not None and self.shown.id == resolution.key.id

    def _resolve(self, resolution: Resolution, record: Record | None) -> Result:
        kind = Done if resolution.ours else CreatedByAnotherRun
        return kind(self.action, resolution.key.id, record)

    def _unfinished(self) -> Result | None:
        """What is known of a key that was made, or seen, and not settled."""
        found = self.found
        if found is not None and not found.whole:
            return self._half(found)
        if found is not None and found.duplicates:
            return self._left(found, "The run had to end before it was.")
        if self.unsettled and self.shown is not None:
            return Unfinished(self.action, self.shown.id, self.shown.record, NOT_SETTLED)
        if self.unsettled and found is not None:
            return Unfinished(self.action, found.key.id, None, NOT_SETTLED, made=found.ours)
        return None

    def _half(self, resolution: Resolution) -> Result:
        name, id_ = self.action.name, resolution.key.id
        also = (
            f" Besides, this run made {', '.join(resolution.duplicates)}."
            if resolution.duplicates
            else ""
        )
        why = Failure(
            "outcome_unknown",
            f"{name!r} was made as {id_}, and has no role after several looks.{also} Assign it by "
            "hand, or revoke the key and run again.",
        )
        return Unfinished(self.action, id_, None, why, made=resolution.ours)

    def _left(self, resolution: Resolution, why: str) -> Result:
        stays, duplicates = resolution.key.id, ", ".join(resolution.duplicates)
        failure = Failure(
            "duplicate_left",
            f"{stays} stays, and {duplicates}, which this run made for the same name, was not "
            f"revoked. {why}",
        )
        return Unfinished(self.action, stays, None, failure, made=resolution.ours)

    def _why_missing(self) -> Failure:
        if self.shown is not None or self.found is not None:
            return Failure(
                "outcome_unknown",
                f"{self.action.name!r} was made, and later looks do not show it live: someone "
                "revoked it, or the server lost it. `provision list` shows what is there.",
            )
        return self.refusal or outcome_unknown(self.cause or IN_FLIGHT)


NOT_SETTLED = Failure(
    "not_settled",
    "The key was made, and the workspace could not be looked at afterwards: whether another run "
    "made one of this name at the same moment is unknown. Run again.",
)
