"""Requests side by side: groups of keys to create, until a stop or silence, and single reads."""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.model.workspace import NotCreated, NotSent
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import ThreadExecutor
from provisioner.runtime.log_context import bind, extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from provisioner.model.key import Depth
    from provisioner.model.workspace import CreateObserver, NewKey, Outcome, Record
    from provisioner.runtime.cancellation import Cancellation

    Group = tuple[NewKey, ...]  # the keys of one request

_LOG = logging.getLogger(__name__)

_MAX_LOST = 4
"""Lost answers in a row after which sending stops; two for each thread if that is more."""

# Nothing but a sign-in reached the server, and a later attempt may succeed.
_TRANSIENT = frozenset(
    {Code.UNREACHABLE, Code.STOPPED, Code.TIMEOUT, Code.CONNECTION_LOST, Code.SERVER_ERROR}
)


# Refusals of the credential or the connection, which are the same for every key.
_SAME_FOR_ALL = frozenset(
    {
        Code.CREDENTIAL_EXPIRED,
        Code.CREDENTIAL_INVALID,
        Code.CREDENTIAL_MISSING,
        Code.CREDENTIAL_REVOKED,
        Code.PERMISSION_DENIED,
        Code.SANDBOX_UNUSABLE,
        Code.SESSION_REQUIRED,
        Code.SIGN_IN_FAILED,
        Code.TLS_FAILED,
    }
)


class Dispatcher:
    """Sender of the groups of one bulk create.

    It stops sending to a server that loses several answers in a row, since the caller checks first
    what exists. It also stops after the credential is refused, since more refusals may lock it out.

    Args:
        environment: its name, for messages.
        parallel: groups in flight at once.
        stop: once a stop is requested, no group is sent.
        observer: receives the outcome of keys that are not sent.
    """

    def __init__(
        self, environment: str, parallel: int, stop: Cancellation, observer: CreateObserver
    ) -> None:
        self._environment = environment
        self._parallel = parallel
        self._stop = stop
        self._observer = observer
        self._lock = threading.Lock()
        self._lost_in_a_row = 0
        self._max_group: int | None = None
        self._unsent_reason: Failure | None = None
        self._refusal: Failure | None = None

    def send_all(self, groups: Iterable[Group], send: Callable[[Group], None]) -> None:
        """Send every group; `send` reports the outcome of each of its keys to the observer."""
        with ThreadExecutor(self._parallel) as threads:
            for _ in threads.map(lambda group: self.send_group(group, send), groups):
                pass

    def send_group(self, group: Group, send: Callable[[Group], None]) -> None:
        """Send one group, in parts if it is too large, unless sending has stopped."""
        for part in split(group, self._max_group or len(group)):
            self._send_part(part, send)

    def send_halves(self, group: Group, send: Callable[[Group], None]) -> None:
        """Send the two halves of a group of several keys."""
        middle = len(group) // 2
        for half in (group[:middle], group[middle:]):
            self.send_group(half, send)

    def split_too_large(self, group: Group, send: Callable[[Group], None]) -> None:
        """Send the halves of a group that was too large, and no group of that size again."""
        with self._lock:
            first = self._max_group is None
            self._max_group = min(self._max_group or len(group), (len(group) + 1) // 2)
        if first:
            message = (
                "%s or a proxy in front of it does not accept requests with %d keys; sending "
                "fewer keys per request"
            )
            fields = extra(environment=self._environment)
            _LOG.warning(message, self._environment, len(group), extra=fields)
        self.send_halves(group, send)

    def _send_part(self, group: Group, send: Callable[[Group], None]) -> None:
        if (outcome := self._outcome_unsent()) is not None:
            for key in group:
                self._observer.on_outcome(key, outcome)
            return
        for key in group:
            self._observer.on_send(key)
        # A request of several keys is about none of them in particular.
        with bind(key=group[0].name) if len(group) == 1 else nullcontext():
            send(group)

    def _outcome_unsent(self) -> Outcome | None:
        """Return the outcome of keys that are not sent any more; None while sending goes on."""
        if self._refusal is not None:
            return NotCreated(self._refusal)
        reason = STOPPED if self._stop.requested else self._unsent_reason
        return None if reason is None else NotSent(reason)

    def record_answer(self) -> None:
        """Record that the server sent an answer, even a refusal."""
        with self._lock:
            self._lost_in_a_row = 0

    def record_lost(self) -> None:
        """Record that an answer of the server was lost."""
        with self._lock:
            self._lost_in_a_row += 1
            if self._lost_in_a_row >= max(_MAX_LOST, 2 * self._parallel):
                self._unsent_reason = Failure(
                    Code.SERVER_ERROR,
                    f"{self._lost_in_a_row} responses in a row from {self._environment} were "
                    "lost, so "
                    "this key "
                    "was not sent. Run again; if it fails again, check the server's log.",
                )

    def record_refusal(self, failure: Failure) -> None:
        """Record that the server refused a key; if it refused the credential, stop sending."""
        if failure.code in _SAME_FOR_ALL:
            self._refusal = failure

    def record_unsent(self, error: WorkspaceError) -> NotSent | NotCreated:
        """Return the outcome of keys whose request was not sent at all, and stop sending."""
        outcome = outcome_unsent(error)
        if isinstance(outcome, NotSent):
            with self._lock:
                self._unsent_reason = outcome.failure
        else:
            self.record_refusal(outcome.failure)
        return outcome


def outcome_unsent(error: WorkspaceError) -> NotSent | NotCreated:
    """Return the outcome of keys that an error kept from being sent."""
    failure = error.failure
    return NotSent(failure) if error.code in _TRANSIENT else NotCreated(failure)


def batch_size(max_size: int, tries: int) -> int:
    """Return how many keys may share a request after so many tries: fewer each time, finally one.

    So a key that always fails does not keep the others from being created.
    """
    return max(1, max_size >> (2 * tries))


def split(keys: Group, max_size: int) -> Iterator[Group]:
    """Yield groups of at most `max_size` keys, in order."""
    for start in range(0, len(keys), max_size):
        yield keys[start : start + max_size]


def read_each(
    depths: Mapping[str, Depth],
    read: Callable[[str, Depth], Record | None],
    parallel: int,
) -> dict[str, Record]:
    """Read records side by side; leave out those that cannot be read."""

    def read_one(item: tuple[str, Depth]) -> tuple[str, Record] | None:
        try:
            record = read(*item)
        except WorkspaceError:
            return None
        return None if record is None else (item[0], record)

    with ThreadExecutor(parallel) as threads:
        return dict(filter(None, threads.map(read_one, depths.items())))
