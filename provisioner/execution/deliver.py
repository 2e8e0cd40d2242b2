"""Tokens on their way: minted with the key's own end, proven, written, read back.

A token is held by nothing but this process until it is in its sinks. Whatever ends the run before
that loses no more than a token that nobody has: the next run mints another for the same key.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from glob import escape
from shlex import quote
from typing import TYPE_CHECKING

from provisioner.errors.exceptions import SinkError, WorkspaceError
from provisioner.errors.failure import Failure, failure_of
from provisioner.model.sink_address import CommandAddress
from provisioner.model.token_claims import claims_of
from provisioner.plan import SHORTER, Rotate
from provisioner.runtime.backoff import ROUNDS, growing
from provisioner.runtime.executor import Threads
from provisioner.runtime.log_context import bound
from provisioner.sinks.sink import Holds, Unread, failed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.plan import Action
    from provisioner.runtime.cancellation import Stop
    from provisioner.secret import Secret
    from provisioner.sinks.sink import Content, OpenSink, Sink
    from provisioner.twenty.workspace import Workspace


_LOG = logging.getLogger(__name__)

LONG = 2.0
"""Seconds on the way to its sinks after which a token is proven once more."""


_SETTLES = 2.0
"""Seconds after which a run that is about to end a key, its own or an older one, has done so."""

_YOUNG = timedelta(minutes=1)
"""For so long after its making the run that made a key may still be about to end another."""

_EXACT = timedelta(seconds=2)
"""How far two times of one sink may be apart for one write: each is corrected to the second."""

_WRITES = 4
"""Times that a token is written where other runs go on making newer keys of its name."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A key whose token is to reach some sinks.

    Attributes:
        name: of the key, unique in the environment.
        ends: of the key, as the workspace has it; its token ends then too.
        former: ids of keys whose tokens are kept where the sinks show them, to be proven dead.
        was: the end that the key had when the run looked, None where the run itself moves it.
        ends_others: whether the run ends other keys for it, or has them end earlier.
        again: what to do where the token does not arrive and no later run delivers it by itself;
            empty where the next run does.
    """

    name: str
    key_id: str
    ends: datetime
    sinks: tuple[Address, ...]
    former: tuple[str, ...] = ()
    was: datetime | None = None
    ends_others: bool = False
    again: str = ""


class Delivery:
    """The deliveries of one environment.

    Args:
        workspace: where tokens are minted.
        open_sink: opens the sink of an address.
        before: the ids of all keys that the workspace held when it was planned.
        parallel: deliveries at once.
        stop: once it is asked for, no delivery begins.
        begins: called with the name of each key whose delivery begins.
        settled: called with the name of each key whose delivery ended.
        long: seconds on the way to its sinks after which a token is proven once more.
    """

    def __init__(  # noqa: PLR0913 - what a delivery goes through
        self,
        workspace: Workspace,
        open_sink: OpenSink,
        before: frozenset[str],
        *,
        parallel: int,
        stop: Stop,
        begins: Callable[[str], None],
        settled: Callable[[str], None],
        long: float = LONG,
    ) -> None:
        self._long = long
        self._workspace = workspace
        self._open_sink = open_sink
        self._before = before
        self._parallel = parallel
        self._stop = stop
        self._begins = begins
        self._settled = settled
        self._in_flight: set[str] = set()
        self._ends: dict[str, Failure | None] = {}
        self._former: dict[str, Secret] = {}
        self._unread: dict[str, Parcel] = {}
        self._written: dict[Address, Unread] = {}

    def run(self, parcels: Sequence[Parcel]) -> None:
        """Delivers every parcel; one that fails does not keep another from arriving.

        A write to a sink that cannot be read counts when a look after it shows no newer key of the
        name: a slow write may have put an older token over the one that another run delivered.

        Raises:
            Exception: a bug that a parcel met, when all the others have ended.
        """
        self._each(self._one, parcels)
        for number in range(_WRITES):
            if not self._unread:
                break
            last = number == _WRITES - 1
            self._each(self._once_more, self._overtaken(last=last))

    def delivered(self, name: str) -> bool:
        """Whether the token of this key is in all sinks of its parcel."""
        return name in self._ends and self._ends[name] is None

    def former(self, key_id: str) -> Secret | None:
        """The token of a key that a sink held before, where one did."""
        return self._former.get(key_id)

    def failure(self, name: str, otherwise: Failure | None) -> Failure | None:
        """Why the token of this key is not in all sinks; `otherwise`, if any, while it is open."""
        why = self._ends.get(name)
        return otherwise or why if why is None or name in self._in_flight else why

    def _each(self, work: Callable[[Parcel], None], parcels: Sequence[Parcel]) -> None:
        if parcels:
            with Threads(self._parallel) as threads:
                works = [threads.submit(work, parcel) for parcel in parcels]
            for each in works:
                each.result()

    def _one(self, parcel: Parcel) -> None:
        if self._stop.asked:
            return
        self._begins(parcel.name)
        self._in_flight.add(parcel.name)
        self._ends[parcel.name] = in_flight(parcel.again)
        self._once_more(parcel)

    def _once_more(self, parcel: Parcel) -> None:
        with bound(key=parcel.name):
            failure = self._deliver(parcel)
        if failure is not None:
            self._unread.pop(parcel.name, None)
        if parcel.name not in self._unread:
            self._end(parcel, failure)

    def _end(self, parcel: Parcel, failure: Failure | None) -> None:
        self._ends[parcel.name] = failure
        self._in_flight.discard(parcel.name)
        self._settled(parcel.name)

    def _deliver(self, parcel: Parcel) -> Failure | None:
        """Mints the token and writes it to all sinks; the first that went wrong."""
        try:
            token = mint(self._workspace, parcel.key_id, parcel.ends)
        except WorkspaceError as error:
            return _advised(failure_of(error), parcel)
        minted = time.monotonic()
        failures = [self._write(address, token, parcel) for address in parcel.sinks]
        if time.monotonic() - minted > self._long and not any(failures):
            failures.append(self._still_good(token, parcel))
        return next(filter(None, failures), None)

    def _still_good(self, token: Secret, parcel: Parcel) -> Failure | None:
        """Why a token that took long to its sinks is good no more: another run ended its key."""
        if parcel.name in self._unread:
            return None  # the look that follows shows it, and what to deliver instead
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
            unread = _read_back(sink, address, token, parcel)
            if unread is not None:
                self._written[address] = unread
                self._unread[parcel.name] = parcel
        except SinkError as error:
            return _advised(failure_of(error), parcel)
        return None

    def _overtaken(self, *, last: bool) -> list[Parcel]:
        """Ends what no newer key overtook, and returns what to deliver in place of the rest.

        Args:
            last: whether nothing more is delivered.
        """
        parcels = tuple(self._unread.values())
        self._unread.clear()
        look = self._look()
        if look is not None and self._unsettled(parcels, look):
            self._stop.sleep(_SETTLES)
            look = self._look()
        again: list[Parcel] = []
        for parcel in parcels:
            key = None if look is None else key_to_deliver(look, self._before, parcel)
            if look is None:
                self._end(parcel, _not_settled(parcel))
            elif key is None:
                self._end(parcel, _ended(parcel))
            elif key.id == parcel.key_id and not self._written_over(parcel):
                self._end(parcel, None)
            elif last or not key.expires_at.microsecond:  # without the mark of a run
                self._end(parcel, _overtaken(parcel, key))
            else:
                _LOG.warning(
                    "%s: another run was at work while a token of %s was delivered; one of %s "
                    "is delivered in its place", parcel.name, parcel.key_id, key.id,
                )  # fmt: skip
                again.append(
                    replace(
                        parcel,
                        key_id=key.id,
                        ends=key.expires_at,
                        was=key.expires_at,
                        again=f"Run {_redelivery(parcel.name)}.",
                    )
                )
        return again

    def _unsettled(self, parcels: Sequence[Parcel], look: Observation) -> bool:
        """Whether the run that made a newer key may still be about to end it, or an older one."""
        since = look.server_time - _YOUNG
        ours = {parcel.name: parcel.key_id for parcel in parcels}
        return any(
            key.created_at > since and key.id != ours[key.name] and key.live(look.server_time)
            for key in look.keys
            if key.name in ours
        )

    def _written_over(self, parcel: Parcel) -> bool:
        """Whether a sink tells of a write after this run's, where other keys are to end."""
        if not parcel.ends_others:
            return False
        try:
            return any(
                _later(self._open_sink(address).read(), self._written[address])
                for address in parcel.sinks
                if address in self._written
            )
        except SinkError:
            return True

    def _look(self) -> Observation | None:
        """The workspace after the writes; None where it could not be looked at."""
        for rounds in range(ROUNDS):
            try:
                return self._workspace.observe()
            except WorkspaceError as error:
                _LOG.info("%s", failure_of(error).message)
            if self._stop.asked:
                break
            self._stop.sleep(growing(rounds))
        return None

    def _keep(self, content: Content, parcel: Parcel) -> None:
        """Keeps the token of a former key, if that is what the sink holds."""
        if isinstance(content, Holds):
            claims = claims_of(content.value)
            if claims is not None and claims.key in parcel.former:
                self._former[claims.key] = content.value


def key_to_deliver(look: Observation, before: frozenset[str], parcel: Parcel) -> ObservedKey | None:
    """Return the live key whose token the sinks of a parcel are to hold; None where none lives.

    Its own, unless another run made a newer key meanwhile, or a newer one took over: its own key
    ended, or was given an earlier end.

    Args:
        look: at the workspace, after the token was written.
        before: the ids of all keys that it held when the run was planned.
        parcel: what was delivered.
    """
    live = [key for key in look.keys if key.name == parcel.name and key.live(look.server_time)]
    own = next((key for key in live if key.id == parcel.key_id), None)
    newer = [key for key in live if own is None or key.seniority > own.seniority]
    if own is not None and (parcel.was is None or own.expires_at >= parcel.was):
        newer = [key for key in newer if key.id not in before]
    return max(newer, key=lambda key: key.seniority, default=own)


def again(action: Action) -> str:
    """Return what to do where a token does not arrive and the next run does not deliver it.

    Empty where the next run does, and for a rotation that ends the old key at once, whose failure
    says so itself.
    """
    if isinstance(action, Rotate) and action.reason == "asked":
        told = f"The old key stays: run `provision rotate {quote(action.name)}` again."
        return "" if action.at_once else told
    silent = (isinstance(one, CommandAddress) and not one.check for one in action.sinks)
    told = f"No later run can see that a sink has no token: run {_redelivery(action.name)}."
    return told if any(silent) else ""


def _later(now: Content, then: Unread) -> bool:
    """Whether a sink was written again, by its time as far as that is exact."""
    if not isinstance(now, Unread) or now.updated_at is None or then.updated_at is None:
        return False
    return now.updated_at - then.updated_at > _EXACT


def in_flight(again: str) -> Failure:
    """Return why a token is not delivered that was on its way when the run had to end."""
    return Failure(
        "not_delivered",
        "The key is made, and the run had to end while its token was being delivered. "
        f"{again or 'The next run delivers it.'}",
    )


def _redelivery(name: str) -> str:
    return f"`provision apply --redeliver --only {quote(escape(name))}`"


def _advised(failure: Failure, parcel: Parcel) -> Failure:
    """The failure, with what to do where the next run does not make up for it."""
    if not parcel.again:
        return failure
    return Failure(failure.code, f"{failure.message} {parcel.again}")


def _not_settled(parcel: Parcel) -> Failure:
    return Failure(
        "not_settled",
        f"The token of {parcel.name!r} was written, and the workspace could not be looked at "
        "afterwards: another run may have delivered a newer key. Run "
        f"{_redelivery(parcel.name)}.",
    )


def _ended(parcel: Parcel) -> Failure:
    return Failure(
        "token_refused",
        f"The key {parcel.key_id} of {parcel.name!r} was ended while its token was being "
        "delivered. Run again.",
    )


def _overtaken(parcel: Parcel, newest: ObservedKey) -> Failure:
    return Failure(
        "not_settled",
        f"While a token of {parcel.name!r} was being delivered, someone made the newer key "
        f"{newest.id}. Revoke the one that is not wanted, then run {_redelivery(parcel.name)}.",
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


def _read_back(sink: Sink, address: Address, token: Secret, parcel: Parcel) -> Unread | None:
    """Reads what was written, where that is possible; what the sink tells where it is not.

    Another run's token of the same key is as good.
    """
    match sink.read():
        case Unread() as unread:
            return unread
        case Holds(value=value) if value.reveal() == token.reveal() or good(
            value, parcel.key_id, parcel.ends
        ):
            return None
        case _:
            raise failed(
                "sink_failed",
                f"{address} took the token, and does not hold it when it is read back.",
                "Look for what else writes there, and run again.",
            )
