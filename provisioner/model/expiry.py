"""Moments and expiries: RFC 3339 in UTC, dates, durations, `never`.

A moment is an aware `datetime` in UTC. Comparisons with a workspace are made to the second,
because each run writes its own milliseconds into the keys that it makes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import assert_never

NEVER = timedelta(days=36_500)
"""What Twenty's own pages write for a key without end (legacy-0.60 `910-list-detect`)."""

CLOCK_TOLERANCE = timedelta(minutes=1)
"""How far two clocks may differ: what they tell within it has no order."""

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
    """An absolute end, compared with the workspace."""

    timestamp: datetime
    written: str


@dataclass(frozen=True, slots=True)
class ExpiresAfter:
    """A lifetime, counted from the moment of the plan that is applied."""

    lifetime: timedelta
    written: str


@dataclass(frozen=True, slots=True)
class ExpiresNever:
    """No end: 100 years of 365 days, as in Twenty's own pages."""

    written: str = "never"


Expiry = ExpiresAt | ExpiresAfter | ExpiresNever


def resolve_expiry(expiry: Expiry, start: datetime) -> datetime:
    """The end of a key that is created at `start`, in whole seconds."""
    match expiry:
        case ExpiresAt(timestamp=moment):
            return moment
        case ExpiresAfter(lifetime=lifetime):
            return start.replace(microsecond=0) + lifetime
        case ExpiresNever():
            return start.replace(microsecond=0) + NEVER
        case _:
            assert_never(expiry)


@lru_cache(maxsize=4096)
def parse_expiry(text: str) -> Expiry:
    """Reads `2027-06-30`, `2027-06-30T12:00:00Z`, `36h`, `90d`, `12w`, `P90D`, `PT36H`, `never`.

    Raises:
        ValueError: with a sentence that says what to write instead.
    """
    if text == "never":
        return ExpiresNever()
    if text[:1].isdigit() and "-" in text:
        return ExpiresAt(_parse_date(text), text)
    return ExpiresAfter(_parse_lifetime(text), text)


@lru_cache(maxsize=4096)
def parse_duration(text: str) -> timedelta:
    """Reads `36h`, `90d`, `12w`, `P90D`, `PT36H`: at least an hour, at most 100 years.

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


def parse_moment(text: str) -> datetime:
    """Reads an RFC 3339 date-time as servers and JSON bodies write it.

    Raises:
        ValueError: when it is not one, or lies outside the calendar.
    """
    found = _DATE_TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a date-time: write it like 2027-06-30T12:00:00Z")
    date, clock, zone = found.groups()
    if len(zone) > 1 and (int(zone[1:3]) > 23 or int(zone[-2:]) > 59):  # noqa: PLR2004 - of a day, of an hour
        raise ValueError(f"{text!r} has no offset that exists: write it from +00:00 to +23:59")
    head, _, fraction = clock.partition(".")
    try:
        moment = datetime.fromisoformat(f"{date}T{head}{zone.upper().replace('Z', '+00:00')}")
        return moment.astimezone(UTC) + timedelta(microseconds=int(f"{fraction:0<6}"[:6]))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a moment that exists") from None


def format_moment(moment: datetime) -> str:
    """RFC 3339 in UTC, to the second: `2027-02-21T04:00:00Z`."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def format_milliseconds(moment: datetime) -> str:
    """RFC 3339 in UTC, to the millisecond, as servers keep the ends of keys."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _parse_date(text: str) -> datetime:
    date = _DATE.fullmatch(text)
    if date is None:
        if _DATE_TIME.fullmatch(text):
            return parse_moment(text).replace(microsecond=0)
        raise ValueError(
            f"{text!r} is not a date: write 2027-06-30, or with a time and a zone "
            "2027-06-30T12:00:00Z"
        )
    try:
        return datetime(int(date[1]), int(date[2]), int(date[3]), tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{text!r} is not a day that exists") from None


def _hours(text: str) -> int | None:
    """The hours of a duration, None for what is none."""
    if found := _SHORT.fullmatch(text):
        return int(found[1]) * _HOURS[found[2]]
    if (found := _ISO.fullmatch(text)) and any(found.groups()):
        weeks, days, rest = (int(part or 0) for part in found.groups())
        return weeks * 168 + days * 24 + rest
    return None


def _parse_lifetime(text: str) -> timedelta:
    hours = _hours(text)
    if hours is None:
        raise ValueError(
            f"{text!r} is not an expiry: write a date (2027-06-30), a date-time "
            "(2027-06-30T12:00:00Z), hours, days or weeks (36h, 90d, 12w, P90D, PT36H), or never"
        )
    if hours == 0:
        raise ValueError(f"{text!r} is no lifetime at all: write at least 1h")
    if hours > _MAX_HOURS:
        raise ValueError(f"{text!r} is longer than 100 years: write never")
    return timedelta(hours=hours)
