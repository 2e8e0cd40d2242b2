"""The state of one create: its requests, what is known about its key, and its result."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.execution.conflict import NotFound
from provisioner.execution.results import CreatedByAnotherRun, Done, Failed, Skipped, Unfinished
from provisioner.model.workspace import (
    IN_FLIGHT,
    Created,
    NotCreated,
    NotSent,
    Unknown,
    outcome_unknown,
)
from provisioner.runtime.cancellation import STOPPED

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.execution.conflict import Conflict, Resolution
    from provisioner.execution.results import Result
    from provisioner.execution.run_marker import RunMarker
    from provisioner.model.workspace import Outcome, Record
    from provisioner.plan import Create

_SINGLE_AFTER = 4
"""Tries after which a key is sent in a request of its own."""

_MAX_REFUSALS = 2
"""Refusals of a key in a request of its own, each followed by an observation without the key, after
which it counts as refused for good."""


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """The live key that fulfils a create, whether this run or another one created it.

    Attributes:
        expires_at: the expiry of the key in the workspace.
    """

    action: Create
    id: str
    expires_at: datetime


@dataclass(slots=True)
class PendingCreate:
    """One create action and its state.

    Attributes:
        action: the action.
        chooses_ids: True if this run chooses the ids of keys, as on legacy.
        id: the id of the next request. It becomes the id of the key on legacy; on core it only
            identifies the request.
        ids: the ids of this run's keys: chosen by it, or returned by the server.
        sent: True if a request for the key may be in flight, or ended with an unknown outcome.
        expected: the number of keys that its requests may have created.
        tries: how often it was sent with an unknown outcome.
        refusals: how often it was refused in a request of its own and then not listed.
        unknown: the unknown outcome of the last request, if it was one.
        cause: why the key is not known to be created.
        refusal: why the key will not be created, once that is certain.
        created: the outcome in which the server returned the key.
        resolution: the key of this name in the last observation that showed one.
        unconfirmed: True if no observation after the creates showed which key of the name is kept.
        result: the result, once it is final.
    """

    action: Create
    chooses_ids: bool
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    ids: set[str] = field(default_factory=set)
    sent: bool = False
    expected: int = 0
    tries: int = 0
    refusals: int = 0
    unknown: Unknown | None = None
    cause: Failure | None = None
    refusal: Failure | None = None
    created: Created | None = None
    resolution: Resolution | None = None
    unconfirmed: bool = False
    result: Result | None = None

    @property
    def unresolved(self) -> bool:
        """Return whether the key is still to be created or found."""
        return self.created is None and self.resolution is None and self.refusal is None

    @property
    def may_have_key(self) -> bool:
        """Return whether a new key may exist: this run sent one, or another run created one."""
        return self.sent or self.resolution is not None

    def on_outcome(self, outcome: Outcome) -> None:
        """Record the outcome of a request."""
        match outcome:
            case Created(id=id_):
                self.created = outcome
                self.ids.add(id_)
                self.expected = self._expected_with_one_more()
            case NotCreated(failure=failure):
                self.sent = self.expected > 0
                self.refusal = failure
            case NotSent(failure=failure):
                self.sent = self.expected > 0
                # An earlier request that was sent explains more than this one, which was not.
                self.cause = self.cause if self.sent else failure
            case Unknown(cause=cause):
                self.unknown = outcome
                self.cause = cause
                self.expected = self._expected_with_one_more()
            case _:
                assert_never(outcome)

    def on_absent(self) -> None:
        """Record that an observation did not show the key: decide how to retry, or to give up."""
        if self.unknown is None:
            return
        match self.unknown.reason:
            case "lost":
                self.tries += 1
            case "taken":
                if self.tries >= _SINGLE_AFTER:
                    # The server refuses the id although no list shows it: it can never be used.
                    self.id = str(uuid.uuid4())
                self.tries = _SINGLE_AFTER
            case "refused":
                self.refusals += self.tries >= _SINGLE_AFTER
                self.tries = _SINGLE_AFTER
                # The server has finished both requests, and the key is not there.
                if self.refusals >= _MAX_REFUSALS:
                    self.refusal = self.unknown.cause
            case _:
                assert_never(self.unknown.reason)

    def is_final(self, conflict: Conflict, *, first: bool) -> bool:
        """Return whether an observation shows all that can be expected of this create.

        Args:
            conflict: what the observation shows for the name.
            first: True for the first observation after the creates.
        """
        if isinstance(conflict, NotFound):
            return not first and self.created is None and self.resolution is None
        return conflict.complete and (conflict.final or not first)

    def on_final_observation(self, conflict: Conflict) -> None:
        """Record what the final observation shows."""
        if isinstance(conflict, NotFound):
            self.result = Failed(self.action, self._missing_failure())
            return
        self.resolution = conflict
        if not conflict.complete:
            self.result = self._without_role(conflict)

    @property
    def duplicates(self) -> tuple[str, ...]:
        """The ids of this run's keys to revoke; empty if the key to keep is not complete."""
        if self.resolution is None or not self.resolution.complete:
            return ()
        return self.resolution.duplicates

    def on_revoked(self, remaining: tuple[str, ...], failure: Failure | None) -> None:
        """Record which duplicates could not be revoked, and why."""
        if self.resolution is not None:
            self.resolution = replace(self.resolution, duplicates=remaining)
            if failure is not None:
                self.result = self._with_duplicates(self.resolution, failure.text)

    @property
    def unread_id(self) -> str | None:
        """The id of the key that fulfils this create, if no answer has shown its record."""
        if self.result is not None or self.resolution is None:
            return None
        return None if self._returned(self.resolution) else self.resolution.key.id

    def on_role_missing(self) -> None:
        """Record that the observed key has no role, because its record cannot be read with it."""
        if self.resolution is not None:
            self.result = self._without_role(self.resolution)

    def on_record(self, record: Record | None) -> None:
        """Record the record of the observed key, or None if it could not be read."""
        if self.resolution is not None:
            self.result = self._resolved(self.resolution, record)

    def created_key(self, run_marker: RunMarker) -> CreatedKey | None:
        """Return the key that fulfils this create, if there is one."""
        match self.current_result(None):
            case Done(id=id_) | CreatedByAnotherRun(id=id_):
                expires_at = run_marker.apply_to(self.action.expires_at)
                if self.resolution is not None:
                    expires_at = self.resolution.key.expires_at
                return CreatedKey(self.action, id_, expires_at)
            case _:
                return None

    def current_result(self, fallback: Failure | None) -> Result:
        """Return the result as far as it is known.

        Args:
            fallback: the failure of an unresolved create, if a bug ended the run.
        """
        if self.result is not None:
            return self.result
        if (unfinished := self._unfinished()) is not None:
            return unfinished
        if self.created is not None and (
            self.resolution is None or self._returned(self.resolution)
        ):
            return Done(self.action, self.created.id, self.created.record)
        if self.resolution is not None:
            return self._resolved(self.resolution, None)
        failure = self.refusal or fallback
        if failure is None and self.sent:
            failure = outcome_unknown(self.cause or IN_FLIGHT)
        if failure is None and self.cause != STOPPED:
            failure = self.cause
        return Skipped(self.action, STOPPED) if failure is None else Failed(self.action, failure)

    def _expected_with_one_more(self) -> int:
        """Return the number of keys that may exist after one more request: at most one per id."""
        return len(self.ids) if self.chooses_ids else self.expected + 1

    def _returned(self, resolution: Resolution) -> bool:
        """Return whether the server returned the key to keep in its answer to the create."""
        return self.created is not None and self.created.id == resolution.key.id

    def _resolved(self, resolution: Resolution, record: Record | None) -> Result:
        kind = Done if resolution.ours else CreatedByAnotherRun
        return kind(self.action, resolution.key.id, record)

    def _unfinished(self) -> Result | None:
        """Return the result of a key that exists but is not confirmed, or None."""
        resolution = self.resolution
        if resolution is not None and not resolution.complete:
            return self._without_role(resolution)
        if resolution is not None and resolution.duplicates:
            return self._with_duplicates(resolution, "The run ended first.")
        if self.unconfirmed and self.created is not None:
            return Unfinished(self.action, self.created.id, self.created.record, UNCONFIRMED)
        if self.unconfirmed and resolution is not None:
            return Unfinished(
                self.action, resolution.key.id, None, UNCONFIRMED, created=resolution.ours
            )
        return None

    def _without_role(self, resolution: Resolution) -> Result:
        name, id_ = self.action.name, resolution.key.id
        also = (
            f"; this run also created {', '.join(resolution.duplicates)}"
            if resolution.duplicates
            else ""
        )
        failure = Failure(
            Code.OUTCOME_UNKNOWN,
            f"{name!r} was created as {id_} but still has no role{also}. Assign the role by hand, "
            "or revoke the key and run again.",
        )
        return Unfinished(self.action, id_, None, failure, created=resolution.ours)

    def _with_duplicates(self, resolution: Resolution, cause: str) -> Result:
        kept, duplicates = resolution.key.id, resolution.duplicates
        what = "a duplicate" if len(duplicates) == 1 else "duplicates"
        failure = Failure(
            Code.DUPLICATE_LEFT,
            f"This run created {', '.join(duplicates)} as {what} of {kept} and could not revoke "
            f"{'it' if len(duplicates) == 1 else 'them'}. {cause}",
        )
        return Unfinished(self.action, kept, None, failure, created=resolution.ours)

    def _missing_failure(self) -> Failure:
        if self.created is not None or self.resolution is not None:
            return Failure(
                Code.OUTCOME_UNKNOWN,
                f"{self.action.name!r} was created but is no longer listed as live: someone "
                "revoked it, or the server lost it. Run `provision list` to see which keys exist.",
            )
        return self.refusal or outcome_unknown(self.cause or IN_FLIGHT)


UNCONFIRMED = Failure(
    Code.NOT_SETTLED,
    "The key was created, but the keys in its workspace could not be listed afterwards, so another "
    "run may have created one with the same name. Run again.",
)
