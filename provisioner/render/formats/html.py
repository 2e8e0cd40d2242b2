"""One self-contained HTML page for the audit of live keys, without any network request.

Everything can be read without a script, and filtered by note. A script adds sorting and a search.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from provisioner.audit.key_audit import EnvironmentAudit, FleetAudit
from provisioner.errors.pluralize import pluralize
from provisioner.model.expiry import format_timestamp
from provisioner.model.key import Annotations
from provisioner.render.audit.due_weeks import due_weeks
from provisioner.render.audit.rows import (
    NOTE_MEANINGS,
    describe_key,
    format_duration,
    format_remaining,
    note_label,
    summary_parts,
)
from provisioner.render.audit.timeline import YEAR, lanes_of, months_after
from provisioner.render.outcome.rows import describe_end, soonest_first
from provisioner.render.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date, datetime

    from provisioner.audit.key_audit import Delivery, KeyAudit
    from provisioner.plan import Unobserved
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette

_DELIVERY: Mapping[Delivery, str] = {
    "yes": "delivered",
    "no": "not delivered",
    "unknown": "delivery unknown",
    "no_sink": "no sink",
    "none": "",
}
"""The state of the sinks of a key."""

_ROWS_PER_GROUP = 50
"""Rows that a browser lays out together, only when they come near the window."""


def render(report: ReportInput, _: Palette) -> str:
    """Return the page of an audit, in ASCII so that the encoding of stdout does not matter."""
    audit = report.outcome
    if not isinstance(audit, FleetAudit):
        raise TypeError
    templates = Environment(
        loader=PackageLoader("provisioner.render", "audit"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {
        "duration": format_duration,
        "day": _day,
        "end": describe_end,
        "groups": _groups,
        "label": note_label,
        "marks": _environment_marks,
        "minute": _minute,
        "pluralize": pluralize,
        "sha256": _sha256,
        "soonest": soonest_first,
        "timestamp": format_timestamp,
        "visible": visible,
    }
    lanes = lanes_of(audit)
    weeks, later = due_weeks(audit)
    page = templates.get_template("report.html.j2").render(
        audit=audit,
        summary=summary_parts(audit),
        lanes=lanes,
        tallest=max((len(week.keys) for lane in lanes for week in lane.weeks), default=1),
        months=months_after(audit.created_at),
        window=min(audit.within / YEAR, 1.0),
        weeks=weeks,
        later=later,
        filters=tuple(_filters(audit)),
        meanings=NOTE_MEANINGS,
    )
    return page.encode("ascii", "xmlcharrefreplace").decode("ascii")


class _Filter(NamedTuple):
    """A choice of what the page shows.

    Attributes:
        mark: the class of the elements that it shows.
        label: its text.
        shown: the number of keys, names or environments that it shows.
    """

    mark: str
    label: str
    shown: int


class _Group(NamedTuple):
    """Consecutive rows of a table.

    Attributes:
        marks: the classes of its rows, each once.
        rows: the classes of each row and its cells, as a tuple, which a template reads fast.
    """

    marks: str
    rows: list[tuple[object, ...]]


def _filters(audit: FleetAudit) -> Iterator[_Filter]:
    """Yield the filters that show something."""
    counts = Counter(mark for one in audit.observed for key in one.keys for mark in _marks(key))
    for mark in ("due", *NOTE_MEANINGS, "no_sink"):
        if counts[mark]:
            yield _Filter(mark, mark.replace("_", " "), counts[mark])
    if audit.missing:
        yield _Filter("missing", "missing", audit.missing)
    if audit.unobserved:
        yield _Filter("unreached", "not reached", len(audit.unobserved))


def _marks(key: KeyAudit) -> Iterator[str]:
    """Yield the classes of the row of a key, by which filters select it."""
    if key.due:
        yield "due"
    yield from key.notes
    if key.delivery == "no_sink":
        yield "no_sink"


def _environment_marks(one: EnvironmentAudit | Unobserved) -> str:
    """Return the classes of an environment, by which filters select it."""
    if not isinstance(one, EnvironmentAudit):
        return "unreached"
    marks = dict.fromkeys(mark for key in one.keys for mark in _marks(key))
    return " ".join([*marks, *(["missing"] if one.missing else [])])


def _groups(keys: Sequence[KeyAudit], now: datetime) -> Iterator[_Group]:
    """Yield the rows of keys in groups; `now` is the server's time."""
    for start in range(0, len(keys), _ROWS_PER_GROUP):
        group = keys[start : start + _ROWS_PER_GROUP]
        marks = dict.fromkeys(mark for key in group for mark in _marks(key))
        yield _Group(" ".join(marks), [_row(key, now) for key in group])


def _row(key: KeyAudit, now: datetime) -> tuple[object, ...]:
    """Return the classes of the row of a key, then its cells."""
    row, about = describe_key(key), key.annotations or Annotations()
    return (
        " ".join(_marks(key)),
        key.notes,
        visible(row.name),
        visible(about.description or ""),
        visible(about.owner or ""),
        visible(about.ticket or ""),
        visible(row.id),
        row.expires,
        "never" if row.left == "never" else format_remaining(key.expires_at, now),
        _cell(row.rotation),
        row.age,
        _cell(row.role),
        tuple(map(visible, key.sinks)),
        _DELIVERY[key.delivery],
        _cell(row.manifest),
    )


def _cell(text: str) -> str:
    """Return the text of a cell; cells without a value are empty on the page."""
    return "" if text == "-" else visible(text)


def _day(day: date) -> str:
    """Return a day of the next weeks: `23 Nov`."""
    return f"{day.day} {day:%b}"


def _minute(timestamp: datetime) -> str:
    """Return a time to the minute: `2026-11-23 04:00 UTC`."""
    return f"{timestamp:%Y-%m-%d %H:%M} UTC"


def _sha256(script: str) -> str:
    """Return the hash of a script, as a policy names it."""
    return b64encode(sha256(script.encode()).digest()).decode()
