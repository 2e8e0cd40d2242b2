"""The context of one server: its state, its dialect and the durations that it simulates."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.sandbox.dialect import Dialect
    from provisioner.sandbox.exchange import Json
    from provisioner.sandbox.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxWorkspace:
    """A workspace that is being served.

    Attributes:
        create_seconds: how long one create takes: a REST create, a whole batch, or each aliased
            `createApiKey`.
        role_seconds: how long after its row a key on 2.21 gets its role.
        session_seconds: the lifetime of the access token that a sign-in returns.
        page_core_list: whether `/rest/metadata/apiKeys` answers in pages.
    """

    store: Store
    dialect: Dialect
    create_seconds: float
    role_seconds: float
    session_seconds: float
    page_core_list: bool

    def wait_for_create(self) -> None:
        """Wait for the duration of one create, without holding a lock."""
        if self.create_seconds:
            time.sleep(self.create_seconds)

    def wait_for_role(self) -> None:
        """Wait for the time in which a new key has no role yet, without holding a lock."""
        time.sleep(self.role_seconds)


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
