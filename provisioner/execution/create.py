"""The keys of one environment made exactly once: create, look, create what is missing, settle."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import failure_of
from provisioner.execution.conflict import NewLiveKeys, OwnKeys, Resolution
from provisioner.execution.pending import PendingCreate
from provisioner.execution.revoke import Revocations
from provisioner.runtime.backoff import MAX_ATTEMPTS, delay
from provisioner.twenty.workspace import NewKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from provisioner.errors.failure import Failure
    from provisioner.execution.pending import CreatedKey
    from provisioner.execution.results import Result
    from provisioner.execution.run_marker import RunMarker
    from provisioner.model.key import Depth
    from provisioner.plan import Create
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.twenty.workspace import Outcome, Record, Workspace

_LOG = logging.getLogger(__name__)

_SETTLE_DELAY = 0.3
"""Seconds before the look that settles: creates of another run that began before ours show."""

_LOOK_DELAY = 1.0
"""Seconds to the second one, where the first saw another run at work."""

_WITH_ROLE: Depth = 1
"""The depth whose records show the role."""

_READINGS = 3
"""Times that a record is asked for before a result goes without."""


class BulkCreate:
    """The keys of one environment on their way; what became of them can be asked at any time.

    Args:
        environment: its name, for messages.
        creates: what is to be made, nothing blocked among it.
        before: the ids of all keys that the workspace held when it was planned.
        workspace: where to carry it out.
        mark: of this run.
        stop: once it is asked for, no create begins.
        on_start: called with the name of each key when it is about to be sent.
        on_progress: called with the number of keys whose outcome has become known.
    """

    def __init__(  # noqa: PLR0913 - what a run knows of one environment
        self,
        environment: str,
        creates: Sequence[Create],
        existing_ids: frozenset[str],
        workspace: Workspace,
        *,
        run_marker: RunMarker,
        stop: Cancellation,
        on_start: Callable[[str], None],
        on_progress: Callable[[int], None],
    ) -> None:
        self._environment = environment
        self._before = existing_ids
        self._workspace = workspace
        self._mark = run_marker
        self._stop = stop
        self._on_start = on_start
        self._on_progress = on_progress
        chooses_ids = workspace.generation == "legacy"
        self._pending = [PendingCreate(action, chooses_ids) for action in creates]
        self._by_id: dict[str, PendingCreate] = {}
        self._blind = False

    def run(self) -> None:
        """Makes every key exactly once, or learns as well as it can what became of it."""
        if not self._pending or self._stop.asked:
            return
        self._create(self._pending)
        self._resolve()
        if any(pending.may_have_key for pending in self._pending):
            observed = None if self._blind and self._open() else self._last_observation()
            if observed is None:
                self._leave_unsettled()
            else:
                self._settle(observed)

    def results(self, fallback: Failure | None = None) -> tuple[Result, ...]:
        """What is known now of every key, in the order of the creates.

        Args:
            otherwise: the failure of keys that are still open, where a bug ended the run.
        """
        return tuple(pending.current_result(fallback) for pending in self._pending)

    def created_keys(self) -> tuple[CreatedKey, ...]:
        """The keys that stand for their creates, each the only one of its name."""
        found = (pending.created_key(self._mark) for pending in self._pending)
        return tuple(one for one in found if one is not None)

    def on_send(self, key: NewKey) -> None:
        """Notes that a key may exist from now on."""
        self._by_id[key.id].sent = True
        self._on_start(key.name)

    def on_outcome(self, key: NewKey, outcome: Outcome) -> None:
        """Notes what a request said of a key."""
        pending = self._by_id[key.id]
        pending.on_outcome(outcome)
        if not pending.unresolved:
            self._on_progress(1)

    def _create(self, pending_creates: list[PendingCreate]) -> None:
        for pending in pending_creates:
            pending.unknown = None
        self._workspace.create_many([self._new_key(pending) for pending in pending_creates], self)

    def _resolve(self) -> None:
        """Looks for the keys whose outcome is unknown, and creates what is still missing."""
        rounds = 0
        while (still := self._open()) and rounds < MAX_ATTEMPTS and not self._stop.asked:
            _LOG.info(
                "%s: the outcome of %d creates is unknown; looking again",
                self._environment,
                len(still),
            )
            self._stop.sleep(delay(rounds))
            observed = self._observe()
            if observed is not None:
                self._match(still, observed)
                missing = [pending for pending in still if pending.unresolved]
                if missing and not self._stop.asked:
                    self._create(missing)
            rounds = 0 if len(self._open()) < len(still) else rounds + 1

    def _open(self) -> list[PendingCreate]:
        return [pending for pending in self._pending if pending.unresolved]

    def _match(self, pending_creates: list[PendingCreate], observed: NewLiveKeys) -> None:
        """Holds a look against what is still open."""
        for pending in pending_creates:
            conflict = observed.resolve(self._sent(pending))
            if isinstance(conflict, Resolution):
                pending.resolution = conflict
            else:
                pending.on_absent()
            if not pending.unresolved:
                self._on_progress(1)

    def _settle(self, observed: NewLiveKeys) -> None:
        """Takes in what came of it all, ends this run's duplicates, and reads the records."""
        for pending in self._pending:
            if pending.may_have_key:
                self._on_progress(int(pending.unresolved))
                pending.on_last_observation(observed.resolve(self._sent(pending)))
        self._give_way()
        self._read_records(roles_hidden=observed.roles_hidden)

    def _leave_unsettled(self) -> None:
        """Says of every key that it is not known to be the only one of its name."""
        if self._stop.asked:
            return  # which says so itself
        for pending in self._pending:
            pending.unconfirmed = True
        _LOG.warning("%s could not be looked at after creating; run again", self._environment)

    def _last_observation(self) -> NewLiveKeys | None:
        """A look after which nothing is to be expected, or the last of several."""
        self._stop.sleep(_SETTLE_DELAY)
        last: NewLiveKeys | None = None
        for rounds in range(MAX_ATTEMPTS):
            observed = self._observe()
            if observed is not None:
                if self._calm(observed, first=last is None):
                    return observed
                last = observed
            self._stop.sleep(max(_LOOK_DELAY, delay(rounds)))
        return last

    def _calm(self, observed: NewLiveKeys, *, first: bool) -> bool:
        """Whether all that this run touched has arrived whole, and no other run meddles."""
        touched = [pending for pending in self._pending if pending.may_have_key]
        if first and observed.other_run_active(map(self._sent, touched)):
            return False
        return all(
            pending.is_final(observed.resolve(self._sent(pending)), first=first)
            for pending in touched
        )

    def _give_way(self) -> None:
        """Revokes this run's keys that another key of their name made needless."""
        revoking = Revocations(self._workspace, self._stop)
        revoking.run(loser for pending in self._pending for loser in pending.duplicates)
        for pending in self._pending:
            failed = tuple(loser for loser in pending.duplicates if not revoking.revoked(loser))
            pending.on_revoked(failed, revoking.failure(failed[0]) if failed else None)

    def _read_records(self, *, roles_hidden: bool) -> None:
        """The records of keys that a look found.

        Where roles are hidden a look cannot tell that a key has none yet; its record can, for
        with its role it cannot be read then.
        """
        unread = {
            id_: pending for pending in self._pending if (id_ := pending.unread_id) is not None
        }
        if roles_hidden:
            whole = self._records(dict.fromkeys(unread, _WITH_ROLE))
            for id_ in unread.keys() - whole.keys():
                unread.pop(id_).on_role_missing()
        records = self._records({id_: pending.action.depth for id_, pending in unread.items()})
        for id_, pending in unread.items():
            pending.on_record(records.get(id_))

    def _records(self, wanted: Mapping[str, Depth]) -> dict[str, Record]:
        """Records of keys that exist, each asked for a few times."""
        records: dict[str, Record] = {}
        for _ in range(_READINGS):
            without = {id_: depth for id_, depth in wanted.items() if id_ not in records}
            if not without:
                break
            records |= self._workspace.records(without)
        return records

    def _sent(self, pending: PendingCreate) -> OwnKeys:
        # Where ids are the server's choice, the mark tells a key whose answer was lost.
        unseen = not pending.chooses_ids and pending.expected > len(pending.ids)
        return OwnKeys(
            name=pending.action.name,
            ids=frozenset(pending.ids),
            expires_at=self._mark.apply_to(pending.action.expires_at) if unseen else None,
            expected=pending.expected,
        )

    def _new_key(self, pending: PendingCreate) -> NewKey:
        self._by_id[pending.id] = pending
        if pending.chooses_ids:
            pending.ids.add(pending.id)
        action = pending.action
        return NewKey(
            id=pending.id,
            name=action.name,
            expires_at=self._mark.format(action.expires_at),
            depth=action.depth,
            role_id=action.role_id,
            tries=pending.tries,
        )

    def _observe(self) -> NewLiveKeys | None:
        try:
            observed = NewLiveKeys(self._workspace.observe(), self._before)
        except WorkspaceError as error:
            self._blind = True
            _LOG.info("%s: %s", self._environment, failure_of(error).message)
            return None
        self._blind = False
        return observed
