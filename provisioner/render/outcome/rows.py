"""Descriptions of actions, results and findings, which every format of plans and results shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, assert_never

from provisioner.execution import CreatedByAnotherRun, Done, Executed, Failed, Skipped, Unfinished
from provisioner.plan import (
    Create,
    Deliver,
    DeliveryUnknown,
    Drift,
    Duplicate,
    Expiring,
    Revoke,
    Rotate,
    Unmanaged,
    Update,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.errors.failure import Failure
    from provisioner.execution import Result
    from provisioner.model.workspace import Record
    from provisioner.plan import Action, Finding, Planned
    from provisioner.render.text import Tone


class Description(NamedTuple):
    """The parts of an action that its type determines.

    Attributes:
        kind: its name in reports.
        symbol: the sign before its line of text.
        tone: the colour of that line.
        key_ids: the ids of the live keys that it changes.
        details: what it does, in a few words.
    """

    kind: Literal["create", "update", "rotate", "deliver", "revoke"]
    symbol: str
    tone: Tone
    key_ids: tuple[str, ...]
    details: str


class Row(NamedTuple):
    """An action of a plan, or its result.

    Attributes:
        status: `planned` if it can be carried out; `failed` also if the plan blocks it.
        failure: why it failed or was skipped; None otherwise.
        id: the id of the key, if the action has one.
        record: the key as the server returned it, if it did.
    """

    action: Action
    status: Literal["planned", "done", "created by another run", "failed", "skipped"]
    failure: Failure | None = None
    id: str | None = None
    record: Record | None = None


def rows_of(part: Planned | Executed) -> Iterator[Row]:
    """Yield the actions of an environment's plan, or their results."""
    if isinstance(part, Executed):
        yield from map(describe_result, part.results)
    else:
        for action in part.actions:
            yield Row(action, "failed" if action.blocked else "planned", action.blocked)


def describe_action(action: Action) -> Description:
    """Return the parts of an action that its type determines."""
    match action:
        case Create(depth=depth):
            return Description("create", "+", "good", (), f"depth {depth}")
        case Update(key_id=key_id, changes=changes):
            details = ", ".join(
                f"{change.field} {change.actual or 'none'} -> {change.desired}"
                for change in changes
            )
            return Description("update", "~", "warn", (key_id,), details)
        case Rotate(reason=reason, predecessors=key_ids, at_once=at_once):
            details = f"rotate, {reason}" + (", revoke the old key at once" if at_once else "")
            return Description("rotate", "~", "warn", key_ids, details)
        case Deliver(reason=reason, key_id=key_id):
            details = f"deliver, {reason.replace('_', ' ')}"
            return Description("deliver", ">", "good", (key_id,), details)
        case Revoke(reason=reason, key_id=key_id):
            return Description("revoke", "-", "bad", (key_id,), f"revoke {key_id}, {reason}")
        case _:
            assert_never(action)


def describe_sinks(action: Action) -> str:
    """Return the sinks that get a token from an action; empty if it mints none."""
    no_sink = "no sink" if isinstance(action, Create | Rotate) else ""
    return ", ".join(map(str, action.sinks)) or no_sink


def describe_result(result: Result) -> Row:
    """Return the row of a result."""
    action = result.action
    match result:
        case Done(id=id_, record=record):
            return Row(action, "done", None, id_, record)
        case CreatedByAnotherRun(id=id_, record=record):
            return Row(action, "created by another run", None, id_, record)
        case Unfinished(id=id_, record=record, failure=failure):
            return Row(action, "failed", failure, id_, record)
        case Failed(failure=failure):
            return Row(action, "failed", failure)
        case Skipped(failure=failure):
            return Row(action, "skipped", failure)
        case _:
            assert_never(result)


def finding_kind(finding: Finding) -> str:
    """Return the code of a finding, as in docs/errors.md."""
    match finding:
        case Unmanaged():
            return "unmanaged"
        case Duplicate():
            return "duplicate"
        case Drift():
            return "drift"
        case Expiring():
            return "expiring"
        case DeliveryUnknown():
            return "delivery_unknown"
        case _:
            assert_never(finding)
