"""Changes that a server rejects, mostly with the texts of its database."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.model.workspace import Json

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def is_uuid(text: str) -> bool:
    """Return whether a text is a UUID with hyphens."""
    return _UUID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A change that the server rejects; REST and GraphQL format it differently.

    Attributes:
        message: the text in REST's `messages` and GraphQL's `message`.
        error: REST's `error`.
        code: REST's `code`; most rejections have none.
    """

    message: str
    error: str = "BadRequestException"
    code: str | None = None


def bad_timestamp(text: str) -> Rejected:
    """Return PostgreSQL's error for an invalid date (core-1 `050`, legacy `047`)."""
    return Rejected(f'invalid input syntax for type timestamp with time zone: "{text}"')


def bad_uuid(text: str) -> Rejected:
    """Return PostgreSQL's error for an invalid UUID (core-1 `057`, legacy `054`)."""
    return Rejected(f'invalid input syntax for type uuid: "{text}"')


def null_column(column: str, relation: str = "apiKey") -> Rejected:
    """Return PostgreSQL's error for a missing value (core-1 `043` `054`, legacy `045` `060`)."""
    return Rejected(
        f'null value in column "{column}" of relation "{relation}" violates not-null constraint'
    )


def nul_byte() -> Rejected:
    """Return PostgreSQL's error for U+0000 (core-1 `063`, legacy `070`)."""
    return Rejected('invalid byte sequence for encoding "UTF8": 0x00')


def stored_name(value: Json) -> str:
    """Return a name as it is stored: `123` becomes `"123"` (legacy `066`, core-1 `186`).

    Among values that are not texts, only numbers are recorded.
    """
    if isinstance(value, str):
        # JSON may contain half a surrogate pair; Node.js and the database replace it.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return str(value).lower() if isinstance(value, bool) else str(value)
