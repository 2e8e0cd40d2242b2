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
from provisioner.runtime.backoff import MAX_ATTEMPTS, delay
from provisioner.runtime.executor import ThreadExecutor
from provisioner.runtime.log_context import bind
from provisioner.sinks.sink import StoredValue, WriteOnly, sink_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.plan import Action
    from provisioner.runtime.cancellation import Cancellation
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
class TokenDelivery:
    """A key whose token is to reach some sinks.

    Attributes:
        name: of the key, unique in the environment.
        expires_at: of the key, as the workspace has it; its token ends then too.
        former: ids of keys whose tokens are kept where the sinks show them, to be proven dead.
        was: the end that the key had when the run looked, None where the run itself moves it.
        ends_others: whether the run ends other keys for it, or has them end earlier.
        again: what to do where the token does not arrive and no later run delivers it by itself;
            empty where the next run does.
    """

    name: str
    key_id: str
    expires_at: datetime
    sinks: tuple[Address, ...]
    former: tuple[str, ...] = ()
    was: datetime | None = None
    ends_others: bool = False
    again: str = ""


class TokenDeliveries:
    """The deliveries of one environment.

    Args:
        workspace: where tokens are minted.
        open_sink: opens the sink of an address.
        before: the ids of all keys that the workspace held when it was planned.
        parallel: deliveries at once.
        stop: once it is asked for, no delivery begins.
        on_start: called with the name of each key whose delivery begins.
        on_progress: called with the name of each key whose delivery ended.
        long: seconds on the way to its sinks after which a token is proven once more.
    """

    def __init__(  # noqa: PLR0913 - what a delivery goes through
        self,
        workspace: Workspace,
        open_sink: OpenSink,
        before: frozenset[str],
        *,
        parallel: int,
        stop: Cancellation,
        on_start: Callable[[str], None],
        on_progress: Callable[[str], None],
        long: float = LONG,
    ) -> None:
        self._long = long
        self._workspace = workspace
        self._open_sink = open_sink
        self._before = before
        self._parallel = parallel
        self._stop = stop
        self._on_start = on_start
        self._on_progress = on_progress
        self._in_flight: set[str] = set()
        self._outcomes: dict[str, Failure | None] = {}
        self._former: dict[str, Secret] = {}
        self._unread: dict[str, TokenDelivery] = {}
        self._written: dict[Address, WriteOnly] = {}

    def run(self, deliveries: Sequence[TokenDelivery]) -> None:
        """Delivers every parcel; one that fails does not keep another from arriving.

        A write to a sink that cannot be read counts when a look after it shows no newer key of the
        name: a slow write may have put an older token over the one that another run delivered.

        Raises:
            Exception: a bug that a parcel met, when all the others have ended.
        """
        self._each(self._one, deliveries)
        for number in range(_WRITES):
            if not self._unread:
                break
            last = number == _WRITES - 1
            self._each(self._once_more, self._overtaken(last=last))

    def delivered(self, name: str) -> bool:
        """Whether the token of this key is in all sinks of its parcel."""
        return name in self._outcomes and self._outcomes[name] is None

    def former(self, key_id: str) -> Secret | None:
        """The token of a key that a sink held before, where one did."""
        return self._former.get(key_id)

    def failure(self, name: str, otherwise: Failure | None) -> Failure | None:
        """Why the token of this key is not in all sinks; `otherwise`, if any, while it is open."""
        why = self._outcomes.get(name)
        return otherwise or why if why is None or name in self._in_flight else why

    def _each(
        self, work: Callable[[TokenDelivery], None], deliveries: Sequence[TokenDelivery]
    ) -> None:
        if deliveries:
            with ThreadExecutor(self._parallel) as threads:
                works = [threads.submit(work, delivery) for delivery in deliveries]
            for each in works:
                each.result()

    def _one(self, delivery: TokenDelivery) -> None:
        if self._stop.asked:
            return
        self._on_start(delivery.name)
        self._in_flight.add(delivery.name)
        self._outcomes[delivery.name] = in_flight(delivery.again)
        self._once_more(delivery)

    def _once_more(self, delivery: TokenDelivery) -> None:
        with bind(key=delivery.name):
            failure = self._deliver(delivery)
        if failure is not None:
            self._unread.pop(delivery.name, None)
        if delivery.name not in self._unread:
            self._finish(delivery, failure)

    def _finish(self, delivery: TokenDelivery, failure: Failure | None) -> None:
        self._outcomes[delivery.name] = failure
        self._in_flight.discard(delivery.name)
        self._on_progress(delivery.name)

    def _deliver(self, delivery: TokenDelivery) -> Failure | None:
        """Mints the token and writes it to all sinks; the first that went wrong."""
        try:
            token = mint(self._workspace, delivery.key_id, delivery.expires_at)
        except WorkspaceError as error:
            return _advised(failure_of(error), delivery)
        minted = time.monotonic()
        failures = [self._write(address, token, delivery) for address in delivery.sinks]
        if time.monotonic() - minted > self._long and not any(failures):
            failures.append(self._still_good(token, delivery))
        return next(filter(None, failures), None)

    def _still_good(self, token: Secret, delivery: TokenDelivery) -> Failure | None:
        """Why a token that took long to its sinks is good no more: another run ended its key."""
        if delivery.name in self._unread:
            return None  # the look that follows shows it, and what to deliver instead
        try:
            self._workspace.verify_token(token)
        except WorkspaceError as error:
            if error.code == "token_refused":
                return Failure(
                    error.code,
                    f"The server no longer accepts the token of {delivery.name!r}: another run "
                    "ended its key during delivery. Run again.",
                )
        return None

    def _write(self, address: Address, token: Secret, delivery: TokenDelivery) -> Failure | None:
        """Writes to one sink and reads it back."""
        try:
            sink = self._open_sink(address)
            if delivery.former:
                self._keep(sink.read(), delivery)
            sink.write(token)
            unread = _read_back(sink, address, token, delivery)
            if unread is not None:
                self._written[address] = unread
                self._unread[delivery.name] = delivery
        except SinkError as error:
            return _advised(failure_of(error), delivery)
        return None

    def _overtaken(self, *, last: bool) -> list[TokenDelivery]:
        """Ends what no newer key overtook, and returns what to deliver in place of the rest.

        Args:
            last: whether nothing more is delivered.
        """
        deliveries = tuple(self._unread.values())
        self._unread.clear()
        look = self._observe()
        if look is not None and self._unsettled(deliveries, look):
            self._stop.sleep(_SETTLES)
            look = self._observe()
        again: list[TokenDelivery] = []
        for delivery in deliveries:
            key = None if look is None else key_to_deliver(look, self._before, delivery)
            if look is None:
                self._finish(delivery, _not_settled(delivery))
            elif key is None:
                self._finish(delivery, _ended(delivery))
            elif key.id == delivery.key_id and not self._written_over(delivery):
                self._finish(delivery, None)
            elif last or not key.expires_at.microsecond:  # without the mark of a run
                self._finish(delivery, _overtaken(delivery, key))
            else:
                _LOG.warning(
                    "%s: another run was at work while a token of %s was delivered; one of %s "
                    "is delivered in its place", delivery.name, delivery.key_id, key.id,
                )  # fmt: skip
                again.append(
                    replace(
                        delivery,
                        key_id=key.id,
                        expires_at=key.expires_at,
                        was=key.expires_at,
                        again=f"Run {_redelivery(delivery.name)}.",
                    )
                )
        return again

    def _unsettled(self, deliveries: Sequence[TokenDelivery], look: Observation) -> bool:
        """Whether the run that made a newer key may still be about to end it, or an older one."""
        since = look.server_time - _YOUNG
        ours = {delivery.name: delivery.key_id for delivery in deliveries}
        return any(
            key.created_at > since and key.id != ours[key.name] and key.live(look.server_time)
            for key in look.keys
            if key.name in ours
        )

    def _written_over(self, delivery: TokenDelivery) -> bool:
        """Whether a sink tells of a write after this run's, where other keys are to end."""
        if not delivery.ends_others:
            return False
        try:
            return any(
                _later(self._open_sink(address).read(), self._written[address])
                for address in delivery.sinks
                if address in self._written
            )
        except SinkError:
            return True

    def _observe(self) -> Observation | None:
        """The workspace after the writes; None where it could not be looked at."""
        for rounds in range(MAX_ATTEMPTS):
            try:
                return self._workspace.observe()
            except WorkspaceError as error:
                _LOG.info("%s", failure_of(error).message)
            if self._stop.asked:
                break
            self._stop.sleep(delay(rounds))
        return None

    def _keep(self, content: Content, delivery: TokenDelivery) -> None:
        """Keeps the token of a former key, if that is what the sink holds."""
        if isinstance(content, StoredValue):
            claims = claims_of(content.value)
            if claims is not None and claims.key in delivery.former:
                self._former[claims.key] = content.value


def key_to_deliver(
    look: Observation, before: frozenset[str], delivery: TokenDelivery
) -> ObservedKey | None:
    """Return the live key whose token the sinks of a parcel are to hold; None where none lives.

    Its own, unless another run made a newer key meanwhile, or a newer one took over: its own key
    ended, or was given an earlier end.

    Args:
        look: at the workspace, after the token was written.
        before: the ids of all keys that it held when the run was planned.
        delivery: what was delivered.
    """
    live = [key for key in look.keys if key.name == delivery.name and key.live(look.server_time)]
    own = next((key for key in live if key.id == delivery.key_id), None)
    newer = [key for key in live if own is None or key.creation_order > own.creation_order]
    if own is not None and (delivery.was is None or own.expires_at >= delivery.was):
        newer = [key for key in newer if key.id not in before]
    return max(newer, key=lambda key: key.creation_order, default=own)


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


def _later(now: Content, then: WriteOnly) -> bool:
    """Whether a sink was written again, by its time as far as that is exact."""
    if not isinstance(now, WriteOnly) or now.updated_at is None or then.updated_at is None:
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


def _advised(failure: Failure, delivery: TokenDelivery) -> Failure:
    """The failure, with what to do where the next run does not make up for it."""
    if not delivery.again:
        return failure
    return Failure(failure.code, f"{failure.message} {delivery.again}")


def _not_settled(delivery: TokenDelivery) -> Failure:
    return Failure(
        "not_settled",
        f"The token of {delivery.name!r} was written, and the workspace could not be looked at "
        "afterwards: another run may have delivered a newer key. Run "
        f"{_redelivery(delivery.name)}.",
    )


def _ended(delivery: TokenDelivery) -> Failure:
    return Failure(
        "token_refused",
        f"The key {delivery.key_id} of {delivery.name!r} was ended while its token was being "
        "delivered. Run again.",
    )


def _overtaken(delivery: TokenDelivery, newest: ObservedKey) -> Failure:
    return Failure(
        "not_settled",
        f"While a token of {delivery.name!r} was being delivered, someone made the newer key "
        f"{newest.id}. Revoke the one that is not wanted, then run {_redelivery(delivery.name)}.",
    )


def mint(workspace: Workspace, key_id: str, expires_at: datetime) -> Secret:
    """A token of a live key that the server has been seen to accept.

    Args:
        workspace: of the key.
        key_id: the key.
        expires_at: when the token is to end.

    Raises:
        WorkspaceError: when none was minted, or when the one that was does not work.
    """
    token = workspace.mint(key_id, expires_at)
    if not good(token, key_id, expires_at):
        raise WorkspaceError(
            "token_refused",
            f"The token that was minted for the key {key_id} does not say that it is for this key "
            "until its end.",
            remedy="Nothing was delivered; look at the key in Twenty itself.",
        )
    workspace.verify_token(token)
    return token


def good(token: Secret, key_id: str, expires_at: datetime) -> bool:
    """Whether a token says that it is for this key, until the key's end."""
    claims = claims_of(token)
    if claims is None or (claims.key or "").lower() != key_id.lower():
        return False
    return claims.expires_at is None or claims.expires_at >= expires_at - SHORTER


def _read_back(
    sink: Sink, address: Address, token: Secret, delivery: TokenDelivery
) -> WriteOnly | None:
    """Reads what was written, where that is possible; what the sink tells where it is not.

    Another run's token of the same key is as good.
    """
    match sink.read():
        case WriteOnly() as unread:
            return unread
        case StoredValue(value=value) if value.reveal() == token.reveal() or good(
            value, delivery.key_id, delivery.expires_at
        ):
            return None
        case _:
            raise sink_error(
                "sink_failed",
                f"{address} took the token, and does not hold it when it is read back.",
                "Look for what else writes there, and run again.",
            )
