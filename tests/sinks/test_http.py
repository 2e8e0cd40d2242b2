"""The one HTTP client of the sinks: what it repeats, whom it trusts and what it never tells."""

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
from provisioner.model.sink_address import GithubAddress
from provisioner.secret import Secret
from provisioner.sinks import http
from provisioner.sinks.http import Api, Credential, Once, Reply, Route, route_of, segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ADDRESS = GithubAddress("acme", "KEY")
CREDENTIAL = "credentialCanary"
BODY = {"value": "bodyCanary"}
OK = HttpResponse(200, {"fine": True})


class Plain(TlsServer):
    """Says that all is well."""

    def answer(self, _: HttpRequest) -> HttpResponse:
        return OK


class Client:
    """A client of a server, whose waits are noted and not waited."""

    def __init__(
        self, server: TlsServer, token: str = CREDENTIAL, *, whole: float = 30, **route: Any
    ) -> None:
        self.waits: list[float] = []
        self.grants = 0
        self.token = token
        way = {"base": server.url, "authority": server.ca_file} | route
        fixed, timeouts = {"Accept": "text/x-test"}, (5.0, whole)
        self.api = Api(Route(**way), self.grant, fixed, self.waits.append, timeouts=timeouts)

    def grant(self, _: Any) -> Credential:
        self.grants += 1
        return Credential({"Authorization": Secret(f"Bearer {self.token}")})

    def call(self, path: str = "/it", method: str = "PUT", **options: Any) -> Reply:
        return self.api.call(ADDRESS, method, path, BODY, **options)

    def error(self, path: str = "/it", **options: Any) -> SinkError:
        """What is raised, which holds no secret anywhere and says what to do."""
        with pytest.raises(SinkError) as caught:
            self.call(path, **options)
        error = caught.value
        told = "".join(traceback.format_exception(error)) + error.message + error.remedy
        assert "Canary" not in told
        assert error.__context__ is None
        assert error.message.startswith("github acme KEY ")
        assert error.remedy
        return error


@pytest.fixture
def server() -> Iterator[Plain]:
    with Plain() as server:
        yield server


@pytest.fixture
def client(server: Plain) -> Client:
    return Client(server)


def test_a_request_is_what_was_asked_for(server: Plain, client: Client) -> None:
    """Method, path, query, body, media type and headers arrive; the answer comes back."""
    reply = client.call(f"/a/{segment('b/ é?#%')}?c=d", kind="text/x-body")
    asked = server.requests[0]
    assert (reply.status, reply.body) == (200, {"fine": True})
    assert (asked.method, asked.names, asked.query) == ("PUT", ("a", "b/ é?#%"), {"c": "d"})
    assert asked.body == BODY
    assert asked.headers["Content-Type"] == "text/x-body"
    assert asked.headers["Accept"] == "text/x-test"
    assert asked.headers["Authorization"] == f"Bearer {CREDENTIAL}"
    assert asked.headers["User-Agent"].startswith("twenty-provisioner/")
    client.api.call(ADDRESS, "GET", "/")
    assert (server.requests[1].raw, server.requests[1].headers["Content-Type"]) == (b"", None)


@pytest.mark.parametrize("turn", ["drop", "lose", HttpResponse(500), HttpResponse(503)])
@pytest.mark.parametrize("times", [1, 3])
def test_what_may_pass_is_tried_again(client: Client, server: Plain, turn: Any, times: int) -> None:
    """A lost answer and a failure of the server are each tried four times."""
    server.outcomes = [turn] * times
    assert client.call().status == 200
    assert len(server.requests) == client.grants == times + 1
    assert [0.25 <= wait / 2**n <= 0.5 for n, wait in enumerate(client.waits)] == [True] * times


@pytest.mark.parametrize("turn", ["drop", "lose", HttpResponse(500)])
def test_what_does_not_pass_is_given_up(client: Client, server: Plain, turn: Any) -> None:
    """After the fourth try the sink is unavailable."""
    server.outcomes = [turn] * 5
    assert client.error().code == "sink_unavailable"
    assert len(server.outcomes) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_final(client: Client, server: Plain, status: int) -> None:
    """The same credential is not tried again; what the server says is not repeated."""
    server.outcomes = [HttpResponse(status, {"message": "sentCanary"})]
    error = client.error()
    assert (error.code, str(status) in error.message) == ("sink_denied", True)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_other_statuses_are_for_the_sink_to_judge(
    client: Client, server: Plain, status: int
) -> None:
    """They come back with the object that they hold, or an empty one."""
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


def test_a_sink_may_name_statuses_that_pass(client: Client, server: Plain) -> None:
    """They are tried again, and in the end come back."""
    server.outcomes = [HttpResponse(409)] * 5
    assert client.call(again=frozenset({409})).status == 409
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
def test_a_server_that_asks_for_patience_gets_it(
    client: Client, server: Plain, status: int, headers: dict[str, str], low: float, high: float
) -> None:
    """In seconds, as a date by its own clock, or as the end of GitHub's hour."""
    server.outcomes = [HttpResponse(status, None, headers)]
    assert client.call().status == 200
    assert len(client.waits) == 1
    assert low <= client.waits[0] <= high + 0.5


def test_more_than_a_minute_is_not_waited_for_a_server_that_is_down(
    client: Client, server: Plain
) -> None:
    """Whoever asks for it is unavailable."""
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
def test_a_secondary_limit_is_no_denial(
    client: Client, server: Plain, status: int, body: Any, headers: dict[str, str], waits: list[int]
) -> None:
    """Without `Retry-After` it asks for a minute at least, and for more each time."""
    server.outcomes = [HttpResponse(status, body, headers)] * 2
    assert client.call(explained=frozenset({403})).status == 200
    assert all(a <= b <= a + 0.5 for a, b in zip(waits, client.waits, strict=True))


@pytest.mark.parametrize("body", [b"Retry later\n", b"<html>429 Too Many Requests</html>", None])
def test_a_throttling_that_says_nothing_is_waited_for_ever_longer(
    client: Client, server: Plain, body: Any
) -> None:
    """As GitLab and a cluster may answer: one second, two, four, a minute at most."""
    server.outcomes = [HttpResponse(429, body)] * 8
    assert client.call().status == 200
    least = [1, 2, 4, 8, 16, 32, 60, 60]
    assert all(a <= b <= a + 0.5 for a, b in zip(least, client.waits, strict=True))


@pytest.mark.parametrize("turn", [HttpResponse(429), HttpResponse(403, SECONDARY)])
def test_a_throttling_without_end_is_given_up(
    client: Client, server: Plain, turn: HttpResponse
) -> None:
    """After several minutes in all; the credential is not blamed."""
    server.outcomes = [turn] * 40
    error = client.error()
    assert (error.code, "too many requests" in error.message) == ("sink_unavailable", True)
    assert 300 <= sum(client.waits) <= http.MAX_WAIT


def test_an_hour_is_not_waited_and_the_others_ask_no_more(client: Client, server: Plain) -> None:
    """GitHub's primary limit may take an hour; until then no request is worth sending."""
    server.outcomes = [HttpResponse(403, None, {"Retry-After": "3000"})]
    assert [client.error().code for _ in range(3)] == ["sink_unavailable"] * 3
    assert (client.waits, len(server.requests)) == ([], 1)


@pytest.mark.parametrize(
    "refusal",
    [HttpResponse(403, SECONDARY), HttpResponse(429, b"Retry later\n", {"Retry-After": "60"})],
)
def test_one_pause_is_for_all_that_share_the_credential(refusal: HttpResponse) -> None:
    """Eight threads, of which none asks again before the pause of one of them is over."""
    clock = Clock()
    with Plain() as server:
        Limit(server, clock, refusal)
        client = Client(server)
        client.api = Api(Route(server.url, ca_path=server.ca_file), client.grant, {}, clock.wait)
        with ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(lambda _: client.call().status, range(60)))
        assert replies == [200] * 60
        assert len(server.requests) <= 60 + 8 + 2  # in flight at the first refusal; then one by one


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
def test_a_redirect_is_not_followed(client: Client, server: Plain, status: int) -> None:
    """Neither token nor credential goes where a server points to."""
    server.outcomes = [HttpResponse(status, None, {"Location": f"{server.url}/elsewhereCanary"})]
    error = client.error()
    assert (error.code, "redirect" in error.message) == ("sink_unavailable", True)
    assert len(server.requests) == 1


def test_an_answer_that_is_no_json_is_told(client: Client, server: Plain) -> None:
    """A page of a proxy that says 200 is no success."""
    server.outcomes = [
        HttpResponse(200, b"<html>welcomeCanary</html>"),
        HttpResponse(200, b"[" * 100_000),
    ]
    assert [client.error().code, client.error().code] == ["sink_unavailable"] * 2


@pytest.mark.parametrize("packed", [False, True])
def test_an_endless_answer_is_not_read(client: Client, server: Plain, packed: bool) -> None:
    """At most 8 MiB are taken, unpacked."""
    for size, fine in ((8 << 20, True), ((8 << 20) + 1, False)):
        raw = b" " * size
        told = gzip.compress(raw) if packed else raw
        server.outcomes = [HttpResponse(200, told, {"Content-Encoding": "gzip"} if packed else {})]
        if fine:
            assert client.call() == Reply(200, {})
        else:
            assert "more than 8 MiB" in client.error().message


@contextmanager
def trickling(gaps: threading.Event) -> Iterator[str]:
    """A server whose answer comes byte by byte and never ends."""

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


def test_an_answer_that_trickles_ends(server: Plain) -> None:
    """The whole body has a time limit, not only each read of it."""
    with trickling(threading.Event()) as base:
        assert "in time" in Client(server, base=base, whole=0.2).error().message


def test_a_server_that_is_silent_is_given_up(server: Plain) -> None:
    """A connection that nobody answers ends with the time limit."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        base = f"http://localhost:{listener.getsockname()[1]}"
        assert "in time" in Client(server, base=base, whole=0.05).error().message


def test_nobody_listens(server: Plain) -> None:
    """A refused connection is tried again and told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = Client(server, base=f"https://localhost:{port}")
    assert client.error().code == "sink_unavailable"
    assert len(client.waits) == 3


@pytest.mark.parametrize("base", ["https://", "https://[", "https://a b", "https://localhost:x"])
def test_an_address_that_is_none_is_told(server: Plain, base: str) -> None:
    """A slip in a variable is an error that says so, not a traceback."""
    client = Client(server, base=base)
    assert client.error().code == "sink_unavailable"


# Who may listen.


def test_plain_http_is_for_loopback_alone() -> None:
    """A token goes unencrypted to this machine only; nothing is asked of others."""
    with Plain(plain=True) as server:
        assert Client(server).call().status == 200
        client = Client(server, base="http://vault.example")
        assert (client.error().code, client.grants) == ("sink_unsuitable", 0)


def test_a_certificate_of_another_authority_is_not_trusted(
    server: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an authority is named it is the only one; nothing is tried again."""
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", server.ca_file)
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    (tmp_path / "folder").mkdir()
    for route in (
        {"authority": str(other)},
        {"authority": str(tmp_path / "folder")},
        {"authority": server.ca_file, "authority_text": other.read_text()},
    ):
        client = Client(server, **route)
        assert "not trusted" in client.error().message
        assert (client.waits, server.requests) == ([], [])


def test_the_usual_authorities_are_trusted(server: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none is named."""
    monkeypatch.setattr(http, "DEFAULT_CA_BUNDLE_PATH", server.ca_file)
    assert Client(server, authority=None).call().status == 200


@pytest.mark.parametrize("route", [{"authority": "missing.pem"}, {"authority_text": "no PEM"}])
def test_an_authority_that_cannot_be_read_is_told(server: Plain, route: dict[str, str]) -> None:
    """It is an error of the sink, which says what to check."""
    assert "certificates" in Client(server, **route).error().message


def test_the_authority_comes_from_the_usual_variables() -> None:
    """The first that is set; an empty one is not."""
    variables = {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": "b", "SSL_CERT_FILE": "c"}
    assert route_of("https://x", variables) == Route("https://x", ca_path="b")
    assert route_of("https://x", {}) == Route("https://x")


@pytest.mark.parametrize("path", ["/a/../b", "/a/.", "/..?c"])
def test_no_name_leads_elsewhere(client: Client, server: Plain, path: str) -> None:
    """Names of dots alone would be taken for folders on the way."""
    assert client.error(path).code == "sink_unsuitable"
    assert server.requests == []


# What is never told, and what is never taken.


@pytest.mark.parametrize("token", ["two\nlinesCanary", "accenté Canary", "\x00Canary"])
def test_a_credential_that_no_header_carries_is_told(server: Plain, token: str) -> None:
    """It is refused without being shown or sent."""
    client = Client(server, token)
    assert client.error().code == "sink_denied"
    assert server.requests == []


def test_no_log_holds_a_secret(client: Client, server: Plain, caplog) -> None:
    """Not even the libraries' own at their most talkative."""
    caplog.set_level(logging.DEBUG)
    server.outcomes = [
        "drop",
        HttpResponse(500, {"message": "answerCanary"}),
        HttpResponse(200, {"it": "answerCanary"}),
    ]
    reply = client.call()
    assert caplog.records
    assert "Canary" not in caplog.text + repr(reply) + repr(client.grant(None))


def test_nothing_of_the_machine_changes_the_credential(
    server: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a netrc file nor a user name in the address takes its place; no cookie is kept."""
    (tmp_path / ".netrc").write_text("machine localhost login a password b\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    client = Client(server, base=server.url.replace("//", "//user:passwordCanary@"))
    server.outcomes = [HttpResponse(200, {}, {"Set-Cookie": "a=b"})]
    client.call()
    client.call()
    for asked in server.requests:
        assert asked.headers["Authorization"] == f"Bearer {CREDENTIAL}"
        assert asked.headers["Cookie"] is None
    server.outcomes = [HttpResponse(500)] * 4
    client.error()


class Proxy(socketserver.BaseRequestHandler):
    """Connects through, as a proxy does for https."""

    seen: ClassVar[list[bytes]]

    def handle(self) -> None:
        head = self.request.recv(65536)
        self.seen.append(head)
        host, _, port = head.split()[1].decode().partition(":")
        with socket.create_connection((host, int(port))) as there:
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            ends = {self.request: there, there: self.request}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    ends[end].sendall(data)


@pytest.mark.parametrize("named", [True, False])
def test_a_proxy_sees_nothing(server: Plain, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    """The way through it is encrypted to the server, whose certificate is checked as ever."""

    class Seeing(Proxy):
        seen: ClassVar[list[bytes]] = []

    with _threaded(Seeing) as port:
        proxy = f"http://localhost:{port}"
        if not named:
            monkeypatch.setenv("HTTPS_PROXY", proxy)
        route = {"proxy": proxy} if named else {}
        assert Client(server, **route).call().status == 200
        assert len(Seeing.seen) == 1
        assert b"Canary" not in Seeing.seen[0]
        other = trustme.CA().cert_pem.bytes().decode()
        assert "not trusted" in Client(server, authority_text=other, **route).error().message
    assert "through the proxy" in Client(server, **route).error().message


def test_threads_share_a_client(client: Client, server: Plain) -> None:
    """Many threads at once each get the answer to what they asked."""
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda n: client.call(f"/{n}"), range(40)))
    assert [reply.status for reply in replies] == [200] * 40
    assert sorted(int(one.names[0]) for one in server.requests) == list(range(40))


# What is looked up once.


def test_many_threads_look_once() -> None:
    """Whoever asks meanwhile waits for the one that looks; other keys do not."""
    once: Once[object] = Once()
    looks: list[str] = []
    looking, go_on = threading.Event(), threading.Event()

    def look() -> object:
        looks.append("a")
        looking.set()
        go_on.wait(5)
        return object()

    with ThreadPoolExecutor(4) as threads:
        values = [threads.submit(once.get, "a", look) for _ in range(4)]
        assert looking.wait(5)
        assert once.get("b", lambda: 1) == 1
        assert not any(one.done() for one in values)
        go_on.set()
        assert len({id(one.result(5)) for one in values}) == 1
    assert looks == ["a"]


def test_a_look_that_failed_is_made_again() -> None:
    """A failure is nobody's value."""
    once: Once[int] = Once()
    fail: Callable[[], int] = lambda: 1 // 0  # noqa: E731 - raises when called
    with pytest.raises(ZeroDivisionError):
        once.get("a", fail)
    assert once.get("a", lambda: 7) == 7


def test_what_is_forgotten_is_looked_up_again() -> None:
    """Unless someone else has done so already."""
    once: Once[list[int]] = Once()
    old = once.get("a", lambda: [1])
    once.forget("a", old)
    new = once.get("a", lambda: [2])
    once.forget("a", old)
    assert once.get("a", lambda: [3]) is new
