"""Dates as the recorded servers parse them: JavaScript's `new Date` and PostgreSQL's input.

Inside the sandbox a timestamp is a text in Twenty's format, `2031-01-01T00:00:00.417Z`: it keeps
its milliseconds and sorts as text.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.model.workspace import Json

NOT_A_DATE = "0NaN-NaN-NaNTNaN:NaN:NaN.NaN+NaN:NaN"
"""The text that the core servers pass to their database for an invalid date (core-1 `050`)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO = re.compile(
    r"[0-9]{4}(?:-[0-9]{2}(?:-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?"
    r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)?)?)?)?"
)
_NAMED_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}


def text_of(seconds: float) -> str:
    """Return the text of a timestamp in seconds since 1970."""
    return _text(_EPOCH + timedelta(milliseconds=int(seconds * 1000)))


def now() -> str:
    """Return the text of the current time."""
    return text_of(time.time())


def seconds_of(text: str) -> float:
    """Return the seconds since 1970 of a text that this module returned."""
    return (datetime.fromisoformat(text) - _EPOCH).total_seconds()


def javascript_date(value: Json) -> str | None:
    """Parse a date as `new Date(value)` does; return None for an `Invalid Date`.

    Recorded on both core servers: ISO texts, days (`052`), offsets (`053`), milliseconds
    since 1970 (`051`), `null` as 1970 (`048`), an absent value as invalid (`047`). Years
    beyond 9999 and V8's many other formats are not imitated: they are invalid here.
    """
    if value is None:
        return _text(_EPOCH)
    if isinstance(value, int | float):
        try:
            return _text(_EPOCH + timedelta(milliseconds=value))
        except (OverflowError, ValueError):
            return None
    return _iso(value) if isinstance(value, str) else None


def postgres_date(value: str) -> str | None:
    """Parse a date as PostgreSQL does; return None where PostgreSQL reports a syntax error.

    Recorded on legacy: ISO texts (`062`, `064`, `065`), `tomorrow` (`063`), and the error for
    `not-a-date` (`047`). `now` and the other words for days follow PostgreSQL's documentation and
    are not recorded; its other formats are not imitated.
    """
    word = value.strip().lower()
    if word == "now":
        return now()
    if word in _NAMED_DAYS:
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return _text(midnight + timedelta(days=_NAMED_DAYS[word]))
    return _iso(value)


def _iso(value: str) -> str | None:
    text = value.strip().upper()
    if not _ISO.fullmatch(text):
        return None
    try:
        timestamp = datetime.fromisoformat(text + "0000-01-01"[len(text) :])
        return _text(timestamp.replace(tzinfo=timestamp.tzinfo or UTC).astimezone(UTC))
    except (ValueError, OverflowError):
        return None


def _text(timestamp: datetime) -> str:
    return timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")
