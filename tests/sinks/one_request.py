"""One request of the HTTP client to a server, for the tests of the way to it."""

from __future__ import annotations

from typing import Any

from tls_server import HttpRequest, HttpResponse, TlsServer

from provisioner.http_client.client import HttpClient
from provisioner.http_client.exchange import HttpAnswer, NoAnswer, Route


class Healthy(TlsServer):
    """A server that answers every request."""

    def answer(self, _: HttpRequest) -> HttpResponse:
        return HttpResponse(200, {})


def send(base: str, headers: dict[str, str] | None = None, **route: Any) -> HttpAnswer | NoAnswer:
    """Send one request; `route` has the other values of the `Route`."""
    client = HttpClient(Route(base, **route), headers or {}, connections=1)
    answer = client.request("POST", "/a", body={}, timeout=(2.0, 2.0), max_bytes=1 << 20)
    client.close()
    return answer


def failure(base: str, **route: Any) -> NoAnswer:
    """Send one request that gets no answer, and return why."""
    found = send(base, **route)
    assert isinstance(found, NoAnswer)
    return found
