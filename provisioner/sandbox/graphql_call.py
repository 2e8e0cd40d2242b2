"""One GraphQL request in progress: its caller, its errors and the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from graphql import GraphQLError

from provisioner.sandbox import timestamps, tokens
from provisioner.sandbox.access import Caller, Refused, SignedIn
from provisioner.sandbox.tenant import tenant_of
from provisioner.sandbox.tokens import IssuedClaims, TokenKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graphql import GraphQLResolveInfo

    from provisioner.sandbox.dialect import Dialect
    from provisioner.sandbox.exchange import JsonObject
    from provisioner.sandbox.seeds import SeededRole
    from provisioner.sandbox.store import Store
    from provisioner.sandbox.tenant import Tenant

    Info: TypeAlias = "GraphQLResolveInfo[Call]"

ANY_ERROR = "An error occurred."
NO_PERMISSION = "Entity performing the request does not have permission"


@dataclass(frozen=True)
class Call:
    """The context that the resolvers of one request share.

    Attributes:
        tenants: all workspaces of the server, of which a sign-in chooses.
        tenant: the workspace of the caller; the first one for an anonymous caller.
    """

    tenants: Sequence[Tenant]
    tenant: Tenant
    caller: Caller

    @property
    def store(self) -> Store:
        """The state of the workspace."""
        return self.tenant.store

    @property
    def dialect(self) -> Dialect:
        """The dialect of the workspace."""
        return self.store.dialect

    @cached_property
    def roles(self) -> dict[str, SeededRole]:
        """The roles by id, read once per request."""
        return {role.id: role for role in self.store.roles()}

    def tenant_of(self, token: str) -> Tenant:
        """Return the workspace that a token names; the caller's if it names none."""
        return tenant_of(self.tenants, token, self.tenant)

    def failure(
        self,
        message: str,
        code: str,
        *,
        sub_code: str | None = None,
        friendly: str | None = None,
    ) -> GraphQLError:
        """Return an error; on legacy its extensions have only the code."""
        extensions: JsonObject = {"code": code}
        if self.dialect.keeps_core_keys:
            if sub_code is not None:
                extensions["subCode"] = sub_code
            extensions["userFriendlyMessage"] = friendly or ANY_ERROR
        return GraphQLError(message, extensions=extensions)

    def no_permission(self) -> GraphQLError:
        """Return the permission error (core-2.21 `137` `216`, core-1 `201` `221`, legacy `150`)."""
        if not self.dialect.keeps_core_keys:
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
        if not self.dialect.has_texts_of_2:
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
        workspace, expires = self.store.workspace_id, timestamps.seconds_of(timestamp)
        claims = IssuedClaims(TokenKind.API_KEY, workspace, workspace, int(expires), key_id)
        return {"token": tokens.sign(claims, self.store.secret, self.dialect)}


def token_refused(refusal: Refused, dialect: Dialect) -> JsonObject:
    """Return the middleware's error for a refused token (`135`, `212`, `924`)."""
    unauthenticated = refusal.error == "UNAUTHENTICATED"
    extensions: JsonObject = {"code": "UNAUTHENTICATED" if unauthenticated else "FORBIDDEN"}
    if dialect.keeps_core_keys:
        extensions["subCode"] = refusal.error
        if unauthenticated:
            extensions["userFriendlyMessage"] = {
                "id": "z+7x/s",
                "message": "You must be authenticated to perform this action.",
            }
        elif dialect.has_texts_of_2:  # 1.10 has none here (core-1 `217`)
            extensions["userFriendlyMessage"] = {
                "id": "q5OVn+",
                "message": "You do not have permission to perform this action.",
            }
    return {"message": refusal.message, "extensions": extensions}


def current_workspace(_source: None, info: Info) -> JsonObject:
    """Return the workspace of any caller with a token, for all dialects (`B-currentworkspace-…`).

    Raises:
        GraphQLError: the caller is anonymous; 2.21 words that otherwise than for keys (`134`).
    """
    call = info.context
    if isinstance(call.caller, Refused):
        code = "FORBIDDEN" if call.dialect.has_texts_of_2 else "INTERNAL_SERVER_ERROR"
        raise call.failure("Forbidden resource", code)
    return {"id": call.store.workspace_id, "displayName": call.tenant.settings.name}
