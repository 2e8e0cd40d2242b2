"""Bulk creates: requests for groups of keys side by side, until a stop, a refusal or silence."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.model.workspace import NotCreated, NotSent, Unknown
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import ThreadExecutor
from provisioner.runtime.log_context import bind, extra
from provisioner.twenty.transport import LostAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from provisioner.model.workspace import CreateObserver, NewKey, Outcome
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.client import Client

    Group = tuple[NewKey, ...]  # the keys of one request

_Item = TypeVar("_Item")

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
        Code.CREDITS_SPENT,
        Code.PERMISSION_DENIED,
        Code.SANDBOX_UNUSABLE,
        Code.SESSION_REQUIRED,
        Code.SIGN_IN_FAILED,
        Code.TLS_FAILED,
    }
)


@dataclass(eq=False)
class Dispatcher(ABC):
    """One bulk create: sends groups of keys, and reports the outcome of each key.

    It stops sending to a server that loses several answers in a row, since the caller checks first
    what exists. It also stops after the credential is refused, since more refusals may lock it out.

    Attributes:
        client: to send with.
        parallel: groups in flight at once.
        observer: receives the outcome of every key.
    """

    client: Client
    parallel: int
    observer: CreateObserver
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _lost_in_a_row: int = field(default=0, init=False)
    _max_group: int | None = field(default=None, init=False)
    _refused: NotCreated | None = field(default=None, init=False)
    _silent: NotSent | None = field(default=None, init=False)

    @abstractmethod
    def _request(self, group: Group) -> Answer:
        """Send the request that creates a group, once.

        Raises:
            LostAnswerError: the keys may be created.
            WorkspaceError: nothing was sent.
        """

    @abstractmethod
    def _on_answer(self, group: Group, answer: Answer) -> None:
        """Report the outcome of each key of a group, or send the group again in parts."""

    def send_groups(self, groups: Iterable[Group]) -> None:
        """Send several groups side by side."""
        with ThreadExecutor(self.parallel) as threads:
            for _ in threads.map(self.send, groups):
                pass

    def send(self, group: Group) -> None:
        """Send one group, in parts if it is too large, unless sending has stopped."""
        for part in split(group, self._max_group or len(group)):
            unsent = self._refused or self._silent
            if self._refused is None and self.client.transport.stop.requested:
                unsent = NotSent(STOPPED)
            if unsent is not None:
                self.report(part, unsent)
                continue
            for key in part:
                self.observer.on_send(key)
            # A request of several keys is about none of them in particular.
            with bind(key=part[0].name) if len(part) == 1 else nullcontext():
                self._exchange(part)

    def send_halves(self, group: Group) -> None:
        """Send the two halves of a group of several keys."""
        middle = len(group) // 2
        self.send(group[:middle])
        self.send(group[middle:])

    def report(self, group: Group, outcome: Outcome) -> None:
        """Report one outcome for all keys of a group; stop sending if others would share it."""
        if isinstance(outcome, NotSent):
            self._silent = outcome
        elif isinstance(outcome, NotCreated) and outcome.failure.code in _SAME_FOR_ALL:
            self._refused = outcome
        for key in group:
            self.observer.on_outcome(key, outcome)

    def _exchange(self, group: Group) -> None:
        try:
            answer = self._request(group)
        except LostAnswerError as error:
            self._count(lost=True)
            self.report(group, Unknown(error.failure))
        except WorkspaceError as error:
            self.report(group, outcome_unsent(error))
        else:
            self._count(lost=answer.lost)
            if answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and len(group) > 1:
                self._limit_size(len(group))
                self.send_halves(group)
            else:
                self._on_answer(group, answer)

    def _count(self, *, lost: bool) -> None:
        """Count the answers that were lost in a row, and stop sending if there are too many."""
        with self._lock:
            self._lost_in_a_row = self._lost_in_a_row + 1 if lost else 0
            if self._lost_in_a_row >= max(_MAX_LOST, 2 * self.parallel):
                self._silent = NotSent(
                    Failure(
                        Code.SERVER_ERROR,
                        f"{self._lost_in_a_row} responses in a row from {self.client.environment} "
                        "were lost, so this key was not sent.",
                        "Run the command again; if it fails again, check the server's log.",
                    )
                )

    def _limit_size(self, too_many: int) -> None:
        """Send no request with so many keys again."""
        with self._lock:
            first = self._max_group is None
            self._max_group = min(self._max_group or too_many, (too_many + 1) // 2)
        if first:
            name = self.client.environment
            message = (
                "%s or a proxy in front of it does not accept requests with %d keys; sending "
                "fewer keys per request"
            )
            _LOG.warning(message, name, too_many, extra=extra(environment=name))


def outcome_unsent(error: WorkspaceError) -> NotSent | NotCreated:
    """Return the outcome of keys that an error kept from being sent."""
    return (NotSent if error.code in _TRANSIENT else NotCreated)(error.failure)


def batches(keys: Sequence[NewKey], max_size: int, *, one_depth: bool) -> Iterator[Group]:
    """Yield the groups to send: keys with as many tries, and of one depth if so required."""
    groups: dict[tuple[int, int], list[NewKey]] = {}
    for key in keys:
        groups.setdefault((key.depth if one_depth else 0, key.tries), []).append(key)
    for (_, tries), group in sorted(groups.items()):
        yield from split(tuple(group), batch_size(max_size, tries))


def batch_size(max_size: int, tries: int) -> int:
    """Return how many keys may share a request after so many tries: fewer each time, finally one.

    So a key that always fails does not keep the others from being created.
    """
    return max(1, max_size >> (2 * tries))


def split(items: tuple[_Item, ...], max_size: int) -> Iterator[tuple[_Item, ...]]:
    """Yield groups of at most `max_size` items, in order."""
    for start in range(0, len(items), max_size):
        yield items[start : start + max_size]
