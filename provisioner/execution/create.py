"""The keys of one environment made exactly once: create, look, create what is missing, settle."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import failure_of
from provisioner.execution.conflict import Look, Sent, Stands
from provisioner.execution.pending import Work
from provisioner.execution.revoke import Revoking
from provisioner.runtime.backoff import ROUNDS, growing
from provisioner.twenty.workspace import NewKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from provisioner.errors.failure import Failure
    from provisioner.execution.pending import Made
    from provisioner.execution.results import Result
    from provisioner.execution.run_marker import Mark
    from provisioner.model.desired import Depth
    from provisioner.plan import Create
    from provisioner.runtime.cancellation import Stop
    from provisioner.twenty.workspace import Outcome, Record, Workspace

_LOG = logging.getLogger(__name__)

_BREATH = 0.3
"""Seconds before the look that settles: creates of another run that began before ours show."""

_LATER = 1.0
"""Seconds to the second one, where the first saw another run at work."""

_WITH_ROLE: Depth = 1
"""The depth whose records show the role."""

_READINGS = 3
"""Times that a record is asked for before a result goes without."""


class Creation:
    """The keys of one environment on their way; what became of them can be asked at any time.

    Args:
        environment: its name, for messages.
        creates: what is to be made, nothing blocked among it.
        before: the ids of all keys that the workspace held when it was planned.
        workspace: where to carry it out.
        mark: of this run.
        stop: once it is asked for, no create begins.
        begins: called with the name of each key when it is about to be sent.
        settled: called with the number of keys whose outcome has become known.
    """

    def __init__(  # noqa: PLR0913 - what a run knows of one environment
        self,
        environment: str,
        creates: Sequence[Create],
        before: frozenset[str],
        workspace: Workspace,
        *,
        mark: Mark,
        stop: Stop,
        begins: Callable[[str], None],
        settled: Callable[[int], None],
    ) -> None:
        self._environment = environment
        self._before = before
        self._workspace = workspace
        self._mark = mark
        self._stop = stop
        self._begins = begins
        self._settled = settled
        chooses_ids = workspace.generation == "legacy"
        self._works = [Work(action, chooses_ids) for action in creates]
        self._by_id: dict[str, Work] = {}
        self._blind = False

    def run(self) -> None:
        """Makes every key exactly once, or learns as well as it can what became of it."""
        if not self._works or self._stop.asked:
            return
        self._create(self._works)
        self._resolve()
        if any(work.touched for work in self._works):
            look = None if self._blind and self._open() else self._last_look()
            if look is None:
                self._leave_unsettled()
            else:
                self._settle(look)

    def results(self, otherwise: Failure | None = None) -> tuple[Result, ...]:
        """What is known now of every key, in the order of the creates.

        Args:
            otherwise: the failure of keys that are still open, where a bug ended the run.
        """
        return tuple(work.known(otherwise) for work in self._works)

    def made(self) -> tuple[Made, ...]:
        """The keys that stand for their creates, each the only one of its name."""
        found = (work.made(self._mark) for work in self._works)
        return tuple(one for one in found if one is not None)

    def sending(self, key: NewKey) -> None:
        """Notes that a key may exist from now on."""
        self._by_id[key.id].sent = True
        self._begins(key.name)

    def settle(self, key: NewKey, outcome: Outcome) -> None:
        """Notes what a request said of a key."""
        work = self._by_id[key.id]
        work.note(outcome)
        if not work.open:
            self._settled(1)

    def _create(self, works: list[Work]) -> None:
        for work in works:
            work.doubt = None
        self._workspace.create_many([self._new_key(work) for work in works], self)

    def _resolve(self) -> None:
        """Looks for the keys whose outcome is unknown, and creates what is still missing."""
        rounds = 0
        while (still := self._open()) and rounds < ROUNDS and not self._stop.asked:
            _LOG.info(
                "%s: the outcome of %d creates is unknown; looking again",
                self._environment,
                len(still),
            )
            self._stop.sleep(growing(rounds))
            look = self._look()
            if look is not None:
                self._match(still, look)
                missing = [work for work in still if work.open]
                if missing and not self._stop.asked:
                    self._create(missing)
            rounds = 0 if len(self._open()) < len(still) else rounds + 1

    def _open(self) -> list[Work]:
        return [work for work in self._works if work.open]

    def _match(self, works: list[Work], look: Look) -> None:
        """Holds a look against what is still open."""
        for work in works:
            standing = look.standing(self._sent(work))
            if isinstance(standing, Stands):
                work.found = standing
            else:
                work.missed()
            if not work.open:
                self._settled(1)

    def _settle(self, look: Look) -> None:
        """Takes in what came of it all, ends this run's duplicates, and reads the records."""
        for work in self._works:
            if work.touched:
                self._settled(int(work.open))
                work.conclude(look.standing(self._sent(work)))
        self._give_way()
        self._read_records(roles_hidden=look.roles_hidden)

    def _leave_unsettled(self) -> None:
        """Says of every key that it is not known to be the only one of its name."""
        if self._stop.asked:
            return  # which says so itself
        for work in self._works:
            work.unsettled = True
        _LOG.warning("%s could not be looked at after creating; run again", self._environment)

    def _last_look(self) -> Look | None:
        """A look after which nothing is to be expected, or the last of several."""
        self._stop.sleep(_BREATH)
        last: Look | None = None
        for rounds in range(ROUNDS):
            look = self._look()
            if look is not None:
                if self._calm(look, first=last is None):
                    return look
                last = look
            self._stop.sleep(max(_LATER, growing(rounds)))
        return last

    def _calm(self, look: Look, *, first: bool) -> bool:
        """Whether all that this run touched has arrived whole, and no other run meddles."""
        touched = [work for work in self._works if work.touched]
        if first and look.strangers(map(self._sent, touched)):
            return False
        return all(work.arrived(look.standing(self._sent(work)), first=first) for work in touched)

    def _give_way(self) -> None:
        """Revokes this run's keys that another key of their name made needless."""
        revoking = Revoking(self._workspace, self._stop)
        revoking.run(loser for work in self._works for loser in work.losers)
        for work in self._works:
            failed = tuple(loser for loser in work.losers if not revoking.ended(loser))
            work.gave_way(failed, revoking.failure(failed[0]) if failed else None)

    def _read_records(self, *, roles_hidden: bool) -> None:
        """The records of keys that a look found.

        Where roles are hidden a look cannot tell that a key has none yet; its record can, for
        with its role it cannot be read then.
        """
        unread = {id_: work for work in self._works if (id_ := work.unread) is not None}
        if roles_hidden:
            whole = self._records(dict.fromkeys(unread, _WITH_ROLE))
            for id_ in unread.keys() - whole.keys():
                unread.pop(id_).half()
        records = self._records({id_: work.action.depth for id_, work in unread.items()})
        for id_, work in unread.items():
            work.read(records.get(id_))

    def _records(self, wanted: Mapping[str, Depth]) -> dict[str, Record]:
        """Records of keys that exist, each asked for a few times."""
        records: dict[str, Record] = {}
        for _ in range(_READINGS):
            without = {id_: depth for id_, depth in wanted.items() if id_ not in records}
            if not without:
                break
            records |= self._workspace.records(without)
        return records

    def _sent(self, work: Work) -> Sent:
        # Where ids are the server's choice, the mark tells a key whose answer was lost.
        unseen = not work.chooses_ids and work.expected > len(work.ids)
        return Sent(
            name=work.action.name,
            ids=frozenset(work.ids),
            end=self._mark.on(work.action.expires_at) if unseen else None,
            expected=work.expected,
        )

    def _new_key(self, work: Work) -> NewKey:
        self._by_id[work.id] = work
        if work.chooses_ids:
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
            _LOG.info("%s: %s", self._environment, failure_of(error).message)
            return None
        self._blind = False
        return look
