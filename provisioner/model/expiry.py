"""Timestamps and expiries: RFC 3339 in UTC, dates, durations, `never`.

A timestamp is an aware `datetime` in UTC. Comparisons with a workspace ignore milliseconds,
because each run writes its own milliseconds into the expiry of the keys that it creates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import assert_never

NEVER = timedelta(days=36_500)
"""The lifetime that Twenty's own pages use for "never" (legacy-0.60 `910-list-detect`)."""

EFFECTIVELY_NEVER = timedelta(days=50 * 365)
"""An expiry further away than this means never."""

CLOCK_TOLERANCE = timedelta(minutes=1)
"""The tolerated clock difference: timestamps closer than this have no reliable order."""

_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})", re.ASCII)
_DATE_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?) ?([Zz]|[+-]\d{2}:?\d{2})",
    re.ASCII,
)
_SHORT = re.compile(r"([0-9]+)([hdw])", re.ASCII)
_ISO = re.compile(r"P(?:([0-9]+)W|(?:([0-9]+)D)?(?:T(?:([0-9]+)H)?)?)", re.ASCII)
_HOURS = {"h": 1, "d": 24, "w": 168}
_MAX_HOURS = NEVER // timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ExpiresAt:
    """A fixed expiry, which is compared with the one in the workspace.

    Attributes:
        timestamp: in whole seconds.
        written: the text in the manifest.
    """

    timestamp: datetime
    written: str


@dataclass(frozen=True, slots=True)
class ExpiresAfter:
    """A lifetime, counted from the time of the plan that is applied.

    Attributes:
        lifetime: in whole hours.
        written: the text in the manifest.
    """

    lifetime: timedelta
    written: str


@dataclass(frozen=True, slots=True)
class ExpiresNever:
    """No expiry: 100 years of 365 days, as in Twenty's own pages."""

    written: str = "never"


Expiry = ExpiresAt | ExpiresAfter | ExpiresNever


def resolve_expiry(expiry: Expiry, start: datetime) -> datetime:
    """Return the expiry, in whole seconds, of a key that is created at `start`."""
    match expiry:
        case ExpiresAt(timestamp=timestamp):
            return timestamp
        case ExpiresAfter(lifetime=lifetime):
            return start.replace(microsecond=0) + lifetime
        case ExpiresNever():
            return start.replace(microsecond=0) + NEVER
        case _:
            assert_never(expiry)


@lru_cache(maxsize=4096)
def parse_expiry(text: str) -> Expiry:
    """Parse `2027-06-30`, `2027-06-30T12:00:00Z`, `36h`, `90d`, `12w`, `P90D`, `PT36H`, `never`.

    Raises:
        ValueError: with a sentence that says what to write instead.
    """
    if text == "never":
        return ExpiresNever()
    if text[:1].isdigit() and "-" in text:
        return ExpiresAt(_parse_date(text), text)
    hours = _hours(text)
    if hours is None:
        raise ValueError(
            f"{text!r} is not an expiry: write a date (2027-06-30), a date-time "
            "(2027-06-30T12:00:00Z), hours, days or weeks (36h, 90d, 12w, P90D, PT36H), or never"
        )
    if hours == 0:
        raise ValueError(f"{text!r} is not a lifetime: write at least 1h")
    if hours > _MAX_HOURS:
        raise ValueError(f"{text!r} is longer than 100 years: write never")
    return ExpiresAfter(timedelta(hours=hours), text)


@lru_cache(maxsize=4096)
def parse_duration(text: str) -> timedelta:
    """Parse `36h`, `90d`, `12w`, `P90D`, `PT36H`: at least an hour, at most 100 years.

    Raises:
        ValueError: with a sentence that says what to write instead.
    """
    hours = _hours(text)
    if hours is None:
        raise ValueError(
            f"{text!r} is not a duration: write hours, days or weeks (36h, 90d, 12w, P90D, PT36H)"
        )
    if not 0 < hours <= _MAX_HOURS:
        raise ValueError(f"{text!r} is not between 1h and 100 years")
    return timedelta(hours=hours)


def parse_timestamp(text: str) -> datetime:
    """Parse an RFC 3339 date-time as servers and JSON bodies write it.

    Raises:
        ValueError: if it is not a date-time, or is outside the calendar.
    """
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a date-time: write it like 2027-06-30T12:00:00Z")
    date, time, offset = match.groups()
    if len(offset) > 1 and (int(offset[1:3]) > 23 or int(offset[-2:]) > 59):  # noqa: PLR2004 - hours, minutes
        raise ValueError(f"{text!r} has an invalid UTC offset: write one from +00:00 to +23:59")
    whole, _, fraction = time.partition(".")
    try:
        parsed = datetime.fromisoformat(f"{date}T{whole}{offset.upper().replace('Z', '+00:00')}")
        return parsed.astimezone(UTC) + timedelta(microseconds=int(f"{fraction:0<6}"[:6]))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a valid date and time") from None


def format_timestamp(timestamp: datetime) -> str:
    """Return a timestamp as RFC 3339 in UTC, to the second: `2027-02-21T04:00:00Z`."""
    return timestamp.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def format_milliseconds(timestamp: datetime) -> str:
    """Return a timestamp as RFC 3339 in UTC, to the millisecond, as servers store expiries."""
    return timestamp.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _parse_date(text: str) -> datetime:
    date = _DATE.fullmatch(text)
    if date is None:
        if _DATE_TIME.fullmatch(text):
            return parse_timestamp(text).replace(microsecond=0)
        raise ValueError(
            f"{text!r} is not a date: write 2027-06-30 or, with a time and time zone, "
            "2027-06-30T12:00:00Z"
        )
    try:
        return datetime(int(date[1]), int(date[2]), int(date[3]), tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{text!r} is not a valid date") from None


def _hours(text: str) -> int | None:
    """Return the hours of a duration; None if the text is not a duration."""
    if match := _SHORT.fullmatch(text):
        return int(match[1]) * _HOURS[match[2]]
    if (match := _ISO.fullmatch(text)) and any(match.groups()):
        weeks, days, hours = (int(part or 0) for part in match.groups())
        return weeks * 168 + days * 24 + hours
    return None
