"""The sign-ins of one run: a password is checked once for all workspaces of a server."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.environment import SignIn, StoredCredential
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import ThreadExecutor
from provisioner.twenty.auth import Session, token_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from provisioner.model.environment import Credential, Environment
    from provisioner.model.sink_address import Address
    from provisioner.model.workspace import Json
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.secret import Secret
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.transport import Transport

    _Use = tuple[Secret | Address, Secret | Address, str]

_SIGN_OUT_SECONDS = 5.0
_SIGN_OUT_THREADS = 16


@dataclass(frozen=True, slots=True)
class PasswordCheck:
    """A server's answer to an email and a password, without a workspace (`D-signin`).

    Attributes:
        address: of the server.
        answer: lists the workspaces of the user, unless it is a refusal.
    """

    address: str
    answer: Answer

    def login_token(self, origin: str, workspace: str | None) -> Secret | None:
        """Return the login token of a workspace; None unless exactly one is listed as it.

        Args:
            origin: its web address; workspaces of one server may share it.
            workspace: its id, which decides if it is known.
        """
        listed = self.answer.result("signIn", "availableWorkspaces", "availableWorkspacesForSignIn")
        found = [
            entry["loginToken"]
            for entry in (listed if isinstance(listed, list) else ())
            if isinstance(entry, dict)
            and "loginToken" in entry
            and (entry.get("id") == workspace if workspace else origin in _origins(entry))
        ]
        return token_in(found[0]) if len(found) == 1 else None


class SignIns:
    """The sign-ins of one run.

    Args:
        stop: ends the run early.
        environments: of the run; if several of them send a password to one server, it is checked
            once for them.
    """

    def __init__(self, stop: Cancellation, environments: Iterable[Environment] = ()) -> None:
        self._stop = stop
        self._uses = Counter(use for one in environments for use in _uses(one.credential, one.url))
        self._lock = threading.Lock()
        self._checks: dict[_Use, Future[PasswordCheck | None]] = {}
        self._sessions: list[Session] = []

    def session(
        self, transport: Transport, credential: SignIn, environment: Environment
    ) -> Session:
        """Return a session of an environment, which `sign_out` will end."""
        session = Session(transport, credential, environment, self)
        self._sessions.append(session)
        return session

    def check(
        self,
        credential: Credential | StoredCredential | None,
        address: str,
        ask: Callable[[], Answer],
    ) -> PasswordCheck | None:
        """Return the check of a password, for which the first environment that needs it asks.

        Args:
            credential: with the password, as the environment declares it.
            address: of the server.
            ask: sends the password.

        Returns:
            None if only one environment needs it, or if no answer came to the one that asked.

        Raises:
            WorkspaceError: no answer came to this environment, or a stop was requested.
        """
        use = next((use for use in _uses(credential, address) if self._uses[use] > 1), None)
        if use is None:
            return None
        with self._lock:
            first = use not in self._checks
            check = self._checks.setdefault(use, Future())
        if first:
            try:
                check.set_result(PasswordCheck(address, ask()))
            finally:
                if not check.done():
                    check.set_result(None)
        self._stop.wait_for((check,), graceful=False)
        if not check.done():
            raise WorkspaceError.of(STOPPED)
        return check.result()

    def sign_out(self) -> None:
        """End all sessions, one server beside the other; no error, and not for long."""
        servers: dict[str, list[Session]] = {}
        for session in self._sessions:
            servers.setdefault(session.address, []).append(session)
        if self._stop.requested or not servers:
            return
        threads = ThreadExecutor(min(_SIGN_OUT_THREADS, len(servers)))
        ended = [threads.submit(_end, sessions) for sessions in servers.values()]
        threads.shutdown(wait=False)
        self._stop.wait_for(ended, graceful=False, timeout=_SIGN_OUT_SECONDS)


def _end(sessions: Iterable[Session]) -> None:
    """End the sessions of one server, until one cannot be ended: the others cannot either."""
    all(session.sign_out() for session in sessions)


def _uses(credential: Credential | StoredCredential | None, address: str) -> Iterator[_Use]:
    """Yield the server that a password is sent to, and the domain that its server may have.

    A server of several workspaces has each of them at its own subdomain, of `localhost` too. Where
    the domain is that of several servers, a check only lists no workspace of the others.
    """
    secrets: tuple[Secret | Address, Secret | Address]
    match credential:
        case SignIn(email=email, password=password):
            secrets = email, password
        case StoredCredential(secrets={"email": email, "password": password}):
            secrets = email, password
        case _:
            return
    yield *secrets, address
    domain = urlsplit(address).netloc.partition(".")[2]
    if "." in domain or domain.partition(":")[0] == "localhost":
        yield *secrets, domain


def _origins(entry: dict[str, Json]) -> set[str]:
    """Return the web addresses of a workspace that a server lists, as `Session` writes its own."""
    urls = entry.get("workspaceUrls")
    listed = urls.values() if isinstance(urls, dict) else ()
    return {url.rstrip("/").lower() for url in listed if isinstance(url, str)}
