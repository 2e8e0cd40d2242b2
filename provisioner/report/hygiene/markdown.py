"""The report as Markdown, for the summary of a pipeline's job or a wiki."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.plan import Unobserved
from provisioner.report.hygiene.words import MEANINGS, day, left, note_word, totals
from provisioner.report.inert import code, plain
from provisioner.words import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.hygiene import EnvironmentHygiene, FleetHygiene, KeyHygiene

_HEAD = (
    "| | name | age | ends | left | role | rotates | token | notes | id |",
    "|---|---|---:|---|---:|---|---|---|---|---|",
)


def hygiene_markdown(hygiene: FleetHygiene) -> str:
    """A table for each environment of the keys with a note; those without are folded away."""
    lines = ["# API keys", "", f"{', '.join(totals(hygiene))}."]
    for one in hygiene.environments:
        lines += ["", *_environment(one)]
    found = [note for note in MEANINGS if hygiene.notes[note]]
    if found:
        lines += ["", "## Notes", ""]
        lines += [f"- **{note_word(note)}**: {MEANINGS[note]}" for note in found]
    return "\n".join(lines) + "\n"


def _environment(one: EnvironmentHygiene | Unobserved) -> Iterator[str]:
    yield f"## {plain(one.environment)}"
    yield ""
    if isinstance(one, Unobserved):
        yield f"**Not reached**, {plain(one.failure.code)}: {plain(one.failure.message)}"
        return
    yield f"{count(len(one.keys), 'key')}, {one.due} due, {plain(one.url)}, {one.generation}."
    if one.missing:
        yield ""
        yield f"**Missing**: {', '.join(map(code, one.missing))}."
    noted = [key for key in one.keys if key.notes]
    if noted:
        yield ""
        yield from _table(noted)
    calm = [key for key in one.keys if not key.notes]
    if calm:
        yield ""
        yield f"<details><summary>{count(len(calm), 'key')} without a note</summary>"
        yield ""
        yield from _table(calm)
        yield ""
        yield "</details>"


def _table(keys: Iterable[KeyHygiene]) -> Iterator[str]:
    yield from _HEAD
    for key in keys:
        cells = (
            "**!**" if key.due else "",
            code(key.name),
            f"{key.age} d",
            day(key.expires_at),
            left(key),
            plain(key.role or "-"),
            "-" if key.rotation is None else day(key.rotation),
            "-" if key.delivery == "none" else key.delivery,
            ", ".join(map(note_word, key.notes)),
            code(key.id),
        )
        yield f"| {' | '.join(cells)} |"
