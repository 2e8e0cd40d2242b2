"""The audit for a terminal: a table of the keys of each environment, and a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.pluralize import pluralize
from provisioner.plan import Unobserved
from provisioner.render.audit.rows import KeyRow, describe_key, format_duration
from provisioner.render.outcome.view import upcoming_lines
from provisioner.render.text import describe_annotations
from provisioner.render.times import without_date
from provisioner.render.view import (
    Column,
    Line,
    Row,
    Section,
    Table,
    View,
    enumerate_words,
    failure_note,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from provisioner.audit.key_audit import EnvironmentAudit, FleetAudit, KeyAudit
    from provisioner.render.text import Tone
    from provisioner.render.times import Times

_COLUMNS = {
    "name": Column("name", strong=True),
    "expires": Column("expires", "below", 7, shorten=without_date),
    "notes": Column("notes", "below", 6, wraps=True),
    "rotation": Column("rotates", "omit", 5, shorten=without_date),
    "delivered": Column("delivered", "omit", 4),
    "role": Column("role", "omit", 3),
    "age": Column("age", "omit", 2),
    "id": Column("id", "omit", 1),
}
"""The columns by the part of the key that they show; any other part is the least important."""

_SHOWN_ELSEWHERE = frozenset({"left"})
"""Parts that another column includes."""

_FIELDS = (*_COLUMNS, *(one for one in KeyRow._fields if one not in {*_COLUMNS, *_SHOWN_ELSEWHERE}))


def audit_view(audit: FleetAudit, times: Times, *, quiet: bool) -> View:
    """Return a table for each environment, and a summary.

    Args:
        audit: the audit.
        times: the way to write times.
        quiet: whether to omit keys without a note.
    """
    sections = tuple(
        _section(one, times, quiet=quiet)
        for one in audit.environments
        if not quiet or isinstance(one, Unobserved) or one.missing or one.notes
    )
    return View(sections, _sentence(audit) if sections or not quiet else "")


def _section(one: EnvironmentAudit | Unobserved, times: Times, *, quiet: bool) -> Section:
    if isinstance(one, Unobserved):
        return Section(one.environment, (one.url,), (failure_note(one.failure, "!"),))
    blocks = tuple(_blocks(one, times, quiet=quiet))
    return Section(one.environment, (one.url, one.generation), blocks)


def _blocks(one: EnvironmentAudit, times: Times, *, quiet: bool) -> Iterator[Table | Line]:
    for name in one.missing:
        yield Line(f"{name}: declared, but not live", "warn", "!", "missing")
    keys = [key for key in one.keys if key.notes or not quiet]
    if keys:
        columns = tuple(_COLUMNS.get(field) or Column(field, "omit") for field in _FIELDS)
        rows = tuple(_row(key, one.server_time, times) for key in keys)
        yield Table((*columns, Column("about", "omit", wraps=True)), rows)
    elif not one.missing:
        yield Line("no live keys", "dim", "=")
    yield from upcoming_lines(one.upcoming)


def _row(key: KeyAudit, now: datetime, times: Times) -> Row:
    symbol, tone = _mark(key)
    parts = describe_key(key)._asdict() | {"expires": times.distance(key.expires_at, now)}
    if key.rotation is not None:
        due = key.rotation <= now
        parts["rotation"] = "due" if due else times.distance(key.rotation, now)
    cells = ("" if parts[field] == "-" else parts[field] for field in _FIELDS)
    return Row(symbol, tone, (*cells, describe_annotations(key.annotations)))


def _mark(key: KeyAudit) -> tuple[str, Tone | None]:
    if key.due:
        return "!", "warn"
    return ("?", "warn") if key.notes else ("=", None)


def _sentence(audit: FleetAudit) -> str:
    where = pluralize(len(audit.observed), "environment")
    within = f"within {format_duration(audit.within)}"
    verb = "needs" if audit.due == 1 else "need"
    found = [f"{audit.due} {verb} attention {within}"] if audit.due else []
    found += [f"{audit.missing} declared but missing"] if audit.missing else []
    start = f"Report: {pluralize(audit.keys, 'key')} in {where}; "
    sentence = start + (enumerate_words(found) if found else f"none is due {within}") + "."
    if audit.unobserved:
        sentence += f" {pluralize(len(audit.unobserved), 'environment')} could not be read."
    return sentence
