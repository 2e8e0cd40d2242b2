"""Token delivery: minted, verified, written, read back, and reported with its outcome."""

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
from provisioner.errors.codes import Code
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
from provisioner.execution.token_flow import token_matches
from provisioner.model.token_claims import claims_of
from provisioner.plan import (
    Create,
    Deliver,
    DeliveryUnknown,
    Estimate,
)
from provisioner.render.outcome.json import result_document
from provisioner.render.outcome.text import result_text
from provisioner.render.text import PLAIN
from provisioner.runtime.cancellation import STOPPED
from provisioner.sinks.command import CommandAddress
from provisioner.sinks.file import FileAddress
from provisioner.sinks.n8n import N8nAddress

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
DOWN = Failure("sink_unavailable", "The sink did not answer. Run the command again.")
DENIED = Failure("sink_denied", "The sink refused it. Ask for more.")
BUSY = Failure("rate_limited", "shop is busy. Wait.")
BUG = Failure("internal_error", "A bug. Report it.")
NOT_STARTED = Failure(
    "stopped",
    "The key exists, but the run was stopped before its token was delivered. The next run delivers "
    "it.",
)
IN_FLIGHT = Failure(
    "not_delivered",
    "The key exists, but the run ended while its token was being delivered. The next run delivers "
    "it.",
)


@pytest.fixture(autouse=True, scope="module")
def separate_secrets() -> Iterator[None]:
    """Secrets of this module are masked in no other test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secret, "_KNOWN", secret._Known())
        yield


NEVER_REVOKED = ["refused"] * 99


def redeliver(name: str, *sinks: Address, **changes: Any) -> Deliver:
    """Return a delivery of a new token for a key that existed before the run."""
    return deliver(name, *sinks, **({"expires_at": OLD_END} | changes))


def existing(name: str) -> Row:
    """Return a key that existed before the run."""
    return Row(f"old-{name}", name, -1, OLD_END)


def theirs(name: str) -> Row:
    """Return a key that another run created at the same time, earlier than ours."""
    return Row(f"their-{name}", name, 1, THEIR_END)


def steps(*actions: Action) -> int:
    return plan_with(part_with(*actions)).steps


def sinks_of(name: str) -> tuple[Address, Address]:
    return file_sink(variable=name), vault_sink(name)


def refused(key_id: str) -> Failure:
    return Failure(
        Code.TOKEN_REFUSED,
        f"The token minted for the key {key_id} is not for that key, or expires before the key "
        "does.",
        "Nothing was delivered; check the key in Twenty.",
    )


# --- The order -----------------------------------------------------------------------------------


def test_a_token_is_minted_verified_written_and_read_back_in_this_order() -> None:
    """It follows the final observation; the sinks get the same token, one after the other."""
    server = ModelServer()
    results = server.run(create("a", FILE, VAULT))
    assert results == (Done(create("a", FILE, VAULT), "id-a", {"id": "id-a"}),)
    assert [event for event in server.events if event[0] != "wait"] == [
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
    assert server.tokens[FILE].reveal() == server.tokens[VAULT].reveal()


def test_tokens_of_existing_keys_do_not_wait_for_the_creates() -> None:
    """They come first, in the order of the plan, then those of new keys, once all are created."""
    server = ModelServer(rows=[existing("x"), existing("y")])
    actions = (
        redeliver("x", *sinks_of("x")),
        create("b", *sinks_of("b")),
        create("bare"),
        redeliver("y", *sinks_of("y")),
        create("a", *sinks_of("a")),
    )
    results = server.run(*actions)
    assert [type(one) for one in results] == [Done] * 5
    assert [one.action for one in results] == list(actions)
    assert results[0] == Done(actions[0], "old-x", None)
    assert [event[1] for event in server.of("create", "mint")] == [
        *["b", "bare", "a"],
        *["old-x", "old-y", "id-b", "id-a"],
    ]
    assert "look" not in [
        event[0] for event in server.events[server.events.index(("mint", "id-b")) :]
    ]


@pytest.mark.parametrize("fate", [MADE, LOST_AFTER])
def test_a_token_expires_when_its_key_does(fate: Fate) -> None:
    """To the millisecond of the run marker, and also if only an observation showed the key."""
    server = ModelServer(named={"a": fate})
    server.run(create("a", FILE))
    [row] = server.rows
    assert row.end == OUR_END
    claims = claims_of(server.tokens[FILE])
    assert claims is not None
    assert (claims.key, claims.expires_at) == ("id-a", END)


def test_a_run_without_sinks_mints_nothing_and_opens_nothing() -> None:
    """Keys without sinks are created, and nothing else happens."""
    server = ModelServer()
    [result] = server.run(create("a"))
    assert isinstance(result, Done)
    assert server.of("mint", "prove", "open", "write", "read") == []
    assert server.settled == 1


def test_blocked_deliveries_are_failed_and_nothing_is_minted_for_them() -> None:
    """Their results hold the failure of the plan, in the plan's order."""
    server = ModelServer(rows=[existing("x"), existing("y")])
    blocked = redeliver("x", FILE, blocked=DOWN)
    closed = create("a", VAULT, blocked=DENIED)
    results = server.run(blocked, redeliver("y", *sinks_of("y")), closed)
    assert results[0] == Failed(blocked, DOWN)
    assert isinstance(results[1], Done)
    assert results[2] == Failed(closed, DENIED)
    assert server.of("create", "mint") == [("mint", "old-y")]
    assert server.settled == 1


# --- Tokens that are not delivered ---------------------------------------------------------------


@pytest.mark.parametrize("fate", ["other key", "early", "junk"])
def test_a_token_that_does_not_match_its_key_is_not_delivered(fate: str) -> None:
    """It is neither verified nor written, and the failure names the created key."""
    server = ModelServer(rows=[existing("x")], mints={"a": fate, "x": fate})
    first, second = server.run(create("a", FILE), redeliver("x", VAULT))
    assert first == Unfinished(create("a", FILE), "id-a", {"id": "id-a"}, refused("id-a"))
    assert second == Failed(redeliver("x", VAULT), refused("old-x"))
    assert server.of("prove", "open") == []


@pytest.mark.parametrize("fate", ["upper", "forever", "just"])
def test_a_token_may_name_its_key_in_capitals_and_expire_later_or_just_before(fate: str) -> None:
    """Ids ignore case, a difference of a minute is accepted, and so is a token without expiry."""
    server = ModelServer(mints={"a": fate})
    [result] = server.run(create("a", FILE))
    assert isinstance(result, Done)
    assert server.tokens[FILE].reveal() in server.verified


def test_a_token_may_expire_60_seconds_before_its_key_and_not_a_second_earlier() -> None:
    """The plan uses the same limit; here the key expires at a whole second."""
    last = END - timedelta(seconds=60)
    assert token_matches(token("id-a", last), "id-a", END)
    assert not token_matches(token("id-a", last - timedelta(seconds=1)), "id-a", END)
    assert not token_matches(token("id-a", last), "id-a", OUR_END)


def test_a_token_that_was_not_minted_or_not_accepted_is_not_delivered() -> None:
    """The failure is the server's, and other keys get their tokens."""
    actions = [create("a", *sinks_of("a")), create("b", *sinks_of("b")), create("c", FILE)]
    server = ModelServer(mints={"a": HANGS}, proofs={"b": BUSY})
    results = server.run(*actions)
    assert results[0] == Unfinished(actions[0], "id-a", {"id": "id-a"}, HANGS)
    assert results[1] == Unfinished(actions[1], "id-b", {"id": "id-b"}, BUSY)
    assert isinstance(results[2], Done)
    assert server.of("open") == [("open", FILE)]
    assert server.settled == steps(*actions) == 6


# --- Sinks that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["open", "write", "read"])
def test_a_sink_that_fails_does_not_keep_the_token_from_the_others(operation: str) -> None:
    """The first failure is reported; a created key is unfinished with its id and record."""
    third = FileAddress("b.env", "B")
    server = ModelServer(
        rows=[existing("x")], sinks={FILE: (operation, DOWN), VAULT: (operation, DENIED)}
    )
    new_key = create("a", FILE, VAULT, third)
    existing_key = redeliver("x", *sinks_of("x"), VAULT)
    results = server.run(new_key, existing_key)
    assert results == (
        Unfinished(new_key, "id-a", {"id": "id-a"}, DOWN),
        Failed(existing_key, DENIED),
    )
    assert {third, *sinks_of("x")} <= server.tokens.keys()
    assert (FILE in server.tokens) == (operation == "read")
    assert RunResult(NOW, "", (Executed(part_with(new_key, existing_key), results),)).incomplete
    assert server.settled == steps(new_key, existing_key) == 3


@pytest.mark.parametrize("fate", ["nothing", "other", "early"])
def test_a_sink_that_does_not_return_what_it_accepted_has_failed(fate: str) -> None:
    """It returns nothing, the token of another key, or one that expires too early."""
    server = ModelServer(sinks={FILE: fate})
    [result] = server.run(create("a", FILE))
    assert isinstance(result, Unfinished)
    assert result.failure == Failure(
        "sink_failed",
        "file secrets/a.env A accepted the token, but did not return it when it was read back.",
        "Find out what else writes to it, then run the command again.",
    )


@pytest.mark.parametrize("fate", ["theirs", "unread"])
def test_another_valid_token_of_the_key_and_a_sink_that_cannot_be_read_are_accepted(
    fate: str,
) -> None:
    """Two runs at once may both read the token of the one that wrote last."""
    server = ModelServer(sinks={FILE: fate})
    [result] = server.run(create("a", FILE))
    assert isinstance(result, Done)


def test_failures_contain_no_token(caplog) -> None:
    """Neither results nor the log contain one."""
    server = ModelServer(
        rows=[existing("x")], sinks={FILE: "other", VAULT: ("write", DOWN)}, mints={"b": "junk"}
    )
    with caplog.at_level("DEBUG"):
        results = server.run(create("a", FILE, VAULT), create("b", FILE), redeliver("x", FILE))
    shown = repr(results) + json.dumps(result_document(result_of(*results))) + caplog.text
    assert len(server.minted) == 3
    assert not [one for one in server.minted if one in shown]


# --- Keys that get no token, or another's --------------------------------------------------------


def test_if_another_runs_key_is_kept_its_token_is_delivered() -> None:
    """Our key is revoked first, and the token expires with the other run's key."""
    server = ModelServer(rows=[theirs("a")])
    [result] = server.run(create("a", FILE))
    assert result == CreatedByAnotherRun(create("a", FILE), "their-a", {"id": "their-a"})
    claims = claims_of(server.tokens[FILE])
    assert claims is not None
    assert claims.key == "their-a"
    assert server.of("revoke", "mint") == [("revoke", "id-a"), ("mint", "their-a")]


def test_a_key_of_another_run_that_cannot_be_delivered_is_unfinished() -> None:
    """The result has the id of the key that is kept."""
    server = ModelServer(rows=[theirs("a")], sinks={FILE: ("write", DOWN)})
    assert server.run(create("a", FILE)) == (
        Unfinished(create("a", FILE), "their-a", {"id": "their-a"}, DOWN, created=False),
    )


@pytest.mark.parametrize(
    ("fate", "code"),
    [
        ({"blind": ALWAYS}, "not_settled"),
        ({"revoking": NEVER_REVOKED}, "duplicate_left"),
        ({"named": {"a": REJECTED}}, "rejected"),
    ],
)
def test_a_key_that_is_not_confirmed_gets_no_token(fate: Any, code: str) -> None:
    """It is unknown which key of the name is kept, or there is none; the failure says so."""
    server = ModelServer(
        rows=[existing("x"), *([theirs("a")] if "revoking" in fate else [])], **fate
    )
    result, other = server.run(create("a", FILE), redeliver("x", VAULT))
    assert isinstance(result, Unfinished | Failed)
    assert result.failure.code == code
    assert isinstance(other, Done)
    assert server.of("mint") == [("mint", "old-x")]


# --- Stopping ------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_before_it_starts_delivers_nothing() -> None:
    """Deliveries are skipped like creates."""
    server = ModelServer(rows=[existing("x")])
    server.stop.request()
    actions = (create("a", FILE), redeliver("x", VAULT))
    assert server.run(*actions) == tuple(Skipped(one, STOPPED) for one in actions)
    assert server.events == []


def test_a_key_that_was_created_before_the_stop_is_reported_without_its_token() -> None:
    """It is unfinished, with its id, and not done."""
    server = ModelServer(rows=[existing("x")], stop_at=1)
    actions = (create("a", FILE), create("bare"), redeliver("x", VAULT))
    assert server.run(*actions) == (
        Unfinished(actions[0], "id-a", {"id": "id-a"}, NOT_STARTED),
        Skipped(actions[1], STOPPED),
        Skipped(actions[2], STOPPED),
    )
    assert server.of("mint") == []


def test_a_delivery_in_flight_is_finished_after_a_stop_and_no_other_starts() -> None:
    """The stop comes while the first token is being minted."""
    server = ModelServer(rows=[existing("x"), existing("y")])
    server.watch = lambda: server.stop.request() if server.events[-1] == ("mint", "old-x") else None
    first, second = redeliver("x", *sinks_of("x")), redeliver("y", VAULT)
    assert server.run(first, second) == (Done(first, "old-x", None), Skipped(second, STOPPED))
    assert set(server.tokens) == set(sinks_of("x"))
    assert server.settled == 1


def test_a_result_can_be_read_while_a_token_is_being_delivered() -> None:
    """It is done as soon as the last sink was read back, and never before."""
    server = ModelServer(rows=[existing("x")])
    new_key, existing_key = create("a", FILE, VAULT), redeliver("x", *sinks_of("x"))
    execution = server.execution(new_key, existing_key)
    seen: list[tuple[str, tuple[Result, ...]]] = []
    server.watch = lambda: seen.append(
        (server.events[-1][0], execution.context.progress.executed().results)
    )
    record = {"id": "id-a"}
    execution.run()
    not_started = Unfinished(new_key, "id-a", record, NOT_STARTED)
    in_flight = Unfinished(new_key, "id-a", record, IN_FLIGHT)
    done = Done(existing_key, "old-x", None)
    events = ["mint", "prove", *["open", "write", "read"] * 2]
    deliveries = [one for one in seen if one[0] not in ("create", "answer", "wait")]
    assert deliveries == [
        ("look", (not_started, Skipped(existing_key, STOPPED))),
        *[(event, (not_started, Failed(existing_key, IN_FLIGHT))) for event in events],
        *[(event, (in_flight, done)) for event in events],
    ]
    assert execution.context.progress.executed().results == (
        Done(new_key, "id-a", record),
        done,
    )


# --- Bugs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["open", "write", "read"])
def test_a_bug_in_a_sink_is_the_failure_of_unfinished_deliveries(operation: str) -> None:
    """The others are delivered, whether they come before it or after it."""
    server = ModelServer(
        rows=[existing("x"), existing("y"), existing("z")], sinks={VAULT: f"bug at {operation}"}
    )
    actions = (create("a", FILE), create("b", VAULT), redeliver("x", VAULT), redeliver("y", VAULT))
    last = redeliver("z", FILE)
    execution = server.execution(*actions, last)
    with pytest.raises(ZeroDivisionError):
        execution.run()
    first, *rest, after = execution.context.progress.executed(BUG).results
    assert first == Done(actions[0], "id-a", {"id": "id-a"})
    assert after == Done(last, "old-z", None)
    assert rest == [
        Unfinished(actions[1], "id-b", {"id": "id-b"}, BUG),
        Failed(actions[2], BUG),
        Failed(actions[3], BUG),
    ]


def test_what_failed_before_a_bug_keeps_its_own_failure() -> None:
    """The bug is the failure only of the others."""
    server = ModelServer(rows=[existing("x")], sinks={FILE: ("write", DOWN), VAULT: "bug at write"})
    execution = server.execution(create("a", FILE), redeliver("x", VAULT))
    with pytest.raises(ZeroDivisionError):
        execution.run()
    first, second = execution.context.progress.executed(BUG).results
    assert first == Unfinished(create("a", FILE), "id-a", {"id": "id-a"}, DOWN)
    assert second == Failed(redeliver("x", VAULT), BUG)


# --- How many at once, and how far it is ---------------------------------------------------------


@pytest.mark.parametrize("parallel", [1, 2, 5])
def test_exactly_the_allowed_number_of_deliveries_runs_in_parallel(parallel: int) -> None:
    """The sinks wait for each other, so fewer would never finish; the maximum is counted."""
    names = [f"k{number}" for number in range(2 * parallel)]
    barrier = threading.Barrier(parallel)
    lock = threading.Lock()
    running = most = 0

    class Meeting(ModelServer):
        def open(self, address: Address) -> Sink:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            barrier.wait(10)
            with lock:
                running -= 1
            return super().open(address)

    server = Meeting(rows=[existing(name) for name in names])
    actions = [redeliver(name, sinks_of(name)[0]) for name in names]
    results = server.run(*actions, parallel=parallel)
    assert [type(one) for one in results] == [Done] * len(names)
    assert most == parallel
    assert server.settled == steps(*actions)


def test_a_token_whose_delivery_took_long_is_verified_once_more() -> None:
    """Another run may have revoked its key since then, and written its own token before ours."""
    server = ModelServer(rows=[existing("x")], long=-1)
    assert [type(one) for one in server.run(redeliver("x", FILE))] == [Done]
    kinds = [event[0] for event in server.events]
    assert kinds.count("prove") == 2
    assert kinds.index("write") < len(kinds) - 1 - kinds[::-1].index("prove")

    class RefusesLater(ModelServer):
        code = ""

        def verify_token(self, token: Secret) -> None:
            if token.reveal() in self.verified:
                raise WorkspaceError(self.code, "No.", remedy="Nothing was delivered.")
            super().verify_token(token)

    server = RefusesLater(rows=[existing("x")], long=-1)
    server.code = "token_refused"
    [failed] = server.run(redeliver("x", FILE))
    assert isinstance(failed, Failed)
    assert failed.failure.code == "token_refused"
    assert "another run revoked its key during the delivery" in failed.failure.text
    assert "Nothing was delivered" not in failed.failure.text
    # A failed verification says nothing here: the token was verified before.
    server = RefusesLater(rows=[existing("x")], long=-1)
    server.code = "unreachable"
    assert [type(one) for one in server.run(redeliver("x", FILE))] == [Done]


def test_progress_counts_the_steps_of_the_plan() -> None:
    """Each created key and each finished delivery is one step, whether it succeeded or failed."""
    actions = [
        create("bare"),
        create("a", *sinks_of("a")),
        create("b", FILE),
        create("odd", FILE, blocked=DOWN),
        redeliver("x", *sinks_of("x")),
        redeliver("y", VAULT),
        redeliver("z", VAULT, blocked=DOWN),
    ]
    fates: list[dict[str, Any]] = [
        {},
        {"mints": {"a": HANGS, "x": "early"}, "proofs": {"b": HANGS}},
        {"sinks": {FILE: ("write", DOWN), VAULT: "other"}},
    ]
    for fate in fates:
        server = ModelServer(rows=[existing("x"), existing("y"), existing("z")], **fate)
        server.run(*actions)
        assert server.settled == steps(*actions) == 7


# --- Whatever happens ----------------------------------------------------------------------------


def check(server: ModelServer, executed: Executed) -> None:
    """Check that the results, at any time, are true of the server and of the sinks."""
    for result in executed.results:
        action = result.action
        ids = {row.id for row in server.rows if row.name == action.name and not row.revoked}
        minted = [event for event in server.of("mint") if event[1] in ids]
        match result:
            case Done(id=id_) | CreatedByAnotherRun(id=id_):
                assert id_ in ids
                for sink in action.sinks:
                    assert server.minted[server.tokens[sink].reveal()] == id_
                    assert server.tokens[sink].reveal() in server.verified
            case Unfinished(id=id_):
                assert id_ in ids
            case Skipped(failure=why):
                assert why == STOPPED
                assert not minted
                assert not [
                    row for row in server.rows if row.name == action.name and row.owner is server
                ]
            case Failed(failure=why):
                assert why != STOPPED


def check_at_the_end(server: ModelServer, executed: Executed) -> None:
    """Check that everything was delivered except what the script prevents."""
    written = {event[1] for event in server.of("write")}
    for result in executed.results:
        action, name = result.action, result.action.name
        fates = [server.sinks.get(sink) for sink in action.sinks]
        verified = name not in server.mints and name not in server.proofs
        succeeds = verified and all(fate in (None, "theirs", "unread") for fate in fates)
        other_first = any(row.id == f"their-{name}" for row in server.rows)
        unconfirmed = server.blind or (server.revoking and other_first) or name in server.named
        if isinstance(action, Create) and unconfirmed:
            assert isinstance(result, Unfinished | Failed)
            assert written.isdisjoint(action.sinks)
        elif succeeds and server.blind and "unread" in fates:
            assert isinstance(result, Failed)
            assert result.failure.code == "not_settled"
        elif succeeds or not fates:
            assert isinstance(result, Done | CreatedByAnotherRun)
        else:
            assert isinstance(result, Unfinished if isinstance(action, Create) else Failed)
            for sink, fate in zip(action.sinks, fates, strict=True):
                opened = not (isinstance(fate, tuple) and fate[0] == "open")
                assert (sink in written) == (verified and opened)


SINK_FATES = st.sampled_from(
    [
        *[None, None, None, "theirs", "unread", "nothing", "other", "early"],
        *[("open", DOWN), ("write", DOWN), ("read", DENIED)],
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
            rows.append(existing(name))
            actions.append(redeliver(name, *sinks))
        else:
            rows += [theirs(name)] if draw(st.booleans()) else []
            actions.append(create(name, *sinks))
    bad = st.sampled_from(["other key", "early", "junk", HANGS])
    some = st.sampled_from(names)
    server = ModelServer(
        rows=rows,
        named=draw(st.dictionaries(some, st.just(REJECTED), max_size=1)),
        mints=draw(st.dictionaries(some, bad, max_size=2)),
        proofs=draw(st.dictionaries(some, st.just(BUSY), max_size=2)),
        sinks=fates,
        blind=ALWAYS if draw(st.booleans()) and draw(st.booleans()) else (),
        revoking=NEVER_REVOKED if draw(st.booleans()) and draw(st.booleans()) else (),
        stop_at=draw(st.none() | st.integers(1, 40)),
    )
    return server, actions


@settings(max_examples=300)
@given(case=runs())
def test_results_are_true_at_any_time_whatever_happens(case: Any) -> None:
    """This covers random scripts and stops, and the model rejects what a run must never do.

    That is: to mint after a stop, for a key that is not kept, or with another expiry, and to write
    a token that was not verified.
    """
    server, actions = case
    execution = server.execution(*actions)
    server.watch = lambda: check(server, execution.context.progress.executed())
    execution.run()
    executed = execution.context.progress.executed()
    check(server, executed)
    assert [one.action for one in executed.results] == actions
    assert server.settled <= steps(*actions)
    if not server.stop.requested:
        check_at_the_end(server, executed)


UNREADABLE = CommandAddress(("store", "a b"))
N8N = N8nAddress("Twenty", "twentyApi", "apiKey")
CHECKED = CommandAddress(("store",), ("show",))
REDELIVER_ADVICE = "run `provision apply --redeliver --only 'a b'`."


@pytest.mark.parametrize(
    ("sink", "suffix"),
    [
        (UNREADABLE, REDELIVER_ADVICE),
        (N8N, REDELIVER_ADVICE),
        (CHECKED, "The next run delivers it."),
        (VAULT, None),
    ],
)
def test_a_message_promises_a_later_delivery_only_if_the_next_run_delivers(
    sink: Address, suffix: str | None
) -> None:
    """No run can see that a program without `check`, or n8n, has no token, whatever failed."""
    new_key = create("a b", sink)
    stopped = ModelServer(stop_at=2)
    [result] = stopped.run(new_key)
    assert isinstance(result, Unfinished)
    assert result.failure.code == "stopped"
    assert result.failure.text.endswith(suffix or "The next run delivers it.")
    for server in (ModelServer(mints={"a b": DOWN}), ModelServer(sinks={sink: ("write", DOWN)})):
        [result] = server.run(new_key)
        assert isinstance(result, Unfinished)
        assert result.failure.code == DOWN.code
        assert result.failure.text.endswith(REDELIVER_ADVICE) is (suffix is REDELIVER_ADVICE)


def record_message(server: ModelServer, execution: Execution, messages: list[str]) -> None:
    """Record the message of the result while its token is being delivered."""
    [result] = execution.context.progress.executed().results
    if server.of("mint") and isinstance(result, Unfinished):
        messages.append(result.failure.text)


def test_a_token_in_flight_when_the_run_ends_has_the_same_advice() -> None:
    """The advice is the same as for a delivery that failed."""
    for sink, suffix in ((UNREADABLE, REDELIVER_ADVICE), (CHECKED, "The next run delivers it.")):
        server = ModelServer()
        execution = server.execution(create("a b", sink))
        messages: list[str] = []

        server.watch = partial(record_message, server, execution, messages)
        execution.run()
        assert messages
        assert all(message.endswith(suffix) for message in messages)


def test_a_requested_rotation_that_is_not_delivered_says_to_run_it_again() -> None:
    """Its key is a duplicate for every later run, whatever its sinks hold."""
    for at_once, command in ((False, "provision rotate svc"), (True, "provision rotate --now svc")):
        one = create("svc", VAULT)
        server = ModelServer(mints={"svc": DOWN})
        [result] = server.run(rotate(one, at_once=at_once))
        assert isinstance(result, Unfinished)
        assert command in result.failure.text


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
        Done(redeliver("there", VAULT), "old-there", None),
        Failed(redeliver("lost", FILE), DENIED),
        Skipped(redeliver("late\x1b[2J", VAULT), STOPPED),
    )


def test_the_document_of_a_result_with_deliveries_follows_its_schema() -> None:
    """A key that was created and not delivered is failed, with its id and record."""
    document = json.loads(json.dumps(result_document(result_of(*mixed()))))
    Draft202012Validator(
        schemas.load("result"), format_checker=Draft202012Validator.FORMAT_CHECKER
    ).validate(document)
    [environment] = document["environments"]
    summary = [
        (
            one["action"],
            one["status"],
            one["id"],
            one["record"],
            one["error"] and one["error"]["code"],
        )
        for one in environment["results"]
    ]
    assert summary == [
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
        "renamed": 0,
        "rotated": 0,
        "delivered": 1,
        "undelivered": 1,
        "revoked": 0,
        "cleaned": 0,
        "kept": 2,
        "failed": 2,
        "skipped": 1,
    }
    assert [one["finding"] for one in environment["findings"]] == ["delivery_unknown"]


def test_the_text_of_a_result_shows_what_was_delivered_and_what_was_not() -> None:
    """Each action is one line, with its failure below it."""
    lines = result_text(result_of(*mixed()), PLAIN).splitlines()
    shown = [" ".join(line.split()) for line in lines]
    elsewhere = "created by another run"
    expires = "expires 2027-02-21T04:00:00Z role Worker"
    later = "expires 2027-03-23T04:00:00Z role Worker"
    skipped = f"{later} vault secret/a token manifests/a.yaml:8 skipped"
    assert shown[1:10] == [
        f"+ made depth 0 {expires} file secrets/a.env A manifests/a.yaml:7",
        f"! half depth 0 {expires} file secrets/a.env A, vault secret/a token manifests/a.yaml:7",
        f"{DOWN.code}: {DOWN.message}",
        f"= theirs depth 0 {expires} vault secret/a token manifests/a.yaml:7 {elsewhere}",
        f"> there deliver, token missing {later} vault secret/a token manifests/a.yaml:8",
        f"! lost deliver, token missing {later} file secrets/a.env A manifests/a.yaml:8",
        f"{DENIED.code}: {DENIED.message}",
        f"late\\x1b[2J deliver, token missing {skipped}",
        "= 1 key kept",
    ]
    assert shown[-1] == (
        "Incomplete: 2 created (1 undelivered), 1 delivered, 2 kept, 2 failed, 1 skipped (stopped)."
    )
    fine = result_text(result_of(mixed()[3]), PLAIN).splitlines()
    assert fine[-1] == "Done: 0 created, 1 delivered, 1 kept."


LEGACY = '{"data":{"apiKeys":[]},"pageInfo":{"hasNextPage":false}}'
