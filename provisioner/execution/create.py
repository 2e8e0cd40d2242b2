"""Creation of the keys of one environment, each exactly once.

Create the keys, observe the workspace, create only what is still missing, and finally revoke this
run's duplicates.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.pluralize import pluralize
from provisioner.execution.conflict import NewLiveKeys, OwnKeys, Resolution
from provisioner.execution.pending import PendingCreate
from provisioner.execution.revoke import Revocations
from provisioner.model.workspace import NewKey
from provisioner.runtime.backoff import MAX_ATTEMPTS, delay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from provisioner.errors.failure import Failure
    from provisioner.execution.pending import CreatedKey
    from provisioner.execution.results import Result
    from provisioner.execution.run_marker import RunMarker
    from provisioner.model.key import Depth
    from provisioner.model.workspace import Outcome, Record, Workspace
    from provisioner.plan import Create
    from provisioner.runtime.cancellation import Cancellation

_LOG = logging.getLogger(__name__)

_SETTLE_DELAY = 0.3
"""Seconds before the final observation, in which creates that another run started before ours
become visible."""

_OBSERVE_DELAY = 1.0
"""Seconds before the next observation, if the first one showed another active run."""

_WITH_ROLE: Depth = 1
"""The depth at which records include the role."""

_RECORD_ATTEMPTS = 3
"""Attempts to read a record; after that the result has none."""


class BulkCreate:
    """The creates of one environment; their results can be read at any time.

    Args:
        environment: the name of the environment, for messages.
        creates: the keys to create; none of them is blocked.
        existing_ids: the ids of all keys that the workspace had when the plan was made.
        workspace: the workspace to create the keys in.
        run_marker: the marker of this run.
        stop: once requested, no create starts.
        on_start: called with the name of each key before it is sent.
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
        self._existing_ids = existing_ids
        self._workspace = workspace
        self._run_marker = run_marker
        self._stop = stop
        self._on_start = on_start
        self._on_progress = on_progress
        self._creates = [PendingCreate(action, workspace.chooses_ids) for action in creates]
        self._by_id: dict[str, PendingCreate] = {}
        self._last_observe_failed = False

    def run(self) -> None:
        """Create every key exactly once, or find out its state as far as possible."""
        if not self._creates or self._stop.requested:
            return
        self._send(self._creates)
        self._resolve()
        if any(create.may_have_key for create in self._creates):
            unreachable = self._last_observe_failed and self._unresolved()
            observed = None if unreachable else self._final_observation()
            if observed is None:
                self._mark_unconfirmed()
            else:
                self._finish(observed)

    def results(self, fallback: Failure | None = None) -> tuple[Result, ...]:
        """Return the current result of every key, in the order of the creates.

        Args:
            fallback: the failure of keys that are still unresolved because a bug ended the run.
        """
        return tuple(create.current_result(fallback) for create in self._creates)

    def created_keys(self) -> tuple[CreatedKey, ...]:
        """Return the key that fulfils each create, the only new one of its name."""
        keys = (create.created_key(self._run_marker) for create in self._creates)
        return tuple(key for key in keys if key is not None)

    def on_send(self, key: NewKey) -> None:
        """Record that the key is being sent, so that it may exist from now on."""
        self._by_id[key.id].sent = True
        self._on_start(key.name)

    def on_outcome(self, key: NewKey, outcome: Outcome) -> None:
        """Record the outcome of a request for the key."""
        create = self._by_id[key.id]
        create.on_outcome(outcome)
        if not create.unresolved:
            self._on_progress(1)

    def _send(self, creates: list[PendingCreate]) -> None:
        for create in creates:
            create.unknown = None
        self._workspace.create_many([self._new_key(create) for create in creates], self)

    def _resolve(self) -> None:
        """Look for the keys whose outcome is unknown, and create those that are still missing."""
        rounds = 0
        while (
            (unresolved := self._unresolved())
            and rounds < MAX_ATTEMPTS
            and not self._stop.requested
        ):
            _LOG.info(
                "%s: the outcome of %s is unknown; listing the keys again",
                self._environment,
                pluralize(len(unresolved), "create"),
            )
            self._stop.sleep(delay(rounds))
            observed = self._observe()
            if observed is not None:
                self._match(unresolved, observed)
                missing = [create for create in unresolved if create.unresolved]
                if missing and not self._stop.requested:
                    self._send(missing)
            rounds = 0 if len(self._unresolved()) < len(unresolved) else rounds + 1

    def _unresolved(self) -> list[PendingCreate]:
        return [create for create in self._creates if create.unresolved]

    def _match(self, unresolved: list[PendingCreate], observed: NewLiveKeys) -> None:
        """Compare the unresolved creates with an observation."""
        for create in unresolved:
            conflict = observed.resolve(self._own_keys(create))
            if isinstance(conflict, Resolution):
                create.resolution = conflict
            else:
                create.on_absent()
            if not create.unresolved:
                self._on_progress(1)

    def _finish(self, observed: NewLiveKeys) -> None:
        """Record the final observation, revoke this run's duplicates, and read missing records."""
        for create in self._creates:
            if create.may_have_key:
                self._on_progress(int(create.unresolved))
                create.on_final_observation(observed.resolve(self._own_keys(create)))
        self._revoke_duplicates()
        self._read_records(roles_hidden=observed.roles_hidden)

    def _mark_unconfirmed(self) -> None:
        """Mark every key as not known to be the only new one of its name."""
        if self._stop.requested:
            return  # the results of a stopped run already say so
        for create in self._creates:
            create.unconfirmed = True
        _LOG.warning(
            "%s: the keys could not be listed after creating; run again", self._environment
        )

    def _final_observation(self) -> NewLiveKeys | None:
        """Observe until nothing more can appear, or return the last of several observations."""
        self._stop.sleep(_SETTLE_DELAY)
        last: NewLiveKeys | None = None
        for rounds in range(MAX_ATTEMPTS):
            observed = self._observe()
            if observed is not None:
                if self._is_final(observed, first=last is None):
                    return observed
                last = observed
            self._stop.sleep(max(_OBSERVE_DELAY, delay(rounds)))
        return last

    def _is_final(self, observed: NewLiveKeys, *, first: bool) -> bool:
        """Return whether all keys of this run are listed and complete, and no other run is active.

        Args:
            observed: the observation.
            first: True for the first observation after the creates.
        """
        creates = [create for create in self._creates if create.may_have_key]
        if first and observed.other_run_active(map(self._own_keys, creates)):
            return False
        return all(
            create.is_final(observed.resolve(self._own_keys(create)), first=first)
            for create in creates
        )

    def _revoke_duplicates(self) -> None:
        """Revoke this run's keys whose name has another key that is kept."""
        revocations = Revocations(self._workspace, self._stop)
        revocations.run(id_ for create in self._creates for id_ in create.duplicates)
        for create in self._creates:
            remaining = tuple(id_ for id_ in create.duplicates if not revocations.revoked(id_))
            create.on_revoked(remaining, revocations.failure(remaining[0]) if remaining else None)

    def _read_records(self, *, roles_hidden: bool) -> None:
        """Read the records of keys that an observation found.

        If roles are hidden, an observation cannot show that a key has no role yet. Its record can:
        reading it at a depth with the role fails.
        """
        unread = {id_: create for create in self._creates if (id_ := create.unread_id) is not None}
        if roles_hidden:
            complete = self._records(dict.fromkeys(unread, _WITH_ROLE))
            for id_ in unread.keys() - complete.keys():
                unread.pop(id_).on_role_missing()
        records = self._records({id_: create.action.depth for id_, create in unread.items()})
        for id_, create in unread.items():
            create.on_record(records.get(id_))

    def _records(self, depths: Mapping[str, Depth]) -> dict[str, Record]:
        """Return the records of keys that exist, with a few attempts for each."""
        records: dict[str, Record] = {}
        for _ in range(_RECORD_ATTEMPTS):
            missing = {id_: depth for id_, depth in depths.items() if id_ not in records}
            if not missing:
                break
            records |= self._workspace.records(missing)
        return records

    def _own_keys(self, create: PendingCreate) -> OwnKeys:
        # If the server chooses the ids, only the run marker identifies a key whose answer was lost.
        ids_unknown = not create.chooses_ids and create.expected > len(create.ids)
        return OwnKeys(
            name=create.action.name,
            ids=frozenset(create.ids),
            expires_at=self._run_marker.apply_to(create.action.expires_at) if ids_unknown else None,
            expected=create.expected,
        )

    def _new_key(self, create: PendingCreate) -> NewKey:
        self._by_id[create.id] = create
        if create.chooses_ids:
            create.ids.add(create.id)
        action = create.action
        return NewKey(
            id=create.id,
            name=action.name,
            expires_at=self._run_marker.format(action.expires_at),
            depth=action.depth,
            role_id=action.role_id,
            tries=create.tries,
        )

    def _observe(self) -> NewLiveKeys | None:
        try:
            observed = NewLiveKeys(self._workspace.observe(), self._existing_ids)
        except WorkspaceError as error:
            self._last_observe_failed = True
            _LOG.info("%s: %s", self._environment, error.failure.message)
            return None
        self._last_observe_failed = False
        return observed
