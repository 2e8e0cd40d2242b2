"""Tokens of keys: minted and verified in the same way on every generation.

`/metadata` mints on all recorded servers (legacy-0.60 `148`, core-1 `194`, core-2.21 `189`), and
accepts the id as a literal whatever type it declares for it (`920-mint-literal`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.expiry import format_milliseconds
from provisioner.secret import Secret, is_token

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.twenty.client import Client

_MINT = "mutation{generateApiKeyToken(apiKeyId:%s,expiresAt:%s){token}}"
_KEY_NOT_LIVE = ("This API Key ", "API Key with id ")
"""Errors for a key that is revoked, expired or unknown (core-1 `218`, `925`, `199`)."""

PROBE = "{__typename}"
"""Query that any role may send; refused for an invalid, revoked or expired token (`921`, `929`)."""


def mint(client: Client, key_id: str, expires_at: datetime) -> Secret:
    """Mint a new token for a live key.

    Raises:
        WorkspaceError: no token was minted, or the answer was lost.
    """
    answer = client.mutate(
        _MINT % (json.dumps(key_id), json.dumps(format_milliseconds(expires_at))), {}
    )
    found = (answer.data or {}).get("generateApiKeyToken")
    token = found.get("token") if isinstance(found, dict) else None
    if answer.has_error(_KEY_NOT_LIVE):
        raise WorkspaceError(
            Code.TOKEN_REFUSED,
            f"{client.environment} did not mint a token for the key {key_id} ({answer.quote}).",
            remedy="Someone revoked this key or the credential's own key: run again.",
        )
    if answer.errors or not isinstance(token, str) or not token:
        raise client.refusal(answer)
    if not is_token(token):
        raise WorkspaceError(
            Code.TOKEN_REFUSED,
            f"{client.environment} minted something that is not a token for the key {key_id}.",
            remedy="Nothing was delivered; check the key in Twenty itself.",
        )
    return Secret.received(token)


def verify_token(client: Client, token: Secret) -> None:
    """Check that the server accepts a token.

    Raises:
        WorkspaceError: the server does not accept it, or no answer came.
    """
    answer = client.query_as(token, PROBE)
    if answer.ok and answer.data is not None and not answer.errors:
        return
    code, message, remedy = client.explain(answer)
    if code in (Code.SERVER_ERROR, Code.RATE_LIMITED):
        raise WorkspaceError(code, message, remedy=remedy)
    raise WorkspaceError(
        Code.TOKEN_REFUSED,
        f"{client.environment} minted a token but does not accept it ({code}).",
        remedy="Nothing was delivered; check the key in Twenty itself.",
    )
