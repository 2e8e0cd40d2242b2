"""The proof that the server accepts the tokens in sinks.

A server may revoke the key that signed a token, which leaves the API key live and the token dead.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError

if TYPE_CHECKING:
    from provisioner.errors.failure import Failure
    from provisioner.model.observed import Observation
    from provisioner.model.token_claims import TokenClaims
    from provisioner.model.workspace import Workspace
    from provisioner.secret import Secret


@dataclass(slots=True, eq=False)
class TokenProof:
    """Proves tokens for live keys with the workspace of their environment; from several threads.

    Attributes:
        every: whether every token is proven. Otherwise the proof of one counts for all with the
            same signing key, and costs nothing for the key that signed the credential.
        used: whether anything was sent.
    """

    workspace: Workspace
    observation: Observation
    every: bool
    used: bool = field(default=False, init=False)
    _live_ids: frozenset[str] = field(init=False)
    _accepted: dict[str | None, bool] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        now = self.observation.server_time
        keys = self.observation.keys
        self._live_ids = frozenset(key.id.lower() for key in keys if key.live(now))

    def __call__(self, token: Secret, claims: TokenClaims) -> Failure | None:
        """Return why a token does not work; None if nothing shows that."""
        signing_key = claims.signing_key
        if (claims.key or "").lower() not in self._live_ids:
            return None
        if self.every:
            return self._verify(token)
        if signing_key in (None, self.observation.signing_key):
            return None
        with self._lock:
            if signing_key not in self._accepted:
                failure = self._verify(token)
                self._accepted[signing_key] = failure is None
                return failure
        return None if self._accepted[signing_key] else self._verify(token)

    def _verify(self, token: Secret) -> Failure | None:
        self.used = True
        try:
            self.workspace.verify_token(token)
        except WorkspaceError as error:
            # A plan goes by the claims of a token about which the server says nothing.
            if self.every or error.code is Code.TOKEN_REFUSED:
                return error.failure
        return None
