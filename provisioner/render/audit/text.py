"""The audit as text: one table for each environment, the keys that expire first on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.plan import Unobserved
from provisioner.render.audit.rows import KeyRow, describe_key, summary_parts
from provisioner.render.text import align_columns, failure_line, heading, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.audit.key_audit import EnvironmentAudit, FleetAudit
    from provisioner.render.text import Palette

_HEAD = KeyRow("NAME", "AGE", "EXPIRES", "LEFT", "ROLE", "ROTATION", "DELIVERED", "ID", "NOTES")


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
        if not quiet or isinstance(one, Unobserved) or one.missing or one.notes
    ]
    if quiet and not parts:
        return ""
    summary = palette.paint("strong", f"Report: {', '.join(summary_parts(audit))}.")
    return "\n\n".join([*parts, summary]) + "\n"


def _environment(
    one: EnvironmentAudit | Unobserved, palette: Palette, *, quiet: bool
) -> Iterator[str]:
    if isinstance(one, Unobserved):
        yield heading(one.environment, one.url, None, palette)
        yield failure_line(one.failure, palette)
        return
    yield heading(one.environment, one.url, one.generation, palette)
    for name in one.missing:
        yield palette.paint("bad", f"  ! {visible(name)}  missing: declared, but not live")
    keys = [key for key in one.keys if key.notes or not quiet]
    if keys:
        rows = (KeyRow(*map(visible, describe_key(key))) for key in keys)
        head, *lines = align_columns([_HEAD, *rows])
        yield palette.paint("dim", f"    {head}")
        for key, line in zip(keys, lines, strict=True):
            if key.due:
                yield palette.paint("bad", f"  ! {line}")
            else:
                yield palette.paint("warn", f"  ? {line}") if key.notes else f"  = {line}"
    elif not one.missing:
        yield palette.paint("dim", "  = no live keys")
