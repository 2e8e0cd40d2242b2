"""Delivery of tokens: mint a token with the key's expiry, verify it, write it, read it back.

Only this process has a token until its sinks do. If the run ends before that, all that is lost is a
token that nobody has: the next run mints another one for the same key.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from glob import escape
from shlex import quote
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import SinkError, WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.model.token_claims import claims_of
from provisioner.plan import EXPIRY_TOLERANCE, Rotate
from provisioner.runtime.backoff import MAX_ATTEMPTS, delay
from provisioner.runtime.executor import ThreadExecutor
from provisioner.runtime.log_context import bind
from provisioner.sinks.sink import StoredValue, WriteOnly, sink_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.model.workspace import Workspace
    from provisioner.plan import Action
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.secret import Secret
    from provisioner.sinks.sink import Content, OpenSink, Sink


_LOG = logging.getLogger(__name__)

REVERIFY_AFTER = 2.0
"""Seconds of writing to sinks after which a token is verified once more."""


_SETTLE_DELAY = 2.0
"""Seconds after which a run that is about to revoke a key, its own or an older one, has done so."""

_RECENT = timedelta(minutes=1)
"""Age of a key up to which the run that created it may still be about to revoke another one."""

_SAME_WRITE = timedelta(seconds=2)
"""Largest difference between two times that a sink reports for the same write: each is corrected
to the second."""

_MAX_WRITES = 4
"""Writes of a name's token while other runs keep creating newer keys of that name."""


@dataclass(frozen=True, slots=True)
class TokenDelivery:
    """A key whose token is to be written to some sinks.

    Attributes:
        name: the name of the key, unique in the environment.
        key_id: the id of the key.
        expires_at: the expiry of the key in the workspace, and of its token.
        sinks: the sinks to write.
        predecessor_ids: ids of keys that the run revokes. If a sink holds the token of one, the
            token is kept to verify afterwards that the server no longer accepts it.
        observed_expires_at: the expiry of the key when the run observed it; None if the run itself
            changes it.
        retires_others: True if the run revokes other keys in favour of this one, or makes them
            expire earlier.
        advice: what to do if the delivery fails and no later run repeats it; empty if the next run
            does.
    """

    name: str
    key_id: str
    expires_at: datetime
    sinks: tuple[Address, ...]
    predecessor_ids: tuple[str, ...] = ()
    observed_expires_at: datetime | None = None
    retires_others: bool = False
    advice: str = ""


class TokenDeliveries:
    """The token deliveries of one environment.

    Args:
        workspace: the workspace that mints the tokens.
        open_sink: opens the sink of an address.
        existing_ids: the ids of all keys that the workspace had when the plan was made.
        parallel: deliveries at the same time.
        stop: once requested, no delivery starts.
        on_start: called with the name of each key whose delivery starts.
        on_progress: called with the name of each key whose delivery is done or failed.
        reverify_after: seconds of writing to sinks after which a token is verified once more.
    """

    def __init__(  # noqa: PLR0913 - what a delivery goes through
        self,
        workspace: Workspace,
        open_sink: OpenSink,
        existing_ids: frozenset[str],
        *,
        parallel: int,
        stop: Cancellation,
        on_start: Callable[[str], None],
        on_progress: Callable[[str], None],
        reverify_after: float = REVERIFY_AFTER,
    ) -> None:
        self._reverify_after = reverify_after
        self._workspace = workspace
        self._open_sink = open_sink
        self._existing_ids = existing_ids
        self._parallel = parallel
        self._stop = stop
        self._on_start = on_start
        self._on_progress = on_progress
        self._in_flight: set[str] = set()
        self._outcomes: dict[str, Failure | None] = {}
        self._former_tokens: dict[str, Secret] = {}
        self._unconfirmed: dict[str, TokenDelivery] = {}
        self._write_only: dict[Address, WriteOnly] = {}

    def run(self, deliveries: Sequence[TokenDelivery]) -> None:
        """Deliver every token; one delivery that fails does not stop the others.

        A write to a sink that cannot be read back counts only once a later observation shows no
        newer key of the name: a slow write may have replaced the newer token of another run.

        Raises:
            Exception: a bug that one delivery met, once all the others have finished.
        """
        self._run_all(self._start, deliveries)
        for number in range(_MAX_WRITES):
            if not self._unconfirmed:
                break
            last = number == _MAX_WRITES - 1
            self._run_all(self._attempt, self._confirm(last=last))

    def delivered(self, name: str) -> bool:
        """Return whether the token of this key is in all sinks of its delivery."""
        return name in self._outcomes and self._outcomes[name] is None

    def former_token(self, key_id: str) -> Secret | None:
        """Return the token of a predecessor, if a sink held it before the write."""
        return self._former_tokens.get(key_id)

    def failure(self, name: str, fallback: Failure | None) -> Failure | None:
        """Return why the token of this key is not in all sinks.

        Args:
            name: the name of the key.
            fallback: the failure of a delivery that is not finished, if a bug ended the run.
        """
        failure = self._outcomes.get(name)
        return fallback or failure if failure is None or name in self._in_flight else failure

    def _run_all(
        self, step: Callable[[TokenDelivery], None], deliveries: Sequence[TokenDelivery]
    ) -> None:
        if deliveries:
            with ThreadExecutor(self._parallel) as threads:
                futures = [threads.submit(step, delivery) for delivery in deliveries]
            for future in futures:
                future.result()

    def _start(self, delivery: TokenDelivery) -> None:
        if self._stop.requested:
            return
        self._on_start(delivery.name)
        self._in_flight.add(delivery.name)
        self._outcomes[delivery.name] = delivery_in_flight(delivery.advice)
        self._attempt(delivery)

    def _attempt(self, delivery: TokenDelivery) -> None:
        with bind(key=delivery.name):
            failure = self._deliver(delivery)
        if failure is not None:
            self._unconfirmed.pop(delivery.name, None)
        if delivery.name not in self._unconfirmed:
            self._finish(delivery, failure)

    def _finish(self, delivery: TokenDelivery, failure: Failure | None) -> None:
        self._outcomes[delivery.name] = failure
        self._in_flight.discard(delivery.name)
        self._on_progress(delivery.name)

    def _deliver(self, delivery: TokenDelivery) -> Failure | None:
        """Mint the token, write it to all sinks, and return the first failure."""
        try:
            token = mint(self._workspace, delivery.key_id, delivery.expires_at)
        except WorkspaceError as error:
            return _with_advice(error.failure, delivery)
        minted_at = time.monotonic()
        failures = [self._write(address, token, delivery) for address in delivery.sinks]
        if time.monotonic() - minted_at > self._reverify_after and not any(failures):
            failures.append(self._reverify(token, delivery))
        return next(filter(None, failures), None)

    def _reverify(self, token: Secret, delivery: TokenDelivery) -> Failure | None:
        """Return a failure if another run has revoked the key while its token was being written."""
        if delivery.name in self._unconfirmed:
            return None  # the observation that follows shows it, and which key to deliver instead
        try:
            self._workspace.verify_token(token)
        except WorkspaceError as error:
            if error.code == Code.TOKEN_REFUSED:
                return Failure(
                    error.code,
                    f"The server no longer accepts the token for {delivery.name!r}: another run "
                    "revoked its key during the delivery. Run again.",
                )
        return None

    def _write(self, address: Address, token: Secret, delivery: TokenDelivery) -> Failure | None:
        """Write the token to one sink and read it back."""
        try:
            sink = self._open_sink(address)
            if delivery.predecessor_ids:
                self._keep_former_token(sink.read(), delivery)
            sink.write(token)
            write_only = _read_back(sink, address, token, delivery)
            if write_only is not None:
                self._write_only[address] = write_only
                self._unconfirmed[delivery.name] = delivery
        except SinkError as error:
            return _with_advice(error.failure, delivery)
        return None

    def _confirm(self, *, last: bool) -> list[TokenDelivery]:
        """Finish deliveries whose key is still the one to deliver, and return those to repeat.

        Args:
            last: True if no further write follows.
        """
        deliveries = tuple(self._unconfirmed.values())
        self._unconfirmed.clear()
        observation = self._observe()
        if observation is not None and self._other_run_active(deliveries, observation):
            self._stop.sleep(_SETTLE_DELAY)
            observation = self._observe()
        repeated: list[TokenDelivery] = []
        for delivery in deliveries:
            key = (
                None
                if observation is None
                else key_to_deliver(observation, self._existing_ids, delivery)
            )
            if observation is None:
                self._finish(delivery, _unconfirmed(delivery))
            elif key is None:
                self._finish(delivery, _key_gone(delivery))
            elif key.id == delivery.key_id and not self._overwritten(delivery):
                self._finish(delivery, None)
            elif last or not key.expires_at.microsecond:  # no run marker: no run created this key
                self._finish(delivery, _newer_key(delivery, key))
            else:
                _LOG.warning(
                    "%s: another run was active while the token for key %s was being delivered; "
                    "delivering a token for key %s instead", delivery.name, delivery.key_id, key.id,
                )  # fmt: skip
                repeated.append(
                    replace(
                        delivery,
                        key_id=key.id,
                        expires_at=key.expires_at,
                        observed_expires_at=key.expires_at,
                        advice=f"Run {_redeliver_command(delivery.name)}.",
                    )
                )
        return repeated

    def _other_run_active(
        self, deliveries: Sequence[TokenDelivery], observation: Observation
    ) -> bool:
        """Return whether a run that created another key may still be about to revoke a key."""
        since = observation.server_time - _RECENT
        own_ids = {delivery.name: delivery.key_id for delivery in deliveries}
        return any(
            key.created_at > since
            and key.id != own_ids[key.name]
            and key.live(observation.server_time)
            for key in observation.keys
            if key.name in own_ids
        )

    def _overwritten(self, delivery: TokenDelivery) -> bool:
        """Return whether a sink reports a write after this run's, if the run retires other keys."""
        if not delivery.retires_others:
            return False
        try:
            return any(
                _written_again(self._open_sink(address).read(), self._write_only[address])
                for address in delivery.sinks
                if address in self._write_only
            )
        except SinkError:
            return True

    def _observe(self) -> Observation | None:
        """Return the workspace after the writes, or None if it could not be observed."""
        for rounds in range(MAX_ATTEMPTS):
            try:
                return self._workspace.observe()
            except WorkspaceError as error:
                _LOG.info("%s", error.failure.message)
            if self._stop.requested:
                break
            self._stop.sleep(delay(rounds))
        return None

    def _keep_former_token(self, content: Content, delivery: TokenDelivery) -> None:
        """Keep the token of a predecessor if the sink holds one."""
        if isinstance(content, StoredValue):
            claims = claims_of(content.value)
            if claims is not None and claims.key in delivery.predecessor_ids:
                self._former_tokens[claims.key] = content.value


def key_to_deliver(
    observation: Observation, existing_ids: frozenset[str], delivery: TokenDelivery
) -> ObservedKey | None:
    """Return the live key whose token the sinks of a delivery should hold; None if there is none.

    That is the delivery's own key, unless another run has created a newer key since then, or a
    newer key has taken over: the own key is gone, or its expiry was set to an earlier time.

    Args:
        observation: the workspace after the token was written.
        existing_ids: the ids of all keys that the workspace had when the plan was made.
        delivery: the delivery.
    """
    live = [
        key
        for key in observation.keys
        if key.name == delivery.name and key.live(observation.server_time)
    ]
    own = next((key for key in live if key.id == delivery.key_id), None)
    newer = [key for key in live if own is None or key.creation_order > own.creation_order]
    if own is not None and (
        delivery.observed_expires_at is None or own.expires_at >= delivery.observed_expires_at
    ):
        newer = [key for key in newer if key.id not in existing_ids]
    return max(newer, key=lambda key: key.creation_order, default=own)


def delivery_advice(action: Action) -> str:
    """Return what to do if the delivery fails and the next run does not repeat it.

    It is empty if the next run does, and for a rotation with `at_once`, whose own failure says it.
    """
    if isinstance(action, Rotate) and action.reason == "asked":
        advice = f"The old key is still live: run `provision rotate {quote(action.name)}` again."
        return "" if action.at_once else advice
    advice = (
        f"No later run can tell that the token is missing: run {_redeliver_command(action.name)}."
    )
    return "" if all(one.shows_delivery for one in action.sinks) else advice


def _written_again(now: Content, before: WriteOnly) -> bool:
    """Return whether a sink was written again, as far as the times that it reports are exact."""
    if not isinstance(now, WriteOnly) or now.updated_at is None or before.updated_at is None:
        return False
    return now.updated_at - before.updated_at > _SAME_WRITE


def delivery_in_flight(advice: str) -> Failure:
    """Return the failure of a delivery that was in flight when the run ended."""
    return Failure(
        Code.NOT_DELIVERED,
        "The key exists, but the run ended while its token was being delivered. "
        f"{advice or 'The next run delivers it.'}",
    )


def _redeliver_command(name: str) -> str:
    return f"`provision apply --redeliver --only {quote(escape(name))}`"


def _with_advice(failure: Failure, delivery: TokenDelivery) -> Failure:
    """Return the failure, followed by the advice of the delivery."""
    if not delivery.advice:
        return failure
    return failure.advise(delivery.advice)


def _unconfirmed(delivery: TokenDelivery) -> Failure:
    return Failure(
        Code.NOT_SETTLED,
        f"The token for {delivery.name!r} was written, but the keys could not be listed "
        "afterwards, so another run may have delivered a newer key. Run "
        f"{_redeliver_command(delivery.name)}.",
    )


def _key_gone(delivery: TokenDelivery) -> Failure:
    return Failure(
        Code.TOKEN_REFUSED,
        f"The key {delivery.key_id} of {delivery.name!r} was revoked or expired while its token "
        "was being delivered. Run again.",
    )


def _newer_key(delivery: TokenDelivery, newest: ObservedKey) -> Failure:
    return Failure(
        Code.NOT_SETTLED,
        f"Someone created the newer key {newest.id} while the token for {delivery.name!r} was "
        "being delivered. Revoke the key that you do not want, then run "
        f"{_redeliver_command(delivery.name)}.",
    )


def mint(workspace: Workspace, key_id: str, expires_at: datetime) -> Secret:
    """Mint a token for a live key and verify that the server accepts it.

    Args:
        workspace: the workspace of the key.
        key_id: the id of the key.
        expires_at: the expiry of the token.

    Raises:
        WorkspaceError: if no token was minted, or the token does not work.
    """
    token = workspace.mint(key_id, expires_at)
    if not token_matches(token, key_id, expires_at):
        raise WorkspaceError(
            Code.TOKEN_REFUSED,
            f"The token minted for the key {key_id} is not for that key, or expires "
            "before the key does.",
            remedy="Nothing was delivered; check the key in Twenty.",
        )
    workspace.verify_token(token)
    return token


def token_matches(token: Secret, key_id: str, expires_at: datetime) -> bool:
    """Return whether the token's claims name this key and cover its lifetime."""
    claims = claims_of(token)
    if claims is None or (claims.key or "").lower() != key_id.lower():
        return False
    return claims.expires_at is None or claims.expires_at >= expires_at - EXPIRY_TOLERANCE


def _read_back(
    sink: Sink, address: Address, token: Secret, delivery: TokenDelivery
) -> WriteOnly | None:
    """Read the token back from a sink; return the report of a sink that cannot be read, else None.

    Another token of the same key is accepted too: another run may have written it.
    """
    match sink.read():
        case WriteOnly() as write_only:
            return write_only
        case StoredValue(value=value) if value.reveal() == token.reveal() or token_matches(
            value, delivery.key_id, delivery.expires_at
        ):
            return None
        case _:
            raise sink_error(
                Code.SINK_FAILED,
                f"{address} accepted the token, but did not return it when it was read back.",
                "Check what else writes there, and run again.",
            )
