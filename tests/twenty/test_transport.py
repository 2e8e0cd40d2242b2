"""HTTP against misbehaving servers, over real sockets."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
import trustme
from builders import NOW, environment_with, limits_with
from tls_server import HttpRequest, HttpResponse, TlsServer

from provisioner import __version__
from provisioner.errors.exceptions import WorkspaceError
from provisioner.runtime.cancellation import Cancellation
from provisioner.secret import Secret
from provisioner.twenty.answers import NOT_JSON, explain
from provisioner.twenty.rate_limit import Rate, RateLimit
from provisioner.twenty.transport import LostAnswerError, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def to(hurried) -> Iterator[Callable[..., Transport]]:
    opened: list[Transport] = []

    def make(
        url: str,
        stop: Cancellation | None = None,
        **changes: object,
    ) -> Transport:
        environment = environment_with(url=url, **changes)
        opened.append(Transport(environment, url, stop or hurried()))
        return opened[-1]

    yield make
    for transport in opened:
        transport.close()


def test_a_request_has_its_headers_and_the_name_of_the_tool(scripted, answer, to) -> None:
    """User-Agent, the environment's own headers, JSON, and the bearer token."""
    server = scripted(answer(200, '{"a": 1}', Date="Mon, 23 Nov 2026 04:00:00 GMT"))
    transport = to(server.url, headers=(("X-Gate", Secret("open")),))
    response = transport.send(
        "POST", "/x?y=1", body={"k": "v"}, token=lambda: Secret("tok"), repeatable=False
    )
    assert (response.status, response.body) == (200, {"a": 1})
    assert response.server_time == NOW
    [request] = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /x?y=1 HTTP/1.1")
    for line in (
        f"User-Agent: twenty-provisioner/{__version__}".encode(),
        b"X-Gate: open",
        b"Authorization: Bearer tok",
        b"Content-Type: application/json",
    ):
        assert line in head
    assert body == b'{"k": "v"}'


def test_netrc_does_not_replace_the_credential(scripted, answer, to, tmp_path, monkeypatch) -> None:
    """A ~/.netrc entry for the host is ignored."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password canary\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    server = scripted(answer(200, "{}"), answer(200, "{}"))
    to(server.url).send("GET", "/", token=lambda: Secret("tok"), repeatable=True)
    to(server.url).send("GET", "/", repeatable=True)
    assert b"Bearer tok" in server.requests[0]
    assert b"Authorization" not in server.requests[1]


@pytest.mark.parametrize(
    "entry",
    [
        None,
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"garbage\r\n\r\n",
    ],
    ids=["closed", "truncated", "half-chunk", "broken-gzip", "no-http"],
)
def test_a_lost_answer_of_a_write_is_reported_and_never_repeated(scripted, to, entry) -> None:
    """Whatever breaks after the request was sent: one request, and an error that it is lost."""
    server = scripted(entry, entry)
    with pytest.raises(LostAnswerError) as caught:
        to(server.url).send("POST", "/", body={}, repeatable=False)
    assert caught.value.failure.code == "connection_lost"
    assert len(server.requests) == 1


def test_a_read_whose_answer_is_lost_is_repeated(scripted, answer, to) -> None:
    """Reads are repeated after a reset and after a server error."""
    server = scripted(None, answer(502, "<html>"), answer(500, "{}"), answer(200, "[]"))
    transport = to(server.url)
    assert transport.send("GET", "/", repeatable=True).body == []
    assert transport.requests_sent == 4


def test_reads_are_not_repeated_forever(scripted, answer, to) -> None:
    """After four tries the caller gets the last answer, or the error that it is lost."""
    server = scripted(*[answer(500, "{}")] * 9)
    assert to(server.url).send("GET", "/", repeatable=True).status == 500
    assert len(server.requests) == 4
    silent = scripted(*[None] * 9)
    with pytest.raises(LostAnswerError):
        to(silent.url).send("GET", "/", repeatable=True)
    assert len(silent.requests) == 4


@pytest.mark.parametrize("body", ["", "<html>", '{"data":', "\xff"])
def test_a_read_with_an_answer_that_is_not_json_is_repeated(scripted, answer, to, body) -> None:
    """A 200 of a proxy, or an answer cut off: a read is sent four times in all."""
    server = scripted(answer(200, body), answer(201, body), answer(200, "[]"))
    assert to(server.url).send("GET", "/", repeatable=True).body == []
    assert len(server.requests) == 3
    stubborn = scripted(*[answer(200, body)] * 9)
    assert to(stubborn.url).send("GET", "/", repeatable=True).body is NOT_JSON
    assert len(stubborn.requests) == 4


@pytest.mark.parametrize("status", [302, 400, 404])
def test_a_read_with_a_refusal_that_is_not_json_is_not_repeated(
    scripted, answer, to, status
) -> None:
    """Its status says enough."""
    server = scripted(answer(status, "<html>"))
    assert to(server.url).send("GET", "/", repeatable=True).status == status
    assert len(server.requests) == 1


@pytest.mark.parametrize("reply", [(500, "{}"), (408, ""), (200, "<html>"), (201, "")])
def test_a_write_is_not_repeated_after_a_server_error(scripted, answer, to, reply) -> None:
    """A 500 may come after the commit, and so may an answer that cannot be read."""
    server = scripted(answer(*reply), answer(200, "{}"))
    assert to(server.url).send("POST", "/", body={}, repeatable=False).status == reply[0]
    assert len(server.requests) == 1


def test_after_a_stop_only_repeatable_requests_are_sent(scripted, answer, to, hurried):
    """Reads and repeatable changes are still sent, so that the run learns its outcome."""
    stop = hurried()
    server = scripted(None, answer(200, "[]"))
    transport = to(server.url, stop)
    stop.request()
    with pytest.raises(WorkspaceError) as caught:
        transport.send("POST", "/", body={}, repeatable=False)
    assert caught.value.code == "stopped"
    assert server.requests == []
    assert transport.send("GET", "/", repeatable=True).body == []
    assert len(server.requests) == transport.requests_sent == 2


def test_a_write_that_waits_for_its_turn_is_not_sent_after_a_stop(scripted, answer, to, hurried):
    """A write that the rate limit refused, and that a stop meets in its wait, is not repeated."""

    class StoppedInWait(hurried):
        def sleep(self, seconds: float) -> None:
            assert seconds > 100
            self.request()

    server = scripted(answer(429, "{}", Retry_After="170"))
    with pytest.raises(WorkspaceError) as caught:
        to(server.url, StoppedInWait()).send("POST", "/", body={}, repeatable=False)
    assert caught.value.code == "stopped"
    assert len(server.requests) == 1


@pytest.mark.parametrize("execution_began", [True, False])
@pytest.mark.parametrize("several", [True, False])
def test_a_document_of_several_is_not_repeated_once_it_began(
    scripted, answer, to, execution_began, several
) -> None:
    """If the rate limit refuses it with `data` in the answer, parts of it may be done."""
    reply = '{"errors":[{"message":"x","extensions":{"code":"LIMIT_REACHED"}}]%s}'
    reply = reply % (',"data":null' if execution_began else "")
    server = scripted(answer(200, reply), answer(201, "{}"))
    response = to(server.url).send("POST", "/", body={}, repeatable=False, several=several)
    repeated = not (execution_began and several)
    assert (response.status, len(server.requests)) == ((201, 2) if repeated else (200, 1))


def test_a_silent_server_times_out(scripted, to) -> None:
    """The message names the timeout."""
    release = threading.Event()
    server = scripted(release)
    with pytest.raises(LostAnswerError) as caught:
        to(server.url, limits=limits_with(timeout=0.1)).send("POST", "/", body={}, repeatable=False)
    release.set()
    assert caught.value.failure.code == "timeout"
    assert "0.1 s" in caught.value.failure.message


def test_a_silent_server_is_asked_once_in_its_first_observation(scripted, answer, to) -> None:
    """A server that hangs delays the first writes of others by its own timeout, not longer."""
    release = threading.Event()
    server = scripted(release, release, answer(200, "[]"))
    transport = to(server.url, limits=limits_with(timeout=0.1))
    with pytest.raises(LostAnswerError) as caught:
        transport.send("GET", "/", repeatable=True)
    assert (caught.value.failure.code, transport.requests_sent) == ("timeout", 1)
    transport.close_idle_connections()
    release.set()
    transport.timeout = 5.0
    assert transport.send("GET", "/", repeatable=True).body == []


def test_idle_connections_are_closed_and_opened_again(serve, to) -> None:
    """No connection is left after closing them; the next request opens one."""
    served = serve()
    transport = to(served.sandbox.url)
    transport.send("GET", "/", repeatable=True)
    pool, _ = transport._client._opened
    [connection] = filter(None, pool.pool.queue)
    assert not connection.is_closed
    transport.close_idle_connections()
    assert connection.is_closed
    assert transport.send("GET", "/", repeatable=True).status


@pytest.mark.parametrize(
    ("error", "connects"), [(TimeoutError("timed out"), 1), (ConnectionRefusedError(111, "no"), 3)]
)
def test_a_connection_that_times_out_is_not_tried_again(to, monkeypatch, error, connects) -> None:
    """Three attempts would take three timeouts; a refused connection costs nothing."""
    tried: list[object] = []

    def connect(*address: object, **_: object) -> None:
        tried.append(address)
        raise error

    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    with pytest.raises(WorkspaceError) as caught:
        to("http://127.0.0.1:9").send("POST", "/", body={}, repeatable=False)
    assert caught.value.code == "unreachable"
    assert len(tried) == connects


def test_a_warning_names_the_rate_to_declare(scripted, answer, to, caplog) -> None:
    """It comes once, with the pace that is waited for; what follows soon is only information."""
    text = '{"messages":["Limit reached (100 tokens per 60000 ms)"]}'
    server = scripted(
        answer(429, text, Retry_After="0"), answer(429, text, Retry_After="0"), answer(200, "{}")
    )
    transport = to(server.url, limits=limits_with(requests_per_minute=1000))
    caplog.set_level("INFO")
    assert transport.send("GET", "/", repeatable=True).status == 200
    said = [one for one in caplog.records if "slow down" in one.getMessage()]
    assert [one.levelname for one in said] == ["WARNING", "INFO"]
    assert "at most 98 requests a minute" in said[0].getMessage()
    assert "Set limits.requests_per_minute to 98, not 1000" in said[0].getMessage()


def test_a_write_that_the_rate_limit_refused_is_repeated(scripted, answer, to) -> None:
    """A throttled request was not handled, so even a write may be repeated."""
    server = scripted(
        answer(429, "{}", Retry_After="0"),
        answer(200, '{"errors":[{"message":"x","extensions":{"code":"LIMIT_REACHED"}}]}'),
        answer(429, '{"messages":["Limit reached (1000 tokens per 10 ms)"]}'),
        answer(201, "{}"),
    )
    assert to(server.url).send("POST", "/", body={}, repeatable=False).status == 201
    assert len(server.requests) == 4


def test_a_write_is_not_repeated_after_a_503(scripted, answer, to) -> None:
    """It may come from a proxy whose server still handled the request; a read is repeated."""
    server = scripted(answer(503, "", Retry_After="0"), answer(200, "{}"))
    transport = to(server.url)
    assert transport.send("POST", "/", body={}, repeatable=False).status == 503
    assert len(server.requests) == 1
    assert transport.send("GET", "/", repeatable=True).status == 200
    repeated = scripted(answer(503, "", Retry_After="0"), answer(200, "{}"))
    assert to(repeated.url).send("GET", "/", repeatable=True).status == 200


def test_a_wait_that_is_too_long_is_not_waited_for(scripted, answer, to) -> None:
    """The refusal itself is then the answer."""
    server = scripted(answer(429, "{}", Retry_After="3600"))
    assert to(server.url).send("POST", "/", body={}, repeatable=False).status == 429
    assert len(server.requests) == 1


class Leaping(Cancellation):
    """Cancellation whose clock leaps over the sleeps of the one thread that uses it."""

    slept = 0.0

    def now(self) -> float:
        return super().now() + self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


@pytest.mark.parametrize(("others", "status"), [(True, 201), (False, 429)])
def test_a_request_is_given_up_when_the_server_accepts_no_other(
    scripted, answer, to, others: bool, status: int
) -> None:
    """Refused for 300 s in all; whatever the server accepts meanwhile starts the three minutes."""
    accepted = [answer(200, "{}")] if others else []
    refused = [*accepted, answer(429, "{}", Retry_After="100")]
    server = scripted(*(3 * refused), *accepted, answer(201, "{}"))
    transport = to(server.url, stop=Leaping())

    def token() -> Secret:
        if others:
            transport.send("GET", "/", repeatable=True)
        return Secret("tok")

    assert transport.send("POST", "/", body={}, token=token, repeatable=False).status == status


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [("5", 5, 5), ("Fri, 01 Jan 2100 00:00:00 GMT", 10**8, 10**11), ("soon", None, None)]
    + [("Mon, 01 Jan 2001 00:00:00 GMT", 0, 0), ("1.5", 1.5, 1.5), ("1.", None, None)],
)
def test_retry_after_is_read_in_both_forms(scripted, answer, to, header, least, most) -> None:
    """Seconds or a date; anything else counts as no wait."""
    server = scripted(answer(200, "{}", Retry_After=header, Date="nonsense"))
    response = to(server.url).send("GET", "/", repeatable=True)
    assert response.server_time is None
    if least is None:
        assert response.retry_after is None
    else:
        assert least <= response.retry_after <= most


def test_a_date_to_retry_at_is_read_by_the_servers_clock(scripted, answer, to) -> None:
    """However wrong that clock is: both dates are in the same answer."""
    dates = {
        "Retry_After": "Mon, 01 Jan 2001 00:01:30 GMT",
        "Date": "Mon, 01 Jan 2001 00:00:00 GMT",
    }
    server = scripted(answer(200, "{}", **dates))
    assert to(server.url).send("GET", "/", repeatable=True).retry_after == 90.0


def test_a_redirect_is_not_followed(scripted, answer, to) -> None:
    """The credential is sent nowhere else, and the query of the target is not shown."""
    server = scripted(answer(302, Location="https://other.example.com/login?token=canary"))
    response = to(server.url).send("GET", "/", token=lambda: Secret("tok"), repeatable=True)
    assert (response.status, response.location) == (302, "https://other.example.com/login")
    local = scripted(answer(302, Location="/login?x=1"))
    assert to(local.url).send("GET", "/", repeatable=True).location == "/login"
    short = scripted(answer(302, Location="//me:canary@other.example.com/login?x=1"))
    assert to(short.url).send("GET", "/", repeatable=True).location == "//other.example.com/login"


@pytest.mark.parametrize(
    ("location", "leaves"),
    [
        ("https://login.example.com/x", True),
        ("//login.example.com/x", True),
        ("/login", False),
        ("https://127.0.0.1:1/x", False),
        ("http://LOCALHOST./x", False),
        ("http://[::1", False),
        ("data:,x", False),
    ],
)
def test_a_redirect_to_another_host_is_taken_for_a_login_page(
    scripted, answer, to, location: str, leaves: bool
) -> None:
    """The advice is then to set `headers`; any other redirect names the final address."""
    response = to(scripted(answer(302, Location=location)).url).send("GET", "/", repeatable=True)
    failure = explain("shop", response)
    assert ("login page of a proxy" in failure.message) is leaves
    assert ("`headers`" in failure.remedy) is leaves
    assert ("`url` to the final address" in failure.remedy) is not leaves


def test_cookies_are_not_kept(scripted, answer, to) -> None:
    """The next request does not send a server's cookie back."""
    server = scripted(answer(200, "{}", Set_Cookie="a=b; Path=/"), answer(200, "{}"))
    transport = to(server.url)
    for _ in range(2):
        transport.send("GET", "/", repeatable=True)
    assert b"Cookie" not in server.requests[1]


def test_a_body_that_is_too_large_is_an_error(scripted, to, monkeypatch) -> None:
    """A body larger than the limit does not fill the memory."""
    monkeypatch.setattr("provisioner.twenty.transport._MAX_BODY", 1024)
    server = scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n" + b"x" * 4096)
    with pytest.raises(LostAnswerError) as caught:
        to(server.url).send("POST", "/", body={}, repeatable=False)
    assert caught.value.failure.code == "unexpected_answer"


def test_a_body_that_arrives_too_slowly_is_given_up(to) -> None:
    """The timeout is for the whole answer, not for each of its bytes."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not ended.wait(0.05):
                connection.sendall(b" ")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    slow = to(f"http://127.0.0.1:{port}", limits=limits_with(timeout=0.3))
    with pytest.raises(LostAnswerError) as caught:
        slow.send("POST", "/", body={}, repeatable=False)
    ended.set()
    thread.join(5)
    listener.close()
    assert caught.value.failure.code == "timeout"


@pytest.mark.parametrize(
    "location", ["http://[::1", "https://user:canary@h.example.com/", "\xff\xfe"]
)
def test_an_invalid_redirect_is_an_answer_like_any_other(scripted, answer, to, location) -> None:
    """No address, one with a password, bytes that are not text: none of them raises an error."""
    raw = answer(302).replace(b"\r\n\r\n", f"\r\nLocation: {location}\r\n\r\n".encode("latin-1"))
    response = to(scripted(raw).url).send("GET", "/", repeatable=True)
    assert response.status == 302
    assert "canary" not in str(response.location)


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example.com"])
def test_an_invalid_host_name_is_unreachable(to, host) -> None:
    """The error of a typo in `url` is `unreachable`."""
    with pytest.raises(WorkspaceError) as caught:
        to(f"http://{host}").send("GET", "/", repeatable=True)
    assert caught.value.code == "unreachable"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (lambda: f"http://127.0.0.1:{closed_port()}", "nothing is listening at that address"),
        (lambda: "http://no-such-host.example.com", "its host name is unknown"),
    ],
    ids=["refused", "unknown-name"],
)
def test_a_server_without_a_connection_is_unreachable(to, url, reason) -> None:
    """Nothing was sent, so even a write certainly did nothing."""
    with pytest.raises(WorkspaceError) as caught:
        to(url()).send("POST", "/", body={}, repeatable=False)
    assert caught.value.code == "unreachable"
    assert reason in caught.value.message
    assert "shop" in caught.value.message


def test_a_dead_proxy_is_named_and_no_proxy_is_honoured(scripted, answer, to, monkeypatch) -> None:
    """Proxies come from the process environment, and NO_PROXY excludes hosts."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("no_proxy", "")
    server = scripted(answer(200, "{}"))
    with pytest.raises(WorkspaceError) as caught:
        to(server.url).send("GET", "/", repeatable=True)
    assert "proxy" in caught.value.message
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert to(server.url).send("GET", "/", repeatable=True).status == 200


@pytest.mark.parametrize(("repeatable", "sent"), [(False, 1), (True, 4)])
def test_a_request_that_a_proxy_never_answered_is_lost(
    scripted, to, monkeypatch, repeatable, sent
) -> None:
    """The proxy may have passed the request on before it closed, so this is not `unreachable`."""
    proxy = scripted()
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(LostAnswerError):
        to("http://shop.example:9").send("POST", "/", body={}, repeatable=repeatable)
    assert len(proxy.requests) == sent


def test_a_tunnel_that_a_proxy_refuses_is_unreachable(scripted, answer, to, monkeypatch) -> None:
    """Nothing of the request itself was sent."""
    proxy = scripted(*[answer(403)] * 9)
    monkeypatch.setenv("https_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(WorkspaceError) as caught:
        to("https://shop.example:9").send("POST", "/", body={}, repeatable=False)
    assert caught.value.code == "unreachable"
    assert "proxy" in caught.value.message


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a self-signed certificate for 127.0.0.1, in one file with its key."""
    folder = tmp_path_factory.mktemp("tls")
    pem = folder / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        + ["-nodes", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
        + ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    pem.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return pem


@pytest.fixture
def tls_server(certificate: Path, answer) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
                with connection, context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(65536)
                    secure.sendall(answer(200, "{}"))
            except OSError:
                continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    ended.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def test_certificates_are_checked_against_the_named_authority(
    to, tls_server, certificate, monkeypatch, tmp_path
) -> None:
    """Unknown ones are refused; ca_file or the usual variables make them trusted."""
    with pytest.raises(WorkspaceError) as caught:
        to(tls_server).send("GET", "/", repeatable=True)
    assert caught.value.code == "tls_failed"
    assert "ca_file" in caught.value.remedy
    assert to(tls_server, ca_file=certificate).send("GET", "/", repeatable=True).status == 200
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert to(tls_server).send("GET", "/", repeatable=True).status == 200
    with pytest.raises(WorkspaceError) as caught:
        to(tls_server, ca_file=tmp_path / "gone.pem").send("GET", "/", repeatable=True)
    assert caught.value.code == "tls_failed"


def test_the_client_certificate_of_an_environment_is_shown(to, tmp_path) -> None:
    """A server that demands one gets it, with the key from its own file."""

    class Demanding(TlsServer):
        def answer(self, _: HttpRequest) -> HttpResponse:
            return HttpResponse(200, {})

    clients = trustme.CA()
    client = clients.issue_cert("provision")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    client.cert_chain_pems[0].write_to_path(str(cert))
    client.private_key_pem.write_to_path(str(key))
    with Demanding(clients=clients) as server:
        shown = {"ca_file": server.ca_file, "client_cert_file": cert, "client_key_file": key}
        assert to(server.url, **shown).send("GET", "/", repeatable=True).status == 200
        with pytest.raises((LostAnswerError, WorkspaceError)):
            to(server.url, ca_file=server.ca_file).send("POST", "/", repeatable=False)
    assert len(server.requests) == 1


def test_https_to_an_http_server_fails(scripted, answer, to) -> None:
    """The connection fails before anything is sent."""
    server = scripted(answer(200), answer(200), answer(200), answer(200))
    with pytest.raises(LostAnswerError) as caught:
        to(server.url.replace("http:", "https:")).send("POST", "/", body={}, repeatable=False)
    assert caught.value.failure.code == "tls_failed"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_rate_limit_receives_all_that_a_refusal_says(
    scripted, answer, monkeypatch, method
) -> None:
    """The wait, the rate, the duration of the request, and whether the rate limit caused it."""
    server = scripted(
        answer(429, '{"retryAfterSeconds": 9}', Retry_After="0", X_RateLimit_Limit="6000"),
        answer(503, "", Retry_After="0", X_RateLimit_Limit="6000"),
        answer(200, "{}"),
    )
    calls = []
    throttled = RateLimit.throttled

    def record(self: RateLimit, *numbers: object, duration: float, rate_limited: bool) -> float:
        calls.append((*numbers, 0 < duration < 5, rate_limited))
        return throttled(  # type: ignore[arg-type]
            self, *numbers, duration=duration, rate_limited=rate_limited
        )

    monkeypatch.setattr(RateLimit, "throttled", record)
    transport = Transport(environment_with(url=server.url), server.url, Cancellation())
    assert transport.send(method, "/", repeatable=True).status == 200
    transport.close()
    assert calls == [(0.0, Rate(6000, 60.0), True, True), (0.0, None, True, False)]
