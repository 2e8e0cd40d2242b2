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
from provisioner.model.workspace import IN_FLIGHT, Created, NewKey, NotCreated, NotSent, Unknown
from provisioner.plan import RoleChoice, roles_ignored
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import ThreadExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from provisioner.model.environment import Environment
    from provisioner.model.key import Depth
    from provisioner.model.workspace import Outcome, Record, Workspace
    from provisioner.operations.request_body import BodyRecord, RequestBody
    from provisioner.runtime.cancellation import Cancellation

T = TypeVar("T")

_WHERE_ROLES = "in the record or in the environment"
"""The places where a role can be written, for messages."""


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


def create_records(  # noqa: PLR0913 - everything that the records depend on
    workspace: Workspace,
    environment: Environment,
    body: RequestBody,
    *,
    depth: Depth,
    stop: Cancellation,
    on_progress: Callable[[int], None],
) -> BulkResult:
    """Create the records of a request body.

    Args:
        workspace: the workspace.
        environment: the environment of the workspace, with the role of records that set none.
        body: the records.
        depth: how much of each created key the server returns.
        stop: a stop request; no further record is sent, and requests in flight get a grace period.
        on_progress: called with the number of records whose outcome has become known.

    Returns:
        The created records; none if any record does not fit the generation of the workspace.
    """
    try:
        role_ids = _role_ids(workspace, environment, body.records, stop)
    except WorkspaceError as error:
        role_ids = [_at_record(record, error.failure) for record in body.records]
    if invalid := [one for one in role_ids if isinstance(one, Failure)]:
        return BulkResult(None if body.single else [], tuple(invalid))
    keys = [
        NewKey(
            id=str(uuid.uuid4()),
            name=record.name,
            expires_at=record.expires_at,
            revoked_at=record.revoked_at,
            role_id=role_id,
            depth=depth,
        )
        for record, role_id in zip(body.records, role_ids, strict=True)
        if not isinstance(role_id, Failure)
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


def notes(
    workspace: Workspace, environment: Environment, body: RequestBody, *, depth_chosen: bool
) -> Iterator[str]:
    """Yield what the workspace ignores of a request, each once for all records.

    Args:
        workspace: the workspace.
        environment: its environment.
        body: the records.
        depth_chosen: whether the user chose a depth.
    """
    if workspace.keys_have_roles:
        return
    if depth_chosen:
        yield "depths 0, 1 and 2 return the same; API keys have no relations before Twenty 1.3"
    if ignored := sum((record.role or environment.role) is not None for record in body.records):
        yield roles_ignored(ignored)


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


def _role_ids(
    workspace: Workspace,
    environment: Environment,
    records: Sequence[BodyRecord],
    stop: Cancellation,
) -> list[str | Failure | None]:
    """Return the role id of each record, or why the workspace cannot have the record.

    Raises:
        WorkspaceError: the roles are needed and cannot be read, or a stop came first.
    """
    if not workspace.keys_have_roles:
        return [record.role_id and _role_unsupported(record) for record in records]
    if all(record.role_id is not None for record in records):
        return [record.role_id for record in records]
    observing = _call(workspace.observe, stop, graceful=False)
    if not observing.done():
        raise WorkspaceError.of(STOPPED)
    observation = observing.result()
    choice = RoleChoice(environment, observation, observation.server_time)
    return [_role_id(record, environment.role, choice) for record in records]


def _role_id(record: BodyRecord, default: str | None, choice: RoleChoice) -> str | Failure:
    if record.role_id is not None:
        return record.role_id
    found = choice.look_up(record.name, record.role or default, _WHERE_ROLES)
    return found if isinstance(found, str) else Failure(found.code, f"{record.place}: {found.text}")


def _role_unsupported(record: BodyRecord) -> Failure:
    return Failure(
        Code.ROLE_UNSUPPORTED,
        f"{record.place}: {record.name!r} has a roleId, which this generation of Twenty does "
        "not support. Remove the roleId.",
    )


def _at_record(record: BodyRecord, failure: Failure) -> Failure:
    return Failure(failure.code, f"{record.place}: {record.name!r}: {failure.text}")


def _call(function: Callable[[], T], stop: Cancellation, *, graceful: bool) -> Future[T]:
    """Call a function in a thread that a stop abandons, and wait as long as the stop allows."""
    executor = ThreadExecutor(1)
    future = executor.submit(function)
    executor.shutdown(wait=False)
    stop.wait_for((future,), graceful=graceful)
    return future
