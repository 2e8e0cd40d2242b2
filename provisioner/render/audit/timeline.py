"""The geometry of the chart of expiries: a lane for an environment, a bar for a week of the year.

Positions are percentages of the width and heights are pixels, so that the chart is legible on
phones and wide screens.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.audit.key_audit import FleetAudit, KeyAudit

_WEEKS = 52
_YEAR = 7 * _WEEKS
_WIDTH = 89.0
"""Share of the width for the year, in percent; the count of later keys is to its right."""

_STEP = _WIDTH / _WEEKS
_MAX_LANES = 12
_TOP = 8
_LANE = 88
_BASE = 72
"""Pixels from the top of a lane to the foot of its bars; the name of the lane is above them."""

_MAX_BAR, _MIN_BAR = 36, 5.0


@dataclass(frozen=True, slots=True)
class Bar:
    """The keys that expire in one week.

    Attributes:
        week: the number of weeks from now.
        x: the position in percent.
        height: the height in pixels, by the square root of the number of keys.
        due: whether a key is due.
    """

    week: int
    x: float
    height: float
    keys: tuple[KeyAudit, ...]
    due: bool


@dataclass(frozen=True, slots=True)
class Lane:
    """The keys of one environment, or of all environments if there are too many.

    Attributes:
        base: the position of the foot of its bars in pixels.
        bars: one for each week in which a key expires.
        due: the number of due keys.
        later: the number of keys that expire after the year.
        never: the number of those that never expire.
    """

    label: str
    base: int
    keys: int
    due: int
    bars: tuple[Bar, ...]
    later: int
    never: int


@dataclass(frozen=True, slots=True)
class Month:
    """The first day of a month on the axis.

    Attributes:
        x: the position in percent.
        label: its name, or the year in January; empty where it would overlap another label.
        minor: whether a phone hides the label.
    """

    x: float
    label: str
    minor: bool


@dataclass(frozen=True, slots=True)
class Timeline:
    """The chart.

    Attributes:
        bottom: the position of the axis in pixels.
        window: the width in percent of the time in which an expiry makes a key due.
        bar_width: the width of a bar in percent.
    """

    bottom: int
    window: float
    lanes: tuple[Lane, ...]
    months: tuple[Month, ...]
    width: float = _WIDTH
    bar_width: float = _STEP * 0.78


def timeline(audit: FleetAudit) -> Timeline:
    """Return the chart of the observed environments."""
    groups = [(one.environment, one.keys) for one in audit.observed]
    if len(groups) > _MAX_LANES:
        every_key = tuple(key for _, keys in groups for key in keys)
        groups = [(f"all {len(groups)} environments", every_key)]
    weeks = [_by_week(keys) for _, keys in groups]
    tallest = max((len(keys) for lane in weeks for keys in lane.values()), default=1)
    return Timeline(
        bottom=_TOP + _LANE * len(groups),
        window=min(audit.within / timedelta(days=_YEAR), 1.0) * _WIDTH,
        lanes=tuple(
            _lane(label, _TOP + _LANE * number + _BASE, keys, by_week, tallest)
            for number, ((label, keys), by_week) in enumerate(zip(groups, weeks, strict=True))
        ),
        months=tuple(_months(audit.created_at)),
    )


def _by_week(keys: Iterable[KeyAudit]) -> dict[int, list[KeyAudit]]:
    """Return the keys that expire within a year, by the week from now."""
    weeks: dict[int, list[KeyAudit]] = {}
    for key in keys:
        if key.days_left < _YEAR:
            weeks.setdefault(key.days_left // 7, []).append(key)
    return weeks


def _lane(
    label: str,
    base: int,
    keys: tuple[KeyAudit, ...],
    by_week: dict[int, list[KeyAudit]],
    tallest: int,
) -> Lane:
    later = [key for key in keys if key.days_left >= _YEAR]
    return Lane(
        label=label,
        base=base,
        keys=len(keys),
        due=sum(key.due for key in keys),
        bars=tuple(
            Bar(
                week=week,
                x=week * _STEP,
                height=max(_MIN_BAR, _MAX_BAR * sqrt(len(expiring) / tallest)),
                keys=tuple(expiring),
                due=any(key.due for key in expiring),
            )
            for week, expiring in sorted(by_week.items())
        ),
        later=len(later),
        never=sum("never_expires" in key.notes for key in later),
    )


def _months(start: datetime) -> Iterator[Month]:
    year, month = start.year, start.month
    while True:
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)  # noqa: PLR2004 - months
        first = datetime(year, month, 1, tzinfo=UTC)
        share = (first - start) / timedelta(days=_YEAR)
        if share >= 1:
            return
        label = str(year) if month == 1 else f"{first:%b}"
        fits = 0.1 < share < 0.96  # noqa: PLR2004 - clear of "today" and "later"
        crowded = month % 2 == 0 or share < 0.2  # noqa: PLR2004 - as far as "today" on a phone
        yield Month(share * _WIDTH, label if fits else "", crowded)
