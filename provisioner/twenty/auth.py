"""Sessions of users: signed in at the first request, renewed before they expire, signed out."""

from __future__ import annotations

import threading
import time
from math import inf
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.activity import SigningIn
from provisioner.model.expiry import parse_timestamp
from provisioner.runtime.cancellation import STOPPED
from provisioner.secret import Secret, is_token
from provisioner.twenty.answers import explain
from provisioner.twenty.transport import LostAnswerError

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.model.environment import Environment, SignIn
    from provisioner.model.workspace import Json
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.sign_ins import SignIns
    from provisioner.twenty.transport import Transport

_LOGIN = (
    "mutation($email:String!,$password:String!,$origin:String!){getLoginTokenFromCredentials"
    "(email:$email,password:$password,origin:$origin){loginToken{token}}}"
)
# The field of a session's token differs, so it is filled in.
_SESSION = "{tokens{%s{token expiresAt} refreshToken{token}}}}"
_EXCHANGE = (
    "mutation($login:String!,$origin:String!)"
    "{getAuthTokensFromLoginToken(loginToken:$login,origin:$origin)" + _SESSION
)
# The second factor is not recorded (docs/twenty-api.md, "Tokens").
_EXCHANGE_WITH_CODE = (
    "mutation($code:String!,$login:String!,$origin:String!)"
    "{getAuthTokensFromOTP(otp:$code,loginToken:$login,origin:$origin)" + _SESSION
)
_RENEW = "mutation($refresh:String!){renewToken(appToken:$refresh)" + _SESSION  # `D-renew-token`
_CHECK = (  # `D-signin`
    "mutation($email:String!,$password:String!){signIn(email:$email,password:$password)"
    "{tokens{%s{expiresAt}} availableWorkspaces{availableWorkspacesForSignIn"
    "{id loginToken workspaceUrls{subdomainUrl customUrl}}}}}"
)
_SIGN_OUT = "mutation($refresh:String!){signOut(refreshToken:$refresh)}"  # from about 2.33
# Names of the field on 1.10 and 2.21 (`907-…`), and on legacy (`908-…`).
_TOKEN_FIELDS: tuple[str, ...] = ("accessOrWorkspaceAgnosticToken", "accessToken")
# 2.21 signs in only on /metadata, 0.60 and 1.10 on both, older ones on /graphql (`901`, `902`).
_ENDPOINTS = ("/metadata", "/graphql")
_UNKNOWN_FIELD = ("Cannot query field",)
_RENEWAL_MARGIN = 30.0
"""Seconds before its expiry at which a session is renewed."""

_CODE_REQUIRED = "TWO_FACTOR_AUTHENTICATION_VERIFICATION_REQUIRED"
_CODE_REFUSED = "INVALID_OTP"
_USE_SESSION = "Use a session_token."
_CHECK_VARIABLES = "Check the variables that `auth` names, or use a session_token."

# The beginning of a server's text, or its code: the reason, and the remedy. Only the first two are
# recorded (`903`, `904`).
_REASONS = {
    "Wrong password": ("the email or the password is wrong", _CHECK_VARIABLES),
    "User not found": ("the email or the password is wrong", _CHECK_VARIABLES),
    "Workspace not found": (
        "it knows no workspace by this address",
        "Set `origin` to the address at which users open this workspace.",
    ),
    "Email is not verified": (
        "the email address is not verified",
        "Open the link that Twenty sent to it, or use another user.",
    ),
    "User is not a member of the workspace": (
        "the user is not a member of this workspace",
        "Invite the user to it, or use another user.",
    ),
    "Email/Password auth is not enabled": (
        "this workspace does not allow signing in with a password",
        "Use a session_token, or allow passwords in the settings of the workspace.",
    ),
    "Incorrect login method": ("this user does not sign in with a password", _USE_SESSION),
    "Invalid Captcha": ("it demands a captcha, which no program can solve", _USE_SESSION),
    _CODE_REQUIRED: (
        "it demands a second factor",
        "Set `totp` in `auth` to a variable with the secret of the second factor.",
    ),
    _CODE_REFUSED: (
        "the code of the second factor is wrong",
        "Check the secret in `totp`, and the clock of this machine.",
    ),
}


class Session:
    """A source of a user's session, which signs in at the first request and before it expires.

    One thread signs in while the others wait for its token.

    Args:
        transport: the connections to the server.
        credential: to sign in with.
        environment: its origin and pin tell its workspace from others of the server.
        sign_ins: those of the run, which may share one check of the password.

    Attributes:
        address: of the server.
    """

    def __init__(
        self,
        transport: Transport,
        credential: SignIn,
        environment: Environment,
        sign_ins: SignIns,
    ) -> None:
        self.address = transport.address
        self._transport = transport
        self._credential = credential
        self._sign_ins: SignIns | None = sign_ins
        self._lock = threading.Lock()
        self._token: Secret | None = None
        self._refresh_token: Secret | None = None
        self._fields = _TOKEN_FIELDS
        self._renew_at = 0.0
        self._refusal: WorkspaceError | None = None
        self._workspace = environment.workspace
        self._declared = environment.credential or credential
        parts = urlsplit(transport.address)
        self._origin = environment.origin or f"{parts.scheme}://{parts.netloc}"

    def token(self) -> Secret:
        """Return the session's token; renew it, or sign in again, shortly before it expires.

        Raises:
            WorkspaceError: the sign-in is refused.
        """
        with self._lock:
            if self._refusal is not None:
                raise self._refusal  # more failed sign-ins may lock the user out
            if self._token is None or time.monotonic() >= self._renew_at:
                self._token = self._renewed() or self._signed_in()
            return self._token

    def renew(self, stale: Secret) -> None:
        """Forget a token that the server just refused, unless another thread already has."""
        with self._lock:
            if self._token is stale:
                self._token = None

    def sign_out(self) -> bool:
        """End the session; return whether its server can end others, too."""
        with self._lock:
            token, refresh_token = self._token, self._refresh_token
        if token is None or refresh_token is None:
            return True
        body: Json = {"query": _SIGN_OUT, "variables": {"refresh": refresh_token.reveal()}}
        try:
            answer = self._transport.send(
                "POST", _ENDPOINTS[0], body=body, token=lambda: token, repeatable=False
            )
        except (LostAnswerError, WorkspaceError):
            return False
        finally:
            self._transport.close()
        return not answer.has_error(_UNKNOWN_FIELD)

    def _renewed(self) -> Secret | None:
        """Renew the session without its password; return None if that is refused or impossible."""
        if self._refresh_token is None:
            return None
        answer = self._ask(_ENDPOINTS[0], _RENEW, refresh=self._refresh_token.reveal())
        self._refresh_token = None
        return self._session_of(answer)

    def _signed_in(self) -> Secret:
        self._transport.on_activity(SigningIn(self._transport.name))
        email, password = self._credential.email.reveal(), self._credential.password.reveal()
        if (token := self._signed_in_with_others()) is not None:
            return token
        variables = {"email": email, "password": password, "origin": self._origin}
        endpoint, answer = self._post([(path, _LOGIN) for path in _ENDPOINTS], variables)
        login = token_in(answer.result("getLoginTokenFromCredentials", "loginToken", "token"))
        if login is None:
            raise self._refused(answer)
        answer = self._exchanged(endpoint, login)
        token = self._session_of(answer)
        if token is None:
            raise self._refused(answer)
        return token

    def _signed_in_with_others(self) -> Secret | None:
        """Use a check of the password that other environments share.

        It is used once, since its login tokens are valid for 15 minutes.

        Returns:
            None if there is none, or if it does not show the workspace.
        """
        sign_ins, self._sign_ins = self._sign_ins, None
        check = sign_ins and sign_ins.check(self._declared, self.address, self._check_password)
        if not check:
            return None
        if check.address == self.address and _reason(check.answer) is not None:
            raise self._refused(check.answer)
        login = check.login_token(self._origin, self._workspace)
        if login is None:
            return None
        self._fields = _fields_of(check.answer, "signIn")
        answer = self._exchanged(_ENDPOINTS[0], login)
        token = self._session_of(answer)
        if token is None and _reason(answer) is not None:
            raise self._refused(answer)
        return token

    def _check_password(self) -> Answer:
        email, password = self._credential.email.reveal(), self._credential.password.reveal()
        return self._ask(_ENDPOINTS[0], _CHECK, email=email, password=password)

    def _exchanged(self, endpoint: str, login: Secret) -> Answer:
        """Exchange a login token for a session, with a code if the server demands one."""
        answer = self._ask(endpoint, _EXCHANGE, login=login.reveal(), origin=self._origin)
        secret = self._credential.totp
        if secret is None or _CODE_REQUIRED not in answer.codes:
            return answer
        # Imported here because few users have a second factor.
        from provisioner.twenty.second_factor import INTERVAL, code_at  # noqa: PLC0415 - see above

        now = time.time()
        answer = self._send_code(endpoint, login, code_at(now, secret))
        if _CODE_REFUSED in answer.codes:
            # A code is accepted once, and a run just before may have used it. Or it came too late.
            following = now - now % INTERVAL + INTERVAL
            stop = self._transport.stop
            if not stop.requested:
                stop.sleep(max(0.0, following - time.time()))
            if stop.requested:
                raise WorkspaceError.of(STOPPED)
            code = code_at(max(following, time.time()), secret)
            answer = self._send_code(endpoint, login, code)
        return answer

    def _send_code(self, endpoint: str, login: Secret, code: str) -> Answer:
        variables = {"code": code, "login": login.reveal(), "origin": self._origin}
        return self._ask(endpoint, _EXCHANGE_WITH_CODE, **variables)

    def _ask(self, endpoint: str, document: str, **variables: str) -> Answer:
        """Ask for a session, by each name that the field of its token may have."""
        return self._post([(endpoint, document % name) for name in self._fields], variables)[1]

    def _post(
        self, requests: list[tuple[str, str]], variables: dict[str, str]
    ) -> tuple[str, Answer]:
        """Send documents to endpoints until the server knows the fields of one."""
        for endpoint, document in requests:
            body: Json = {"query": document, "variables": {**variables}}
            try:
                answer = self._transport.send("POST", endpoint, body=body, repeatable=True)
            except LostAnswerError as lost:
                raise WorkspaceError.of(lost.failure) from None
            if not answer.has_error(_UNKNOWN_FIELD):
                break
        return endpoint, answer

    def _session_of(self, answer: Answer) -> Secret | None:
        """Keep the session that an answer has, and return its token; None if it has none."""
        for mutation in answer.data or ():
            fields = _fields_of(answer, mutation)
            names = (mutation, "tokens", fields[0])
            token = token_in(answer.result(*names, "token"))
            if token is not None:
                refresh_token = answer.result(mutation, "tokens", "refreshToken", "token")
                self._fields, self._refresh_token = fields, token_in(refresh_token)
                lifetime = _lifetime(answer.result(*names, "expiresAt"), answer.server_time)
                self._renew_at = time.monotonic() + lifetime
                return token
        return None

    def _refused(self, answer: Answer) -> WorkspaceError:
        """Return the error of a refused sign-in; the answer may have secrets and is not quoted."""
        name = self._transport.name
        failure = explain(name, answer, quoted=False)
        reason, remedy = _reason(answer) or (
            "the workspace may require single sign-on, a second factor or a captcha",
            _CHECK_VARIABLES,
        )
        refused = (Code.REJECTED, Code.CREDENTIAL_INVALID, Code.PERMISSION_DENIED)
        if _reason(answer) is None and failure.code not in refused:
            message = f"The sign-in failed: {failure.message}"
            return WorkspaceError(failure.code, message, remedy=failure.remedy)
        self._refusal = WorkspaceError(
            Code.SIGN_IN_FAILED, f"{name} refused the sign-in: {reason}.", remedy=remedy
        )
        return self._refusal


def token_in(value: Json) -> Secret | None:
    """Return a part of an answer as a token; None if it is not one."""
    return Secret.received(value) if isinstance(value, str) and is_token(value) else None


def _fields_of(answer: Answer, mutation: str) -> tuple[str, ...]:
    """Return the name that the token's field has in an answer; all names if it has none."""
    named = (name for name in _TOKEN_FIELDS if answer.result(mutation, "tokens", name) is not None)
    return tuple(named) or _TOKEN_FIELDS


def _reason(answer: Answer) -> tuple[str, str] | None:
    """Return why a sign-in is refused and what to do; None if the server does not say."""
    if any("must be an email" in text for text in answer.errors):
        return _REASONS["Wrong password"]
    return next(
        (
            reason
            for text, reason in _REASONS.items()
            if text in answer.codes or answer.has_error((text,))
        ),
        None,
    )


def _lifetime(expires_at: Json, server_time: datetime | None) -> float:
    """Return the seconds for which a session may be used, by the server's own clock."""
    try:
        expiry = parse_timestamp(str(expires_at))
    except ValueError:
        return inf
    if server_time is None:
        return inf
    seconds = (expiry - server_time).total_seconds()
    return max(seconds - _RENEWAL_MARGIN, seconds / 2)
