"""Reasons why a request has no answer, read from the types of errors and never from their texts.

A text may quote the request or the server. Whether a request was sent decides whether it may be
repeated, so no server may influence that.
"""

from __future__ import annotations

import errno
import ssl
from dataclasses import dataclass
from enum import Enum, auto
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

from provisioner.http_client.bounded import NoTunnelError
from provisioner.runtime.file_descriptors import is_out_of_descriptors

_E = TypeVar("_E", bound=BaseException)
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH)


class Cause(Enum):
    """The reason for no answer. The server got nothing for the first group."""

    ADDRESS = auto()
    CERTIFICATE_FILES = auto()
    UNTRUSTED = auto()
    DESCRIPTORS = auto()
    PROXY = auto()
    UNREACHABLE = auto()

    TLS = auto()
    TIMEOUT = auto()
    TOO_LARGE = auto()
    LOST = auto()


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No complete answer came back.

    Attributes:
        cause: the reason.
        detail: a clause that explains it, with nothing from the request or the server; may be
            empty.
        again: whether connecting again at once may help, because the attempt took no time.
    """

    cause: Cause
    detail: str = ""
    again: bool = False


def not_opened(error: Exception) -> NoAnswer:
    """Return the reason why no connection could be prepared.

    Args:
        error: of loading certificates or of parsing the address of a proxy.
    """
    if is_out_of_descriptors(error):
        return NoAnswer(Cause.DESCRIPTORS)
    if isinstance(error, LocationValueError):
        return NoAnswer(Cause.PROXY)
    is_file = isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
    detail = error.strerror if isinstance(error, OSError) and is_file else None
    return NoAnswer(Cause.CERTIFICATE_FILES, detail or "it contains no certificate")


def no_answer_of(error: Exception) -> NoAnswer:
    """Return the reason for an error of the libraries while a request was sent."""
    inner = error.original_error if isinstance(error, ProxyError) else error
    if isinstance(inner, ConnectTimeoutError) or isinstance(error, NoTunnelError):
        again = isinstance(inner, NewConnectionError)
        if is_out_of_descriptors(inner):
            return NoAnswer(Cause.DESCRIPTORS, again=again)
        cause = Cause.PROXY if isinstance(error, ProxyError) else Cause.UNREACHABLE
        return NoAnswer(cause, _reason(inner), again)
    if isinstance(inner, LocationValueError):
        return NoAnswer(Cause.ADDRESS)
    if isinstance(inner, SSLError):
        refusal = _inner(inner, ssl.SSLCertVerificationError)
        if refusal is None:
            return NoAnswer(Cause.TLS)
        return NoAnswer(Cause.UNTRUSTED, refusal.verify_message.rstrip("."))
    timed_out = isinstance(inner, PoolTimeoutError) or _inner(inner, TimeoutError) is not None
    return NoAnswer(Cause.TIMEOUT if timed_out else Cause.LOST)


def _inner(error: BaseException, kind: type[_E]) -> _E | None:
    """Return the error of a type that an error is or wraps; None without one."""
    if isinstance(error, kind):
        return error
    wrapped = next((one for one in error.args if isinstance(one, BaseException)), None)
    return None if wrapped is None else _inner(wrapped, kind)


def _reason(error: Exception) -> str:
    """Return a clause that says why there is no connection."""
    if isinstance(error, NameResolutionError):
        return "its host name is not known"
    if not isinstance(error, NewConnectionError):
        return "no connection within the timeout"
    match error.__cause__:
        case ConnectionRefusedError():
            return "nothing listens at that address"
        case OSError(errno=number) if number in _NO_ROUTE:
            return "there is no route to it"
        case _:
            return "the connection failed"
