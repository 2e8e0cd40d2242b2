"""One environment's HTTP: sockets, pace, repeats that are safe, and nothing of meaning above.

A request whose answer is lost is repeated here only where its caller says that a repeat
changes nothing. A request that never reached the server, or that the server refused for its
speed before handling it, is repeated for everyone.
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
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.http_client.bounded import ACCEPTED, BoundedAdapter, TooMuchError, body_of
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.file_descriptors import none_left, spent
from provisioner.runtime.log_context import bind, extra
from provisioner.twenty.answers import (
    Answer,
    RefusalCode,
    Throttling,
    clean,
    decode,
    explain,
    may_pass,
    shown,
    throttling,
)
from provisioner.twenty.rate_limit import NotWantedError, RateLimit

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
_BODY_LIMIT = 12 * 1024 * 1024
_LIST_LIMIT = 32 * 1024 * 1024
"""Bytes of a list that no server gives in pages: those of core's keys."""

_TRIES = 4
_FIRST_WAIT = 0.2
_LEAST_TIMEOUT = 0.001
_MAX_WAIT = 180.0
_LOOK = 2
"""Times the timeout of an answer that the first look may take where other environments wait."""

_SECONDS = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?", re.ASCII)
_LONGEST_TARGET = 200
_FIRST_YEAR, _LAST_YEAR = 1970, 9000
_DIGITS = re.compile(r"[0-9]{1,9}", re.ASCII)
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class LostAnswerError(Exception):
    """A request went out and no complete answer came back: what it did is unknown."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy

    @property
    def cause(self) -> Failure:
        """The same of a create, which may have been made."""
        return Failure(self.code, f"{self.message} {self.remedy}")

    def of_workspace(self) -> WorkspaceError:
        """The same of a read, which changed nothing and can only be given up."""
        return WorkspaceError(self.code, self.message, remedy=self.remedy)


class Transport:
    """The connections of one environment.

    Args:
        environment: its limits, headers and trusted authorities.
        address: where the server listens, `http(s)://host[:port][/prefix]`.
        stop: once it is asked for, nothing goes out that must not be repeated.
        others_wait: whether the first writes of other environments wait for each look at this one.
        released: called whenever connections that nothing uses were closed.
        body_limit: bytes of an answer that is no list of all keys.
    """

    def __init__(  # noqa: PLR0913 - the knobs of one connection
        self,
        environment: Environment,
        address: str,
        stop: Cancellation,
        *,
        others_wait: bool = False,
        released: Callable[[], None] | None = None,
        body_limit: int = _BODY_LIMIT,
    ) -> None:
        self._body_limit = body_limit
        self.name = environment.name
        self.address = address
        self.stop = stop
        self._pace = RateLimit(environment.limits, clock=stop.now, sleep=stop.sleep)
        self.timeout = environment.limits.timeout
        self._host = clean(urlsplit(address).netloc)
        self._told_until: tuple[float, Answer] | None = None
        self._was_throttled = False
        self._looked = False
        self._released = released
        self._look_bound = _LOOK * self.timeout if others_wait else inf
        self._look_left = self._look_bound
        # A turn that our own declared rate has us wait for is not the server's doing.
        self._turns_count = environment.limits.requests_per_minute is None
        self._count = 0
        self._count_lock = threading.Lock()
        self._session = _session(environment, address)

    @property
    def requests_sent(self) -> int:
        """How many requests went out so far, repeats included."""
        return self._count

    def release(self) -> None:
        """Close the connections that nothing uses now: a look is over, and another has as long."""
        self._look_left = self._look_bound
        self._looked = self._looked or self._look_bound == inf
        self._session.close()
        if self._released is not None:
            self._released()

    def begin_work(self) -> None:
        """Repeat from now on also what was not answered in time: no other environment waits."""
        self._looked = True
        self._look_bound = self._look_left = inf

    def close(self) -> None:
        """Closes all connections."""
        self._session.close()

    def send(  # noqa: PLR0913 - what there is to say of a request
        self,
        method: str,
        path: str,
        *,
        body: Json = None,
        token: Callable[[], Secret] | None = None,
        repeatable: bool,
        several: bool = False,
        long: bool = False,
    ) -> Answer:
        """Sends one request and reads its whole answer.

        Args:
            method: the HTTP method.
            path: with its query, beginning with a slash.
            body: sent as JSON, unless None.
            token: asked for the bearer token just before the request goes out.
            repeatable: whether sending it twice changes nothing.
            several: whether it does several things, some of which may be done when it fails.
            long: whether the answer may list all keys of a workspace.

        Raises:
            LostAnswerError: the request may have been handled.
            WorkspaceError: the server could not be reached, or the run is to stop; nothing was
                handled.
        """
        tries = attempt = 0
        max_wait = _MAX_WAIT  # for the waits that the server asks for, not for our turn
        while True:
            # Before a slot is taken: whoever signs in needs one for itself.
            bearer = token() if token else None
            if self._look_left <= 0:
                raise self._look_is_over().of_workspace()
            if (told := self._told_to_wait_beyond(min(max_wait, self._look_left))) is not None:
                return told
            attempt += 1
            try:
                with bind(environment=self.name, attempt=attempt):
                    answer = self._exchange(
                        method, path, body, bearer, begins=not repeatable, long=long
                    )
            except NotWantedError:
                raise WorkspaceError(STOPPED.code, STOPPED.message) from None
            except LostAnswerError as lost:
                tries += 1
                hangs = lost.code == "timeout" and not self._looked
                if not repeatable or hangs or tries >= _TRIES:
                    raise
                self._pause(tries)
                continue
            slow = throttling(answer)
            if slow is not None:
                wait = self._slow_down(slow, answer)
                unhandled = slow.unhandled and not (several and answer.begun)
                tries += slow.wait is None and not slow.for_speed
                too_long = wait > min(max_wait, self._look_left) or tries >= _TRIES
                if too_long or not (repeatable or unhandled):
                    return answer
                max_wait -= wait
                continue
            if repeatable and tries + 1 < _TRIES and may_pass(answer):
                tries += 1
                self._pause(tries)
                continue
            return answer

    def _pause(self, tries: int) -> None:
        """Wait before a repeat: growing and jittered, so that several runs do not knock at once."""
        wait = min(_FIRST_WAIT * 2.0**tries, 5.0) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._look_left -= wait
        self.stop.sleep(wait)

    def explain(self, answer: Answer, *, quoted: bool = True) -> tuple[RefusalCode, str, str]:
        """What an answer that is no success means, without any secret that it may echo.

        Args:
            answer: of this environment.
            quoted: whether the server's own words may stand in the message.
        """
        return explain(self.name, answer, answer.quote if quoted else "")

    def _slow_down(self, slow: Throttling, answer: Answer) -> float:
        """Makes everyone wait, or give up where the server asks for more than our patience."""
        wait = slow.rate.interval if slow.wait is None and slow.rate else slow.wait or 0.0
        if wait > _MAX_WAIT:
            self._told_until = (self.stop.now() + wait, answer)
            return wait
        wait = self._pace.throttled(
            slow.wait, slow.rate, took=answer.took, for_speed=slow.for_speed
        )
        level = logging.INFO if self._was_throttled else logging.WARNING
        self._was_throttled = True
        words = "%s asks to slow down; going on in %.1f s"
        _LOG.log(level, words, self.name, wait, extra=extra(environment=self.name))
        return wait

    def _told_to_wait_beyond(self, max_wait: float) -> Answer | None:
        """The answer that asked for more patience than there is, while it holds."""
        if self._told_until is not None and self._told_until[0] > self.stop.now() + max_wait:
            return self._told_until[1]
        return None

    def _exchange(  # noqa: PLR0913 - as `send`
        self,
        method: str,
        path: str,
        body: Json,
        bearer: Secret | None,
        *,
        begins: bool,
        long: bool,
    ) -> Answer:
        limit = _LIST_LIMIT if long else self._body_limit
        asked = self.stop.now()
        with self._pace.slot(wanted=lambda: not (begins and self.stop.asked)):
            with self._count_lock:
                self._count += 1
            if self._turns_count:
                self._look_left -= self.stop.now() - asked
            timeout = max(_LEAST_TIMEOUT, min(self.timeout, self._look_left))
            started = time.monotonic()
            page = False
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
                    answer = _answer(response, raw, time.monotonic() - started, long=long)
                    page = long and answer.ok
            except TooMuchError:
                self._log(method, path, started, None)
                raise LostAnswerError(
                    "unexpected_answer",
                    f"{self.name} answered with more than {limit >> 20} MiB.",
                    "Check that `url` is the address of Twenty itself.",
                ) from None
            except (requests.RequestException, PoolError, ValueError) as error:
                self._log(method, path, started, None)
                raise self._translated(error, in_all=timeout < self.timeout) from None
            except OSError as error:  # no descriptor, or a ca_file that cannot be read
                if spent(error):
                    raise none_left(self.name) from None
                raise WorkspaceError(
                    "tls_failed",
                    f"{self.name} cannot be trusted: {clean(str(error))}.",
                    remedy="Check ca_file, REQUESTS_CA_BUNDLE and SSL_CERT_FILE.",
                ) from None
            finally:
                # The pages of a long list have a bound of their own.
                self._look_left -= 0.0 if page else time.monotonic() - started
        self._log(method, path, started, answer.status)
        return answer

    def _log(self, method: str, path: str, started: float, status: int | None) -> None:
        """Writes down one exchange, without a body."""
        if not _LOG.isEnabledFor(logging.DEBUG):
            return
        spent = round(1000 * (time.monotonic() - started))
        what: LogContext = {"method": method, "path": path, "duration_ms": spent}
        if status is not None:
            what["status"] = status
        came = "no answer" if status is None else status
        words = "%s %s %s -> %s in %d ms"
        _LOG.debug(words, self.name, method, path, came, spent, extra=extra(**what))

    def _look_is_over(self) -> LostAnswerError:
        return LostAnswerError(
            "timeout",
            f"The look at {self.name} ({self._host}) took more than "
            f"{_LOOK * self.timeout:g} s, and other environments wait for it.",
            "Run it alone with -e, or raise limits.timeout.",
        )

    def _timed_out(self) -> LostAnswerError:
        return LostAnswerError(
            "timeout",
            f"{self.name} ({self._host}) did not answer within {self.timeout:g} s.",
            "Run again, or raise limits.timeout.",
        )

    def _translated(  # noqa: PLR0911 - one for each cause
        self, error: Exception, *, in_all: bool
    ) -> Exception:
        """Ours for theirs: whether it reached the server, what happened, what to do.

        Args:
            error: of the libraries.
            in_all: whether the time of the whole look was over, before that of one answer.
        """
        host = self._host
        if _never_connected(error) and spent(error):
            return none_left(self.name)
        if isinstance(error, (LocationParseError, requests.exceptions.InvalidURL)):
            return WorkspaceError(
                "unreachable",
                f"{self.name} cannot be reached: {host} is no host name.",
                remedy="Check `url`.",
            )
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
        # A proxy that went away after the request is told like one that was never reached.
        if isinstance(error, requests.exceptions.ProxyError) and _never_connected(error):
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
            return self._look_is_over() if in_all else self._timed_out()
        return LostAnswerError(
            "connection_lost",
            f"The connection to {self.name} ({host}) broke before the answer was complete.",
            "Run again; if it stays, look into the logs of the server and of proxies in between.",
        )


def _answer(response: requests.Response, raw: bytes, took: float, *, long: bool = False) -> Answer:
    decoded, excerpt = decode(raw, long=long)
    redirect = response.headers.get("Location") if response.is_redirect else None
    moment, now = _clock(response.headers.get("Date")), datetime.now(UTC)
    return Answer(
        status=response.status_code,
        body=decoded,
        excerpt=excerpt,
        moment=moment,
        ahead=None if moment is None else moment - now,
        retry_after=_retry_after(response.headers.get("Retry-After"), moment or now),
        limit=_number(response.headers.get("X-RateLimit-Limit")),
        took=took,
        location=_origin(redirect) if redirect else None,
    )


class _Bearer(requests.auth.AuthBase):
    """Puts the token on; an auth object, because `~/.netrc` overrides a session's header."""

    def __init__(self, token: Secret) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token.reveal()}"
        return request


def _anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


class _TwentySession(requests.Session):
    """A session that does not even look where a redirect leads, nor read its body for that."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Nowhere."""
        del resp
        return None


class _Retry(Retry):
    """Tries of a connection, of which one that took the whole time limit is the last."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        """Count a try.

        Raises:
            MaxRetryError: it was the last one.
        """
        # What could not be opened at all, as with nobody listening, is a subclass, and quick.
        late = isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError)
        if late and _pool is not None:
            raise MaxRetryError(_pool, url or "", error) from error
        return super().increment(method, url, response, error, _pool, _stacktrace)


def _session(environment: Environment, address: str) -> requests.Session:
    """A session that asks the process environment once instead of at every request."""
    session = _TwentySession()
    session.trust_env = False
    if not environment.embedded:
        session.proxies.update(get_environ_proxies(address))
    bundles = (os.environ.get(variable) for variable in _CA_VARIABLES)
    named = str(environment.ca_file) if environment.ca_file else next(filter(None, bundles), None)
    session.verify = named or True
    session.headers.update(
        {
            "User-Agent": f"twenty-provisioner/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": ACCEPTED,
        }
    )
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update({name: value.reveal() for name, value in environment.headers})
    # Connections that never came up are the one thing below us that is safe for every method.
    # An answer with Retry-After is ours to read: urllib3 would make an error of it.
    retry = _Retry(
        connect=2,
        read=False,
        redirect=False,
        status=0,
        other=0,
        backoff_factor=0.2,
        respect_retry_after_header=False,
    )
    pool = environment.limits.parallel
    adapter = BoundedAdapter(_LIST_LIMIT, pool_maxsize=pool, max_retries=retry)
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
    """Where a redirect leads, without user name, password and query, which may hold anything."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return "no address"
    host = parts.netloc.rpartition("@")[2]
    target = f"{parts.scheme}://{host}{parts.path}" if host else parts.path
    return shown(clean(target))[:_LONGEST_TARGET]


def _moment(header: str | None) -> datetime | None:
    if header is None:
        return None
    try:
        return parsedate_to_datetime(header).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _clock(header: str | None) -> datetime | None:
    """The server's clock, None for one from which the ends of keys cannot be counted."""
    moment = _moment(header)
    return moment if moment is not None and _FIRST_YEAR <= moment.year <= _LAST_YEAR else None


def _number(header: str | None) -> int | None:
    return int(header) if header and _DIGITS.fullmatch(header.strip()) else None


def _retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds to wait; a moment is one of the server's own clock, as `now` is."""
    if header is None:
        return None
    if _SECONDS.fullmatch(header.strip()):
        return float(header)
    moment = _moment(header)
    return max(0.0, (moment - now).total_seconds()) if moment else None
