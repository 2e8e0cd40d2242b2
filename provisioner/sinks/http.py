"""One careful HTTP client for the sinks that are REST interfaces: what a token's way there needs.

Whatever these sinks send may be sent again, since a repeat changes nothing more; so every
request is tried again when its answer is lost.
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
from provisioner.http_client.bounded import (
    ACCEPT_ENCODING,
    AnswerTooLargeError,
    BoundedAdapter,
    body_of,
    json_of,
)
from provisioner.http_client.loopback import is_loopback
from provisioner.runtime.file_descriptors import is_out_of_descriptors
from provisioner.sinks.sink import failed

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

    from provisioner.errors.exceptions import SinkError
    from provisioner.model.sink_address import Address
    from provisioner.secret import Secret

V = TypeVar("V")

_LOG = logging.getLogger(__name__)

TRIES = 4
"""How often one request is sent at most, but for those that are refused for their speed."""

MAX_WAIT = 600.0
"""Seconds that one request waits in all for a server that refuses it for its speed."""

_SECONDARY = 60.0
"""Seconds that GitHub has everyone wait at least after its secondary limit, where it says none."""

_THROTTLED = 1.0
_LONGEST_GUESS = 60.0
"""Seconds before the next try where a server says only that there were too many requests."""

_MARGIN = (0.1, 0.5)
"""Seconds more than that, since servers count in whole seconds and others wait too."""

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
    """Where a server stands, and what proves that it is the one.

    Attributes:
        base: `https://host[:port][/prefix]`; http for loopback alone.
        authority: path of a PEM file, or of a folder of them; None for the usual authorities.
        authority_text: the same as PEM text.
        server_name: the name in the certificate, where it is not that of the base.
        verified: whether the certificate is checked; may be False for loopback alone.
        proxy: the URL of a proxy; None for what the process environment says.
    """

    base: str
    authority: str | None = None
    authority_text: str | None = None
    server_name: str | None = None
    verified: bool = True
    proxy: str | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What proves to the server who asks.

    Attributes:
        headers: added to each request.
        identity: a client certificate with its chain and key, as PEM text.
    """

    headers: Mapping[str, Secret]
    identity: Secret | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer that is neither a refusal of the credential nor a passing failure.

    Attributes:
        body: the JSON object; empty where the answer is none. It may hold secrets.
        ahead: how far the server's clock was ahead of ours, to the second; zero where it sent
            no `Date`.
    """

    status: int
    body: Mapping[str, Any] = field(repr=False)
    ahead: timedelta = field(default=timedelta(0), compare=False)


@dataclass(frozen=True, slots=True)
class _HttpFailure:
    """Why there is no answer to use."""

    reason: str
    remedy: str = "Run again; if it stays, check the address, the network and the server."
    passes: bool = True
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class _Throttling:
    """A refusal of a request for its speed, which was not handled.

    Attributes:
        asked: seconds that the server asks for, where it does.
        least: seconds to wait at first where it does not.
        most: seconds to wait at most where it does not.
    """

    asked: float | None
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class _RawAnswer:
    status: int
    headers: Mapping[str, str]
    raw: bytes = field(repr=False)
    ahead: timedelta


def route_of(base: str, environment: Mapping[str, str]) -> Route:
    """The way to a server that the authorities of the environment vouch for."""
    return Route(base, next(filter(None, map(environment.get, _CA_VARIABLES)), None))


def segment(text: str) -> str:
    """A name as one segment of a path."""
    return quote(text, safe="")


def unexpected(address: Address, reply: Reply) -> SinkError:
    """The error for an answer that nothing foresees."""
    return failed(
        "sink_failed",
        f"{address} was refused with status {reply.status}.",
        "Look for this status in the vendor's documentation, then run again.",
    )


class Api:
    """The REST interface of one server, for any number of threads.

    Args:
        route: where the server stands.
        grant: asked before every request; its errors are passed on.
        fixed: headers that are no secrets.
        wait: waits so many seconds.
        one_write: whether no two requests that change something are sent at once.
        timeouts: seconds to connect, and for the whole answer.
    """

    def __init__(  # noqa: PLR0913 - what there is to say of a server
        self,
        route: Route,
        grant: Callable[[Address], Grant],
        fixed: Mapping[str, str],
        wait: Callable[[float], None] = time.sleep,
        *,
        one_write: bool = False,
        timeouts: tuple[float, float] = _TIMEOUTS,
    ) -> None:
        self._route = route
        self._timeouts = timeouts
        self._scheme, self._host = _origin(route.base)
        self._grant = grant
        self._fixed = {"User-Agent": f"twenty-provisioner/{__version__}", **fixed}
        self._wait = wait
        self._gate = _RateGate(self._host, wait)
        self._one_write = one_write
        self._lock = threading.Lock()
        self._session: tuple[Secret | None, requests.Session] | None = None

    def call(  # noqa: PLR0913 - what there is to say of a request
        self,
        address: Address,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        kind: str = "application/json",
        again: frozenset[int] = frozenset(),
        explained: frozenset[int] = frozenset(),
    ) -> Reply:
        """Send a request, again while that may help, and read the whole answer.

        A request that is refused for its speed makes all others wait too: they share the
        credential, whose limit it is.

        Args:
            address: the sink, for messages.
            method: the HTTP method.
            path: with its query, beginning with a slash; names in it have gone through `segment`.
            body: sent as JSON, unless None.
            kind: the media type of the body.
            again: further statuses after which the request is sent again.
            explained: statuses of refusals that are returned, for the caller to explain.

        Raises:
            SinkError: `sink_unavailable` without a whole answer, after a redirect, and while the
                server has no time for us; `sink_denied` after 401 and 403 that are not to be
                explained; `sink_unsuitable` where the connection could be overheard.
        """
        self._check(address, path)
        payload = None if body is None else json.dumps(body).encode()
        alone = self._one_write and method != "GET"
        tries = 1
        patience = MAX_WAIT
        while True:
            with self._gate.turn(alone=alone) as turn:
                if turn.left:
                    raise self._too_many(address, turn.left)
                answer = self._exchange(address, method, path, payload, kind)
                slow = _throttling(answer) if isinstance(answer, _RawAnswer) else None
                pause = 0.0 if slow is None else self._gate.refused(turn, slow)
                if slow is None and isinstance(answer, _RawAnswer):
                    self._gate.passed(turn)
            if slow is not None:
                if pause > patience:
                    raise self._too_many(address, pause)
                patience -= pause
                continue
            trouble = _trouble(answer) if isinstance(answer, _RawAnswer) else answer
            if isinstance(answer, _RawAnswer) and trouble is None:
                if answer.status not in again or tries == TRIES:
                    return self._judged(address, answer, explained)
            elif trouble is not None and (
                tries == TRIES or not trouble.passes or trouble.wait > _LONGEST_WAIT
            ):
                message = f"{address} cannot be used: {self._host} {trouble.reason}."
                raise failed("sink_unavailable", message, trouble.remedy)
            self._wait(max(trouble.wait if trouble else 0.0, _pause(tries)))
            tries += 1

    def _too_many(self, address: Address, wait: float) -> SinkError:
        return failed(
            "sink_unavailable",
            f"{address} cannot be used: {self._host} has had too many requests and asks for "
            f"{wait:.0f} s of patience.",
            "Run again later, or deliver fewer keys in one run.",
        )

    def _check(self, address: Address, path: str) -> None:
        """Nothing may be overheard, and no name may lead elsewhere."""
        if not self._host:
            raise failed(
                "sink_unavailable",
                f"{address} cannot be used: the address of its server is none.",
                "Write it as https://host.",
            )
        secure = self._scheme == "https" and self._route.verified
        if not secure and not is_loopback(self._host):
            raise failed(
                "sink_unsuitable",
                f"{address} cannot be used: the connection to {self._host} could be overheard.",
                "Use https with a certificate that is checked.",
            )
        if {".", ".."} & set(path.partition("?")[0].split("/")):
            raise failed(
                "sink_unsuitable",
                f"{address} cannot be used: a name of nothing but dots is no name.",
                "Write another name in the manifest.",
            )

    def _judged(self, address: Address, answer: _RawAnswer, explained: frozenset[int]) -> Reply:
        if answer.status in {401, 403} - explained:
            raise failed(
                "sink_denied",
                f"{address} cannot be used: {self._host} refuses the credential "
                f"with status {answer.status}.",
                "Check that it is right, has not expired and may read and write there.",
            )
        body, readable = _decoded(answer.raw)
        if not readable and answer.status < 300:  # noqa: PLR2004 - the successes
            raise failed(
                "sink_unavailable",
                f"{address} cannot be used: {self._host} answers with something that is no JSON.",
                "Check that the address is that of the vendor's interface.",
            )
        return Reply(answer.status, body, answer.ahead)

    def _exchange(
        self, address: Address, method: str, path: str, payload: bytes | None, kind: str
    ) -> _RawAnswer | _HttpFailure:
        grant = self._grant(address)
        for value in grant.headers.values():
            if not (value.reveal().isascii() and value.reveal().isprintable()):
                raise failed(
                    "sink_denied",
                    f"{address} cannot be used: the credential has characters "
                    "that no header can carry.",
                    "Set the credential anew, as one line.",
                )
        session = self._opened(address, grant.identity)
        try:
            with session.request(
                method,
                self._route.base + path,
                data=payload,
                headers={
                    **({} if payload is None else {"Content-Type": kind}),
                    **{name: value.reveal() for name, value in grant.headers.items()},
                },
                auth=_as_it_is,
                timeout=self._timeouts,
                allow_redirects=False,
                stream=True,
            ) as response:
                raw = body_of(response, _BODY_LIMIT)
                moment = _moment(response.headers.get("Date"))
                ahead = timedelta(0) if moment is None else moment - datetime.now(UTC)
                return _RawAnswer(response.status_code, response.headers, raw, ahead)
        except AnswerTooLargeError:
            return _HttpFailure(f"answers with more than {_BODY_LIMIT >> 20} MiB", passes=False)
        except (requests.RequestException, PoolError, ValueError, OSError) as error:
            return _translated(error)

    def _opened(self, address: Address, identity: Secret | None) -> requests.Session:
        """The session for a client certificate; a new one ends what the old one was for."""
        with self._lock:
            if self._session is None or self._session[0] is not identity:
                try:
                    session = _session(self._route, identity, self._fixed)
                except (OSError, ValueError):
                    session = None
                if session is None:
                    raise failed(
                        "sink_unavailable",
                        f"{address} cannot be used: the certificates for {self._host} "
                        "cannot be read.",
                        "Check the files of the authority and of the client certificate.",
                    )
                self._session = (identity, session)
            return self._session[1]


@dataclass(frozen=True, slots=True)
class _Turn:
    """A request that may leave.

    Attributes:
        pauses: how many pauses there were before it.
        left: seconds of a pause that is too long to be waited for; zero where there is none.
    """

    pauses: int
    left: float = 0.0


class _RateGate:
    """One pause for all requests that share a credential.

    Every request waits until the pause is over. Then they go one by one, for the rest of the run.

    Args:
        host: for the log.
        wait: waits so many seconds.
    """

    def __init__(self, host: str, wait: Callable[[float], None]) -> None:
        self._host = host
        self._wait = wait
        self._lock = threading.Lock()
        self._alone = threading.Lock()
        self._not_before = self._waited_until = time.monotonic()
        self._pauses = 0
        self._in_a_row = 0

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[_Turn]:
        """Wait for the end of a pause; let no other request of its kind leave meanwhile.

        Args:
            alone: whether this request shall be the only one of its kind on its way.
        """
        with self._alone if alone or self._pauses else nullcontext():
            while 0 < (left := self._left()) <= MAX_WAIT:
                until = self._not_before
                self._wait(left)
                with self._lock:
                    self._waited_until = max(self._waited_until, until)
            yield _Turn(self._pauses, left)

    def refused(self, turn: _Turn, slow: _Throttling) -> float:
        """Have everyone wait; return for how many seconds."""
        with self._lock:
            # Those that left before a pause did not know of it: they tell nothing new.
            again = turn.pauses == self._pauses
            if again:
                self._pauses += 1
                self._in_a_row += 1
            guess = min(slow.least * 2.0 ** (self._in_a_row - 1), slow.most)
            wait = guess if slow.asked is None else max(slow.asked, _pause(self._in_a_row))
            wait += random.uniform(*_MARGIN)  # noqa: S311 - no secret
            self._not_before = max(self._not_before, self._now() + wait)
        if again:
            level = logging.WARNING if self._pauses == 1 else logging.INFO
            _LOG.log(level, "%s asks to slow down; going on in %.0f s", self._host, wait)
        return wait

    def passed(self, turn: _Turn) -> None:
        """Begin to count again when a request got through that knew of the last pause."""
        with self._lock:
            if turn.pauses == self._pauses:
                self._in_a_row = 0

    def _left(self) -> float:
        with self._lock:
            return max(0.0, self._not_before - self._now())

    def _now(self) -> float:
        """Return the moment; what was waited for has come, whatever the clock says."""
        return max(time.monotonic(), self._waited_until)


class Once(Generic[V]):
    """What is looked up once, however many threads ask for it; a failure is not kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[Hashable, threading.Lock] = {}
        self._values: dict[Hashable, V] = {}

    def get(self, key: Hashable, look: Callable[[], V]) -> V:
        """The value of a key, by a look where there is none yet."""
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            if key not in self._values:
                self._values[key] = look()
            return self._values[key]

    def forget(self, key: Hashable, value: V) -> None:
        """Has the next one look again, unless someone did so already."""
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            if self._values.get(key) is value:
                del self._values[key]


class _Adapter(BoundedAdapter):
    """Connections with a TLS context of our own, to which requests adds nothing."""

    def __init__(self, **tls: Any) -> None:
        self._tls = tls
        super().__init__(_BODY_LIMIT, pool_maxsize=_CONNECTIONS)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Theirs, with our context."""
        super().init_poolmanager(*args, **(kwargs | self._tls))

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Theirs, with our context behind the proxy too."""
        return super().proxy_manager_for(proxy, **(kwargs | self._tls))

    def cert_verify(self, *_: Any) -> None:
        """Nothing: theirs would trust the usual authorities beside the one that was named."""


class _SinkSession(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere."""


def _session(route: Route, identity: Secret | None, fixed: Mapping[str, str]) -> requests.Session:
    session = _SinkSession()
    session.trust_env = False
    session.verify = route.verified
    proxies = get_environ_proxies(route.base)
    session.proxies.update({"http": route.proxy, "https": route.proxy} if route.proxy else proxies)
    session.headers.update({"Accept-Encoding": ACCEPT_ENCODING, **fixed})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    tls: dict[str, Any] = {"ssl_context": _context(route, identity)}
    if route.server_name:
        tls["server_hostname"] = route.server_name
    session.mount("https://", _Adapter(**tls))
    session.mount("http://", BoundedAdapter(_BODY_LIMIT, pool_maxsize=_CONNECTIONS))
    return session


def _context(route: Route, identity: Secret | None) -> ssl.SSLContext:
    named = route.authority or DEFAULT_CA_BUNDLE_PATH
    if route.authority_text is not None:
        context = ssl.create_default_context(cadata=route.authority_text)
    elif os.path.isdir(named):  # noqa: PTH112 - the text of a variable, passed on as it is
        context = ssl.create_default_context(capath=named)
    else:
        context = ssl.create_default_context(cafile=named)
    # Python 3.13 sets it, and authorities of older clusters have no key identifier.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not route.verified:
        context.check_hostname = False
    if identity is not None:
        # OpenSSL reads files only, and Windows no file that is open twice; this one lives for the
        # next lines, in a folder for this user alone.
        with tempfile.TemporaryDirectory(prefix="provision-") as folder:
            file = Path(folder, "identity.pem")
            file.touch(0o600)
            file.write_text(identity.reveal(), encoding="utf-8")
            # A password, though it has none, so that an encrypted key fails instead of asking.
            context.load_cert_chain(file, password=b"")
    return context


def _origin(base: str) -> tuple[str, str]:
    """Scheme and host name of an address, both empty where it is none."""
    try:
        parts = urlsplit(base)
    except ValueError:
        return "", ""
    return parts.scheme, parts.hostname or ""


def _decoded(raw: bytes) -> tuple[Mapping[str, Any], bool]:
    """The JSON object, empty where it is none, and whether it is JSON at all or nothing."""
    try:
        body = json_of(raw) if raw.strip() else None
    except ValueError:
        return {}, False
    return body if isinstance(body, dict) else {}, True


def _trouble(answer: _RawAnswer) -> _HttpFailure | None:
    """What keeps an answer from being one; None where there is nothing."""
    status = answer.status
    if 300 <= status < 400:  # noqa: PLR2004 - the redirects
        return _HttpFailure(
            f"answers with a redirect ({status}), which no token follows",
            "Write the name or the address that it has now.",
            passes=False,
        )
    if status >= 500:  # noqa: PLR2004 - the server's own failures
        return _HttpFailure(f"answers with status {status}", wait=_asked(answer.headers) or 0.0)
    return None


def _throttling(answer: _RawAnswer) -> _Throttling | None:
    """Return how a request was refused for its speed; None where it was not.

    GitHub: "Rate limits for the REST API". A 403 with one of its headers, or whose text names the
    secondary limit, is no denial; without `Retry-After` it asks for a minute, and then for more.
    """
    if answer.status not in (403, 429):
        return None
    asked = _asked(answer.headers)
    if _SECONDARY_TEXT.search(answer.raw[:_TEXT_SEARCHED]):
        return _Throttling(asked, _SECONDARY, MAX_WAIT)
    if answer.status == 429 or asked is not None:  # noqa: PLR2004 - too many requests
        return _Throttling(asked, _THROTTLED, _LONGEST_GUESS)
    return None


def _asked(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks us to wait; None where it does not."""
    now = _moment(headers.get("Date")) or datetime.now(UTC)
    after = headers.get("Retry-After")
    if after is not None and _DIGITS.fullmatch(after):
        return float(after)
    if (moment := _moment(after)) is not None:
        return max(0.0, (moment - now).total_seconds())
    if headers.get("X-RateLimit-Remaining") == "0":
        reset = headers.get("X-RateLimit-Reset", "")
        return max(1.0, float(reset) - now.timestamp()) if _DIGITS.fullmatch(reset) else 1.0
    return None


def _moment(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header).astimezone(UTC) if header else None
    except (ValueError, OverflowError):
        return None


def _pause(tries: int) -> float:
    """Seconds that grow and are never the same for two runs at once."""
    return _FIRST_WAIT * 2.0 ** (tries - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _translated(error: Exception) -> _HttpFailure:
    """What happened, without their text: it may show the request."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return _HttpFailure(
            "shows a certificate that is not trusted",
            "Name its authority, for example in REQUESTS_CA_BUNDLE.",
            passes=False,
        )
    if is_out_of_descriptors(error):
        return _HttpFailure(
            "cannot be reached, since this process may open no more files and connections",
            "Raise that limit (`ulimit -n`), or work on fewer environments at once.",
        )
    if "timed out" in str(error):
        return _HttpFailure("does not answer in time")
    if isinstance(error, ValueError):
        return _HttpFailure("is no address", "Check the address of the server.", passes=False)
    if isinstance(error, requests.exceptions.ProxyError):
        return _HttpFailure(
            "cannot be reached through the proxy", "Check HTTPS_PROXY and NO_PROXY."
        )
    return _HttpFailure("cannot be reached, or breaks the connection off")


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps requests from taking a user name out of the address."""
    return request
