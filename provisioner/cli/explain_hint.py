"""The last line on stderr: the command that explains the codes of the errors above it."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MAX_CODES = 3
"""Codes that the line names at most, so that it stays short."""

_PRINTED: ContextVar[list[str] | None] = ContextVar("printed_codes", default=None)


def remember_codes(codes: Iterable[str]) -> None:
    """Remember codes of errors that were printed as text on stderr."""
    printed = _PRINTED.get()
    if printed is not None:
        printed.extend(codes)


@contextmanager
def explain_hint() -> Iterator[None]:
    """Print the line after the block, if errors with codes were printed in it."""
    printed: list[str] = []
    token = _PRINTED.set(printed)
    try:
        yield
    finally:
        _PRINTED.reset(token)
    if printed:
        codes = " ".join([*dict.fromkeys(printed)][:_MAX_CODES])
        with suppress(OSError):  # the exit code says what failed even if stderr is gone
            click.echo(f'Run "provision explain {codes}" to learn more.', err=True)
