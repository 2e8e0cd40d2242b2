"""A Dask cluster: its workers call functions of bytes; a function that writes at most once.

If a worker dies, Dask makes its calls again on another one, even calls that had returned, and no
setting forbids that. So a call that writes needs a ticket: the worker takes it from the scheduler
before the call, and without it the function is not called.
"""

from __future__ import annotations

import logging
import threading
import uuid
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from provisioner.runtime.cancellation import Cancellation
from provisioner.runtime.source import extra_remedy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client

    Work = Callable[[bytes, Cancellation], bytes]

T = TypeVar("T")

_CONNECT_SECONDS = 30
_DISCONNECTED = (OSError, RuntimeError)
"""What Dask raises once the scheduler is gone, and after a timeout."""

_CHECK = "Check --executor, and that the scheduler and its workers are running."

_STOP_SECONDS = 0.5
"""Seconds after which a worker notices that the run was stopped."""


class ClusterError(Exception):
    """A cluster that cannot be used; the message is a clause about it.

    Args:
        clause: the clause.
        remedy: the advice, as a sentence.
    """

    def __init__(self, clause: str, remedy: str = _CHECK) -> None:
        super().__init__(clause)
        self.remedy = remedy


class Cluster:
    """The workers of a Dask cluster, for one run.

    Args:
        address: `HOST:PORT` of the scheduler, with a protocol in front if it is not Dask's default.

    Raises:
        ClusterError: if Dask is not installed, or the cluster cannot be reached or has no workers.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client  # noqa: PLC0415 - an extra that takes a second to import
        except ImportError:
            clause = "needs the library Dask, which is not installed"
            raise ClusterError(clause, extra_remedy("dask")) from None
        # Its own handler would write lines past our format and masks.
        dask_log = logging.getLogger("distributed")
        dask_log.handlers.clear()
        dask_log.propagate = True
        try:
            self._client: Client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterError(f"cannot be reached ({type(error).__name__})") from None
        try:
            self._client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        except TimeoutError:
            self._client.close()
            raise ClusterError("has no workers") from None
        self._executor = self._client.get_executor(pure=False, retries=0)
        self._stopped = _unique_name()
        self._calls: set[Future[bytes | None]] = set()
        self._abandoned = False

    def submit(
        self,
        work: Work,
        value: bytes,
        then: Callable[[bytes | str], T],
        ticket: Ticket | None = None,
    ) -> Future[T]:
        """Call a function on a worker.

        Args:
            work: takes bytes and a stop, and returns bytes.
            value: the bytes.
            then: called here with the result, or with a clause that says why there is none.
            ticket: for a function that must not be called twice.

        Returns:
            The result of `then`. If it is cancelled, `then` is not called, but the function may be.
        """
        outcome: Future[T] = Future()

        def arrived(future: Future[bytes | None]) -> None:
            self._calls.discard(future)
            if not outcome.set_running_or_notify_cancel():
                return
            try:
                outcome.set_result(then(_result(future)))
            except Exception as error:  # noqa: BLE001 - the future hands it on
                outcome.set_exception(error)

        name = None if ticket is None else ticket.name
        call = partial(_call, work, value, self._stopped, name)
        may_send = not self._abandoned and (ticket is None or ticket.issued)
        future = self._send(call) if may_send else _cancelled()
        self._calls.add(future)
        future.add_done_callback(arrived)
        return outcome

    def ticket(self) -> Ticket:
        """Return a new ticket, for one call."""
        return Ticket(self._client)

    def has_workers(self) -> bool:
        """Return whether a worker is connected."""
        try:
            return bool(self._client.nthreads())
        except _DISCONNECTED:
            return False

    def abandon(self) -> None:
        """Give up all calls, and send no more."""
        self._abandoned = True
        for future in tuple(self._calls):
            future.cancel()

    def stop(self) -> None:
        """Request all calls of this run to stop."""
        from distributed import Event  # noqa: PLC0415 - as above

        with suppress(*_DISCONNECTED):
            Event(self._stopped, client=self._client).set()

    def close(self) -> None:
        """Cancel calls that have not started, leave the others behind, and disconnect."""
        with suppress(*_DISCONNECTED):
            self._executor.shutdown(wait=False)
            self._client.close()

    def _send(self, call: Callable[[], bytes | None]) -> Future[bytes | None]:
        with suppress(*_DISCONNECTED):
            sent: Future[bytes | None] = self._executor.submit(call)
            return sent
        return _cancelled()


class Ticket:
    """The right to make one call: a queue of one entry, which the scheduler keeps.

    The worker takes the entry out before it makes the call, or the run does, to withdraw it.

    Attributes:
        issued: False if the scheduler could not be reached; then no call is made.
    """

    def __init__(self, client: Client) -> None:
        from distributed import Queue  # noqa: PLC0415 - as above

        self.name = _unique_name()
        self.issued = self._withdrawn = False
        with suppress(*_DISCONNECTED):
            self._queue = Queue(self.name, client=client)
            self._queue.put(1)
            self.issued = True

    def withdraw(self) -> bool:
        """Return True if the call was not made, and from now on cannot be."""
        # Otherwise, or if the scheduler does not answer or lost the queue, it may have been made.
        with suppress(*_DISCONNECTED, KeyError):
            self._withdrawn |= not self.issued or bool(self._queue.get(batch=True))
        return self._withdrawn

    def close(self) -> None:
        """Forget the ticket."""
        if self.issued:
            self._queue.close()


def _unique_name() -> str:
    return f"provision-{uuid.uuid4().hex}"


def _cancelled() -> Future[bytes | None]:
    future: Future[bytes | None] = Future()
    future.cancel()
    return future


def _result(future: Future[bytes | None]) -> bytes | str:
    """Return the result of a call, or a clause that says why there is none."""
    if future.cancelled():
        return "the cluster gave it up"
    match future.exception():
        case None:
            return future.result() or "its worker was lost"
        case ClusterError() as error:
            return str(error)
        case error if type(error).__name__ == "KilledWorker":
            return "its worker was lost"
        case error:
            return f"its worker failed ({type(error).__name__})"


def _call(work: Work, value: bytes, stopped: str, ticket: str | None) -> bytes | None:
    """Call a function, on a worker; return None if its ticket was taken before."""
    if ticket is not None and not _take(ticket):
        return None
    with _stop_of(stopped) as stop:
        return work(value, stop)


def _take(ticket: str) -> bool:
    """Take a ticket, on a worker; return False if it was taken before."""
    from distributed import Queue  # noqa: PLC0415 - as above

    # If the run has closed the queue, this creates an empty one.
    queue = Queue(ticket)
    try:
        return bool(queue.get(batch=True))
    finally:
        queue.close()


@contextmanager
def _stop_of(name: str) -> Iterator[Cancellation]:
    """Yield a cancellation that is requested soon after the run was stopped."""
    from distributed import Event, get_client  # noqa: PLC0415 - as above

    stop, ended = Cancellation(), threading.Event()
    event = Event(name, client=get_client())
    if event.is_set():
        stop.request()

    def watch() -> None:
        while not ended.wait(_STOP_SECONDS):
            if event.is_set():
                stop.request()
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield stop
    finally:
        ended.set()
