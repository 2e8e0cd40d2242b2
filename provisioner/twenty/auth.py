"""Sessions of users: signed in at the first request, and renewed before they expire."""

from __future__ import annotations

import threading
import time
from math import inf
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.expiry import parse_timestamp
from provisioner.secret import Secret, is_token
from provisioner.twenty.answers import explain
from provisioner.twenty.transport import LostAnswerError

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.model.environment import SignIn
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


class Session:
    """A source of a user's session, which signs in at the first request and before it expires.

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
        """Return the session's token; sign in again shortly before it expires.

        Raises:
            WorkspaceError: the sign-in is refused.
        """
        with self._lock:
            if self._refusal is not None:
                raise self._refusal  # more failed sign-ins may lock the user out
            if self._token is None or time.monotonic() >= self._renew_at:
                self._token = self._sign_in()
            return self._token

    def renew(self, stale: Secret) -> None:
        """Forget a token that the server just refused, unless another thread already has."""
        with self._lock:
            if self._token is stale:
                self._token = None

    def _sign_in(self) -> Secret:
        credential = self._credential
        variables = {
            "email": credential.email.reveal(),
            "password": credential.password.reveal(),
        }
        endpoint, answer = self._post([(path, _LOGIN) for path in _ENDPOINTS], variables)
        login = self._token_in(answer, "getLoginTokenFromCredentials", "loginToken")
        documents = [(endpoint, _TOKENS % field) for field in _TOKEN_FIELDS]
        _, answer = self._post(documents, {"login": login.reveal()})
        names = ("getAuthTokensFromLoginToken", "tokens")
        newer, older = _TOKEN_FIELDS
        field = older if answer.result(*names, newer) is None else newer
        token = self._token_in(answer, *names, field)
        expires_at = answer.result(*names, field, "expiresAt")
        self._renew_at = time.monotonic() + _lifetime(expires_at, answer.server_time)
        return token

    def _post(
        self, requests: list[tuple[str, str]], variables: dict[str, str]
    ) -> tuple[str, Answer]:
        """Send documents to endpoints until the server knows the fields of one."""
        values: dict[str, Json] = {**variables, "origin": self._origin}
        for endpoint, document in requests:
            body: Json = {"query": document, "variables": values}
            try:
                answer = self._transport.send("POST", endpoint, body=body, repeatable=True)
            except LostAnswerError as lost:
                raise WorkspaceError.of(lost.failure) from None
            if not answer.has_error(("Cannot query field",)):
                break
        return endpoint, answer

    def _token_in(self, answer: Answer, *names: str) -> Secret:
        token = answer.result(*names, "token")
        if not isinstance(token, str) or not is_token(token):
            raise self._refused(answer)
        return Secret.received(token)

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
