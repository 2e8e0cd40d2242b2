"""One environment's HTTP: sockets, pace, repeats that are safe, and nothing of meaning above.

A request whose answer is lost is repeated here only where its caller says that a repeat
changes nothing. A request that never reached the server, or that the server refused for its
speed before handling it, is repeated for everyone.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3 import Retry
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError
from urllib3.exceptions import ProxyError as PoolProxyError

from provisioner import __version__
from provisioner.errors import WorkspaceError
from provisioner.twenty.answers import Answer, clean, decode, throttling
from provisioner.twenty.pacing import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.desired import Environment
    from provisioner.twenty.workspace import Json

_LOG = logging.getLogger(__name__)
_BODY_LIMIT = 64 * 1024 * 1024
_CHUNK = 64 * 1024
_TRIES = 4
_FIRST_WAIT = 0.2
_PATIENCE = 180.0
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class LostAnswerError(Exception):
    """A request went out and no complete answer came back: what it did is unknown."""

    def __init__(self, slug: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.slug = slug
        self.message = message
        self.remedy = remedy


class Transport:
    """The connections of one environment.

    Args:
        environment: its limits, headers and trusted authorities.
        address: where the server listens, `http(s)://host[:port][/prefix]`.
    """

    def __init__(self, environment: Environment, address: str) -> None:
        self.name = environment.name
        self.address = address
        self._pace = Pace(environment.limits)
        self._timeout = environment.limits.timeout
        self._count = 0
        self._count_lock = threading.Lock()
        self._session = _session(environment, address)

    @property
    def requests_sent(self) -> int:
        """How many requests went out so far, repeats included."""
        return self._count

    def close(self) -> None:
        """Closes all connections."""
        self._session.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Json = None,
        token: Callable[[], str] | None = None,
        repeatable: bool,
    ) -> Answer:
        """Sends one request and reads its whole answer.

        Args:
            method: the HTTP method.
            path: with its query, beginning with a slash.
            body: sent as JSON, unless None.
            token: asked for the bearer token just before the request goes out.
            repeatable: whether sending it twice changes nothing.

        Raises:
            LostAnswerError: the request may have been handled.
            WorkspaceError: the server could not be reached, nothing was handled.
        """
        tries = 0
        throttled = 0
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                answer = self._exchange(method, path, body, token)
            except LostAnswerError:
                tries += 1
                if not repeatable or tries >= _TRIES:
                    raise
                time.sleep(_pause(tries))
                continue
            slow = throttling(answer)
            if slow is not None:
                throttled += 1
                wait = slow.wait
                if wait is None:
                    rate = slow.rate
                    wait = rate.seconds / rate.requests if rate else 5 * _pause(throttled)
                self._pace.throttled(min(wait, _PATIENCE), slow.rate)
                if time.monotonic() + wait > deadline or not (slow.unhandled or repeatable):
                    return answer
                _LOG.info("%s asks to slow down, waiting %.1f s", self.name, wait)
                continue
            if answer.server_failed and repeatable and tries + 1 < _TRIES:
                tries += 1
                time.sleep(_pause(tries))
                continue
            return answer

    def _exchange(
        self, method: str, path: str, body: Json, token: Callable[[], str] | None
    ) -> Answer:
        with self._pace.slot():
            with self._count_lock:
                self._count += 1
            started = time.monotonic()
            try:
                with self._session.request(
                    method,
                    self.address + path,
                    json=body,
                    auth=_Bearer(token()) if token else _anonymous,
                    timeout=self._timeout,
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    raw = self._read(response)
            except requests.RequestException as error:
                raise self._translated(error) from None
            except OSError as error:  # an unreadable ca_file: requests checks it as it connects
                raise WorkspaceError(
                    "tls_failed",
                    f"{self.name} cannot be trusted: {clean(str(error))}.",
                    remedy="Check ca_file, REQUESTS_CA_BUNDLE and SSL_CERT_FILE.",
                ) from None
        spent = 1000 * (time.monotonic() - started)
        _LOG.debug(
            "%s %s %s -> %d in %.0f ms", self.name, method, path, response.status_code, spent
        )
        decoded, excerpt = decode(raw)
        redirect = response.headers.get("Location") if response.is_redirect else None
        return Answer(
            status=response.status_code,
            body=decoded,
            excerpt=excerpt,
            moment=_moment(response.headers.get("Date")),
            retry_after=_retry_after(response.headers.get("Retry-After")),
            location=_origin(redirect) if redirect else None,
        )

    def _read(self, response: requests.Response) -> bytes:
        parts: list[bytes] = []
        size = 0
        for chunk in response.iter_content(_CHUNK):
            size += len(chunk)
            if size > _BODY_LIMIT:
                raise LostAnswerError(
                    "unexpected_answer",
                    f"{self.name} answered with more than {_BODY_LIMIT >> 20} MiB.",
                    "Check that `url` is the address of Twenty itself.",
                )
            parts.append(chunk)
        return b"".join(parts)

    def _translated(self, error: requests.RequestException) -> Exception:
        """Ours for theirs: whether it reached the server, what happened, what to do."""
        host = urlsplit(self.address).netloc
        if isinstance(error, requests.exceptions.SSLError):
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                return WorkspaceError(
                    "tls_failed",
                    f"The certificate of {self.name} ({host}) is not trusted.",
                    remedy="Name its authority in ca_file or REQUESTS_CA_BUNDLE.",
                )
            return LostAnswerError(
                "tls_failed",
                f"The encrypted connection to {self.name} ({host}) failed.",
                "Check that this address speaks https.",
            )
        if isinstance(error, requests.exceptions.ProxyError):
            return WorkspaceError(
                "unreachable",
                f"{self.name} ({host}) cannot be reached through the proxy.",
                remedy="Check HTTPS_PROXY and NO_PROXY.",
            )
        if _never_connected(error):
            return WorkspaceError(
                "unreachable",
                f"{self.name} ({host}) cannot be reached: {_reason(error)}.",
                remedy="Check `url`, the network and that the server runs.",
            )
        if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
            return LostAnswerError(
                "timeout",
                f"{self.name} ({host}) did not answer within {self._timeout:g} s.",
                "Run again, or raise limits.timeout.",
            )
        return LostAnswerError(
            "connection_lost",
            f"The connection to {self.name} ({host}) broke before the answer was complete.",
            "Run again; if it stays, look into the logs of the server and of proxies in between.",
        )


class _Bearer(requests.auth.AuthBase):
    """Puts the token on; an auth object, because `~/.netrc` overrides a session's header."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _session(environment: Environment, address: str) -> requests.Session:
    """A session that asks the process environment once instead of at every request."""
    session = requests.Session()
    session.trust_env = False
    if not environment.embedded:
        session.proxies.update(get_environ_proxies(address))
    bundles = (os.environ.get(variable) for variable in _CA_VARIABLES)
    named = str(environment.ca_file) if environment.ca_file else next(filter(None, bundles), None)
    session.verify = named or True
    session.headers.update(
        {"User-Agent": f"twenty-provisioner/{__version__}", "Accept": "application/json"}
    )
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update({name: value.reveal() for name, value in environment.headers})
    # Connections that never came up are the one thing below us that is safe for every method.
    retry = Retry(connect=2, read=False, redirect=False, status=0, other=0, backoff_factor=0.2)
    adapter = HTTPAdapter(pool_maxsize=environment.limits.parallel, max_retries=retry)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _pause(attempt: int) -> float:
    """Growing and jittered, so that several runs do not knock at the same moment."""
    return min(_FIRST_WAIT * 2.0**attempt, 5.0) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _never_connected(error: requests.RequestException) -> bool:
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else cause
    never = (NewConnectionError, ConnectTimeoutError, PoolProxyError)
    return isinstance(error, requests.exceptions.ConnectTimeout) or isinstance(reason, never)


def _reason(error: requests.RequestException) -> str:
    text = str(error)
    for phrase, meaning in (
        ("Connection refused", "nothing listens there"),
        ("Failed to resolve", "its name is not known"),
        ("Name or service not known", "its name is not known"),
        ("timed out", "no connection within the time limit"),
        ("unreachable", "no route to it"),
    ):
        if phrase in text:
            return meaning
    return "no connection came up"


def _origin(location: str) -> str:
    """Where a redirect leads, without its query, which may hold anything."""
    parts = urlsplit(location)
    return clean(f"{parts.scheme}://{parts.netloc}{parts.path}" if parts.netloc else parts.path)


def _moment(header: str | None) -> datetime | None:
    if header is None:
        return None
    try:
        return parsedate_to_datetime(header).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _retry_after(header: str | None) -> float | None:
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    moment = _moment(header)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds()) if moment else None
