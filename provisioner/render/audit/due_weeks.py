"""The keys that are due in each of the next weeks, for the HTML page of the audit."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date, datetime

    from provisioner.audit.key_audit import FleetAudit, KeyAudit

WEEKS = 13
"""The number of weeks: a quarter of a year."""


class DueKey(NamedTuple):
    """A key with the name of its environment."""

    environment: str
    key: KeyAudit


class DueWeek(NamedTuple):
    """Consecutive weeks of which only the first can have keys.

    Attributes:
        first: the first day.
        last: the last day.
        rotate: the keys that a run replaces in this week, because they become due for rotation.
        expire: the keys that expire in this week without a rotation.
        overdue: whether the keys were due before the audit; then `first` and `last` are its day.
    """

    first: date
    last: date
    rotate: tuple[DueKey, ...] = ()
    expire: tuple[DueKey, ...] = ()
    overdue: bool = False

    @property
    def keys(self) -> tuple[DueKey, ...]:
        """Return all keys that are due."""
        return self.rotate + self.expire


def due_weeks(audit: FleetAudit) -> tuple[list[DueWeek], int]:
    """Return the next weeks, and the number of keys that are due later.

    Weeks count from the time of the audit. Weeks without a key are joined to one entry. A key
    counts once: when its rotation is due, or when it expires if it is not rotated. A key that
    nobody needs any more counts nowhere.
    """
    overdue: list[DueKey] = []
    rotate: dict[int, list[DueKey]] = {}
    expire: dict[int, list[DueKey]] = {}
    later = 0
    for one in audit.observed:
        for key in one.keys:
            due_key = DueKey(one.environment, key)
            if "rotation_due" in key.notes:
                overdue.append(due_key)
                continue
            at = _due_at(key, one.server_time + audit.within)
            if at is None:
                continue
            # The JSON of a shard has whole seconds.
            now = one.server_time.replace(microsecond=0)
            week = (at.replace(microsecond=0) - now) // timedelta(weeks=1)
            if week >= WEEKS:
                later += 1
            else:
                weeks = expire if key.rotation is None else rotate
                weeks.setdefault(week, []).append(due_key)
    today = audit.created_at.date()
    entries = [DueWeek(today, today, tuple(overdue), overdue=True)] if overdue else []
    entries += _joined(
        DueWeek(
            today + timedelta(weeks=week),
            today + timedelta(weeks=week, days=6),
            tuple(rotate.get(week, ())),
            tuple(expire.get(week, ())),
        )
        for week in range(WEEKS)
    )
    return entries, later


def _due_at(key: KeyAudit, until: datetime) -> datetime | None:
    """Return when a key needs a successor; None if it was replaced or is not in use."""
    if "superseded" in key.notes:
        return None
    if key.rotation is not None:
        return key.rotation
    in_use = key.expires_at >= until or "expiring" in key.notes
    return key.expires_at if in_use else None


def _joined(weeks: Iterator[DueWeek]) -> Iterator[DueWeek]:
    """Yield the weeks, with consecutive ones without a key as one."""
    empty: DueWeek | None = None
    for week in weeks:
        if week.keys:
            if empty is not None:
                yield empty
                empty = None
            yield week
        else:
            empty = week if empty is None else empty._replace(last=week.last)
    if empty is not None:
        yield empty
