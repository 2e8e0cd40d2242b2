"""The observed keys of `provision list`: a table as text, and one an environment on a terminal."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from provisioner.errors.pluralize import pluralize
from provisioner.render.text import align_columns, visible
from provisioner.render.times import without_date
from provisioner.render.view import Column, Row, Section, Table, View, enumerate_words

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from provisioner.model.observed import ObservedKey
    from provisioner.render.text import Palette
    from provisioner.render.times import Times

    _Key = tuple[str, ObservedKey, datetime]

_COLUMNS = (
    Column("name", strong=True),
    Column("state"),
    Column("expires", "below", 3, shorten=without_date),
    Column("role", "omit", 2),
    Column("id", "omit", 1),
)


def keys_text(keys: Sequence[_Key], palette: Palette, times: Times) -> str:
    """Return a table of observed keys; each comes with its environment and the server's time."""
    rows = [
        (
            environment,
            visible(key.name),
            _state(key, now),
            times.exact(key.expires_at),
            visible(key.role or "-"),
            visible(key.id),
        )
        for environment, key, now in keys
    ]
    if not rows:
        return "no keys\n"
    head = ("ENVIRONMENT", "NAME", "STATE", "EXPIRES", "ROLE", "ID")
    first, *rest = align_columns([head, *rows])
    return "\n".join([palette.paint("strong", first), *rest]) + "\n"


def keys_view(keys: Sequence[_Key], times: Times) -> View:
    """Return a table of the observed keys of each environment; the keys are as for `keys_text`."""
    sections = [
        Section(environment, (), (Table(_COLUMNS, tuple(_row(key, times) for key in group)),))
        for environment, group in groupby(keys, key=lambda one: one[0])
    ]
    states = Counter(_state(key, now) for _, key, now in keys)
    if not states:
        return View((), "No keys.")
    counts = enumerate_words([f"{number} {state}" for state, number in states.items()])
    where = pluralize(len(sections), "environment")
    return View(tuple(sections), f"{pluralize(len(keys), 'key')} in {where}: {counts}.")


def _row(one: _Key, times: Times) -> Row:
    _, key, now = one
    state = _state(key, now)
    distance = times.distance(key.expires_at, now)
    cells = key.name, state, distance, key.role or "", key.id
    return Row(" ", None if state == "live" else "dim", cells)


def _state(key: ObservedKey, now: datetime) -> str:
    if key.live(now):
        return "live"
    return "expired" if key.revoked_at is None else "revoked"
