"""The bulk operation by itself: a body's records posted to one workspace, each once."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.model.observed import KnownRoles
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import ThreadExecutor
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

    from provisioner.model.key import Depth
    from provisioner.operations.request_body import BodyRecord, RequestBody
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.twenty.workspace import Outcome, Record, Workspace


_MAX_OFFERED_ROLES = 30
_MAX_ROLE_LABEL = 100
"""Roles that a message names, and signs of each."""


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What became of a body.

    Attributes:
        output: the created records in the shape of the body; None where its one record failed.
        failures: one for each record that was not made, or may not have been.
    """

    output: Record | list[Record] | None
    failures: tuple[Failure, ...]


def create_records(
    workspace: Workspace,
    body: RequestBody,
    depth: Depth,
    stop: Cancellation,
    on_progress: Callable[[int], None],
) -> BulkResult:
    """Creates the records of a body.

    Args:
        workspace: where to.
        body: its records.
        depth: how much of each created key comes back.
        stop: once it is asked for, no record is begun, and what is in flight has its grace.
        on_progress: called with the number of records whose outcome has become known.

    Returns:
        What was made; nothing where any record does not fit the generation.
    """
    invalid = tuple(filter(None, (_role_failure(workspace, record) for record in body.records)))
    if invalid and workspace.generation == "core":
        invalid = (_with_assignable_roles(invalid[0], workspace, stop), *invalid[1:])
    if invalid:
        return BulkResult(None if body.single else [], invalid)
    keys = [
        NewKey(
            id=str(uuid.uuid4()),
            name=record.name,
            expires_at=record.expires_at,
            revoked_at=record.revoked_at,
            role_id=record.role_id,
            depth=depth,
        )
        for record in body.records
    ]
    observer = _Observer(on_progress)
    threads = ThreadExecutor(1)  # which a stop leaves behind at work
    work = threads.submit(workspace.create_many, keys, observer)
    threads.shutdown(wait=False)
    stop.wait_for((work,), graceful=True)
    if work.done():
        work.result()
    outcomes = [observer.outcome(key) for key in keys]
    records = [outcome.record for outcome in outcomes if isinstance(outcome, Created)]
    failures = tuple(
        _failure(record, outcome)
        for record, outcome in zip(body.records, outcomes, strict=True)
        if not isinstance(outcome, Created)
    )
    if body.single:
        return BulkResult(records[0] if records else None, failures)
    return BulkResult(records, failures)


class _Observer:
    """Keeps the outcomes by the id that this run gave each key."""

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self._on_progress = on_progress
        self._outcomes: dict[str, Outcome] = {}

    def on_send(self, key: NewKey) -> None:
        """Notes a key that may exist from now on."""
        self._outcomes[key.id] = Unknown(IN_FLIGHT)

    def on_outcome(self, key: NewKey, outcome: Outcome) -> None:
        """Keeps one outcome."""
        self._outcomes[key.id] = outcome
        self._on_progress(1)

    def outcome(self, key: NewKey) -> Outcome:
        """What is known now of a key."""
        return self._outcomes.get(key.id, NotSent(STOPPED))


def _with_assignable_roles(failure: Failure, workspace: Workspace, stop: Cancellation) -> Failure:
    """The failure with the roles that keys may have and their ids, where those can be seen."""
    threads = ThreadExecutor(1)  # which a stop leaves behind at work
    look = threads.submit(workspace.observe)
    threads.shutdown(wait=False)
    stop.wait_for((look,), graceful=False)
    try:
        roles = look.result(0).roles
    except (TimeoutError, WorkspaceError):
        return failure
    known = roles.roles if isinstance(roles, KnownRoles) else ()
    found = sorted((role.label, role.id) for role in known if role.assignable)[:_MAX_OFFERED_ROLES]
    offer = ", ".join(f"{id_} ({label[:_MAX_ROLE_LABEL]})" for label, id_ in found)
    return Failure(failure.code, f"{failure.message} There are {offer}.") if offer else failure


def _role_failure(workspace: Workspace, record: BodyRecord) -> Failure | None:
    """Why the generation cannot take a record; known before anything is sent."""
    if workspace.generation == "core" and record.role_id is None:
        return Failure(
            "role_missing",
            f"{record.place}: {record.name!r} has no roleId, and keys of this workspace need one. "
            "Write the roleId of a role that may be given to keys.",
        )
    if workspace.generation == "legacy" and record.role_id is not None:
        return Failure(
            "role_unsupported",
            f"{record.place}: {record.name!r} has a roleId, and keys of this generation have none. "
            "Leave the roleId out.",
        )
    return None


def _failure(record: BodyRecord, outcome: Outcome) -> Failure:
    match outcome:
        case NotCreated(failure=reason) | NotSent(failure=reason):
            pass
        case Unknown(cause=cause):
            reason = outcome_unknown(cause)
        case Created():
            raise AssertionError(record)  # the caller has sorted these out
        case _:
            assert_never(outcome)
    return Failure(reason.code, f"{record.place}: {record.name!r}: {reason.message}")
