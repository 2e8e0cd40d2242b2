"""Descriptions of keys and their notes, which the text, Markdown and HTML of the audit share."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from provisioner.errors.pluralize import pluralize
from provisioner.render.times import UTC_TIMES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from provisioner.audit.key_audit import FleetAudit, KeyAudit, Note
    from provisioner.render.times import Times

NOTE_MEANINGS: Mapping[Note, str] = {
    "expiring": "it expires soon, and no successor replaces it",
    "rotation_due": "it is due for rotation: the next apply creates its successor",
    "never_expires": "it expires more than 50 years from now",
    "too_long": "its lifetime exceeds the policy of its environment",
    "duplicate": "another live key has the same declared name",
    "superseded": "it has a successor: the first apply after the overlap revokes it",
    "unmanaged": "no manifest declares its name",
    "undelivered": "a sink lacks its token: the next apply delivers a new one",
    "delivery_unknown": "it cannot be verified that every sink has its token",
    "shared_admin": "keys with this name have full access in several environments",
}
"""The meaning of each note, as one phrase about the key."""


_HOURS_UNTIL_DAYS = 72


class KeyRow(NamedTuple):
    """The labelled parts of a live key, as every table shows them."""

    name: str
    age: str
    expires: str
    left: str
    role: str
    rotation: str
    sinks: str
    delivered: str
    manifest: str
    id: str
    notes: str


def format_duration(duration: timedelta) -> str:
    """Return a duration in days or hours: `14 days`, `36 hours`."""
    hours = duration // timedelta(hours=1)
    return pluralize(hours, "hour") if hours % 24 else pluralize(hours // 24, "day")


def format_remaining(at: datetime, now: datetime) -> str:
    """Return the time until something happens: `in 31 h`, or `in 90 days` from three days on."""
    # The JSON of a shard has whole seconds.
    hours = (at.replace(microsecond=0) - now.replace(microsecond=0)) // timedelta(hours=1)
    return f"in {hours} h" if hours < _HOURS_UNTIL_DAYS else f"in {hours // 24} days"


def note_label(note: Note) -> str:
    """Return a note with spaces: `rotation due`."""
    return note.replace("_", " ")


def describe_key(key: KeyAudit, times: Times = UTC_TIMES) -> KeyRow:
    """Return the labelled parts of a key."""
    return KeyRow(
        name=key.name,
        age=f"{key.age_days} d",
        expires=times.date(key.expires_at),
        left="never" if "never_expires" in key.notes else f"{key.days_left} d",
        role=key.role or "-",
        rotation="-" if key.rotation is None else times.date(key.rotation),
        sinks=", ".join(key.sinks) or "-",
        delivered="-" if key.delivery == "none" else key.delivery.replace("_", " "),
        manifest="-" if key.place is None else f"{key.place.file}:{key.place.line}",
        id=key.id,
        notes=", ".join(map(note_label, key.notes)),
    )


def summary_parts(audit: FleetAudit) -> tuple[str, ...]:
    """Return the parts of the summary line: the number of keys, due, missing and not reached."""
    parts = [
        f"{pluralize(audit.keys, 'key')} in {pluralize(len(audit.observed), 'environment')}",
        f"{audit.due} due within {format_duration(audit.within)}",
    ]
    parts += [f"{audit.missing} missing"] if audit.missing else []
    if audit.unobserved:
        parts.append(f"{pluralize(len(audit.unobserved), 'environment')} not reached")
    return tuple(parts)
