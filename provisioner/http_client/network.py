"""What the clients of one run share: the proxies of the process environment, and TLS settings."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import partial
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import (  # type: ignore[attr-defined]  # typeshed lacks the last one
    getproxies,
    getproxies_environment,
    proxy_bypass,
    proxy_bypass_environment,
)

from provisioner.http_client.loopback import is_localhost
from provisioner.http_client.tls import tls_context

if TYPE_CHECKING:
    from ssl import SSLContext

    from provisioner.http_client.exchange import Route


class Network:
    """The way from this process to servers, read once for any number of clients."""

    def __init__(self) -> None:
        by_variables = getproxies_environment()
        self._proxies = by_variables or getproxies()
        # Without the variables, the settings of macOS or Windows decide.
        self._bypasses = (
            partial(proxy_bypass_environment, proxies=by_variables)
            if by_variables
            else proxy_bypass
        )
        # `urllib` does not read networks in `NO_PROXY`.
        self._direct = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")).split(",")
        self._lock = threading.Lock()
        self._contexts: dict[tuple[object, ...], SSLContext] = {}

    def proxy_of(self, url: str) -> str | None:
        """Return the proxy that the process environment names for a server; None without one."""
        parts = urlsplit(url)
        proxy = self._proxies.get(parts.scheme) or self._proxies.get("all")
        if not proxy or is_localhost(parts.hostname or ""):
            return None
        if self._bypasses(parts.netloc.rpartition("@")[2]):
            return None
        for entry in self._direct:
            with suppress(ValueError):
                if ip_address(parts.hostname or "") in ip_network(entry.strip(), strict=False):
                    return None
        return proxy

    def tls_context(self, route: Route) -> SSLContext:
        """Return the TLS settings of a route, which those with the same certificates share.

        The default CA certificates take 20 ms to read, and a megabyte of memory.

        Raises:
            OSError, ValueError: a certificate cannot be read.
        """
        cert, cert_key = route.client_cert_path, route.client_key_path
        key = (route.ca_path, route.ca_pem, route.verify, cert, cert_key)
        with self._lock:
            if key not in self._contexts:
                context = tls_context(route.ca_path, route.ca_pem, verify=route.verify)
                if cert:
                    context.load_cert_chain(cert, cert_key, password=b"")
                self._contexts[key] = context
            return self._contexts[key]
