"""The times in an answer: when it was sent, and how long the server asks to wait."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
_MAX_WAIT = 1e9
_FIRST_YEAR, _LAST_YEAR = 1970, 9000


def server_time(date: str | None) -> datetime | None:
    """Return the time in a `Date` header; None for one that no expiry can be counted from."""
    time = _parse_date(date)
    return time if time is not None and _FIRST_YEAR <= time.year <= _LAST_YEAR else None


def retry_after(header: str | None, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` header asks to wait; None if it is not valid.

    Args:
        header: seconds, or a date by the server's own clock.
        now: the time by that clock.
    """
    if header is not None and _SECONDS.fullmatch(header.strip()):
        return min(float(header), _MAX_WAIT)
    date = _parse_date(header)
    return None if date is None else max(0.0, (date - now).total_seconds())


def _parse_date(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header).astimezone(UTC) if header else None
    except (ValueError, OverflowError):
        return None
