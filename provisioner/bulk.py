"""The bulk operation by itself: a body's records posted to one workspace, each once."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

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

    Returns:
        What was made; nothing where any record does not fit the generation.
    """
    unfit = tuple(filter(None, (_unfit(workspace, record) for record in body.records)))
    if unfit:
        return Made(None if body.single else [], unfit)
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


def _unfit(workspace: Workspace, record: BodyRecord) -> Failure | None:
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
    assert not isinstance(outcome, Created)  # noqa: S101 - the caller has sorted these out
    reason = outcome.failure
    return Failure(reason.code, f"{record.place}: {record.name!r}: {reason.message}")
