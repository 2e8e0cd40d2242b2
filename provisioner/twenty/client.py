"""Authenticated requests to one server: REST and GraphQL, with renewal of the session."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.token_claims import claims_of
from provisioner.twenty.answers import NOT_JSON, session_ended
from provisioner.twenty.transport import LostAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.http_client.bounded import Json
    from provisioner.model.token_claims import TokenClaims
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.secret import Secret
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.auth import TokenSource
    from provisioner.twenty.transport import Transport


class Client:
    """A server, and the source of its token."""

    def __init__(self, transport: Transport, token_source: TokenSource) -> None:
        self._transport = transport
        self._token_source = token_source

    @property
    def environment(self) -> str:
        """Return the name of the environment, for messages."""
        return self._transport.name

    @property
    def requests_sent(self) -> int:
        """Return how many requests were sent so far."""
        return self._transport.requests_sent

    def claims(self) -> TokenClaims | None:
        """Return the claims of the credential; sign in if needed."""
        return claims_of(self._token_source.token())

    def workspace(self) -> str | None:
        """Return the workspace id in the credential; sign in if needed."""
        claims = self.claims()
        return None if claims is None else claims.workspace

    def own_key(self) -> str | None:
        """Return the id of the key whose token the credential is; None if it is not a key's token.

        A token without a type counts as a key's token: sparing a key is safer than revoking it.
        """
        claims = self.claims()
        return claims.key if claims is not None and claims.kind in (None, "API_KEY") else None

    @property
    def timeout(self) -> float:
        """Return the seconds in which one answer must arrive."""
        return self._transport.timeout

    def close_idle_connections(self) -> None:
        """Close idle connections."""
        self._transport.close_idle_connections()

    def lift_observe_limits(self) -> None:
        """Allow slow requests from now on, since no other environment waits for this one."""
        self._transport.lift_observe_limits()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    @property
    def stop(self) -> Cancellation:
        """Return the cancellation of the run."""
        return self._transport.stop

    def rest(  # noqa: PLR0913 - as `Transport.send`
        self,
        method: str,
        path: str,
        body: Json = None,
        *,
        repeatable: bool,
        several: bool = False,
        is_list: bool = False,
    ) -> Answer:
        """Send one REST request; see `Transport.send` for the arguments and exceptions."""
        tokens: list[Secret] = []

        def token() -> Secret:
            tokens.append(self._token_source.token())
            return tokens[-1]

        def send() -> Answer:
            return self._transport.send(
                method,
                path,
                body=body,
                token=token,
                repeatable=repeatable,
                several=several,
                is_list=is_list,
            )

        answer = send()
        # The server did nothing for a refused credential, so even a write may be sent again.
        may_repeat = not (several and answer.execution_began)
        if session_ended(answer) and may_repeat and self._token_source.renew(tokens[-1]):
            answer = send()
        return answer

    def graphql(
        self,
        document: str,
        variables: dict[str, Json] | None = None,
        *,
        repeatable: bool,
        several: bool = False,
    ) -> Answer:
        """Send one GraphQL request to `/metadata`, where the core generation has its keys."""
        body: Json = {"query": document, "variables": variables or {}}
        return self.rest("POST", "/metadata", body, repeatable=repeatable, several=several)

    def read(self, path: str) -> Answer:
        """Send a REST read and return its answer, even if that is a refusal.

        Raises:
            WorkspaceError: no complete answer came back.
        """
        return _require_answer(lambda: self.rest("GET", path, repeatable=True, is_list=True))

    def query(self, document: str, variables: dict[str, Json] | None = None) -> Answer:
        """Send a GraphQL read and return its answer, even if that is a refusal.

        Raises:
            WorkspaceError: no complete answer came back.
        """
        return _require_answer(lambda: self.graphql(document, variables, repeatable=True))

    def query_list(self, document: str) -> Answer:
        """Send a GraphQL read of all keys, whose answer may be long.

        Raises:
            WorkspaceError: no complete answer came back.
        """
        body: Json = {"query": document, "variables": {}}
        return _require_answer(
            lambda: self.rest("POST", "/metadata", body, repeatable=True, is_list=True)
        )

    def query_as(self, token: Secret, document: str) -> Answer:
        """Send a GraphQL read with another token than the environment's own.

        Raises:
            WorkspaceError: no complete answer came back.
        """
        body: Json = {"query": document, "variables": {}}
        return _require_answer(
            lambda: self._transport.send(
                "POST", "/metadata", body=body, token=lambda: token, repeatable=True
            )
        )

    def change(self, method: str, path: str, body: Json) -> Answer:
        """Send a REST change that may be repeated, and return its answer, even a refusal.

        Raises:
            WorkspaceError: no complete answer came back.
        """
        return _require_answer(lambda: self.rest(method, path, body, repeatable=True))

    def mutate(self, document: str, variables: dict[str, Json]) -> Answer:
        """Send a GraphQL change that may be repeated, and return its answer, even a refusal.

        Raises:
            WorkspaceError: no complete answer came back.
        """
        return _require_answer(lambda: self.graphql(document, variables, repeatable=True))

    def refusal(self, answer: Answer) -> WorkspaceError:
        """Return the error of a workspace that gave this answer."""
        code, message, remedy = self.explain(answer)
        return WorkspaceError(code, message, remedy=remedy)

    def explain(self, answer: Answer) -> tuple[Code, str, str]:
        """Return the code, what happened and what to do, with the secrets of the answer masked."""
        return self._transport.explain(answer)

    def slow_list(self) -> WorkspaceError:
        """Return the error of a list whose pages take too long together."""
        return WorkspaceError(
            Code.TIMEOUT,
            f"{self.environment} takes too long to list all pages of its keys.",
            remedy="Run again, or raise limits.timeout.",
        )

    def unexpected_list(self, answer: Answer, content: str) -> WorkspaceError:
        """Return the error of an answer that has the status of a success and contains no list."""
        content = "something that is not JSON" if answer.body is NOT_JSON else content
        return WorkspaceError(
            Code.UNEXPECTED_ANSWER,
            f"{self.environment} responded to the request for its keys with {content}.",
            remedy="Check that `url` is the address of Twenty itself, and run with "
            "--log-level debug.",
        )


def _require_answer(exchange: Callable[[], Answer]) -> Answer:
    try:
        return exchange()
    except LostAnswerError as lost:
        raise WorkspaceError.of(lost.failure) from None


def server_time_of(answer: Answer) -> datetime:
    """Return the time by the server's clock, or ours if a proxy removed the `Date` header."""
    return answer.server_time or datetime.now(UTC)
