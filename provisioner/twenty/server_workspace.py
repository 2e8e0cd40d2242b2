"""The part of a workspace that is the same in every generation: tokens, records, connections."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.expiry import format_milliseconds
from provisioner.model.observed import Observation
from provisioner.model.token_claims import claims_of
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import ThreadExecutor, run_all
from provisioner.secret import Secret, is_token
from provisioner.twenty.answers import clean, redact, refuses_several
from provisioner.twenty.client import Client
from provisioner.twenty.dispatch import split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from provisioner.errors.failure import Failure
    from provisioner.model.environment import Generation, Limits
    from provisioner.model.key import Depth
    from provisioner.model.observed import ObservedKey, Roles
    from provisioner.model.workspace import Record, TokenRequest
    from provisioner.twenty.answers import Answer

# `/metadata` mints on all recorded servers (legacy-0.60 `148`, core-1 `194`, core-2.21 `189`), and
# accepts the id as a literal whatever type it declares for it (`920-mint-literal`).
_MINT = "generateApiKeyToken(apiKeyId:%s,expiresAt:%s){token}"

_MAX_MINTS = 20
"""Mints in one document, if the server accepts several (`A20-gql-mint-aliases-20`)."""

_KEY_NOT_LIVE = ("This API Key ", "API Key with id ")
"""Errors for a key that is revoked, expired or unknown (core-1 `218`, `925`, `199`)."""

_PROBE = "query{currentWorkspace{id}}"
"""Query that any role may send; refused without a token, and for one that is not accepted.

It names the workspace of the token (`B-currentworkspace-key`, `B-currentworkspace-noauth`).
"""

_CHECK_KEY = "check the key in Twenty itself"
_NO_VERDICT = (Code.SERVER_ERROR, Code.RATE_LIMITED, Code.CREDITS_SPENT)
"""Failures that say nothing about the token."""


@dataclass(eq=False)
class ServerWorkspace(ABC):
    """A workspace of any generation."""

    generation: ClassVar[Generation]
    batches: ClassVar[bool]
    _client: Client
    _limits: Limits
    _accepts_several: bool | None = field(default=None, init=False)  # in one document, if known

    def close_idle_connections(self) -> None:
        """Close idle connections."""
        self._client.transport.close_idle_connections()

    def lift_observe_limits(self) -> None:
        """Allow slow requests from now on, since no other environment waits for this one."""
        self._client.transport.lift_observe_limits()

    def close(self) -> None:
        """Close all connections."""
        self._client.transport.close()

    def records(self, depths: Mapping[str, Depth]) -> dict[str, Record]:
        """Read keys side by side, one request each; leave out those that cannot be read."""

        def read(item: tuple[str, Depth]) -> tuple[str, Record] | None:
            try:
                record = self._record(*item)
            except WorkspaceError:
                return None
            return None if record is None else (item[0], record)

        with ThreadExecutor(self._limits.parallel) as threads:
            return dict(filter(None, threads.map(read, depths.items())))

    def _permitted(self, answer: Answer) -> bool | None:
        """Return whether the role permits a query; None if it failed for another reason."""
        if answer.complete:
            return True
        return False if self._client.explain(answer).code == Code.PERMISSION_DENIED else None

    @abstractmethod
    def _record(self, key_id: str, depth: Depth) -> Record | None:
        """Read one key; return None if the server does not show it."""

    def mint(self, key_id: str, expires_at: datetime) -> Secret:
        """Send one mutation; each call mints another token (`914`, `190`)."""
        name = self._client.environment
        answer = self._client.graphql(f"mutation{{{_mint(key_id, expires_at)}}}")
        token = answer.result("generateApiKeyToken", "token")
        if answer.has_error(_KEY_NOT_LIVE):
            raise WorkspaceError(
                Code.TOKEN_REFUSED,
                f"{name} did not mint a token for the key {key_id} ({answer.quote}).",
                remedy="Someone revoked this key or the credential's own. Run the command again.",
            )
        if answer.errors or not isinstance(token, str) or not token:
            raise self._client.refusal(answer)
        if not is_token(token):
            raise WorkspaceError(
                Code.TOKEN_REFUSED,
                f"{name} returned something that is not a token for the key {key_id}.",
                remedy=f"Nothing was delivered; {_CHECK_KEY}.",
            )
        return Secret.received(token)

    def mint_many(self, requests: Sequence[TokenRequest]) -> tuple[Secret | Failure, ...]:
        """Send documents of several mints where the server accepts them, then single mints.

        What a document does not return is minted on its own: on 1.x one unknown key fails all of it
        (core-1 `A30`), and a second token for a key is harmless. While it is not known whether the
        server accepts several, one document finds out.
        """
        tokens: dict[TokenRequest, Secret | Failure] = {}
        documents = [*split(tuple(requests), _MAX_MINTS)] if len(requests) > 1 else []
        if documents and self._accepts_several is None:
            tokens |= self._mint_in_one(documents.pop(0))
        if self._accepts_several:
            for minted in run_all(self._mint_in_one, documents, self._limits.parallel):
                tokens |= minted
        missing = [request for request in requests if request not in tokens]
        singles = run_all(self._mint_alone, missing, self._limits.parallel)
        tokens |= zip(missing, singles, strict=True)
        return tuple(tokens[request] for request in requests)

    def _mint_in_one(self, requests: Sequence[TokenRequest]) -> dict[TokenRequest, Secret]:
        """Send one document; return the tokens that it mints."""
        if self._client.transport.stop.requested:
            return {}
        mints = (f"m{index}:{_mint(*request)}" for index, request in enumerate(requests))
        try:
            answer = self._client.graphql(f"mutation{{{' '.join(mints)}}}")
        except WorkspaceError:
            return {}
        if answer.complete or refuses_several(answer):
            self._accepts_several = answer.complete
        found = (answer.result(f"m{index}", "token") for index in range(len(requests)))
        return {
            request: Secret.received(token)
            for request, token in zip(requests, found, strict=True)
            if isinstance(token, str) and is_token(token)
        }

    def _mint_alone(self, request: TokenRequest) -> Secret | Failure:
        if self._client.transport.stop.requested:
            return STOPPED
        try:
            return self.mint(*request)
        except WorkspaceError as error:
            return error.failure

    def verify_token(self, token: Secret) -> None:
        """Send one query with the token itself, and compare the workspace in the answer."""
        answer = Client(self._client.transport, token).graphql(_PROBE)
        known = (self._client.claims(), claims_of(token))
        expected = next((one.workspace for one in known if one and one.workspace), None)
        actual = answer.result("currentWorkspace", "id")
        if answer.complete and isinstance(actual, str):
            if expected is None or actual.lower() == expected.lower():
                return
            problem = f"accepts the token for the workspace {redact(clean(actual))}, not {expected}"
            advice = "check that `url` leads to one server only"
        else:
            failure = self._client.explain(answer)
            if failure.code in _NO_VERDICT:
                raise WorkspaceError.of(failure)
            problem, advice = f"does not accept the token ({failure.code})", _CHECK_KEY
            if failure.code is Code.CREDENTIAL_MISSING:
                problem = f"did not receive the token ({failure.code})"
                advice = "check whether a proxy removes the Authorization header"
        raise WorkspaceError(
            Code.TOKEN_REFUSED,
            f"{self._client.environment} {problem}.",
            remedy=f"Nothing was delivered; {advice}.",
        )

    def _observation(
        self, keys: tuple[ObservedKey, ...], roles: Roles, answer: Answer
    ) -> Observation:
        """Return an observation at the time of an answer.

        A credential without a type counts as the token of a key: sparing a key is safer than
        revoking it. The time is ours if a proxy removed the `Date` header.
        """
        claims = self._client.claims()
        is_key = claims is not None and claims.kind in (None, "API_KEY")
        return Observation(
            generation=self.generation,
            workspace=None if claims is None else claims.workspace,
            keys=keys,
            roles=roles,
            server_time=answer.server_time or datetime.now(UTC),
            requests=self._client.transport.requests_sent,
            server_ahead=answer.ahead,
            own_key=claims.key if claims is not None and is_key else None,
            session=claims is not None and claims.kind == "ACCESS",
            signing_key=None if claims is None else claims.signing_key,
            batches=self.batches,
        )


def _mint(key_id: str, expires_at: datetime) -> str:
    """Return the mutation that mints a token."""
    return _MINT % (json.dumps(key_id), json.dumps(format_milliseconds(expires_at)))
