"""Authenticated requests to one server: REST and GraphQL, with renewal of the session."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.token_claims import claims_of
from provisioner.secret import Secret
from provisioner.twenty.answers import explain, session_ended
from provisioner.twenty.transport import LostAnswerError

if TYPE_CHECKING:
    from provisioner.errors.failure import Failure
    from provisioner.model.token_claims import TokenClaims
    from provisioner.model.workspace import Json
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.auth import Session
    from provisioner.twenty.transport import Transport

GRAPHQL = "/metadata"
"""The endpoint where core has its keys, and where every generation mints tokens."""


class Client:
    """A server, and the token or session to sign in to it with.

    Attributes:
        transport: the connections to the server.
        environment: the name of the environment, for messages.
    """

    def __init__(self, transport: Transport, credential: Secret | Session) -> None:
        self.transport = transport
        self.environment = transport.name
        self._credential = credential

    def claims(self) -> TokenClaims | None:
        """Return the claims of the credential; sign in if needed."""
        return claims_of(self._token())

    def request(
        self, method: str, path: str, body: Json = None, *, is_list: bool = False
    ) -> Answer:
        """Send a request that may be repeated, and return its answer, even if that is a refusal.

        Raises:
            WorkspaceError: no complete answer came back.
        """
        try:
            return self.send(method, path, body, repeatable=True, is_list=is_list)
        except LostAnswerError as lost:
            raise WorkspaceError.of(lost.failure) from None

    def graphql(
        self, document: str, variables: dict[str, Json] | None = None, *, is_list: bool = False
    ) -> Answer:
        """Send a GraphQL document that may be repeated, like `request`."""
        body: Json = {"query": document, "variables": variables or {}}
        return self.request("POST", GRAPHQL, body, is_list=is_list)

    def explain(self, answer: Answer) -> Failure:
        """Return what an answer that is not a success means, with its secrets masked."""
        return explain(self.environment, answer)

    def refusal(self, answer: Answer) -> WorkspaceError:
        """Return the error of a workspace that gave this answer."""
        return WorkspaceError.of(self.explain(answer))

    def send(  # noqa: PLR0913 - all a request needs
        self,
        method: str,
        path: str,
        body: Json,
        *,
        repeatable: bool,
        several: bool = False,
        is_list: bool = False,
    ) -> Answer:
        """Send a request as `Transport.send` does, once more after a renewal of the session."""
        used: list[Secret] = []

        def token() -> Secret:
            used.append(self._token())
            return used[-1]

        send = partial(
            self.transport.send,
            *(method, path),
            body=body,
            token=token,
            repeatable=repeatable,
            several=several,
            is_list=is_list,
        )
        answer = send()
        # The server did nothing for a refused credential, so even a write may be sent again.
        may_repeat = not (several and answer.execution_began)
        if may_repeat and not isinstance(self._credential, Secret) and session_ended(answer):
            self._credential.renew(used[-1])
            answer = send()
        return answer

    def _token(self) -> Secret:
        credential = self._credential
        return credential if isinstance(credential, Secret) else credential.token()
