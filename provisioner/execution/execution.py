"""One environment's plan carried out: create, look, create what is missing, settle, report."""

from __future__ import annotations

import logging
import random
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from provisioner.errors import WorkspaceError
from provisioner.execution.result import Done, Executed, Failed, MadeElsewhere, Skipped
from provisioner.execution.standing import Look, Missing, Sent, Stands
from provisioner.failure import Failure, failure_of
from provisioner.stop import STOPPED
from provisioner.threads import Threads
from provisioner.twenty.workspace import (
    IN_FLIGHT,
    Created,
    NewKey,
    NotCreated,
    NotSent,
    Unknown,
    outcome_unknown,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.execution.mark import Mark
    from provisioner.execution.result import Result
    from provisioner.plan import Action, Planned
    from provisioner.stop import Stop
    from provisioner.twenty.workspace import Outcome, Record, Workspace

_LOG = logging.getLogger(__name__)

ROUNDS = 8
"""Looks in a row that may bring nothing new before a run gives up."""

_SHORTEST = 0.25
_LONGEST = 5.0
"""Seconds between two looks, growing from the one to the other."""

_BREATH = 0.3
"""Seconds before the look that settles: creates of another run that began before ours show."""

_LATER = 1.0
"""Seconds to the second one, where the first saw another run at work."""

_ALONE = 4
"""Tries after which a key is sent in a request of its own."""

_READINGS = 3
"""Times that a record is asked for before a result goes without."""

_SIDE_BY_SIDE = 8
"""Revocations at once; the workspace's own limit holds besides."""

_REFUSALS = 2
"""Refusals of a key by itself, each followed by a look without it, that make it certain."""


@dataclass(slots=True)
class _Work:
    """One action on its way.

    Attributes:
        ids: of keys that are this run's: chosen by it on legacy, shown by the server on core.
        sent: whether a request with it may be under way, or came to an unknown end.
        expected: how many keys may have come of its requests.
        tries: how often it was sent without becoming known.
        cause: why it is not known to be made, of the last try.
        refusal: why it will not be made, once that is certain.
        shown: what an answer showed of it.
        found: what a look showed of it.
        result: once nothing can change it.
    """

    action: Action
    id: str
    ids: set[str] = field(default_factory=set)
    sent: bool = False
    expected: int = 0
    tries: int = 0
    refusals: int = 0
    doubt: Unknown | None = None
    cause: Failure | None = None
    refusal: Failure | None = None
    shown: Created | None = None
    found: Stands | None = None
    result: Result | None = None

    @property
    def open(self) -> bool:
        """Whether it is still to be made, or to be found."""
        return self.shown is None and self.found is None and self.refusal is None


class Execution:
    """The actions of one environment on their way; what became of them can be asked at any time.

    Args:
        planned: the environment's plan.
        before: the ids of all keys that the workspace held when it was planned.
        workspace: where to carry it out.
        mark: of this run.
        stop: once it is asked for, no create begins.
        settled: called with the number of actions whose outcome has become known.
    """

    def __init__(  # noqa: PLR0913 - what a run knows of one environment
        self,
        planned: Planned,
        before: frozenset[str],
        workspace: Workspace,
        *,
        mark: Mark,
        stop: Stop,
        settled: Callable[[int], None],
    ) -> None:
        self._planned = planned
        self._before = before
        self._workspace = workspace
        self._mark = mark
        self._stop = stop
        self._settled = settled
        self._works = [
            _Work(action, str(uuid.uuid4())) for action in planned.actions if action.blocked is None
        ]
        self._by_id = {work.id: work for work in self._works}
        self._blind = False

    def run(self) -> None:
        """Makes every key exactly once, or learns as well as it can what became of it."""
        self._settled(len(self._planned.actions) - len(self._works))
        if not self._works or self._stop.asked:
            return
        self._create(self._works)
        self._resolve()
        if self._touched() and not (self._blind and self._open()):
            self._settle()

    def result(self, otherwise: Failure | None = None) -> Executed:
        """What is known now of every action.

        Args:
            otherwise: the failure of actions that are still open, where a bug ended the run.
        """
        works = iter(self._works)
        return Executed(
            self._planned,
            tuple(
                _known(next(works), otherwise)
                if action.blocked is None
                else Failed(action, action.blocked)
                for action in self._planned.actions
            ),
        )

    def sending(self, key: NewKey) -> None:
        """Notes that a key may exist from now on."""
        self._by_id[key.id].sent = True

    def settle(self, key: NewKey, outcome: Outcome) -> None:
        """Notes what a request said of a key."""
        work = self._by_id[key.id]
        match outcome:
            case Created(id=id_):
                work.shown = outcome
                work.ids.add(id_)
                work.expected = self._expected(work)
                self._settled(1)
            case NotCreated(failure=failure):
                work.sent = work.expected > 0
                work.refusal = failure
                self._settled(1)
            case NotSent(failure=failure):
                work.sent = work.expected > 0
                # An earlier try that went out says more than this one, which did not.
                work.cause = work.cause if work.sent else failure
            case Unknown(cause=cause):
                work.doubt = outcome
                work.cause = cause
                work.expected = self._expected(work)
            case _:
                assert_never(outcome)

    def _expected(self, work: _Work) -> int:
        """The keys that may have come of one more request: one for each id, or one more."""
        return len(work.ids) if self._chooses_ids else work.expected + 1

    @property
    def _chooses_ids(self) -> bool:
        return self._workspace.generation == "legacy"

    def _create(self, works: list[_Work]) -> None:
        for work in works:
            work.doubt = None
        self._workspace.create_many([self._new_key(work) for work in works], self)

    def _resolve(self) -> None:
        """Looks for the keys whose outcome is unknown, and creates what is still missing."""
        rounds = 0
        while (still := self._open()) and rounds < ROUNDS and not self._stop.asked:
            _LOG.info(
                "%s: the outcome of %d creates is unknown; looking again",
                self._planned.environment,
                len(still),
            )
            self._stop.sleep(_growing(rounds))
            look = self._look()
            if look is not None:
                missing = [work for work in still if not self._finds(work, look)]
                if missing and not self._stop.asked:
                    self._create(missing)
            rounds = 0 if len(self._open()) < len(still) else rounds + 1

    def _touched(self) -> list[_Work]:
        """What may have come to something: sent, or found to be made by another run."""
        return [work for work in self._works if work.sent or work.found is not None]

    def _open(self) -> list[_Work]:
        return [work for work in self._works if work.open]

    def _finds(self, work: _Work, look: Look) -> bool:
        """Whether the look shows the key, or it is certain that it will not be made."""
        standing = look.standing(self._sent(work))
        if isinstance(standing, Stands):
            work.found = standing
            self._settled(1)
            return True
        if work.doubt is None:
            return False
        match work.doubt.doubt:
            case "lost":
                work.tries += 1
            case "taken":
                if work.tries >= _ALONE:
                    self._choose_another_id(work)
                work.tries = _ALONE
            case "refused":
                work.refusals += work.tries >= _ALONE
                work.tries = _ALONE
                # The server answered when it was done, twice, and the key is not there.
                if work.refusals >= _REFUSALS:
                    work.refusal = work.doubt.cause
                    self._settled(1)
                    return True
            case _:
                assert_never(work.doubt.doubt)
        return False

    def _choose_another_id(self, work: _Work) -> None:
        """The server refuses the id, and no list shows it: it is buried for good."""
        work.id = str(uuid.uuid4())
        self._by_id[work.id] = work

    def _settle(self) -> None:
        """Looks at what came of it all, ends this run's duplicates, and reads the records."""
        self._stop.sleep(_BREATH)
        look = self._settled_look()
        if look is None:
            _LOG.warning(
                "%s could not be looked at after creating; run again", self._planned.environment
            )
            return
        for work in self._touched():
            self._conclude(work, look.standing(self._sent(work)))
        self._give_way()
        self._read_records()

    def _settled_look(self) -> Look | None:
        """A look after which nothing is to be expected, or the last of several."""
        last: Look | None = None
        for rounds in range(ROUNDS):
            look = self._look()
            if look is not None:
                if self._calm(look, first=last is None):
                    return look
                last = look
            self._stop.sleep(max(_LATER, _growing(rounds)))
        return last

    def _calm(self, look: Look, *, first: bool) -> bool:
        """Whether all that this run touched has arrived whole, and no other run meddles."""
        touched = self._touched()
        if first and look.strangers(map(self._sent, touched)):
            return False
        return all(_arrived(work, look.standing(self._sent(work)), first=first) for work in touched)

    def _conclude(self, work: _Work, standing: Stands | Missing) -> None:
        """Writes what the last look decides of one action."""
        if work.open:
            self._settled(1)
        if isinstance(standing, Missing):
            work.result = Failed(work.action, _why_missing(work))
            return
        work.found = standing
        if not standing.whole:
            work.result = Failed(work.action, _no_role(work.action, standing.key.id))

    def _give_way(self) -> None:
        """Revokes this run's keys that another key of their name made needless."""
        losers = {
            loser: work
            for work in self._works
            if work.found is not None
            for loser in work.found.losers
        }
        for loser, error in self._revoke(tuple(losers)).items():
            work = losers[loser]
            assert work.found is not None  # noqa: S101 - by the condition above
            work.result = Failed(work.action, _left(work.found.key.id, loser, error))

    def _revoke(self, key_ids: tuple[str, ...]) -> dict[str, WorkspaceError]:
        """Revokes keys as patiently as it looks; the errors of those that it could not."""
        errors: dict[str, WorkspaceError] = {}
        for rounds in range(ROUNDS):
            with Threads(_SIDE_BY_SIDE) as threads:
                tried = zip(key_ids, threads.map(self._revoked, key_ids), strict=True)
                errors = {key_id: error for key_id, error in tried if error is not None}
            if not errors:
                break
            key_ids = tuple(errors)
            self._stop.sleep(_growing(rounds))
        return errors

    def _revoked(self, key_id: str) -> WorkspaceError | None:
        try:
            self._workspace.revoke(key_id)
        except WorkspaceError as error:
            return error
        return None

    def _read_records(self) -> None:
        """The records of keys that a look found."""
        found = {
            work.found.key.id: work
            for work in self._works
            if work.result is None and work.found is not None and not _shows(work, work.found)
        }
        records: dict[str, Record] = {}
        for _ in range(_READINGS):
            without = {id_: found[id_].action.depth for id_ in found if id_ not in records}
            if not without:
                break
            records |= self._workspace.records(without)
        for id_, work in found.items():
            assert work.found is not None  # noqa: S101 - by the condition above
            work.result = _stands(work.action, work.found, records.get(id_))

    def _sent(self, work: _Work) -> Sent:
        # Where ids are the server's choice, the mark tells a key whose answer was lost.
        unseen = not self._chooses_ids and work.expected > len(work.ids)
        return Sent(
            name=work.action.name,
            ids=frozenset(work.ids),
            end=self._mark.on(work.action.expires_at) if unseen else None,
            expected=work.expected,
        )

    def _new_key(self, work: _Work) -> NewKey:
        if self._chooses_ids:
            work.ids.add(work.id)
        action = work.action
        return NewKey(
            id=work.id,
            name=action.name,
            expires_at=self._mark.write(action.expires_at),
            depth=action.depth,
            role_id=action.role_id,
            tries=work.tries,
        )

    def _look(self) -> Look | None:
        try:
            look = Look(self._workspace.observe(), self._before)
        except WorkspaceError as error:
            self._blind = True
            _LOG.info("%s: %s", self._planned.environment, failure_of(error).message)
            return None
        self._blind = False
        return look


def _known(work: _Work, otherwise: Failure | None) -> Result:
    """The result of an action as far as it is known."""
    action = work.action
    if work.result is not None:
        return work.result
    if work.shown is not None and (work.found is None or _shows(work, work.found)):
        return Done(action, work.shown.id, work.shown.record)
    if work.found is not None:
        return _stands(action, work.found, None)
    why = work.refusal or otherwise
    if why is None and work.sent:
        why = outcome_unknown(work.cause or IN_FLIGHT)
    if why is None and work.cause != STOPPED:
        why = work.cause
    return Skipped(action, STOPPED) if why is None else Failed(action, why)


def _arrived(work: _Work, standing: Stands | Missing, *, first: bool) -> bool:
    """Whether a look shows all that can be expected of an action."""
    if isinstance(standing, Missing):
        return not first and work.shown is None and work.found is None
    return standing.whole and (standing.settled or not first)


def _why_missing(work: _Work) -> Failure:
    name = repr(work.action.name)
    if work.shown is not None or work.found is not None:
        return Failure(
            "outcome_unknown",
            f"{name} was made, and later looks do not show it live: someone revoked it, or the "
            "server lost it. `provision list` shows what is there.",
        )
    return work.refusal or outcome_unknown(work.cause or IN_FLIGHT)


def _shows(work: _Work, stands: Stands) -> bool:
    """Whether the answer to the create showed the very key that stays."""
    return work.shown is not None and work.shown.id == stands.key.id


def _stands(action: Action, stands: Stands, record: Record | None) -> Result:
    kind = Done if stands.ours else MadeElsewhere
    return kind(action, stands.key.id, record)


def _no_role(action: Action, key_id: str) -> Failure:
    return Failure(
        "outcome_unknown",
        f"{action.name!r} was made as {key_id}, and has no role after several looks. Assign it by "
        "hand, or revoke the key and run again.",
    )


def _left(stays: str, loser: str, error: WorkspaceError) -> Failure:
    return Failure(
        "duplicate_left",
        f"Another run made the key at the same moment: {stays} stays, and {loser}, which this run "
        f"made, could not be revoked. {failure_of(error).message}",
    )


def _growing(rounds: int) -> float:
    """Seconds, jittered, so that several runs do not look at the same moment."""
    return min(_SHORTEST * 2.0**rounds, _LONGEST) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
