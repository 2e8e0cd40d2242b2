"""Shared fixtures: the embedded Twenty, servers that misbehave, and a blocked network."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import subprocess
import threading
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Self

import pytest
from builders import environment_with, limits_with
from coverage import Coverage
from hypothesis import HealthCheck, is_hypothesis_test, settings
from sandbox_control import Dialect, Exchange, Sandbox, signs_in

from provisioner import secret
from provisioner.cli import main
from provisioner.model.environment import ApiToken, Environment, SessionToken, SignIn
from provisioner.runtime.cancellation import Cancellation
from provisioner.secret import Secret
from provisioner.twenty.connect import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from provisioner.model.workspace import Workspace

_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if _WORKER:
    # Measured processes would take twice as long, and cover hardly any additional line.
    os.environ.pop("COVERAGE_PROCESS_START", None)

DIALECTS = tuple(Dialect)
HURRY = 50.0
# How long an example takes depends on the load of the machine, so there is no deadline.
settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared machine")

_LOOPBACK = ("127.0.0.1", "localhost", "::1", None)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip files without the mark `fast` for `-m fast`, because importing them is slow."""
    if config.option.markexpr != "fast" or collection_path.suffix != ".py":
        return None
    return True if "mark.fast" not in collection_path.read_text(encoding="utf-8") else None


@pytest.fixture(autouse=True, scope="session")
def only_loopback() -> Iterator[None]:
    """Block the network: names and addresses other than loopback fail at once."""
    real_connect, real_getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def connect_(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in _LOOPBACK:
            raise OSError(f"a test tried to reach {address}")
        real_connect(self, address)

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        if host not in _LOOPBACK:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real_getaddrinfo(host, *rest, **named)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", connect_)
    patch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Let SIGINT reach the programs of tests; a shell ignores it for its background jobs."""
    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture(autouse=True)
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test marked fast if it uses a socket or starts a process, even in a thread."""
    if request.node.get_closest_marker("fast") is None:
        yield
        return
    used: list[str] = []

    def refuse(action: str) -> Callable[..., None]:
        def refused(*_: object, **__: object) -> None:
            used.append(action)
            raise AssertionError(f"a test that is marked fast {action}")

        return refused

    monkeypatch.setattr(socket.socket, "connect", refuse("connected a socket"))
    monkeypatch.setattr(socket.socket, "bind", refuse("bound a socket"))
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse("started a process"))
    yield
    assert not used


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Measure the imports of all tests in one worker, because they are the same in each."""
    with nullcontext() if _WORKER in ("", "gw0") else unmeasured():
        return (yield)


@contextmanager
def unmeasured() -> Iterator[None]:
    measured = Coverage.current()
    if measured is None:
        yield
        return
    measured.stop()
    yield
    measured.start()


def pytest_collection_finish() -> None:
    """Keep the thousands of collected tests out of every later garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def unmeasured_repetition(request: pytest.FixtureRequest) -> Iterator[None]:
    """Measure no coverage in tests that repeat the same lines many times; it doubles their time."""
    node = request.node
    repeats = (
        "faults" in request.path.parts
        or node.get_closest_marker("large") is not None
        or is_hypothesis_test(node.obj)
    )
    with unmeasured() if repeats else nullcontext():
        yield


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove environment variables that would change the results of tests."""
    for name in list(os.environ):
        if name.startswith("PROVISION_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("NO_COLOR", "FORCE_COLOR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("SSL_CERT_FILE", "GITHUB_ACTIONS", "GITHUB_WORKSPACE", "CI_PROJECT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def restore_log_levels() -> Iterator[None]:
    """Restore the log levels that a command sets for its process."""
    loggers = [logging.getLogger(name) for name in (None, "urllib3", "botocore")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process and return its exit code, stdout and stderr."""

    def run_(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run_


class Hurried(Cancellation):
    """Cancellation whose clock runs fifty times as fast, so that waits are short.

    Tests of durations use a real cancellation.
    """

    def now(self) -> float:
        return HURRY * super().now()

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds / HURRY)


@pytest.fixture
def hurried() -> type[Hurried]:
    """Return the class of cancellations with a fast clock."""
    return Hurried


@dataclass
class Served:
    """A running sandbox, its journal, and access to its workspace."""

    sandbox: Sandbox
    journal: list[Exchange]
    stack: ExitStack

    def environment(self, **changes: Any) -> Environment:
        limits = changes.pop("limits", limits_with())
        return environment_with(url=self.sandbox.url, limits=limits, **changes)

    def credential(self, kind: str = "session") -> ApiToken | SessionToken | SignIn:
        match kind:
            case "session":
                return SessionToken(Secret(self.sandbox.session_token()))
            case "token":
                return ApiToken(Secret(self.sandbox.api_token()))
            case _:
                return SignIn(Secret(self.sandbox.email), Secret(self.sandbox.password))

    def workspace(self, kind: str = "session", **changes: Any) -> Workspace:
        stop = changes.pop("stop", None) or Hurried()
        environment = self.environment(**changes)
        opened = connect(environment, self.sandbox.url, self.credential(kind), stop)
        self.stack.callback(opened.close)
        return opened

    def writes(self) -> list[Exchange]:
        return [one for one in self.journal if is_write(one)]

    def most_in_flight(self) -> int:
        changes = sorted(
            [(one.started, 1) for one in self.journal] + [(one.ended, -1) for one in self.journal]
        )
        in_flight = highest = 0
        for _, step in changes:
            in_flight += step
            highest = max(highest, in_flight)
        return highest


def is_write(exchange: Exchange) -> bool:
    """Return whether an exchange may have changed the workspace."""
    if exchange.method != "POST":
        return exchange.method not in ("GET", "OPTIONS")
    if exchange.path.startswith("/rest/"):
        return True
    return b"mutation" in exchange.body and not signs_in(exchange.body)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Return a function that starts a sandbox, which stops at the end of the test."""
    with ExitStack() as stack:

        def start(dialect: Dialect = Dialect.CORE, **options: Any) -> Served:
            journal: list[Exchange] = []
            file = tmp_path / f"state-{dialect}" / "twenty.sqlite3"
            sandbox = stack.enter_context(Sandbox(file, dialect, journal=journal, **options))
            return Served(sandbox, journal, stack)

        yield start


@dataclass
class Scripted:
    """A server that sends exactly the answers in its script, one for each request.

    An entry is bytes to send before the connection closes, None to close without an answer, or an
    event to wait for before closing. After the last entry, every request is recorded, and
    its connection is closed without an answer.
    """

    script: list[bytes | threading.Event | None]
    requests: list[bytes] = field(default_factory=list)
    _socket: socket.socket = field(default_factory=socket.socket)

    def __enter__(self) -> Self:
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(16)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()
        return f"http://{host}:{port}"

    def _serve(self) -> None:
        for entry in chain(self.script, repeat(None)):
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.requests.append(_read_request(connection))
                if isinstance(entry, threading.Event):
                    entry.wait(5)
                elif entry is not None:
                    connection.sendall(entry)


_TLS_HELLO = b"\x16\x03"


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        data += more
        if not more or data.startswith(_TLS_HELLO):
            return data
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def http(status: int, body: bytes | str = b"", **headers: str) -> bytes:
    """Return a complete HTTP answer; underscores in header names become dashes."""
    raw = body.encode() if isinstance(body, str) else body
    fields = {"Content_Length": str(len(raw)), "Connection": "close"} | headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + raw


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Remove the log handlers that a command installed, after the test."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture(autouse=True)
def forget_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the secrets of other tests, so that this test does not mask them."""
    monkeypatch.setattr(secret, "_KNOWN", secret._Known())


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    """Return a function that starts a server that sends the answers in a script."""
    with ExitStack() as stack:
        yield lambda *script: stack.enter_context(Scripted(list(script)))


@pytest.fixture
def answer() -> Callable[..., bytes]:
    """Return a function that builds a complete HTTP answer."""
    return http


@pytest.fixture
def writes() -> Callable[[list[Exchange]], list[Exchange]]:
    """Return a function that selects the exchanges that may have changed the workspace."""
    return lambda journal: [one for one in journal if is_write(one)]


@dataclass(frozen=True)
class Listener:
    """A port on loopback, and the data sent to it.

    Attributes:
        port: the number of the port.
        heard: the first bytes of each connection.
    """

    port: int
    heard: list[bytes] = field(default_factory=list)


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Run a server that records the first bytes of each connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = Listener(server.getsockname()[1])

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(2)
                    with suppress(OSError):
                        result.heard.append(connection.recv(65_536))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield result
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)
