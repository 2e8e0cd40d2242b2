"""Tells servers and programs about a run, each once more if it does not answer.

Nothing here raises, and nothing takes longer than a limit: a message that cannot be delivered is a
failure to report, and the run is what it was.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, assert_never
from urllib.parse import urlsplit

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import SinkError
from provisioner.errors.failure import Failure
from provisioner.http_client.client import HttpClient
from provisioner.http_client.exchange import NoAnswer, Route, ca_path_of
from provisioner.http_client.network import Network
from provisioner.model.notify import HttpTarget, ProgramTarget, UnusableTarget
from provisioner.runtime.process import Processes
from provisioner.secret import Secret
from provisioner.sinks.command import CommandAddress, Commands, CommandSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from provisioner.http_client.exchange import HttpAnswer
    from provisioner.model.notify import NotifyTarget
    from provisioner.runtime.cancellation import Cancellation

_LOG = logging.getLogger(__name__)

_TIMEOUTS = (5.0, 10.0)
"""Seconds to connect, and for the whole answer."""

_PROGRAM_TIMEOUT = 30.0
_DELAY = 1.0
"""Seconds before the second attempt."""

_LIMIT = 30.0
"""Seconds for all targets together, which are told at the same time."""

_LIMIT_AFTER_STOP = 2.0
"""Seconds that are left after a signal; GitHub kills a cancelled job ten seconds after it."""

_MAX_ANSWER = 1024 * 1024


class Notifier:
    """Tells the targets of one run.

    Args:
        root: the folder that programs run in.
        stop: ends every wait soon.
        limit: seconds for all targets together.
        delay: seconds before the second attempt.
    """

    def __init__(
        self, root: Path, stop: Cancellation, limit: float = _LIMIT, delay: float = _DELAY
    ) -> None:
        self._commands = Commands(root, Processes(), _PROGRAM_TIMEOUT)
        self._stop = stop
        self._limit, self._delay = limit, delay
        self._network = Network()
        self._over = threading.Event()

    def check(self, targets: Iterable[NotifyTarget]) -> tuple[Failure, ...]:
        """Return why targets cannot be told, as far as that is known without telling them."""
        found = []
        for target in targets:
            match target:
                case UnusableTarget(failure=failure):
                    found.append(failure)
                case ProgramTarget():
                    try:
                        self._program(target).check()
                    except SinkError as error:
                        found.append(Failure(Code.NOT_NOTIFIED, error.failure.text))
                case HttpTarget():
                    pass
                case _:
                    assert_never(target)
        return tuple(found)

    def tell(
        self, targets: Iterable[NotifyTarget], document: object, slack: object
    ) -> tuple[Failure, ...]:
        """Tell all targets at once, and return why some could not be told.

        Args:
            targets: who is told.
            document: the JSON for webhooks and programs, without secrets.
            slack: the JSON for Slack, without secrets.
        """
        told = {
            _in_thread(self._tell, target, slack if _takes_text(target) else document): target
            for target in targets
        }
        self._stop.wait_for(tuple(told), graceful=False, timeout=self._limit)
        if self._stop.requested:
            wait(told, timeout=_LIMIT_AFTER_STOP)
        results = [_result(future, target) for future, target in told.items()]
        self._over.set()
        self._commands.processes.close()
        return tuple(one for one in results if one is not None)

    def _tell(self, target: NotifyTarget, document: object) -> Failure | None:
        match target:
            case UnusableTarget(failure=failure):
                return failure
            case HttpTarget():
                return self._post(target, document)
            case ProgramTarget():
                try:
                    self._program(target).write(Secret.received(json.dumps(document)))
                except SinkError as error:
                    return Failure(Code.NOT_NOTIFIED, error.failure.text)
                return None
            case _:
                assert_never(target)

    def _program(self, target: ProgramTarget) -> CommandSink:
        return CommandSink(CommandAddress(target.argv), self._commands)

    def _post(self, target: HttpTarget, document: object) -> Failure | None:
        parts = urlsplit(target.url.reveal())
        route = Route(f"{parts.scheme}://{parts.netloc}", ca_path_of(os.environ))
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        client = HttpClient(route, {}, 1, network=self._network)
        try:
            received = client.request(
                "POST", path, body=document, timeout=_TIMEOUTS, max_bytes=_MAX_ANSWER
            )
            if _is_transient(received) and not self._over.wait(self._delay):
                received = client.request(
                    "POST", path, body=document, timeout=_TIMEOUTS, max_bytes=_MAX_ANSWER
                )
        finally:
            client.close()
        if isinstance(received, NoAnswer):
            return _failure(target, received.reason)
        _LOG.info("told %s: %d", target, received.status)
        if not 200 <= received.status < 300:  # noqa: PLR2004 - the statuses of success
            return _failure(target, f"it responded with HTTP status {received.status}")
        return None


def _takes_text(target: NotifyTarget) -> bool:
    return isinstance(target, HttpTarget) and target.kind == "slack"


def _is_transient(received: HttpAnswer | NoAnswer) -> bool:
    if isinstance(received, NoAnswer):
        return not received.lasting
    return received.status == 429 or received.status >= 500  # noqa: PLR2004 - throttled, or broken


def _failure(target: NotifyTarget, reason: str) -> Failure:
    return Failure(Code.NOT_NOTIFIED, f"{target} was not told: {reason}.")


def _in_thread(
    tell: Callable[[NotifyTarget, object], Failure | None], target: NotifyTarget, document: object
) -> Future[Failure | None]:
    """Return the result of a call in a thread that does not keep the process alive."""
    future: Future[Failure | None] = Future()

    def run() -> None:
        try:
            future.set_result(tell(target, document))
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _result(future: Future[Failure | None], target: NotifyTarget) -> Failure | None:
    if not future.done():
        return _failure(target, "it did not answer in time")
    error = future.exception()
    if error is not None:
        return _failure(target, f"an internal error ({type(error).__name__}) prevented it")
    return future.result()
