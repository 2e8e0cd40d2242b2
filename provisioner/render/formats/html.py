"""One self-contained HTML page for the audit of live keys: no script, image or network request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from provisioner.audit.key_audit import FleetAudit
from provisioner.errors.pluralize import pluralize
from provisioner.model.expiry import format_timestamp
from provisioner.render.audit.rows import (
    NOTE_MEANINGS,
    describe_key,
    format_duration,
    note_label,
    summary_parts,
)
from provisioner.render.audit.timeline import YEAR, lanes_of, months_after
from provisioner.render.text import describe_annotations, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.audit.key_audit import KeyAudit
    from provisioner.render.report import ReportInput
    from provisioner.render.text import Palette


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
        "rows": _rows,
        "duration": format_duration,
        "label": note_label,
        "pluralize": pluralize,
        "timestamp": format_timestamp,
        "visible": visible,
    }
    lanes = lanes_of(audit)
    page = templates.get_template("report.html.j2").render(
        audit=audit,
        summary=summary_parts(audit),
        lanes=lanes,
        tallest=max((len(week.keys) for lane in lanes for week in lane.weeks), default=1),
        months=months_after(audit.created_at),
        window=min(audit.within / YEAR, 1.0),
        meanings=NOTE_MEANINGS,
    )
    return page.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _rows(keys: Iterable[KeyAudit]) -> Iterator[tuple[object, ...]]:
    """Yield each key as a tuple, which a template reads much faster than attributes."""
    for key in keys:
        name, age, expires, left, role, rotation, delivered, key_id, _ = describe_key(key)
        cells = visible(name), visible(key_id), expires, left, age, visible(role)
        expires_at = format_timestamp(key.expires_at)
        about = visible(describe_annotations(key.annotations))
        yield key.due, expires_at, key.notes, *cells, rotation, delivered, about
