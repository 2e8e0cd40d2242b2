"""Authenticated requests to one server: REST and GraphQL, with renewal of the session."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.token_claims import claims_of
from provisioner.twenty.answers import explain, session_ended
from provisioner.twenty.auth import FixedToken
from provisioner.twenty.transport import LostAnswerError

if TYPE_CHECKING:
    from provisioner.errors.failure import Failure
    from provisioner.model.token_claims import TokenClaims
    from provisioner.model.workspace import Json
    from provisioner.secret import Secret
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.auth import TokenSource
    from provisioner.twenty.transport import Transport

GRAPHQL = "/metadata"
"""The endpoint where core has its keys, and where every generation mints tokens."""


class Client:
    """A server, and the source of its token.

    Attributes:
        transport: the connections to the server.
        environment: the name of the environment, for messages.
    """

    def __init__(self, transport: Transport, token_source: TokenSource) -> None:
        self.transport = transport
        self.environment = transport.name
        self._token_source = token_source

    def signed_in_with(self, token: Secret) -> Client:
        """Return a client of the same server that uses another token than the environment's own."""
        return Client(self.transport, FixedToken(token))

    def claims(self) -> TokenClaims | None:
        """Return the claims of the credential; sign in if needed."""
        return claims_of(self._token_source.token())

    def create(self, path: str, body: Json, *, several: bool = False) -> Answer:
        """POST something that must not be sent twice; see `Transport.send` for the exceptions.

        Args:
            path: the endpoint.
            body: sent as JSON.
            several: whether some of it may be done even if the answer is a refusal.
        """
        return self._send("POST", path, body, repeatable=False, several=several, is_list=False)

    def request(
        self, method: str, path: str, body: Json = None, *, is_list: bool = False
    ) -> Answer:
        """Send a request that may be repeated, and return its answer, even if that is a refusal.

        Raises:
            WorkspaceError: no complete answer came back.
        """
        try:
            return self._send(method, path, body, repeatable=True, several=False, is_list=is_list)
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

    def _send(self, method: str, path: str, body: Json, *, several: bool, **how: bool) -> Answer:
        """Send a request as `Transport.send` does, once more after a renewal of the session."""
        used: list[Secret] = []

        def token() -> Secret:
            used.append(self._token_source.token())
            return used[-1]

        send = partial(
            self.transport.send, method, path, body=body, token=token, several=several, **how
        )
        answer = send()
        # The server did nothing for a refused credential, so even a write may be sent again.
        may_repeat = not (several and answer.execution_began)
        if session_ended(answer) and may_repeat and self._token_source.renew(used[-1]):
            answer = send()
        return answer
