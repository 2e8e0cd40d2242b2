"""JSON Web Tokens, signed with HS256, with the same claims as Twenty's own tokens.

`sub`, `workspaceId`, `type`, `jti` and `exp` are as observed on the recorded servers.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import hmac
import json
import time
from dataclasses import dataclass

from provisioner.sandbox.dialect import Dialect

_HEADER = b'{"alg":"HS256","typ":"JWT"}'


class TokenKind(enum.StrEnum):
    """The claim `type`."""

    API_KEY = "API_KEY"
    ACCESS = "ACCESS"
    LOGIN = "LOGIN"
    REFRESH = "REFRESH"


@dataclass(frozen=True, slots=True)
class IssuedClaims:
    """The claims of a token.

    Attributes:
        subject: the workspace for an API key, the user for every other kind.
        expires: the expiry in seconds since 1970.
        key: the id of the API key, the claim `jti`; None for every other kind.
    """

    kind: TokenKind
    workspace: str
    subject: str
    expires: int
    key: str | None = None


def sign(claims: IssuedClaims, secret: bytes) -> str:
    """Return a signed token with these claims."""
    payload: dict[str, str | int] = {
        "sub": claims.subject,
        "workspaceId": claims.workspace,
        "type": claims.kind,
        "iat": int(time.time()),
        "exp": claims.expires,
    }
    if claims.key is None:
        payload["userId"] = claims.subject
    else:
        payload["jti"] = claims.key
    signed = f"{_encode(_HEADER)}.{_encode(json.dumps(payload).encode())}"
    return f"{signed}.{_encode(_signature(signed, secret))}"


def read(token: str, secret: bytes, dialect: Dialect) -> IssuedClaims | str:
    """Return the claims of a token, or the server's text for an invalid one (`004`, `005`, `909`).

    The text for a token that someone else signed is not recorded on legacy and core-1.
    """
    signed, _, signature = token.rpartition(".")
    try:
        payload = json.loads(_decode(signed.partition(".")[2]))
        claims = IssuedClaims(
            kind=TokenKind(payload["type"]),
            workspace=payload["workspaceId"],
            subject=payload["sub"],
            expires=payload["exp"],
            key=payload.get("jti"),
        )
        given_signature = _decode(signature)
    except (ValueError, KeyError, TypeError):
        return "Token invalid." if dialect is Dialect.CORE else "No payload"
    if not hmac.compare_digest(given_signature, _signature(signed, secret)):
        return "Token invalid."
    return "Token has expired." if claims.expires <= time.time() else claims


def _signature(signed: str, secret: bytes) -> bytes:
    return hmac.new(secret, signed.encode(), hashlib.sha256).digest()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
