"""The words that all forms of the report share."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from provisioner.errors.pluralize import pluralize

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from provisioner.audit.key_audit import FleetAudit, KeyAudit, Note

NOTE_MEANINGS: Mapping[Note, str] = {
    "expiring": "ends soon, and nothing later takes its place",
    "rotation_due": "is to have a successor: the next apply makes it",
    "never_expires": "ends more than 50 years from now",
    "too_long": "lives longer than its environment's policy allows",
    "duplicate": "shares its declared name with another live key",
    "superseded": "a rotation has given it a successor: an apply ends it when the overlap is over",
    "unmanaged": "no manifest lists its name",
    "undelivered": "a sink lacks its token: the next apply delivers one",
    "delivery_unknown": "nothing tells whether its token is in every sink",
    "shared_admin": "its name may do everything in several environments",
}
"""What is true of a key with each note."""


def format_duration(duration: timedelta) -> str:
    """A duration in words: `14 days`, `36 hours`."""
    hours = duration // timedelta(hours=1)
    return pluralize(hours, "hour") if hours % 24 else pluralize(hours // 24, "day")


def format_date(moment: datetime) -> str:
    """The date of a moment in UTC."""
    return moment.date().isoformat()


def note_label(note: Note) -> str:
    """A note as people read it."""
    return note.replace("_", " ")


def days_left(key: KeyAudit) -> str:
    """How long a key has to live: `12 d`, or `never` ending."""
    return "never" if "never_expires" in key.notes else f"{key.left} d"


def summary_parts(audit: FleetAudit) -> tuple[str, ...]:
    """How many keys there are, and how many need to be looked at, most urgent first."""
    keys = sum(len(one.keys) for one in audit.observed)
    parts = [
        f"{pluralize(keys, 'key')} in {pluralize(len(audit.observed), 'environment')}",
        f"{audit.due} due within {format_duration(audit.within)}",
    ]
    parts += [f"{audit.missing} missing"] if audit.missing else []
    if audit.unobserved:
        parts.append(f"{pluralize(len(audit.unobserved), 'environment')} not reached")
    return tuple(parts)
