"""Runs of several environments, one of which hangs, fails or is too slow."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import pytest
from sandbox_control import Dialect, Sandbox

from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.environment import Environment, Limits
from provisioner.twenty.transport import LostAnswerError, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox_control import Around, Request, Response

NGINX = (
    "<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n"
    "<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


@dataclass
class Hanging:
    """A server that accepts every connection and never answers."""

    connections: list[socket.socket] = field(default_factory=list)
    _socket: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        for opened in (self._socket, *self.connections):
            opened.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                self.connections.append(self._socket.accept()[0])
            except OSError:
                return


@dataclass
class Healthy:
    """Two healthy workspaces; `count` is called and noted when the first write reaches each."""

    count: Callable[[], int] = lambda: 0
    at_first_write: list[int] = field(default_factory=list)
    sandboxes: list[Sandbox] = field(default_factory=list)

    @property
    def around(self) -> Around:
        def count_at_first_write(
            request: Request, answer_request: Callable[[Request], Response]
        ) -> Response:
            if request.method == "POST" and request.path.startswith("/rest/batch"):
                self.at_first_write.append(self.count())
            return answer_request(request)

        return count_at_first_write

    @property
    def keys(self) -> list[int]:
        return [len(one.keys()) for one in self.sandboxes]


@pytest.fixture
def healthy() -> Iterator[Healthy]:
    with ExitStack() as stack:
        healthy = Healthy()
        for _ in range(2):
            sandbox = Sandbox(None, Dialect.LEGACY, around=healthy.around)
            healthy.sandboxes.append(stack.enter_context(sandbox))
        yield healthy


@pytest.fixture
def apply(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Return a function that applies one key to a bad environment and to the healthy ones."""

    def run_apply(
        url: str,
        healthy: Healthy,
        *,
        timeout: str,
        code: int,
        auth: dict[str, str] | None = None,
        command: str = "apply",
    ) -> dict[str, Any]:
        secrets = auth or {"session_token": "session"}
        for name, value in secrets.items():
            monkeypatch.setenv(f"BAD_{name.upper()}", value)
        bad_auth = {name: f"${{BAD_{name.upper()}}}" for name in secrets}
        environments = {"bad": environment(url, bad_auth, timeout)}
        for number, sandbox in enumerate(healthy.sandboxes):
            monkeypatch.setenv(f"GOOD_{number}", sandbox.session_token())
            environments[f"good-{number}"] = environment(
                sandbox.url, {"session_token": f"${{GOOD_{number}}}"}, "30s"
            )
        document = {"version": 1, "environments": environments}
        (tmp_path / "environments.yaml").write_text(json.dumps(document))
        keys = {"environments": list(environments), "keys": [{"name": "svc", "expires": "90d"}]}
        (tmp_path / "keys.yaml").write_text(json.dumps({"version": 1} | keys))
        exit_code, out, _ = run(command, "-m", tmp_path, "--format", "json")
        assert exit_code == code, out
        first: dict[str, Any] = json.loads(out)["environments"][0]
        return first

    return run_apply


def environment(url: str, auth: dict[str, str], timeout: str) -> dict[str, Any]:
    limits = {"timeout": timeout}
    return {"url": url, "auth": auth, "generation": "legacy", "limits": limits}


def test_a_hanging_environment_is_tried_once_before_the_others_write(healthy, apply) -> None:
    """The first writes of the others wait only for the hanging environment's own timeout."""
    with Hanging() as hanging:
        healthy.count = lambda: len(hanging.connections)
        bad = apply(hanging.url, healthy, timeout="300ms", code=4)
        assert len(hanging.connections) == 1
    assert bad["error"]["code"] == "timeout"
    assert healthy.at_first_write == [1, 1]
    assert healthy.keys == [1, 1]


def test_a_long_retry_after_is_not_waited_for_while_others_wait(
    healthy, apply, scripted, answer
) -> None:
    """The observation of one of several environments may take at most twice its timeout."""
    server = scripted(*[answer(503, NGINX, Retry_After="1")] * 9)
    healthy.count = lambda: len(server.requests)
    bad = apply(server.url, healthy, timeout="300ms", code=4)
    assert bad["error"]["code"] == "rate_limited"
    assert healthy.at_first_write == [1, 1]
    assert healthy.keys == [1, 1]
    assert len(server.requests) == 1


def test_a_retry_after_is_waited_for_in_a_run_of_one_environment(apply, scripted, answer) -> None:
    """A run of one environment waits for a `Retry-After`, for up to three minutes."""
    page = {"data": {"apiKeys": []}, "pageInfo": {"hasNextPage": False}}
    throttled = answer(503, NGINX, Retry_After="1")
    server = scripted(throttled, answer(200, json.dumps(page)))
    environment = apply(server.url, Healthy(), timeout="300ms", code=0, command="plan")
    assert environment["error"] is None
    assert len(server.requests) == 2


def test_slow_answers_and_a_hang_share_one_limit(healthy, apply) -> None:
    """A slow sign-in and then a hang take twice the timeout in all, not one for each request."""
    release = threading.Event()

    def around(request: Request, answer_request: Callable[[Request], Response]) -> Response:
        if b"getLoginToken" in request.body or b"getAuthTokens" in request.body:
            time.sleep(1.0)
        else:
            release.wait(30)
        return answer_request(request)

    with Sandbox(None, Dialect.LEGACY, around=around) as slow:
        auth = {"email": slow.email, "password": slow.password}
        bad = apply(slow.url, healthy, timeout="1500ms", code=4, auth=auth)
        release.set()
    assert bad["error"]["code"] == "timeout"
    assert "keys of bad" in bad["error"]["message"]
    assert "more than 3 s" in bad["error"]["message"]
    assert healthy.keys == [1, 1]


def test_all_waits_of_an_observation_count_together(scripted, answer, hurried) -> None:
    """One throttled request is within the limit of the observation, two are not."""
    throttled = answer(429, "{}", Retry_After="30")
    server = scripted(throttled, answer(200, "[]"), throttled, answer(200, "[]"))
    shop = Environment(name="shop", url=server.url, limits=Limits(timeout=27))
    transport = Transport(shop, server.url, hurried(), others_wait=True)
    assert transport.send("GET", "/", repeatable=True).status == 200
    assert transport.send("GET", "/", repeatable=True).status == 429
    transport.lift_observe_limits()
    assert transport.send("GET", "/", repeatable=True).status == 200
    transport.close()


def test_a_second_observation_before_the_writes_has_a_limit_too(scripted, answer, hurried) -> None:
    """After a conflict a run observes again before it writes; that has a limit too."""
    silent = threading.Event()
    server = scripted(answer(200, "[]"), silent, answer(200, "[]"))
    shop = Environment(name="shop", url=server.url, limits=Limits(timeout=0.3))
    transport = Transport(shop, server.url, hurried(), others_wait=True)
    assert transport.send("GET", "/", repeatable=True).status == 200
    transport.close_idle_connections()
    with pytest.raises((WorkspaceError, LostAnswerError)) as raised:
        transport.send("GET", "/", repeatable=True)
    assert raised.value.failure.code == "timeout"
    assert len(server.requests) == 2
    silent.set()
    transport.lift_observe_limits()
    assert transport.send("GET", "/", repeatable=True).status == 200
    transport.close()


def test_the_limit_of_an_observation_ends_with_the_first_action(
    healthy, apply, monkeypatch
) -> None:
    """Once an environment starts its actions, the limit of the observation no longer applies."""
    started: list[str] = []
    lift = Transport.lift_observe_limits

    def lift_observe_limits(self: Transport) -> None:
        started.append(self.name)
        assert not healthy.at_first_write or len(started) == 2
        lift(self)

    monkeypatch.setattr(Transport, "lift_observe_limits", lift_observe_limits)
    with Hanging() as hanging:
        apply(hanging.url, healthy, timeout="300ms", code=4)
    assert sorted(started) == ["good-0", "good-1"]


def test_waits_for_the_declared_rate_do_not_count(scripted, answer, hurried) -> None:
    """A workspace with many keys or a low `requests_per_minute` is read completely."""
    server = scripted(*[answer(200, "[]")] * 3)
    limits = Limits(timeout=0.9, requests_per_minute=1)
    shop = Environment(name="shop", url=server.url, limits=limits)
    transport = Transport(shop, server.url, hurried(), others_wait=True)
    for _ in range(3):
        assert transport.send("GET", "/", repeatable=True, is_list=True).status == 200
    transport.close()


def test_nothing_is_sent_after_the_time_of_the_observation(scripted, answer, hurried) -> None:
    """Once the time is over, the next request of the observation fails with a timeout."""
    server = scripted(*[answer(500, "{}")] * 9)
    shop = Environment(name="shop", url=server.url, limits=Limits(timeout=0.1))
    transport = Transport(shop, server.url, hurried(), others_wait=True)
    with pytest.raises((WorkspaceError, LostAnswerError)) as raised:
        transport.send("GET", "/", repeatable=True)
    assert raised.value.failure.code == "timeout"
    assert "more than 0.2 s" in raised.value.failure.message
    assert len(server.requests) < 3
    transport.close()
