"""Tokens on their way: minted with the key's own end, proven, written, read back.

A token is held by nothing but this process until it is in its sinks. Whatever ends the run before
that loses no more than a token that nobody has: the next run mints another for the same key.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from glob import escape
from shlex import quote
from typing import TYPE_CHECKING

from provisioner.address import CommandAddress
from provisioner.errors import SinkError, WorkspaceError
from provisioner.failure import Failure, failure_of
from provisioner.plan import SHORTER
from provisioner.sinks.sink import Holds, Unread, failed
from provisioner.subject import bound
from provisioner.threads import Threads
from provisioner.token import claims_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from provisioner.address import Address
    from provisioner.secret import Secret
    from provisioner.sinks.sink import Content, OpenSink, Sink
    from provisioner.stop import Stop
    from provisioner.twenty.workspace import Workspace


_LONG = 2.0
"""Seconds on the way to its sinks after which a token is proven once more."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A key whose token is to reach some sinks.

    Attributes:
        name: of the key, unique in the environment.
        ends: of the key, as the workspace has it; its token ends then too.
        former: ids of keys whose tokens are kept where the sinks show them, to be proven dead.
    """

    name: str
    key_id: str
    ends: datetime
    sinks: tuple[Address, ...]
    former: tuple[str, ...] = ()


class Delivery:
    """The deliveries of one environment.

    Args:
        workspace: where tokens are minted.
        open_sink: opens the sink of an address.
        parallel: deliveries at once.
        stop: once it is asked for, no delivery begins.
        begins: called with the name of each key whose delivery begins.
        settled: called with the name of each key whose delivery ended.
    """

    def __init__(  # noqa: PLR0913 - what a delivery goes through
        self,
        workspace: Workspace,
        open_sink: OpenSink,
        parallel: int,
        stop: Stop,
        *,
        begins: Callable[[str], None],
        settled: Callable[[str], None],
    ) -> None:
        self._workspace = workspace
        self._open_sink = open_sink
        self._parallel = parallel
        self._stop = stop
        self._begins = begins
        self._settled = settled
        self._ends: dict[str, Failure | None] = {}
        self._former: dict[str, Secret] = {}

    def run(self, parcels: Sequence[Parcel]) -> None:
        """Delivers every parcel; one that fails does not keep another from arriving.

        Raises:
            Exception: a bug that a parcel met, when all the others have ended.
        """
        if parcels:
            with Threads(self._parallel) as threads:
                works = [threads.submit(self._one, parcel) for parcel in parcels]
            for work in works:
                work.result()

    def delivered(self, name: str) -> bool:
        """Whether the token of this key is in all sinks of its parcel."""
        return name in self._ends and self._ends[name] is None

    def former(self, key_id: str) -> Secret | None:
        """The token of a key that a sink held before, where one did."""
        return self._former.get(key_id)

    def failure(self, name: str, otherwise: Failure | None) -> Failure | None:
        """Why the token of this key is not in all sinks; `otherwise`, if any, while it is open."""
        why = self._ends.get(name)
        return otherwise or why if why in (None, _IN_FLIGHT) else why

    def _one(self, parcel: Parcel) -> None:
        if self._stop.asked:
            return
        self._begins(parcel.name)
        self._ends[parcel.name] = _IN_FLIGHT
        with bound(key=parcel.name):
            self._ends[parcel.name] = self._deliver(parcel)
        self._settled(parcel.name)

    def _deliver(self, parcel: Parcel) -> Failure | None:
        """Mints the token and writes it to all sinks; the first that went wrong."""
        try:
            token = mint(self._workspace, parcel.key_id, parcel.ends)
        except WorkspaceError as error:
            return failure_of(error)
        minted = time.monotonic()
        failures = [self._write(address, token, parcel) for address in parcel.sinks]
        if time.monotonic() - minted > _LONG and not any(failures):
            failures.append(self._still_good(token, parcel))
        return next(filter(None, failures), None)

    def _still_good(self, token: Secret, parcel: Parcel) -> Failure | None:
        """Why a token that took long to its sinks is good no more: another run ended its key."""
        try:
            self._workspace.prove(token)
        except WorkspaceError as error:
            if error.slug == "token_refused":
                return Failure(
                    error.slug,
                    f"The token of {parcel.name!r} took long to its sinks, and the server does not "
                    "accept it any more: another run ended its key meanwhile. Run again.",
                )
        return None

    def _write(self, address: Address, token: Secret, parcel: Parcel) -> Failure | None:
        """Writes to one sink and reads it back."""
        try:
            sink = self._open_sink(address)
            if parcel.former:
                self._keep(sink.read(), parcel)
            sink.write(token)
            _read_back(sink, address, token, parcel)
        except SinkError as error:
            silent = isinstance(address, CommandAddress) and not address.check
            return _unseen(failure_of(error), parcel) if silent else failure_of(error)
        return None

    def _keep(self, content: Content, parcel: Parcel) -> None:
        """Keeps the token of a former key, if that is what the sink holds."""
        if isinstance(content, Holds):
            claims = claims_of(content.value)
            if claims is not None and claims.key in parcel.former:
                self._former[claims.key] = content.value


def _unseen(failure: Failure, parcel: Parcel) -> Failure:
    again = f"--redeliver --only {quote(escape(parcel.name))}"
    return Failure(
        failure.code,
        f"{failure.message} No later run can see that this sink has no token: run "
        f"`provision apply {again}`.",
    )


def mint(workspace: Workspace, key_id: str, ends: datetime) -> Secret:
    """A token of a live key that the server has been seen to accept.

    Args:
        workspace: of the key.
        key_id: the key.
        ends: when the token is to end.

    Raises:
        WorkspaceError: when none was minted, or when the one that was does not work.
    """
    token = workspace.mint(key_id, ends)
    if not good(token, key_id, ends):
        raise WorkspaceError(
            "token_refused",
            f"The token that was minted for the key {key_id} does not say that it is for this key "
            "until its end.",
            remedy="Nothing was delivered; look at the key in Twenty itself.",
        )
    workspace.prove(token)
    return token


def good(token: Secret, key_id: str, ends: datetime) -> bool:
    """Whether a token says that it is for this key, until the key's end."""
    claims = claims_of(token)
    if claims is None or (claims.key or "").lower() != key_id.lower():
        return False
    return claims.ends is None or claims.ends >= ends - SHORTER


def _read_back(sink: Sink, address: Address, token: Secret, parcel: Parcel) -> None:
    """Reads what was written; another run's token of the same key is as good."""
    match sink.read():
        case Unread():
            return
        case Holds(value=value) if value.reveal() == token.reveal() or good(
            value, parcel.key_id, parcel.ends
        ):
            return
        case _:
            raise failed(
                "sink_failed",
                f"{address} took the token, and does not hold it when it is read back.",
                "Look for what else writes there, and run again.",
            )


_IN_FLIGHT = Failure(
    "not_delivered",
    "The key is made, and the run had to end while its token was being delivered. The next run "
    "delivers it.",
)
