"""Signed-in requests to one server: REST and GraphQL, the session renewed when it runs out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

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
    from provisioner.twenty.answers import Answer, RefusalCode
    from provisioner.twenty.auth import TokenSource
    from provisioner.twenty.transport import Transport


class Client:
    """A server and what opens it."""

    def __init__(self, transport: Transport, key: TokenSource) -> None:
        self._transport = transport
        self._token_source = key

    @property
    def environment(self) -> str:
        """The environment's name, for messages."""
        return self._transport.name

    @property
    def requests_sent(self) -> int:
        """How many requests went out so far."""
        return self._transport.requests_sent

    def claims(self) -> TokenClaims | None:
        """What the credential says of itself; signs in where that is needed."""
        return claims_of(self._token_source.token())

    def workspace(self) -> str | None:
        """The workspace id that the credential shows; signs in where that is needed."""
        claims = self.claims()
        return None if claims is None else claims.workspace

    def own_key(self) -> str | None:
        """The id of the key whose token the credential is, None where it is no key's.

        A token that tells no kind counts as a key's: to spare a key too many ends none too many.
        """
        claims = self.claims()
        return claims.key if claims is not None and claims.kind in (None, "API_KEY") else None

    @property
    def timeout(self) -> float:
        """Seconds in which one answer has to come."""
        return self._transport.timeout

    def release(self) -> None:
        """Close the connections that nothing uses now."""
        self._transport.release()

    def begin_work(self) -> None:
        """No other environment waits for this one any more."""
        self._transport.begin_work()

    def close(self) -> None:
        """Closes all connections."""
        self._transport.close()

    @property
    def stop(self) -> Cancellation:
        """Whether the run is to stop."""
        return self._transport.stop

    def rest(  # noqa: PLR0913 - as `Transport.send`
        self,
        method: str,
        path: str,
        body: Json = None,
        *,
        repeatable: bool,
        several: bool = False,
        long: bool = False,
    ) -> Answer:
        """One REST exchange; see `Transport.send` for the arguments and what it raises."""
        used: list[Secret] = []

        def token() -> Secret:
            used.append(self._token_source.token())
            return used[-1]

        def send() -> Answer:
            return self._transport.send(
                method,
                path,
                body=body,
                token=token,
                repeatable=repeatable,
                several=several,
                long=long,
            )

        answer = send()
        # A refused credential means that nothing was done, so even a write may be sent again.
        untouched = not (several and answer.begun)
        if session_ended(answer) and untouched and self._token_source.renew(used[-1]):
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
        """One GraphQL exchange on `/metadata`, where the core generation has the keys."""
        body: Json = {"query": document, "variables": variables or {}}
        return self.rest("POST", "/metadata", body, repeatable=repeatable, several=several)

    def read(self, path: str) -> Answer:
        """A REST read that must come back, whatever it says.

        Raises:
            WorkspaceError: when no complete answer comes back.
        """
        return _come_back(lambda: self.rest("GET", path, repeatable=True, long=True))

    def query(self, document: str, variables: dict[str, Json] | None = None) -> Answer:
        """A GraphQL read that must come back, whatever it says.

        Raises:
            WorkspaceError: when no complete answer comes back.
        """
        return _come_back(lambda: self.graphql(document, variables, repeatable=True))

    def query_list(self, document: str) -> Answer:
        """Send a GraphQL read of all keys, whose answer may be long, and must come back.

        Raises:
            WorkspaceError: when no complete answer comes back.
        """
        body: Json = {"query": document, "variables": {}}
        return _come_back(lambda: self.rest("POST", "/metadata", body, repeatable=True, long=True))

    def query_as(self, token: Secret, document: str) -> Answer:
        """A GraphQL read with another token than the environment's own.

        Raises:
            WorkspaceError: when no complete answer comes back.
        """
        body: Json = {"query": document, "variables": {}}
        return _come_back(
            lambda: self._transport.send(
                "POST", "/metadata", body=body, token=lambda: token, repeatable=True
            )
        )

    def change(self, method: str, path: str, body: Json) -> Answer:
        """A REST change that may be made twice, and must come back, whatever it says.

        Raises:
            WorkspaceError: when no complete answer comes back.
        """
        return _come_back(lambda: self.rest(method, path, body, repeatable=True))

    def mutate(self, document: str, variables: dict[str, Json]) -> Answer:
        """A GraphQL change that may be made twice, and must come back, whatever it says.

        Raises:
            WorkspaceError: when no complete answer comes back.
        """
        return _come_back(lambda: self.graphql(document, variables, repeatable=True))

    def refused(self, answer: Answer) -> WorkspaceError:
        """The error of a workspace that gave this answer."""
        code, happened, remedy = self.explain(answer)
        return WorkspaceError(code, happened, remedy=remedy)

    def explain(self, answer: Answer) -> tuple[RefusalCode, str, str]:
        """The code, what happened, and what to do, without any secret that the server echoes."""
        return self._transport.explain(answer)

    def endless(self) -> WorkspaceError:
        """The error of a list whose pages each come in time, and never all of them."""
        return WorkspaceError(
            "timeout",
            f"{self.environment} is too slow with the pages of the list of keys.",
            remedy="Run again, or raise limits.timeout.",
        )

    def strange(self, answer: Answer, what: str) -> WorkspaceError:
        """The error of a list that is a success by its status and no list by its content."""
        what = "something that is not JSON" if answer.body is NOT_JSON else what
        return WorkspaceError(
            "unexpected_answer",
            f"{self.environment} answered the list of keys with {what}.",
            remedy="Check that `url` is Twenty itself; look with --log-level debug.",
        )


def _come_back(exchange: Callable[[], Answer]) -> Answer:
    try:
        return exchange()
    except LostAnswerError as lost:
        raise lost.of_workspace() from None


def moment_of(answer: Answer) -> datetime:
    """The server's clock; ours where a proxy removed the `Date` header."""
    return answer.moment or datetime.now(UTC)
