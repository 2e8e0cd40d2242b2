"""What a sink holds, as far as a plan needs to know: claims, and never the token itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.errors.failure import Failure


@dataclass(frozen=True, slots=True)
class NoToken:
    """The sink was looked into, and nothing is there."""


@dataclass(frozen=True, slots=True)
class ApiKeyToken:
    """A token of an API key.

    Attributes:
        key: the id of the key that it says it is for.
        ends: when it ends; None where it never does.
        issued: when it was minted; None where it does not tell.
    """

    key: str
    expires_at: datetime | None
    issued_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NotAToken:
    """Something is there that is no token of an API key."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The sink cannot be read back.

    Attributes:
        updated_at: when it last changed, by this machine's clock, where the sink tells.
        only_writes: whether nothing but a write of the value moves that time.
    """

    updated_at: datetime | None
    only_writes: bool = True


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The sink could not be looked into."""

    failure: Failure


SinkContent = NoToken | ApiKeyToken | NotAToken | Unreadable | Unavailable
"""What one sink holds at the moment of the plan."""
