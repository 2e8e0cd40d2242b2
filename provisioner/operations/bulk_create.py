"""The operation of `provision create`: post each record of a request body to a workspace once."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.execution import outcome_unknown
from provisioner.model.observed import KnownRoles
from provisioner.model.workspace import IN_FLIGHT, Created, NewKey, NotCreated, NotSent, Unknown
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import ThreadExecutor

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from provisioner.model.key import Depth
    from provisioner.model.workspace import Outcome, Record, Workspace
    from provisioner.operations.request_body import BodyRecord, RequestBody
    from provisioner.runtime.cancellation import Cancellation

T = TypeVar("T")

_MAX_OFFERED_ROLES = 30
"""Roles that a message lists."""

_MAX_ROLE_LABEL = 100
"""Characters of each label in that list."""


@dataclass(frozen=True, slots=True)
class BulkResult:
    """The result of creating the records of a request body.

    Attributes:
        output: the created records, as a list or an object like the body; None if the only
            record of an object failed.
        failures: one for each record that was not created, or may not have been.
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
    """Create the records of a request body.

    Args:
        workspace: the workspace.
        body: the records.
        depth: how much of each created key the server returns.
        stop: a stop request; no further record is sent, and requests in flight get a grace period.
        on_progress: called with the number of records whose outcome has become known.

    Returns:
        The created records; none if any record does not fit the generation of the workspace.
    """
    invalid = tuple(filter(None, (_role_failure(workspace, record) for record in body.records)))
    if invalid and workspace.keys_have_roles:
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
    creation = _call(partial(workspace.create_many, keys, observer), stop, graceful=True)
    if creation.done():
        creation.result()
    created: list[Record] = []
    failures: list[Failure] = []
    for record, key in zip(body.records, keys, strict=True):
        outcome = observer.outcomes.get(key.id, NotSent(STOPPED))
        match outcome:
            case Created(record=answer):
                created.append(answer)
            case NotCreated(failure=failure) | NotSent(failure=failure):
                failures.append(_at_record(record, failure))
            case Unknown(cause=cause):
                failures.append(_at_record(record, outcome_unknown(cause)))
            case _:
                assert_never(outcome)
    output = next(iter(created), None) if body.single else created
    return BulkResult(output, tuple(failures))


class _Observer:
    """Collects the outcomes by the id that this run gave each key."""

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self._on_progress = on_progress
        self.outcomes: dict[str, Outcome] = {}

    def on_send(self, key: NewKey) -> None:
        """Record that the key may exist from now on."""
        self.outcomes[key.id] = Unknown(IN_FLIGHT)

    def on_outcome(self, key: NewKey, outcome: Outcome) -> None:
        """Record the outcome of a key."""
        self.outcomes[key.id] = outcome
        self._on_progress(1)


def _with_assignable_roles(failure: Failure, workspace: Workspace, stop: Cancellation) -> Failure:
    """Return the failure with the ids and labels of assignable roles, if they can be read."""
    observation = _call(workspace.observe, stop, graceful=False)
    try:
        roles = observation.result(0).roles
    except (TimeoutError, WorkspaceError):
        return failure
    known = roles.roles if isinstance(roles, KnownRoles) else ()
    assignable = sorted((role.label, role.id) for role in known if role.assignable)
    roles_text = ", ".join(
        f"{id_} ({label[:_MAX_ROLE_LABEL]})" for label, id_ in assignable[:_MAX_OFFERED_ROLES]
    )
    if not roles_text:
        return failure
    return failure.advise(f"Available roles: {roles_text}.")


def _role_failure(workspace: Workspace, record: BodyRecord) -> Failure | None:
    """Return why the generation of the workspace rejects the record, before anything is sent."""
    if workspace.keys_have_roles and record.role_id is None:
        return Failure(
            Code.ROLE_MISSING,
            f"{record.place}: {record.name!r} has no roleId, which this workspace requires. "
            "Set roleId to the id of a role that keys may have.",
        )
    if not workspace.keys_have_roles and record.role_id is not None:
        return Failure(
            Code.ROLE_UNSUPPORTED,
            f"{record.place}: {record.name!r} has a roleId, which this generation of Twenty does "
            "not support. Remove the roleId.",
        )
    return None


def _at_record(record: BodyRecord, failure: Failure) -> Failure:
    return Failure(failure.code, f"{record.place}: {record.name!r}: {failure.text}")


def _call(function: Callable[[], T], stop: Cancellation, *, graceful: bool) -> Future[T]:
    """Call a function in a thread that a stop abandons, and wait as long as the stop allows."""
    executor = ThreadExecutor(1)
    future = executor.submit(function)
    executor.shutdown(wait=False)
    stop.wait_for((future,), graceful=graceful)
    return future
