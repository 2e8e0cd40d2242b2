"""Delivery of tokens, and its confirmation: no other run may have delivered a newer key."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from datetime import timedelta
from glob import escape
from shlex import quote
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import SinkError
from provisioner.errors.failure import Failure
from provisioner.execution.results import EXPIRY_PENDING, after_delivery
from provisioner.execution.token_flow import Delivery, TokenFlow
from provisioner.model.observed import ObservedKey
from provisioner.model.sink_content import Unreadable
from provisioner.plan import Rotate, Update
from provisioner.runtime.backoff import attempts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from provisioner.execution.progress import ExecutionContext
    from provisioner.model.observed import Observation
    from provisioner.model.sink_address import Address
    from provisioner.plan import Create, Deliver
    from provisioner.secret import Secret
    from provisioner.sinks.sink import Content, OpenSink

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


@dataclass(frozen=True, slots=True, eq=False)
class TokenDeliveries:
    """The token deliveries of one environment; one that fails does not stop the others.

    Attributes:
        context: the environment.
        open_sink: opens the sink of an address.
        reverify_after: seconds of writing to sinks after which a token is verified once more.
        former_tokens: by key id, tokens of keys that the run is about to revoke, which a sink held
            before the write.
    """

    context: ExecutionContext
    open_sink: OpenSink
    reverify_after: float
    former_tokens: dict[str, Secret] = field(default_factory=dict, init=False)
    _unconfirmed: list[Delivery] = field(default_factory=list, init=False)

    def run(self, batches: Iterable[Sequence[Delivery]]) -> None:
        """Deliver every token, those of a batch while the next one is being prepared.

        A write to a sink that cannot be read back counts only once a later observation shows no
        newer key of the name: a slow write may have replaced the newer token of another run.

        Raises:
            Exception: a bug that one delivery met, once all the others have finished.
        """
        for writes in range(1, _MAX_WRITES + 1):
            flow = TokenFlow(
                *(self.context, self.open_sink, self.reverify_after, self.former_tokens, self)
            )
            flow.run(batches)
            if not self._unconfirmed:
                break
            unconfirmed = self._unconfirmed.copy()
            self._unconfirmed.clear()
            batches = (self._confirm(unconfirmed, last=writes == _MAX_WRITES),)

    def on_start(self, delivery: Delivery) -> bool:
        """Record what to report if the run ends during the delivery."""
        if self.context.stop.requested and not delivery.repeated:
            return False
        in_flight = EXPIRY_PENDING
        if not isinstance(delivery.action, Update):
            advice = _advice(delivery.action, repeated=delivery.repeated)
            in_flight = Failure(
                Code.NOT_DELIVERED,
                "The key exists, but the run ended while its token was being delivered. "
                f"{advice or 'The next run delivers it.'}",
            )
        self.context.progress.start(delivery.action, in_flight)
        return True

    def on_failure(self, delivery: Delivery, failure: Failure) -> None:
        """Record the failure, with what to do if the next run does not repeat the delivery."""
        self._fail(delivery, _advised(failure, delivery))

    def on_written(
        self, delivery: Delivery, reports: Mapping[Address, Unreadable], at: datetime | None
    ) -> None:
        """Record the success, unless another observation has to confirm it."""
        if at is not None:
            self.context.progress.record_delivery(delivery.action.name, at)
        if reports:
            self._unconfirmed.append(replace(delivery, reports=tuple(reports.items())))
        else:
            self._succeed(delivery)

    def _succeed(self, delivery: Delivery) -> None:
        self.context.progress.count("deliver")
        self.context.progress.settle(after_delivery(self.context.progress.result(delivery.action)))

    def _fail(self, delivery: Delivery, failure: Failure) -> None:
        self.context.progress.count("deliver")
        self.context.progress.fail(delivery.action, failure)

    def _confirm(self, deliveries: list[Delivery], *, last: bool) -> list[Delivery]:
        """Finish deliveries whose key is still the one to deliver, and return those to repeat.

        Args:
            deliveries: written to sinks that cannot be read.
            last: True if no further write follows.
        """
        observation = self._observe()
        if observation is not None and _other_run_active(deliveries, observation):
            self.context.stop.sleep(_SETTLE_DELAY)
            observation = self._observe()
        repeated: list[Delivery] = []
        for delivery in deliveries:
            replacement = self._replacement(delivery, observation, last=last)
            match replacement:
                case None:
                    self._succeed(delivery)
                case Failure():
                    self._fail(delivery, replacement)
                case ObservedKey(id=id_, expires_at=expires_at):
                    _LOG.warning(
                        "%s: another run was active while the token for key %s was being "
                        "delivered; delivering a token for key %s instead",
                        *(delivery.action.name, delivery.key_id, id_),
                    )
                    repeated.append(Delivery(delivery.action, id_, expires_at, repeated=True))
                case _:
                    assert_never(replacement)
        return repeated

    def _replacement(
        self, delivery: Delivery, observation: Observation | None, *, last: bool
    ) -> ObservedKey | Failure | None:
        """Return the key to deliver instead, or why there is none; None if the delivery stands."""
        name, command = delivery.action.name, _redeliver_command(delivery.action.name)
        if observation is None:
            return Failure(
                Code.NOT_SETTLED,
                f"The token for {name!r} was written, but the keys could not be listed afterwards, "
                f"so another run may have delivered a newer key. Run {command}.",
            )
        key = key_to_deliver(observation, self.context.existing_ids, delivery)
        if key is None:
            return Failure(
                Code.TOKEN_REFUSED,
                f"The key {delivery.key_id} of {name!r} was revoked or expired while its token was "
                "being delivered. Run the command again.",
            )
        if key.id == delivery.key_id and not self._overwritten(delivery):
            return None
        if last or not key.expires_at.microsecond:  # no run marker: no run created this key
            return Failure(
                Code.NOT_SETTLED,
                f"Someone created the newer key {key.id} while the token for {name!r} was being "
                f"delivered. Revoke the key that you do not want, then run {command}.",
            )
        return key

    def _overwritten(self, delivery: Delivery) -> bool:
        """Return whether a sink reports a later write than this run's, if the run ends older keys.

        Without a receipt, the comparison is as exact as the times that the sink reports.
        """
        action = delivery.action
        if not isinstance(action, Rotate) or not action.predecessor_changes:
            return False
        for address, before in delivery.reports:
            try:
                now = self.open_sink(address).read()
            except SinkError:
                return True
            if _proves(before, delivery.key_id):
                if not _proves(now, delivery.key_id):
                    return True
            elif (
                isinstance(now, Unreadable)
                and now.updated_at is not None
                and before.updated_at is not None
                and now.updated_at - before.updated_at > _SAME_WRITE
            ):
                return True
        return False

    def _observe(self) -> Observation | None:
        """Return the workspace after the writes, or None if it could not be observed."""
        for _ in attempts(self.context.stop.sleep):
            observation = self.context.observe()
            if observation is not None or self.context.stop.requested:
                return observation
        return None


def _proves(content: Content, key_id: str) -> bool:
    """Return whether the receipt of a sink proves that it holds a token of a key."""
    token = content.proven_token if isinstance(content, Unreadable) else None
    return token is not None and token.key.lower() == key_id.lower()


def key_to_deliver(
    observation: Observation, existing_ids: frozenset[str], delivery: Delivery
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
        if key.name == delivery.action.name and key.live(observation.server_time)
    ]
    own = next((key for key in live if key.id == delivery.key_id), None)
    newer = [key for key in live if own is None or key.creation_order > own.creation_order]
    # An update gives the observed key another expiry only after the delivery.
    updated = isinstance(delivery.action, Update) and not delivery.repeated
    if own is not None and (updated or own.expires_at >= delivery.expires_at):
        newer = [key for key in newer if key.id not in existing_ids]
    return max(newer, key=lambda key: key.creation_order, default=own)


def _other_run_active(deliveries: list[Delivery], observation: Observation) -> bool:
    """Return whether a run that created another key may still be about to revoke a key."""
    since = observation.server_time - _RECENT
    own_ids = {delivery.action.name: delivery.key_id for delivery in deliveries}
    return any(
        key.created_at > since and key.id != own_ids[key.name] and key.live(observation.server_time)
        for key in observation.keys
        if key.name in own_ids
    )


def delivery_not_started(action: Create | Rotate) -> Failure:
    """Return the failure of a created key whose delivery did not start before the run ended."""
    return Failure(
        Code.STOPPED,
        "The key exists, but the run was stopped before its token was delivered. "
        f"{_advice(action) or 'The next run delivers it.'}",
    )


def _advice(action: Create | Rotate | Deliver | Update, *, repeated: bool = False) -> str:
    """Return what to do if the delivery of an action fails and the next run does not repeat it.

    It is empty if the next run does, and for a rotation with `at_once`, whose result says it.

    Args:
        action: the action.
        repeated: as in `Delivery`.
    """
    if repeated:
        return f"Run {_redeliver_command(action.name)}."
    if isinstance(action, Rotate) and action.reason == "asked":
        advice = f"The old key is still live: run `provision rotate {quote(action.name)}` again."
        return "" if action.at_once else advice
    if not all(one.shows_delivery for one in action.sinks):
        command = _redeliver_command(action.name)
        return f"No later run can tell that the token is missing: run {command}."
    return ""


def _advised(failure: Failure, delivery: Delivery) -> Failure:
    """Return the failure, followed by the advice of the delivery."""
    advice = _advice(delivery.action, repeated=delivery.repeated)
    return failure.advise(advice) if advice else failure


def _redeliver_command(name: str) -> str:
    return f"`provision apply --redeliver --only {quote(escape(name))}`"
