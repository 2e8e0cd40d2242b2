"""Parsing of plan files; a text that is not a valid one gives a value with the reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from provisioner.errors.codes import Code
from provisioner.manifests.schema import published
from provisioner.model.expiry import CLOCK_TOLERANCE, format_timestamp, parse_timestamp
from provisioner.model.shard import Shard
from provisioner.plan import GuardOverrides, PlanOptions, json_digest
from provisioner.planfile.model import PlanFile
from provisioner.planfile.write import FIRST_BYTES, FORMAT
from provisioner.runtime.gc_pause import gc_paused

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.planfile.model import Document

MAX_BYTES = 128 * 2**20
"""The largest size of a plan file: about 500 000 keys."""

_FAMILY = "provision/planfile/"
_SMALL_FILE = 2**20
"""The size up to which a file is parsed that does not start like a plan file."""

_MAX_LENGTH = 200


class UnreadablePlanFile(NamedTuple):
    """The reason why a text is not a usable plan file.

    Attributes:
        problem: the rest of a sentence that starts with the name of the file.
        remedy: what to do about it.
    """

    problem: str
    remedy: str = "Create it again with `provision plan --out`."
    code: Literal[Code.PLAN_INVALID, Code.PLAN_NEWER] = Code.PLAN_INVALID


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
        return UnreadablePlanFile("is not a plan file: it is nested too deeply")
    if isinstance(content, UnreadablePlanFile):
        return content
    try:
        file = parse_document(content)
    except ValueError as error:
        return UnreadablePlanFile(f"is damaged: {error}")
    if file.created_at > now + CLOCK_TOLERANCE:
        return UnreadablePlanFile(
            f"was created at {format_timestamp(file.created_at)}, which is in the future",
            "Correct the clock that is wrong, and plan again.",
        )
    return file


def _content(data: bytes) -> dict[str, Any] | UnreadablePlanFile:
    """Return the JSON object of a plan file."""
    if len(data) > _SMALL_FILE and not data.startswith(FIRST_BYTES):
        return UnreadablePlanFile("is not a plan file")
    try:
        content = json.loads(data.decode("utf-8-sig"), parse_constant=_reject_constant)
    except ValueError:
        return UnreadablePlanFile("is not a plan file: it is not JSON")
    format_ = content.get("format") if isinstance(content, dict) else None
    if not isinstance(format_, str) or not format_.startswith(_FAMILY):
        printed = format_ == "provision/plan/v1"
        detail = " but the output of `plan --format json`" if printed else ""
        return UnreadablePlanFile(f"is not a plan file{detail}")
    if format_ != FORMAT:
        return UnreadablePlanFile(
            f"was written by another version, in the format {format_[:_MAX_LENGTH]}",
            "Apply it with that version, or create it again with this one.",
            Code.PLAN_NEWER,
        )
    return _validated(content)


def _validated(content: dict[str, Any]) -> dict[str, Any] | UnreadablePlanFile:
    """Return the content if it has the right checksum and follows the schema."""
    checksum = content.pop("checksum", None)
    if checksum != json_digest(content):
        return UnreadablePlanFile("was changed or damaged after it was written")
    content["checksum"] = checksum
    schema = published("planfile")
    if schema.check()(content):
        return content
    error = next(schema.errors(content))
    where = "/".join(map(str, error.absolute_path)) or "the top level"
    return UnreadablePlanFile(
        f"is damaged: {where[:_MAX_LENGTH]} violates the {error.validator!r} rule of its schema"
    )


def parse_document(document: Document) -> PlanFile:
    """Return a document that follows the schema as values."""
    content = cast("dict[str, Any]", document)
    options = content["options"]
    max_revoke = options["max_revoke"]
    return PlanFile(
        created_at=parse_timestamp(content["created_at"]),
        version=content["version"],
        digest=content["digest"],
        selected=tuple(options["environments"] or ()),
        options=PlanOptions(
            only=tuple(options["only"]),
            prune=options["prune"],
            dedupe=options["dedupe"],
            clean=options.get("clean", False),
            redeliver=options["redeliver"],
        ),
        overrides=GuardOverrides(
            max_revoke=None if max_revoke is None else int(max_revoke),
            allow_protected=options["allow_protected"],
        ),
        environments={entry["environment"]: entry for entry in content["environments"]},
        shard=Shard.parse(options["shard"]) if "shard" in options else None,
        previous=options.get("previous"),
    )


def _reject_constant(name: str) -> object:
    raise ValueError(name)
