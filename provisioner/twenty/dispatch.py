"""Requests side by side: groups of keys to create, until a stop or silence, and single reads."""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING

from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure, failure_of
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import ThreadExecutor
from provisioner.runtime.log_context import bind, extra
from provisioner.twenty.workspace import NotCreated, NotSent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from provisioner.model.key import Depth
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.twenty.workspace import CreateObserver, NewKey, Outcome, Record

    Group = tuple[NewKey, ...]  # the keys of one request

_LOG = logging.getLogger(__name__)

_SILENT = 4
"""So many lost answers in a row, or two for each thread, are no accident."""

# Nothing reached the server, or nothing but a sign-in, and a later try may fare better.
_PASSING = frozenset({"unreachable", "stopped", "timeout", "connection_lost", "server_error"})


# What is refused to a credential or a connection is refused to every key.
_OF_ALL = frozenset(
    {
        "credential_expired",
        "credential_invalid",
        "credential_missing",
        "credential_revoked",
        "permission_denied",
        "sandbox_unusable",
        "session_required",
        "sign_in_failed",
        "tls_failed",
    }
)


class Dispatcher:
    """Sends the groups of one bulk create.

    A server that loses answer after answer is not sent the rest: whoever creates looks first. Nor
    is one that turned the credential down, which many refusals might lock out.

    Args:
        environment: its name, for messages.
        parallel: groups in flight at once.
        stop: once it is asked for, no group begins.
        observer: is told what is not sent.
    """

    def __init__(
        self, environment: str, parallel: int, stop: Cancellation, observer: CreateObserver
    ) -> None:
        self._environment = environment
        self._parallel = parallel
        self._stop = stop
        self._observer = observer
        self._lock = threading.Lock()
        self._lost = 0
        self._most: int | None = None
        self._silence: Failure | None = None
        self._refusal: Failure | None = None

    def all(self, groups: Iterable[Group], send: Callable[[Group], None]) -> None:
        """Sends every group; `send` tells the ledger of each of its keys."""
        with ThreadExecutor(self._parallel) as threads:
            for _ in threads.map(lambda group: self.one(group, send), groups):
                pass

    def one(self, group: Group, send: Callable[[Group], None]) -> None:
        """Send one group, in parts where it is too large, unless nothing is to be sent any more."""
        for part in split(group, self._most or len(group)):
            self._one(part, send)

    def halves(self, group: Group, send: Callable[[Group], None]) -> None:
        """Send the two halves of a group of several keys."""
        middle = len(group) // 2
        for half in (group[:middle], group[middle:]):
            self.one(half, send)

    def too_large(self, group: Group, send: Callable[[Group], None]) -> None:
        """Send the halves of a group whose request was too large, and never so many keys again."""
        with self._lock:
            first = self._most is None
            self._most = min(self._most or len(group), (len(group) + 1) // 2)
        if first:
            words = (
                "%s or a proxy in front of it takes no request of %d keys; sending fewer at once"
            )
            about = extra(environment=self._environment)
            _LOG.warning(words, self._environment, len(group), extra=about)
        self.halves(group, send)

    def _one(self, group: Group, send: Callable[[Group], None]) -> None:
        if (outcome := self._in_vain()) is not None:
            for key in group:
                self._observer.on_outcome(key, outcome)
            return
        for key in group:
            self._observer.on_send(key)
        # Of several keys in one request no line is about one of them.
        with bind(key=group[0].name) if len(group) == 1 else nullcontext():
            send(group)

    def _in_vain(self) -> Outcome | None:
        """The outcome of keys that need not be sent any more."""
        if self._refusal is not None:
            return NotCreated(self._refusal)
        reason = STOPPED if self._stop.asked else self._silence
        return None if reason is None else NotSent(reason)

    def heard(self) -> None:
        """The server answered, whatever it said."""
        with self._lock:
            self._lost = 0

    def lost(self) -> None:
        """An answer of the server was lost."""
        with self._lock:
            self._lost += 1
            if self._lost >= max(_SILENT, 2 * self._parallel):
                self._silence = Failure(
                    "server_error",
                    f"{self._environment} lost {self._lost} answers in a row, so this key was "
                    "not sent. Run again; if it stays, look into the server's log.",
                )

    def refused(self, why: Failure) -> None:
        """The server refused a key; where it did so for the credential, none is sent any more."""
        if why.code in _OF_ALL:
            self._refusal = why

    def never_arrived(self, error: WorkspaceError) -> NotSent | NotCreated:
        """The outcome of keys whose request was not sent at all, and the silence that follows."""
        outcome = unsent(error)
        if isinstance(outcome, NotSent):
            with self._lock:
                self._silence = outcome.failure
        else:
            self.refused(outcome.failure)
        return outcome


def unsent(error: WorkspaceError) -> NotSent | NotCreated:
    """The outcome of keys that an error kept from being sent: whether a later try may help."""
    failure = failure_of(error)
    return NotSent(failure) if error.code in _PASSING else NotCreated(failure)


def batch_size(most: int, tries: int) -> int:
    """How many keys may share a request when they were tried so often: ever fewer, in the end one.

    So that a key that always fails does not keep the others from being made.
    """
    return max(1, most >> (2 * tries))


def split(keys: Group, most: int) -> Iterator[Group]:
    """Groups of at most so many keys, in order."""
    for start in range(0, len(keys), most):
        yield keys[start : start + most]


def read_each(
    wanted: Mapping[str, Depth],
    read: Callable[[str, Depth], Record | None],
    parallel: int,
) -> dict[str, Record]:
    """Reads records side by side; without those that could not be read."""

    def one(item: tuple[str, Depth]) -> tuple[str, Record] | None:
        try:
            record = read(*item)
        except WorkspaceError:
            return None
        return None if record is None else (item[0], record)

    with ThreadExecutor(parallel) as threads:
        return dict(filter(None, threads.map(one, wanted.items())))
