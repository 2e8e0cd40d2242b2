"""Kept-alive connections to one server.

The client sends a request once. It keeps no cookies, follows no redirects and reads no `~/.netrc`,
and it reads the process environment for proxies once, not at every request.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from datetime import UTC, datetime
from http.client import HTTPException
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3 import HTTPHeaderDict, PoolManager, ProxyManager, Timeout, make_headers
from urllib3.exceptions import HTTPError

from provisioner import __version__
from provisioner.errors.codes import Code
from provisioner.http_client.bounded import (
    ACCEPT_ENCODING,
    POOL_CLASSES,
    AnswerTooLargeError,
    body_of,
)
from provisioner.http_client.exchange import HttpAnswer, NoAnswer, Route
from provisioner.http_client.loopback import is_localhost
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


class HttpClient:
    """The connections to one server, for any number of threads.

    Args:
        route: the address of the server.
        headers: sent with every request.
        connections: how many are kept alive.
        client_certificate: a certificate with its chain and key, as PEM text.
    """

    def __init__(
        self,
        route: Route,
        headers: Mapping[str, str],
        connections: int,
        client_certificate: Secret | None = None,
    ) -> None:
        self._route = route
        self._headers = HTTPHeaderDict(_HEADERS)
        self._headers.update(headers)
        self._connections = connections
        self._client_certificate = client_certificate
        self._lock = threading.Lock()
        self._manager: PoolManager | None = None

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
            body: sent as JSON, unless None.
            content_type: the media type of the body.
            headers: in addition to those of the client.
            timeout: seconds to connect, and for the whole answer.
            max_bytes: of the unpacked body.
        """
        try:
            manager = self._manager or self._open()
        except (OSError, ValueError, ImportError) as error:
            return not_opened(error, self._route.ca_setting)
        merged = self._headers.copy()
        merged.update(headers)
        if body is not None:
            merged["Content-Type"] = content_type
        try:
            response = manager.urlopen(
                method,
                self._route.base + path,
                body=None if body is None else json.dumps(body).encode(),
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
        if self._manager is not None:
            self._manager.clear()

    def _open(self) -> PoolManager:
        """Prepare the connections, unless another thread already has."""
        route = self._route
        with self._lock:
            if self._manager is not None:
                return self._manager
            options: dict[str, Any] = {"maxsize": self._connections}
            if urlsplit(route.base).scheme == "https":
                options["ssl_context"] = context = tls_context(
                    route.ca_path, route.ca_pem, self._client_certificate, verify=route.verify
                )
                if route.client_cert_path:
                    context.load_cert_chain(
                        route.client_cert_path, route.client_key_path, password=b""
                    )
                if route.server_name:
                    options["server_hostname"] = route.server_name
            proxy = _proxy_of(route.base) if route.proxy is None else route.proxy
            if proxy and "://" not in proxy:
                proxy = f"http://{proxy}"
            if proxy and proxy.lower().startswith("socks"):
                from provisioner.http_client.socks_proxy import (  # noqa: PLC0415 - an extra
                    SocksManager,
                )

                self._manager = SocksManager(proxy, **options)
                return self._manager
            if proxy:
                if proxy.startswith("https:"):
                    options["proxy_ssl_context"] = tls_context(route.ca_path)
                credential = unquote(urlsplit(proxy).netloc.rpartition("@")[0])
                headers = make_headers(proxy_basic_auth=credential or None)
                manager: PoolManager = ProxyManager(proxy, proxy_headers=headers, **options)
            else:
                manager = PoolManager(**options)
            manager.pool_classes_by_scheme = POOL_CLASSES
            self._manager = manager
            return manager


def _proxy_of(url: str) -> str | None:
    """Return the proxy that the process environment names for a server; None without one."""
    parts = urlsplit(url)
    if is_localhost(parts.hostname or "") or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    # `urllib` does not read networks in `NO_PROXY`.
    for entry in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")).split(","):
        with suppress(ValueError):
            if ip_address(parts.hostname or "") in ip_network(entry.strip(), strict=False):
                return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
