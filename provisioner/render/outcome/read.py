"""Plans and results read back from the JSON of a shard, so that every format can show them.

The JSON follows the schema `plan` or `result`, and has the entries of `merge`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.errors.problem import Place
from provisioner.execution import (
    CreatedByAnotherRun,
    Done,
    Executed,
    Failed,
    Skipped,
    Unfinished,
)
from provisioner.model.expiry import parse_timestamp
from provisioner.model.key import Annotations
from provisioner.model.sink_address import Address
from provisioner.model.sink_content import ApiKeyToken
from provisioner.plan import (
    Change,
    Clean,
    Create,
    Deliver,
    Estimate,
    Planned,
    Rename,
    ReportedFinding,
    Revoke,
    Rotate,
    Unobserved,
    Upcoming,
    Update,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from provisioner.execution import Result
    from provisioner.plan import Action

    Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _ReportedAddress(Address):
    """A sink that another run reported; only its text is known."""

    kind: ClassVar[str] = "reported"

    text: str

    @property
    def targets(self) -> tuple[str, ...]:
        return ()

    def __str__(self) -> str:
        return self.text


def read_plan(entry: Json, merge: Json) -> Planned | Unobserved:
    """Return the plan of an environment from its entries in `environments` and `merge`."""
    return _planned(entry, merge, entry.get("actions", ()), entry["summary"].get("keep", 0))


def read_result(entry: Json, merge: Json) -> Executed | Unobserved:
    """Return the result of an environment from its entries in `environments` and `merge`."""
    rows, more = entry["results"], merge.get("results", ())
    elsewhere = sum(_made_elsewhere(*pair) for pair in zip(rows, more, strict=True))
    planned = _planned(entry, merge, rows, entry["summary"]["kept"] - elsewhere, more)
    if isinstance(planned, Unobserved):
        return planned
    actions = zip(planned.actions, rows, more, strict=True)
    results = tuple(_result(*one) for one in actions)
    return Executed(planned, results, upcoming=planned.upcoming)


def read_failure(error: Json | None) -> Failure | None:
    """Return a failure from its code and text; None if there is none.

    Raises:
        ValueError: if the code is unknown.
    """
    return None if error is None else Failure(Code(error["code"]), error["message"])


def read_annotations(entry: Json) -> Annotations | None:
    """Return the annotations in the entry of an action or of a key; None if it has none."""
    annotations = Annotations(*(entry[name] for name in Annotations._fields))
    return annotations if any(annotations) else None


def read_upcoming(entry: Json) -> Upcoming:
    """Return what a later run will do by itself, from its entry."""
    at = entry["at"]
    return Upcoming(
        name=entry["name"],
        key_id=entry["id"],
        at=None if at is None else parse_timestamp(at),
        overlap_hours=entry["overlap_hours"],
        hours_left=entry["hours_left"],
        waits_for=entry["waits_for"],
    )


def _planned(
    entry: Json, merge: Json, rows: Iterable[Json], kept: int, more: Iterable[Json] = ()
) -> Planned | Unobserved:
    failure = read_failure(entry["error"])
    if failure is not None:
        return Unobserved(entry["environment"], entry["url"], failure)
    at_once = [one["at_once"] for one in more]
    return Planned(
        environment=entry["environment"],
        url=entry["url"],
        generation=entry["generation"],
        workspace=merge["content"]["workspace"],
        actions=tuple(
            _action(row, at_once=bool(at_once) and at_once[index]) for index, row in enumerate(rows)
        ),
        kept=("",) * kept,  # reports only count them
        findings=tuple(map(_finding, entry["findings"])),
        notes=tuple(merge["notes"]),
        estimate=Estimate(**entry["estimate"]),
        upcoming=tuple(map(read_upcoming, entry["upcoming"])),
    )


def _action(row: Json, *, at_once: bool) -> Action:  # noqa: PLR0911 - one a kind
    name, reason, depth, role, ids = (
        row[field] for field in ("name", "reason", "depth", "role", "ids")
    )
    kind = row["action"]
    expires_at = None if row["expires_at"] is None else parse_timestamp(row["expires_at"])
    sinks = tuple(map(_ReportedAddress, row["sinks"]))
    place = None if row["manifest"] is None else Place(row["manifest"], row["line"])
    # In a result, the error of an action that a plan blocked is the failure of its result.
    blocked = None if "status" in row else read_failure(row.get("error"))
    kind, annotations = row["action"], read_annotations(row)
    if kind == "clean":
        token = ApiKeyToken(ids[0], expires_at)
        sink = _ReportedAddress(row["sink"])
        return Clean(name, reason, token, sink, place, blocked, annotations)
    assert expires_at is not None  # noqa: S101 - every other action is about a key
    if kind == "revoke":
        return Revoke(name, reason, ids[0], expires_at, role, place, blocked, annotations)
    assert place is not None  # noqa: S101 - every other action is of a declared key
    match kind:
        case "create" | "rotate":
            create = Create(
                *(name, "missing", depth, expires_at, "", role, None, place, sinks),
                *(blocked, annotations),
            )
            if kind == "rotate":
                return Rotate(reason, create, tuple(ids), at_once)
            return create._replace(reason=reason)
        case "rename":
            return Rename(
                *(name, row["old_name"], reason, depth, expires_at, role, ids[0], place),
                *(blocked, annotations),
            )
        case "deliver":
            return Deliver(
                *(name, reason, depth, expires_at, role, ids[0], sinks, place),
                *(blocked, annotations),
            )
        case _:
            changes = tuple(Change(one["what"], one["from"], one["to"]) for one in row["changes"])
            sets_expiry = any(one.field == "expires" for one in changes)
            return Update(
                *(name, "drift", depth, expires_at, role, ids[0], changes, sets_expiry),
                *(None, place, sinks, blocked, annotations),
            )


def _result(action: Action, row: Json, more: Json) -> Result:
    failure, id_, record = read_failure(row["error"]), row["id"], row["record"]
    if failure is None:
        if _made_elsewhere(row, more) and isinstance(action, Create | Rotate):
            return CreatedByAnotherRun(action, id_, record)
        return Done(action, id_, record)
    if row["status"] == "skipped":
        return Skipped(action, failure)
    if id_ is not None and isinstance(action, Create | Rotate | Update):
        return Unfinished(
            action, id_, record, failure, more["made"], delivered=not more["undelivered"]
        )
    return Failed(action, failure)


def _made_elsewhere(row: Json, more: Json) -> bool:
    creates = row["action"] in {"create", "rotate"}
    return creates and row["status"] == "done" and not more["made"]


def _finding(entry: Json) -> ReportedFinding:
    return ReportedFinding(
        entry["finding"],
        entry["name"],
        tuple(entry["ids"]),
        entry["message"],
        entry.get("from"),
        entry.get("to"),
    )
