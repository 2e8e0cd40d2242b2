"""One create, as a frozen value, and the transitions between its states.

Its state is the outcome of its last request until an observation shows a key of its name: then it
is `Found`.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.execution.conflict import Found, OwnKeys
from provisioner.execution.deliver import delivery_not_started
from provisioner.execution.results import (
    CreatedByAnotherRun,
    Done,
    Failed,
    Skipped,
    Unfinished,
    outcome_unknown,
)
from provisioner.model.workspace import IN_FLIGHT, Created, NotCreated, NotSent, Unknown
from provisioner.runtime.cancellation import STOPPED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioner.execution.conflict import Conflict, RunMarker
    from provisioner.execution.results import Result
    from provisioner.model.workspace import Outcome, Record
    from provisioner.plan import Create, Rotate

_SINGLE_AFTER = 4
"""Tries after which a key is sent in a request of its own."""

_MAX_REFUSALS = 2
"""Refusals of a key in a request of its own, each followed by an observation without the key, after
which it counts as refused for good."""

UNCONFIRMED = Failure(
    Code.NOT_SETTLED,
    "The key was created, but the keys in its workspace could not be listed afterwards, so another "
    "run may have created one with the same name. Run the command again.",
)

_UNSENT = NotSent(STOPPED)
_IN_FLIGHT = outcome_unknown(IN_FLIGHT)

State = Created | NotCreated | Unknown | NotSent | Found


class PendingCreate(NamedTuple):
    """One create and what is known of its key; a named tuple, as there may be 100 000 of them.

    Attributes:
        action: the action.
        id: the id of the next request. It becomes the id of the key if the client chooses the ids;
            else it only identifies the request.
        state: the outcome of its last request, or what was observed since then.
        ids: the ids of the keys that its requests have created or may have created.
        lost: the number of keys that its requests may have created under ids that are not known.
        unknown: the failure to report as long as the outcome of a request is unknown.
        record: the record of the key that is kept, once an answer shows it.
        revocation: why its duplicates could not be revoked.
        unconfirmed: True if no list shows that its key is the only new one of its name.
        tries: how often it was sent with an unknown outcome.
        refusals: how often it was refused in a request of its own and then not listed.
    """

    action: Create | Rotate
    id: str
    state: State = _UNSENT
    ids: frozenset[str] = frozenset()
    lost: int = 0
    unknown: Failure = _IN_FLIGHT
    record: Record | None = None
    revocation: Failure | None = None
    unconfirmed: bool = False
    tries: int = 0
    refusals: int = 0

    @property
    def unresolved(self) -> bool:
        """Return whether the key is still to be created or found."""
        return isinstance(self.state, Unknown | NotSent)

    @property
    def may_have_key(self) -> bool:
        """Return whether a new key of the name may exist, whichever run created it."""
        return bool(self.ids or self.lost) or isinstance(self.state, Found)

    @property
    def kept(self) -> Found | None:
        """Return the key that is kept; None unless it was found and has its role."""
        return self.state if isinstance(self.state, Found) and self.state.complete else None

    @property
    def duplicates(self) -> tuple[str, ...]:
        """Return the ids of this run's keys to revoke, once the key that is kept is complete."""
        return () if self.kept is None else self.kept.duplicates

    def own_keys(self, run_marker: RunMarker) -> OwnKeys:
        """Return how to recognise the keys of this create."""
        return OwnKeys(
            name=self.action.name,
            ids=self.ids,
            # Only the run marker identifies a key whose id came with an answer that was lost.
            expires_at=run_marker.apply_to(self.action.expires_at) if self.lost else None,
            expected=len(self.ids) + self.lost,
        )


# Transitions while keys are created


def answered(create: PendingCreate, outcome: Outcome, *, chooses_ids: bool) -> PendingCreate:
    """Return a create after a request.

    Args:
        create: the create.
        outcome: the outcome of the request.
        chooses_ids: True if the id of the request is the id of the key.
    """
    match outcome:
        case Created(id=id_):
            return create._replace(state=outcome, ids=create.ids | {id_})
        case NotCreated() | NotSent():
            return create._replace(state=outcome)
        case Unknown(cause=cause):
            create = create._replace(state=outcome, unknown=outcome_unknown(cause))
            if chooses_ids:
                return create._replace(ids=create.ids | {create.id})
            return create._replace(lost=create.lost + 1)
        case _:
            assert_never(outcome)


def observed(create: PendingCreate, conflict: Conflict) -> PendingCreate:
    """Return an unresolved create after an observation: found, or as it is to be sent again."""
    if isinstance(conflict, Found):
        return create._replace(state=conflict)
    if not isinstance(create.state, Unknown):
        return create
    sent_alone = create.tries >= _SINGLE_AFTER
    match create.state.reason:
        case "lost":
            return create._replace(tries=create.tries + 1)
        case "taken":
            # An id that the server refuses although no list shows it can never be used.
            id_ = str(uuid.uuid4()) if sent_alone else create.id
            return create._replace(id=id_, tries=_SINGLE_AFTER)
        case "refused":
            refusals = create.refusals + sent_alone
            # The server has finished the requests, and the key is not there.
            refused = refusals >= _MAX_REFUSALS
            state = NotCreated(create.state.cause) if refused else create.state
            return create._replace(state=state, refusals=refusals, tries=_SINGLE_AFTER)
        case _:
            assert_never(create.state.reason)


# Transitions after all keys are created


def finally_observed(create: PendingCreate, conflict: Conflict) -> PendingCreate:
    """Return a create after the final observation."""
    state = create.state
    if isinstance(conflict, Found):
        if isinstance(state, Created) and state.id == conflict.key.id:
            return create._replace(state=conflict, record=state.record)
        return create._replace(state=conflict)
    match state:
        case NotCreated():
            return create
        case NotSent() | Unknown():
            failure = create.unknown
        case Created() | Found():
            failure = Failure(
                Code.OUTCOME_UNKNOWN,
                f"{create.action.name!r} was created but is no longer listed as live: someone "
                "revoked it, or the server lost it. Run `provision list` to see which keys exist.",
            )
        case _:
            assert_never(state)
    return create._replace(state=NotCreated(failure))


def duplicates_revoked(
    create: PendingCreate, failures: Mapping[str, Failure | None]
) -> PendingCreate:
    """Return a create whose duplicates were revoked, except those that have a failure."""
    if create.kept is None:
        return create
    left = tuple(id_ for id_ in create.duplicates if failures.get(id_) is not None)
    revocation = failures[left[0]] if left else None
    return create._replace(state=replace(create.kept, duplicates=left), revocation=revocation)


def role_missing(create: PendingCreate) -> PendingCreate:
    """Return a create whose key turned out to have no role."""
    if create.kept is None:
        return create
    return create._replace(state=replace(create.kept, complete=False))


# What a create amounts to


def current_result(create: PendingCreate) -> Result:
    """Return the result of a create if the run ended now, before its token is delivered."""
    action, state, failure = create.action, create.state, None
    record: Record | None
    match state:
        case NotSent(failure=unsent) if not create.may_have_key:
            return Skipped(action, STOPPED) if unsent == STOPPED else Failed(action, unsent)
        case NotSent() | Unknown():
            return Failed(action, create.unknown)
        case NotCreated(failure=refusal):
            return Failed(action, refusal)
        case Created(id=id_, record=record):
            created = True
        case Found(key=key, ours=created):
            id_, failure = key.id, _found_failure(create, state)
            record = create.record if failure is None else None
        case _:
            assert_never(state)
    if failure is None and create.unconfirmed:
        failure = UNCONFIRMED
    elif failure is None and action.sinks:
        failure = delivery_not_started(action)
    if failure is not None:
        return Unfinished(action, id_, record, failure, created=created)
    return (Done if created else CreatedByAnotherRun)(action, id_, record)


def _found_failure(create: PendingCreate, found: Found) -> Failure | None:
    """Return why the name of a found key is not settled; None if it is."""
    id_, duplicates = found.key.id, ", ".join(found.duplicates)
    if not found.complete:
        also = f"; this run also created {duplicates}" if duplicates else ""
        return Failure(
            Code.OUTCOME_UNKNOWN,
            f"{create.action.name!r} was created as {id_} but still has no role{also}. Assign the "
            "role by hand, or revoke the key and run the command again.",
        )
    if not duplicates:
        return None
    what, them = ("a duplicate", "it") if len(found.duplicates) == 1 else ("duplicates", "them")
    cause = "The run ended first." if create.revocation is None else create.revocation.text
    return Failure(
        Code.DUPLICATE_LEFT,
        f"This run created {duplicates} as {what} of {id_} and could not revoke {them}. {cause}",
    )
