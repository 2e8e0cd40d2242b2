"""Credentials on the wire: a fixed token, or a session signed in for and renewed."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol, assert_never
from urllib.parse import urlsplit

from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.environment import ApiToken, SessionToken, SignIn
from provisioner.model.expiry import parse_moment
from provisioner.secret import Secret, is_token
from provisioner.twenty.transport import LostAnswerError

if TYPE_CHECKING:
    from provisioner.http_client.bounded import Json
    from provisioner.model.environment import Credential
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
# The first is the name on 1.10 and 2.21 (`907-…`), the second on legacy (`908-…`).
_TOKEN_FIELDS = ("accessOrWorkspaceAgnosticToken", "accessToken")
# 2.21 signs in on /metadata alone, 0.60 and 1.10 on both, older ones on /graphql (`901`, `902`).
_ENDPOINTS = ("/metadata", "/graphql")
_MARGIN = 30.0
_UNKNOWN_FIELD = "Cannot query field"


class TokenSource(Protocol):
    """What opens the workspace: gives the bearer token, and a new one where it can."""

    def token(self) -> Secret:
        """The token to send with the next request; signs in first where that is needed.

        Raises:
            WorkspaceError: when the sign-in is refused.
        """
        ...

    def renew(self, stale: Secret) -> bool:
        """Replaces a token that the server just refused; False where there is no other."""
        ...


class FixedToken:
    """An API-key token or a session token: it is what it is."""

    def __init__(self, token: Secret) -> None:
        self._token = token

    def token(self) -> Secret:
        """The token."""
        return self._token

    def renew(self, stale: Secret) -> bool:
        """There is no other."""
        del stale
        return False


class Session:
    """A session of a user, signed in at the first need and again when it runs out.

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
        """The session's token, signed in for anew shortly before it runs out."""
        with self._lock:
            if self._refusal is not None:
                raise self._refusal  # many refused sign-ins may lock the user out
            if self._token is None or time.monotonic() >= self._renew_at:
                self._sign_in()
            assert self._token is not None  # noqa: S101 - _sign_in sets it or raises
            return self._token

    def renew(self, stale: Secret) -> bool:
        """Signs in again, unless another thread has done so meanwhile."""
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
            if answer.says((_UNKNOWN_FIELD,)) and field != _TOKEN_FIELDS[-1]:
                continue
            found = _dig(answer, "getAuthTokensFromLoginToken", "tokens", field)
            token = found.get("token") if isinstance(found, dict) else None
            if not isinstance(found, dict) or not isinstance(token, str) or not is_token(token):
                raise self._refused(answer)
            self._token = Secret.received(token)
            self._renew_at = time.monotonic() + self._lifetime(found.get("expiresAt"), answer)
            return

    def _login_token(self) -> tuple[str, Secret]:
        """Where this server signs in, and the login token that it gave."""
        variables: dict[str, Json] = {
            "email": self._credential.email.reveal(),
            "password": self._credential.password.reveal(),
            "origin": self._origin,
        }
        for endpoint in _ENDPOINTS:
            answer = self._post(endpoint, _LOGIN, variables)
            if answer.says((_UNKNOWN_FIELD,)) and endpoint != _ENDPOINTS[-1]:
                continue
            found = _dig(answer, "getLoginTokenFromCredentials", "loginToken", "token")
            if not isinstance(found, str) or not is_token(found):
                break
            return endpoint, Secret.received(found)
        raise self._refused(answer)

    def _post(self, endpoint: str, document: str, variables: dict[str, Json]) -> Answer:
        body: Json = {"query": document, "variables": variables}
        try:
            return self._transport.send("POST", endpoint, body=body, repeatable=True)
        except LostAnswerError as lost:
            raise lost.of_workspace() from None

    def _refused(self, answer: Answer) -> WorkspaceError:
        """Never quotes the server: the answer to a sign-in may hold e-mail, password and tokens."""
        name = self._transport.name
        code, happened, remedy = self._transport.explain(answer, quoted=False)
        known = answer.says(("Wrong password", "User not found"))
        if known or any("must be an email" in text for text in answer.errors):
            reason = "the e-mail or the password is not right"
        elif code in ("rejected", "credential_invalid", "permission_denied"):
            reason = "the workspace may demand single sign-on, a second factor or a captcha"
        else:
            return WorkspaceError(code, f"The sign-in failed: {happened}", remedy=remedy)
        self._refusal = WorkspaceError(
            "sign_in_failed",
            f"{name} refused the sign-in: {reason}.",
            remedy="Check the variables that `auth` names, or use a session_token.",
        )
        return self._refusal

    def _lifetime(self, expires_at: Json, answer: Answer) -> float:
        """Seconds this session may be used, by the server's own clock at both ends."""
        try:
            end = parse_moment(str(expires_at))
        except ValueError:
            return float("inf")
        if answer.moment is None:
            return float("inf")
        life = (end - answer.moment).total_seconds()
        return max(life - _MARGIN, life / 2)


def token_source_for(credential: Credential, transport: Transport) -> TokenSource:
    """What opens the workspace with this credential."""
    match credential:
        case ApiToken(token=token) | SessionToken(token=token):
            return FixedToken(token)
        case SignIn():
            return Session(transport, credential)
        case _:
            assert_never(credential)


def _dig(answer: Answer, *names: str) -> Json:
    found: Json = answer.data
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found
