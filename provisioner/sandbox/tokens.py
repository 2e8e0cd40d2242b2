"""JSON Web Tokens, signed with HMAC, with the same claims as Twenty's own tokens.

`sub`, `workspaceId`, `type`, `jti` and `exp` are as observed on the recorded servers. The newest
signs with ES256; here its tokens only look so: a HMAC-SHA512 is as long as that signature, and
only this server verifies it.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import hmac
import json
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.sandbox.dialect import Dialect


class TokenKind(enum.StrEnum):
    """The claim `type`."""

    API_KEY = "API_KEY"
    ACCESS = "ACCESS"
    LOGIN = "LOGIN"
    REFRESH = "REFRESH"
    WORKSPACE_AGNOSTIC = "WORKSPACE_AGNOSTIC"


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


def sign(claims: IssuedClaims, secret: bytes, dialect: Dialect) -> str:
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
    signed = f"{_encode(_header(secret, dialect))}.{_encode(json.dumps(payload).encode())}"
    return f"{signed}.{_encode(_signature(signed, secret, dialect))}"


def read(token: str, secret: bytes, dialect: Dialect) -> IssuedClaims | str:
    """Return the claims of a token, or the server's text for an invalid one (`004`, `005`, `909`).

    The text for a token that someone else signed is not recorded on legacy and core-1. The newest
    gives the same text for a token whose signing key was revoked (by its source).
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
        return "Token invalid." if dialect.has_texts_of_2 else "No payload"
    if not hmac.compare_digest(given_signature, _signature(signed, secret, dialect)):
        return "Token invalid."
    return "Token has expired." if claims.expires <= time.time() else claims


def workspace_of(token: str) -> str | None:
    """Return the workspace that a token names, whoever signed it; None if it names none."""
    try:
        return str(json.loads(_decode(token.split(".")[1]))["workspaceId"])
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def _header(secret: bytes, dialect: Dialect) -> bytes:
    if not dialect.names_signing_key:
        return b'{"alg":"HS256","typ":"JWT"}'
    kid = uuid.uuid5(uuid.NAMESPACE_OID, secret.hex())
    return f'{{"alg":"ES256","typ":"JWT","kid":"{kid}"}}'.encode()


def _signature(signed: str, secret: bytes, dialect: Dialect) -> bytes:
    digest = hashlib.sha512 if dialect.names_signing_key else hashlib.sha256
    return hmac.new(secret, signed.encode(), digest).digest()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
