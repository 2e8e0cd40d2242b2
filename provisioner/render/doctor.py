"""The diagnosis of `provision doctor` as text, and as JSON by `schemas/doctor.schema.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from provisioner.audit.check import Check, Diagnosis
from provisioner.errors.codes import Code
from provisioner.errors.pluralize import pluralize
from provisioner.render.text import heading, visible
from provisioner.render.view import Column, Row, Section, Table, View

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from provisioner.render.json import Document
    from provisioner.render.text import Palette, Tone

_MARKS: Mapping[str, tuple[str, Tone]] = {
    "ok": ("=", "good"),
    "not_checked": ("-", "dim"),
    "warning": ("?", "warn"),
    "failed": ("!", "bad"),
}
"""The symbol and the colour of each status."""

_ALERTS = ("warning", "failed")

_CHECK_WIDTH = len("credential")


def diagnosis_document(diagnoses: Sequence[Diagnosis]) -> Document:
    """Return the JSON document `provision/doctor/v1`."""
    return {
        "format": "provision/doctor/v1",
        "environments": [
            {
                "environment": one.environment,
                "url": one.url,
                "generation": one.generation,
                "checks": [
                    {
                        "check": check.check,
                        "status": check.status,
                        "code": check.code,
                        "message": check.message,
                        "remedy": check.remedy or None,
                    }
                    for check in one.checks
                ],
            }
            for one in diagnoses
        ],
    }


def read_diagnosis(entry: Mapping[str, Any]) -> Diagnosis:
    """Return the diagnosis of an environment, from its entry by the schema `doctor`.

    Raises:
        ValueError: if a code is unknown.
    """
    checks = tuple(
        Check(
            one["check"],
            one["status"],
            one["message"],
            one["remedy"] or "",
            None if one["code"] is None else Code(one["code"]),
        )
        for one in entry["checks"]
    )
    return Diagnosis(entry["environment"], entry["url"], entry["generation"], checks)


def diagnosis_text(diagnoses: Sequence[Diagnosis], palette: Palette, *, quiet: bool) -> str:
    """Return the checks of each environment, and a summary line.

    Args:
        diagnoses: one for each environment.
        palette: the colours.
        quiet: whether to omit what passed or was not checked; the text is then empty if all did.
    """
    parts = []
    for one in diagnoses:
        checks = [check for check in one.checks if not quiet or check.status in _ALERTS]
        if checks or not quiet:
            lines = [heading(one.environment, one.url, one.generation, palette)]
            lines += (line for check in checks for line in _lines(check, palette))
            parts.append("\n".join(lines))
    if not parts:
        return ""
    statuses = [check.status for one in diagnoses for check in one.checks]
    counts = [pluralize(len(diagnoses), "environment"), f"{statuses.count('ok')} ok"]
    if not_checked := statuses.count("not_checked"):
        counts.append(f"{not_checked} not checked")
    if warnings := statuses.count("warning"):
        counts.append(pluralize(warnings, "warning"))
    if failed := statuses.count("failed"):
        counts.append(f"{failed} failed")
    summary = palette.paint("strong", f"Doctor: {', '.join(counts)}.")
    return "\n\n".join([*parts, summary]) + "\n"


def _lines(check: Check, palette: Palette) -> Iterator[str]:
    symbol, tone = _MARKS[check.status]
    code = f"{check.code}: " if check.code else ""
    head = f"{check.check:{_CHECK_WIDTH}}  {code}{visible(check.message)}"
    yield palette.paint(tone, f"  {symbol} {head}")
    if check.remedy:
        yield f"    {'':{_CHECK_WIDTH}}  {visible(check.remedy)}"


_COLUMNS = (Column(""), Column("", strong=True), Column("", "below", 1, wraps=True))

_TICKS: Mapping[str, str] = {"ok": "✓", "not_checked": "-", "warning": "?", "failed": "✗"}
"""The symbol of each status on a terminal, where the status stands beside it."""


def diagnosis_view(diagnoses: Sequence[Diagnosis], *, quiet: bool) -> View:
    """Return the checks of each environment, and a summary.

    Args:
        diagnoses: one for each environment.
        quiet: whether to omit what passed or was not checked.
    """
    sections = []
    for one in diagnoses:
        checks = [check for check in one.checks if not quiet or check.status in _ALERTS]
        if checks or not quiet:
            facts = (one.url, one.generation) if one.generation else (one.url,)
            table = Table(_COLUMNS, tuple(map(_row, checks)))
            sections.append(Section(one.environment, facts, (table,)))
    return View(tuple(sections), _sentence(diagnoses) if sections or not quiet else "")


def _row(check: Check) -> Row:
    message = f"{check.code}: {check.message}" if check.code else check.message
    cells = check.status.replace("_", " "), check.check, f"{message} {check.remedy}".rstrip()
    return Row(_TICKS[check.status], _MARKS[check.status][1], cells)


def _sentence(diagnoses: Sequence[Diagnosis]) -> str:
    statuses = [check.status for one in diagnoses for check in one.checks]
    failed, warnings = statuses.count("failed"), statuses.count("warning")
    checked = len(statuses) - statuses.count("not_checked")
    where = pluralize(len(diagnoses), "environment")
    if not failed and not warnings:
        return f"Doctor: all is well in {where} ({pluralize(checked, 'check')})."
    found = [f"{failed} failed"] if failed else []
    found += [pluralize(warnings, "warning")] if warnings else []
    return f"Doctor: {' and '.join(found)} in {pluralize(checked, 'check')} of {where}."
