"""A scripted workspace with its sinks, for tests of runs.

The model keeps what a server keeps. Observations are its clock: a key that is committed late is
listed after so many more of them. Everything that happens is an event, at which a run may be
stopped, refused, or asked for its result. Whatever a test is about, the model fails if a run does
what it must never do: send a key again unless an observation did not show it, revoke a key of
others or the one to keep, mint a token for a key that gave way, write a token that was not
verified, or start anything after a stop.
"""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from builders import ADMIN, END, NOW, SECOND, WORKER, observation_with, observed_key, part_with

from provisioner.errors.exceptions import SinkError, WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.execution import (
    Done,
    Execution,
    ExecutionContext,
    Progress,
    RunMarker,
    StepsSettled,
)
from provisioner.execution.deliver import REVERIFY_AFTER
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles, Observation, ObservedKey
from provisioner.model.sink_content import NoToken, Unreadable
from provisioner.model.token_claims import claims_of
from provisioner.model.workspace import Created, NewKey, NotCreated, NotSent, Unknown
from provisioner.plan import Deliver, Rename, Revoke, Rotate, Update
from provisioner.runtime.cancellation import STOPPED, Cancellation
from provisioner.secret import Secret
from provisioner.sinks.sink import StoredValue

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from provisioner.execution import Event, Result
    from provisioner.model.key import Depth
    from provisioner.model.sink_address import Address
    from provisioner.model.workspace import CreateObserver, Outcome, Record, TokenRequest
    from provisioner.plan import Action
    from provisioner.sinks.sink import Content, Sink

MARKER = RunMarker(417)
NEVER = 10**6
ALWAYS = range(1, NEVER)

HANGS = Failure("timeout", "shop hangs. Wait.")
LOST = Failure("connection_lost", "The line went dead.")
REFUSED = Failure("rejected", "shop rejected the request (200: No.).")
TAKEN = Failure("rejected", "shop rejected the request (400: Record already exists).")
UNREACHABLE = Failure("unreachable", "shop cannot be reached.")


class Fate(NamedTuple):
    """The scripted outcome of one create.

    Attributes:
        shows: how many observations pass before one lists the key; None if it is never created.
        says: the answer that the caller gets.
        role: how many observations list the key without its role.
    """

    shows: int | None
    says: Literal["created", "lost", "refused", "rejected", "not sent", "taken"]
    role: int = 0


MADE = Fate(0, "created")
LOST_BEFORE = Fate(None, "lost")
LOST_AFTER = Fate(0, "lost")
LATE = Fate(1, "lost")
REFUSED_BEFORE = Fate(None, "refused")
REFUSED_AFTER = Fate(0, "refused")
REJECTED = Fate(None, "rejected")
NOT_SENT = Fate(None, "not sent")
BURIED = Fate(None, "taken")


@dataclass
class Row:
    """A key on the server.

    `owner` is the run that created it, and `…_from` is the number of an observation. Keys with a
    negative second existed before every run.
    """

    id: str
    name: str
    second: int
    end: datetime = END + timedelta(milliseconds=9)
    owner: object = None
    seen_from: int = 0
    role_from: int = 0
    gone_from: int = NEVER
    revoked_from: int = NEVER
    role: str | None = WORKER.label
    role_id: str | None = WORKER.id

    @classmethod
    def of(cls, key: ObservedKey) -> Self:
        """Return the row of a key that a plan was made of."""
        second = (key.created_at - NOW) // SECOND
        return cls(key.id, key.name, second, key.expires_at, role=key.role, role_id=key.role_id)

    @property
    def age(self) -> tuple[int, str]:
        return self.second, self.id

    @property
    def revoked(self) -> bool:
        return self.revoked_from < NEVER

    def live(self, observation: int) -> bool:
        return self.seen_from <= observation < min(self.gone_from, self.revoked_from)

    def observed(self, observation: int) -> ObservedKey:
        complete = self.role_from <= observation
        return observed_key(
            self.name,
            id=self.id,
            expires_at=self.end,
            revoked_at=NOW if self.revoked_from <= observation else None,
            created_at=NOW + self.second * SECOND,
            role=self.role if complete else None,
            role_id=self.role_id if complete else None,
        )


@dataclass
class Clock:
    """The number of observations, finished or failed, of all runs together."""

    observations: int = 0


class Waits(Cancellation):
    """A cancellation that records the waits instead of waiting."""

    def __init__(self, note: Callable[[str], None] = lambda _: None) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._note = note

    def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self._note("wait")


def token(key_id: str, ends: datetime | None, number: int = 0) -> Secret:
    """Return a token as a server signs it; the number makes two tokens of one key differ."""
    claims: dict[str, Any] = {"workspaceId": "w", "type": "API_KEY", "jti": key_id}
    claims["number"] = number
    if ends is not None:
        claims["exp"] = int(ends.timestamp())
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "HS256", "typ": "JWT"}, claims)
    )
    return Secret(f"{head}.{body}.{'x' * 43}")


@dataclass(kw_only=True)
class ModelServer:
    """The view that one run has of the model; runs that race share `rows` and `clock`.

    Attributes:
        fates: the outcomes of the creates in the order in which they are sent; all further ones
            succeed.
        named: the outcome of every create of a name; such creates do not use up `fates`.
        blind: the numbers of the observations that fail.
        revoking: the outcome of each revocation, in order; all further ones succeed.
        readings: how many records each reading returns, in order; all further ones return all.
        mints: by name, the token that is minted: `other key`, `early`, `forever`, `upper`, `junk`,
            `just`, or the failure to mint.
        proofs: by name, the failure to verify a token.
        sinks: by address, what goes wrong: a failure to `open`, `write` or `read`, or what is read
            back: `nothing`, `other`, `early`, `theirs`, `unread`.
        refuses: events that end with a refusal, as in `told`, or all of a kind by its first word.
        keep_names: the ids of keys whose renames are not done, whatever the answer says.
        undead: True if tokens of revoked keys still work.
        tokens: the token that each sink holds.
        stop_at: the event at which the run is stopped, by its number or as in `told`.
        watch: called at every event.
        long: seconds of writing to sinks after which a token is verified once more; with -1 every
            write takes long enough.
    """

    generation: Literal["legacy", "core"] = "core"
    rows: list[Row] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    run_marker: RunMarker = MARKER
    fates: Sequence[Fate] = ()
    named: Mapping[str, Fate] = field(default_factory=dict)
    blind: Container[int] = frozenset()
    revoking: Sequence[Literal["done", "refused", "lost"]] = ()
    readings: Sequence[int] = ()
    roles_hidden: bool = False
    mints: Mapping[str, str | Failure] = field(default_factory=dict)
    proofs: Mapping[str, Failure] = field(default_factory=dict)
    sinks: Mapping[Address, str | tuple[str, Failure]] = field(default_factory=dict)
    refuses: frozenset[str] = frozenset()
    keep_names: Container[str] = ()
    undead: bool = False
    tokens: dict[Address, Secret] = field(default_factory=dict)
    stop_at: int | str | None = None
    watch: Callable[[], None] = lambda: None
    long: float = REVERIFY_AFTER

    def __post_init__(self) -> None:
        self.stop = Waits(self.note)
        self.events: list[tuple[Any, ...]] = []
        self.observations = self.last_observation = self.settled = 0
        self.heard: list[Event] = []
        self.sent: list[tuple[NewKey, Fate]] = []
        self.calls: list[tuple[str, ...]] = []
        self.read: list[Mapping[str, Depth]] = []
        self.minted: dict[str, str] = {}
        self.verified: set[str] = set()
        self.ended: set[str] = set()
        self._before: frozenset[str] = frozenset()
        self._actions: tuple[Action, ...] = ()
        self._shown: frozenset[str] = frozenset()
        self._sent_at: dict[str, int] = {}
        self._refused_ids: set[str] = set()

    @property
    def chooses_ids(self) -> bool:
        return self.generation == "legacy"

    # A run, and what is known of it

    def execution(self, *actions: Action, parallel: int = 1) -> Execution:
        """Return a run that is to carry out these actions."""

        def hear(event: Event) -> None:
            self.heard.append(event)
            if isinstance(event, StepsSettled):
                self.settled += event.steps

        self._actions = actions
        self._before = frozenset(row.id for row in self.rows if row.second < 0)
        planned = part_with(*actions)
        return Execution(
            planned,
            ExecutionContext(
                planned.environment,
                self,
                existing_ids=self._before,
                parallel=parallel,
                stop=self.stop,
                progress=Progress(planned, hear),
            ),
            self.open,
            self.run_marker,
            self.long,
        )

    def run(self, *actions: Action, parallel: int = 1) -> tuple[Result, ...]:
        """Carry out these actions, and return the results."""
        execution = self.execution(*actions, parallel=parallel)
        execution.run()
        results = execution.context.progress.close().results
        assert tuple(one.action for one in results) == actions
        for one in results:
            if isinstance(one, Done) and isinstance(one.action, Update | Rename | Deliver | Revoke):
                assert one.id == one.action.key_id
        return results

    def note(self, *event: Any) -> None:
        """Record an event, and stop or refuse the run if the script says so.

        Raises:
            WorkspaceError: if the script refuses the event.
        """
        self.events.append(event)
        text = _text_of(event)
        if self.stop_at in (len(self.events), text):
            self.stop.request()
        self.watch()
        if self.refuses & {event[0], text}:
            raise WorkspaceError("rejected", f"No {text}.", remedy="Fix it.")

    def of(self, *kinds: str) -> list[tuple[Any, ...]]:
        """Return the events of some kinds, in their order."""
        return [event for event in self.events if event[0] in kinds]

    @property
    def told(self) -> list[str]:
        """The events, each as text."""
        return [_text_of(event) for event in self.events]

    @property
    def revoked(self) -> list[str]:
        """The ids of the keys that the run tried to revoke, once for each try."""
        return [key_id for _, key_id in self.of("revoke")]

    @property
    def observed_since_last_send(self) -> bool:
        """Return whether no observation has failed since the last create was sent."""
        after = 1 + max(self._sent_at.values(), default=0)
        return not any(number in self.blind for number in range(after, self.observations + 1))

    def row(self, key_id: str) -> Row | None:
        """Return the key of an id, or None if only the plan has it."""
        return next((row for row in self.rows if row.id.lower() == key_id.lower()), None)

    def created_rows(self, name: str) -> list[Row]:
        """Return all keys of a name that this run created, listed or not."""
        return [row for row in self.rows if row.name == name and row.owner is self]

    def new(self, name: str) -> list[Row]:
        """Return the new live keys of a name in the last complete observation, the oldest first."""
        found = (row for row in self.rows if row.name == name and row.id not in self._before)
        return sorted(
            (row for row in found if row.live(self.last_observation)), key=lambda row: row.age
        )

    def record(self, row: Row) -> Record:
        return {"id": row.id}

    # The workspace

    def observe(self) -> Observation:
        self.note("look")
        self.observations += 1
        self.clock.observations += 1
        if self.observations in self.blind:
            raise _error(HANGS)
        self.last_observation = self.clock.observations
        listed = [
            row for row in self.rows if row.seen_from <= self.last_observation < row.gone_from
        ]
        if self.generation == "core":
            listed = [row for row in listed if row.live(self.last_observation)]
        names = {action.name for action in self._actions}
        self._shown = frozenset(name for name in names if self.new(name))
        known = HiddenRoles() if self.roles_hidden else KnownRoles((WORKER, ADMIN))
        return observation_with(
            *(row.observed(self.last_observation) for row in listed),
            roles=NoRoles() if self.generation == "legacy" else known,
        )

    def create_many(self, keys: Sequence[NewKey], observer: CreateObserver) -> None:
        assert keys
        assert not self.stop.requested, "a create started after the stop"
        self.calls.append(tuple(key.name for key in keys))
        sent = sum(key.name not in self.named for key, _ in self.sent)
        fates = iter(self.fates[sent:])
        for key in keys:
            if self.stop.requested:
                observer.on_outcome(key, NotSent(STOPPED))
                continue
            assert self._sent_at.get(key.name, -1) < self.last_observation, (
                "sent again without an observation"
            )
            assert key.name not in self._shown, "sent again although an observation showed it"
            fate = self.named.get(key.name) or next(fates, MADE)
            observer.on_send(key)
            self.sent.append((key, fate))
            self._sent_at[key.name] = self.clock.observations
            self.note("create", key.name)
            outcome = self._answer(key, fate)
            self.note("answer", key.name)
            observer.on_outcome(key, outcome)

    def _answer(self, key: NewKey, fate: Fate) -> Outcome:
        chosen = self.chooses_ids
        assert str(uuid.UUID(key.id)) == key.id
        taken = chosen and (key.id in self._refused_ids or self.row(key.id) is not None)
        row = Row(
            id=key.id if chosen else self._id_of(key.name),
            name=key.name,
            second=10 + len(self.rows),
            end=datetime.fromisoformat(key.expires_at),
            owner=self,
        )
        if fate.shows is not None and not taken:
            row.seen_from = self.clock.observations + 1 + fate.shows
            row.role_from = row.seen_from + fate.role
            self.rows.append(row)
        match fate.says:
            case "lost":
                return Unknown(LOST)
            case "refused":
                return Unknown(REFUSED, "refused")
            case "rejected":
                return NotCreated(REFUSED)
            case "not sent":
                return NotSent(UNREACHABLE)
            case "created" if not taken:
                return Created(row.id, self.record(row))
            case _:
                self._refused_ids.add(key.id)
                return Unknown(TAKEN, "taken")

    def _id_of(self, name: str) -> str:
        """Return `id-NAME`, and for further keys of the name `id-NAME-2` and so on."""
        number = 1 + sum(row.owner is not None for row in self.rows if row.name == name)
        return f"id-{name}" if number == 1 else f"id-{name}-{number}"

    def records(self, wanted: Mapping[str, Depth]) -> dict[str, Record]:
        assert wanted
        self.note("records")
        most = self.readings[len(self.read)] if len(self.read) < len(self.readings) else NEVER
        self.read.append(dict(wanted))
        depths = {action.name: action.depth for action in self._actions}
        rows = {row.id: row for row in self.rows}
        as_planned = all(depths[rows[id_].name] == depth for id_, depth in wanted.items())
        assert as_planned or (self.roles_hidden and set(wanted.values()) == {1})
        return {id_: self.record(rows[id_]) for id_ in list(wanted)[:most]}

    def revoke(self, key_id: str) -> None:
        self.note("revoke", key_id)
        row = self.row(key_id)
        if key_id not in self._ids_to_revoke:
            assert row is not None, "a key that does not exist was revoked"
            assert row.owner is self, "a key of someone else was revoked"
            assert row is not self.new(row.name)[0], "the key to keep was revoked"
        number = len(self.revoked) - 1
        end = self.revoking[number] if number < len(self.revoking) else "done"
        if end != "refused":
            self.ended.add(key_id)
            if row is not None:
                row.revoked_from = self.clock.observations + 1
        if end != "done":
            raise _error(HANGS)

    @property
    def _ids_to_revoke(self) -> frozenset[str]:
        """The ids of the keys that the plan revokes."""
        ids: set[str] = set()
        for action in self._actions:
            if isinstance(action, Revoke):
                ids.add(action.key_id)
            elif isinstance(action, Rotate):
                ids |= {*action.predecessors}
        return frozenset(ids)

    def rename(self, key_id: str, name: str) -> None:
        assert not self.stop.requested, "a rename started after the stop"
        [action] = [
            one for one in self._actions if isinstance(one, Rename) and one.key_id == key_id
        ]
        assert name == action.name
        assert ("rename", key_id, name) not in self.events, "renamed again"
        try:
            self.note("rename", key_id, name)
        finally:
            if (row := self.row(key_id)) is not None and key_id not in self.keep_names:
                assert row.name == action.old_name
                row.name = name

    def set_expiry(self, key_id: str, ends: datetime) -> None:
        self.note("move", key_id, f"{ends:%Y-%m-%d}")
        if (row := self.row(key_id)) is not None:
            row.end = ends

    def assign_role(self, key_id: str, role_id: str) -> None:
        [role] = [one for one in (WORKER, ADMIN) if one.id == role_id]
        self.note("assign", key_id, role.label)
        if (row := self.row(key_id)) is not None:
            row.role, row.role_id = role.label, role.id

    def capabilities(self) -> Any:
        raise AssertionError("a run does not ask for capabilities")

    def mint(self, key_id: str, ends: datetime) -> Secret:
        assert not self.stop.requested, "a delivery started after the stop"
        name = self._check_mintable(key_id, ends)
        self.note("mint", key_id)
        fate = self.mints.get(name, "good")
        if isinstance(fate, Failure):
            raise _error(fate)
        number = len(self.events)
        minted = {
            "good": lambda: token(key_id, ends, number),
            "upper": lambda: token(key_id.upper(), ends, number),
            "forever": lambda: token(key_id, None, number),
            "just": lambda: token(key_id, ends - 59 * SECOND, number),
            "other key": lambda: token("other", ends, number),
            "early": lambda: token(key_id, ends - 61 * SECOND, number),
            "junk": lambda: Secret("no-token-at-all"),
        }[fate]()
        self.minted[minted.reveal()] = key_id
        return minted

    def mint_many(self, requests: Sequence[TokenRequest]) -> tuple[Secret | Failure, ...]:
        outcomes: list[Secret | Failure] = []
        for request in requests:
            if self.stop.requested:
                outcomes.append(STOPPED)
                continue
            try:
                outcomes.append(self.mint(*request))
            except WorkspaceError as error:
                outcomes.append(error.failure)
        return tuple(outcomes)

    def _check_mintable(self, key_id: str, ends: datetime) -> str:
        """Return the name of the key, and check that the token gets the right expiry."""
        changed = {one.key_id: one for one in self._actions if isinstance(one, Update | Deliver)}
        if key_id in changed:
            action = changed[key_id]
            if isinstance(action, Deliver):
                assert ends == action.expires_at
            return action.name
        row = self.row(key_id)
        assert row is not None
        assert row.id not in self._before, "no action is about this key"
        same = [one for one in self.rows if one.name == row.name and one.id not in self._before]
        live = [one for one in same if not one.revoked]
        assert row is min(live, key=lambda one: one.age), "not the key to keep"
        assert ends == row.end
        return row.name

    def verify_token(self, token: Secret) -> None:
        claims = claims_of(token)
        assert claims is not None
        key_id = self.minted.get(token.reveal(), claims.key) or ""
        self.note("prove", key_id)
        if key_id in self.ended and not self.undead:
            raise WorkspaceError("token_refused", "It is revoked.", remedy="")
        row = self.row(key_id)
        if row is not None and (why := self.proofs.get(row.name)):
            raise _error(why)
        self.verified.add(token.reveal())

    def close(self) -> None:
        raise AssertionError("a run does not close the workspace")

    # The sinks

    def open(self, address: Address) -> Sink:
        self.note("open", address)
        self.raise_scripted(address, "open")
        return Shelf(self, address)

    def raise_scripted(self, address: Address, operation: str) -> None:
        fate = self.sinks.get(address)
        if isinstance(fate, tuple) and fate[0] == operation:
            raise SinkError(fate[1].code, fate[1].message)
        if fate == f"bug at {operation}":
            raise ZeroDivisionError


@dataclass
class Shelf:
    """One sink of the model."""

    server: ModelServer
    address: Address

    def check(self) -> None:
        raise AssertionError("only a plan checks sinks")

    def read(self) -> Content:
        self._note("read")
        stored = self.server.tokens.get(self.address)
        if stored is None:
            return NoToken()
        key_id = self.server.minted.get(stored.reveal(), "")
        row = self.server.row(key_id)
        end = row.end if row else END
        returned: dict[object, Content] = {
            "nothing": NoToken(),
            "other": StoredValue(token("other", end, 999)),
            "early": StoredValue(token(key_id, end - 61 * SECOND, 999)),
            "theirs": StoredValue(token(key_id, end, 999)),
            "unread": Unreadable(NOW),
        }
        return returned.get(self.server.sinks.get(self.address)) or StoredValue(
            Secret(stored.reveal())
        )

    def write(self, token: Secret) -> None:
        assert token.reveal() in self.server.verified, "written before it was verified"
        self._note("write")
        self.server.tokens[self.address] = token

    def remove(self, token: Secret) -> bool:
        self._note("remove")
        if self.server.tokens.get(self.address) == token:
            del self.server.tokens[self.address]
        return self.address not in self.server.tokens

    def _note(self, operation: str) -> None:
        try:
            self.server.note(operation, self.address)
        except WorkspaceError:
            raise SinkError("sink_denied", "No.", remedy="Fix it.") from None
        self.server.raise_scripted(self.address, operation)


def _text_of(event: tuple[Any, ...]) -> str:
    return " ".join(map(str, event))


def _error(why: Failure) -> WorkspaceError:
    return WorkspaceError(why.code, why.message)
