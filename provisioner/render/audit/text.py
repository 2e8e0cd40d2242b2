"""The audit as text: one table for each environment, the keys that expire first on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.plan import Unobserved
from provisioner.render.audit.labels import days_left, format_date, note_label, summary_parts
from provisioner.render.text import align_columns, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.audit.key_audit import EnvironmentAudit, FleetAudit, KeyAudit
    from provisioner.render.text import Palette

_COLUMNS = ("NAME", "AGE", "EXPIRES", "LEFT", "ROLE", "ROTATION", "DELIVERED", "ID", "NOTES")


def audit_text(audit: FleetAudit, palette: Palette, *, quiet: bool) -> str:
    """Return a table for each environment, and a summary line.

    Args:
        audit: the audit.
        palette: the colours.
        quiet: whether to omit keys without a note; when no key has one, the text is empty.
    """
    parts = [
        "\n".join(_environment(one, palette, quiet=quiet))
        for one in audit.environments
        if not quiet or _has_notes(one)
    ]
    if quiet and not parts:
        return ""
    summary = palette.paint(palette.strong, f"Report: {', '.join(summary_parts(audit))}.")
    return "\n\n".join([*parts, summary]) + "\n"


def _has_notes(one: EnvironmentAudit | Unobserved) -> bool:
    if isinstance(one, Unobserved):
        return True
    return bool(one.missing) or any(key.notes for key in one.keys)


def _environment(
    one: EnvironmentAudit | Unobserved, palette: Palette, *, quiet: bool
) -> Iterator[str]:
    name = palette.paint(palette.strong, one.environment)
    if isinstance(one, Unobserved):
        yield f"{name}  {visible(one.url)}"
        failure = f"    {one.failure.code}: {visible(one.failure.text)}"
        yield palette.paint(palette.bad, failure)
        return
    yield f"{name}  {visible(one.url)}  {one.generation}"
    for missing in one.missing:
        line = f"  ! {visible(missing)}  missing: declared, but not live"
        yield palette.paint(palette.bad, line)
    keys = [key for key in one.keys if key.notes or not quiet]
    if keys:
        head, *lines = align_columns([_COLUMNS, *map(_cells, keys)])
        yield palette.paint(palette.dim, f"    {head}")
        for key, line in zip(keys, lines, strict=True):
            yield _painted(key, line, palette)
    elif not one.missing:
        yield palette.paint(palette.dim, "  = no live keys")


def _painted(key: KeyAudit, line: str, palette: Palette) -> str:
    if key.due:
        return palette.paint(palette.bad, f"  ! {line}")
    return palette.paint(palette.warn, f"  ? {line}") if key.notes else f"  = {line}"


def _cells(key: KeyAudit) -> tuple[str, ...]:
    return (
        visible(key.name),
        f"{key.age_days} d",
        format_date(key.expires_at),
        days_left(key),
        visible(key.role or "-"),
        "-" if key.rotation is None else format_date(key.rotation),
        "-" if key.delivery == "none" else key.delivery,
        visible(key.id),
        ", ".join(map(note_label, key.notes)),
    )
