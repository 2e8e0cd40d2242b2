"""Creation of the keys of one environment, each exactly once.

Create the keys, observe the workspace, create only what is still missing, and finally revoke this
run's duplicates.
"""

from __future__ import annotations

import logging
import uuid
from concurrent.futures import wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.pluralize import pluralize
from provisioner.execution import pending
from provisioner.execution.conflict import Found, NewLiveKeys, NotFound
from provisioner.execution.pending import PendingCreate
from provisioner.execution.progress import revoke_keys
from provisioner.execution.token_flow import Delivery
from provisioner.model.expiry import format_milliseconds
from provisioner.model.workspace import Created, NewKey
from provisioner.plan import Rotate
from provisioner.runtime.backoff import MAX_ATTEMPTS, attempts, delay
from provisioner.runtime.executor import ThreadExecutor

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from provisioner.execution.conflict import Conflict, RunMarker
    from provisioner.execution.progress import ExecutionContext
    from provisioner.model.key import Depth
    from provisioner.model.workspace import Outcome, Record
    from provisioner.plan import Create

_LOG = logging.getLogger(__name__)

SETTLE_DELAY = 0.3
"""Seconds before the final observation, in which creates that another run started before ours
become visible."""

_OBSERVE_DELAY = 1.0
"""Seconds before the next observation, if the first one showed another active run."""

_FIRST_EARLY_LOOK = 5.0
"""Seconds of creating before the first observation that settles keys; each later one comes after
twice as long, so that there are few of them."""

_WITH_ROLE: Depth = 1
"""The depth at which records include the role."""

_RECORD_ATTEMPTS = 3
"""Attempts to read a record; after that the result has none."""


@dataclass(frozen=True, slots=True, eq=False)
class BulkCreate:
    """The creates of one environment.

    Attributes:
        context: the environment.
        run_marker: the marker of this run.
    """

    context: ExecutionContext
    run_marker: RunMarker
    _creates: dict[str, PendingCreate] = field(default_factory=dict, init=False)
    _answered_at: dict[str, float] = field(default_factory=dict, init=False)
    _settled: set[str] = field(default_factory=set, init=False)

    def run(self, actions: Iterable[Create | Rotate]) -> Iterator[tuple[Delivery, ...]]:
        """Create every key exactly once, or find out its state as far as possible.

        Args:
            actions: the actions that create a key and are not blocked.

        Yields:
            The tokens to deliver, each of the only new key of its name, as soon as it is settled.
        """
        self._creates.update({one.name: PendingCreate(one, str(uuid.uuid4())) for one in actions})
        if not self._creates or self.context.stop.requested:
            return
        yield from self._send_and_settle()
        can_list = yield from self._resolve()
        if with_keys := self._with_keys():
            observed = self._final_observation() if can_list else None
            if observed is not None:
                self._settle(with_keys, observed)
            elif not self.context.stop.requested:
                # No key is known to be the only new one of its name.
                for create in with_keys:
                    self._update(create._replace(unconfirmed=True))
                _LOG.warning(
                    "%s: the keys could not be listed after creating; run the command again",
                    self.context.environment,
                )
        yield self._finish([name for name in self._creates if name not in self._settled])

    def on_send(self, key: NewKey) -> None:
        """Record that the key is being sent, so that it may exist from now on."""
        create = self._creates[key.name]
        self.context.progress.start(create.action, create.unknown)

    def on_outcome(self, key: NewKey, outcome: Outcome) -> None:
        """Record the outcome of a request for the key."""
        create = self._creates[key.name]
        self._answered_at[key.name] = self.context.stop.now()
        self._update(
            pending.answered(create, outcome, chooses_ids=self.context.workspace.chooses_ids)
        )

    def _update(self, create: PendingCreate) -> None:
        """Record the next state of a create."""
        was_unresolved = self._creates[create.action.name].unresolved
        self._creates[create.action.name] = create
        self.context.progress.update(pending.current_result(create))
        if was_unresolved and not create.unresolved:
            self.context.progress.count("create")

    def _unresolved(self) -> list[PendingCreate]:
        return [create for create in self._creates.values() if create.unresolved]

    def _with_keys(self) -> list[PendingCreate]:
        """Return the creates that may have a key and are not settled."""
        return [
            create
            for name, create in self._creates.items()
            if create.may_have_key and name not in self._settled
        ]

    @property
    def _settles_early(self) -> bool:
        """Return whether tokens are delivered while other keys are being created."""
        return self.context.parallel > 1 and any(one.action.sinks for one in self._creates.values())

    def _send_and_settle(self) -> Iterator[tuple[Delivery, ...]]:
        """Send every create; yield the tokens to deliver if that takes long."""
        if not self._settles_early:
            self._send(self._unresolved())
            return
        with ThreadExecutor(1) as sender:
            sending = sender.submit(self._send, self._unresolved())
            interval = _FIRST_EARLY_LOOK
            while wait((sending,), interval).not_done and not self.context.stop.requested:
                interval *= 2
                looked_at = self.context.stop.now()
                if (listed := self._list_new_keys()) is not None:
                    yield self._settle_early(listed, looked_at)
        sending.result()

    def _send(self, creates: list[PendingCreate]) -> None:
        keys: list[NewKey] = []
        for create in creates:
            action = create.action.successor if isinstance(create.action, Rotate) else create.action
            key = NewKey(
                id=create.id,
                name=action.name,
                expires_at=format_milliseconds(self.run_marker.apply_to(action.expires_at)),
                depth=action.depth,
                role_id=action.role_id,
                tries=create.tries,
            )
            keys.append(key)
        self.context.workspace.create_many(keys, self)

    def _resolve(self) -> Generator[tuple[Delivery, ...], None, bool]:
        """Look for the keys whose outcome is unknown, and create those that are still missing.

        Yields:
            The tokens to deliver of other keys.

        Returns:
            False if the keys could not be listed at the last attempt.
        """
        attempts, can_list = 0, True
        while (
            (unresolved := self._unresolved())
            and attempts < MAX_ATTEMPTS
            and not self.context.stop.requested
        ):
            _LOG.info(
                "%s: the outcome of %s is unknown; listing the keys again",
                self.context.environment,
                pluralize(len(unresolved), "create"),
            )
            self.context.stop.sleep(delay(attempts))
            looked_at = self.context.stop.now()
            listed = self._list_new_keys()
            can_list = listed is not None
            if listed is not None:
                for create in unresolved:
                    self._update(pending.observed(create, self._conflict(listed, create)))
                yield self._settle_early(listed, looked_at)
                missing = self._unresolved()
                if missing and not self.context.stop.requested:
                    self._send(missing)
            attempts = 0 if len(self._unresolved()) < len(unresolved) else attempts + 1
        return can_list

    def _final_observation(self) -> NewLiveKeys | None:
        """Observe until nothing more can appear, or return the last of several observations."""
        self.context.stop.sleep(SETTLE_DELAY)
        last: NewLiveKeys | None = None
        for _ in attempts(self.context.stop.sleep, _OBSERVE_DELAY):
            listed = self._list_new_keys()
            if listed is not None:
                if self._is_final(listed, first=last is None):
                    return listed
                last = listed
        return last

    def _is_final(self, listed: NewLiveKeys, *, first: bool) -> bool:
        """Return whether all keys of this run are listed and complete, and no other run is active.

        Args:
            listed: the observation.
            first: True for the first observation after the creates.
        """
        if first and self._other_run_active(listed):
            return False
        for create in self._with_keys():
            conflict = self._conflict(listed, create)
            match conflict:
                case NotFound() if first or isinstance(create.state, Created | Found):
                    return False
                case Found(complete=complete, final=final) if not complete or (first and not final):
                    return False
                case NotFound() | Found():
                    continue
                case _:
                    assert_never(conflict)
        return True

    def _settle_early(self, listed: NewLiveKeys, looked_at: float) -> tuple[Delivery, ...]:
        """Settle the keys to which the final observation can add nothing, while others are open.

        Args:
            listed: an observation.
            looked_at: the time before it.
        """
        if not self._settles_early or self._other_run_active(listed):
            return ()
        settled = [
            create
            for create in self._with_keys()
            if isinstance(create.state, Created)
            and self._answered_at[create.action.name] + SETTLE_DELAY <= looked_at
            and isinstance(conflict := self._conflict(listed, create), Found)
            and (conflict.complete and conflict.final)
        ]
        self._settle(settled, listed)
        return self._finish(create.action.name for create in settled)

    def _settle(self, creates: Iterable[PendingCreate], listed: NewLiveKeys) -> None:
        """Record the final observation, revoke this run's duplicates, and read missing records."""
        names = [create.action.name for create in creates]
        for create in self._named(names):
            self._update(pending.finally_observed(create, self._conflict(listed, create)))
        duplicated = [create for create in self._named(names) if create.duplicates]
        duplicates = [id_ for create in duplicated for id_ in create.duplicates]
        failures = revoke_keys(self.context, duplicates)
        for create in duplicated:
            self._update(pending.duplicates_revoked(create, failures))
        self._read_records(names, roles_hidden=listed.roles_hidden)

    def _finish(self, names: Iterable[str]) -> tuple[Delivery, ...]:
        """Record that creates are settled, and return the tokens to deliver."""
        finished = self._named(names)
        for create in finished:
            self._settled.add(create.action.name)
            self.context.progress.settle(self.context.progress.result(create.action))
        return tuple(
            Delivery(create.action, create.kept.key.id, create.kept.key.expires_at)
            for create in finished
            if create.kept is not None and not create.duplicates and not create.unconfirmed
            if create.action.sinks
        )

    def _read_records(self, names: Iterable[str], *, roles_hidden: bool) -> None:
        """Read the records of keys that an observation found.

        If roles are hidden, an observation cannot show that a key has no role yet. Its record can:
        reading it at a depth with the role fails.
        """
        unread = {
            create.kept.key.id: create
            for create in self._named(names)
            if create.kept is not None and not create.duplicates and create.record is None
        }
        if roles_hidden:
            with_role = self._records(dict.fromkeys(unread, _WITH_ROLE))
            for id_ in unread.keys() - with_role.keys():
                self._update(pending.role_missing(unread.pop(id_)))
        records = self._records({id_: create.action.depth for id_, create in unread.items()})
        for id_, record in records.items():
            self._update(unread[id_]._replace(record=record))

    def _records(self, depths: Mapping[str, Depth]) -> dict[str, Record]:
        """Return the records of keys that exist, with a few attempts for each."""
        records: dict[str, Record] = {}
        for _ in range(_RECORD_ATTEMPTS):
            missing = {id_: depth for id_, depth in depths.items() if id_ not in records}
            if not missing:
                break
            records |= self.context.workspace.records(missing)
        return records

    def _named(self, names: Iterable[str]) -> list[PendingCreate]:
        return [self._creates[name] for name in names]

    def _other_run_active(self, listed: NewLiveKeys) -> bool:
        """Return whether there is a new key that this run did not create; it may still create."""
        open_creates = (
            one._replace(lost=one.lost + 1) if one.unresolved else one
            for one in tuple(self._creates.values())
        )
        return listed.other_run_active(one.own_keys(self.run_marker) for one in open_creates)

    def _conflict(self, listed: NewLiveKeys, create: PendingCreate) -> Conflict:
        return listed.resolve(create.own_keys(self.run_marker))

    def _list_new_keys(self) -> NewLiveKeys | None:
        observation = self.context.observe()
        if observation is None:
            return None
        return NewLiveKeys(observation, self.context.existing_ids)
