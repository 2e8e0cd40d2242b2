"""A workspace and its sinks as runs meet them: a script says what becomes of each request.

The model keeps what a server keeps. Looks are its clock: a key that commits late shows after so
many more of them. Whatever happens is an event, at which a run may be stopped, refused, or asked
for its result. What a run must never do fails here, whatever a test was about: to send a key again
without a look that does not show it, to end a key of others or the one that stays, to mint for a
key that gave way, to write what was not proven, to begin anything after a stop.
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
from provisioner.execution import Done, Execution, RunMarker
from provisioner.execution.deliver import REVERIFY_AFTER
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles, Observation, ObservedKey
from provisioner.model.token_claims import claims_of
from provisioner.plan import Deliver, Revoke, Rotate, Update
from provisioner.runtime.cancellation import STOPPED, Cancellation
from provisioner.secret import Secret
from provisioner.sinks.sink import Empty, StoredValue, WriteOnly
from provisioner.twenty.workspace import Created, NewKey, NotCreated, NotSent, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from provisioner.execution import Event, Result
    from provisioner.model.key import Depth
    from provisioner.model.sink_address import Address
    from provisioner.plan import Action
    from provisioner.sinks.sink import Content, Sink
    from provisioner.twenty.workspace import CreateObserver, Outcome, Record

MARK = RunMarker(417)
NEVER = 10**6
ALWAYS = range(1, NEVER)

HANGS = Failure("timeout", "shop hangs. Wait.")
LOST = Failure("connection_lost", "The line went dead.")
REFUSED = Failure("rejected", "shop rejected the request (200: No.).")
TAKEN = Failure("rejected", "shop rejected the request (400: Record already exists).")
UNREACHABLE = Failure("unreachable", "shop cannot be reached.")


class Fate(NamedTuple):
    """What becomes of one create.

    Attributes:
        shows: how many looks pass before one shows the key; None where it is never made.
        says: what the caller is told.
        role: how many looks show the key without its role.
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
    """A key on the server; `owner` is the run that made it, `…_from` the number of a look.

    Those of a negative second were there before every run.
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
        """A key that a plan was made of."""
        made = (key.created_at - NOW) // SECOND
        return cls(key.id, key.name, made, key.expires_at, role=key.role, role_id=key.role_id)

    @property
    def age(self) -> tuple[int, str]:
        return self.second, self.id

    @property
    def revoked(self) -> bool:
        return self.revoked_from < NEVER

    def live(self, look: int) -> bool:
        return self.seen_from <= look < min(self.gone_from, self.revoked_from)

    def observed(self, look: int) -> ObservedKey:
        whole = self.role_from <= look
        return observed_key(
            self.name,
            id=self.id,
            expires_at=self.end,
            revoked_at=NOW if self.revoked_from <= look else None,
            created_at=NOW + self.second * SECOND,
            role=self.role if whole else None,
            role_id=self.role_id if whole else None,
        )


@dataclass
class Clock:
    """How many looks have come to an end or failed, of all runs together."""

    looks: int = 0


class Waits(Cancellation):
    """A stop that counts the waits instead of waiting."""

    def __init__(self, note: Callable[[str], None] = lambda _: None) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._note = note

    def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self._note("wait")


def token(key_id: str, ends: datetime | None, number: int = 0) -> Secret:
    """A token as a server signs it; the number makes two of one key differ."""
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
    """One run's way to the model; runs that race share `rows` and `clock`.

    Attributes:
        fates: what becomes of the creates, in the order in which they are sent; then all is well.
        named: the same of every create of a name, which is none of those then.
        blind: the numbers of the looks that fail.
        revoking: what becomes of each revoking, in order; then all go well.
        readings: how many records each reading shows, in order; then all.
        mints: by name, what is minted: `other key`, `early`, `forever`, `upper`, `junk`, `just`,
            or the failure instead.
        proofs: by name, the failure of the proof.
        sinks: by address, what becomes of it: a failure to `open`, `write` or `read`, or what is
            read back: `nothing`, `other`, `early`, `theirs`, `unread`.
        refuses: events that end with a refusal, as `told`, or all of a kind by the first word.
        undead: whether tokens of keys that were revoked go on working.
        tokens: the token that each sink holds.
        stop_at: the event at which the run is told to stop, by its number or as `told`.
        watch: called at every event.
        long: seconds after which a token is proven once more; anything is long from -1 on.
    """

    generation: Literal["legacy", "core"] = "core"
    rows: list[Row] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    mark: RunMarker = MARK
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
    undead: bool = False
    tokens: dict[Address, Secret] = field(default_factory=dict)
    stop_at: int | str | None = None
    watch: Callable[[], None] = lambda: None
    long: float = REVERIFY_AFTER

    def __post_init__(self) -> None:
        self.stop = Waits(self.note)
        self.events: list[tuple[Any, ...]] = []
        self.looks = self.seen = self.settled = 0
        self.heard: list[Event] = []
        self.sent: list[tuple[NewKey, Fate]] = []
        self.calls: list[tuple[str, ...]] = []
        self.read: list[Mapping[str, Depth]] = []
        self.minted: dict[str, str] = {}
        self.proven: set[str] = set()
        self.ended: set[str] = set()
        self._before: frozenset[str] = frozenset()
        self._actions: tuple[Action, ...] = ()
        self._shown: frozenset[str] = frozenset()
        self._sent_at: dict[str, int] = {}
        self._refused_ids: set[str] = set()

    # A run, and what is known of it

    def execution(self, *actions: Action, parallel: int = 1) -> Execution:
        """A run that is to carry these out."""

        def count(number: int) -> None:
            self.settled += number

        self._actions = actions
        self._before = frozenset(row.id for row in self.rows if row.second < 0)
        return Execution(
            part_with(*actions),
            self._before,
            self,
            self.open,
            parallel=parallel,
            run_marker=self.mark,
            stop=self.stop,
            on_progress=count,
            emit=self.heard.append,
            reverify_after=self.long,
        )

    def run(self, *actions: Action, parallel: int = 1) -> tuple[Result, ...]:
        """What such a run reports when it has ended."""
        execution = self.execution(*actions, parallel=parallel)
        execution.run()
        results = execution.finish().results
        assert tuple(one.action for one in results) == actions
        for one in results:
            if isinstance(one, Done) and isinstance(one.action, Update | Deliver | Revoke):
                assert one.id == one.action.key_id
        return results

    def note(self, *event: Any) -> None:
        """Something happens.

        Raises:
            WorkspaceError: when the script refuses it.
        """
        self.events.append(event)
        said = _said(event)
        if self.stop_at in (len(self.events), said):
            self.stop.ask()
        self.watch()
        if self.refuses & {event[0], said}:
            raise WorkspaceError("rejected", f"No {said}.", remedy="Mend it.")

    def of(self, *kinds: str) -> list[tuple[Any, ...]]:
        """The events of some kinds, in their order."""
        return [event for event in self.events if event[0] in kinds]

    @property
    def told(self) -> list[str]:
        """The events, each in words."""
        return [_said(event) for event in self.events]

    @property
    def revoked(self) -> list[str]:
        """The ids of the keys that were to be revoked, once for each try."""
        return [key_id for _, key_id in self.of("revoke")]

    @property
    def well(self) -> bool:
        """Whether no look failed since something was sent for the last time."""
        after = 1 + max(self._sent_at.values(), default=0)
        return not any(look in self.blind for look in range(after, self.looks + 1))

    def row(self, key_id: str) -> Row | None:
        """The key of an id; None of one that a plan has and this server does not."""
        return next((row for row in self.rows if row.id.lower() == key_id.lower()), None)

    def made(self, name: str) -> list[Row]:
        """All keys of a name that this run made, seen or not."""
        return [row for row in self.rows if row.name == name and row.owner is self]

    def new(self, name: str) -> list[Row]:
        """The live new keys of a name in the last look that came to an end, the first first."""
        found = (row for row in self.rows if row.name == name and row.id not in self._before)
        return sorted((row for row in found if row.live(self.seen)), key=lambda row: row.age)

    def record(self, row: Row) -> Record:
        return {"id": row.id}

    # The workspace

    def observe(self) -> Observation:
        self.note("look")
        self.looks += 1
        self.clock.looks += 1
        if self.looks in self.blind:
            raise _error(HANGS)
        self.seen = self.clock.looks
        listed = [row for row in self.rows if row.seen_from <= self.seen < row.gone_from]
        if self.generation == "core":
            listed = [row for row in listed if row.live(self.seen)]
        names = {action.name for action in self._actions}
        self._shown = frozenset(name for name in names if self.new(name))
        known = HiddenRoles() if self.roles_hidden else KnownRoles((WORKER, ADMIN))
        return observation_with(
            *(row.observed(self.seen) for row in listed),
            roles=NoRoles() if self.generation == "legacy" else known,
        )

    def create_many(self, keys: Sequence[NewKey], observer: CreateObserver) -> None:
        assert keys
        assert not self.stop.asked, "a create began after the stop was asked for"
        self.calls.append(tuple(key.name for key in keys))
        sent = sum(key.name not in self.named for key, _ in self.sent)
        fates = iter(self.fates[sent:])
        for key in keys:
            if self.stop.asked:
                observer.on_outcome(key, NotSent(STOPPED))
                continue
            assert self._sent_at.get(key.name, -1) < self.seen, "sent again without a look"
            assert key.name not in self._shown, "sent again although a look showed it"
            fate = self.named.get(key.name) or next(fates, MADE)
            observer.on_send(key)
            self.sent.append((key, fate))
            self._sent_at[key.name] = self.clock.looks
            self.note("create", key.name)
            outcome = self._answer(key, fate)
            self.note("answer", key.name)
            observer.on_outcome(key, outcome)

    def _answer(self, key: NewKey, fate: Fate) -> Outcome:
        chosen = self.generation == "legacy"
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
            row.seen_from = self.clock.looks + 1 + fate.shows
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
        """`id-NAME`, and of further keys of the name `id-NAME-2` and so on."""
        number = 1 + sum(row.owner is not None for row in self.rows if row.name == name)
        return f"id-{name}" if number == 1 else f"id-{name}-{number}"

    def records(self, wanted: Mapping[str, Depth]) -> dict[str, Record]:
        assert wanted
        self.note("records")
        most = self.readings[len(self.read)] if len(self.read) < len(self.readings) else NEVER
        self.read.append(dict(wanted))
        depths = {action.name: action.depth for action in self._actions}
        rows = {row.id: row for row in self.rows}
        asked = all(depths[rows[id_].name] == depth for id_, depth in wanted.items())
        assert asked or (self.roles_hidden and set(wanted.values()) == {1})
        return {id_: self.record(rows[id_]) for id_ in list(wanted)[:most]}

    def revoke(self, key_id: str) -> None:
        self.note("revoke", key_id)
        row = self.row(key_id)
        if key_id not in self._may_end:
            assert row is not None, "a key that is nowhere was revoked"
            assert row.owner is self, "a key of someone else was revoked"
            assert row is not self.new(row.name)[0], "the key that stays was revoked"
        number = len(self.revoked) - 1
        end = self.revoking[number] if number < len(self.revoking) else "done"
        if end != "refused":
            self.ended.add(key_id)
            if row is not None:
                row.revoked_from = self.clock.looks + 1
        if end != "done":
            raise _error(HANGS)

    @property
    def _may_end(self) -> frozenset[str]:
        """The keys that the plan ends."""
        ids: set[str] = set()
        for action in self._actions:
            if isinstance(action, Revoke):
                ids.add(action.key_id)
            elif isinstance(action, Rotate):
                ids |= {*action.predecessors}
        return frozenset(ids)

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
        raise AssertionError("nobody asks here")

    def mint(self, key_id: str, ends: datetime) -> Secret:
        assert not self.stop.asked, "a delivery began after the stop was asked for"
        name = self._demand_mintable(key_id, ends)
        self.note("mint", key_id)
        fate = self.mints.get(name, "good")
        if isinstance(fate, Failure):
            raise _error(fate)
        number = len(self.events)
        made = {
            "good": lambda: token(key_id, ends, number),
            "upper": lambda: token(key_id.upper(), ends, number),
            "forever": lambda: token(key_id, None, number),
            "just": lambda: token(key_id, ends - 59 * SECOND, number),
            "other key": lambda: token("other", ends, number),
            "early": lambda: token(key_id, ends - 61 * SECOND, number),
            "junk": lambda: Secret("no-token-at-all"),
        }[fate]()
        self.minted[made.reveal()] = key_id
        return made

    def _demand_mintable(self, key_id: str, ends: datetime) -> str:
        """The name of a key that a token is for, until its end or the one that it is to get."""
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
        assert row is min(live, key=lambda one: one.age), "not the key that stays"
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
        self.proven.add(token.reveal())

    def close(self) -> None:
        raise AssertionError("whoever opened the workspace closes it")

    # The sinks

    def open(self, address: Address) -> Sink:
        self.note("open", address)
        self.trouble(address, "open")
        return Shelf(self, address)

    def trouble(self, address: Address, moment: str) -> None:
        fate = self.sinks.get(address)
        if isinstance(fate, tuple) and fate[0] == moment:
            raise SinkError(fate[1].code, fate[1].message)
        if fate == f"bug at {moment}":
            raise ZeroDivisionError


@dataclass
class Shelf:
    """One sink of a model."""

    server: ModelServer
    address: Address

    def prepare(self) -> None:
        raise AssertionError("a plan looks ahead, and a run does not")

    def read(self) -> Content:
        self._note("read")
        held = self.server.tokens.get(self.address)
        if held is None:
            return Empty()
        key_id = self.server.minted.get(held.reveal(), "")
        row = self.server.row(key_id)
        end = row.end if row else END
        shown: dict[object, Content] = {
            "nothing": Empty(),
            "other": StoredValue(token("other", end, 999)),
            "early": StoredValue(token(key_id, end - 61 * SECOND, 999)),
            "theirs": StoredValue(token(key_id, end, 999)),
            "unread": WriteOnly(NOW),
        }
        return shown.get(self.server.sinks.get(self.address)) or StoredValue(Secret(held.reveal()))

    def write(self, token: Secret) -> None:
        assert token.reveal() in self.server.proven, "written before it was proven"
        self._note("write")
        self.server.tokens[self.address] = token

    def _note(self, moment: str) -> None:
        try:
            self.server.note(moment, self.address)
        except WorkspaceError:
            raise SinkError("sink_denied", "No.", remedy="Mend it.") from None
        self.server.trouble(self.address, moment)


def _said(event: tuple[Any, ...]) -> str:
    return " ".join(map(str, event))


def _error(why: Failure) -> WorkspaceError:
    return WorkspaceError(why.code, why.message)
