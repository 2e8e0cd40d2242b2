"""The content of a sink; a plan knows the claims of a token, never the token itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.errors.failure import Failure


@dataclass(frozen=True, slots=True)
class NoToken:
    """The sink was read and is empty."""


@dataclass(frozen=True, slots=True)
class ApiKeyToken:
    """A token of an API key.

    Attributes:
        key: the id of the key in its claims.
        expires_at: its expiry; None if it never expires.
        issued_at: the time it was minted; None if its claims do not contain it.
        accepted: False if the server refuses it, although its key may be live.
        workspace: the id of the workspace in its claims; None if they contain none.
    """

    key: str
    expires_at: datetime | None
    issued_at: datetime | None = None
    accepted: bool = True
    workspace: str | None = None


@dataclass(frozen=True, slots=True)
class NotAToken:
    """The sink holds something that is not a token of an API key."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The sink is write-only: its value cannot be read back.

    Attributes:
        updated_at: when the sink last changed, by the clock of this machine, corrected with the
            sink's `Date` header; None if the sink does not report it.
        only_writes: True if nothing except a write of the value changes that time.
    """

    updated_at: datetime | None = None
    only_writes: bool = True


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The sink could not be read."""

    failure: Failure


SinkContent = NoToken | ApiKeyToken | NotAToken | Unreadable | Unavailable
"""The content of one sink at the time of the plan."""
