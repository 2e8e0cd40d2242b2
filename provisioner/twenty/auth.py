"""Credentials of requests: a fixed token, or a session that is signed in and renewed."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol, assert_never
from urllib.parse import urlsplit

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.environment import ApiToken, SessionToken, SignIn
from provisioner.model.expiry import parse_timestamp
from provisioner.secret import Secret, is_token
from provisioner.twenty.answers import explain
from provisioner.twenty.transport import LostAnswerError

if TYPE_CHECKING:
    from provisioner.model.environment import Credential
    from provisioner.model.workspace import Json
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.transport import Transport

_LOGIN = (
    "mutation($email:String!,$password:String!,$origin:String!){getLoginTokenFromCredentials"
    "(email:$email,password:$password,origin:$origin){loginToken{token}}}"
)
_TOKENS = (
    "mutation($login:String!,$origin:String!){getAuthTokensFromLoginToken"
    "(loginToken:$login,origin:$origin){tokens{%s{token expiresAt}}}}"
)
# Names of the field on 1.10 and 2.21 (`907-…`), and on legacy (`908-…`).
_TOKEN_FIELDS = ("accessOrWorkspaceAgnosticToken", "accessToken")
# 2.21 signs in only on /metadata, 0.60 and 1.10 on both, older ones on /graphql (`901`, `902`).
_ENDPOINTS = ("/metadata", "/graphql")
_RENEWAL_MARGIN = 30.0
"""Seconds before its expiry at which a session is renewed."""
_UNKNOWN_FIELD = "Cannot query field"


class TokenSource(Protocol):
    """Source of the bearer token of a workspace, and of a new one where that is possible."""

    def token(self) -> Secret:
        """Return the token for the next request; sign in first if needed.

        Raises:
            WorkspaceError: the sign-in is refused.
        """
        ...

    def renew(self, stale: Secret) -> bool:
        """Replace a token that the server just refused; return False if there is no other."""
        ...


class FixedToken:
    """An API key's token or a session token, which cannot be renewed."""

    def __init__(self, token: Secret) -> None:
        self._token = token

    def token(self) -> Secret:
        """Return the token."""
        return self._token

    def renew(self, stale: Secret) -> bool:
        """Return False: there is no other token."""
        del stale
        return False


class Session:
    """A session of a user, which signs in at the first request and again before it expires.

    One thread signs in while the others wait for its token.
    """

    def __init__(self, transport: Transport, credential: SignIn) -> None:
        self._transport = transport
        self._credential = credential
        self._lock = threading.Lock()
        self._token: Secret | None = None
        self._renew_at = 0.0
        self._refusal: WorkspaceError | None = None
        parts = urlsplit(transport.address)
        self._origin = f"{parts.scheme}://{parts.netloc}"

    def token(self) -> Secret:
        """Return the session's token; sign in again shortly before it expires."""
        with self._lock:
            if self._refusal is not None:
                raise self._refusal  # more failed sign-ins may lock the user out
            if self._token is None or time.monotonic() >= self._renew_at:
                self._sign_in()
            assert self._token is not None  # noqa: S101 - _sign_in sets it or raises
            return self._token

    def renew(self, stale: Secret) -> bool:
        """Sign in again, unless another thread already has."""
        with self._lock:
            if self._token is stale:
                self._token = None
        self.token()
        return True

    def _sign_in(self) -> None:
        endpoint, login = self._login_token()
        for field in _TOKEN_FIELDS:
            variables: dict[str, Json] = {"login": login.reveal(), "origin": self._origin}
            answer = self._post(endpoint, _TOKENS % field, variables)
            if answer.has_error((_UNKNOWN_FIELD,)) and field != _TOKEN_FIELDS[-1]:
                continue
            tokens = _get(answer, "getAuthTokensFromLoginToken", "tokens", field)
            token = tokens.get("token") if isinstance(tokens, dict) else None
            if not isinstance(tokens, dict) or not isinstance(token, str) or not is_token(token):
                raise self._refused(answer)
            self._token = Secret.received(token)
            self._renew_at = time.monotonic() + self._lifetime(tokens.get("expiresAt"), answer)
            return

    def _login_token(self) -> tuple[str, Secret]:
        """Return the endpoint where this server signs in, and the login token that it issued."""
        variables: dict[str, Json] = {
            "email": self._credential.email.reveal(),
            "password": self._credential.password.reveal(),
            "origin": self._origin,
        }
        for endpoint in _ENDPOINTS:
            answer = self._post(endpoint, _LOGIN, variables)
            if answer.has_error((_UNKNOWN_FIELD,)) and endpoint != _ENDPOINTS[-1]:
                continue
            found = _get(answer, "getLoginTokenFromCredentials", "loginToken", "token")
            if not isinstance(found, str) or not is_token(found):
                break
            return endpoint, Secret.received(found)
        raise self._refused(answer)

    def _post(self, endpoint: str, document: str, variables: dict[str, Json]) -> Answer:
        body: Json = {"query": document, "variables": variables}
        try:
            return self._transport.send("POST", endpoint, body=body, repeatable=True)
        except LostAnswerError as lost:
            raise WorkspaceError.of(lost.failure) from None

    def _refused(self, answer: Answer) -> WorkspaceError:
        """Return the error of a refused sign-in; the answer may have secrets and is not quoted."""
        name = self._transport.name
        failure = explain(name, answer, quoted=False)
        wrong_credential = answer.has_error(("Wrong password", "User not found"))
        if wrong_credential or any("must be an email" in text for text in answer.errors):
            reason = "the email or the password is wrong"
        elif failure.code in (Code.REJECTED, Code.CREDENTIAL_INVALID, Code.PERMISSION_DENIED):
            reason = "the workspace may require single sign-on, a second factor or a captcha"
        else:
            message = f"The sign-in failed: {failure.message}"
            return WorkspaceError(failure.code, message, remedy=failure.remedy)
        self._refusal = WorkspaceError(
            Code.SIGN_IN_FAILED,
            f"{name} refused the sign-in: {reason}.",
            remedy="Check the variables that `auth` names, or use a session_token.",
        )
        return self._refusal

    def _lifetime(self, expires_at: Json, answer: Answer) -> float:
        """Return the seconds for which this session may be used, by the server's own clock."""
        try:
            expiry = parse_timestamp(str(expires_at))
        except ValueError:
            return float("inf")
        if answer.server_time is None:
            return float("inf")
        seconds = (expiry - answer.server_time).total_seconds()
        return max(seconds - _RENEWAL_MARGIN, seconds / 2)


def token_source_for(credential: Credential, transport: Transport) -> TokenSource:
    """Return the token source of a credential."""
    match credential:
        case ApiToken(token=token) | SessionToken(token=token):
            return FixedToken(token)
        case SignIn():
            return Session(transport, credential)
        case _:
            assert_never(credential)


def _get(answer: Answer, *names: str) -> Json:
    value: Json = answer.data
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
