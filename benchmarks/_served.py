"""The embedded Twenty in a separate process, so that it shares no interpreter with a client.

`provision sandbox` also serves it, but cannot delay creates and takes no orders. As a program, this
file does both, with JSON lines on stdin and stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from _manifests import ROLE
from _sandbox import Dialect, Exchange, Request, Response, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

_LONG_AGO = "2026-01-01T00:00:00.000Z"

DIALECTS = tuple(str(dialect) for dialect in Dialect)


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that a client needs.

    Attributes:
        token: the token of a signed-in session.
        email: of the user who signs in for it.
        password: of that user.
        role_id: the id of the role in the manifests; None on legacy, which has no roles.
    """

    dialect: str
    url: str
    token: str
    email: str
    password: str
    role_id: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """A request in the journal of the server."""

    method: str
    path: str
    write: bool


class Served:
    """A sandbox in another process, which this one starts, resets and queries.

    Args:
        dialect: legacy, core-1 or core.
        create_seconds: the additional time of a create on the server.
        one_at_a_time: whether requests that create wait for each other, and each takes this time
            whatever the number of its keys. That is a model: a real 2.21 creates 6 to 9 keys a
            second at any parallelism, but what a document of 20 takes on 1.x is not recorded so.
        delays: seconds that requests wait before they are answered, by a text in their path or
            body; the first one that is there counts.
    """

    def __init__(
        self,
        dialect: str,
        *,
        create_seconds: float = 0.0,
        one_at_a_time: bool = False,
        delays: Mapping[str, float] | None = None,
    ) -> None:
        serial = ["one-at-a-time"] if one_at_a_time else []
        waits = json.dumps(delays or {})
        self._process = subprocess.Popen(
            [sys.executable, __file__, dialect, str(create_seconds), waits, *serial],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = Facts(**self._line())

    def reset(self, names: Iterable[str] = (), revoked: int = 0) -> None:
        """Replace all keys of the workspace with these and revoked ones, and clear the journal."""
        self._ask("reset", [list(names), revoked])

    def api_token(self) -> str:
        """Return a token for a key of the workspace, which is created if it is missing."""
        token: str = self._ask("api_token")
        return token

    def names(self) -> list[str]:
        """Return the names of all keys, in the order of creation."""
        names: list[str] = self._ask("names")
        return names

    def journal(self) -> list[Seen]:
        """Return the requests since the last call, in the order in which they finished."""
        return [Seen(**entry) for entry in self._ask("journal")]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def _ask(self, what: str, argument: object = None) -> Any:
        assert self._process.stdin is not None
        print(json.dumps([what, argument]), file=self._process.stdin, flush=True)
        return self._line()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def _serve(
    dialect: str, create_seconds: float, delays: Mapping[str, float], *, one_at_a_time: bool
) -> None:
    """Serve until stdin is closed; print one line with the facts, then one for each input line."""
    journal: list[Exchange] = []
    turn = threading.Lock()

    def in_turn(request: Request, inner: Callable[[Request], Response]) -> Response:
        """Answer a request that creates after those before it, and after the time of a create."""
        creates = b"createApiKey" in request.body or (
            request.method == "POST" and request.path.startswith("/rest/")
        )
        with turn if creates else nullcontext():
            answer = inner(request)
            # A refused document creates nothing, and takes no time.
            time.sleep(create_seconds if creates and b'"errors"' not in answer.body else 0)
            return answer

    def late(request: Request, inner: Callable[[Request], Response]) -> Response:
        """Answer a request after its delay."""
        text = request.path.encode() + request.body
        time.sleep(next((one for word, one in delays.items() if word.encode() in text), 0.0))
        return inner(request)

    with Sandbox(
        None,
        Dialect(dialect),
        create_seconds=0.0 if one_at_a_time else create_seconds,
        session_seconds=86_400.0,
        journal=journal,
        around=in_turn if one_at_a_time else late if delays else None,
    ) as sandbox:
        roles = {role.label: role.id for role in sandbox.roles()}
        secrets = sandbox.session_token(), sandbox.email, sandbox.password
        facts = Facts(dialect, sandbox.url, *secrets, roles.get(ROLE))
        _say(asdict(facts))
        for line in sys.stdin:
            match json.loads(line):
                case ["reset", [names, revoked]]:
                    sandbox.forget()
                    sandbox.seed(["revoked"] * revoked, revoked_at=_LONG_AGO, role=ROLE)
                    sandbox.seed(names, role=ROLE)
                    journal.clear()
                    _say(None)
                case ["api_token", _]:
                    _say(sandbox.api_token())
                case ["names", _]:
                    _say([key.name for key in sandbox.keys()])  # noqa: SIM118 - not a mapping
                case ["journal", _]:
                    _say([asdict(_seen(exchange)) for exchange in journal])
                    journal.clear()


def _seen(exchange: Exchange) -> Seen:
    write = exchange.method != "GET" and not (
        exchange.path == "/metadata" and b"mutation" not in exchange.body
    )
    return Seen(exchange.method, exchange.path, write)


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    _serve(
        sys.argv[1],
        float(sys.argv[2]),
        json.loads(sys.argv[3]),
        one_at_a_time="one-at-a-time" in sys.argv,
    )
