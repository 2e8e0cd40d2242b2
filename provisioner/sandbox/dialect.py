"""The recorded servers that the embedded Twenty can behave like."""

from __future__ import annotations

import enum

SCHEME = "sandbox:"


class Dialect(enum.StrEnum):
    """A recorded server; each has a file in `tests/recordings/`."""

    LEGACY = "legacy"
    """About 0.60: apiKey is a workspace object (`legacy-0.60.jsonl`)."""
    CORE_1 = "core-1"
    """1.10: core API keys, and an API-key token may write (`core-1.jsonl`)."""
    CORE = "core"
    """2.21: core API keys, and only a user session may write (`core-2.21.jsonl`)."""


def dialect_of(url: str) -> Dialect:
    """Return the dialect of `sandbox:`, `sandbox:core`, `sandbox:core-1` or `sandbox:legacy`.

    Raises:
        ValueError: the URL is none of these; the message lists them.
    """
    name = url.removeprefix(SCHEME)
    if name != url:
        if not name:
            return Dialect.CORE
        if name in set(Dialect):
            return Dialect(name)
    choices = ", ".join(f"{SCHEME}{dialect}" for dialect in Dialect)
    raise ValueError(f"{url!r} is not a valid sandbox URL. Use {SCHEME}, {choices}.")
