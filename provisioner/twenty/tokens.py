"""Tokens of keys: minted and proven, in the same way on every generation.

`/metadata` mints on all recorded servers (legacy-0.60 `148`, core-1 `194`, core-2.21 `189`), and
takes the id as a literal whatever type it declares for it (`920-mint-literal`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.expiry import format_milliseconds
from provisioner.secret import Secret, is_token

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.twenty.client import Client

_MINT = "mutation{generateApiKeyToken(apiKeyId:%s,expiresAt:%s){token}}"
_KEY_IS_DEAD = ("This API Key ", "API Key with id ")
"""Said of a key that is revoked, expired or unknown (core-1 `218`, `925`, `199`)."""

HARMLESS = "{__typename}"
"""Answered for any role; refused for a token that is wrong, revoked or expired (`921`, `929`)."""


def mint(client: Client, key_id: str, expires_at: datetime) -> Secret:
    """A new token of a live key.

    Raises:
        WorkspaceError: when none was minted, or its answer was lost.
    """
    answer = client.mutate(
        _MINT % (json.dumps(key_id), json.dumps(format_milliseconds(expires_at))), {}
    )
    found = (answer.data or {}).get("generateApiKeyToken")
    token = found.get("token") if isinstance(found, dict) else None
    if answer.says(_KEY_IS_DEAD):
        raise WorkspaceError(
            "token_refused",
            f"{client.environment} mints no token for the key {key_id} ({answer.quote}).",
            remedy="Someone ended the key, or the credential's own: run again.",
        )
    if answer.errors or not isinstance(token, str) or not token:
        raise client.refused(answer)
    if not is_token(token):
        raise WorkspaceError(
            "token_refused",
            f"What {client.environment} minted for the key {key_id} is no token.",
            remedy="Nothing was delivered; look at the key in Twenty itself.",
        )
    return Secret.received(token)


def verify_token(client: Client, token: Secret) -> None:
    """Has the server accept a token.

    Raises:
        WorkspaceError: when it does not, or when no answer came.
    """
    answer = client.query_as(token, HARMLESS)
    if answer.ok and answer.data is not None and not answer.errors:
        return
    code, happened, remedy = client.explain(answer)
    if code in ("server_error", "rate_limited"):
        raise WorkspaceError(code, happened, remedy=remedy)
    raise WorkspaceError(
        "token_refused",
        f"{client.environment} minted a token and does not accept it ({code}).",
        remedy="Nothing was delivered; look at the key in Twenty itself.",
    )
