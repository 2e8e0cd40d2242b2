"""Reasons why a request has no answer, read from the types of errors and never from their texts.

A text may quote the request or the server. Whether a request was sent decides whether it may be
repeated, so no server may influence that.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import replace
from typing import TypeVar

from urllib3.exceptions import (
    ConnectTimeoutError,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as PoolTimeoutError

from provisioner.errors.codes import Code
from provisioner.http_client.bounded import NoTunnelError
from provisioner.http_client.exchange import NoAnswer
from provisioner.runtime.file_descriptors import is_out_of_descriptors
from provisioner.runtime.source import extra_remedy

_E = TypeVar("_E", bound=BaseException)


_NO_DESCRIPTOR = NoAnswer(
    Code.UNREACHABLE,
    "this process has reached its limit on open files",
    "Raise the limit (`ulimit -n`), or process fewer environments at once.",
)
_PROXY_FAILS = NoAnswer(
    Code.UNREACHABLE,
    "nothing gets through the proxy",
    "Check HTTPS_PROXY, ALL_PROXY and NO_PROXY.",
)
_OF_DATES = frozenset({9, 10})
"""Numbers of OpenSSL: not yet valid, expired."""

_OF_NAMES = frozenset({62, 64})
"""Numbers of OpenSSL: issued for another host name, for another address."""

_CLIENT_CERT_ALERT = re.compile(r"ALERT_(.*CERTIFICATE.*|UNKNOWN_CA)")
"""Alerts of a server that does not accept the client certificate; they decide only the text."""


def not_opened(error: Exception, ca_setting: str) -> NoAnswer:
    """Return the reason why no connection could be prepared.

    Args:
        error: of loading certificates or a library, or of parsing the address of a proxy.
        ca_setting: what names the CA certificates.
    """
    if is_out_of_descriptors(error):
        return _NO_DESCRIPTOR
    if isinstance(error, ImportError):
        reason = "the library for SOCKS proxies is not installed"
        return NoAnswer(Code.UNREACHABLE, reason, extra_remedy("socks"), lasting=True)
    if not isinstance(error, OSError):
        return _PROXY_FAILS
    return NoAnswer(
        Code.TLS_FAILED,
        "a file with certificates cannot be read",
        f"Check {ca_setting}, and the client certificate if there is one.",
        lasting=True,
    )


def no_answer_of(
    error: Exception, timeout: float, *, url_setting: str, ca_setting: str, client_cert_setting: str
) -> NoAnswer:
    """Return the reason for an error of the libraries while a request was sent.

    Args:
        error: of urllib3.
        timeout: seconds for the whole answer.
        url_setting: what names the server.
        ca_setting: what names the CA certificates.
        client_cert_setting: what names the client certificate.
    """
    inner = error.original_error if isinstance(error, ProxyError) else error
    if isinstance(inner, ConnectTimeoutError) or isinstance(error, NoTunnelError):
        return _not_connected(error, inner, url_setting)
    if isinstance(inner, LocationValueError):
        reason, remedy = "this is not a valid host name", f"Check {url_setting}."
        return NoAnswer(Code.UNREACHABLE, reason, remedy, lasting=True)
    if isinstance(inner, SSLError):
        return _not_encrypted(error, inner, url_setting, ca_setting, client_cert_setting)
    if isinstance(inner, PoolTimeoutError) or _inner(inner, TimeoutError) is not None:
        return NoAnswer(Code.TIMEOUT, f"it did not arrive in time ({timeout:g} s)", sent=True)
    return NoAnswer(Code.CONNECTION_LOST, "the connection closed before it was complete", sent=True)


def _not_connected(error: Exception, inner: Exception, url_setting: str) -> NoAnswer:
    again = isinstance(inner, NewConnectionError)
    if is_out_of_descriptors(inner):
        return replace(_NO_DESCRIPTOR, again=again)
    if isinstance(error, ProxyError):
        return replace(_PROXY_FAILS, again=again)
    if isinstance(inner, NameResolutionError):
        reason = "its host name is unknown"
    elif not again:
        reason = "the connection timed out"
    elif isinstance(inner.__cause__, ConnectionRefusedError):
        reason = "nothing is listening at that address"
    else:
        cause = inner.__cause__
        reason = (cause.strerror if isinstance(cause, OSError) else "") or "the connection failed"
    remedy = f"Check {url_setting}, the network and that the server is running."
    return NoAnswer(Code.UNREACHABLE, reason, remedy, again=again)


def _not_encrypted(
    error: Exception, inner: SSLError, url_setting: str, ca_setting: str, client_cert_setting: str
) -> NoAnswer:
    refusal = _inner(inner, ssl.SSLError)
    if isinstance(refusal, ssl.SSLCertVerificationError):
        whose = "its certificate"
        if isinstance(error, ProxyError):
            whose, url_setting = "the certificate of the proxy", "HTTPS_PROXY"
        reason = f"{whose} is not trusted: {refusal.verify_message.rstrip('.')}"
        if refusal.verify_code in _OF_DATES:
            remedy = "Renew the certificate, or correct the clock of this machine."
        elif refusal.verify_code in _OF_NAMES:
            remedy = f"Check {url_setting}, or get a certificate for this host."
        else:
            remedy = f"Name its certificate authority in {ca_setting}."
        return NoAnswer(Code.TLS_FAILED, reason, remedy, lasting=True)
    if alert := _CLIENT_CERT_ALERT.search((refusal and refusal.reason) or ""):
        why = alert[1].lower().replace("_", " ")
        reason = f"the server does not accept the client certificate ({why})"
        remedy = f"Check {client_cert_setting}."
        if why == "certificate required":
            reason = "the server demands a client certificate"
            remedy = f"Set {client_cert_setting}."
    else:
        reason = "the TLS handshake failed"
        remedy = "Check that the server uses https, and whether it asks for a client certificate."
    return NoAnswer(Code.TLS_FAILED, reason, remedy, sent=True)


def _inner(error: BaseException, kind: type[_E]) -> _E | None:
    """Return the error of a type that an error is or wraps; None without one."""
    if isinstance(error, kind):
        return error
    wrapped = next((one for one in error.args if isinstance(one, BaseException)), None)
    return None if wrapped is None else _inner(wrapped, kind)
