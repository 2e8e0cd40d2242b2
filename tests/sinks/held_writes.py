"""Two writes of one GitHub secret at once, in every order of their requests.

The requests reach the server without a socket, because there are thousands of orders.
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from github_server import GithubServer
from tls_server import HttpRequest

from provisioner.sinks.github import Github
from provisioner.sinks.http import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provisioner.model.sink_address import Address
    from provisioner.secret import Secret
    from provisioner.sinks.github import GithubAddress, GithubSecret

PATIENCE = 30.0
"""Seconds until a write that never stops is an error of the test."""


class KilledError(BaseException):
    """The end of a write that is not let on."""


class Step(NamedTuple):
    """What one of the writes did: a request, or that it got the answer to its `PUT`.

    Attributes:
        who: the write.
        what: the method of the request, or `answer`.
        variable: whether it is a request for the variable.
        version: how often what it reads, or writes, had been written before.
        last: whether it was the last of its write.
    """

    who: str
    what: str
    variable: bool
    version: int
    last: bool

    @property
    def writes(self) -> bool:
        return self.what in ("POST", "PATCH", "PUT")


class SteppedGithub(GithubServer):
    """A GitHub whose clock only moves when a test says so."""

    def __init__(self) -> None:
        super().__init__(plain=True)
        self.time = datetime(2026, 11, 29, tzinfo=UTC)

    def _now(self) -> datetime:
        return self.time

    def sink(
        self, address: GithubAddress, stop: Callable[[str, bool], None] = lambda *_: None
    ) -> GithubSecret:
        """Open a secret; `stop` is called before each request and after a `PUT`."""

        def call(
            _: Address, method: str, path: str, body: dict[str, Any] | None = None, **__: Any
        ) -> Reply:
            raw = json.dumps(body).encode() if body is not None else b""
            headers = {"Authorization": f"Bearer {self.token}"}
            if not path.endswith("/public-key"):
                stop(method, "/variables" in path)
            answer = self.answer(HttpRequest(method, path, headers, raw))
            if method == "PUT":
                stop("answer", "/variables" in path)
            return Reply(answer.status, answer.body or {}, server_time=self.time)

        github = Github({"GH_TOKEN": self.token})
        vars(github.api)["call"] = call
        return github.sink(address)


class HeldWrite:
    """A write that stops before each of its requests, and before the answer to its `PUT`."""

    def __init__(self, github: SteppedGithub, address: GithubAddress, token: Secret) -> None:
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.next: tuple[str, bool] | None = None
        self._error: BaseException | None = None
        self._killed = False
        sink = github.sink(address, self._stop)
        self._thread = threading.Thread(target=self._run, args=(sink, token), daemon=True)
        self._thread.start()
        self._await()

    def step(self) -> None:
        """Let it go on until its next stop."""
        self._go.release()
        self._await()

    def kill(self) -> None:
        """End it where it is."""
        self._killed = True
        self._go.release()
        self._thread.join(PATIENCE)

    def _await(self) -> None:
        assert self._stopped.acquire(timeout=PATIENCE)
        if self._error is not None:
            raise self._error

    def _stop(self, what: str, variable: bool) -> None:
        self.next = what, variable
        self._stopped.release()
        self._go.acquire()
        if self._killed:
            raise KilledError

    def _run(self, sink: GithubSecret, token: Secret) -> None:
        try:
            sink.write(token)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the test
            self._error = error
        self.next = None
        self._stopped.release()


def every_order(
    github: SteppedGithub,
    address: GithubAddress,
    tokens: dict[str, Secret],
    prepare: Callable[[], object],
    tick: timedelta,
) -> Iterator[list[Step]]:
    """Yield the steps so far after each step of each order of two writes.

    What a kill of one or both of them leaves at any moment is among these states: it is what the
    order has reached in which the killed ones would have gone on last. Orders in which every write
    comes at the same place and every read sees the same are one.

    Args:
        github: the server; it is emptied for each order.
        address: the secret.
        tokens: the token of each write.
        prepare: called before each order.
        tick: how far the clock moves before each write of the secret.
    """
    _, second = tokens
    prefixes: list[tuple[str, ...]] = [()]
    seen = set()
    while prefixes:
        prefix = prefixes.pop()
        github.clear()
        prepare()
        writes = {who: HeldWrite(github, address, token) for who, token in tokens.items()}
        steps: list[Step] = []
        while waiting := [who for who in tokens if writes[who].next is not None]:
            position = len(steps)
            who = prefix[position] if position < len(prefix) else waiting[0]
            what, variable = writes[who].next or ("", False)
            if what == "PUT":
                github.time += tick
            version = sum(one.writes and one.variable is variable for one in steps)
            if position >= len(prefix) and len(waiting) > 1:
                prefixes.append((*(one.who for one in steps), second))
            writes[who].step()
            steps.append(Step(who, what, variable, version, writes[who].next is None))
            if position < len(prefix) - 1:
                continue  # what came before was yielded with another order
            yield steps
            state = (
                tuple(one for one in steps if one.writes),
                *(tuple(one for one in steps if one.who == who) for who in tokens),
            )
            if state in seen:
                break
            seen.add(state)
        for write in writes.values():
            write.kill()
