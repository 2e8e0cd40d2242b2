"""The caller of a request, read from `Authorization` and checked against the workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.sandbox import timestamps, tokens
from provisioner.sandbox.tokens import TokenKind

if TYPE_CHECKING:
    from provisioner.sandbox.seeds import SeededRole
    from provisioner.sandbox.store import Store


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A caller with the token of an API key, or with the session of a user.

    Attributes:
        role: None until a key gets its role.
    """

    role: SeededRole | None
    has_session: bool

    def permits(self, flag: str) -> bool:
        """Return whether the role of the caller has a settings permission."""
        return self.role is not None and self.role.permits(flag)


@dataclass(frozen=True, slots=True)
class Refused:
    """A caller that the server refuses.

    Attributes:
        status: the status of the REST answer; GraphQL answers 200 (`145`, `212`).
        error: `UNAUTHENTICATED` or `FORBIDDEN_EXCEPTION`.
    """

    status: int
    error: str
    message: str


Caller = SignedIn | Refused

ANONYMOUS = Refused(403, "FORBIDDEN_EXCEPTION", "Missing authentication token")
"""A caller without a bearer token, or with another scheme (`004`, `006`)."""


def caller_of(authorization: str, store: Store) -> Caller:
    """Return the caller that an `Authorization` header belongs to."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        return ANONYMOUS
    claims = tokens.read(token.strip(), store.secret, store.dialect)
    if isinstance(claims, str):
        return _unauthenticated(claims)
    if claims.kind is TokenKind.API_KEY:
        return _key_caller(claims.key or "", store)
    if claims.kind is not TokenKind.ACCESS:
        # Not recorded: the answer to a login or refresh token in place of an access token.
        return _unauthenticated("Token invalid.")
    user = next((user for user in store.users() if user.id == claims.subject), None)
    if user is None:
        return _unauthenticated("User not found")
    return SignedIn(store.role(user.role_id), has_session=True)


def _key_caller(key_id: str, store: Store) -> Caller:
    key = store.key(key_id)
    if key is None or key.revoked_at is not None:
        # A deleted key gets the same text (legacy `165`, `918`), and its token works again once
        # a new row has the same id (legacy `920`).
        return Refused(403, "FORBIDDEN_EXCEPTION", "This API Key is revoked")
    if store.dialect.reads_expiry_of_row and key.expires_at <= timestamps.now():
        # 0.60 and 1.10 check only the token's own date (legacy `929`, core-1 `923`).
        return Refused(403, "FORBIDDEN_EXCEPTION", "This API Key is expired")
    return SignedIn(store.role(key.role_id), has_session=False)


def _unauthenticated(message: str) -> Refused:
    return Refused(401, "UNAUTHENTICATED", message)
