"""Times in text: RFC 3339 for programs, and `in 90 days (2027-02-25)` for people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from provisioner.errors.pluralize import pluralize
from provisioner.model.expiry import EFFECTIVELY_NEVER, format_timestamp, parse_timestamp

if TYPE_CHECKING:
    from datetime import datetime

_DAYS_UP_TO = timedelta(days=5 * 365)
"""A distance from which the nearest year is exact enough, even without the date beside it."""

_DAY, _HOUR, _MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Times:
    """The way in which text writes times.

    Attributes:
        local: True for the time zone of this machine, False for UTC.
    """

    local: bool = False

    def exact(self, timestamp: datetime) -> str:
        """Return a timestamp as RFC 3339, to the second: `2027-02-21T04:00:00Z`."""
        if not self.local:
            return format_timestamp(timestamp)
        return self._here(timestamp).isoformat(timespec="seconds")

    def date(self, timestamp: datetime) -> str:
        """Return the day of a timestamp: `2027-02-21`."""
        return self._here(timestamp).date().isoformat()

    def distance(self, timestamp: datetime, now: datetime) -> str:
        """Return how far away a timestamp is, with its date, or its time within two days.

        For example `in 90 days (2027-02-25)`, `3 days ago (2026-11-20)`, `never`, or
        `in 5 h (2026-11-23 09:00 UTC)`.
        """
        left = timestamp - now
        if left > EFFECTIVELY_NEVER:
            return "never"
        amount = _amount(abs(left))
        words = f"{amount} ago" if left < timedelta() else f"in {amount}"
        near = abs(left) < 2 * _DAY
        return f"{words} ({self._moment(timestamp) if near else self.date(timestamp)})"

    def shortest(self, expiry: str) -> str:
        """Return an expiry that is an RFC 3339 timestamp as `2027-02-21 04:00 UTC`.

        The start of a day is written as only the day, as in manifests: `2027-02-21`. Other text,
        such as `90d`, is returned as it is.
        """
        try:
            return self._shortest(parse_timestamp(expiry))
        except ValueError:
            return expiry

    def _shortest(self, timestamp: datetime) -> str:
        here = self._here(timestamp)
        midnight = here.replace(hour=0, minute=0, second=0, microsecond=0)
        return self.date(timestamp) if here == midnight else self._moment(timestamp)

    def _moment(self, timestamp: datetime) -> str:
        here = self._here(timestamp)
        precision = "seconds" if here.second else "minutes"
        written = here.replace(tzinfo=None, microsecond=0).isoformat(" ", timespec=precision)
        return f"{written} {here.tzname()}"

    def _here(self, timestamp: datetime) -> datetime:
        try:
            return timestamp.astimezone() if self.local else timestamp
        except (OverflowError, OSError, ValueError):  # the last day of the calendar
            return timestamp


UTC_TIMES = Times()


def without_date(text: str) -> str:
    """Return a distance without its date: `in 90 days`."""
    return text.partition(" (")[0]


def _amount(distance: timedelta) -> str:
    """Return a distance in the unit in which people think of it, rounded to the nearest one."""
    if distance >= _DAYS_UP_TO:
        return pluralize(round(distance / _DAY / 365.25), "year")
    if distance >= 2 * _DAY:
        return pluralize(round(distance / _DAY), "day")
    if distance >= _HOUR:
        return f"{round(distance / _HOUR)} h"
    return f"{max(1, round(distance / _MINUTE))} min"
