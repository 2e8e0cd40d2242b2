"""The HTTP client of the sinks: retries, trust, and secrets that are never shown."""

from __future__ import annotations

import gzip
import logging
import select
import socket
import socketserver
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import trustme
from throttling import Clock, Limit
from tls_server import HttpRequest, HttpResponse, TlsServer

from provisioner.errors.exceptions import SinkError
from provisioner.http_client.exchange import Route
from provisioner.secret import Secret
from provisioner.sinks import http
from provisioner.sinks.github import GithubAddress
from provisioner.sinks.http import Api, Credential, Once, Reply, route_of, segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ADDRESS = GithubAddress("acme", "KEY")
CREDENTIAL = "credentialCanary"
BODY = {"value": "bodyCanary"}
OK = HttpResponse(200, {"fine": True})


class HealthyServer(TlsServer):
    """A server that answers every request with success."""

    def answer(self, _: HttpRequest) -> HttpResponse:
        return OK


class Client:
    """A client of a server whose waits are recorded and take no time."""

    def __init__(
        self,
        server: TlsServer,
        token: str = CREDENTIAL,
        *,
        answer_timeout: float = 30,
        **route: Any,
    ) -> None:
        self.waits: list[float] = []
        self.credential_calls = 0
        self.token = token
        route = {"base": server.url, "ca_path": server.ca_file} | route
        headers, timeouts = {"Accept": "text/x-test"}, (5.0, answer_timeout)
        self.api = Api(
            Route(**route), self.credential, headers, self.waits.append, timeouts=timeouts
        )

    def credential(self, _: Any) -> Credential:
        self.credential_calls += 1
        return Credential({"Authorization": Secret(f"Bearer {self.token}")})

    def call(self, path: str = "/it", method: str = "PUT", **options: Any) -> Reply:
        return self.api.call(ADDRESS, method, path, BODY, **options)

    def error(self, path: str = "/it", **options: Any) -> SinkError:
        """Return the error of a call, which contains no secret and says what to do."""
        with pytest.raises(SinkError) as caught:
            self.call(path, **options)
        error = caught.value
        shown = "".join(traceback.format_exception(error)) + error.message + error.remedy
        assert "Canary" not in shown
        assert error.__context__ is None
        assert error.message.startswith("github acme KEY ")
        assert error.remedy
        return error


@pytest.fixture
def server() -> Iterator[HealthyServer]:
    with HealthyServer() as server:
        yield server


@pytest.fixture
def client(server: HealthyServer) -> Client:
    return Client(server)


def test_a_request_arrives_unchanged(server: HealthyServer, client: Client) -> None:
    """Method, path, query, body, media type and headers arrive, and the answer is returned."""
    reply = client.call(f"/a/{segment('b/ é?#%')}?c=d", content_type="text/x-body")
    request = server.requests[0]
    assert (reply.status, reply.body) == (200, {"fine": True})
    assert (request.method, request.names, request.query) == ("PUT", ("a", "b/ é?#%"), {"c": "d"})
    assert request.body == BODY
    assert request.headers["Content-Type"] == "text/x-body"
    assert request.headers["Accept"] == "text/x-test"
    assert request.headers["Authorization"] == f"Bearer {CREDENTIAL}"
    assert request.headers["User-Agent"].startswith("twenty-provisioner/")
    client.api.call(ADDRESS, "GET", "/")
    assert (server.requests[1].raw, server.requests[1].headers["Content-Type"]) == (b"", None)


@pytest.mark.parametrize("outcome", ["drop", "lose", HttpResponse(500), HttpResponse(503)])
@pytest.mark.parametrize("times", [1, 3])
def test_transient_failures_are_retried(
    client: Client, server: HealthyServer, outcome: Any, times: int
) -> None:
    """A lost answer and a server error are retried up to four times in total."""
    server.outcomes = [outcome] * times
    assert client.call().status == 200
    assert len(server.requests) == client.credential_calls == times + 1
    assert [0.25 <= wait / 2**n <= 0.5 for n, wait in enumerate(client.waits)] == [True] * times


@pytest.mark.parametrize("outcome", ["drop", "lose", HttpResponse(500)])
def test_persistent_failures_are_reported(
    client: Client, server: HealthyServer, outcome: Any
) -> None:
    """After the fourth attempt the sink is unavailable."""
    server.outcomes = [outcome] * 5
    assert client.error().code == "sink_unavailable"
    assert len(server.outcomes) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_final(client: Client, server: HealthyServer, status: int) -> None:
    """The refused credential is not tried again, and the server's message is not repeated."""
    server.outcomes = [HttpResponse(status, {"message": "sentCanary"})]
    error = client.error()
    assert (error.code, str(status) in error.message) == ("sink_denied", True)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_other_statuses_are_returned(client: Client, server: HealthyServer, status: int) -> None:
    """They are returned with the JSON object of the answer, or an empty one."""
    server.outcomes = [
        HttpResponse(status, {"message": "no"}),
        HttpResponse(status, b"<html>"),
        HttpResponse(status, [1]),
    ]
    assert [client.call() for _ in range(3)] == [
        Reply(status, {"message": "no"}),
        Reply(status, {}),
        Reply(status, {}),
    ]


def test_a_sink_may_name_statuses_to_retry(client: Client, server: HealthyServer) -> None:
    """They are retried, and finally returned."""
    server.outcomes = [HttpResponse(409)] * 5
    assert client.call(retry_statuses=frozenset({409})).status == 409
    assert len(server.requests) == 4


def date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("status", "headers", "low", "high"),
    [
        (429, {"Retry-After": "60"}, 60, 60),
        (503, {"Retry-After": "11"}, 11, 11),
        (403, {"Retry-After": "1"}, 1, 1),
        (429, {"Retry-After": date(600), "Date": date(570)}, 29, 31),
        (429, {"Retry-After": date(-600)}, 0.25, 0.5),
        (429, {"Retry-After": "soon"}, 1, 1),
        (403, {"X-RateLimit-Remaining": "0"}, 1, 1),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1000"}, 1, 1),
        (
            403,
            {
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": "1767225640",
                "Date": "Thu, 01 Jan 2026 00:00:00 GMT",
            },
            40,
            40,
        ),
    ],
)
def test_a_wait_that_the_server_asks_for_is_kept(
    client: Client,
    server: HealthyServer,
    status: int,
    headers: dict[str, str],
    low: float,
    high: float,
) -> None:
    """The wait is a number of seconds, a date of the server's clock or the end of GitHub's hour."""
    server.outcomes = [HttpResponse(status, None, headers)]
    assert client.call().status == 200
    assert len(client.waits) == 1
    assert low <= client.waits[0] <= high + 0.5


def test_a_long_wait_for_a_server_that_is_down_is_refused(
    client: Client, server: HealthyServer
) -> None:
    """A server error with a wait of more than a minute makes the sink unavailable."""
    server.outcomes = [HttpResponse(503, None, {"Retry-After": "61"})]
    assert client.error().code == "sink_unavailable"
    assert (client.waits, len(server.requests)) == ([], 1)


SECONDARY = {
    "message": "You have exceeded a secondary rate limit. Please wait a few minutes before you "
    "try again.",
    "documentation_url": "https://docs.github.com/rest/using-the-rest-api/rate-limits",
}
ABUSE = {"message": "You have triggered an abuse detection mechanism. Please retry later."}


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize("body", [SECONDARY, ABUSE])
@pytest.mark.parametrize(("headers", "waits"), [({}, [60, 120]), ({"Retry-After": "7"}, [7, 7])])
def test_a_secondary_limit_is_not_a_denial(
    client: Client,
    server: HealthyServer,
    status: int,
    body: Any,
    headers: dict[str, str],
    waits: list[int],
) -> None:
    """Without `Retry-After` the wait is at least a minute, and grows each time."""
    server.outcomes = [HttpResponse(status, body, headers)] * 2
    assert client.call(returned_statuses=frozenset({403})).status == 200
    assert all(a <= b <= a + 0.5 for a, b in zip(waits, client.waits, strict=True))


@pytest.mark.parametrize("body", [b"Retry later\n", b"<html>429 Too Many Requests</html>", None])
def test_waits_grow_if_throttling_names_none(
    client: Client, server: HealthyServer, body: Any
) -> None:
    """This is what GitLab and clusters may send: one second, two, four, and at most a minute."""
    server.outcomes = [HttpResponse(429, body)] * 8
    assert client.call().status == 200
    least = [1, 2, 4, 8, 16, 32, 60, 60]
    assert all(a <= b <= a + 0.5 for a, b in zip(least, client.waits, strict=True))


@pytest.mark.parametrize("outcome", [HttpResponse(429), HttpResponse(403, SECONDARY)])
def test_endless_throttling_is_reported(
    client: Client, server: HealthyServer, outcome: HttpResponse
) -> None:
    """The error comes after several minutes in total, and does not blame the credential."""
    server.outcomes = [outcome] * 40
    error = client.error()
    assert (error.code, "too many requests" in error.message) == ("sink_unavailable", True)
    assert 300 <= sum(client.waits) <= http.MAX_WAIT


def test_a_wait_of_an_hour_stops_all_requests(client: Client, server: HealthyServer) -> None:
    """GitHub's primary limit may take an hour, and no request is sent until then."""
    server.outcomes = [HttpResponse(403, None, {"Retry-After": "3000"})]
    assert [client.error().code for _ in range(3)] == ["sink_unavailable"] * 3
    assert (client.waits, len(server.requests)) == ([], 1)


@pytest.mark.parametrize(
    "refusal",
    [HttpResponse(403, SECONDARY), HttpResponse(429, b"Retry later\n", {"Retry-After": "60"})],
)
def test_requests_with_one_credential_share_a_pause(refusal: HttpResponse) -> None:
    """None of eight threads sends a request before the pause of one of them is over."""
    clock = Clock()
    with HealthyServer() as server:
        Limit(server, clock, refusal)
        client = Client(server)
        client.api = Api(
            Route(server.url, ca_path=server.ca_file), client.credential, {}, clock.wait
        )
        with ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(lambda _: client.call().status, range(60)))
        assert replies == [200] * 60
        assert len(server.requests) <= 60 + 8 + 2  # in flight at the first refusal, then one by one


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
def test_a_redirect_is_not_followed(client: Client, server: HealthyServer, status: int) -> None:
    """Neither the token nor the credential is sent to the address in a redirect."""
    server.outcomes = [HttpResponse(status, None, {"Location": f"{server.url}/elsewhereCanary"})]
    error = client.error()
    assert (error.code, "redirect" in error.message) == ("sink_unavailable", True)
    assert len(server.requests) == 1


def test_an_answer_that_is_not_json_is_reported(client: Client, server: HealthyServer) -> None:
    """A page of a proxy with status 200 is not a success."""
    server.outcomes = [
        HttpResponse(200, b"<html>welcomeCanary</html>"),
        HttpResponse(200, b"[" * 100_000),
    ]
    assert [client.error().code, client.error().code] == ["sink_unavailable"] * 2


@pytest.mark.parametrize("packed", [False, True])
def test_a_large_answer_is_refused(client: Client, server: HealthyServer, packed: bool) -> None:
    """At most 8 MiB of an answer are read, after decompression."""
    for size, allowed in ((8 << 20, True), ((8 << 20) + 1, False)):
        raw = b" " * size
        sent = gzip.compress(raw) if packed else raw
        server.outcomes = [HttpResponse(200, sent, {"Content-Encoding": "gzip"} if packed else {})]
        if allowed:
            assert client.call() == Reply(200, {})
        else:
            assert "larger than 8 MiB" in client.error().message


@contextmanager
def trickling(gaps: threading.Event) -> Iterator[str]:
    """Run a server whose answer comes byte by byte and never ends."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
            try:
                while not gaps.wait(0.02):
                    self.request.sendall(b" ")
            except OSError:
                pass

    with _threaded(Handler) as port:
        yield f"http://localhost:{port}"
        gaps.set()


@contextmanager
def _threaded(handler: type[socketserver.BaseRequestHandler]) -> Iterator[int]:
    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Listener(("127.0.0.1", 0), handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
        thread.start()
        yield listener.server_address[1]
        listener.shutdown()
        thread.join(10)


def test_a_slow_answer_times_out(server: HealthyServer) -> None:
    """The time limit is for the whole body, not only for each read."""
    with trickling(threading.Event()) as base:
        assert "in time" in Client(server, base=base, answer_timeout=0.2).error().message


def test_a_silent_server_times_out(server: HealthyServer) -> None:
    """A connection without an answer ends with the time limit."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        base = f"http://localhost:{listener.getsockname()[1]}"
        assert "in time" in Client(server, base=base, answer_timeout=0.05).error().message


def test_a_refused_connection_is_reported(server: HealthyServer) -> None:
    """A refused connection is retried and then reported."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = Client(server, base=f"https://localhost:{port}")
    assert client.error().code == "sink_unavailable"
    assert len(client.waits) == 3


@pytest.mark.parametrize("base", ["https://", "https://[", "https://a b", "https://localhost:x"])
def test_an_invalid_address_is_reported(server: HealthyServer, base: str) -> None:
    """A mistake in a variable is an error with an explanation, not a traceback."""
    client = Client(server, base=base)
    assert client.error().code == "sink_unavailable"


# Encryption and certificates


def test_plain_http_is_only_for_loopback() -> None:
    """A token is sent unencrypted only to this machine; other servers get no request."""
    with HealthyServer(plain=True) as server:
        assert Client(server).call().status == 200
        client = Client(server, base="http://vault.example")
        assert (client.error().code, client.credential_calls) == ("sink_unsuitable", 0)


def test_a_certificate_of_another_authority_is_not_trusted(
    server: HealthyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a CA certificate is set, only that one is trusted, and a failure is not retried."""
    monkeypatch.setattr("certifi.where", lambda: server.ca_file)
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    (tmp_path / "folder").mkdir()
    for route in (
        {"ca_path": str(other)},
        {"ca_path": str(tmp_path / "folder")},
        {"ca_path": server.ca_file, "ca_pem": other.read_text()},
    ):
        client = Client(server, **route)
        assert "not trusted" in client.error().message
        assert (client.waits, server.requests) == ([], [])


def test_the_default_authorities_are_trusted(
    server: HealthyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are used if no CA certificate is set."""
    monkeypatch.setattr("certifi.where", lambda: server.ca_file)
    assert Client(server, ca_path=None).call().status == 200


@pytest.mark.parametrize("route", [{"ca_path": "missing.pem"}, {"ca_pem": "no PEM"}])
def test_an_unreadable_authority_is_reported(server: HealthyServer, route: dict[str, str]) -> None:
    """It is an error of the sink that says what to check."""
    assert "certificates" in Client(server, **route).error().message


def test_the_authority_comes_from_the_usual_variables() -> None:
    """The first variable that is set and not empty is used."""
    variables = {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": "b", "SSL_CERT_FILE": "c"}
    assert route_of("https://x", variables) == Route("https://x", ca_path="b")
    assert route_of("https://x", {}) == Route("https://x")


@pytest.mark.parametrize("path", ["/a/../b", "/a/.", "/..?c"])
def test_no_name_leads_elsewhere(client: Client, server: HealthyServer, path: str) -> None:
    """The names `.` and `..` are refused, because they would change the path."""
    assert client.error(path).code == "sink_unsuitable"
    assert server.requests == []


# Secrets


@pytest.mark.parametrize("token", ["two\nlinesCanary", "accenté Canary", "\x00Canary"])
def test_a_credential_that_no_header_allows_is_refused(server: HealthyServer, token: str) -> None:
    """It is refused without being shown or sent."""
    client = Client(server, token)
    assert client.error().code == "sink_denied"
    assert server.requests == []


def test_no_log_contains_a_secret(client: Client, server: HealthyServer, caplog) -> None:
    """This includes the debug logs of the libraries."""
    caplog.set_level(logging.DEBUG)
    server.outcomes = [
        "drop",
        HttpResponse(500, {"message": "answerCanary"}),
        HttpResponse(200, {"it": "answerCanary"}),
    ]
    reply = client.call()
    assert caplog.records
    assert "Canary" not in caplog.text + repr(reply) + repr(client.credential(None))


def test_nothing_of_the_machine_changes_the_credential(
    server: HealthyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A netrc file or a user name in the address does not replace it, and no cookie is kept."""
    (tmp_path / ".netrc").write_text("machine localhost login a password b\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    client = Client(server, base=server.url.replace("//", "//user:passwordCanary@"))
    server.outcomes = [HttpResponse(200, {}, {"Set-Cookie": "a=b"})]
    client.call()
    client.call()
    for request in server.requests:
        assert request.headers["Authorization"] == f"Bearer {CREDENTIAL}"
        assert request.headers["Cookie"] is None
    server.outcomes = [HttpResponse(500)] * 4
    client.error()


class Proxy(socketserver.BaseRequestHandler):
    """A proxy that tunnels connections, as for https."""

    heads: ClassVar[list[bytes]]

    def handle(self) -> None:
        head = self.request.recv(65536)
        self.heads.append(head)
        host, _, port = head.split()[1].decode().partition(":")
        with socket.create_connection((host, int(port))) as upstream:
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            peers = {self.request: upstream, upstream: self.request}
            while True:
                for source in select.select(list(peers), [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    peers[source].sendall(data)


@pytest.mark.parametrize("named", [True, False])
def test_a_proxy_sees_nothing(
    server: HealthyServer, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """The tunnel is encrypted up to the server, whose certificate is verified as usual."""

    class RecordingProxy(Proxy):
        heads: ClassVar[list[bytes]] = []

    with _threaded(RecordingProxy) as port:
        proxy = f"http://localhost:{port}"
        if not named:
            monkeypatch.setenv("HTTPS_PROXY", proxy)
        # A name of this machine never goes through a proxy of the environment.
        address = server.url.replace("localhost", "127.0.0.1")
        route = {"proxy": proxy} if named else {"base": address, "server_name": "localhost"}
        assert Client(server, **route).call().status == 200
        assert len(RecordingProxy.heads) == 1
        assert b"Canary" not in RecordingProxy.heads[0]
        other = trustme.CA().cert_pem.bytes().decode()
        assert "not trusted" in Client(server, ca_pem=other, **route).error().message
    assert "through the proxy" in Client(server, **route).error().message


def test_threads_share_a_client(client: Client, server: HealthyServer) -> None:
    """Each of many parallel threads gets the answer to its own request."""
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda n: client.call(f"/{n}"), range(40)))
    assert [reply.status for reply in replies] == [200] * 40
    assert sorted(int(one.names[0]) for one in server.requests) == list(range(40))


# Lookups


def test_parallel_threads_share_a_lookup() -> None:
    """Threads wait for the one that loads the same key, but not for other keys."""
    once: Once[object] = Once()
    loads: list[str] = []
    loading, release = threading.Event(), threading.Event()

    def load() -> object:
        loads.append("a")
        loading.set()
        release.wait(5)
        return object()

    with ThreadPoolExecutor(4) as threads:
        values = [threads.submit(once.get, "a", load) for _ in range(4)]
        assert loading.wait(5)
        assert once.get("b", lambda: 1) == 1
        assert not any(one.done() for one in values)
        release.set()
        assert len({id(one.result(5)) for one in values}) == 1
    assert loads == ["a"]


def test_a_failed_lookup_is_repeated() -> None:
    """A failure is not kept as a value."""
    once: Once[int] = Once()
    fail: Callable[[], int] = lambda: 1 // 0  # noqa: E731 - raises when called
    with pytest.raises(ZeroDivisionError):
        once.get("a", fail)
    assert once.get("a", lambda: 7) == 7


def test_a_forgotten_value_is_looked_up_again() -> None:
    """The value stays if another thread has already replaced it."""
    once: Once[list[int]] = Once()
    old = once.get("a", lambda: [1])
    once.forget("a", old)
    new = once.get("a", lambda: [2])
    once.forget("a", old)
    assert once.get("a", lambda: [3]) is new
