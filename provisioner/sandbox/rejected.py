"""Requests that a server rejects: by its web framework, its handlers or its database."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.model.workspace import Json
    from provisioner.sandbox.exchange import JsonObject

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class RejectedError(Exception):
    """A request that the server rejects; GraphQL reports it as an internal error (`153`, `159`).

    Args:
        message: the text in REST's `messages` and GraphQL's `message`.
        error: REST's `error`.
        code: REST's `code`; most rejections have none.
        status: the status of the REST answer.
    """

    def __init__(
        self,
        message: str,
        *,
        error: str = "BadRequestException",
        code: str | None = None,
        status: int = 400,
    ) -> None:
        super().__init__(message)
        self.error = error
        self.code = code
        self.status = status

    def body(self) -> JsonObject:
        """Return the body of the REST answer (`040`, `054`)."""
        code: JsonObject = {} if self.code is None else {"code": self.code}
        messages: list[Json] = [str(self)]
        return {"statusCode": self.status, "error": self.error, "messages": messages, **code}


class FrameworkError(RejectedError):
    """An error of the web framework, which has `message`, not `messages` (`039`, `220`)."""

    def __init__(self, message: str, *, status: int = 400, error: str = "Bad Request") -> None:
        super().__init__(message, error=error, status=status)

    def body(self) -> JsonObject:
        """Return the body of the answer."""
        return {"statusCode": self.status, "message": str(self), "error": self.error}


def bad_timestamp(text: str) -> RejectedError:
    """Return PostgreSQL's error for an invalid date (core-1 `050`, legacy `047`)."""
    return RejectedError(f'invalid input syntax for type timestamp with time zone: "{text}"')


def bad_uuid(text: str) -> RejectedError:
    """Return PostgreSQL's error for an invalid UUID (core-1 `057`, legacy `054`)."""
    return RejectedError(f'invalid input syntax for type uuid: "{text}"')


def null_column(column: str, relation: str = "apiKey") -> RejectedError:
    """Return PostgreSQL's error for a missing value (core-1 `043` `054`, legacy `045` `060`)."""
    return RejectedError(
        f'null value in column "{column}" of relation "{relation}" violates not-null constraint'
    )


def is_uuid(text: str) -> bool:
    """Return whether a text is a UUID with hyphens."""
    return _UUID.fullmatch(text) is not None


def stored_name(value: Json) -> str:
    """Return a name as it is stored: `123` becomes `"123"` (legacy `066`, core-1 `186`).

    Among values that are not texts, only numbers are recorded.

    Raises:
        RejectedError: PostgreSQL's error for U+0000 (core-1 `063`, legacy `070`).
    """
    if isinstance(value, bool):
        return str(value).lower()
    # JSON may contain half a surrogate pair; Node.js and the database replace it.
    name = str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if "\0" in name:
        raise RejectedError('invalid byte sequence for encoding "UTF8": 0x00')
    return name
