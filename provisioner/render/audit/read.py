"""The audit of an environment, read back from the JSON of a shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from provisioner.audit.key_audit import EnvironmentAudit, KeyAudit
from provisioner.model.expiry import parse_timestamp
from provisioner.plan import Unobserved
from provisioner.render.outcome.read import read_annotations, read_failure

if TYPE_CHECKING:
    from collections.abc import Mapping

    Json = Mapping[str, Any]


def read_audit(entry: Json) -> EnvironmentAudit | Unobserved:
    """Return the audit of an environment, from its entry by the schema `report`."""
    failure = read_failure(entry["error"])
    if failure is not None:
        return Unobserved(entry["environment"], entry["url"], failure)
    return EnvironmentAudit(
        environment=entry["environment"],
        url=entry["url"],
        generation=entry["generation"],
        server_time=parse_timestamp(entry["server_time"]),
        keys=tuple(map(_key, entry["keys"])),
        missing=tuple(entry["missing"]),
    )


def _key(entry: Json) -> KeyAudit:
    rotation = entry["rotation_at"]
    return KeyAudit(
        name=entry["name"],
        id=entry["id"],
        created_at=parse_timestamp(entry["created_at"]),
        expires_at=parse_timestamp(entry["expires_at"]),
        age_days=entry["age_days"],
        days_left=entry["days_left"],
        role=entry["role"],
        declared=entry["state"] == "declared",
        delivery=entry["delivered"],
        rotation=None if rotation is None else parse_timestamp(rotation),
        notes=tuple(entry["notes"]),
        annotations=read_annotations(entry),
    )
