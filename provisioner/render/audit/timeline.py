"""The content of the chart of expiries: a lane for an environment, a bar for a week of the year.

The template has its geometry.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.audit.key_audit import FleetAudit, KeyAudit

YEAR = timedelta(weeks=52)
_MAX_LANES = 12


class Week(NamedTuple):
    """The keys that expire in one week; `number` counts weeks from now."""

    number: int
    keys: list[KeyAudit]
    due: bool


class Lane(NamedTuple):
    """The keys of one environment, or of all environments if there are too many.

    Attributes:
        keys: the number of keys.
        due: the number of due keys.
        weeks: the weeks of the year in which a key expires.
        later: the number of keys that expire after the year.
        never: the number of those that never expire.
    """

    label: str
    keys: int
    due: int
    weeks: tuple[Week, ...]
    later: int
    never: int


def lanes_of(audit: FleetAudit) -> list[Lane]:
    """Return the lanes of the observed environments."""
    groups = [(one.environment, one.keys) for one in audit.observed]
    if len(groups) > _MAX_LANES:
        every_key = tuple(key for _, keys in groups for key in keys)
        groups = [(f"all {len(groups)} environments", every_key)]
    return [_lane(label, keys) for label, keys in groups]


def _lane(label: str, keys: tuple[KeyAudit, ...]) -> Lane:
    weeks: dict[int, list[KeyAudit]] = {}
    later = never = 0
    for key in keys:
        if key.days_left < YEAR.days:
            weeks.setdefault(key.days_left // 7, []).append(key)
        else:
            later += 1
            never += "never_expires" in key.notes
    bars = tuple(
        Week(number, expiring, any(key.due for key in expiring))
        for number, expiring in sorted(weeks.items())
    )
    return Lane(label, len(keys), sum(key.due for key in keys), bars, later, never)


def months_after(start: datetime) -> Iterator[tuple[float, str, bool]]:
    """Yield the first day of each month of the year after `start`.

    Each as its share of the year, its label, which is empty where it would overlap another one,
    and whether a phone hides that.
    """
    year, month = start.year, start.month
    while True:
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)  # noqa: PLR2004 - months
        first = datetime(year, month, 1, tzinfo=UTC)
        share = (first - start) / YEAR
        if share >= 1:
            return
        label = str(year) if month == 1 else f"{first:%b}"
        fits = 0.1 < share < 0.96  # noqa: PLR2004 - clear of "today" and "later"
        crowded = month % 2 == 0 or share < 0.2  # noqa: PLR2004 - as far as "today" on a phone
        yield share, label if fits else "", crowded
