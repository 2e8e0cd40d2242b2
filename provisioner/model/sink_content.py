"""The content of a sink; a plan knows the claims of a token, never the token itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from provisioner.errors.failure import Failure


@dataclass(frozen=True, slots=True)
class NoToken:
    """The sink was read and is empty.

    Attributes:
        leftover: the token of a receipt that was left beside it; None without one.
    """

    leftover: ApiKeyToken | None = None


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

    def has_claims_of(self, other: ApiKeyToken) -> bool:
        """Return whether another token has the same claims."""
        return replace(self, accepted=other.accepted) == other


@dataclass(frozen=True, slots=True)
class NotAToken:
    """The sink holds something that is not a token of an API key."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The note beside a write-only sink that says which token was written to it.

    Attributes:
        token: the claims of that token; None if there is no note, or a write came after it.
        proven: False if the sink has changed since, for a reason that need not be a write.
    """

    token: ApiKeyToken | None = None
    proven: bool = True


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The sink is write-only: its value cannot be read back.

    Attributes:
        updated_at: when the sink last changed, by the clock of this machine, corrected with the
            sink's `Date` header; None if the sink does not report it.
        only_writes: True if nothing except a write of the value changes that time.
        receipt: what its receipt says; None if it keeps none, so that only the time counts.
        no_receipt: why it keeps none although it should; None if it should not.
    """

    updated_at: datetime | None = None
    only_writes: bool = True
    receipt: Receipt | None = None
    no_receipt: Failure | None = None

    @property
    def proven_token(self) -> ApiKeyToken | None:
        """Return the token that the receipt proves to be in the sink; None if it proves none."""
        return self.receipt.token if self.receipt is not None and self.receipt.proven else None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The sink could not be read."""

    failure: Failure


SinkContent = NoToken | ApiKeyToken | NotAToken | Unreadable | Unavailable
"""The content of one sink at the time of the plan."""


def token_in(content: SinkContent) -> ApiKeyToken | None:
    """Return the token in a sink, as it was read back or as its receipt says; None if unknown."""
    match content:
        case ApiKeyToken():
            return content
        case Unreadable(receipt=Receipt(token=token)):
            return token
        case NoToken() | NotAToken() | Unreadable() | Unavailable():
            return None
        case _:
            assert_never(content)


def token_ids(contents: Iterable[SinkContent]) -> frozenset[str]:
    """Return the ids of the keys whose tokens sinks hold, in lower case."""
    return frozenset(token.key.lower() for one in contents if (token := token_in(one)))
