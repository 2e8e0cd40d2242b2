"""The expiry of keys as an inline SVG: a lane for each environment, a bar for each week of a year.

Positions are percentages of the width and text sizes are pixels, so that the chart is legible on
phones and wide screens. Due keys are hatched and marked, so that colour is not the only sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from math import sqrt
from typing import TYPE_CHECKING

from provisioner.errors.pluralize import pluralize
from provisioner.render.audit.labels import format_duration
from provisioner.render.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.audit.key_audit import FleetAudit, KeyAudit

_WEEKS = 52
_YEAR = 7 * _WEEKS
_WIDTH = 89.0
"""Share of the width for the year, in percent; the count of later keys is to its right."""

_LATER_X = 91.5
_LATER_CENTER = (100 + _LATER_X) / 2
_STEP = _WIDTH / _WEEKS
_MAX_LANES = 12
_HEADING, _BARS, _GAP = 22, 50, 16
_LANE = _HEADING + _BARS + _GAP
_AXIS = 24
_TOP = 8
_HATCH = (
    '<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect class="due-ground" width="5" height="5"/>'
    '<rect class="due-line" width="2.5" height="5"/></pattern></defs>'
)
_MAX_TOOLTIP_NAMES = 6
"""Names in the tooltip of a week."""


@dataclass(frozen=True, slots=True)
class _Lane:
    label: str
    keys: tuple[KeyAudit, ...]


def timeline(audit: FleetAudit) -> str:
    """Return the SVG element; its description holds the same facts for screen readers."""
    lanes = _lanes(audit)
    weeks = [_by_week(lane.keys) for lane in lanes]
    tallest = max((len(keys) for lane in weeks for keys in lane.values()), default=1)
    bottom = _TOP + _LANE * len(lanes)
    head = 'class="timeline" role="img" aria-labelledby="expiry-title expiry-text" width="100%"'
    parts = [
        f'<svg {head} height="{bottom + _AXIS}" xmlns="http://www.w3.org/2000/svg">',
        '<title id="expiry-title">Key expiry</title>',
        f'<desc id="expiry-text">{escape(_description(lanes, audit))}</desc>',
        _HATCH,
        *_window(audit.within, bottom),
        *_months(audit.created_at, bottom),
    ]
    for number, (lane, by_week) in enumerate(zip(lanes, weeks, strict=True)):
        parts += _lane(lane, by_week, _TOP + _LANE * number, tallest)
    return "\n".join([*parts, "</svg>"])


def _lanes(audit: FleetAudit) -> tuple[_Lane, ...]:
    """Return one lane for each environment, or a single one if there are too many."""
    observed = audit.observed
    if len(observed) > _MAX_LANES:
        keys = tuple(key for one in observed for key in one.keys)
        return (_Lane(f"all {len(observed)} environments", keys),)
    return tuple(_Lane(one.environment, one.keys) for one in observed)


def _by_week(keys: Iterable[KeyAudit]) -> dict[int, list[KeyAudit]]:
    """Return the keys that expire within a year, by the week from now."""
    weeks: dict[int, list[KeyAudit]] = {}
    for key in keys:
        if key.days_left < _YEAR:
            weeks.setdefault(key.days_left // 7, []).append(key)
    return weeks


def _description(lanes: Iterable[_Lane], audit: FleetAudit) -> str:
    sentences = []
    for lane in lanes:
        due = sum(key.due for key in lane.keys)
        later = sum(key.days_left >= _YEAR for key in lane.keys)
        sentences.append(
            f"{visible(lane.label)}: {pluralize(len(lane.keys), 'key')}, {due} due, {later} "
            "expiring more than a year from now."
        )
    return f"Due means within {format_duration(audit.within)}. " + " ".join(sentences)


def _window(within: timedelta, bottom: int) -> Iterator[str]:
    """Yield the shade over the time in which an expiry makes a key due."""
    width = min(within / timedelta(days=_YEAR), 1.0) * _WIDTH
    yield f'<rect class="window" x="0" y="0" width="{width:.2f}%" height="{bottom}" rx="3"/>'


def _months(start: datetime, bottom: int) -> Iterator[str]:
    """Yield the axis with the first day of each month, January labelled with its year."""
    yield f'<line class="axis" x1="0" x2="{_WIDTH}%" y1="{bottom}" y2="{bottom}"/>'
    yield f'<text class="tick" x="0" y="{bottom + 17}">today</text>'
    year, month = start.year, start.month
    while True:
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)  # noqa: PLR2004 - months
        first = datetime(year, month, 1, tzinfo=UTC)
        share = (first - start) / timedelta(days=_YEAR)
        if share >= 1:
            break
        x = share * _WIDTH
        yield f'<line class="grid" x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="{bottom}"/>'
        label = str(year) if month == 1 else first.strftime("%b")
        crowded = month % 2 == 0 or share < 0.2  # noqa: PLR2004 - as far as "today" on a phone
        kind = "tick minor" if crowded else "tick"
        if 0.1 < share < 0.96:  # noqa: PLR2004 - clear of "today" and "later"
            yield (
                f'<text class="{kind}" x="{x:.2f}%" y="{bottom + 17}" text-anchor="middle">'
                f"{label}</text>"
            )
    position = f'x="{_LATER_CENTER}%" y="{bottom + 17}"'
    yield f'<text class="tick" {position} text-anchor="middle">later</text>'


def _lane(lane: _Lane, by_week: dict[int, list[KeyAudit]], top: int, tallest: int) -> Iterator[str]:
    base = top + _HEADING + _BARS
    due = sum(key.due for key in lane.keys)
    counts = pluralize(len(lane.keys), "key") + (f", {due} due" if due else "")
    yield (
        f'<text class="lane" y="{top + 13}">{escape(visible(lane.label))}'
        f'<tspan class="counts" dx="8">{counts}</tspan></text>'
    )
    yield f'<line class="base" x1="0" x2="{_WIDTH}%" y1="{base}" y2="{base}"/>'
    for week, keys in sorted(by_week.items()):
        height = max(5.0, (_BARS - 14) * sqrt(len(keys) / tallest))
        x, y = week * _STEP, base - height
        is_due = any(key.due for key in keys)
        kind = "bar due" if is_due else "bar"
        yield (
            f'<rect class="{kind}" x="{x:.2f}%" y="{y:.1f}" width="{_STEP * 0.78:.2f}%" '
            f'height="{height:.1f}" rx="1.5"><title>{escape(_tooltip(week, keys))}</title></rect>'
        )
        if is_due:
            position = f'x="{x + _STEP * 0.39:.2f}%" y="{y - 3:.1f}"'
            yield f'<text class="sign" {position} text-anchor="middle">!</text>'
    yield from _later_count(lane.keys, base)


def _later_count(keys: Iterable[KeyAudit], base: int) -> Iterator[str]:
    """Yield the box that counts the keys that expire after the year."""
    later = [key for key in keys if key.days_left >= _YEAR]
    never = sum("never_expires" in key.notes for key in later)
    kind = "later" if later else "later none"
    tooltip = (
        f"{pluralize(len(later), 'key')} expiring more than {_WEEKS} weeks from now, "
        f"{never} of them never"
    )
    yield (
        f'<rect class="{kind}" x="{_LATER_X}%" y="{base - 30}" width="{100 - _LATER_X}%" '
        f'height="30" rx="4"><title>{tooltip}</title></rect>'
    )
    yield (
        f'<text class="number" x="{_LATER_CENTER}%" y="{base - 10}" text-anchor="middle">'
        f"{len(later) or '-'}</text>"
    )


def _tooltip(week: int, keys: list[KeyAudit]) -> str:
    names = ", ".join(visible(key.name) for key in keys[:_MAX_TOOLTIP_NAMES])
    more = f" and {len(keys) - _MAX_TOOLTIP_NAMES} more" if len(keys) > _MAX_TOOLTIP_NAMES else ""
    days = f"{7 * week} to {7 * week + 7} days from now"
    return f"{days}: {pluralize(len(keys), 'key')}: {names}{more}"
