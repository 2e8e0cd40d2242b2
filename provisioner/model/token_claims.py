"""What a token says of itself: which key of which workspace it is for, and when it ends."""

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
"""What each of the three parts is made of; the decoder of base64 passes over anything else."""

_SIGNATURE_LENGTHS = {"HS256": 43, "HS384": 64, "HS512": 86, "ES256": 86}
"""Signs of the signature by the algorithm, so that one that was cut short is noticed."""


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """The claims of a token, unverified: only its server can tell whether it signed them.

    Attributes:
        workspace: the workspace id, None where it shows none.
        key: the id of the API key (`jti`), None for every other kind of token.
        kind: Twenty's word for the kind of token, as `API_KEY` or `ACCESS`.
        ends: when it ends, in whole seconds; None for a token that never does.
        issued: when it was minted (`iat`, which every common library writes); None where it is
            not told.
    """

    workspace: str | None
    key: str | None
    kind: str | None
    expires_at: datetime | None
    issued_at: datetime | None


def claims_of(token: Secret) -> TokenClaims | None:
    """What the token says; None where it is no token of Twenty, or not a whole one.

    Every token of Twenty is a JWT with `workspaceId` (docs/twenty-api.md, "Tokens").
    """
    header, _, rest = token.reveal().partition(".")
    payload, _, signature = rest.partition(".")
    head, claims = _decode(header), _decode(payload)
    if head is None or claims is None or not _PART.fullmatch(signature):
        return None
    if len(signature) != _SIGNATURE_LENGTHS.get(str(head.get("alg")), len(signature)):
        return None
    return TokenClaims(
        workspace=_text(claims.get("workspaceId")),
        key=_text(claims.get("jti")),
        kind=_text(claims.get("type")),
        expires_at=_timestamp(claims.get("exp")),
        issued_at=_timestamp(claims.get("iat")),
    )


def _decode(part: str) -> dict[str, object] | None:
    """A part of a token, a JSON object in unpadded base64; None where it is no such thing."""
    if not _PART.fullmatch(part):
        return None
    try:
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _text(claim: object) -> str | None:
    return claim if isinstance(claim, str) else None


def _timestamp(claim: object) -> datetime | None:
    """The moment of seconds since 1970; None where there is none, or one beyond the year 9999."""
    try:
        return datetime.fromtimestamp(claim, UTC) if isinstance(claim, int | float) else None
    except (ValueError, OverflowError, OSError):
        return None
