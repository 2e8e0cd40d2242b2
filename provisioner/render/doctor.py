"""The diagnosis of `provision doctor` as text, and as JSON by `schemas/doctor.schema.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.audit import CheckFailed, CheckOk, CheckWarning
from provisioner.errors.pluralize import pluralize
from provisioner.render.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from provisioner.audit import Check, Diagnosis
    from provisioner.render.json import Document
    from provisioner.render.text import Palette

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
                "checks": [_check(check) for check in one.checks],
            }
            for one in diagnoses
        ],
    }


def diagnosis_text(diagnoses: Sequence[Diagnosis], palette: Palette, *, quiet: bool) -> str:
    """Return the checks of each environment, and a summary line.

    Args:
        diagnoses: one for each environment.
        palette: the colours.
        quiet: whether to omit checks that passed; when all passed, the text is empty.
    """
    selected = [
        (one, [check for check in one.checks if not (quiet and isinstance(check, CheckOk))])
        for one in diagnoses
    ]
    parts = [
        "\n".join(
            (_heading(one, palette), *(line for check in checks for line in _lines(check, palette)))
        )
        for one, checks in selected
        if checks or not quiet
    ]
    return "\n\n".join([*parts, _summary(diagnoses, palette)]) + "\n" if parts else ""


def _check(check: Check) -> Document:
    match check:
        case CheckOk():
            status, code, message, remedy = "ok", None, check.message, None
        case CheckWarning():
            status, code, message, remedy = "warning", None, check.message, check.remedy
        case CheckFailed(failure=failure):
            status, code, message = "failed", failure.code, failure.message
            remedy = failure.remedy or None
        case _:
            assert_never(check)
    return {
        "check": check.check,
        "status": status,
        "code": code,
        "message": message,
        "remedy": remedy,
    }


def _heading(diagnosis: Diagnosis, palette: Palette) -> str:
    name = palette.paint(palette.strong, diagnosis.environment)
    generation = f"  {diagnosis.generation}" if diagnosis.generation else ""
    return f"{name}  {visible(diagnosis.url)}{generation}"


def _lines(check: Check, palette: Palette) -> Iterator[str]:
    head = check.check.ljust(_CHECK_WIDTH)
    match check:
        case CheckOk(message=message):
            yield palette.paint(palette.good, f"  = {head}  {visible(message)}")
        case CheckWarning(message=message, remedy=remedy):
            yield palette.paint(palette.warn, f"  ? {head}  {visible(message)}")
            yield f"    {'':{_CHECK_WIDTH}}  {visible(remedy)}"
        case CheckFailed(failure=failure):
            text = f"{failure.code}: {visible(failure.message)}"
            yield palette.paint(palette.bad, f"  ! {head}  {text}")
            if failure.remedy:
                yield f"    {'':{_CHECK_WIDTH}}  {visible(failure.remedy)}"
        case _:
            assert_never(check)


def _summary(diagnoses: Sequence[Diagnosis], palette: Palette) -> str:
    checks = [type(check) for one in diagnoses for check in one.checks]
    counts = [pluralize(len(diagnoses), "environment"), f"{checks.count(CheckOk)} ok"]
    if warnings := checks.count(CheckWarning):
        counts.append(pluralize(warnings, "warning"))
    if failed := checks.count(CheckFailed):
        counts.append(f"{failed} failed")
    return palette.paint(palette.strong, f"Doctor: {', '.join(counts)}.")
