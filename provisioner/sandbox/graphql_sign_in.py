"""The resolvers of the sign-in, which all dialects share.

Recorded are the password, `signIn`, `renewToken` and their errors; the second factor, `signOut`
and the refusals follow the server's source.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pyotp import TOTP

from provisioner.sandbox import timestamps, tokens
from provisioner.sandbox.tenant import SignInRefusal
from provisioner.sandbox.tokens import IssuedClaims, TokenKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from graphql import GraphQLError

    from provisioner.model.workspace import Json
    from provisioner.sandbox.exchange import JsonObject
    from provisioner.sandbox.graphql_call import Call, Info
    from provisioner.sandbox.store import User
    from provisioner.sandbox.tenant import Tenant

_LOGIN_SECONDS = 15 * 60
_REFRESH_SECONDS = 60 * 24 * 3600

_REFUSAL_CODES = {
    SignInRefusal.CAPTCHA: ("BAD_USER_INPUT", "INVALID_CAPTCHA"),
    SignInRefusal.EMAIL_NOT_VERIFIED: ("FORBIDDEN", "EMAIL_NOT_VERIFIED"),
    SignInRefusal.NOT_A_MEMBER: ("FORBIDDEN", "FORBIDDEN_EXCEPTION"),
    SignInRefusal.PASSWORD_DISABLED: ("FORBIDDEN", "FORBIDDEN_EXCEPTION"),
    SignInRefusal.WRONG_METHOD: ("BAD_USER_INPUT", "INVALID_INPUT"),
}
_OF_ONE_WORKSPACE = (SignInRefusal.NOT_A_MEMBER, SignInRefusal.PASSWORD_DISABLED)


class _Totp(TOTP):
    min_secret_length_bits = 80
    """Twenty's own secrets, made by otplib, are shorter than pyotp wants them."""


def _login(_source: None, info: Info, email: str, password: str, origin: str) -> JsonObject:
    """Answer the first step of a sign-in to one workspace."""
    call = info.context
    if not (email and password):
        if not call.dialect.keeps_core_keys:
            return {"loginToken": None}  # legacy `905` finds no token to return
        errors = [] if email else ["email must be an email", "email should not be empty"]
        errors += [] if password else ["password should not be empty"]
        raise call.failure(", ".join(errors), "BAD_USER_INPUT")
    tenant = _tenant_at(call, origin)
    if tenant.settings.refusal is not None:
        raise _refused(call, tenant.settings.refusal)
    users = [user for user in tenant.store.users() if user.email == email]
    user = _with_password(call, [(tenant, user) for user in users], password)[0][1]
    return {"loginToken": _login_token(tenant, user)}


def _sign_in(_source: None, info: Info, email: str, password: str) -> JsonObject:
    """Answer a sign-in to the whole server, with a login token for each workspace (`D-signin`)."""
    call = info.context
    found = [
        (tenant, user)
        for tenant in call.tenants
        for user in tenant.store.users()
        if user.email == email and tenant.settings.refusal is not SignInRefusal.NOT_A_MEMBER
    ]
    for tenant, _ in found:
        refusal = tenant.settings.refusal
        if refusal is not None and refusal not in _OF_ONE_WORKSPACE:
            raise _refused(call, refusal)
    found = _with_password(call, found, password)
    first, user = found[0]
    subject, now = user.id, time.time()
    access = _token(first, TokenKind.WORKSPACE_AGNOSTIC, subject, now + first.session_seconds)
    refresh = _token(first, TokenKind.WORKSPACE_AGNOSTIC, subject, now + _REFRESH_SECONDS)
    return {
        "tokens": {_access_name(call): access, "refreshToken": refresh},
        "availableWorkspaces": {
            "availableWorkspacesForSignIn": [
                {
                    "id": tenant.store.workspace_id,
                    "displayName": tenant.settings.name,
                    # By source: null where another method is demanded.
                    "loginToken": None
                    if tenant.settings.refusal
                    else _login_token(tenant, user)["token"],
                    "workspaceUrls": {
                        "subdomainUrl": f"{tenant.settings.origin or tenant.url}/",
                        "customUrl": None,
                    },
                }
                for tenant, user in found
            ]
        },
    }


def _session(_source: None, info: Info, login_token: str, origin: str) -> JsonObject:
    """Answer the second step; legacy names the access token differently (`907`, `908`)."""
    call = info.context
    tenant, user_id = _logged_in(call, login_token, origin)
    if tenant.settings.totp_secret is not None:
        required = "TWO_FACTOR_AUTHENTICATION_VERIFICATION_REQUIRED"
        text = "Two factor authentication verification required"
        raise call.failure(text, "FORBIDDEN", sub_code=required)
    return _tokens(call, tenant, user_id)


def _session_by_otp(
    _source: None, info: Info, otp: str, login_token: str, origin: str
) -> JsonObject:
    """Answer the second step with a code of the second factor: TOTP, six digits, 30 seconds.

    A step of tolerance is ours.
    """
    call = info.context
    tenant, user_id = _logged_in(call, login_token, origin)
    if tenant.settings.refusal is SignInRefusal.CAPTCHA:
        raise _refused(call, SignInRefusal.CAPTCHA)
    secret = tenant.settings.totp_secret
    if secret is None or not _Totp(secret).verify(otp, valid_window=1):
        friendly = "Invalid verification code. Please try again."
        raise call.failure(
            "Invalid OTP", "BAD_USER_INPUT", sub_code="INVALID_OTP", friendly=friendly
        )
    return _tokens(call, tenant, user_id)


def _renew(_source: None, info: Info, app_token: str) -> JsonObject:
    """Exchange a refresh token for a session; it can be used again (`D-renew-token-again`)."""
    call = info.context
    tenant, claims = _read(call, app_token, TokenKind.REFRESH)
    if app_token in tenant.store.signed_out:
        raise _invalid(call)
    return _tokens(call, tenant, claims.subject)


def _sign_out(_source: None, info: Info, refresh_token: str | None = None) -> bool:
    """End a session: its refresh token is no longer accepted.

    Not recorded: its access token is accepted until it expires.
    """
    call = info.context
    if refresh_token is not None:
        tenant, _ = _read(call, refresh_token, TokenKind.REFRESH)
        tenant.store.signed_out.add(refresh_token)
    return True


def _tenant_at(call: Call, origin: str) -> Tenant:
    """Return the workspace at an origin, or the first one that accepts any (`906`)."""
    wanted = origin.rstrip("/")
    at = {tenant.settings.origin: tenant for tenant in reversed(call.tenants)}
    tenant = at.get(wanted) or at.get(None)
    if tenant is None:
        raise call.failure(
            "Workspace not found", "INTERNAL_SERVER_ERROR", sub_code="WORKSPACE_NOT_FOUND"
        )
    return tenant


def _with_password(
    call: Call, found: list[tuple[Tenant, User]], password: str
) -> list[tuple[Tenant, User]]:
    """Return those users who have this password; raise the error if there are none."""
    newest = call.dialect.has_texts_of_2
    if not found:
        raise call.failure(
            "User not found",
            "UNAUTHENTICATED",
            sub_code="USER_NOT_FOUND",
            friendly="User not found." if newest else None,
        )
    right = [(tenant, user) for tenant, user in found if user.password == password]
    if not right:
        raise call.failure(
            "Wrong password",
            "FORBIDDEN",
            sub_code="FORBIDDEN_EXCEPTION",
            friendly="Wrong password." if newest else "Wrong password",
        )
    return right


def _logged_in(call: Call, login_token: str, origin: str) -> tuple[Tenant, str]:
    """Return the workspace and the user of a login token.

    Not recorded: the token of another workspace than that of the origin.
    """
    tenant, claims = _read(call, login_token, TokenKind.LOGIN)
    if _tenant_at(call, origin) is not tenant:
        text = "Token is not valid for this workspace"
        raise call.failure(text, "FORBIDDEN", sub_code="FORBIDDEN_EXCEPTION")
    return tenant, claims.subject


def _read(call: Call, token: str, kind: TokenKind) -> tuple[Tenant, IssuedClaims]:
    """Return the workspace and the claims of a token of one kind."""
    tenant = call.tenant_of(token)
    claims = tokens.read(token, tenant.store.secret, call.dialect)
    if isinstance(claims, str) or claims.kind is not kind:
        raise _invalid(call, claims if isinstance(claims, str) else "Token invalid.")
    return tenant, claims


def _invalid(call: Call, text: str = "Token invalid.") -> GraphQLError:
    return call.failure(
        text,
        "UNAUTHENTICATED",
        sub_code="UNAUTHENTICATED",
        friendly="You must be authenticated to perform this action.",
    )


def _refused(call: Call, refusal: SignInRefusal) -> GraphQLError:
    code, sub_code = _REFUSAL_CODES[refusal]
    return call.failure(refusal.value, code, sub_code=sub_code)


def _tokens(call: Call, tenant: Tenant, user_id: str) -> JsonObject:
    now = time.time()
    access = _token(tenant, TokenKind.ACCESS, user_id, now + tenant.session_seconds)
    refresh = _token(tenant, TokenKind.REFRESH, user_id, now + _REFRESH_SECONDS)
    return {"tokens": {_access_name(call): access, "refreshToken": refresh}}


def _access_name(call: Call) -> str:
    return "accessOrWorkspaceAgnosticToken" if call.dialect.keeps_core_keys else "accessToken"


def _login_token(tenant: Tenant, user: User) -> dict[str, Json]:
    return _token(tenant, TokenKind.LOGIN, user.id, time.time() + _LOGIN_SECONDS)


def _token(tenant: Tenant, kind: TokenKind, subject: str, expires: float) -> JsonObject:
    """Return a new token of a user and its expiry, which is in seconds since 1970."""
    claims = IssuedClaims(kind, tenant.store.workspace_id, subject, int(expires))
    token = tokens.sign(claims, tenant.store.secret, tenant.store.dialect)
    return {"token": token, "expiresAt": timestamps.text_of(expires)}


SIGN_IN: Mapping[str, Callable[..., Any]] = {
    "Mutation.getLoginTokenFromCredentials": _login,
    "Mutation.getAuthTokensFromLoginToken": _session,
    "Mutation.getAuthTokensFromOTP": _session_by_otp,
    "Mutation.signIn": _sign_in,
    "Mutation.renewToken": _renew,
    "Mutation.signOut": _sign_out,
}
"""The resolvers by type and field."""
