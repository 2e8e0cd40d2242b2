"""The way of tokens from the server to the sinks: minted, verified, written, and read back.

Tokens are minted in groups, while those of the group before are verified and written. Sinks of one
file are written together.

Only this process has a token until its sinks do. If the run ends before that, all that is lost is a
token that nobody has: the next run mints another one for the same key.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import SinkError, WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.model.sink_content import Unreadable
from provisioner.model.token_claims import claims_of
from provisioner.model.workspace import TokenRequest
from provisioner.plan import EXPIRY_TOLERANCE, Rotate
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import ThreadExecutor
from provisioner.runtime.log_context import bind
from provisioner.sinks.group_commit import GroupCommit
from provisioner.sinks.sink import GroupedSink, StoredValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from concurrent.futures import Executor
    from datetime import datetime

    from provisioner.execution.progress import ExecutionContext
    from provisioner.model.sink_address import Address
    from provisioner.model.workspace import Workspace
    from provisioner.plan import Create, Deliver, Update
    from provisioner.secret import Secret
    from provisioner.sinks.sink import Content, OpenSink, Sink, SinkGroup

    ReadBack = Content | SinkError
    Write = tuple["_MintedToken", Address]

MAX_MINTED = 20
"""Tokens that are minted together."""

PARALLEL_MINTS = 2
"""Groups at once: one is minted while the tokens of the other are verified and written."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A key whose token is to be written to the sinks of an action.

    Attributes:
        action: the action; its name is unique among the deliveries of an environment.
        key_id: the id of the key.
        expires_at: the expiry of the key, and of its token.
        repeated: True if the token of another key was written before, for the same action.
        reports: what sinks that cannot be read reported after the write.
    """

    action: Create | Rotate | Deliver | Update
    key_id: str
    expires_at: datetime
    repeated: bool = False
    reports: tuple[tuple[Address, Unreadable], ...] = ()


class DeliveryObserver(Protocol):
    """Receiver of what becomes of each delivery, called from several threads."""

    def on_start(self, delivery: Delivery) -> bool:
        """Record that the token is about to be minted; return False if it must not be."""
        ...

    def on_failure(self, delivery: Delivery, failure: Failure) -> None:
        """Record that the token was not minted, not accepted, or not written to every sink."""
        ...

    def on_written(
        self, delivery: Delivery, reports: Mapping[Address, Unreadable], at: datetime | None
    ) -> None:
        """Record that every sink has the token.

        Args:
            delivery: the delivery.
            reports: what the sinks that cannot be read reported.
            at: when the last sink got the token, as a later run will see it; None if it cannot.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _MintedToken:
    """A token on its way to the sinks of an action.

    Attributes:
        minted_at: monotonic seconds.
        read_back: what each sink returned after the write, or its error.
    """

    delivery: Delivery
    token: Secret
    minted_at: float
    read_back: dict[Address, ReadBack] = field(default_factory=dict, init=False)

    @property
    def replaced_keys(self) -> tuple[str, ...]:
        """Return the ids of keys that the run revokes once the token is in every sink."""
        action = self.delivery.action
        return action.predecessors if isinstance(action, Rotate) and action.at_once else ()

    @property
    def written(self) -> bool:
        """Return whether the outcome of every write is known."""
        return all(address in self.read_back for address in self.delivery.action.sinks)


@dataclass(frozen=True, slots=True, eq=False)
class TokenFlow:
    """Tokens on their way from the server to the sinks, each step in its own threads.

    Attributes:
        context: the environment.
        open_sink: opens the sink of an address.
        reverify_after: seconds of writing to sinks after which a token is verified once more.
        former_tokens: receives, by key id, tokens of keys that the run is about to revoke, which a
            sink held before the write.
        observer: receives what becomes of each delivery.
    """

    context: ExecutionContext
    open_sink: OpenSink
    reverify_after: float
    former_tokens: dict[str, Secret]
    observer: DeliveryObserver
    _waiting: GroupCommit[SinkGroup[Any], Write] = field(default_factory=GroupCommit, init=False)

    def run(self, batches: Iterable[Sequence[Delivery]]) -> None:
        """Deliver every token, those of a batch while the next one is being prepared.

        Raises:
            Exception: a bug that one delivery met, once all the others have finished.
        """
        parallel = self.context.parallel
        steps: list[Future[None]] = []
        with (
            ThreadExecutor(parallel) as writers,
            ThreadExecutor(1) as committer,
            ThreadExecutor(min(PARALLEL_MINTS, parallel)) as minters,
        ):
            try:
                # With one request at a time nothing is prepared side by side.
                for batch in batches if parallel > 1 else tuple(batches):
                    if batch and not steps:
                        steps.append(committer.submit(self._commit, writers))
                    self._waiting.expect(len(batch))
                    for start in range(0, len(batch), MAX_MINTED):
                        group = batch[start : start + MAX_MINTED]
                        steps.append(minters.submit(self._mint_and_write, group, writers))
            finally:
                self._waiting.close()
        _wait_for(steps)

    def _mint_and_write(self, group: Sequence[Delivery], writers: Executor) -> None:
        """Mint a group of tokens, and wait until each is written, or waits for its group."""
        self._waiting.wait_for_room()
        minted: list[_MintedToken] = []
        try:
            minted += self._mint(group)
        finally:
            self._waiting.expect(len(minted) - len(group))
        _wait_for([writers.submit(self._verify_and_write, one) for one in minted])

    def _mint(self, group: Sequence[Delivery]) -> list[_MintedToken]:
        """Return the tokens of a group, without those that could not be minted."""
        progress, minted = self.context.progress, list[_MintedToken]()
        before = [(delivery, progress.result(delivery.action)) for delivery in group]
        started = [one for one in before if self.observer.on_start(one[0])]
        requests = [TokenRequest(one.key_id, one.expires_at) for one, _ in started]
        tokens = self.context.workspace.mint_many(requests) if requests else ()
        for (delivery, result), token in zip(started, tokens, strict=True):
            if not isinstance(token, Failure):
                minted.append(_MintedToken(delivery, token, time.monotonic()))
            elif token == STOPPED and not delivery.repeated:
                progress.update(result)
            else:
                self.observer.on_failure(delivery, token)
        return minted

    def _verify_and_write(self, minted: _MintedToken) -> None:
        """Verify a token and write it to its sinks, except those that are written in groups."""
        delivery = minted.delivery
        grouped: list[tuple[SinkGroup[Any], Write]] = []
        try:
            with bind(key=delivery.action.name):
                _verify(self.context.workspace, minted.token, delivery.key_id, delivery.expires_at)
                for address in delivery.action.sinks:
                    try:
                        sink = self.open_sink(address)
                        if isinstance(sink, GroupedSink):
                            grouped.append((sink.group, (minted, address)))
                        else:
                            minted.read_back[address] = self._write(sink, minted)
                    except SinkError as error:
                        minted.read_back[address] = error
                if not grouped:
                    self._finish(minted)
        except WorkspaceError as error:
            self.observer.on_failure(delivery, error.failure)
        finally:
            self._waiting.add(grouped)

    def _write(self, sink: Sink, minted: _MintedToken) -> Content:
        """Write a token to one sink, and return what the sink returns when it is read back."""
        if minted.replaced_keys:
            self._keep_former(minted, sink.read())
        sink.write(minted.token)
        return sink.read()

    def _commit(self, writers: Executor) -> None:
        """Write groups of sinks as long as tokens for them may come."""
        steps: list[Future[None]] = []
        with ThreadExecutor(self.context.parallel) as group_writers:
            for due in self._waiting.due():
                writing = [group_writers.submit(self._write_group, *one) for one in due.items()]
                wait(writing)
                steps += writing
                written = dict.fromkeys(minted for writes in due.values() for minted, _ in writes)
                steps += [writers.submit(self._finish, one) for one in written if one.written]
        _wait_for(steps)

    def _write_group(self, group: SinkGroup[Any], writes: Sequence[Write]) -> None:
        """Write tokens to sinks of a group, and read them back."""
        replacing = {address: minted for minted, address in writes if minted.replaced_keys}
        if replacing:
            for address, before in group.read(tuple(replacing)).items():
                self._keep_former(replacing[address], before)
        errors = group.write({address: minted.token for minted, address in writes})
        read_back = group.read([address for _, address in writes if address not in errors])
        for minted, address in writes:
            minted.read_back[address] = errors.get(address) or read_back[address]

    def _keep_former(self, minted: _MintedToken, before: ReadBack) -> None:
        """Keep the token that a sink held before the write, if its key is about to be revoked."""
        if isinstance(before, StoredValue):
            claims = claims_of(before.value)
            if claims is not None and claims.key in minted.replaced_keys:
                self.former_tokens[claims.key] = before.value

    def _finish(self, minted: _MintedToken) -> None:
        """Report what became of a token that was written to every sink."""
        delivery = minted.delivery
        reports: dict[Address, Unreadable] = {}
        failures: list[Failure] = []
        for address in delivery.action.sinks:
            match minted.read_back[address]:
                case SinkError(failure=failure):
                    failures.append(failure)
                case Unreadable() as report:
                    reports[address] = report
                # Another token of the same key is accepted too: another run may have written it.
                case StoredValue(value=value) if value == minted.token or token_matches(
                    value, delivery.key_id, delivery.expires_at
                ):
                    continue
                case _:
                    failures.append(_not_returned(address))
        # The observation that confirms a report shows a revoked key too.
        slow = time.monotonic() - minted.minted_at > self.reverify_after
        if slow and not failures and not reports:
            failures += filter(None, [self._reverify(minted)])
        if failures:
            self.observer.on_failure(delivery, failures[0])
        else:
            self.observer.on_written(delivery, reports, _delivered_at(minted.token, reports))

    def _reverify(self, minted: _MintedToken) -> Failure | None:
        """Return a failure if another run has revoked the key while its token was being written."""
        try:
            self.context.workspace.verify_token(minted.token)
        except WorkspaceError as error:
            if error.code == Code.TOKEN_REFUSED:
                return Failure(
                    error.code,
                    f"The server no longer accepts the token for {minted.delivery.action.name!r}: "
                    "another run revoked its key during the delivery. Run the command again.",
                )
        return None


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
    _verify(workspace, token, key_id, expires_at)
    return token


def token_matches(token: Secret, key_id: str, expires_at: datetime) -> bool:
    """Return whether the token's claims name this key and cover its lifetime."""
    claims = claims_of(token)
    if claims is None or (claims.key or "").lower() != key_id.lower():
        return False
    return claims.expires_at is None or claims.expires_at >= expires_at - EXPIRY_TOLERANCE


def _delivered_at(token: Secret, reports: Mapping[Address, Unreadable]) -> datetime | None:
    """Return when the last sink got a token, by its claims and what other sinks report."""
    claims = claims_of(token)
    issued_at = None if claims is None else claims.issued_at
    # A receipt without a time proves the delivery as the token itself does.
    dated = [one for one in reports.values() if one.updated_at or not one.proven_token]
    times = [issued_at, *(one.updated_at for one in dated)]
    known = [time for time in times if time is not None]
    return max(known) if len(known) == len(times) else None


def _verify(workspace: Workspace, token: Secret, key_id: str, expires_at: datetime) -> None:
    """Verify that a token is for a key and that the server accepts it.

    Raises:
        WorkspaceError: if it is not, or the server does not.
    """
    if not token_matches(token, key_id, expires_at):
        raise WorkspaceError(
            Code.TOKEN_REFUSED,
            f"The token minted for the key {key_id} is not for that key, or expires "
            "before the key does.",
            remedy="Nothing was delivered; check the key in Twenty.",
        )
    workspace.verify_token(token)


def _not_returned(address: Address) -> Failure:
    return Failure(
        Code.SINK_FAILED,
        f"{address} accepted the token, but did not return it when it was read back.",
        "Find out what else writes to it, then run the command again.",
    )


def _wait_for(steps: Sequence[Future[None]]) -> None:
    """Wait for all steps, then raise the first bug that one of them met."""
    wait(steps)
    for step in steps:
        step.result()
