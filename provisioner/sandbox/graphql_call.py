"""One GraphQL request in progress: its caller, its errors, the sign-in and the tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from graphql import GraphQLError

from provisioner.sandbox import timestamps, tokens
from provisioner.sandbox.access import Caller, Refused, SignedIn
from provisioner.sandbox.dialect import Dialect
from provisioner.sandbox.tokens import IssuedClaims, TokenKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from graphql import GraphQLResolveInfo

    from provisioner.sandbox.exchange import JsonObject
    from provisioner.sandbox.seeds import SeededRole
    from provisioner.sandbox.store import Store

    Info: TypeAlias = "GraphQLResolveInfo[Call]"

ANY_ERROR = "An error occurred."
NO_PERMISSION = "Entity performing the request does not have permission"

_LOGIN_SECONDS = 15 * 60
_REFRESH_SECONDS = 60 * 24 * 3600


@dataclass(frozen=True)
class Call:
    """The context that the resolvers of one request share.

    Attributes:
        session_seconds: the lifetime of the access token that a sign-in returns.
    """

    store: Store
    caller: Caller
    session_seconds: float

    @property
    def dialect(self) -> Dialect:
        """The dialect of the workspace."""
        return self.store.dialect

    @cached_property
    def roles(self) -> dict[str, SeededRole]:
        """The roles by id, read once per request."""
        return {role.id: role for role in self.store.roles()}

    def failure(
        self, message: str, code: str, *, sub_code: str | None = None, friendly: str = ANY_ERROR
    ) -> GraphQLError:
        """Return an error; on legacy its extensions have only the code."""
        extensions: JsonObject = {"code": code}
        if self.dialect is not Dialect.LEGACY:
            if sub_code is not None:
                extensions["subCode"] = sub_code
            extensions["userFriendlyMessage"] = friendly
        return GraphQLError(message, extensions=extensions)

    def no_permission(self) -> GraphQLError:
        """Return the permission error (core-2.21 `137` `216`, core-1 `201` `221`, legacy `150`)."""
        if self.dialect is Dialect.LEGACY:
            return self.failure("User does not have permission", "FORBIDDEN")
        return self.failure(
            NO_PERMISSION,
            "FORBIDDEN",
            sub_code="PERMISSION_DENIED",
            friendly="User does not have permission.",
        )

    def signed_in(self) -> SignedIn:
        """Return the caller.

        Raises:
            GraphQLError: the caller is not signed in (`134`, `151`).
        """
        if isinstance(self.caller, SignedIn):
            return self.caller
        if self.dialect is not Dialect.CORE:
            raise self.failure("Forbidden resource", "INTERNAL_SERVER_ERROR")
        answer: JsonObject = {"error": "Forbidden", "statusCode": 403}
        extensions: JsonObject = {
            "code": "FORBIDDEN",
            "response": {"message": "Forbidden resource", **answer},
            "userFriendlyMessage": ANY_ERROR,
        }
        raise GraphQLError("Forbidden resource", extensions=extensions)

    def mint(self, key_id: str, expires_at: str) -> JsonObject:
        """Return a token for a key; it expires as the argument says, not the row (`191`, `192`)."""
        timestamp = timestamps.javascript_date(expires_at)
        if timestamp is None:
            raise self.failure(
                '"expiresIn" should be a number of seconds or string representing a timespan',
                "INTERNAL_SERVER_ERROR",
            )
        subject, expires = self.store.workspace_id, timestamps.seconds_of(timestamp)
        return self.token(TokenKind.API_KEY, subject, expires, key_id)

    def token(
        self, kind: TokenKind, subject: str, expires: float, key: str | None = None
    ) -> JsonObject:
        """Return a new token and its expiry, which is in seconds since 1970."""
        claims = IssuedClaims(kind, self.store.workspace_id, subject, int(expires), key)
        token = tokens.sign(claims, self.store.secret)
        return {"token": token, "expiresAt": timestamps.text_of(expires)}


def token_refused(refusal: Refused, dialect: Dialect) -> JsonObject:
    """Return the middleware's error for a refused token (`135`, `212`, `924`)."""
    unauthenticated = refusal.error == "UNAUTHENTICATED"
    extensions: JsonObject = {"code": "UNAUTHENTICATED" if unauthenticated else "FORBIDDEN"}
    if dialect is not Dialect.LEGACY:
        extensions["subCode"] = refusal.error
        if unauthenticated:
            extensions["userFriendlyMessage"] = {
                "id": "z+7x/s",
                "message": "You must be authenticated to perform this action.",
            }
        elif dialect is Dialect.CORE:  # 1.10 has none here (core-1 `217`)
            extensions["userFriendlyMessage"] = {
                "id": "q5OVn+",
                "message": "You do not have permission to perform this action.",
            }
    return {"message": refusal.message, "extensions": extensions}


def _login(_source: None, info: Info, email: str, password: str, **_origin: str) -> JsonObject:
    """Answer the first step of a sign-in; the origin is ignored (`906`)."""
    call = info.context
    if not (email and password):
        if call.dialect is Dialect.LEGACY:
            return {"loginToken": None}  # legacy `905` finds no token to return
        errors = [] if email else ["email must be an email", "email should not be empty"]
        errors += [] if password else ["password should not be empty"]
        raise call.failure(", ".join(errors), "BAD_USER_INPUT")
    user = next((user for user in call.store.users() if user.email == email), None)
    newest = call.dialect is Dialect.CORE
    if user is None:
        raise call.failure(
            "User not found",
            "UNAUTHENTICATED",
            sub_code="USER_NOT_FOUND",
            friendly="User not found." if newest else ANY_ERROR,
        )
    if user.password != password:
        raise call.failure(
            "Wrong password",
            "FORBIDDEN",
            sub_code="FORBIDDEN_EXCEPTION",
            friendly="Wrong password." if newest else "Wrong password",
        )
    return {"loginToken": call.token(TokenKind.LOGIN, user.id, time.time() + _LOGIN_SECONDS)}


def _session(_source: None, info: Info, login_token: str, **_origin: str) -> JsonObject:
    """Answer the second step; legacy names the access token differently (`907`, `908`)."""
    call = info.context
    claims = tokens.read(login_token, call.store.secret, call.dialect)
    if isinstance(claims, str) or claims.kind is not TokenKind.LOGIN:
        raise call.failure(
            claims if isinstance(claims, str) else "Token invalid.",
            "UNAUTHENTICATED",
            sub_code="UNAUTHENTICATED",
            friendly="You must be authenticated to perform this action.",
        )
    name = "accessToken" if call.dialect is Dialect.LEGACY else "accessOrWorkspaceAgnosticToken"
    user_id, now = claims.subject, time.time()
    access = call.token(TokenKind.ACCESS, user_id, now + call.session_seconds)
    refresh = call.token(TokenKind.REFRESH, user_id, now + _REFRESH_SECONDS)
    return {"tokens": {name: access, "refreshToken": refresh}}


SIGN_IN: Mapping[str, Callable[..., Any]] = {
    "Mutation.getLoginTokenFromCredentials": _login,
    "Mutation.getAuthTokensFromLoginToken": _session,
}
"""The resolvers of the sign-in, which all dialects share."""
