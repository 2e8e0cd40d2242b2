"""The HTTP client of the sinks that are REST APIs.

A repeat of any request of these sinks changes nothing, so every request is sent again if its answer
is lost.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import ssl
import tempfile
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote, urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies
from urllib3.exceptions import HTTPError as PoolError

from provisioner import __version__
from provisioner.errors.codes import Code
from provisioner.http_client.bounded import (
    ACCEPT_ENCODING,
    AnswerTooLargeError,
    BoundedAdapter,
    body_of,
    json_of,
)
from provisioner.http_client.loopback import is_loopback
from provisioner.runtime.file_descriptors import is_out_of_descriptors
from provisioner.sinks.sink import sink_error

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

    from provisioner.errors.exceptions import SinkError
    from provisioner.model.sink_address import Address
    from provisioner.secret import Secret

V = TypeVar("V")

_LOG = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
"""The number of times a request is sent at most, without those that were throttled."""

MAX_WAIT = 600.0
"""Seconds that one request waits in total for a server that throttles it."""

_SECONDARY_LIMIT_WAIT = 60.0
"""The minimum wait in seconds after GitHub's secondary limit, if it names no wait."""

_FIRST_GUESS = 1.0
_LONGEST_GUESS = 60.0
"""Seconds before the next attempt if a server throttles without naming a wait: the first and the
longest."""

_MARGIN = (0.1, 0.5)
"""Additional seconds, because servers count whole seconds and other clients wait too."""

_SECONDARY_TEXT = re.compile(rb"secondary rate limit|abuse detection", re.IGNORECASE)
_TEXT_SEARCHED = 8192

_LONGEST_WAIT = 60.0
_FIRST_WAIT = 0.5
_TIMEOUTS = (10.0, 30.0)
_BODY_LIMIT = 8 * 1024 * 1024
_CONNECTIONS = 32
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_DIGITS = re.compile(r"[0-9]{1,12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Route:
    """The address of a server, and how to verify it.

    Attributes:
        base: `https://host[:port][/prefix]`; http only for loopback.
        ca_path: the path of a PEM file, or of a folder of them; None for the default CA
            certificates.
        ca_pem: the same as PEM text.
        server_name: the name in the certificate, if it is not the host name of `base`.
        verify: whether to verify the certificate; may be False only for loopback.
        proxy: the URL of a proxy; None for the proxy of the process environment.
    """

    base: str
    ca_path: str | None = None
    ca_pem: str | None = None
    server_name: str | None = None
    verify: bool = True
    proxy: str | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """The credential that is sent with a request.

    Attributes:
        headers: added to each request.
        client_certificate: a client certificate with its chain and key, as PEM text.
    """

    headers: Mapping[str, Secret]
    client_certificate: Secret | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer that neither refuses the credential nor is a transient failure.

    Attributes:
        body: the JSON object; empty if the answer is not one. It may contain secrets.
        clock_skew: how far the clock of the server is ahead of the local one, in whole seconds;
            zero if it sent no `Date`.
    """

    status: int
    body: Mapping[str, Any] = field(repr=False)
    clock_skew: timedelta = field(default=timedelta(0), compare=False)


@dataclass(frozen=True, slots=True)
class _HttpFailure:
    """The reason why there is no usable answer."""

    reason: str
    remedy: str = "Run again. If the error persists, check the address, the network and the server."
    transient: bool = True
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class _Throttling:
    """A throttled request, which the server did not handle.

    Attributes:
        retry_after: the seconds that the server asks to wait; None if it names no wait.
        first_guess: the seconds to wait at first if it names none.
        longest_guess: the seconds to wait at most if it names none.
    """

    retry_after: float | None
    first_guess: float
    longest_guess: float


@dataclass(frozen=True, slots=True)
class _RawAnswer:
    status: int
    headers: Mapping[str, str]
    raw: bytes = field(repr=False)
    clock_skew: timedelta


def route_of(base: str, environment: Mapping[str, str]) -> Route:
    """Return the route to a server, with the CA certificates that the environment names."""
    return Route(base, next(filter(None, map(environment.get, _CA_VARIABLES)), None))


def segment(text: str) -> str:
    """Return a name as one segment of a URL path."""
    return quote(text, safe="")


def unexpected_status(address: Address, reply: Reply) -> SinkError:
    """Return the error for an answer with a status that no sink expects."""
    return sink_error(
        Code.SINK_FAILED,
        f"{address} was refused with HTTP status {reply.status}.",
        "Look up this status in the vendor's documentation, then run again.",
    )


class Api:
    """The REST API of one server, for any number of threads.

    Args:
        route: the address of the server.
        credential: called before every request; its errors are passed on.
        headers: headers that contain no secrets.
        wait: waits for a number of seconds.
        serial_writes: True to send requests that change something one at a time.
        timeouts: seconds to connect, and for the whole answer.
    """

    def __init__(  # noqa: PLR0913 - the settings of a server
        self,
        route: Route,
        credential: Callable[[Address], Credential],
        headers: Mapping[str, str],
        wait: Callable[[float], None] = time.sleep,
        *,
        serial_writes: bool = False,
        timeouts: tuple[float, float] = _TIMEOUTS,
    ) -> None:
        self._route = route
        self._timeouts = timeouts
        self._scheme, self._host = _origin(route.base)
        self._get_credential = credential
        self._headers = {"User-Agent": f"twenty-provisioner/{__version__}", **headers}
        self._wait = wait
        self._gate = _RateGate(self._host, wait)
        self._serial_writes = serial_writes
        self._lock = threading.Lock()
        self._session: tuple[Secret | None, requests.Session] | None = None

    def call(  # noqa: PLR0913 - the parts of a request
        self,
        address: Address,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
        retry_statuses: frozenset[int] = frozenset(),
        returned_statuses: frozenset[int] = frozenset(),
    ) -> Reply:
        """Send a request, repeat it while that may help, and read the whole answer.

        If a request is throttled, all others wait too: they share the credential that is limited.

        Args:
            address: the sink, for messages.
            method: the HTTP method.
            path: begins with a slash and includes the query; its names are quoted by `segment`.
            body: sent as JSON, unless None.
            content_type: the media type of the body.
            retry_statuses: further statuses after which the request is repeated.
            returned_statuses: statuses of refusals that are returned for the caller to explain.

        Raises:
            SinkError: `sink_unavailable` without a complete answer, after a redirect, and if
                throttling takes too long; `sink_denied` after a 401 or 403 that is not in
                `returned_statuses`; `sink_unsuitable` if the connection is not secure.
        """
        self._check_request(address, path)
        payload = None if body is None else json.dumps(body).encode()
        exclusive = self._serial_writes and method != "GET"
        attempt = 1
        remaining_wait = MAX_WAIT
        while True:
            with self._gate.permit(exclusive=exclusive) as permit:
                if permit.remaining:
                    raise self._throttled_error(address, permit.remaining)
                answer = self._exchange(address, method, path, payload, content_type)
                throttling = _throttling(answer) if isinstance(answer, _RawAnswer) else None
                pause = 0.0 if throttling is None else self._gate.throttled(permit, throttling)
                if throttling is None and isinstance(answer, _RawAnswer):
                    self._gate.succeeded(permit)
            if throttling is not None:
                if pause > remaining_wait:
                    raise self._throttled_error(address, pause)
                remaining_wait -= pause
                continue
            failure = _failure_in(answer) if isinstance(answer, _RawAnswer) else answer
            if isinstance(answer, _RawAnswer) and failure is None:
                if answer.status not in retry_statuses or attempt == MAX_ATTEMPTS:
                    return self._to_reply(address, answer, returned_statuses)
            elif failure is not None and (
                attempt == MAX_ATTEMPTS
                or not failure.transient
                or failure.retry_after > _LONGEST_WAIT
            ):
                message = f"{address} cannot be used: {self._host} {failure.reason}."
                raise sink_error(Code.SINK_UNAVAILABLE, message, failure.remedy)
            self._wait(max(failure.retry_after if failure else 0.0, _backoff_delay(attempt)))
            attempt += 1

    def _throttled_error(self, address: Address, wait: float) -> SinkError:
        return sink_error(
            Code.SINK_UNAVAILABLE,
            f"{address} cannot be used: {self._host} has received too many requests and asks "
            f"clients to wait {wait:.0f} s.",
            "Run again later, or deliver fewer keys in one run.",
        )

    def _check_request(self, address: Address, path: str) -> None:
        """Raise if others could read the request, or if a name in its path leads elsewhere."""
        if not self._host:
            raise sink_error(
                Code.SINK_UNAVAILABLE,
                f"{address} cannot be used: the server address is not valid.",
                "Write it as https://host.",
            )
        secure = self._scheme == "https" and self._route.verify
        if not secure and not is_loopback(self._host):
            raise sink_error(
                Code.SINK_UNSUITABLE,
                f"{address} cannot be used: the connection to {self._host} is not secure.",
                "Use https with certificate verification.",
            )
        if {".", ".."} & set(path.partition("?")[0].split("/")):
            raise sink_error(
                Code.SINK_UNSUITABLE,
                f"{address} cannot be used: `.` and `..` are not valid names.",
                "Choose another name in the manifest.",
            )

    def _to_reply(
        self, address: Address, answer: _RawAnswer, returned_statuses: frozenset[int]
    ) -> Reply:
        if answer.status in {401, 403} - returned_statuses:
            raise sink_error(
                Code.SINK_DENIED,
                f"{address} cannot be used: {self._host} refuses the credential "
                f"with HTTP status {answer.status}.",
                "Check that it is correct, has not expired and may read and write there.",
            )
        body, readable = _decoded(answer.raw)
        if not readable and answer.status < 300:  # noqa: PLR2004 - the successes
            raise sink_error(
                Code.SINK_UNAVAILABLE,
                f"{address} cannot be used: the response from {self._host} is not JSON.",
                "Check that this is the address of the vendor's API.",
            )
        return Reply(answer.status, body, answer.clock_skew)

    def _exchange(
        self, address: Address, method: str, path: str, payload: bytes | None, content_type: str
    ) -> _RawAnswer | _HttpFailure:
        credential = self._get_credential(address)
        for value in credential.headers.values():
            if not (value.reveal().isascii() and value.reveal().isprintable()):
                raise sink_error(
                    Code.SINK_DENIED,
                    f"{address} cannot be used: the credential has characters "
                    "that are not allowed in an HTTP header.",
                    "Set the credential again, as one line of ASCII.",
                )
        session = self._session_for(address, credential.client_certificate)
        try:
            with session.request(
                method,
                self._route.base + path,
                data=payload,
                headers={
                    **({} if payload is None else {"Content-Type": content_type}),
                    **{name: value.reveal() for name, value in credential.headers.items()},
                },
                auth=_no_auth,
                timeout=self._timeouts,
                allow_redirects=False,
                stream=True,
            ) as response:
                raw = body_of(response, _BODY_LIMIT)
                date = _parse_date(response.headers.get("Date"))
                clock_skew = timedelta(0) if date is None else date - datetime.now(UTC)
                return _RawAnswer(response.status_code, response.headers, raw, clock_skew)
        except AnswerTooLargeError:
            return _HttpFailure(f"responds with more than {_BODY_LIMIT >> 20} MiB", transient=False)
        except (requests.RequestException, PoolError, ValueError, OSError) as error:
            return _connection_failure(error)

    def _session_for(self, address: Address, client_certificate: Secret | None) -> requests.Session:
        """Return the session for a client certificate; a new certificate replaces the session."""
        with self._lock:
            if self._session is None or self._session[0] is not client_certificate:
                try:
                    session = _session(self._route, client_certificate, self._headers)
                except (OSError, ValueError):
                    session = None
                if session is None:
                    raise sink_error(
                        Code.SINK_UNAVAILABLE,
                        f"{address} cannot be used: the certificates for {self._host} "
                        "cannot be read.",
                        "Check the files of the CA certificates and of the client certificate.",
                    )
                self._session = (client_certificate, session)
            return self._session[1]


@dataclass(frozen=True, slots=True)
class _Permit:
    """Permission for one request to be sent.

    Attributes:
        pauses: the number of pauses before it.
        remaining: the seconds left of a pause that is too long to wait for; otherwise zero.
    """

    pauses: int
    remaining: float = 0.0


class _RateGate:
    """A pause that all requests with the same credential share.

    Every request waits until the pause is over. Afterwards requests are sent one at a time, for the
    rest of the run.

    Args:
        host: the name of the server, for the log.
        wait: waits for a number of seconds.
    """

    def __init__(self, host: str, wait: Callable[[float], None]) -> None:
        self._host = host
        self._wait = wait
        self._lock = threading.Lock()
        self._serial_lock = threading.Lock()
        self._not_before = self._waited_until = time.monotonic()
        self._pauses = 0
        self._consecutive = 0

    @contextmanager
    def permit(self, *, exclusive: bool) -> Iterator[_Permit]:
        """Wait for the end of a pause, then permit one request.

        Args:
            exclusive: True to permit no other exclusive request until this one is finished.
        """
        with self._serial_lock if exclusive or self._pauses else nullcontext():
            while 0 < (remaining := self._remaining()) <= MAX_WAIT:
                until = self._not_before
                self._wait(remaining)
                with self._lock:
                    self._waited_until = max(self._waited_until, until)
            yield _Permit(self._pauses, remaining)

    def throttled(self, permit: _Permit, throttling: _Throttling) -> float:
        """Make every request wait, and return the seconds."""
        with self._lock:
            # Requests that were sent before the last pause say nothing about its length.
            is_new = permit.pauses == self._pauses
            if is_new:
                self._pauses += 1
                self._consecutive += 1
            guess = min(
                throttling.first_guess * 2.0 ** (self._consecutive - 1), throttling.longest_guess
            )
            wait = (
                guess
                if throttling.retry_after is None
                else max(throttling.retry_after, _backoff_delay(self._consecutive))
            )
            wait += random.uniform(*_MARGIN)  # noqa: S311 - no secret
            self._not_before = max(self._not_before, self._now() + wait)
        if is_new:
            level = logging.WARNING if self._pauses == 1 else logging.INFO
            _LOG.log(level, "%s asked us to slow down; continuing in %.0f s", self._host, wait)
        return wait

    def succeeded(self, permit: _Permit) -> None:
        """Reset the count of pauses if a request succeeded after the last one."""
        with self._lock:
            if permit.pauses == self._pauses:
                self._consecutive = 0

    def _remaining(self) -> float:
        with self._lock:
            return max(0.0, self._not_before - self._now())

    def _now(self) -> float:
        """Return the time, but never one before the end of a completed wait."""
        return max(time.monotonic(), self._waited_until)


class Once(Generic[V]):
    """Values that are looked up once, for any number of threads; failures are not kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[Hashable, threading.Lock] = {}
        self._values: dict[Hashable, V] = {}

    def get(self, key: Hashable, load: Callable[[], V]) -> V:
        """Return the value of a key, and load it first if necessary."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._values:
                self._values[key] = load()
            return self._values[key]

    def forget(self, key: Hashable, value: V) -> None:
        """Forget a value, so that the next call loads it again; no change if it was replaced."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if self._values.get(key) is value:
                del self._values[key]


class _Adapter(BoundedAdapter):
    """Connections with their own TLS context, which `requests` leaves unchanged."""

    def __init__(self, **tls: Any) -> None:
        self._tls = tls
        super().__init__(_BODY_LIMIT, pool_maxsize=_CONNECTIONS)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pool manager with this TLS context."""
        super().init_poolmanager(*args, **(kwargs | self._tls))

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Create the proxy manager with this TLS context for the server behind the proxy."""
        return super().proxy_manager_for(proxy, **(kwargs | self._tls))

    def cert_verify(self, *_: Any) -> None:
        """Do nothing. The base class would also trust the default CA certificates."""


class _SinkSession(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None, so that no redirect is followed."""


def _session(
    route: Route, client_certificate: Secret | None, fixed: Mapping[str, str]
) -> requests.Session:
    session = _SinkSession()
    session.trust_env = False
    session.verify = route.verify
    proxies = get_environ_proxies(route.base)
    session.proxies.update({"http": route.proxy, "https": route.proxy} if route.proxy else proxies)
    session.headers.update({"Accept-Encoding": ACCEPT_ENCODING, **fixed})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    tls: dict[str, Any] = {"ssl_context": _context(route, client_certificate)}
    if route.server_name:
        tls["server_hostname"] = route.server_name
    session.mount("https://", _Adapter(**tls))
    session.mount("http://", BoundedAdapter(_BODY_LIMIT, pool_maxsize=_CONNECTIONS))
    return session


def _context(route: Route, client_certificate: Secret | None) -> ssl.SSLContext:
    named = route.ca_path or DEFAULT_CA_BUNDLE_PATH
    if route.ca_pem is not None:
        context = ssl.create_default_context(cadata=route.ca_pem)
    elif os.path.isdir(named):  # noqa: PTH112 - the text of a variable, passed on unchanged
        context = ssl.create_default_context(capath=named)
    else:
        context = ssl.create_default_context(cafile=named)
    # Python 3.13 sets this flag, but CA certificates of older clusters have no key identifier.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not route.verify:
        context.check_hostname = False
    if client_certificate is not None:
        # OpenSSL reads only files, and Windows cannot open a temporary file twice. The file exists
        # only for the next lines, in a folder that only this user can read.
        with tempfile.TemporaryDirectory(prefix="provision-") as folder:
            file = Path(folder, "identity.pem")
            file.touch(0o600)
            file.write_text(client_certificate.reveal(), encoding="utf-8")
            # With an empty password an encrypted key fails instead of prompting.
            context.load_cert_chain(file, password=b"")
    return context


def _origin(base: str) -> tuple[str, str]:
    """Return the scheme and host name of an address, both empty if it is not valid."""
    try:
        parts = urlsplit(base)
    except ValueError:
        return "", ""
    return parts.scheme, parts.hostname or ""


def _decoded(raw: bytes) -> tuple[Mapping[str, Any], bool]:
    """Return the JSON object, empty if there is none, and whether the answer is JSON or empty."""
    try:
        body = json_of(raw) if raw.strip() else None
    except ValueError:
        return {}, False
    return body if isinstance(body, dict) else {}, True


def _failure_in(answer: _RawAnswer) -> _HttpFailure | None:
    """Return the failure that an answer reports; None without one."""
    status = answer.status
    if 300 <= status < 400:  # noqa: PLR2004 - the redirects
        return _HttpFailure(
            f"responds with a redirect ({status}), which is not followed",
            "Use the new name or address.",
            transient=False,
        )
    if status >= 500:  # noqa: PLR2004 - the server's own failures
        return _HttpFailure(
            f"responds with status {status}", retry_after=_retry_after(answer.headers) or 0.0
        )
    return None


def _throttling(answer: _RawAnswer) -> _Throttling | None:
    """Return the throttling that an answer reports; None without one.

    GitHub: "Rate limits for the REST API". A 403 with one of its headers, or with a text that names
    the secondary limit, is not a denial. Without `Retry-After` it asks for a minute, and for more
    each time.
    """
    if answer.status not in (403, 429):
        return None
    retry_after = _retry_after(answer.headers)
    if _SECONDARY_TEXT.search(answer.raw[:_TEXT_SEARCHED]):
        return _Throttling(retry_after, _SECONDARY_LIMIT_WAIT, MAX_WAIT)
    if answer.status == 429 or retry_after is not None:  # noqa: PLR2004 - too many requests
        return _Throttling(retry_after, _FIRST_GUESS, _LONGEST_GUESS)
    return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait; None if it does not."""
    now = _parse_date(headers.get("Date")) or datetime.now(UTC)
    after = headers.get("Retry-After")
    if after is not None and _DIGITS.fullmatch(after):
        return float(after)
    if (date := _parse_date(after)) is not None:
        return max(0.0, (date - now).total_seconds())
    if headers.get("X-RateLimit-Remaining") == "0":
        reset = headers.get("X-RateLimit-Reset", "")
        return max(1.0, float(reset) - now.timestamp()) if _DIGITS.fullmatch(reset) else 1.0
    return None


def _parse_date(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header).astimezone(UTC) if header else None
    except (ValueError, OverflowError):
        return None


def _backoff_delay(attempt: int) -> float:
    """Return a delay in seconds that grows, and that differs between two runs."""
    return _FIRST_WAIT * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _connection_failure(error: Exception) -> _HttpFailure:
    """Return the failure for an error, without its text, which may quote the request."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return _HttpFailure(
            "presents a certificate that is not trusted",
            "Set its CA certificate, for example in REQUESTS_CA_BUNDLE.",
            transient=False,
        )
    if is_out_of_descriptors(error):
        return _HttpFailure(
            "cannot be reached, because this process has too many open files and connections",
            "Raise the limit (`ulimit -n`), or select fewer environments.",
        )
    if "timed out" in str(error):
        return _HttpFailure("does not respond in time")
    if isinstance(error, ValueError):
        return _HttpFailure(
            "is not a valid address", "Check the address of the server.", transient=False
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return _HttpFailure(
            "cannot be reached through the proxy", "Check HTTPS_PROXY and NO_PROXY."
        )
    return _HttpFailure("cannot be reached, or closes the connection")


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep `requests` from using a user name in the address."""
    return request
