"""The JSON of shards: what each says in addition, and one outcome out of those of all shards."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

from provisioner.audit.check import Check, Diagnosis
from provisioner.audit.key_audit import EnvironmentAudit, FleetAudit, note_shared_admins
from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.errors.problem import Place, Problem
from provisioner.execution import Executed, RunResult, created_by_this_run, undelivered
from provisioner.manifests.schema import published
from provisioner.model.expiry import parse_timestamp
from provisioner.model.shard import Shard
from provisioner.plan import Plan, Planned, Rotate, Unobserved, digest_content, digest_of
from provisioner.render.audit.read import read_audit
from provisioner.render.doctor import read_diagnosis
from provisioner.render.outcome.read import read_failure, read_plan, read_result
from provisioner.render.outcome.rows import rows_of
from provisioner.runtime.gc_pause import gc_paused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from provisioner.plan import EnvironmentPlan
    from provisioner.render.json import Document
    from provisioner.render.report import ShardLabel

    Json = Mapping[str, Any]

Kind = Literal["plan", "result", "report", "doctor"]
"""The kinds of JSON that have a shard: `provision/KIND/v1`, which follows the schema `KIND`."""

_READ: tuple[Kind | Literal["problems"], ...] = (*get_args(Kind), "problems")

_MAX_REASONS = 5
"""Refusals that one message lists."""


def labelled(
    document: Document, label: ShardLabel, outcome: Plan | RunResult | FleetAudit | None = None
) -> Document:
    """Return a document with its shard, and with what `provision merge` needs for each environment.

    Args:
        document: the document without them.
        label: the shard.
        outcome: the plan or the result that the document shows, if it shows one.
    """
    # Each document is JSON, whose schema says that this is a list of objects.
    entries = cast("list[Document]", document["environments"])
    merge: list[Document] = [
        {"position": label.positions[str(entry["environment"])]} for entry in entries
    ]
    if isinstance(outcome, Plan | RunResult):
        for part, needed in zip(outcome.environments, merge, strict=True):
            needed.update(_needed(part, label))
    return document | {"shard": str(label.shard), "merge": merge}


def _needed(part: EnvironmentPlan | Executed, label: ShardLabel) -> Document:
    planned = part.planned if isinstance(part, Executed) else part
    desired = label.desired.get(planned.environment, ())
    needed: Document = {
        "notes": [] if isinstance(planned, Unobserved) else list(planned.notes),
        "content": digest_content(planned, desired),
    }
    if isinstance(part, Executed):
        needed["results"] = [
            {
                "made": created_by_this_run(result),
                "undelivered": undelivered(result),
                "at_once": isinstance(result.action, Rotate) and result.action.at_once,
            }
            for result in part.results
        ]
    return needed


class _Part(NamedTuple):
    """One environment of a shard.

    Attributes:
        position: its position in environments.yaml, from 0.
        content: what the digest covers of it; None for what has no digest.
    """

    position: int
    value: Planned | Executed | EnvironmentAudit | Diagnosis | Unobserved
    content: object = None


class ShardOutput(NamedTuple):
    """The output of one shard, as values.

    Attributes:
        created_at: its time; None for a diagnosis.
        within: the time of the note `expiring`; zero if it is not an audit.
        refusal: why a guard refused it; None if none did.
    """

    shard: Shard
    kind: Kind
    created_at: datetime | None
    within: timedelta
    refusal: Failure | None
    parts: tuple[_Part, ...]


class UnreadableShard(NamedTuple):
    """The reason why a text is not the output of a shard.

    Attributes:
        problem: the rest of a sentence that starts with the name of the file.
        cut_off: whether the run ended before it wrote all of it, so that its shard is missing.
    """

    problem: str
    cut_off: bool = False


@gc_paused()
def read_shard(  # noqa: PLR0911 - one for each reason
    data: bytes,
) -> ShardOutput | tuple[Problem, ...] | UnreadableShard:
    """Return the output of a shard, or the problems that it has printed instead."""
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        problem = "is incomplete: it is not JSON" if data.strip() else "is empty"
        return UnreadableShard(f"{problem}, so its run ended early", cut_off=True)
    format_ = document.get("format") if isinstance(document, dict) else None
    kind = next((one for one in _READ if format_ == f"provision/{one}/v1"), None)
    if kind is None:
        return UnreadableShard("is not a plan, a result, a report or a diagnosis")
    if not published(kind).check()(document):
        return UnreadableShard("does not follow its schema: another version may have written it")
    if kind != "problems" and "shard" not in document:
        return UnreadableShard("is of a run without --shard")
    try:
        if kind == "problems":
            return tuple(map(_problem, document["problems"]))
        return _output(kind, document)
    except (LookupError, ValueError):
        return UnreadableShard("was changed, or another version has written it")


def _problem(entry: Json) -> Problem:
    place = Place(entry["file"], entry["line"], entry["column"])
    return Problem(place, Code(entry["code"]), entry["message"])


def _output(kind: Kind, document: Json) -> ShardOutput:
    pairs = zip(document["environments"], document["merge"], strict=True)
    created_at = document.get("created_at")
    return ShardOutput(
        Shard.parse(document["shard"]),
        kind,
        None if created_at is None else parse_timestamp(created_at),
        timedelta(hours=document.get("within_hours", 0)),
        read_failure(document.get("refusal")),
        tuple(_part(kind, entry, merge) for entry, merge in pairs),
    )


def _part(kind: Kind, entry: Json, merge: Json) -> _Part:
    position = merge["position"]
    match kind:
        case "plan":
            return _Part(position, read_plan(entry, merge), merge["content"])
        case "result":
            return _Part(position, read_result(entry, merge), merge["content"])
        case "report":
            return _Part(position, read_audit(entry))
        case "doctor":
            return _Part(position, read_diagnosis(entry))


def conflict(shards: Sequence[ShardOutput]) -> str | None:
    """Return why outputs are not the shards of one run, as a sentence; None if they are."""
    first = shards[0]
    for one in shards:
        if one.kind != first.kind:
            return f"One file is provision/{first.kind}/v1, and another provision/{one.kind}/v1."
        if one.shard.total != first.shard.total:
            return f"One file is shard {first.shard}, and another is shard {one.shard}."
        if one.within != first.within:
            return "The reports have different values of --expiring-within."
    shard, files = Counter(one.shard for one in shards).most_common(1)[0]
    if files > 1:
        return f"Several files are shard {shard}."
    parts = [part for one in shards for part in one.parts]
    names = Counter(_name(part) for part in parts)
    positions = Counter(part.position for part in parts)
    if parts and max(*names.values(), *positions.values()) > 1:
        return "The files have the same environment, or are of different environments.yaml."
    return None


def _name(part: _Part) -> str:
    value = part.value
    return value.planned.environment if isinstance(value, Executed) else value.environment


class Merged(NamedTuple):
    """One outcome out of those of shards.

    Attributes:
        outcome: the plan, the result, the audit, or the diagnoses. A missing shard is in it as an
            environment that was not observed.
        refusal: the reasons of the shards that were refused; None if none was.
        missing: the shards whose output is missing.
    """

    outcome: Plan | RunResult | FleetAudit | tuple[Diagnosis, ...]
    refusal: Failure | None
    missing: tuple[Shard, ...]


@gc_paused()
def merge(shards: Sequence[ShardOutput], now: datetime) -> Merged:
    """Return one outcome, with the environments in the order of environments.yaml.

    Args:
        shards: the outputs of the shards of one run, at least one.
        now: the time of an outcome whose shards have none.
    """
    found, total = {one.shard for one in shards}, shards[0].shard.total
    every = (Shard(number, total) for number in range(1, total + 1))
    missing = tuple(shard for shard in every if shard not in found)
    parts = sorted((part for one in shards for part in one.parts), key=lambda part: part.position)
    created_at = min((one.created_at for one in shards if one.created_at), default=now)
    digest = digest_of(part.content for part in parts)
    values = [part.value for part in parts]
    lost = tuple(Unobserved(f"shard {shard}", "", _missing(shard)) for shard in missing)
    outcome: Plan | RunResult | FleetAudit | tuple[Diagnosis, ...]
    match shards[0].kind:
        case "plan":
            plans = tuple(one for one in values if isinstance(one, Planned | Unobserved))
            outcome = Plan(created_at, digest, plans + lost)
        case "result":
            results = tuple(one for one in values if isinstance(one, Executed | Unobserved))
            outcome = RunResult(created_at, digest, results + lost)
        case "report":
            audits = tuple(one for one in values if isinstance(one, EnvironmentAudit | Unobserved))
            outcome = note_shared_admins(FleetAudit(created_at, shards[0].within, audits + lost))
        case "doctor":
            outcome = (
                *(one for one in values if isinstance(one, Diagnosis)),
                *(
                    Diagnosis(one.environment, "", None, (Check.failed("reached", one.failure),))
                    for one in lost
                ),
            )
    return Merged(outcome, _refusal(shards), missing)


def _missing(shard: Shard) -> Failure:
    return Failure(
        Code.SHARD_MISSING,
        f"The output of shard {shard} is missing, with all of its environments.",
        remedy=f"Run it again with --shard {shard}.",
    )


def _refusal(shards: Sequence[ShardOutput]) -> Failure | None:
    """Return one failure for all refusals, with the first one's code."""
    refused = [(one.shard, one.refusal) for one in shards if one.refusal is not None]
    if not refused:
        return None
    texts = [f"Shard {shard} was refused: {failure.text}" for shard, failure in refused]
    more = len(texts) - _MAX_REASONS
    texts = [*texts[:_MAX_REASONS], *([f"And {more} more shards."] if more > 0 else [])]
    return Failure(refused[0][1].code, " ".join(texts))


def failures(outcome: Plan | RunResult | FleetAudit) -> Iterator[Failure]:
    """Yield the failures of environments and actions."""
    for part in outcome.environments:
        if isinstance(part, Unobserved):
            yield part.failure
        elif isinstance(part, Planned | Executed):
            yield from (row.failure for row in rows_of(part) if row.failure is not None)
