"""Kept-alive connections to one server.

The client sends a request once. It keeps no cookies, follows no redirects and reads no `~/.netrc`.
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from http.client import HTTPException
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from urllib3 import HTTPHeaderDict, PoolManager, ProxyManager, Timeout, make_headers
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

from provisioner import __version__
from provisioner.errors.codes import Code
from provisioner.http_client.bounded import (
    ACCEPT_ENCODING,
    POOL_CLASSES,
    AnswerTooLargeError,
    body_of,
)
from provisioner.http_client.exchange import HttpAnswer, NoAnswer, Route
from provisioner.http_client.network import Network
from provisioner.http_client.no_answer import no_answer_of, not_opened
from provisioner.http_client.tls import tls_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioner.secret import Secret

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_HEADERS = {
    "User-Agent": f"twenty-provisioner/{__version__}",
    "Accept": "application/json",
    "Accept-Encoding": ACCEPT_ENCODING,
}
_CONTENT_TYPE = "content-type"

_Opened = tuple[PoolManager | HTTPConnectionPool, str]
"""What opens connections, and what it needs in front of the path of a request."""


class HttpClient:
    """The connections to one server, for any number of threads.

    Args:
        route: the address of the server.
        headers: sent with every request.
        connections: how many are kept alive.
        client_certificate: a certificate with its chain and key, as PEM text.
        network: what clients of the run share; None for a client of its own.
    """

    def __init__(
        self,
        route: Route,
        headers: Mapping[str, str],
        connections: int,
        client_certificate: Secret | None = None,
        network: Network | None = None,
    ) -> None:
        self._route = route
        merged = HTTPHeaderDict(_HEADERS)
        merged.update(headers)
        self._headers = dict(merged)
        self._connections = connections
        self._client_certificate = client_certificate
        self._network = network or Network()
        self._lock = threading.Lock()
        self._opened: _Opened | None = None

    def request(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] = _NO_HEADERS,
        timeout: tuple[float, float],
        max_bytes: int,
    ) -> HttpAnswer | NoAnswer:
        """Send one request once, and read its whole answer.

        Args:
            method: the HTTP method.
            path: begins with a slash and includes the query.
            body: sent as JSON, unless None; bytes are sent as they are.
            content_type: the media type of the body.
            headers: in addition to those of the client.
            timeout: seconds to connect, and for the whole answer.
            max_bytes: of the unpacked body.
        """
        try:
            pool, base = self._opened or self._open()
        except (OSError, ValueError, ImportError) as error:
            return not_opened(error, self._route.ca_setting)
        merged = {**self._headers, **headers}
        if body is not None:
            other = {name: text for name, text in merged.items() if name.lower() != _CONTENT_TYPE}
            merged = {**other, "Content-Type": content_type}
        try:
            response = pool.urlopen(
                method,
                base + path,
                body=body if body is None or isinstance(body, bytes) else json.dumps(body).encode(),
                headers=merged,
                timeout=Timeout(connect=timeout[0], read=timeout[1]),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                content = body_of(response, max_bytes)
            finally:
                response.close()
                response.release_conn()
        except AnswerTooLargeError:
            reason = f"it is larger than {max_bytes >> 20} MiB"
            remedy = "Check that this is the address of the server itself."
            return NoAnswer(Code.UNEXPECTED_ANSWER, reason, remedy, sent=True, lasting=True)
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            return no_answer_of(
                error,
                timeout[1],
                url_setting=self._route.url_setting,
                ca_setting=self._route.ca_setting,
                client_cert_setting=self._route.client_cert_setting,
            )
        return HttpAnswer(response.status, response.headers, content, datetime.now(UTC))

    def close(self) -> None:
        """Close the idle connections; a later request opens new ones."""
        with self._lock:
            opened, self._opened = self._opened, None
        match opened:
            case PoolManager() as manager, _:
                manager.clear()
            case HTTPConnectionPool() as pool, _:
                pool.close()
            case None:
                pass

    def _open(self) -> _Opened:
        """Prepare the connections, unless another thread already has."""
        route = self._route
        with self._lock:
            if self._opened is not None:
                return self._opened
            options: dict[str, Any] = {"maxsize": self._connections}
            if urlsplit(route.base).scheme == "https":
                options["ssl_context"] = (
                    self._network.tls_context(route)
                    if self._client_certificate is None
                    else tls_context(
                        route.ca_path, route.ca_pem, self._client_certificate, verify=route.verify
                    )
                )
                if route.server_name:
                    options["server_hostname"] = route.server_name
            proxy = self._network.proxy_of(route.base) if route.proxy is None else route.proxy
            if proxy and "://" not in proxy:
                proxy = f"http://{proxy}"
            if proxy and proxy.lower().startswith("socks"):
                from provisioner.http_client.socks_proxy import (  # noqa: PLC0415 - an extra
                    SocksManager,
                )

                self._opened = SocksManager(proxy, **options), route.base
            elif proxy:
                if proxy.startswith("https:"):
                    options["proxy_ssl_context"] = self._network.tls_context(
                        Route("", route.ca_path)
                    )
                credential = unquote(urlsplit(proxy).netloc.rpartition("@")[0])
                headers = make_headers(proxy_basic_auth=credential or None)
                manager = ProxyManager(proxy, proxy_headers=headers, **options)
                manager.pool_classes_by_scheme = POOL_CLASSES
                self._opened = manager, route.base
            else:
                # A pool of the server itself; a manager would look it up for each request.
                url = parse_url(route.base)
                pool = POOL_CLASSES[url.scheme or ""](url.host or "", url.port, **options)
                self._opened = pool, url.path or ""
            return self._opened
