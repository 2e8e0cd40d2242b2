"""A calendar of expiries for the audit of live keys, by RFC 5545."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from provisioner import __version__
from provisioner.audit.key_audit import DUE_NOTES, EnvironmentAudit, FleetAudit
from provisioner.render.audit.rows import NOTE_MEANINGS, describe_key, summary_parts
from provisioner.render.text import visible
from provisioner.secret import MIN_DATA_LENGTH, masked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from provisioner.audit.key_audit import KeyAudit
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette

_MAX_LINE_BYTES = 75
_ESCAPES = str.maketrans({"\\": r"\\", ";": r"\;", ",": r"\,", "\n": r"\n"})


class _Entry(NamedTuple):
    """What the calendar says about a key.

    Attributes:
        kind: the category.
        at: the time of the event.
        summary: its title.
        alarm: whether people have to act before it.
    """

    kind: str
    at: datetime
    summary: str
    alarm: bool


def render(report: ReportInput, _: Palette) -> str:
    """Return the calendar of an audit.

    It has an event for each live key except those that never expire, and one journal entry, because
    a calendar must have at least one component. Calendars do not show journal entries as events.
    """
    audit = report.outcome
    if not isinstance(audit, FleetAudit):
        raise TypeError
    # A secret that two lines share would not be found afterwards.
    text = masked("\n".join(_calendar(audit)), min_length=MIN_DATA_LENGTH)
    return "".join(map(_folded, text.split("\n")))


def _calendar(audit: FleetAudit) -> Iterator[str]:
    stamp = f"DTSTAMP:{_time(audit.created_at)}"
    yield "BEGIN:VCALENDAR"
    yield "VERSION:2.0"
    yield f"PRODID:-//twenty-provisioner//provision {__version__}//EN"
    yield "CALSCALE:GREGORIAN"
    yield "METHOD:PUBLISH"
    yield "NAME:API keys"
    yield "X-WR-CALNAME:API keys"  # the same, for calendars that are older than RFC 7986
    yield "REFRESH-INTERVAL;VALUE=DURATION:P1D"
    yield from _journal(audit, stamp)
    for one in audit.observed:
        for key in one.keys:
            if "never_expires" not in key.notes:
                yield from _event(one, key, stamp, audit.within)
    yield "END:VCALENDAR"


def _journal(audit: FleetAudit, stamp: str) -> Iterator[str]:
    """Yield the journal entry, which says what was read and what could not be."""
    names = [one.environment for one in audit.environments]
    failures = [f"{one.environment}: {one.failure.text}" for one in audit.unobserved]
    yield "BEGIN:VJOURNAL"
    yield _uid("report", *names)
    yield stamp
    yield f"DTSTART:{_time(audit.created_at)}"
    yield _text("SUMMARY", f"API keys: {', '.join(summary_parts(audit))}")
    if failures:
        yield _text("DESCRIPTION", *failures)
    yield "END:VJOURNAL"


def _event(
    environment: EnvironmentAudit, key: KeyAudit, stamp: str, before: timedelta
) -> Iterator[str]:
    kind, at, summary, alarm = _entry(environment.environment, key)
    row = describe_key(key)
    yield "BEGIN:VEVENT"
    yield _uid("key", environment.environment, key.id)
    yield stamp
    yield f"DTSTART:{_time(at)}"
    yield _text("SUMMARY", summary)
    yield _text(
        "DESCRIPTION",
        f"Environment: {environment.environment}",
        f"Id: {row.id}",
        f"Expires: {row.expires}",
        f"Role: {row.role}",
        f"Delivered: {row.delivered}",
        # The date of the event says the others.
        *(f"Note: {NOTE_MEANINGS[note]}" for note in key.notes if note not in DUE_NOTES),
    )
    yield f"URL:{environment.url}"
    yield f"CATEGORIES:{_escaped('API keys')},{kind},{_escaped(environment.environment)}"
    yield "TRANSP:TRANSPARENT"
    if alarm:
        yield "BEGIN:VALARM"
        yield "ACTION:DISPLAY"
        yield _text("DESCRIPTION", summary)
        yield f"TRIGGER:-{_duration(before)}"
        yield "END:VALARM"
    yield "END:VEVENT"


def _entry(environment: str, key: KeyAudit) -> _Entry:
    if key.rotation is not None:
        summary = f"{key.name} rotates ({environment})"
        return _Entry("rotation", key.rotation, summary, alarm=False)
    # A predecessor is let expire, unless a sink still has its token.
    alarm = "superseded" not in key.notes or "expiring" in key.notes
    return _Entry("expiry", key.expires_at, f"{key.name} expires ({environment})", alarm)


def _uid(*parts: str) -> str:
    """Return an id that is the same in every run, so that a calendar recognises what it has."""
    return f"UID:{uuid.uuid5(uuid.NAMESPACE_URL, 'urn:twenty-provisioner:' + '/'.join(parts))}"


def _text(name: str, *lines: str) -> str:
    return f"{name}:{_escaped(*lines)}"


def _escaped(*lines: str) -> str:
    return "\n".join(map(visible, lines)).translate(_ESCAPES)


def _time(time: datetime) -> str:
    return f"{time:%Y%m%dT%H%M%SZ}"


def _duration(duration: timedelta) -> str:
    hours = duration // timedelta(hours=1)
    return f"PT{hours}H" if hours % 24 else f"P{hours // 24}D"


def _folded(line: str) -> str:
    """Return a content line in parts of at most 75 octets, none of which splits a character."""
    data = line.encode()
    parts, start, width = [], 0, _MAX_LINE_BYTES
    while len(data) - start > width:
        end = start + width
        while data[end] & 0xC0 == 0x80:  # noqa: PLR2004 - inside a character
            end -= 1
        parts.append(data[start:end])
        start, width = end, _MAX_LINE_BYTES - 1  # a space comes first
    parts.append(data[start:])
    return b"\r\n ".join(parts).decode() + "\r\n"
