"""The bulk operation by itself: a body's records posted to one workspace, each once."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.errors import WorkspaceError
from provisioner.failure import Failure
from provisioner.twenty.workspace import Created, NewKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.body import Body, BodyRecord
    from provisioner.desired import Depth
    from provisioner.twenty.workspace import Outcome, Record, Workspace


@dataclass(frozen=True, slots=True)
class Made:
    """What became of a body.

    Attributes:
        output: the created records in the shape of the body; None where its one record failed.
        failures: one for each record that was not made, or may not have been.
    """

    output: Record | list[Record] | None
    failures: tuple[Failure, ...]


def create_records(
    workspace: Workspace, body: Body, depth: Depth, settled: Callable[[int], None]
) -> Made:
    """Creates the records of a body.

    Args:
        workspace: where to.
        body: its records.
        depth: how much of each created key comes back.
        settled: called with the number of records whose outcome has become known.

    Raises:
        WorkspaceError: when a record does not fit the generation; then nothing is created.
    """
    for record in body.records:
        _fit(workspace, record)
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
    outcomes = workspace.create_many(keys, settled)
    records = [outcome.record for outcome in outcomes if isinstance(outcome, Created)]
    failures = tuple(
        _failure(record, outcome)
        for record, outcome in zip(body.records, outcomes, strict=True)
        if not isinstance(outcome, Created)
    )
    if body.single:
        return Made(records[0] if records else None, failures)
    return Made(records, failures)


def _fit(workspace: Workspace, record: BodyRecord) -> None:
    if workspace.generation == "core" and record.role_id is None:
        raise WorkspaceError(
            "role_missing",
            f"{record.place}: {record.name!r} has no roleId, and keys of this workspace need one.",
            remedy="Write the roleId of a role that may be given to keys.",
        )
    if workspace.generation == "legacy" and record.role_id is not None:
        raise WorkspaceError(
            "role_unsupported",
            f"{record.place}: {record.name!r} has a roleId, and keys of this generation have none.",
            remedy="Leave the roleId out.",
        )


def _failure(record: BodyRecord, outcome: Outcome) -> Failure:
    assert not isinstance(outcome, Created)  # noqa: S101 - the caller has sorted these out
    reason = outcome.failure
    return Failure(reason.code, f"{record.place}: {record.name!r}: {reason.message}")
