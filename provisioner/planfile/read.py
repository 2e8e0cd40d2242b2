"""The text of a plan file to values; what is none, or is damaged, is a failure with its reason."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from provisioner.manifests.schema import published
from provisioner.model.expiry import format_moment, parse_moment
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
from provisioner.runtime.gc_pause import without_collector

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.manifests.schema import Schema
    from provisioner.planfile.model import Document

MAX_BYTES = 128 * 2**20
"""How large a plan file may be: some 500 000 keys."""

_FAMILY = "provision/planfile/"
_CLOCK_TOLERANCE = timedelta(minutes=1)
_MAX_LENGTH = 200


@dataclass(frozen=True, slots=True)
class UnreadablePlanFile:
    """Why a text is no plan file that can be used.

    Attributes:
        why: what is wrong with it, as it follows on its name.
        remedy: what to do about it.
    """

    code: Literal["plan_invalid", "plan_newer"]
    problem: str
    remedy: str


_WRITE_AGAIN = "Write it anew with `provision plan --out`."


@without_collector()
def read(data: bytes, now: datetime) -> PlanFile | UnreadablePlanFile:
    """Takes in a plan file.

    Args:
        data: the whole file.
        now: which the moment of the plan cannot be after, but for clocks that differ.
    """
    try:
        content = _content(data)
    except RecursionError:
        return UnreadablePlanFile(
            "plan_invalid", "is no plan file: it is nested too deeply", _WRITE_AGAIN
        )
    if isinstance(content, UnreadablePlanFile):
        return content
    file = parse_document(content)
    if file.created_at > now + _CLOCK_TOLERANCE:
        moment = format_moment(file.created_at)
        why = f"says that it was made at {moment}, which has not come yet"
        return UnreadablePlanFile(
            "plan_invalid", why, "Set the clock that is wrong, and plan anew."
        )
    return file


_SMALL_FILE = 2**20
_FIRST_BYTES = b'{"format": "provision/planfile/'
"""How every file begins that is worth being read whole; of a small one more can be said."""


def _content(data: bytes) -> dict[str, Any] | UnreadablePlanFile:
    """The JSON object of a plan file that is whole and keeps to the schema."""
    if len(data) > _SMALL_FILE and not data.startswith(_FIRST_BYTES):
        return UnreadablePlanFile("plan_invalid", "is no plan file", _WRITE_AGAIN)
    try:
        content = json.loads(data.decode("utf-8-sig"), parse_constant=_reject_constant)
    except ValueError:
        return UnreadablePlanFile("plan_invalid", "is no plan file: it is not JSON", _WRITE_AGAIN)
    format_ = content.get("format") if isinstance(content, dict) else None
    if not isinstance(format_, str) or not format_.startswith(_FAMILY):
        told = " but what `plan --format json` prints" if format_ == "provision/plan/v1" else ""
        return UnreadablePlanFile("plan_invalid", f"is no plan file{told}", _WRITE_AGAIN)
    if format_ != FORMAT:
        shown = format_[:_MAX_LENGTH]
        remedy = "Use that version to apply it, or write it anew with this one."
        return UnreadablePlanFile(
            "plan_newer", f"was written by another version, as {shown}", remedy
        )
    claimed = content.pop("checksum", None)
    if claimed != json_digest(content):
        return UnreadablePlanFile(
            "plan_invalid", "was changed or damaged since it was written", _WRITE_AGAIN
        )
    content["checksum"] = claimed
    schema = published("planfile")
    return content if schema.check()(content) else _damaged(content, schema)


def _damaged(content: dict[str, Any], schema: Schema) -> UnreadablePlanFile:
    error = next(schema.errors(content))
    where = "/".join(map(str, error.absolute_path)) or "the top"
    why = f"is damaged: {where[:_MAX_LENGTH]} breaks the rule {error.validator!r} of its schema"
    return UnreadablePlanFile("plan_invalid", why, _WRITE_AGAIN)


def parse_document(document: Document) -> PlanFile:
    """The values of a document that keeps to the schema."""
    return _parsed(document)


def _parsed(document: dict[str, Any]) -> PlanFile:
    options = document["options"]
    return PlanFile(
        created_at=parse_moment(document["created_at"]),
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
    given = {"expires", "role"} - ({"role"} if kind == "deliver" else set())
    if kind == "update":
        given = {one["what"] for one in action["changes"]}
    return SavedAction(
        kind=kind,
        name=action["name"],
        ids=tuple(sorted(action["ids"])),
        expires_at=action["expires_at"] if "expires" in given else None,
        role=action["role"] if "role" in given else None,
        sinks=tuple(sorted(action["sinks"])),
        error=action["error"]["code"] if "error" in action else None,
        reason=action["reason"],
    )


def _reject_constant(name: str) -> object:
    raise ValueError(name)
