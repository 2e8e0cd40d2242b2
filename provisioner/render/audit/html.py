"""The audit as one self-contained HTML page: no script, font, image or network request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from provisioner.errors.pluralize import pluralize
from provisioner.model.expiry import format_timestamp
from provisioner.plan import Unobserved
from provisioner.render.audit.rows import (
    NOTE_MEANINGS,
    describe_key,
    format_duration,
    note_label,
    summary_parts,
)
from provisioner.render.audit.timeline import timeline
from provisioner.render.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.audit.key_audit import FleetAudit, KeyAudit, Note


def _rows(
    keys: Iterable[KeyAudit],
) -> Iterator[tuple[bool, str, tuple[Note, ...], *tuple[str, ...]]]:
    """Yield each key as a tuple, which a template reads much faster than attributes."""
    for key in keys:
        yield key.due, format_timestamp(key.expires_at), key.notes, *map(visible, describe_key(key))


def audit_html(audit: FleetAudit) -> str:
    """Return the page, in ASCII so that the encoding of stdout does not matter."""
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
    templates.tests["unobserved"] = lambda part: isinstance(part, Unobserved)
    page = templates.get_template("report.html.j2").render(
        audit=audit,
        summary=summary_parts(audit),
        timeline=timeline(audit) if audit.observed else None,
        meanings=NOTE_MEANINGS,
    )
    return page.encode("ascii", "xmlcharrefreplace").decode("ascii")
