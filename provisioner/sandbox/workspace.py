"""What the parts of one server share: its state, its dialect and how long a create takes."""

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
    """One served workspace.

    Attributes:
        create_seconds: what one create takes: a REST create, a batch as a whole, each aliased
            `createApiKey`.
        role_seconds: how long after its row a key of 2.21 gets its role.
        session_seconds: the life of the access token of a sign-in.
        page_core_list: whether `/rest/metadata/apiKeys` answers in pages.
    """

    store: Store
    dialect: Dialect
    create_seconds: float
    role_seconds: float
    session_seconds: float
    page_core_list: bool

    def work(self) -> None:
        """Lets the time of one create pass, holding nothing that others need."""
        if self.create_seconds:
            time.sleep(self.create_seconds)

    def work_on_role(self) -> None:
        """Lets the time pass in which a key has no role yet, holding nothing that others need."""
        time.sleep(self.role_seconds)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A change that the server refuses; REST and GraphQL word the same refusal differently.

    Attributes:
        message: the text in `messages` of REST and in `message` of GraphQL.
        error: the `error` of REST.
        code: the `code` of REST, which most refusals lack.
    """

    message: str
    error: str = "BadRequestException"
    code: str | None = None


def bad_timestamp(text: str) -> Rejected:
    """PostgreSQL's text for a date that it cannot read (core-1 `050`, legacy `047`)."""
    return Rejected(f'invalid input syntax for type timestamp with time zone: "{text}"')


def bad_uuid(text: str) -> Rejected:
    """PostgreSQL's text for an id that is none (core-1 `057`, legacy `054`)."""
    return Rejected(f'invalid input syntax for type uuid: "{text}"')


def null_column(column: str, relation: str = "apiKey") -> Rejected:
    """PostgreSQL's text for a missing value (core-1 `043` `054`, legacy `045` `060`)."""
    return Rejected(
        f'null value in column "{column}" of relation "{relation}" violates not-null constraint'
    )


def nul_byte() -> Rejected:
    """PostgreSQL's text for U+0000 (core-1 `063`, legacy `070`)."""
    return Rejected('invalid byte sequence for encoding "UTF8": 0x00')


def stored_name(value: Json) -> str:
    """How a name that is no text is stored: `123` becomes `"123"` (legacy `066`, core-1 `186`).

    Not recorded for anything but numbers.
    """
    if isinstance(value, str):
        # JSON may hold half a surrogate pair, which neither Node.js nor a database passes on.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return str(value).lower() if isinstance(value, bool) else str(value)
