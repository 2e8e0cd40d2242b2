"""The claims of a token: its workspace, its key and its expiry."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.secret import Secret

_PART = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
"""The characters of each of the three parts; the base64 decoder would ignore any others."""

_SIGNATURE_LENGTHS = {"HS256": 43, "HS384": 64, "HS512": 86, "ES256": 86}
"""Characters of the signature by algorithm, to detect a truncated token."""


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """The claims of a token, unverified: only the server can check the signature.

    Attributes:
        workspace: the workspace id; None if there is none.
        key: the id of the API key (`jti`); None for every other kind of token.
        kind: Twenty's name for the kind of token, such as `API_KEY` or `ACCESS`.
        expires_at: its expiry in whole seconds; None for a token that never expires.
        issued_at: the time it was minted (`iat`, which every common library writes); None if
            there is none.
        signing_key: the id of the server's key that signed it (`kid`); None if it names none.
    """

    workspace: str | None
    key: str | None
    kind: str | None
    expires_at: datetime | None
    issued_at: datetime | None
    signing_key: str | None = None


def claims_of(token: Secret) -> TokenClaims | None:
    """Return the claims of a token; None if it is not a token of Twenty, or is truncated.

    Every token of Twenty is a JWT with `workspaceId` (docs/twenty-api.md, "Tokens").
    """
    header, _, rest = token.reveal().partition(".")
    payload, _, signature = rest.partition(".")
    header_claims, claims = _decode(header), _decode(payload)
    if header_claims is None or claims is None or not _PART.fullmatch(signature):
        return None
    if len(signature) != _SIGNATURE_LENGTHS.get(str(header_claims.get("alg")), len(signature)):
        return None
    texts = {name: claim for name, claim in claims.items() if isinstance(claim, str)}
    return TokenClaims(
        workspace=texts.get("workspaceId"),
        key=texts.get("jti"),
        kind=texts.get("type"),
        expires_at=_timestamp(claims.get("exp")),
        issued_at=_timestamp(claims.get("iat")),
        signing_key=signing_key
        if isinstance(signing_key := header_claims.get("kid"), str)
        else None,
    )


def _decode(part: str) -> dict[str, object] | None:
    """Decode a part of a token; None if it is not a JSON object in unpadded base64."""
    if not _PART.fullmatch(part):
        return None
    try:
        decoded = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) else None


def _timestamp(claim: object) -> datetime | None:
    """Convert seconds since 1970; None if there is no number, or the year is beyond 9999."""
    try:
        return datetime.fromtimestamp(claim, UTC) if isinstance(claim, int | float) else None
    except (ValueError, OverflowError, OSError):
        return None
