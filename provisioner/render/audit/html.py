"""The audit as one self-contained HTML page: no script, font, image or network request."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from provisioner.errors.pluralize import pluralize
from provisioner.model.expiry import format_timestamp
from provisioner.plan import Unobserved
from provisioner.render.audit.css import STYLE
from provisioner.render.audit.labels import (
    NOTE_MEANINGS,
    days_left,
    format_date,
    format_duration,
    note_label,
    summary_parts,
)
from provisioner.render.audit.timeline import timeline
from provisioner.render.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.audit.key_audit import EnvironmentAudit, FleetAudit, KeyAudit, Note

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_TILES: tuple[Note, ...] = ("unmanaged", "undelivered", "never_expires", "too_long", "shared_admin")
"""The notes that the tiles at the top of the page count."""

_NUMBER_CLASS = ' class="figure"'
_COLUMNS = (
    ("Name", ""),
    ("Expires", ""),
    ("Left", _NUMBER_CLASS),
    ("Age", _NUMBER_CLASS),
    ("Role", ""),
    ("Rotation", ""),
    ("Delivered", ""),
    ("Notes", ""),
)


def audit_html(audit: FleetAudit) -> str:
    """Return the page, in ASCII so that the encoding of stdout does not matter."""
    page = "\n".join(_page(audit)) + "\n"
    return page.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _page(audit: FleetAudit) -> Iterator[str]:
    yield "<!doctype html>"
    yield '<html lang="en">'
    yield "<head>"
    yield '<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield '<meta name="referrer" content="no-referrer">'
    yield "<title>API keys: expiry and hygiene</title>"
    yield f"<style>{STYLE}</style>"
    yield "</head>"
    yield "<body>"
    yield "<main>"
    yield "<header>"
    yield "<h1>API keys</h1>"
    yield f"<p>{escape(', '.join(summary_parts(audit)))}. {_created_at(audit)}</p>"
    yield "</header>"
    yield from _tiles(audit)
    if audit.observed:
        yield from _figure(audit)
    for one in audit.environments:
        yield from _environment(one)
    yield from _meanings(audit)
    yield "</main>"
    yield "</body>"
    yield "</html>"


def _created_at(audit: FleetAudit) -> str:
    timestamp = format_timestamp(audit.created_at)
    label = f"{timestamp[:10]} {timestamp[11:16]} UTC"
    return f'<time datetime="{timestamp}">{label}</time>'


def _tiles(audit: FleetAudit) -> Iterator[str]:
    notes = audit.notes
    keys = sum(len(one.keys) for one in audit.observed)
    tiles = [
        (keys, "live keys", "all"),
        (audit.due, f"due within {format_duration(audit.within)}", "due"),
        (audit.missing, "missing", "due"),
        (len(audit.unobserved), "not reached", "due"),
        *((notes[note], note_label(note), "warn") for note in _TILES),
    ]
    yield '<ul class="tiles">'
    for number, label, kind in tiles:
        css_class = f' class="{kind}"' if number else ""
        yield f"<li{css_class}><b>{number}</b> <span>{label}</span></li>"
    yield "</ul>"


def _figure(audit: FleetAudit) -> Iterator[str]:
    yield '<figure class="card">'
    yield "<h2>Key expiry</h2>"
    yield timeline(audit)
    yield "<figcaption>"
    yield "<span><i class='swatch'></i>keys that expire in that week</span>"
    yield "<span><i class='swatch hatched'>!</i>at least one is due</span>"
    yield f"<span><i class='swatch shaded'></i>the next {format_duration(audit.within)}</span>"
    yield "</figcaption>"
    yield "</figure>"


def _environment(one: EnvironmentAudit | Unobserved) -> Iterator[str]:
    name = escape(visible(one.environment))
    yield "<section>"
    yield f"<h2>{name}</h2>"
    if isinstance(one, Unobserved):
        yield f'<p class="where">{escape(visible(one.url))}</p>'
        code, message = escape(one.failure.code), escape(visible(one.failure.text))
        yield f'<p class="failure"><b>Not reached: {code}.</b> {message}</p>'
        yield "</section>"
        return
    due = f", {one.due} due" if one.due else ""
    count = f"{pluralize(len(one.keys), 'key')}{due}"
    yield f'<p class="where">{count} · {escape(visible(one.url))} · {one.generation}</p>'
    if one.missing:
        names = ", ".join(f"<code>{escape(visible(missing))}</code>" for missing in one.missing)
        yield f'<p class="failure"><b>Missing (declared, but not live):</b> {names}</p>'
    if one.keys:
        yield f'<div class="scroll" role="region" aria-label="Keys of {name}" tabindex="0">'
        yield from _table(one.keys)
        yield "</div>"
    yield "</section>"


def _table(keys: Iterable[KeyAudit]) -> Iterator[str]:
    yield "<table>"
    head = "".join(f'<th scope="col"{css_class}>{label}</th>' for label, css_class in _COLUMNS)
    yield f"<thead><tr>{head}</tr></thead>"
    yield "<tbody>"
    for key in keys:
        yield _row(key)
    yield "</tbody>"
    yield "</table>"


def _row(key: KeyAudit) -> str:
    css_class = ' class="due"' if key.due else ""
    marker = '<b class="sign" title="due">!</b> ' if key.due else ""
    rotation = "-" if key.rotation is None else format_date(key.rotation)
    delivered = "-" if key.delivery == "none" else key.delivery
    notes = " ".join(f'<span class="note {note}">{note_label(note)}</span>' for note in key.notes)
    return (
        f'<tr{css_class}><th scope="row">{marker}{escape(visible(key.name))}'
        f"<small>{escape(visible(key.id))}</small></th>"
        f'<td title="{format_timestamp(key.expires_at)}">{format_date(key.expires_at)}</td>'
        f'<td class="figure">{days_left(key)}</td><td class="figure">{key.age_days} d</td>'
        f"<td>{escape(visible(key.role or '-'))}</td><td>{rotation}</td><td>{delivered}</td>"
        f"<td>{notes}</td></tr>"
    )


def _meanings(audit: FleetAudit) -> Iterator[str]:
    notes = [note for note in NOTE_MEANINGS if audit.notes[note]]
    if not notes:
        return
    yield '<section class="meanings">'
    yield "<h2>Notes</h2>"
    yield "<dl>"
    for note in notes:
        meaning = escape(NOTE_MEANINGS[note])
        term = f'<span class="note {note}">{note_label(note)}</span>'
        yield f"<div><dt>{term}</dt><dd>{meaning}</dd></div>"
    yield "</dl>"
    yield "</section>"
