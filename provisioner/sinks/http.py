"""The HTTP of the sinks that are REST APIs.

A repeat of any request of these sinks changes nothing, so every request is sent again if its answer
is lost.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote, urlsplit

from provisioner.errors.codes import Code
from provisioner.http_client.exchange import NoAnswer, Route, ca_path_of, json_of
from provisioner.http_client.exchange_log import log_exchange
from provisioner.http_client.loopback import is_loopback
from provisioner.runtime.backoff import delay
from provisioner.secret import Secret
from provisioner.sinks.sink import SinkFailure, unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping
    from datetime import datetime

    from provisioner.errors.exceptions import SinkError
    from provisioner.http_client.client import HttpClient
    from provisioner.http_client.exchange import HttpAnswer
    from provisioner.model.sink_address import Address

V = TypeVar("V")

_LOG = logging.getLogger(__name__)

MAX_WAIT = 600.0
"""Seconds that one request waits in total for a server that throttles it."""

_SECONDARY_LIMIT_WAIT = 60.0
"""The minimum wait in seconds after GitHub's secondary limit, if it names no wait."""

_FIRST_GUESS, _LONGEST_GUESS = 1.0, 60.0
"""Seconds before the next attempt if a server throttles without naming a wait."""

_MARGIN = (0.1, 0.5)
"""Additional seconds, because servers count whole seconds and other clients wait too."""

_SECONDARY_TEXT = re.compile(rb"secondary rate limit|abuse detection", re.IGNORECASE)
_TEXT_SEARCHED = 8192

_MAX_RETRY_AFTER = 60.0
TIMEOUTS = (10.0, 30.0)
"""Seconds to connect, and for the whole answer."""

_MAX_BODY = 8 * 1024 * 1024
_CONNECTIONS = 32
_DIGITS = re.compile(r"[0-9]{1,12}", re.ASCII)

_RUN_AGAIN = (
    "Run the command again. If the error persists, check the address, the network and the server."
)


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
        server_time: when it was sent, by that clock, in whole seconds; None without a `Date`.
    """

    status: int
    body: Mapping[str, Any] = field(repr=False)
    clock_skew: timedelta = field(default=timedelta(0), compare=False)
    server_time: datetime | None = field(default=None, compare=False)


def route_of(base: str, environment: Mapping[str, str]) -> Route:
    """Return the route to a server, with the CA certificates that the environment names."""
    return Route(base, ca_path_of(environment))


def segment(text: str) -> str:
    """Return a name as one segment of a URL path."""
    return quote(text, safe="")


def _usable(received: HttpAnswer | NoAnswer, server: str) -> HttpAnswer | SinkFailure:
    """Return the answer, or the reason why there is none that its vendor's API sent.

    Args:
        received: the result of a request.
        server: its name, for messages.
    """
    if isinstance(received, NoAnswer):
        what = "sent no complete response" if received.sent else "cannot be reached"
        failure = _unavailable(f"{server} {what}: {received.reason}", received.remedy)
        return failure._replace(transient=not received.lasting)
    status = received.status
    if 300 <= status < 400:  # noqa: PLR2004 - the redirects
        reason = f"{server} responds with a redirect ({status}), which is not followed"
        return _unavailable(reason, "Use the new name or address.")
    if status >= 500:  # noqa: PLR2004 - the server's own failures
        wait = received.retry_after or 0.0
        failure = _unavailable(f"{server} responds with status {status}", _RUN_AGAIN)
        return failure._replace(transient=wait <= _MAX_RETRY_AFTER, retry_after=wait)
    return received


def _unavailable(reason: str, remedy: str) -> SinkFailure:
    return unusable(Code.SINK_UNAVAILABLE, reason, remedy)


def unexpected_status(address: Address, reply: Reply) -> SinkError:
    """Return the error for an answer with a status that no sink expects."""
    reason = f"was refused with HTTP status {reply.status}"
    remedy = "Look up this status in the vendor's documentation, then run the command again."
    return SinkFailure(Code.SINK_FAILED, reason, remedy).error(address)


class Api:
    """The REST API of one server, for any number of threads.

    Args:
        route: the address of the server; http only for loopback.
        credential: called before every request; its errors are passed on.
        headers: headers that contain no secrets.
        wait: waits for a number of seconds.
        serial_writes: True to send requests that change something one at a time.
        timeouts: seconds to connect, and for the whole answer.
    """

    max_attempts = 4
    """The number of times a request is sent at most, without those that were throttled."""

    first_wait, longest_wait = 0.5, 5.0
    """Seconds between two attempts, if the server names no wait."""

    allows_unverified = False
    """Whether a server on another machine may be used without verifying its certificate."""

    def __init__(  # noqa: PLR0913 - the settings of a server
        self,
        route: Route,
        credential: Callable[[Address], Credential],
        headers: Mapping[str, str],
        wait: Callable[[float], None] = time.sleep,
        *,
        serial_writes: bool = False,
        timeouts: tuple[float, float] = TIMEOUTS,
    ) -> None:
        self._route = route
        self._timeouts = timeouts
        try:
            parts = urlsplit(route.base)
            self._scheme, self._host = parts.scheme, parts.hostname or ""
        except ValueError:  # not a valid address, which each request reports
            self._scheme = self._host = ""
        self._get_credential = credential
        self._headers = headers
        self._wait = wait
        self._gate = _RateGate(self._host, wait)
        self._serial_writes = serial_writes
        self._lock = threading.Lock()
        self._client: tuple[Secret | None, HttpClient] | None = None

    def failure_in(self, path: str, answer: HttpAnswer) -> SinkFailure | None:
        """Return a failure that only this vendor's answers show; None without one."""
        del path, answer
        return None

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
        if (refusal := self._refusal(path)) is not None:
            raise refusal.error(address)
        exclusive = self._serial_writes and method != "GET"
        attempt, remaining_wait = 1, MAX_WAIT
        while True:
            with self._gate.turn(exclusive=exclusive) as pauses:
                if (pause := self._gate.remaining()) > MAX_WAIT:
                    raise self._throttled(pause).error(address)
                received = self._exchange(address, method, path, body, content_type)
                failure = (
                    None if isinstance(received, NoAnswer) else self.failure_in(path, received)
                )
                pause = 0.0 if failure else self._gate.pause_after(received, pauses)
            if pause > remaining_wait:
                raise self._throttled(pause).error(address)
            if pause:
                remaining_wait -= pause
                continue
            answer = failure or _usable(received, self._host)
            is_last = attempt == self.max_attempts
            requested = 0.0
            if isinstance(answer, SinkFailure):
                if is_last or not answer.transient:
                    raise answer.error(address)
                requested = answer.retry_after
            elif is_last or answer.status not in retry_statuses:
                return self._to_reply(address, answer, returned_statuses)
            self.wait(attempt, requested)
            attempt += 1

    def find(self, address: Address, path: str) -> Reply | None:
        """Read an object of the API; None if it does not exist.

        Raises:
            SinkError: as for `call`, and after any other status.
        """
        reply = self.call(address, "GET", path)
        if reply.status not in (200, 404):
            raise unexpected_status(address, reply)
        return reply if reply.status == 200 else None  # noqa: PLR2004 - found

    def wait(self, attempt: int, seconds: float = 0.0) -> None:
        """Wait after an attempt, the first of which is 1: a growing, random time, or longer."""
        self._wait(max(seconds, delay(attempt - 1, self.first_wait, self.longest_wait)))

    def _throttled(self, wait: float) -> SinkFailure:
        return _unavailable(
            f"{self._host} has received too many requests and asks clients to wait {wait:.0f} s",
            "Run the command again later, or deliver fewer keys in one run.",
        )

    def _refusal(self, path: str) -> SinkFailure | None:
        """Return a failure if others could read the request, or a name in its path leads away."""
        if not self._host:
            return _unavailable("the server address is not valid", "Write it as https://host.")
        secure = self._scheme == "https" and (self._route.verify or self.allows_unverified)
        if not secure and not is_loopback(self._host):
            reason = f"the connection to {self._host} is not secure"
            remedy = "Use an https:// address, and check its certificate."
            return unusable(Code.SINK_UNSUITABLE, reason, remedy)
        if {".", ".."} & set(path.partition("?")[0].split("/")):
            reason, remedy = (
                "`.` and `..` are not valid names",
                "Choose another name in the manifest.",
            )
            return unusable(Code.SINK_UNSUITABLE, reason, remedy)
        return None

    def _to_reply(
        self, address: Address, answer: HttpAnswer, returned_statuses: frozenset[int]
    ) -> Reply:
        if answer.status in {401, 403} - returned_statuses:
            reason = f"{self._host} refuses the credential with HTTP status {answer.status}"
            remedy = "Check that it is correct, has not expired and may read and write there."
            raise unusable(Code.SINK_DENIED, reason, remedy).error(address)
        body: object = None
        readable = True
        try:
            body = json_of(answer.body) if answer.body.strip() else None
        except ValueError:
            readable = False
        if not readable and answer.status < 300:  # noqa: PLR2004 - the successes
            raise _unavailable(
                f"the response from {self._host} is not JSON",
                "Check that this is the address of the vendor's API.",
            ).error(address)
        skew = answer.server_time - answer.received_at if answer.server_time else timedelta(0)
        found = body if isinstance(body, dict) else {}
        return Reply(answer.status, found, skew, answer.server_time)

    def _exchange(
        self,
        address: Address,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        content_type: str,
    ) -> HttpAnswer | NoAnswer:
        credential = self._get_credential(address)
        headers = {name: value.reveal() for name, value in credential.headers.items()}
        if not all(value.isascii() and value.isprintable() for value in headers.values()):
            reason = "the credential has characters that are not allowed in an HTTP header"
            remedy = "Set the credential again, as one line of ASCII."
            raise unusable(Code.SINK_DENIED, reason, remedy).error(address)
        from provisioner.http_client.client import HttpClient  # noqa: PLC0415 - `validate` sends none

        certificate = credential.client_certificate
        with self._lock:  # a new certificate replaces the client
            if self._client is None or self._client[0] is not certificate:
                client = HttpClient(self._route, self._headers, _CONNECTIONS, certificate)
                self._client = (certificate, client)
            client = self._client[1]
        started = time.monotonic()
        received = client.request(
            method,
            path,
            body=body,
            content_type=content_type,
            headers=headers,
            timeout=self._timeouts,
            max_bytes=_MAX_BODY,
        )
        log_exchange(self._host, method, path, received, time.monotonic() - started)
        return received


def header_credential(header: str, value: str, remedy: str) -> Callable[[Address], Credential]:
    """Return what adds the same header to every request, or raises if its value is empty.

    Args:
        header: its name.
        value: its value, without a line break.
        remedy: one sentence that says what to set.
    """
    credential = Credential({header: Secret(value)} if value else {})

    def credential_for(address: Address) -> Credential:
        if not value:
            reason = "the credential for its server is missing"
            raise unusable(Code.SINK_DENIED, reason, remedy).error(address)
        return credential

    return credential_for


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
    def turn(self, *, exclusive: bool) -> Iterator[int]:
        """Wait for the end of a pause, and give the number of pauses before this request.

        Args:
            exclusive: True to permit no other exclusive request until this one is finished.
        """
        with self._serial_lock if exclusive or self._pauses else nullcontext():
            while 0 < (remaining := self.remaining()) <= MAX_WAIT:
                until = self._not_before
                self._wait(remaining)
                with self._lock:
                    self._waited_until = max(self._waited_until, until)
            yield self._pauses

    def remaining(self) -> float:
        """Return the seconds left of a pause."""
        with self._lock:
            return max(0.0, self._not_before - self._now())

    def pause_after(self, received: HttpAnswer | NoAnswer, pauses: int) -> float:
        """Make every request wait if one was throttled, and return the seconds, or 0.0.

        Args:
            received: the result of the request.
            pauses: the number of pauses before it was sent.
        """
        if isinstance(received, NoAnswer):
            return 0.0
        with self._lock:
            # Requests that were sent before the last pause say nothing about its length.
            is_new = pauses == self._pauses
            wait = _throttled_for(received, self._consecutive + is_new)
            if wait is None:
                self._consecutive = 0 if is_new else self._consecutive
                return 0.0
            self._pauses += is_new
            self._consecutive += is_new
            wait += random.uniform(*_MARGIN)  # noqa: S311 - no secret
            self._not_before = max(self._not_before, self._now() + wait)
        if is_new:
            level = logging.WARNING if self._pauses == 1 else logging.INFO
            _LOG.log(level, "%s asked us to slow down; continuing in %.0f s", self._host, wait)
        return wait

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


def _throttled_for(answer: HttpAnswer, times: int) -> float | None:
    """Return the seconds to wait after a throttled request; None if it was handled.

    GitHub: "Rate limits for the REST API". A 403 with one of its headers, or with a text that names
    the secondary limit, is not a denial. Without `Retry-After` it asks for a minute, and for more
    each time.

    Args:
        answer: to the request.
        times: how many requests in a row were throttled.
    """
    if answer.status not in (403, 429):
        return None
    wait = answer.retry_after
    if wait is None and answer.headers.get("X-RateLimit-Remaining") == "0":
        reset = answer.headers.get("X-RateLimit-Reset", "")
        now = answer.server_time or answer.received_at
        wait = max(1.0, float(reset) - now.timestamp()) if _DIGITS.fullmatch(reset) else 1.0
    if wait is not None:
        return max(wait, delay(times - 1, Api.first_wait))
    doubled = 2.0 ** (times - 1)
    if _SECONDARY_TEXT.search(answer.body[:_TEXT_SEARCHED]):
        return min(_SECONDARY_LIMIT_WAIT * doubled, MAX_WAIT)
    return min(_FIRST_GUESS * doubled, _LONGEST_GUESS) if answer.status == 429 else None  # noqa: PLR2004 - too many requests
