"""HTTP of one environment: connections, rate limit, and repeats that are safe.

A request whose answer is lost is repeated here only if its caller says that a repeat changes
nothing. A request that never reached the server, or that the server refused for the rate limit
before handling it, is repeated for every caller.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from math import inf
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies
from urllib3 import Retry
from urllib3.exceptions import (
    ConnectTimeoutError,
    LocationParseError,
    MaxRetryError,
    NewConnectionError,
)
from urllib3.exceptions import HTTPError as PoolError
from urllib3.exceptions import ProxyError as PoolProxyError

from provisioner import __version__
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.http_client.bounded import (
    ACCEPT_ENCODING,
    AnswerTooLargeError,
    BoundedAdapter,
    body_of,
)
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.file_descriptors import is_out_of_descriptors, too_many_open_files
from provisioner.runtime.log_context import bind, extra
from provisioner.twenty.answers import (
    Answer,
    Throttling,
    clean,
    decode,
    is_transient,
    redact,
    throttling,
)
from provisioner.twenty.rate_limit import RateLimit, RequestAbandonedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from urllib3 import BaseHTTPResponse
    from urllib3.connectionpool import ConnectionPool

    from provisioner.http_client.bounded import Json
    from provisioner.model.environment import Environment
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.runtime.log_context import LogContext
    from provisioner.secret import Secret

_LOG = logging.getLogger(__name__)
_MAX_BODY = 12 * 1024 * 1024
_MAX_LIST = 32 * 1024 * 1024
"""Bytes of a list that no server gives in pages: the keys of core."""

_MAX_TRIES = 4
_MIN_DELAY = 0.2
_MIN_TIMEOUT = 0.001
_MAX_WAIT = 180.0
_OBSERVE_TIMEOUTS = 2
"""Time limit of the first observation while other environments wait, in timeouts of one answer."""

_SECONDS = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?", re.ASCII)
_MAX_TARGET = 200
_FIRST_YEAR, _LAST_YEAR = 1970, 9000
_DIGITS = re.compile(r"[0-9]{1,9}", re.ASCII)
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class LostAnswerError(Exception):
    """A request was sent and no complete answer came back: its outcome is unknown."""

    def __init__(self, code: Code, message: str, remedy: str) -> None:
        super().__init__(message)
        self.failure = Failure(code, message, remedy)


class Transport:
    """The connections of one environment.

    Args:
        environment: its limits, headers and certificate authorities.
        address: of the server, `http(s)://host[:port][/prefix]`.
        stop: once a stop is requested, nothing is sent that must not be repeated.
        others_wait: whether other environments wait for each observation of this one before their
            first writes.
        on_idle_closed: called whenever idle connections were closed.
        body_limit: bytes of an answer that is not a list of all keys.
    """

    def __init__(  # noqa: PLR0913 - the settings of one connection
        self,
        environment: Environment,
        address: str,
        stop: Cancellation,
        *,
        others_wait: bool = False,
        on_idle_closed: Callable[[], None] | None = None,
        body_limit: int = _MAX_BODY,
    ) -> None:
        self._body_limit = body_limit
        self.name = environment.name
        self.address = address
        self.stop = stop
        self._rate_limit = RateLimit(environment.limits, clock=stop.now, sleep=stop.sleep)
        self.timeout = environment.limits.timeout
        self._host = clean(urlsplit(address).netloc)
        self._refused_until: tuple[float, Answer] | None = None
        self._was_throttled = False
        self._observed = False
        self._on_idle_closed = on_idle_closed
        self._observe_limit = _OBSERVE_TIMEOUTS * self.timeout if others_wait else inf
        self._observe_left = self._observe_limit
        # A wait for the declared rate is not the server's fault, so it does not count.
        self._count_turns = environment.limits.requests_per_minute is None
        self._count = 0
        self._count_lock = threading.Lock()
        self._session = _session(environment, address)

    @property
    def requests_sent(self) -> int:
        """Return how many requests were sent so far, including repeats."""
        return self._count

    def close_idle_connections(self) -> None:
        """Close idle connections: an observation is over, and the next one has its full time."""
        self._observe_left = self._observe_limit
        self._observed = self._observed or self._observe_limit == inf
        self._session.close()
        if self._on_idle_closed is not None:
            self._on_idle_closed()

    def lift_observe_limits(self) -> None:
        """Repeat requests that timed out: no other environment waits for this one."""
        self._observed = True
        self._observe_limit = self._observe_left = inf

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def send(  # noqa: PLR0913 - all a request needs
        self,
        method: str,
        path: str,
        *,
        body: Json = None,
        token: Callable[[], Secret] | None = None,
        repeatable: bool,
        several: bool = False,
        is_list: bool = False,
    ) -> Answer:
        """Send one request and read its whole answer.

        Args:
            method: the HTTP method.
            path: with its query, starting with a slash.
            body: sent as JSON, unless None.
            token: called for the bearer token just before the request is sent.
            repeatable: whether sending it twice changes nothing.
            several: whether it does several things; some may be done even if it fails.
            is_list: whether the answer may list all keys of a workspace.

        Raises:
            LostAnswerError: the request may have been handled.
            WorkspaceError: the server could not be reached, or a stop was requested; nothing was
                handled.
        """
        tries = attempt = 0
        max_wait = _MAX_WAIT  # for waits that the server asks for, not for our own rate
        while True:
            # Before a slot is taken, since a sign-in needs a slot of its own.
            bearer = token() if token else None
            if self._observe_left <= 0:
                raise WorkspaceError.of(self._observe_timed_out().failure)
            if (refusal := self._refused_beyond(min(max_wait, self._observe_left))) is not None:
                return refusal
            attempt += 1
            try:
                with bind(environment=self.name, attempt=attempt):
                    answer = self._exchange(
                        method, path, body, bearer, must_not_repeat=not repeatable, is_list=is_list
                    )
            except RequestAbandonedError:
                raise WorkspaceError.of(STOPPED) from None
            except LostAnswerError as lost:
                tries += 1
                stalls_others = lost.failure.code == Code.TIMEOUT and not self._observed
                if not repeatable or stalls_others or tries >= _MAX_TRIES:
                    raise
                self._pause(tries)
                continue
            throttle = throttling(answer)
            if throttle is not None:
                wait = self._slow_down(throttle, answer)
                unhandled = throttle.unhandled and not (several and answer.execution_began)
                tries += throttle.wait is None and not throttle.rate_limited
                too_long = wait > min(max_wait, self._observe_left) or tries >= _MAX_TRIES
                if too_long or not (repeatable or unhandled):
                    return answer
                max_wait -= wait
                continue
            if repeatable and tries + 1 < _MAX_TRIES and is_transient(answer):
                tries += 1
                self._pause(tries)
                continue
            return answer

    def _pause(self, tries: int) -> None:
        """Wait before a repeat; the delay grows and is jittered, so that runs spread out."""
        delay = min(_MIN_DELAY * 2.0**tries, 5.0) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._observe_left -= delay
        self.stop.sleep(delay)

    def _slow_down(self, throttle: Throttling, answer: Answer) -> float:
        """Pause every thread, or refuse requests if the server asks for too long a wait."""
        wait = throttle.wait or 0.0
        if throttle.wait is None and throttle.rate:
            wait = throttle.rate.interval
        if wait > _MAX_WAIT:
            self._refused_until = (self.stop.now() + wait, answer)
            return wait
        wait = self._rate_limit.throttled(
            throttle.wait,
            throttle.rate,
            duration=answer.duration,
            rate_limited=throttle.rate_limited,
        )
        level = logging.INFO if self._was_throttled else logging.WARNING
        self._was_throttled = True
        message = "%s asked us to slow down; continuing in %.1f s"
        _LOG.log(level, message, self.name, wait, extra=extra(environment=self.name))
        return wait

    def _refused_beyond(self, max_wait: float) -> Answer | None:
        """Return the answer that asked for a wait longer than `max_wait`, while that lasts."""
        if self._refused_until is not None and self._refused_until[0] > self.stop.now() + max_wait:
            return self._refused_until[1]
        return None

    def _exchange(  # noqa: PLR0913 - as `send`
        self,
        method: str,
        path: str,
        body: Json,
        bearer: Secret | None,
        *,
        must_not_repeat: bool,
        is_list: bool,
    ) -> Answer:
        limit = _MAX_LIST if is_list else self._body_limit
        queued = self.stop.now()
        with self._rate_limit.slot(
            still_wanted=lambda: not (must_not_repeat and self.stop.requested)
        ):
            with self._count_lock:
                self._count += 1
            if self._count_turns:
                self._observe_left -= self.stop.now() - queued
            timeout = max(_MIN_TIMEOUT, min(self.timeout, self._observe_left))
            started = time.monotonic()
            is_page = False
            try:
                with self._session.request(
                    method,
                    self.address + path,
                    json=body,
                    auth=_anonymous if bearer is None else _Bearer(bearer),
                    timeout=timeout,
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    raw = body_of(response, limit)
                    answer = _answer(response, raw, time.monotonic() - started, is_list=is_list)
                    is_page = is_list and answer.ok
            except AnswerTooLargeError:
                self._log(method, path, started, None)
                raise LostAnswerError(
                    Code.UNEXPECTED_ANSWER,
                    f"{self.name} sent a response larger than {limit >> 20} MiB.",
                    "Check that `url` is the address of Twenty itself.",
                ) from None
            except (requests.RequestException, PoolError, ValueError) as error:
                self._log(method, path, started, None)
                raise self._translated(error, of_observation=timeout < self.timeout) from None
            except OSError as error:  # no descriptor, or a ca_file that cannot be read
                if is_out_of_descriptors(error):
                    raise too_many_open_files(self.name) from None
                raise WorkspaceError(
                    Code.TLS_FAILED,
                    f"Cannot verify the certificate of {self.name}: {clean(str(error))}.",
                    remedy="Check ca_file, REQUESTS_CA_BUNDLE and SSL_CERT_FILE.",
                ) from None
            finally:
                # The pages of a list have a time limit of their own.
                self._observe_left -= 0.0 if is_page else time.monotonic() - started
        self._log(method, path, started, answer.status)
        return answer

    def _log(self, method: str, path: str, started: float, status: int | None) -> None:
        """Log one exchange, without bodies."""
        if not _LOG.isEnabledFor(logging.DEBUG):
            return
        duration = round(1000 * (time.monotonic() - started))
        fields: LogContext = {"method": method, "path": path, "duration_ms": duration}
        if status is not None:
            fields["status"] = status
        result = "no answer" if status is None else status
        message = "%s %s %s -> %s in %d ms"
        _LOG.debug(message, self.name, method, path, result, duration, extra=extra(**fields))

    def _observe_timed_out(self) -> LostAnswerError:
        return LostAnswerError(
            Code.TIMEOUT,
            f"Listing the keys of {self.name} ({self._host}) took more than "
            f"{_OBSERVE_TIMEOUTS * self.timeout:g} s, and other environments are waiting for it.",
            "Select only this environment with -e, or raise limits.timeout.",
        )

    def _timed_out(self) -> LostAnswerError:
        return LostAnswerError(
            Code.TIMEOUT,
            f"{self.name} ({self._host}) did not respond within {self.timeout:g} s.",
            "Run again, or raise limits.timeout.",
        )

    def _translated(  # noqa: PLR0911 - one return for each cause
        self, error: Exception, *, of_observation: bool
    ) -> Exception:
        """Return our error for one of the libraries', by whether the request reached the server.

        Args:
            error: of the libraries.
            of_observation: whether the time limit of the observation ended first, not that of one
                answer.
        """
        host = self._host
        if _never_connected(error) and is_out_of_descriptors(error):
            return too_many_open_files(self.name)
        if isinstance(error, (LocationParseError, requests.exceptions.InvalidURL)):
            return WorkspaceError(
                Code.UNREACHABLE,
                f"Cannot reach {self.name}: {host} is not a valid host name.",
                remedy="Check `url`.",
            )
        if isinstance(error, requests.exceptions.SSLError):
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                return WorkspaceError(
                    Code.TLS_FAILED,
                    f"The certificate of {self.name} ({host}) is not trusted.",
                    remedy="Name its certificate authority in ca_file or REQUESTS_CA_BUNDLE.",
                )
            return LostAnswerError(
                Code.TLS_FAILED,
                f"The encrypted connection to {self.name} ({host}) failed.",
                "Check that the server uses https.",
            )
        # Libraries raise the same error for a proxy that closed after the request.
        if isinstance(error, requests.exceptions.ProxyError) and _never_connected(error):
            return WorkspaceError(
                Code.UNREACHABLE,
                f"Cannot reach {self.name} ({host}) through the proxy.",
                remedy="Check HTTPS_PROXY and NO_PROXY.",
            )
        if _never_connected(error):
            return WorkspaceError(
                Code.UNREACHABLE,
                f"Cannot reach {self.name} ({host}): {_reason(error)}.",
                remedy="Check `url`, the network and that the server is running.",
            )
        if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
            return self._observe_timed_out() if of_observation else self._timed_out()
        return LostAnswerError(
            Code.CONNECTION_LOST,
            f"The connection to {self.name} ({host}) closed before the response was complete.",
            "Run again; if it fails again, check the logs of the server and of any proxy.",
        )


def _answer(
    response: requests.Response, raw: bytes, duration: float, *, is_list: bool = False
) -> Answer:
    decoded, excerpt = decode(raw, is_list=is_list)
    redirect = response.headers.get("Location") if response.is_redirect else None
    server_time, now = _server_time(response.headers.get("Date")), datetime.now(UTC)
    return Answer(
        status=response.status_code,
        body=decoded,
        excerpt=excerpt,
        server_time=server_time,
        ahead=None if server_time is None else server_time - now,
        retry_after=_retry_after(response.headers.get("Retry-After"), server_time or now),
        rate_limit=_number(response.headers.get("X-RateLimit-Limit")),
        duration=duration,
        location=_origin(redirect) if redirect else None,
    )


class _Bearer(requests.auth.AuthBase):
    """Authentication with the token; not a session header, which `~/.netrc` would override."""

    def __init__(self, token: Secret) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token.reveal()}"
        return request


def _anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


class _TwentySession(requests.Session):
    """A session that ignores where a redirect leads, and does not read its body."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return None, so that no redirect is followed."""
        del resp
        return None


class _Retry(Retry):
    """Retries of a connection; an attempt that took the whole timeout is the last one."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        """Count an attempt.

        Raises:
            MaxRetryError: it was the last one.
        """
        # NewConnectionError is a subclass, for a connection that is refused at once.
        timed_out = isinstance(error, ConnectTimeoutError) and not isinstance(
            error, NewConnectionError
        )
        if timed_out and _pool is not None:
            raise MaxRetryError(_pool, url or "", error) from error
        return super().increment(method, url, response, error, _pool, _stacktrace)


def _session(environment: Environment, address: str) -> requests.Session:
    """Return a session that reads the process environment once instead of at every request."""
    session = _TwentySession()
    session.trust_env = False
    if not environment.embedded:
        session.proxies.update(get_environ_proxies(address))
    bundles = (os.environ.get(variable) for variable in _CA_VARIABLES)
    bundle = str(environment.ca_file) if environment.ca_file else next(filter(None, bundles), None)
    session.verify = bundle or True
    session.headers.update(
        {
            "User-Agent": f"twenty-provisioner/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": ACCEPT_ENCODING,
        }
    )
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update({name: value.reveal() for name, value in environment.headers})
    # A connection that was never made is safe to repeat for every method. Answers with Retry-After
    # are handled here: urllib3 would raise an error for them.
    retry = _Retry(
        connect=2,
        read=False,
        redirect=False,
        status=0,
        other=0,
        backoff_factor=0.2,
        respect_retry_after_header=False,
    )
    parallel = environment.limits.parallel
    adapter = BoundedAdapter(_MAX_LIST, pool_maxsize=parallel, max_retries=retry)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _never_connected(error: Exception) -> bool:
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else cause
    if isinstance(reason, PoolProxyError):
        reason = reason.original_error
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    no_tunnel = isinstance(reason, OSError) and str(reason).startswith("Tunnel connection failed")
    return no_tunnel or isinstance(reason, (NewConnectionError, ConnectTimeoutError))


def _reason(error: Exception) -> str:
    text = str(error)
    for phrase, meaning in (
        ("Connection refused", "nothing listens at that address"),
        ("Failed to resolve", "its host name is not known"),
        ("Name or service not known", "its host name is not known"),
        ("timed out", "no connection within the timeout"),
        (Code.UNREACHABLE, "there is no route to it"),
    ):
        if phrase in text:
            return meaning
    return "the connection failed"


def _origin(location: str) -> str:
    """Return the target of a redirect without parts that may have secrets."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return "an invalid address"
    host = parts.netloc.rpartition("@")[2]
    target = f"{parts.scheme}://{host}{parts.path}" if host else parts.path
    return redact(clean(target))[:_MAX_TARGET]


def _http_date(header: str | None) -> datetime | None:
    if header is None:
        return None
    try:
        return parsedate_to_datetime(header).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _server_time(header: str | None) -> datetime | None:
    """Return the server's time; None for one that no expiry can be counted from."""
    server_time = _http_date(header)
    return (
        server_time
        if server_time is not None and _FIRST_YEAR <= server_time.year <= _LAST_YEAR
        else None
    )


def _number(header: str | None) -> int | None:
    return int(header) if header and _DIGITS.fullmatch(header.strip()) else None


def _retry_after(header: str | None, now: datetime) -> float | None:
    """Return the seconds to wait; a date is by the server's own clock, as `now` is."""
    if header is None:
        return None
    if _SECONDS.fullmatch(header.strip()):
        return float(header)
    retry_at = _http_date(header)
    return max(0.0, (retry_at - now).total_seconds()) if retry_at else None
