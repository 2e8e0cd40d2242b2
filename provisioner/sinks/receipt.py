"""The text of a receipt: which token was written to a sink that cannot be read. It is no secret."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from provisioner.model.sink_content import ApiKeyToken
from provisioner.model.token_claims import claims_of

if TYPE_CHECKING:
    from provisioner.secret import Secret


class WrittenReceipt(NamedTuple):
    """A receipt as it is stored.

    Attributes:
        token: the claims of the token.
        secret: the name of the secret that holds the token; None if it names none.
        written_at: when that was written, as its server says; None if it says nothing.
    """

    token: ApiKeyToken
    secret: str | None
    written_at: datetime | None


def receipt_text(
    token: Secret, secret: str | None = None, written_at: datetime | None = None
) -> str | None:
    """Return the receipt of a token as JSON; None if it is not a token of an API key.

    Args:
        token: the token.
        secret: the name of the secret that holds it.
        written_at: when that was written, by the clock of its server.
    """
    claims = claims_of(token)
    if claims is None or claims.key is None or claims.expires_at is None:
        return None
    times = {
        "expires_at": claims.expires_at,
        "issued_at": claims.issued_at,
        "written_at": written_at,
    }
    texts = {"key": claims.key, "workspace": claims.workspace, "secret": secret}
    content = {name: text for name, text in texts.items() if text is not None}
    content |= {name: _written(time) for name, time in times.items() if time is not None}
    return json.dumps(content)


def parse_receipt(text: str) -> WrittenReceipt | None:
    """Return the receipt that a text is; None for any other text."""
    try:
        match json.loads(text):
            case {"key": str(key), "expires_at": str(expires_at), **fields}:
                workspace, secret = fields.get("workspace"), fields.get("secret")
                return WrittenReceipt(
                    ApiKeyToken(
                        key,
                        _time(expires_at),
                        _time(fields.get("issued_at")),
                        workspace=workspace if isinstance(workspace, str) else None,
                    ),
                    secret if isinstance(secret, str) else None,
                    _time(fields.get("written_at")),
                )
            case _:
                return None
    except (OverflowError, RecursionError, ValueError):
        return None


def _written(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _time(written: object) -> datetime | None:
    """Return a time of a receipt; None if it is not there.

    Raises:
        OverflowError: it is out of range.
        ValueError: it is not a time with a time zone.
    """
    if written is None:
        return None
    time = datetime.fromisoformat(str(written))
    if time.tzinfo is None:
        raise ValueError(f"{written} has no time zone")
    return time.astimezone(UTC)
