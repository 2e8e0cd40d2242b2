"""The JSON of shards: what each says in addition, and one outcome out of those of all shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from provisioner.execution import Executed, RunResult, created_by_this_run, undelivered
from provisioner.plan import Plan, Rotate, Unobserved, digest_content

if TYPE_CHECKING:
    from provisioner.audit.key_audit import FleetAudit
    from provisioner.plan import EnvironmentPlan
    from provisioner.render.json import Document
    from provisioner.render.report import ShardLabel


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
