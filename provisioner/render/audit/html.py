"""The report as one HTML page that needs nothing else: no script, no font, no image, no network."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from provisioner.errors.pluralize import pluralize
from provisioner.model.expiry import format_moment
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
"""The notes that are counted on top of the page, beside what is due."""

_NUMBER_CLASS = ' class="figure"'
_COLUMNS = (
    ("Name", ""),
    ("Ends", ""),
    ("Left", _NUMBER_CLASS),
    ("Age", _NUMBER_CLASS),
    ("Role", ""),
    ("Rotates", ""),
    ("Token", ""),
    ("Notes", ""),
)


def audit_html(audit: FleetAudit) -> str:
    """The whole document, in ASCII: whatever the encoding of stdout, it is read as it was meant."""
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
    moment = format_moment(audit.created_at)
    shown = f"{moment[:10]} {moment[11:16]} UTC"
    return f'<time datetime="{moment}">{shown}</time>'


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
        shade = f' class="{kind}"' if number else ""
        yield f"<li{shade}><b>{number}</b> <span>{label}</span></li>"
    yield "</ul>"


def _figure(audit: FleetAudit) -> Iterator[str]:
    yield '<figure class="card">'
    yield "<h2>When keys end</h2>"
    yield timeline(audit)
    yield "<figcaption>"
    yield "<span><i class='swatch'></i>keys that end in that week, the taller the more</span>"
    yield "<span><i class='swatch hatched'>!</i>one of them is due</span>"
    yield f"<span><i class='swatch shaded'></i>the next {format_duration(audit.within)}</span>"
    yield "</figcaption>"
    yield "</figure>"


def _environment(one: EnvironmentAudit | Unobserved) -> Iterator[str]:
    name = escape(visible(one.environment))
    yield "<section>"
    yield f"<h2>{name}</h2>"
    if isinstance(one, Unobserved):
        yield f'<p class="where">{escape(visible(one.url))}</p>'
        code, message = escape(one.failure.code), escape(visible(one.failure.message))
        yield f'<p class="failure"><b>Not reached: {code}.</b> {message}</p>'
        yield "</section>"
        return
    due = f", {one.due} due" if one.due else ""
    told = f"{pluralize(len(one.keys), 'key')}{due}"
    yield f'<p class="where">{told} · {escape(visible(one.url))} · {one.generation}</p>'
    if one.missing:
        names = ", ".join(f"<code>{escape(visible(missing))}</code>" for missing in one.missing)
        yield f'<p class="failure"><b>Declared, and no live key has the name:</b> {names}</p>'
    if one.keys:
        yield f'<div class="scroll" role="region" aria-label="Keys of {name}" tabindex="0">'
        yield from _table(one.keys)
        yield "</div>"
    yield "</section>"


def _table(keys: Iterable[KeyAudit]) -> Iterator[str]:
    yield "<table>"
    head = "".join(f'<th scope="col"{kind}>{word}</th>' for word, kind in _COLUMNS)
    yield f"<thead><tr>{head}</tr></thead>"
    yield "<tbody>"
    for key in keys:
        yield _row(key)
    yield "</tbody>"
    yield "</table>"


def _row(key: KeyAudit) -> str:
    shade = ' class="due"' if key.due else ""
    sign = '<b class="sign" title="due">!</b> ' if key.due else ""
    rotation = "-" if key.rotation is None else format_date(key.rotation)
    token = "-" if key.delivery == "none" else key.delivery
    notes = " ".join(f'<span class="note {note}">{note_label(note)}</span>' for note in key.notes)
    return (
        f'<tr{shade}><th scope="row">{sign}{escape(visible(key.name))}'
        f"<small>{escape(visible(key.id))}</small></th>"
        f'<td title="{format_moment(key.expires_at)}">{format_date(key.expires_at)}</td>'
        f'<td class="figure">{days_left(key)}</td><td class="figure">{key.age} d</td>'
        f"<td>{escape(visible(key.role or '-'))}</td><td>{rotation}</td><td>{token}</td>"
        f"<td>{notes}</td></tr>"
    )


def _meanings(audit: FleetAudit) -> Iterator[str]:
    found = [note for note in NOTE_MEANINGS if audit.notes[note]]
    if not found:
        return
    yield '<section class="meanings">'
    yield "<h2>Notes</h2>"
    yield "<dl>"
    for note in found:
        told = escape(NOTE_MEANINGS[note])
        term = f'<span class="note {note}">{note_label(note)}</span>'
        yield f"<div><dt>{term}</dt><dd>{told}</dd></div>"
    yield "</dl>"
    yield "</section>"
