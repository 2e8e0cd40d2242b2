"""The way to a server: names of this machine, SOCKS proxies, client certificates, and refusals."""

from __future__ import annotations

import select
import socket
import socketserver
import ssl
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import one_request
import pytest
import trustme
from one_request import Healthy
from urllib3.exceptions import SSLError

from provisioner.http_client.client import HttpClient
from provisioner.http_client.exchange import HttpAnswer, NoAnswer, Route
from provisioner.http_client.no_answer import no_answer_of
from provisioner.runtime.source import extra_remedy

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = {"ca_setting": "my_ca", "client_cert_setting": "my_cert", "url_setting": "my_url"}
DAY = timedelta(days=1)


def send(base: str, **route: Any) -> HttpAnswer | NoAnswer:
    return one_request.send(base, **(SETTINGS | route))


def failure(base: str, **route: Any) -> NoAnswer:
    return one_request.failure(base, **(SETTINGS | route))


@contextmanager
def serving(server: Healthy, certificate: trustme.LeafCert | None = None) -> Iterator[Healthy]:
    """Run a server, with this certificate in place of a valid one for localhost."""
    if certificate is not None:
        certificate.configure_cert(server._context)
    with server:
        yield server


# Names of this machine


@pytest.fixture
def no_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail for every name that is looked up."""
    look_up = socket.getaddrinfo

    def only_addresses(host: str, *args: Any, **options: Any) -> Any:
        assert host in {"127.0.0.1", "::1"}
        return look_up(host, *args, **options)

    monkeypatch.setattr("socket.getaddrinfo", only_addresses)


@pytest.mark.parametrize("name", ["localhost", "localhost.", "Apple.LocalHost", "a.b.localhost"])
def test_a_name_of_this_machine_is_reached_without_dns_and_proxies(
    scripted, answer, monkeypatch, no_dns, name: str
) -> None:
    """The request still names the host, by which the server knows the workspace."""
    server, proxy = scripted(answer(200, "{}")), scripted(answer(200, "{}"))
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("all_proxy", proxy.url)
    assert isinstance(send(server.url.replace("127.0.0.1", name)), HttpAnswer)
    [request] = server.requests
    assert f"\r\nhost: {name.rstrip('.')}:".lower().encode() in request.lower()
    assert proxy.requests == []


def test_a_server_that_listens_only_on_ipv6_is_reached(no_dns) -> None:
    """Development servers of Node may listen only on ::1."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        listener.settimeout(2)
        thread = threading.Thread(target=lambda: answer_once(listener), daemon=True)
        thread.start()
        found = send(f"http://apple.localhost:{listener.getsockname()[1]}")
        thread.join(5)
    assert isinstance(found, HttpAnswer)


def answer_once(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def test_nothing_that_listens_on_this_machine_is_reported(no_dns) -> None:
    """The reason is that of 127.0.0.1, not that of the second attempt."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    found = failure(f"http://apple.localhost:{port}")
    assert (found.code, found.reason) == ("unreachable", "nothing is listening at that address")


def test_the_certificate_of_a_name_below_localhost_is_checked(no_dns) -> None:
    """The name is also the server name of TLS, so that a server may have a certificate for each."""
    server = Healthy()
    names: list[str | None] = []
    server._context.sni_callback = lambda _, name, __: names.append(name)
    with serving(server, server.authority.issue_cert("apple.localhost")):
        url = server.url.replace("localhost", "apple.localhost")
        assert isinstance(send(url, ca_path=server.ca_file), HttpAnswer)
        assert (
            "pear.localhost" in failure(url.replace("apple", "pear"), ca_path=server.ca_file).reason
        )
    assert names == ["apple.localhost", "pear.localhost"]


# Proxies


class Tunnel(socketserver.StreamRequestHandler):
    """A proxy that connects to this machine whatever host it is asked for.

    Its server has `asked`, the hosts that it was asked for, and `users`, who asked.
    """

    def ask(self) -> int | None:
        """Read a request and accept it, and return its port; None after a refusal."""
        line = self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        host, _, port = line.split()[1].decode().rpartition(":")
        self.server.asked.append(host)
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        return int(port)

    def handle(self) -> None:
        port = self.ask()
        if port is None:
            return
        with socket.create_connection(("127.0.0.1", port)) as upstream:
            peers = {self.connection: upstream, upstream: self.connection}
            while True:
                for source in select.select(list(peers), [], [])[0]:
                    if not (data := source.recv(65536)):
                        return
                    peers[source].sendall(data)


class Socks(Tunnel):
    """A SOCKS server of version 5 (RFC 1928, RFC 1929)."""

    user: bytes | None = None
    refusal = 0

    def ask(self) -> int | None:
        _, count = self.rfile.read(2)
        methods = self.rfile.read(count)
        method = 0 if self.user is None else 2
        assert method in methods
        self.wfile.write(bytes([5, method]))
        if method:
            self.rfile.read(1)
            name, word = (self.rfile.read(self.rfile.read(1)[0]) for _ in range(2))
            accepted = name + b":" + word == self.user
            self.wfile.write(bytes([1, not accepted]))
            if not accepted:
                return None
        kind = self.rfile.read(4)[3]
        if kind == 1:
            host = socket.inet_ntoa(self.rfile.read(4))
        else:
            host = self.rfile.read(self.rfile.read(1)[0]).decode()
        port = int.from_bytes(self.rfile.read(2), "big")
        self.server.asked.append(host)
        self.wfile.write(bytes([5, self.refusal, 0, 1, 127, 0, 0, 1, 0, 0]))
        return None if self.refusal else port


@contextmanager
def proxy_of(handler: type[Tunnel]) -> Iterator[Any]:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Ignore connections that the client closes."""

    with Server(("127.0.0.1", 0), handler) as server:
        server.asked = []
        server.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize(
    ("scheme", "asked"), [("socks5h", "crm.example"), ("socks5", "127.0.0.1"), ("SOCKS5", None)]
)
def test_requests_go_through_a_socks_proxy(monkeypatch, variable, scheme, asked) -> None:
    """The proxy looks up the name for `socks5h`, this machine for `socks5`; TLS is end to end."""
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        "socket.getaddrinfo",
        lambda host, *args: look_up("127.0.0.1" if host == "crm.example" else host, *args),
    )
    server = Healthy()
    with serving(server, server.authority.issue_cert("crm.example")), proxy_of(Socks) as proxy:
        monkeypatch.setenv(variable, f"{scheme}://127.0.0.1:{proxy.port}")
        url = server.url.replace("localhost", "crm.example")
        assert isinstance(send(url, ca_path=server.ca_file), HttpAnswer)
        assert proxy.asked == [asked or "127.0.0.1"]
        assert failure(url).reason.startswith("its certificate is not trusted")


def test_a_socks_proxy_passes_on_plain_http(scripted, answer, monkeypatch) -> None:
    """Its credential stands in its address, and NO_PROXY holds as for other proxies."""

    class Guarded(Socks):
        user = b"me:p@ss"

    server = scripted(*[answer(200, "{}")] * 2)
    with proxy_of(Guarded) as proxy:
        monkeypatch.setenv("all_proxy", f"socks5h://me:p%40ss@127.0.0.1:{proxy.port}")
        assert isinstance(send(server.url), HttpAnswer)
        assert proxy.asked == ["127.0.0.1"]
        monkeypatch.setenv("all_proxy", f"socks5h://me:canary@127.0.0.1:{proxy.port}")
        found = failure(server.url)
        assert "through the proxy" in found.reason
        assert "canary" not in repr(found)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert isinstance(send(server.url), HttpAnswer)
    assert len(server.requests) == 2


def test_an_answer_through_a_socks_proxy_is_bounded(scripted, answer, monkeypatch) -> None:
    """As any other: more than the limit is not read."""
    server = scripted(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 90_000)
    monkeypatch.setattr("provisioner.http_client.bounded._MAX_SENT", 50)
    with proxy_of(Socks) as proxy:
        found = failure(server.url, proxy=f"socks5://127.0.0.1:{proxy.port}")
    assert (found.code, found.sent, found.lasting) == ("unexpected_answer", True, True)


@pytest.mark.parametrize(
    ("address", "host", "reason"),
    [
        ("socks5h://127.0.0.1:{port}", "crm.example", "nothing gets through the proxy"),
        ("socks5://127.0.0.1:9", "crm.example", "nothing gets through the proxy"),
        ("socks5://unknown.invalid:1", "crm.example", "nothing gets through the proxy"),
        ("socks9://127.0.0.1:{port}", "crm.example", "nothing gets through the proxy"),
        ("socks5://127.0.0.1:{port}", "unknown.invalid", "its host name is unknown"),
        ("socks5h://127.0.0.1:{port}", "a..b", "this is not a valid host name"),
    ],
)
def test_nothing_is_sent_if_a_socks_proxy_does_not_connect(address, host, reason) -> None:
    """It refuses, nothing listens there, or a name is not known; only then is a repeat safe."""

    class Refusing(Socks):
        refusal = 5

    with proxy_of(Refusing) as proxy:
        found = failure(f"http://{host}", proxy=address.format(port=proxy.port))
    assert (found.code, found.reason, found.sent) == ("unreachable", reason, False)


def test_a_socks_proxy_that_says_nothing_times_out(listener) -> None:
    """The timeout of a connection holds for it too, and nothing was sent."""
    client = HttpClient(
        Route("http://crm.example", proxy=f"socks5h://127.0.0.1:{listener.port}"), {}, 1
    )
    found = client.request("GET", "/", timeout=(0.1, 2.0), max_bytes=1)
    assert isinstance(found, NoAnswer)
    assert (found.code, found.sent) == ("unreachable", False)


@pytest.mark.filterwarnings("error")
def test_a_missing_library_for_socks_is_named(monkeypatch) -> None:
    """Nothing is sent, and the advice is the command that installs it from the tool's source."""
    monkeypatch.delitem(sys.modules, "provisioner.http_client.socks_proxy", raising=False)
    monkeypatch.delitem(sys.modules, "urllib3.contrib.socks", raising=False)
    monkeypatch.setitem(sys.modules, "socks", None)
    found = failure("http://crm.example", proxy="socks5://127.0.0.1:9")
    assert (found.code, found.sent, found.lasting) == ("unreachable", False, True)
    assert found.remedy == extra_remedy("socks")


# Client certificates


@pytest.fixture(scope="module")
def clients() -> trustme.CA:
    """Create the authority whose certificates the server accepts."""
    return trustme.CA()


@pytest.fixture
def mutual(clients: trustme.CA) -> Iterator[Healthy]:
    """Run a server that demands a client certificate."""
    server = Healthy(clients=clients)
    # The last message of TLS 1.3 comes after the handshake, and may be lost with the connection.
    server._context.maximum_version = ssl.TLSVersion.TLSv1_2
    with server:
        yield server


def written(certificate: trustme.LeafCert, folder: Path) -> tuple[str, str]:
    """Write a certificate with its chain, and its key, into two files."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    return str(cert), str(key)


@pytest.mark.parametrize("handler", [None, Tunnel, Socks])
@pytest.mark.parametrize("files", [1, 2])
def test_a_client_certificate_is_shown(mutual, clients, tmp_path, handler, files) -> None:
    """To the server itself, also through a proxy; the key is in the same file or in another one."""
    cert, key = written(clients.issue_cert("provision"), tmp_path)
    if files == 1:
        Path(cert).write_bytes(Path(cert).read_bytes() + Path(key).read_bytes())
    shown = {"client_cert_path": cert, "client_key_path": key if files > 1 else None}
    with proxy_of(handler or Tunnel) as proxy:
        scheme = "socks5h" if handler is Socks else "http"
        address = f"{scheme}://127.0.0.1:{proxy.port}" if handler else ""
        found = send(mutual.url, ca_path=mutual.ca_file, proxy=address, **shown)
        assert isinstance(found, HttpAnswer)
        assert proxy.asked == (["localhost"] if handler else [])


def test_a_client_certificate_that_the_server_refuses_is_reported(
    mutual, clients, tmp_path
) -> None:
    """It is of another authority or has expired; the advice names the setting."""
    now = datetime.now(UTC)
    expired = clients.issue_cert("provision", not_before=now - 2 * DAY, not_after=now - DAY)
    for certificate, why in [
        (trustme.CA().issue_cert("provision"), "unknown ca"),
        (expired, "certificate expired"),
    ]:
        cert, key = written(certificate, tmp_path)
        found = failure(
            mutual.url, ca_path=mutual.ca_file, client_cert_path=cert, client_key_path=key
        )
        assert (found.code, found.remedy) == ("tls_failed", "Check my_cert.")
        assert found.reason == f"the server does not accept the client certificate ({why})"
    missing = failure(mutual.url, ca_path=mutual.ca_file)
    assert (missing.code, "client certificate" in missing.remedy) == ("tls_failed", True)
    assert mutual.requests == []


def test_a_missing_client_certificate_is_not_called_refused() -> None:
    """TLS 1.3 has an alert for it, which may be lost with the connection."""
    alert = ssl.SSLError(1, "alert")
    alert.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    settings = {"url_setting": "u", "ca_setting": "c", "client_cert_setting": "my_cert"}
    found = no_answer_of(SSLError(alert), 1, **settings)
    assert found.reason == "the server demands a client certificate"
    assert found.remedy == "Set my_cert."


def test_a_client_certificate_that_is_gone_is_reported(mutual, tmp_path) -> None:
    """It was there when the run began; nothing is sent without it."""
    found = failure(mutual.url, ca_path=mutual.ca_file, client_cert_path=str(tmp_path / "gone.pem"))
    assert (found.code, found.sent) == ("tls_failed", False)
    assert "client certificate" in found.remedy


# The server's certificate


def certificates(authority: trustme.CA) -> dict[str, tuple[trustme.LeafCert, str, str]]:
    """Return certificates that must not be trusted, with the reason and a part of the advice."""
    now = datetime.now(UTC)
    return {
        "expired": (
            authority.issue_cert("localhost", not_before=now - 2 * DAY, not_after=now - DAY),
            "certificate has expired",
            "Renew the certificate",
        ),
        "early": (
            authority.issue_cert("localhost", not_before=now + DAY, not_after=now + 2 * DAY),
            "certificate is not yet valid",
            "correct the clock",
        ),
        "of another host": (
            authority.issue_cert("other.example"),
            "Hostname mismatch, certificate is not valid for 'localhost'",
            "Check my_url",
        ),
        "of an unknown authority": (
            trustme.CA().issue_cert("localhost"),
            "unable to get local issuer certificate",
            "Name its certificate authority in my_ca.",
        ),
    }


@pytest.mark.parametrize("case", ["expired", "early", "of another host", "of an unknown authority"])
def test_the_verifier_says_what_is_wrong_with_a_certificate(case: str) -> None:
    """In its own words; other authorities are the advice only if the authority is unknown."""
    server = Healthy()
    certificate, why, advice = certificates(server.authority)[case]
    with serving(server, certificate):
        found = failure(server.url, ca_path=server.ca_file)
    assert found.reason == f"its certificate is not trusted: {why}"
    assert advice in found.remedy
    assert ("my_ca" in found.remedy) is (case == "of an unknown authority")
    assert (found.code, found.sent, found.lasting) == ("tls_failed", False, True)
    assert server.requests == []


def test_a_certificate_for_another_address_is_refused() -> None:
    """Addresses have a number of their own in OpenSSL."""
    server = Healthy()
    with serving(server):
        found = failure(server.url.replace("localhost", "127.0.0.1"), ca_path=server.ca_file)
    assert "IP address mismatch" in found.reason
    assert "my_url" in found.remedy


def test_a_self_signed_certificate_is_called_so(tmp_path: Path) -> None:
    """The advice is to trust it."""
    server = Healthy()
    authority = tmp_path / "authority.pem"
    authority.write_bytes(server.authority.cert_pem.bytes())
    key = tmp_path / "key.pem"
    key.write_bytes(server.authority.private_key_pem.bytes())
    server._context.load_cert_chain(authority, key)
    with serving(server):
        found = failure(server.url)
    assert "self-signed certificate" in found.reason
    assert "my_ca" in found.remedy


def test_the_certificate_of_a_proxy_is_not_taken_for_that_of_the_server() -> None:
    """The message and its advice name the proxy."""
    with Healthy() as proxy:
        address = proxy.url.replace("localhost", "127.0.0.1")
        found = failure("https://crm.example", proxy=address, ca_path=proxy.ca_file)
    assert found.reason.startswith("the certificate of the proxy is not trusted: IP address")
    assert "HTTPS_PROXY" in found.remedy
    assert proxy.requests == []
