"""The text of a plan file to values; what is none, or is damaged, is a failure with its reason."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from provisioner.manifests.schema import published
from provisioner.model.expiry import format_moment, parse_moment
from provisioner.plan import sealed
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

MOST_BYTES = 128 * 2**20
"""How large a plan file may be: some 500 000 keys."""

_FAMILY = "provision/planfile/"
_APART = timedelta(minutes=1)
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class UnreadablePlanFile:
    """Why a text is no plan file that can be used.

    Attributes:
        why: what is wrong with it, as it follows on its name.
        remedy: what to do about it.
    """

    code: Literal["plan_invalid", "plan_newer"]
    why: str
    remedy: str


_ANEW = "Write it anew with `provision plan --out`."


@gc_paused()
def read(data: bytes, now: datetime) -> PlanFile | UnreadablePlanFile:
    """Takes in a plan file.

    Args:
        data: the whole file.
        now: which the moment of the plan cannot be after, but for clocks that differ.
    """
    try:
        content = _content(data)
    except RecursionError:
        return UnreadablePlanFile("plan_invalid", "is no plan file: it is nested too deeply", _ANEW)
    if isinstance(content, UnreadablePlanFile):
        return content
    file = parsed(content)
    if file.created_at > now + _APART:
        moment = format_moment(file.created_at)
        why = f"says that it was made at {moment}, which has not come yet"
        return UnreadablePlanFile(
            "plan_invalid", why, "Set the clock that is wrong, and plan anew."
        )
    return file


_SMALL = 2**20
_BEGINNING = b'{"format": "provision/planfile/'
"""How every file begins that is worth being read whole; of a small one more can be said."""


def _content(data: bytes) -> dict[str, Any] | UnreadablePlanFile:
    """The JSON object of a plan file that is whole and keeps to the schema."""
    if len(data) > _SMALL and not data.startswith(_BEGINNING):
        return UnreadablePlanFile("plan_invalid", "is no plan file", _ANEW)
    try:
        content = json.loads(data.decode("utf-8-sig"), parse_constant=_refused)
    except ValueError:
        return UnreadablePlanFile("plan_invalid", "is no plan file: it is not JSON", _ANEW)
    format_ = content.get("format") if isinstance(content, dict) else None
    if not isinstance(format_, str) or not format_.startswith(_FAMILY):
        told = " but what `plan --format json` prints" if format_ == "provision/plan/v1" else ""
        return UnreadablePlanFile("plan_invalid", f"is no plan file{told}", _ANEW)
    if format_ != FORMAT:
        shown = format_[:_LONGEST]
        remedy = "Use that version to apply it, or write it anew with this one."
        return UnreadablePlanFile(
            "plan_newer", f"was written by another version, as {shown}", remedy
        )
    claimed = content.pop("checksum", None)
    if claimed != sealed(content):
        return UnreadablePlanFile(
            "plan_invalid", "was changed or damaged since it was written", _ANEW
        )
    content["checksum"] = claimed
    schema = published("planfile")
    return content if schema.check()(content) else _damaged(content, schema)


def _damaged(content: dict[str, Any], schema: Schema) -> UnreadablePlanFile:
    error = next(schema.errors(content))
    where = "/".join(map(str, error.absolute_path)) or "the top"
    why = f"is damaged: {where[:_LONGEST]} breaks the rule {error.validator!r} of its schema"
    return UnreadablePlanFile("plan_invalid", why, _ANEW)


def parsed(document: Document) -> PlanFile:
    """The values of a document that keeps to the schema."""
    return _parsed(document)


def _parsed(document: dict[str, Any]) -> PlanFile:
    options = document["options"]
    return PlanFile(
        created_at=parse_moment(document["created_at"]),
        version=document["version"],
        digest=document["digest"],
        asked=SavedOptions(
            environments=tuple(options["environments"] or ()),
            only=tuple(options["only"]),
            prune=options["prune"],
            dedupe=options["dedupe"],
            redeliver=options["redeliver"],
            max_revoke=None if options["max_revoke"] is None else int(options["max_revoke"]),
            allow_protected=options["allow_protected"],
        ),
        environments=tuple(map(_reviewed, document["environments"])),
    )


def _reviewed(entry: dict[str, Any]) -> SavedEnvironment:
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
        desired=tuple(map(_wanted, entry["desired"])),
        observed=tuple(SavedObserved(**key) for key in entry["observed"]),
        actions=tuple(map(_doing, entry["actions"])),
    )


def _wanted(key: dict[str, Any]) -> SavedKey:
    sinks = tuple(json.dumps(sink, sort_keys=True) for sink in key["sinks"])
    return SavedKey(**{**key, "sinks": sinks})


def _doing(action: dict[str, Any]) -> SavedAction:
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


def _refused(name: str) -> object:
    raise ValueError(name)
