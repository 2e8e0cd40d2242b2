"""Tokens on their way: minted, proven, written, read back, and reported as what became of them."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from builders import END, NOW, create, deliver, file_sink, part_with, plan_with, rotate, vault_sink
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from model_server import ALWAYS, HANGS, LOST_AFTER, MADE, REJECTED, Fate, ModelServer, Row, token

from provisioner import schemas, secret
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.execution import (
    CreatedByAnotherRun,
    Done,
    Executed,
    Execution,
    Failed,
    RunResult,
    Skipped,
    Unfinished,
)
from provisioner.execution.deliver import token_matches
from provisioner.model.sink_address import CommandAddress, FileAddress
from provisioner.model.token_claims import claims_of
from provisioner.plan import (
    Create,
    Deliver,
    DeliveryUnknown,
    Estimate,
)
from provisioner.render.json import result_document
from provisioner.render.text import PLAIN, result_text
from provisioner.runtime.cancellation import STOPPED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.execution import Result
    from provisioner.model.sink_address import Address
    from provisioner.plan import Action
    from provisioner.secret import Secret
    from provisioner.sinks.sink import Sink

pytestmark = pytest.mark.fast

THEIR_END = END + timedelta(milliseconds=9)
OLD_END = END + timedelta(days=30, milliseconds=5)
OUR_END = END + timedelta(milliseconds=417)

FILE = file_sink("secrets/a.env")
VAULT = vault_sink()
DOWN = Failure("sink_unavailable", "The sink did not answer. Run again.")
LATER = Failure("sink_denied", "The sink refused it. Ask for more.")
NO_MORE = Failure("rate_limited", "shop is busy. Wait.")
BUG = Failure("internal_error", "A bug. Report it.")
NOT_BEGUN = Failure(
    "stopped",
    "The key is made, and the run was told to stop before its token was delivered. The next run "
    "delivers it.",
)
IN_FLIGHT = Failure(
    "not_delivered",
    "The key is made, and the run had to end while its token was being delivered. The next run "
    "delivers it.",
)


@pytest.fixture(autouse=True, scope="module")
def forgotten() -> Iterator[None]:
    """What is wrapped here is masked in no other test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secret, "_KNOWN", secret._Known())
        yield


STUCK = ["refused"] * 99


def renew(name: str, *sinks: Address, **changes: Any) -> Deliver:
    """A new token for the key that was there before the run."""
    return deliver(name, *sinks, **({"expires_at": OLD_END} | changes))


def old(name: str) -> Row:
    """A key that was there before the run."""
    return Row(f"old-{name}", name, -1, OLD_END)


def theirs(name: str) -> Row:
    """A key that another run made at the same moment, earlier than ours."""
    return Row(f"their-{name}", name, 1, THEIR_END)


def steps(*actions: Action) -> int:
    return plan_with(part_with(*actions)).steps


def sinks_of(name: str) -> tuple[Address, Address]:
    return file_sink(variable=name), vault_sink(name)


REFUSED = (
    "The token that was minted for the key {} does not say that it is for this key until its end. "
    "Nothing was delivered; look at the key in Twenty itself."
)


# --- The order -----------------------------------------------------------------------------------


def test_a_token_is_minted_proven_written_and_read_back_in_this_order() -> None:
    """After the key is made and a look has settled it; sink by sink, one token for all of them."""
    world = ModelServer()
    results = world.run(create("a", FILE, VAULT))
    assert results == (Done(create("a", FILE, VAULT), "id-a", {"id": "id-a"}),)
    assert [event for event in world.events if event[0] != "wait"] == [
        ("create", "a"),
        ("answer", "a"),
        ("look",),
        ("mint", "id-a"),
        ("prove", "id-a"),
        ("open", FILE),
        ("write", FILE),
        ("read", FILE),
        ("open", VAULT),
        ("write", VAULT),
        ("read", VAULT),
    ]
    assert world.tokens[FILE].reveal() == world.tokens[VAULT].reveal()


def test_every_key_is_made_before_any_token_is_minted() -> None:
    """New keys first, in the order of the plan, then those that were there."""
    world = ModelServer(rows=[old("x"), old("y")])
    actions = (
        renew("x", *sinks_of("x")),
        create("b", *sinks_of("b")),
        create("bare"),
        renew("y", *sinks_of("y")),
        create("a", *sinks_of("a")),
    )
    results = world.run(*actions)
    assert [type(one) for one in results] == [Done] * 5
    assert [one.action for one in results] == list(actions)
    assert results[0] == Done(actions[0], "old-x", None)
    assert [event[1] for event in world.of("create", "mint")] == [
        *["b", "bare", "a"],
        *["id-b", "id-a", "old-x", "old-y"],
    ]
    assert "look" not in [
        event[0] for event in world.events[world.events.index(("mint", "id-b")) :]
    ]


@pytest.mark.parametrize("fate", [MADE, LOST_AFTER])
def test_a_token_ends_when_its_key_does(fate: Fate) -> None:
    """To the millisecond of the run's mark; also of a key that only a look showed."""
    world = ModelServer(named={"a": fate})
    world.run(create("a", FILE))
    [row] = world.rows
    assert row.end == OUR_END
    claims = claims_of(world.tokens[FILE])
    assert claims is not None
    assert (claims.key, claims.expires_at) == ("id-a", END)


def test_a_run_without_sinks_mints_nothing_and_opens_nothing() -> None:
    """Keys are made as they always were."""
    world = ModelServer()
    [result] = world.run(create("a"))
    assert isinstance(result, Done)
    assert world.of("mint", "prove", "open", "write", "read") == []
    assert world.settled == 1


def test_blocked_deliveries_are_failed_and_nothing_is_minted_for_them() -> None:
    """With the failure of the plan, in their place."""
    world = ModelServer(rows=[old("x"), old("y")])
    blocked = renew("x", FILE, blocked=DOWN)
    closed = create("a", VAULT, blocked=LATER)
    results = world.run(blocked, renew("y", *sinks_of("y")), closed)
    assert results[0] == Failed(blocked, DOWN)
    assert isinstance(results[1], Done)
    assert results[2] == Failed(closed, LATER)
    assert world.of("create", "mint") == [("mint", "old-y")]
    assert world.settled == 1


# --- Tokens that go nowhere ----------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["other key", "early", "junk"])
def test_a_token_that_is_not_for_its_key_until_its_end_goes_nowhere(fate: str) -> None:
    """Neither proven nor written; the key that was made is named."""
    world = ModelServer(rows=[old("x")], mints={"a": fate, "x": fate})
    first, second = world.run(create("a", FILE), renew("x", VAULT))
    why = Failure("token_refused", REFUSED.format("id-a"))
    assert first == Unfinished(create("a", FILE), "id-a", {"id": "id-a"}, why)
    assert second == Failed(renew("x", VAULT), Failure("token_refused", REFUSED.format("old-x")))
    assert world.of("prove", "open") == []


@pytest.mark.parametrize("fate", ["upper", "forever", "just"])
def test_a_token_may_write_its_key_in_capitals_and_end_later_or_just_before(fate: str) -> None:
    """Ids have no case, a minute is no difference, and a token without an end outlives its key."""
    world = ModelServer(mints={"a": fate})
    [result] = world.run(create("a", FILE))
    assert isinstance(result, Done)
    assert world.tokens[FILE].reveal() in world.proven


def test_a_token_may_end_60_seconds_before_its_key_and_not_a_second_earlier() -> None:
    """Where its key ends at a whole second; the same boundary as that of a plan."""
    last = END - timedelta(seconds=60)
    assert token_matches(token("id-a", last), "id-a", END)
    assert not token_matches(token("id-a", last - timedelta(seconds=1)), "id-a", END)
    assert not token_matches(token("id-a", last), "id-a", OUR_END)


def test_a_token_that_was_not_minted_or_not_accepted_goes_nowhere() -> None:
    """The failure is the server's; other keys get theirs."""
    actions = [create("a", *sinks_of("a")), create("b", *sinks_of("b")), create("c", FILE)]
    world = ModelServer(mints={"a": HANGS}, proofs={"b": NO_MORE})
    results = world.run(*actions)
    assert results[0] == Unfinished(actions[0], "id-a", {"id": "id-a"}, HANGS)
    assert results[1] == Unfinished(actions[1], "id-b", {"id": "id-b"}, NO_MORE)
    assert isinstance(results[2], Done)
    assert world.of("open") == [("open", FILE)]
    assert world.settled == steps(*actions) == 6


# --- Sinks that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["open", "write", "read"])
def test_a_sink_that_fails_does_not_keep_the_token_from_the_others(moment: str) -> None:
    """The first failure is told; a made key is unfinished with its id and its record."""
    third = FileAddress("b.env", "B")
    world = ModelServer(rows=[old("x")], sinks={FILE: (moment, DOWN), VAULT: (moment, LATER)})
    made = create("a", FILE, VAULT, third)
    there = renew("x", *sinks_of("x"), VAULT)
    results = world.run(made, there)
    assert results == (
        Unfinished(made, "id-a", {"id": "id-a"}, DOWN),
        Failed(there, LATER),
    )
    assert {third, *sinks_of("x")} <= world.tokens.keys()
    assert (FILE in world.tokens) == (moment == "read")
    assert RunResult(NOW, "", (Executed(part_with(made, there), results),)).incomplete
    assert world.settled == steps(made, there) == 3


@pytest.mark.parametrize("fate", ["nothing", "other", "early"])
def test_a_sink_that_does_not_hold_what_it_took_has_failed(fate: str) -> None:
    """It holds nothing, the token of another key, or one that ends too early."""
    world = ModelServer(sinks={FILE: fate})
    [result] = world.run(create("a", FILE))
    assert isinstance(result, Unfinished)
    assert result.failure == Failure(
        "sink_failed",
        "file secrets/a.env A took the token, and does not hold it when it is read back. "
        "Look for what else writes there, and run again.",
    )


@pytest.mark.parametrize("fate", ["theirs", "unread"])
def test_another_good_token_of_the_key_is_as_good_and_so_is_a_sink_that_cannot_be_read(
    fate: str,
) -> None:
    """Of two runs at once the one that wrote last is read by both."""
    world = ModelServer(sinks={FILE: fate})
    [result] = world.run(create("a", FILE))
    assert isinstance(result, Done)


def test_what_fails_names_no_token(caplog) -> None:
    """Neither results nor the log hold one."""
    world = ModelServer(
        rows=[old("x")], sinks={FILE: "other", VAULT: ("write", DOWN)}, mints={"b": "junk"}
    )
    with caplog.at_level("DEBUG"):
        results = world.run(create("a", FILE, VAULT), create("b", FILE), renew("x", FILE))
    shown = repr(results) + json.dumps(result_document(result_of(*results))) + caplog.text
    assert len(world.minted) == 3
    assert not [one for one in world.minted if one in shown]


# --- Keys that get no token, or another's --------------------------------------------------------


def test_a_key_that_gave_way_delivers_the_key_that_stays() -> None:
    """The token is for the other run's key, until its end; ours is revoked before."""
    world = ModelServer(rows=[theirs("a")])
    [result] = world.run(create("a", FILE))
    assert result == CreatedByAnotherRun(create("a", FILE), "their-a", {"id": "their-a"})
    claims = claims_of(world.tokens[FILE])
    assert claims is not None
    assert claims.key == "their-a"
    assert world.of("revoke", "mint") == [("revoke", "id-a"), ("mint", "their-a")]


def test_a_key_of_another_run_that_cannot_be_delivered_is_unfinished() -> None:
    """With the id of the key that stays."""
    world = ModelServer(rows=[theirs("a")], sinks={FILE: ("write", DOWN)})
    assert world.run(create("a", FILE)) == (
        Unfinished(create("a", FILE), "their-a", {"id": "their-a"}, DOWN, created=False),
    )


@pytest.mark.parametrize(
    ("fate", "code"),
    [
        ({"blind": ALWAYS}, "not_settled"),
        ({"revoking": STUCK}, "duplicate_left"),
        ({"named": {"a": REJECTED}}, "rejected"),
    ],
)
def test_a_key_that_is_not_settled_gets_no_token(fate: Any, code: str) -> None:
    """Which key of the name stays is not known, or there is none; the failure says so."""
    world = ModelServer(rows=[old("x"), *([theirs("a")] if "revoking" in fate else [])], **fate)
    result, other = world.run(create("a", FILE), renew("x", VAULT))
    assert isinstance(result, Unfinished | Failed)
    assert result.failure.code == code
    assert isinstance(other, Done)
    assert world.of("mint") == [("mint", "old-x")]


# --- Stopping ------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_before_it_begins_delivers_nothing() -> None:
    """Deliveries are skipped as creates are."""
    world = ModelServer(rows=[old("x")])
    world.stop.ask()
    actions = (create("a", FILE), renew("x", VAULT))
    assert world.run(*actions) == tuple(Skipped(one, STOPPED) for one in actions)
    assert world.events == []


def test_a_key_that_was_made_before_the_stop_says_that_its_token_is_missing() -> None:
    """The run that made it ends without its delivery: unfinished, with its id; not done."""
    world = ModelServer(rows=[old("x")], stop_at=1)
    actions = (create("a", FILE), create("bare"), renew("x", VAULT))
    assert world.run(*actions) == (
        Unfinished(actions[0], "id-a", {"id": "id-a"}, NOT_BEGUN),
        Skipped(actions[1], STOPPED),
        Skipped(actions[2], STOPPED),
    )
    assert world.of("mint") == []


def test_a_delivery_under_way_is_brought_to_its_end_and_none_begins_after_it() -> None:
    """The stop comes while the first token is minted."""
    world = ModelServer(rows=[old("x"), old("y")])
    world.watch = lambda: world.stop.ask() if world.events[-1] == ("mint", "old-x") else None
    first, second = renew("x", *sinks_of("x")), renew("y", VAULT)
    assert world.run(first, second) == (Done(first, "old-x", None), Skipped(second, STOPPED))
    assert set(world.tokens) == set(sinks_of("x"))
    assert world.settled == 1


def test_a_result_can_be_asked_for_while_a_token_is_on_its_way() -> None:
    """Never done before the last sink was read back; then at once."""
    world = ModelServer(rows=[old("x")])
    made, there = create("a", FILE, VAULT), renew("x", *sinks_of("x"))
    execution = world.execution(made, there)
    seen: list[tuple[str, tuple[Result, ...]]] = []
    world.watch = lambda: seen.append((world.events[-1][0], execution.result().results))
    record = {"id": "id-a"}
    execution.run()
    on_its_way = Unfinished(made, "id-a", record, IN_FLIGHT)
    done = Done(made, "id-a", record)
    skipped = Skipped(there, STOPPED)
    moments = ["mint", "prove", *["open", "write", "read"] * 2]
    later = [one for one in seen if one[0] not in ("create", "answer", "wait")]
    assert later == [
        ("look", (Unfinished(made, "id-a", record, NOT_BEGUN), skipped)),
        *[(moment, (on_its_way, skipped)) for moment in moments],
        *[(moment, (done, Failed(there, IN_FLIGHT))) for moment in moments],
    ]
    assert execution.result().results == (done, Done(there, "old-x", None))


# --- Bugs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["open", "write", "read"])
def test_a_bug_in_a_sink_is_the_failure_of_what_is_open(moment: str) -> None:
    """The others are delivered, whether they come before it or after."""
    world = ModelServer(rows=[old("x"), old("y"), old("z")], sinks={VAULT: f"bug at {moment}"})
    actions = (create("a", FILE), create("b", VAULT), renew("x", VAULT), renew("y", VAULT))
    last = renew("z", FILE)
    execution = world.execution(*actions, last)
    with pytest.raises(ZeroDivisionError):
        execution.run()
    first, *rest, after = execution.result(BUG).results
    assert first == Done(actions[0], "id-a", {"id": "id-a"})
    assert after == Done(last, "old-z", None)
    assert rest == [
        Unfinished(actions[1], "id-b", {"id": "id-b"}, BUG),
        Failed(actions[2], BUG),
        Failed(actions[3], BUG),
    ]


def test_what_failed_before_a_bug_keeps_its_own_failure() -> None:
    """The bug is the failure of the others alone."""
    world = ModelServer(rows=[old("x")], sinks={FILE: ("write", DOWN), VAULT: "bug at write"})
    execution = world.execution(create("a", FILE), renew("x", VAULT))
    with pytest.raises(ZeroDivisionError):
        execution.run()
    first, second = execution.result(BUG).results
    assert first == Unfinished(create("a", FILE), "id-a", {"id": "id-a"}, DOWN)
    assert second == Failed(renew("x", VAULT), BUG)


# --- How many at once, and how far it is ---------------------------------------------------------


@pytest.mark.parametrize("parallel", [1, 2, 5])
def test_so_many_deliveries_are_under_way_at_once_and_no_more(parallel: int) -> None:
    """The sinks wait for each other: fewer would never meet, and the most is counted."""
    names = [f"k{number}" for number in range(2 * parallel)]
    together = threading.Barrier(parallel)
    lock = threading.Lock()
    flying = most = 0

    class Meeting(ModelServer):
        def open(self, address: Address) -> Sink:
            nonlocal flying, most
            with lock:
                flying += 1
                most = max(most, flying)
            together.wait(10)
            with lock:
                flying -= 1
            return super().open(address)

    world = Meeting(rows=[old(name) for name in names])
    actions = [renew(name, sinks_of(name)[0]) for name in names]
    results = world.run(*actions, parallel=parallel)
    assert [type(one) for one in results] == [Done] * len(names)
    assert most == parallel
    assert world.settled == steps(*actions)


def test_a_token_that_took_long_to_its_sinks_is_proven_once_more() -> None:
    """Another run may have ended its key meanwhile, and put its own token there before ours."""
    world = ModelServer(rows=[old("x")], long=-1)
    assert [type(one) for one in world.run(renew("x", FILE))] == [Done]
    moments = [event[0] for event in world.events]
    assert moments.count("prove") == 2
    assert moments.index("write") < len(moments) - 1 - moments[::-1].index("prove")

    class Later(ModelServer):
        code = ""

        def verify_token(self, token: Secret) -> None:
            if token.reveal() in self.proven:
                raise WorkspaceError(self.code, "No.", remedy="Nothing was delivered.")
            super().verify_token(token)

    world = Later(rows=[old("x")], long=-1)
    world.code = "token_refused"
    [failed] = world.run(renew("x", FILE))
    assert isinstance(failed, Failed)
    assert failed.failure.code == "token_refused"
    assert "another run ended its key during delivery" in failed.failure.message
    assert "Nothing was delivered" not in failed.failure.message
    # That it cannot be proven just now says nothing of it: it was proven before.
    world = Later(rows=[old("x")], long=-1)
    world.code = "unreachable"
    assert [type(one) for one in world.run(renew("x", FILE))] == [Done]


def test_progress_counts_the_steps_of_the_plan() -> None:
    """A step for each key that is made and each delivery that ended, well or not."""
    actions = [
        create("bare"),
        create("a", *sinks_of("a")),
        create("b", FILE),
        create("odd", FILE, blocked=DOWN),
        renew("x", *sinks_of("x")),
        renew("y", VAULT),
        renew("z", VAULT, blocked=DOWN),
    ]
    fates: list[dict[str, Any]] = [
        {},
        {"mints": {"a": HANGS, "x": "early"}, "proofs": {"b": HANGS}},
        {"sinks": {FILE: ("write", DOWN), VAULT: "other"}},
    ]
    for fate in fates:
        world = ModelServer(rows=[old("x"), old("y"), old("z")], **fate)
        world.run(*actions)
        assert world.settled == steps(*actions) == 7


# --- Whatever happens ----------------------------------------------------------------------------


def check(world: ModelServer, executed: Executed) -> None:
    """What a report says at any moment is true of the server and of the sinks."""
    for result in executed.results:
        action = result.action
        ids = {row.id for row in world.rows if row.name == action.name and not row.revoked}
        minted = [event for event in world.of("mint") if event[1] in ids]
        match result:
            case Done(id=id_) | CreatedByAnotherRun(id=id_):
                assert id_ in ids
                for sink in action.sinks:
                    assert world.minted[world.tokens[sink].reveal()] == id_
                    assert world.tokens[sink].reveal() in world.proven
            case Unfinished(id=id_):
                assert id_ in ids
            case Skipped(failure=why):
                assert why == STOPPED
                assert not minted
                assert not [
                    row for row in world.rows if row.name == action.name and row.owner is world
                ]
            case Failed(failure=why):
                assert why != STOPPED


def check_at_the_end(world: ModelServer, executed: Executed) -> None:
    """What was to be delivered is exactly what no script kept from it."""
    written = {event[1] for event in world.of("write")}
    for result in executed.results:
        action, name = result.action, result.action.name
        fates = [world.sinks.get(sink) for sink in action.sinks]
        proven = name not in world.mints and name not in world.proofs
        sound = proven and all(fate in (None, "theirs", "unread") for fate in fates)
        gives_way = any(row.id == f"their-{name}" for row in world.rows)
        unsettled = world.blind or (world.revoking and gives_way) or name in world.named
        if isinstance(action, Create) and unsettled:
            assert isinstance(result, Unfinished | Failed)
            assert written.isdisjoint(action.sinks)
        elif sound and world.blind and "unread" in fates:
            assert isinstance(result, Failed)
            assert result.failure.code == "not_settled"
        elif sound or not fates:
            assert isinstance(result, Done | CreatedByAnotherRun)
        else:
            assert isinstance(result, Unfinished if isinstance(action, Create) else Failed)
            for sink, fate in zip(action.sinks, fates, strict=True):
                opened = not (isinstance(fate, tuple) and fate[0] == "open")
                assert (sink in written) == (proven and opened)


SINK_FATES = st.sampled_from(
    [
        *[None, None, None, "theirs", "unread", "nothing", "other", "early"],
        *[("open", DOWN), ("write", DOWN), ("read", LATER)],
    ]
)


@st.composite
def runs(draw: st.DrawFn) -> tuple[ModelServer, list[Action]]:
    names = draw(st.lists(st.sampled_from("abcxyz"), unique=True, min_size=1))
    rows: list[Row] = []
    actions: list[Action] = []
    fates: dict[Address, Any] = {}
    for name in names:
        sinks = sinks_of(name)[: draw(st.integers(0 if name in "abc" else 1, 2))]
        fates |= {sink: fate for sink in sinks if (fate := draw(SINK_FATES)) is not None}
        if name in "xyz":
            rows.append(old(name))
            actions.append(renew(name, *sinks))
        else:
            rows += [theirs(name)] if draw(st.booleans()) else []
            actions.append(create(name, *sinks))
    bad = st.sampled_from(["other key", "early", "junk", HANGS])
    some = st.sampled_from(names)
    world = ModelServer(
        rows=rows,
        named=draw(st.dictionaries(some, st.just(REJECTED), max_size=1)),
        mints=draw(st.dictionaries(some, bad, max_size=2)),
        proofs=draw(st.dictionaries(some, st.just(NO_MORE), max_size=2)),
        sinks=fates,
        blind=ALWAYS if draw(st.booleans()) and draw(st.booleans()) else (),
        revoking=STUCK if draw(st.booleans()) and draw(st.booleans()) else (),
        stop_at=draw(st.none() | st.integers(1, 40)),
    )
    return world, actions


@settings(max_examples=300)
@given(case=runs())
def test_whatever_happens_reports_are_true_at_every_moment(case: Any) -> None:
    """Over random scripts and stops; the model refuses what a run must never do.

    That is: to mint after the stop, or for a key that does not stay, or with another end, and to
    write what was not proven.
    """
    world, actions = case
    execution = world.execution(*actions)
    world.watch = lambda: check(world, execution.result())
    execution.run()
    executed = execution.result()
    check(world, executed)
    assert [one.action for one in executed.results] == actions
    assert world.settled <= steps(*actions)
    if not world.stop.asked:
        check_at_the_end(world, executed)


SILENT = CommandAddress(("store", "a b"))
CHECKED = CommandAddress(("store",), ("show",))
BY_HAND = "run `provision apply --redeliver --only 'a b'`."


@pytest.mark.parametrize(
    ("sink", "ends"), [(SILENT, BY_HAND), (CHECKED, "The next run delivers it."), (VAULT, None)]
)
def test_only_what_the_next_run_delivers_is_said_to_be(sink: Address, ends: str | None) -> None:
    """No run sees that a program without `check` has no token, whatever went wrong before it."""
    made = create("a b", sink)
    stopped = ModelServer(stop_at=2)
    [result] = stopped.run(made)
    assert isinstance(result, Unfinished)
    assert result.failure.code == "stopped"
    assert result.failure.message.endswith(ends or "The next run delivers it.")
    for world in (ModelServer(mints={"a b": DOWN}), ModelServer(sinks={sink: ("write", DOWN)})):
        [result] = world.run(made)
        assert isinstance(result, Unfinished)
        assert result.failure.code == DOWN.code
        assert result.failure.message.endswith(BY_HAND) is (sink is SILENT)


def note(world: ModelServer, execution: Execution, seen: list[str]) -> None:
    """Notes what a result says while its token is on its way."""
    [result] = execution.result().results
    if world.of("mint") and isinstance(result, Unfinished):
        seen.append(result.failure.message)


def test_a_token_on_its_way_when_the_run_has_to_end_is_told_of_likewise() -> None:
    """The same sentence, for what was in flight."""
    for sink, ends in ((SILENT, BY_HAND), (CHECKED, "The next run delivers it.")):
        world = ModelServer()
        execution = world.execution(create("a b", sink))
        seen: list[str] = []

        world.watch = partial(note, world, execution, seen)
        execution.run()
        assert seen
        assert all(message.endswith(ends) for message in seen)


def test_a_rotation_on_request_that_is_not_delivered_is_to_be_run_again() -> None:
    """The key that it leaves is a duplicate for every later run, whatever its sinks tell."""
    for at_once, command in ((False, "provision rotate svc"), (True, "provision rotate --now svc")):
        one = create("svc", VAULT)
        world = ModelServer(mints={"svc": DOWN})
        [result] = world.run(rotate(one, at_once=at_once))
        assert isinstance(result, Unfinished)
        assert command in result.failure.message


# --- Documents and text --------------------------------------------------------------------------


def result_of(*results: Result) -> RunResult:
    actions = tuple(one.action for one in results)
    finding = DeliveryUnknown("blind", ("id-blind",), (VAULT,))
    part = part_with(*actions, kept=("blind",), findings=(finding,), estimate=Estimate(9, 1.5))
    return RunResult(NOW, f"sha256:{'0' * 64}", (Executed(part, results),))


def mixed() -> tuple[Result, ...]:
    return (
        Done(create("made", FILE), "id-made", {"id": "id-made"}),
        Unfinished(create("half", FILE, VAULT), "id-half", {"id": "id-half"}, DOWN),
        CreatedByAnotherRun(create("theirs", VAULT), "their-id", None),
        Done(renew("there", VAULT), "old-there", None),
        Failed(renew("lost", FILE), LATER),
        Skipped(renew("late\x1b[2J", VAULT), STOPPED),
    )


def test_the_document_of_a_result_with_deliveries_follows_its_schema() -> None:
    """A key that was made and not delivered is failed, and has its id and its record."""
    document = json.loads(json.dumps(result_document(result_of(*mixed()))))
    Draft202012Validator(
        schemas.load("result"), format_checker=Draft202012Validator.FORMAT_CHECKER
    ).validate(document)
    [environment] = document["environments"]
    told = [
        (
            one["action"],
            one["status"],
            one["id"],
            one["record"],
            one["error"] and one["error"]["code"],
        )
        for one in environment["results"]
    ]
    assert told == [
        ("create", "done", "id-made", {"id": "id-made"}, None),
        ("create", "failed", "id-half", {"id": "id-half"}, "sink_unavailable"),
        ("create", "done", "their-id", None, None),
        ("deliver", "done", "old-there", None, None),
        ("deliver", "failed", None, None, "sink_denied"),
        ("deliver", "skipped", None, None, "stopped"),
    ]
    assert environment["results"][1]["sinks"] == ["file secrets/a.env A", "vault secret/a token"]
    assert environment["results"][3]["reason"] == "token_missing"
    assert environment["summary"] == {
        "created": 2,
        "updated": 0,
        "rotated": 0,
        "delivered": 1,
        "undelivered": 1,
        "revoked": 0,
        "kept": 2,
        "failed": 2,
        "skipped": 1,
    }
    assert [one["finding"] for one in environment["findings"]] == ["delivery_unknown"]


def test_the_text_of_a_result_tells_what_was_delivered_and_what_was_not() -> None:
    """One line each, the failure below it."""
    lines = result_text(result_of(*mixed()), PLAIN).splitlines()
    shown = [" ".join(line.split()) for line in lines]
    elsewhere = "made by another run at this moment"
    ends, later = "ends 2027-02-21T04:00:00Z role Worker", "ends 2027-03-23T04:00:00Z role Worker"
    assert shown[1:10] == [
        f"+ made depth 0 {ends} file secrets/a.env A manifests/a.yaml:7",
        f"! half depth 0 {ends} file secrets/a.env A, vault secret/a token manifests/a.yaml:7",
        f"{DOWN.code}: {DOWN.message}",
        f"= theirs depth 0 {ends} vault secret/a token manifests/a.yaml:7 {elsewhere}",
        f"> there token missing {later} vault secret/a token manifests/a.yaml:8",
        f"! lost token missing {later} file secrets/a.env A manifests/a.yaml:8",
        f"{LATER.code}: {LATER.message}",
        f"late\\x1b[2J token missing {later} vault secret/a token manifests/a.yaml:8 skipped",
        "= 1 key as declared",
    ]
    assert shown[-1] == (
        "Incomplete: 2 created (1 not delivered), 1 delivered, 2 as declared, 2 failed, "
        "1 skipped (stopped)."
    )
    fine = result_text(result_of(mixed()[3]), PLAIN).splitlines()
    assert fine[-1] == "Done: 0 created, 1 delivered, 1 as declared."


LEGACY = '{"data":{"apiKeys":[]},"pageInfo":{"hasNextPage":false}}'
