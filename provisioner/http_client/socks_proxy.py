"""Connections through a SOCKS proxy; they need the extra `socks`."""

from __future__ import annotations

from socket import gaierror
from typing import TYPE_CHECKING, Any

# Before urllib3's own import of it, which prints a warning if it is not installed.
import socks  # type: ignore[import-untyped]
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.contrib.socks import SOCKSConnection, SOCKSHTTPSConnection, SOCKSProxyManager
from urllib3.exceptions import (
    ConnectTimeoutError,
    LocationParseError,
    NameResolutionError,
    ProxyError,
)

from provisioner.http_client.bounded import BoundedResponse

if TYPE_CHECKING:
    from socket import socket


class _Connection(SOCKSConnection):
    response_class = BoundedResponse

    def _new_conn(self) -> socket:
        try:
            self.host.encode("idna")
            return super()._new_conn()  # type: ignore[no-any-return]
        except UnicodeError:  # before anything is opened: the library would not close it
            raise LocationParseError(self.host) from None
        except ConnectTimeoutError as error:
            refusal = error.__context__
            unknown = refusal.socket_err if isinstance(refusal, socks.ProxyError) else None
            if isinstance(unknown, gaierror):  # of the server's name: `socks5:` looks it up here
                raise NameResolutionError(self.host, self, unknown) from error
            raise ProxyError("no connection through the proxy", error) from error


class _TlsConnection(_Connection, SOCKSHTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class SocksManager(SOCKSProxyManager):
    """Bounded connections through a SOCKS proxy, with the credential in its URL."""

    def __init__(self, proxy_url: str, **options: Any) -> None:
        super().__init__(proxy_url, **options)
        self.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
