"""Parsing of plan files; a text that is not a valid one gives a value with the reason."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from provisioner.errors.codes import Code
from provisioner.manifests.schema import published
from provisioner.model.expiry import format_timestamp, parse_timestamp
from provisioner.plan import json_digest
from provisioner.planfile.model import (
    PlanFile,
    SavedAction,
    SavedEnvironment,
    SavedKey,
    SavedObserved,
    SavedOptions,
)
from provisioner.planfile.write import FORMAT
from provisioner.runtime.gc_pause import gc_paused

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.manifests.schema import Schema
    from provisioner.planfile.model import Document

MAX_BYTES = 128 * 2**20
"""The largest size of a plan file: about 500 000 keys."""

_FAMILY = "provision/planfile/"
_CLOCK_TOLERANCE = timedelta(minutes=1)
_MAX_LENGTH = 200


@dataclass(frozen=True, slots=True)
class UnreadablePlanFile:
    """The reason why a text is not a usable plan file.

    Attributes:
        problem: the rest of a sentence that starts with the name of the file.
        remedy: what to do about it.
    """

    code: Literal[Code.PLAN_INVALID, Code.PLAN_NEWER]
    problem: str
    remedy: str


_WRITE_AGAIN = "Create it again with `provision plan --out`."


@gc_paused()
def read(data: bytes, now: datetime) -> PlanFile | UnreadablePlanFile:
    """Parse a plan file.

    Args:
        data: the content of the file.
        now: the current time; apart from differing clocks, no plan is later than that.
    """
    try:
        content = _content(data)
    except RecursionError:
        return UnreadablePlanFile(
            Code.PLAN_INVALID, "is not a plan file: it is nested too deeply", _WRITE_AGAIN
        )
    if isinstance(content, UnreadablePlanFile):
        return content
    file = parse_document(content)
    if file.created_at > now + _CLOCK_TOLERANCE:
        problem = f"was created at {format_timestamp(file.created_at)}, which is in the future"
        return UnreadablePlanFile(
            Code.PLAN_INVALID, problem, "Correct the clock that is wrong, and plan again."
        )
    return file


_SMALL_FILE = 2**20
_FIRST_BYTES = b'{"format": "provision/planfile/'
"""The first bytes of a plan file; a file without them is parsed only if it is small."""


def _content(data: bytes) -> dict[str, Any] | UnreadablePlanFile:
    """Return the JSON object of a plan file, after checking its checksum and schema."""
    if len(data) > _SMALL_FILE and not data.startswith(_FIRST_BYTES):
        return UnreadablePlanFile(Code.PLAN_INVALID, "is not a plan file", _WRITE_AGAIN)
    try:
        content = json.loads(data.decode("utf-8-sig"), parse_constant=_reject_constant)
    except ValueError:
        return UnreadablePlanFile(
            Code.PLAN_INVALID, "is not a plan file: it is not JSON", _WRITE_AGAIN
        )
    format_ = content.get("format") if isinstance(content, dict) else None
    if not isinstance(format_, str) or not format_.startswith(_FAMILY):
        printed = format_ == "provision/plan/v1"
        detail = " but the output of `plan --format json`" if printed else ""
        return UnreadablePlanFile(Code.PLAN_INVALID, f"is not a plan file{detail}", _WRITE_AGAIN)
    if format_ != FORMAT:
        shown = format_[:_MAX_LENGTH]
        remedy = "Apply it with that version, or create it again with this one."
        return UnreadablePlanFile(
            Code.PLAN_NEWER, f"was written by another version, in the format {shown}", remedy
        )
    checksum = content.pop("checksum", None)
    if checksum != json_digest(content):
        return UnreadablePlanFile(
            Code.PLAN_INVALID, "was changed or damaged after it was written", _WRITE_AGAIN
        )
    content["checksum"] = checksum
    schema = published("planfile")
    return content if schema.check()(content) else _damaged(content, schema)


def _damaged(content: dict[str, Any], schema: Schema) -> UnreadablePlanFile:
    error = next(schema.errors(content))
    where = "/".join(map(str, error.absolute_path)) or "the top level"
    problem = (
        f"is damaged: {where[:_MAX_LENGTH]} violates the {error.validator!r} rule of its schema"
    )
    return UnreadablePlanFile(Code.PLAN_INVALID, problem, _WRITE_AGAIN)


def parse_document(document: Document) -> PlanFile:
    """Return a document that follows the schema as values."""
    return _parsed(document)


def _parsed(document: dict[str, Any]) -> PlanFile:
    options = document["options"]
    return PlanFile(
        created_at=parse_timestamp(document["created_at"]),
        version=document["version"],
        digest=document["digest"],
        options=SavedOptions(
            environments=tuple(options["environments"] or ()),
            only=tuple(options["only"]),
            prune=options["prune"],
            dedupe=options["dedupe"],
            redeliver=options["redeliver"],
            max_revoke=None if options["max_revoke"] is None else int(options["max_revoke"]),
            allow_protected=options["allow_protected"],
        ),
        environments=tuple(map(_environment, document["environments"])),
    )


def _environment(entry: dict[str, Any]) -> SavedEnvironment:
    return SavedEnvironment(
        name=entry["environment"],
        url=entry["url"],
        error=entry["error"] and entry["error"]["code"],
        generation=entry["generation"],
        workspace=entry["workspace"],
        observed_at=entry["observed_at"],
        owns=tuple(entry["owns"]),
        role=entry["role"],
        roles=entry["roles"],
        desired=tuple(map(_desired_key, entry["desired"])),
        observed=tuple(SavedObserved(**key) for key in entry["observed"]),
        actions=tuple(map(_action, entry["actions"])),
    )


def _desired_key(key: dict[str, Any]) -> SavedKey:
    sinks = tuple(json.dumps(sink, sort_keys=True) for sink in key["sinks"])
    return SavedKey(**{**key, "sinks": sinks})


def _action(action: dict[str, Any]) -> SavedAction:
    kind = action["action"]
    sets = {"expires", "role"} - ({"role"} if kind == "deliver" else set())
    if kind == "update":
        sets = {one["what"] for one in action["changes"]}
    return SavedAction(
        kind=kind,
        name=action["name"],
        ids=tuple(sorted(action["ids"])),
        expires_at=action["expires_at"] if "expires" in sets else None,
        role=action["role"] if "role" in sets else None,
        sinks=tuple(sorted(action["sinks"])),
        error=action["error"]["code"] if "error" in action else None,
        reason=action["reason"],
    )


def _reject_constant(name: str) -> object:
    raise ValueError(name)
