"""Requests to Twenty: its rate limit, the limits of an observation, and repeats that are safe.

A request whose answer is lost is repeated here only if its caller says that a repeat changes
nothing. A request that never reached the server, or that the server refused for the rate limit
before handling it, is repeated for every caller.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.http_client.client import HttpClient
from provisioner.http_client.exchange import HttpAnswer, NoAnswer, Route, ca_path_of
from provisioner.http_client.exchange_log import log_exchange
from provisioner.http_client.loopback import canonical
from provisioner.model.activity import Answered, Waiting, ignore_activity
from provisioner.runtime.backoff import delay
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.log_context import bind, extra
from provisioner.twenty.answers import (
    Answer,
    Throttling,
    clean,
    decode,
    html_page,
    is_transient,
    redact,
    throttling,
)
from provisioner.twenty.operation import operation_of
from provisioner.twenty.rate_limit import RateLimit, RequestAbandonedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.http_client.exchange import Json
    from provisioner.http_client.network import Network
    from provisioner.model.activity import OnActivity
    from provisioner.model.environment import Environment
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.secret import Secret

_LOG = logging.getLogger(__name__)
_MAX_BODY = 12 * 1024 * 1024
_MAX_LIST = 32 * 1024 * 1024
"""Bytes of a list that no server gives in pages: the keys of core."""

_MAX_TRIES = 4
_MAX_CONNECTS = 3
_MIN_DELAY = 0.2
_MIN_TIMEOUT = 0.001
_MAX_WAIT = 180.0
"""Seconds of waits that a request is given up after, if the server accepts none meanwhile."""

_MAX_REFUSALS = 50
"""Refusals that a request is given up after, even if the server accepts others."""

_OBSERVE_TIMEOUTS = 2
"""Time limit of the first observation while other environments wait, in timeouts of one answer."""

_WARN_INTERVAL = 30.0
"""Seconds between two warnings that say what a throttled environment waits for."""

_TOO_HIGH = 0.9
"""Share of the declared rate below which the declared one is said to be too high."""

_LONG_WAIT = 0.1
"""Seconds after which the log says how long a request waited for its turn."""

_MAX_TARGET = 200
_DIGITS = re.compile(r"[0-9]{1,9}", re.ASCII)
_SUCCESSES = range(200, 300)
_REDIRECTS = (301, 302, 303, 307, 308)


class LostAnswerError(Exception):
    """A request was sent and no complete answer came back: its outcome is unknown."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Transport:
    """The connections of one environment.

    Args:
        environment: its limits, headers and certificate authorities.
        address: of the server, `http(s)://host[:port][/prefix]`.
        stop: once a stop is requested, nothing is sent that must not be repeated.
        others_wait: whether other environments wait for each observation of this one before their
            first writes.
        on_idle_closed: called whenever idle connections were closed.
        network: what the clients of the run share; None for a run of only this environment.
        on_activity: receives what the environment does.

    Attributes:
        requests_sent: how many requests were sent so far, including repeats.
        on_activity: receives what the environment does.
    """

    def __init__(  # noqa: PLR0913 - as `connect`
        self,
        environment: Environment,
        address: str,
        stop: Cancellation,
        *,
        others_wait: bool = False,
        on_idle_closed: Callable[[], None] | None = None,
        network: Network | None = None,
        on_activity: OnActivity = ignore_activity,
    ) -> None:
        self.name = environment.name
        self.address = address
        self.stop = stop
        self.on_activity = on_activity
        self._extra = extra(environment=self.name)
        self._rate_limit = RateLimit(environment.limits, clock=stop.now, sleep=stop.sleep)
        self.timeout = environment.limits.timeout
        self._host = clean(urlsplit(address).netloc)
        self._refused_until: tuple[float, Answer] | None = None
        self._declared_rate = environment.limits.requests_per_minute
        self._said = 0  # what the last warning named: the rate, and what to declare
        self._accepted = 0
        self._warn_at = 0.0
        self._observed = False
        self._on_idle_closed = on_idle_closed
        self._observe_limit = _OBSERVE_TIMEOUTS * self.timeout if others_wait else inf
        self._observe_left = self._observe_limit
        # A wait for the declared rate is not the server's fault, so it does not count.
        self._count_turns = environment.limits.requests_per_minute is None
        self.requests_sent = 0
        self._count_lock = threading.Lock()
        self._client = HttpClient(
            Route(
                address,
                ca_path=str(environment.ca_file or "") or ca_path_of(os.environ),
                client_cert_path=str(environment.client_cert_file or "") or None,
                client_key_path=str(environment.client_key_file or "") or None,
                proxy="" if environment.embedded else None,
                url_setting="`url`",
                ca_setting="ca_file or REQUESTS_CA_BUNDLE",
                client_cert_setting="client_cert_file",
            ),
            {name: value.reveal() for name, value in environment.headers},
            connections=environment.limits.parallel,
            network=network,
        )

    def close_idle_connections(self) -> None:
        """Close idle connections: an observation is over, and the next one has its full time."""
        self._observe_left = self._observe_limit
        self._observed = self._observed or self._observe_limit == inf
        self._client.close()
        if self._on_idle_closed is not None:
            self._on_idle_closed()

    def lift_observe_limits(self) -> None:
        """Repeat requests that timed out: no other environment waits for this one."""
        self._observed = True
        self._observe_limit = self._observe_left = inf

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def send(  # noqa: C901, PLR0913 - all a request needs, and all that may happen to it
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
        operation = operation_of(method, path, body)
        max_wait = _MAX_WAIT  # for waits that the server asks for, not for our own rate
        accepted = self._accepted
        while True:
            # Before a slot is taken, since a sign-in needs a slot of its own.
            bearer = token() if token else None
            if self._observe_left <= 0:
                raise WorkspaceError.of(self._observe_timed_out())
            refused, wait_left = self._refused_until, min(max_wait, self._observe_left)
            if refused is not None and refused[0] > self.stop.now() + wait_left:
                return refused[1]
            attempt += 1
            try:
                with bind(environment=self.name, attempt=attempt):
                    answer = self._exchange(
                        *(method, path, body, bearer, operation.name),
                        must_not_repeat=not repeatable,
                        is_list=is_list,
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
            done = throttle is None and not answer.lost
            seconds = answer.waited + answer.duration
            self.on_activity(Answered(self.name, operation.work, operation.units, seconds, done))
            if throttle is not None:
                wait = self._slow_down(throttle, answer)
                if self._accepted != accepted:  # others were lucky, so this one may be too
                    accepted, max_wait = self._accepted, _MAX_WAIT
                unhandled = throttle.unhandled and not (several and answer.execution_began)
                tries += throttle.wait is None and not throttle.unhandled
                too_long = wait > min(max_wait, self._observe_left) or tries >= _MAX_TRIES
                if too_long or attempt >= _MAX_REFUSALS or not (repeatable or unhandled):
                    return answer
                max_wait -= wait
                continue
            self._accepted += 1
            if repeatable and tries + 1 < _MAX_TRIES and is_transient(answer):
                tries += 1
                self._pause(tries)
                continue
            return answer

    def _pause(self, tries: int) -> None:
        """Wait before a repeat; the delay grows and is jittered, so that runs spread out."""
        seconds = delay(tries, _MIN_DELAY)
        self._observe_left -= seconds
        _LOG.debug("%s: trying again in %.1f s", self.name, seconds, extra=self._extra)
        self.on_activity(Waiting(self.name, seconds, "failed"))
        self.stop.sleep(seconds)

    def _slow_down(self, throttle: Throttling, answer: Answer) -> float:
        """Pause every thread, or refuse requests if the server asks for too long a wait."""
        wait, rate = throttle.wait, throttle.rate
        announced = rate.interval if wait is None and rate else wait or 0.0
        if announced > _MAX_WAIT:
            self._refused_until = (self.stop.now() + announced, answer)
            return announced
        seconds = self._rate_limit.throttled(
            wait, rate, duration=answer.duration, rate_limited=throttle.unhandled
        )
        allowed = inf if self._rate_limit.is_trying else self._rate_limit.per_minute
        declared, now = self._declared_rate, self.stop.now()
        too_high = declared is not None and allowed < _TOO_HIGH * declared
        message = "%s asked us to slow down; continuing in %.1f s"
        if allowed < inf:
            message += f", at most {max(1, round(allowed))} requests a minute"
        if too_high:
            message += f". Set limits.requests_per_minute to {max(1, int(allowed))}, not {declared}"
        said = (allowed < inf) + too_high
        is_due = now >= self._warn_at or said > self._said
        level = logging.WARNING if is_due else logging.INFO
        if is_due:
            self._warn_at, self._said = now + _WARN_INTERVAL, said
        _LOG.log(level, message, self.name, seconds, extra=self._extra)
        self.on_activity(Waiting(self.name, seconds, "asked"))
        return seconds

    def _exchange(  # noqa: PLR0913 - as `send`
        self,
        method: str,
        path: str,
        body: Json,
        bearer: Secret | None,
        operation: str,
        *,
        must_not_repeat: bool,
        is_list: bool,
    ) -> Answer:
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer.reveal()}"}
        queued = self.stop.now()

        def still_wanted() -> bool:
            return not (must_not_repeat and self.stop.requested)

        with self._rate_limit.slot(still_wanted) as waited:
            with self._count_lock:
                self.requests_sent += 1
            if self._count_turns:
                self._observe_left -= self.stop.now() - queued
            timeout = max(_MIN_TIMEOUT, min(self.timeout, self._observe_left))
            started = time.monotonic()
            for connects in range(_MAX_CONNECTS):
                if connects:
                    seconds = delay(connects, _MIN_DELAY)
                    _LOG.debug("%s: connecting again in %.1f s", self.name, seconds)
                    self.stop.sleep(seconds)
                received = self._client.request(
                    method,
                    path,
                    body=body,
                    headers=headers,
                    timeout=(timeout, timeout),
                    max_bytes=_MAX_LIST if is_list else _MAX_BODY,
                )
                if not (isinstance(received, NoAnswer) and received.again):
                    break
            duration = time.monotonic() - started
            # The pages of a list have a time limit of their own.
            if isinstance(received, NoAnswer) or not (is_list and received.status in _SUCCESSES):
                self._observe_left -= duration
        if _LOG.isEnabledFor(logging.DEBUG):
            note = _note(received, waited)
            log_exchange(
                *(self.name, method, path, received, duration), operation=operation, note=note
            )
        if isinstance(received, NoAnswer):
            raise self._error(received, of_observation=timeout < self.timeout)
        answer = _answer(received, duration, self.address, is_list=is_list, waited=waited)
        if answer.status == HTTPStatus.PAYMENT_REQUIRED:
            self._refused_until = (inf, answer)  # no wait brings credits
        return answer

    def _observe_timed_out(self) -> Failure:
        return Failure(
            Code.TIMEOUT,
            f"Listing the keys of {self.name} ({self._host}) took more than "
            f"{_OBSERVE_TIMEOUTS * self.timeout:g} s, and other environments are waiting for it.",
            "Select only this environment with -e, or raise limits.timeout.",
        )

    def _error(self, lost: NoAnswer, *, of_observation: bool) -> Exception:
        """Return the error for a request without an answer.

        Args:
            lost: the reason.
            of_observation: whether the time limit of the observation ended first, not that of one
                answer.
        """
        if not lost.sent:
            message = f"Cannot reach {self.name} ({self._host}): {lost.reason}."
            return WorkspaceError(lost.code, message, remedy=lost.remedy)
        if lost.code is Code.TIMEOUT and of_observation:
            return LostAnswerError(self._observe_timed_out())
        remedy = (
            "Run the command again, or raise limits.timeout."
            if lost.code is Code.TIMEOUT
            else lost.remedy
        )
        message = f"No complete response from {self.name} ({self._host}): {lost.reason}."
        return LostAnswerError(Failure(lost.code, message, remedy))


def _answer(
    received: HttpAnswer, duration: float, address: str, *, is_list: bool, waited: float = 0.0
) -> Answer:
    body, beginning = decode(received.body, is_list=is_list)
    server_time, headers = received.server_time, received.headers
    redirect = headers.get("Location") if received.status in _REDIRECTS else None
    rate_limit = headers.get("X-RateLimit-Limit", "").strip()
    return Answer(
        status=received.status,
        body=body,
        beginning=beginning,
        size=len(received.body),
        server_time=server_time,
        ahead=None if server_time is None else server_time - received.received_at,
        retry_after=received.retry_after,
        rate_limit=int(rate_limit) if _DIGITS.fullmatch(rate_limit) else None,
        duration=duration,
        waited=waited,
        location=_origin(redirect) if redirect else None,
        leaves_host=redirect is not None and _host(redirect) not in ("", _host(address)),
    )


def _note(received: HttpAnswer | NoAnswer, waited: float) -> str:
    """Return what is worth knowing about an exchange beside its status.

    Args:
        received: the answer, or why there is none.
        waited: seconds that the rate limit made the request wait.
    """
    notes = [f"waited {waited:.1f} s for its turn"] if waited >= _LONG_WAIT else []
    if isinstance(received, HttpAnswer):
        notes += filter(None, [html_page(received.body, len(received.body))])
    return ", ".join(notes)


def _host(address: str) -> str:
    """Return one spelling of the host of an address; empty without a valid one."""
    try:
        return canonical(urlsplit(address).hostname or "")
    except ValueError:
        return ""


def _origin(location: str) -> str:
    """Return the target of a redirect without parts that may have secrets."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return "an invalid address"
    host = parts.netloc.rpartition("@")[2]
    target = parts._replace(netloc=host, query="", fragment="").geturl() if host else parts.path
    return redact(clean(target))[:_MAX_TARGET]
