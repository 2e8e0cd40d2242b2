"""The HTTP client: proxies, headers, and the reasons for no answer."""

from __future__ import annotations

import base64
import errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from one_request import Healthy, failure, send

from provisioner.http_client.client import HttpClient
from provisioner.http_client.exchange import HttpAnswer, NoAnswer, Route
from provisioner.http_client.network import Network
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def https() -> Iterator[Healthy]:
    with Healthy() as server:
        yield server


@pytest.mark.parametrize(
    ("no_proxy", "direct"),
    [
        ("127.0.0.0/8", True),
        ("10.0.0.0/8, 127.0.0.1", True),
        ("*", True),
        ("10.0.0.0/8", False),
        ("example.com,not/a/network", False),
    ],
)
def test_no_proxy_names_hosts_and_networks(
    scripted, answer, monkeypatch, no_proxy: str, direct: bool
) -> None:
    """A server that it names is asked directly, any other one through the proxy."""
    server, proxy = scripted(answer(200, "{}")), scripted(answer(200, "{}"))
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", no_proxy)
    assert isinstance(send(server.url), HttpAnswer)
    assert (len(server.requests), len(proxy.requests)) == ((1, 0) if direct else (0, 1))


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_proxy_gets_its_own_credential(
    scripted, answer, monkeypatch, variable: str, scheme: str
) -> None:
    """User name and password are in its address, which may lack a scheme."""
    proxy = scripted(answer(200, "{}"))
    address = proxy.url.removeprefix("http://")
    monkeypatch.setenv(variable, f"{scheme}me:p%40ss@{address}")
    assert isinstance(send("http://shop.example"), HttpAnswer)
    [request] = proxy.requests
    credential = base64.b64encode(b"me:p@ss")
    assert request.startswith(b"POST http://shop.example/a HTTP/1.1\r\n")
    assert b"proxy-authorization: Basic " + credential in request
    assert b"\r\nAuthorization" not in request


def test_a_proxy_of_an_unknown_kind_is_reported(monkeypatch) -> None:
    """Nothing is sent, and the advice names the variable."""
    monkeypatch.setenv("all_proxy", "socks9://127.0.0.1:1080")
    found = failure("http://shop.example")
    assert (found.code, found.sent) == ("unreachable", False)
    assert "HTTPS_PROXY" in found.remedy


def test_an_own_header_replaces_a_default_one(scripted, answer) -> None:
    """Names of headers are compared without case, so that none is sent twice."""
    server = scripted(answer(200, "{}"))
    send(server.url, {"user-agent": "mine", "ACCEPT": "text/x"})
    head = server.requests[0].lower()
    assert head.count(b"user-agent:") == head.count(b"accept:") == 1
    assert b"user-agent: mine\r\n" in head


@pytest.mark.parametrize("name", ["X-A\r\nX-B", "X-A: b\r\nX-C"])
def test_a_header_that_would_be_two_is_not_sent(scripted, answer, name: str) -> None:
    """The error has no text of the header, which may be a secret."""
    server = scripted(answer(200, "{}"))
    found = send(server.url, {name: "canary\r\n"})
    assert isinstance(found, NoAnswer)
    assert "canary" not in repr(found)
    assert server.requests == [] or b"canary" not in server.requests[0]


@pytest.mark.parametrize(
    "line", [f"HTTP/1.1 [Errno {errno.EMFILE}] timed out", "Tunnel connection failed: 403"]
)
def test_no_text_of_a_server_says_that_nothing_was_sent(scripted, line: str) -> None:
    """Otherwise a server could have a create repeated that it handled."""
    server = scripted(f"{line}\r\n\r\n".encode())
    found = failure(server.url)
    assert (found.code, found.sent, found.again) == ("connection_lost", True, False)
    assert len(server.requests) == 1


def test_no_descriptor_left_is_named(monkeypatch) -> None:
    """A connection that failed for it was not sent, and may succeed a moment later."""

    def connect(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    found = failure("http://127.0.0.1:9")
    assert (found.sent, found.again, "ulimit" in found.remedy) == (False, True, True)


def test_the_verifier_says_why_a_certificate_is_not_trusted(https: Healthy) -> None:
    """An unknown authority and a wrong name differ, and the advice names the setting."""
    unknown = failure(https.url, ca_setting="my_setting")
    assert "local issuer" in unknown.reason
    assert "my_setting" in unknown.remedy
    wrong = failure(https.url, ca_path=https.ca_file, server_name="other.example")
    assert "other.example" in wrong.reason
    assert [(one.code, one.sent, one.lasting) for one in (unknown, wrong)] == [
        ("tls_failed", False, True)
    ] * 2
    assert https.requests == []


def test_a_client_certificate_that_cannot_be_read_is_reported(https: Healthy) -> None:
    """Nothing is sent without it."""
    client = HttpClient(Route(https.url, https.ca_file), {}, 1, Secret("no PEM"))
    found = client.request("GET", "/", timeout=(2.0, 2.0), max_bytes=1)
    assert isinstance(found, NoAnswer)
    assert (found.code, found.sent) == ("tls_failed", False)
    assert https.requests == []


def test_a_certificate_may_have_a_comment_in_any_language(https: Healthy) -> None:
    """OpenSSL writes the subject in front of a certificate as it is."""
    text = f"subject=O = Müller 🔑\n{Path(https.ca_file).read_text(encoding='ascii')}"
    assert isinstance(send(https.url, ca_pem=text), HttpAnswer)


@pytest.mark.parametrize(("size", "allowed"), [(1 << 20, True), ((1 << 20) + 1, False)])
def test_the_limit_of_a_body_counts_unpacked_bytes(scripted, answer, size, allowed) -> None:
    """An answer that is larger by one byte is refused, and no repeat would help."""
    found = send(scripted(answer(200, " " * size)).url)
    assert isinstance(found, HttpAnswer if allowed else NoAnswer)
    assert allowed or ("1 MiB" in found.reason and found.lasting)


def test_clients_of_a_run_share_what_they_trust(tmp_path) -> None:
    """Certificates are read once for any number of servers, and each client trusts only its own."""
    network = Network()
    shared = network.tls_context(Route("https://one.example"))
    assert network.tls_context(Route("https://two.example")) is shared
    assert network.tls_context(Route("https://two.example", verify=False)) is not shared
    with pytest.raises(FileNotFoundError):
        network.tls_context(Route("https://two.example", str(tmp_path / "none.pem")))
