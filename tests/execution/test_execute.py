"""One plan carried out on a model of a server that loses, delays, refuses and is shared."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import pytest
from builders import END, create, part_with
from hypothesis import given, settings
from hypothesis import strategies as st
from model_server import (
    BURIED,
    LATE,
    LOST,
    LOST_AFTER,
    LOST_BEFORE,
    MADE,
    MARK,
    NEVER,
    NOT_SENT,
    REFUSED,
    REFUSED_AFTER,
    REFUSED_BEFORE,
    REJECTED,
    UNREACHABLE,
    Clock,
    Fate,
    ModelServer,
    Row,
)

from provisioner.errors.failure import Failure
from provisioner.execution import (
    CreatedByAnotherRun,
    Done,
    Executed,
    Failed,
    Result,
    RunMarker,
    Skipped,
    Unfinished,
)
from provisioner.execution.pending import NOT_SETTLED
from provisioner.runtime.cancellation import STOPPED
from provisioner.twenty.workspace import IN_FLIGHT, NewKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.model.key import Depth
    from provisioner.plan import Create

pytestmark = pytest.mark.fast

NAMES = ("a", "b", "c")
DEPTHS: dict[str, Depth] = {"a": 0, "b": 1, "c": 2}

BLOCKED = Failure("role_missing", "'a' names no role.")


def action(name: str, blocked: Failure | None = None) -> Create:
    return create(name, depth=DEPTHS[name], blocked=blocked)


def creates(*names: str, blocked: Sequence[str] = ()) -> tuple[Create, ...]:
    return tuple(action(name, BLOCKED if name in blocked else None) for name in names)


def theirs(second: int, name: str = "a", **changes: int) -> Row:
    """A key of another run; ours are created from second 10 on."""
    return Row(f"~{name}-{second}", name, second, **changes)


def unknown(cause: Failure) -> Failure:
    return Failure(
        "outcome_unknown",
        f"{cause.message} The key may or may not exist; check with `provision list`.",
    )


BOTH = pytest.mark.parametrize("generation", ["legacy", "core"])


# --- What is sent, and how often -----------------------------------------------------------------


@BOTH
def test_a_run_where_nothing_goes_wrong_creates_once_and_looks_once(generation) -> None:
    """One create of all, one look after a breath, and the records of the answers."""
    server = ModelServer(generation=generation)
    results = server.run(*creates("a", "b", "c"))
    assert server.calls == [("a", "b", "c")]
    assert server.looks == 1
    assert server.stop.seconds == [0.3]
    assert (server.read, server.revoked) == ([], [])
    assert server.settled == 3
    rows = [server.made(name)[0] for name in NAMES]
    assert results == tuple(Done(action(row.name), row.id, server.record(row)) for row in rows)


def test_a_key_is_sent_as_its_action_says() -> None:
    """Name, depth and role of the action, its end with the mark of the run, an id of its own."""
    server = ModelServer(generation="legacy")
    server.run(*creates("a", "c"))
    (first, _), (second, _) = server.sent
    assert first == NewKey(
        id=first.id,
        name="a",
        expires_at="2027-02-21T04:00:00.417Z",
        depth=0,
        role_id="role-1",
        tries=0,
    )
    assert (second.name, second.depth) == ("c", 2)
    assert first.id != second.id


def test_blocked_actions_are_not_sent_and_keep_their_place_in_the_report() -> None:
    """Nothing at all is asked of the server where every action is blocked."""
    server = ModelServer()
    execution = server.execution(*creates("a", "b", "c", blocked=["a", "c"]))
    execution.run()
    first, second, third = execution.result().results
    assert first == Failed(action("a", BLOCKED), BLOCKED)
    assert isinstance(second, Done)
    assert third == Failed(action("c", BLOCKED), BLOCKED)
    assert server.calls == [("b",)]
    assert server.settled == 1
    idle = ModelServer()
    idle.execution(*creates("a", blocked=["a"])).run()
    assert (idle.events, idle.settled) == ([], 0)


@BOTH
def test_only_what_a_look_does_not_show_is_sent_again(generation) -> None:
    """Of three lost answers one was a key that was made: two are sent again."""
    server = ModelServer(generation=generation, fates=[LOST_BEFORE, LOST_AFTER, LOST_BEFORE])
    results = server.run(*creates("a", "b", "c"))
    assert server.calls == [("a", "b", "c"), ("a", "c")]
    assert [type(one) for one in results] == [Done] * 3
    assert [len(server.made(name)) for name in NAMES] == [1, 1, 1]
    assert server.settled == 3


def test_the_log_says_what_is_looked_for(caplog) -> None:
    """One line a round: the environment, and how many creates are unknown."""
    with caplog.at_level(logging.INFO, "provisioner"):
        ModelServer(fates=[LOST_BEFORE] * 3).run(*creates("a", "b"))
    assert [one.getMessage() for one in caplog.records] == [
        "shop: the outcome of 2 creates is unknown; looking again",
        "shop: the outcome of 1 creates is unknown; looking again",
    ]


def test_a_failed_look_is_no_reason_to_send_again() -> None:
    """Only a look that came to an end tells what is missing."""
    server = ModelServer(fates=[LOST_AFTER], blind=frozenset({1, 2, 3}))
    [result] = server.run(*creates("a"))
    assert isinstance(result, Done)
    assert len(server.sent) == 1
    assert server.looks == 5


@pytest.mark.parametrize(
    ("fates", "tries"),
    [
        ([LOST_BEFORE] * 3, [0, 1, 2, 3]),
        ([NOT_SENT] * 3, [0, 0, 0, 0]),
        ([REFUSED_BEFORE] * 2, [0, 4, 4]),
        ([LOST_BEFORE, NOT_SENT, LOST_BEFORE], [0, 1, 1, 2]),
        ([LOST_BEFORE, REFUSED_BEFORE, LOST_BEFORE], [0, 1, 4, 5]),
    ],
)
def test_a_key_is_sent_in_ever_smaller_company(fates, tries) -> None:
    """A lost answer counts one try, a refusal has the key stand alone, not sent is no try."""
    server = ModelServer(fates=fates)
    [result] = server.run(*creates("a"))
    assert [key.tries for key, _ in server.sent] == tries
    assert isinstance(result, Done)


@BOTH
def test_a_run_gives_up_after_eight_looks_that_brought_nothing_new(generation) -> None:
    """Each look is followed by one more create; then the outcome is honestly unknown."""
    server = ModelServer(generation=generation, fates=[LOST_BEFORE] * 9)
    assert server.run(*creates("a")) == (Failed(action("a"), unknown(LOST)),)
    assert len(server.sent) == 9
    assert server.looks == 8 + 2
    assert server.settled == 1


def test_what_becomes_known_gives_the_others_eight_looks_more() -> None:
    """As long as there is progress nobody gives up."""
    fates = [LOST_BEFORE, *[LOST_BEFORE] * 14, LOST_AFTER, *[LOST_BEFORE] * 20]
    server = ModelServer(fates=fates)
    first, second = server.run(*creates("a", "b"))
    assert isinstance(second, Done)
    assert first == Failed(action("a"), unknown(LOST))
    assert server.looks == 8 + 8 + 2


def test_a_server_that_shows_nothing_any_more_is_asked_eight_times_and_left() -> None:
    """No settling where neither the keys nor the list can be seen; the report says so."""
    server = ModelServer(fates=[LOST_AFTER, MADE], blind=frozenset(range(1, 99)))
    first, second = server.run(*creates("a", "b"))
    assert first == Failed(action("a"), unknown(LOST))
    assert isinstance(second, Unfinished)
    assert (second.failure.code, second.id) == ("not_settled", server.made("b")[0].id)
    assert server.looks == 8
    assert len(server.stop.seconds) == 8


def test_an_unknown_key_does_not_keep_the_others_from_being_settled() -> None:
    """The list can be seen: another run's earlier key is found, and ours gives way."""
    server = ModelServer(fates=[LOST_BEFORE, MADE, *[LOST_BEFORE] * 8], rows=[theirs(1, "b")])
    first, second = server.run(*creates("a", "b"))
    assert first == Failed(action("a"), unknown(LOST))
    assert second == CreatedByAnotherRun(action("b"), "~b-1", server.record(server.rows[0]))


# --- How long it waits ---------------------------------------------------------------------------


def test_waits_between_looks_grow_to_five_seconds_with_jitter() -> None:
    """From a quarter of a second, doubling, each somewhere between a half of it and all."""
    runs = [ModelServer(fates=[LOST_BEFORE] * 9) for _ in range(50)]
    for server in runs:
        server.run(*creates("a"))
    for number, most in enumerate([0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]):
        waits = [server.stop.seconds[number] for server in runs]
        assert all(most / 2 <= wait <= most for wait in waits)
        assert max(waits) - min(waits) > most / 4
    assert {server.stop.seconds[8] for server in runs} == {0.3}


def test_the_second_look_comes_a_second_after_the_first_and_later_ones_ever_later() -> None:
    """Another run's create is given time to show."""
    server = ModelServer(fates=[Fate(0, "created", role=7)])
    server.run(*creates("a"))
    breath, *waits = server.stop.seconds
    assert breath == 0.3
    assert waits[:3] == [1.0, 1.0, 1.0]
    assert all(1.0 <= wait <= 5.0 for wait in waits)
    assert max(waits) > 2.0


# --- Ids on legacy -------------------------------------------------------------------------------


def test_a_repeat_carries_the_same_id_on_legacy() -> None:
    """So that the server itself refuses to make the key twice."""
    server = ModelServer(generation="legacy", fates=[Fate(3, "lost"), LOST_BEFORE])
    [result] = server.run(*creates("a"))
    assert len({key.id for key, _ in server.sent}) == 1
    assert [row.id for row in server.made("a")] == [result.id]


def test_a_buried_id_is_changed_when_the_key_stands_alone_and_no_look_shows_it() -> None:
    """Taken in company, a look, taken alone, a look: only then another id, still alone."""
    server = ModelServer(generation="legacy", fates=[BURIED])
    [result] = server.run(*creates("a"))
    ids = [key.id for key, _ in server.sent]
    assert ids[0] == ids[1] != ids[2]
    assert [key.tries for key, _ in server.sent] == [0, 4, 4]
    assert isinstance(result, Done)
    assert result.id == ids[2]


def test_of_an_id_that_was_not_buried_after_all_nothing_is_left() -> None:
    """The row of the first id shows after the change: two keys of ours, and the later one goes."""
    server = ModelServer(generation="legacy", fates=[Fate(3, "lost")])
    [result] = server.run(*creates("a"))
    early, late = server.made("a")
    assert result == Done(action("a"), early.id, server.record(early))
    assert server.revoked == [late.id]


# --- Who made a key ------------------------------------------------------------------------------


def test_on_core_a_key_is_known_by_the_mark_when_its_answer_was_lost() -> None:
    """The first of two is kept and the other revoked, though only one of them was answered."""
    server = ModelServer(fates=[LATE, MADE])
    [result] = server.run(*creates("a"))
    lost, answered = server.made("a")
    assert result == Done(action("a"), lost.id, server.record(lost))
    assert server.revoked == [answered.id]
    assert server.read == [{lost.id: 0}]


def test_where_every_answer_came_the_mark_of_a_stranger_is_no_proof() -> None:
    """Another run drew the same milliseconds: its later key is not ours to revoke."""
    server = ModelServer(rows=[theirs(99)])
    server.rows[0].end = MARK.on(END)
    [result] = server.run(*creates("a"))
    assert isinstance(result, Done)
    assert server.revoked == []


def test_on_legacy_the_mark_of_a_stranger_is_never_a_proof() -> None:
    """Ids that nobody else chose tell whose a key is, whatever was lost."""
    server = ModelServer(generation="legacy", fates=[LOST_BEFORE], rows=[theirs(99, seen_from=2)])
    server.rows[0].end = MARK.on(END)
    [result] = server.run(*creates("a"))
    assert isinstance(result, Done)
    assert server.revoked == []


@BOTH
def test_an_earlier_key_of_another_run_stays_and_ours_goes(generation) -> None:
    """It is reported as made elsewhere, with its record, and ours is revoked."""
    server = ModelServer(generation=generation, rows=[theirs(1)])
    [result] = server.run(*creates("a"))
    assert result == CreatedByAnotherRun(action("a"), "~a-1", server.record(server.rows[0]))
    assert server.revoked == [row.id for row in server.made("a")]


@BOTH
def test_a_later_key_of_another_run_is_left_to_it(generation) -> None:
    """Ours stays, and theirs is theirs to revoke."""
    server = ModelServer(generation=generation, rows=[theirs(99)])
    [result] = server.run(*creates("a"))
    assert isinstance(result, Done)
    assert (server.revoked, server.read) == ([], [])


@BOTH
def test_a_key_that_another_run_made_is_not_made_again(generation) -> None:
    """After a lost answer a look shows theirs: nothing more is sent."""
    server = ModelServer(generation=generation, fates=[LOST_BEFORE], rows=[theirs(1)])
    [result] = server.run(*creates("a"))
    assert isinstance(result, CreatedByAnotherRun)
    assert len(server.sent) == 1


@pytest.mark.parametrize("names", ["a", "ab"])
def test_what_another_run_made_is_looked_at_again_though_ours_was_never_sent(names) -> None:
    """The key that the first look found gave way to an earlier one: that is the one that stays."""
    server = ModelServer(fates=[NOT_SENT], rows=[theirs(2, gone_from=2), theirs(1, seen_from=2)])
    result, *_ = server.run(*creates(*names))
    assert result == CreatedByAnotherRun(action("a"), "~a-1", server.record(server.rows[1]))


def test_what_another_run_is_just_making_is_waited_for_though_ours_was_never_sent() -> None:
    """Its role comes a moment later, as on 2.x."""
    server = ModelServer(fates=[NOT_SENT], rows=[theirs(1, role_from=5)])
    [result] = server.run(*creates("a"))
    assert result == CreatedByAnotherRun(action("a"), "~a-1", server.record(server.rows[0]))


def test_keys_that_were_there_before_neither_satisfy_nor_matter() -> None:
    """Neither the revoked key of the name nor its live one is taken for the new key."""
    before = [Row("live", "a", -1), Row("dead", "a", -2, revoked_from=0)]
    server = ModelServer(generation="legacy", fates=[LOST_BEFORE], rows=before)
    [result] = server.run(*creates("a"))
    assert isinstance(result, Done)
    assert server.looks == 2


# --- How often it looks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generation", "fates", "rows", "looks"),
    [
        ("core", [], [theirs(99, "c")], 2),
        ("core", [], [theirs(99, "a")], 2),
        ("core", [], [theirs(99, "a", gone_from=2)], 2),
        ("core", [LOST_AFTER], [], 1 + 1),
        ("core", [LOST_BEFORE], [], 1 + 2),
        ("core", [NOT_SENT], [], 1 + 1),
        ("core", [REFUSED_BEFORE], [], 1 + 2),
        ("core", [REFUSED_AFTER], [], 1 + 1),
        ("core", [REFUSED_BEFORE] * 3, [], 3 + 2),
        ("core", [REJECTED], [], 0),
        ("core", [LOST_BEFORE, REJECTED], [], 1 + 2),
        ("core", [Fate(0, "created", role=1)], [], 2),
        ("core", [Fate(0, "created", role=3)], [], 4),
        ("core", [Fate(1, "created")], [], 2),
        ("core", [Fate(4, "created")], [], 5),
        ("legacy", [], [theirs(99, "c")], 2),
        ("legacy", [], [theirs(99, "a")], 2),
        ("legacy", [LOST_AFTER], [], 1 + 1),
        ("legacy", [LOST_BEFORE], [], 1 + 1),
        ("legacy", [REJECTED], [], 0),
        ("legacy", [Fate(0, "created", role=3)], [], 1),
    ],
)
def test_a_second_look_follows_where_another_run_or_a_create_may_still_show(
    generation, fates, rows, looks
) -> None:
    """And only there: looks that resolve, then those that settle."""
    server = ModelServer(generation=generation, fates=fates, rows=list(rows))
    server.run(*creates("a"))
    assert server.looks == looks


def test_a_settling_look_that_fails_is_repeated() -> None:
    """A list fails on 2.x while another run creates; what was learnt before is not forgotten."""
    server = ModelServer(rows=[theirs(1)], blind=frozenset({1, 3, 4, 5, 6, 7, 8}))
    [result] = server.run(*creates("a"))
    assert isinstance(result, CreatedByAnotherRun)
    assert server.looks == 8


def test_the_first_look_that_comes_to_an_end_is_the_first_of_two() -> None:
    """Another run at work asks for a look more, however many failed before."""
    server = ModelServer(rows=[theirs(99)], blind=frozenset({1, 2}))
    server.run(*creates("a"))
    assert server.looks == 4


def test_settling_ends_after_eight_looks_whatever_they_show(caplog) -> None:
    """Where no look succeeds nothing is done: another run may have made the key too."""
    server = ModelServer(blind=frozenset(range(1, 99)))
    with caplog.at_level(logging.INFO, "provisioner"):
        [result] = server.run(*creates("a"))
    [row] = server.made("a")
    assert result == Unfinished(action("a"), row.id, server.record(row), NOT_SETTLED)
    assert server.looks == 8
    *looks, end = [(one.levelno, one.getMessage()) for one in caplog.records]
    assert looks == [(logging.INFO, "shop: shop hangs. Wait.")] * 8
    assert end == (
        logging.WARNING,
        "shop could not be looked at after creating; run again",
    )


# --- Records -------------------------------------------------------------------------------------


def test_records_of_found_keys_are_read_until_all_are_there_three_times_at_most() -> None:
    """Each reading asks for what the ones before did not show."""
    server = ModelServer(fates=[LOST_AFTER] * 3, readings=[1, 1])
    results = server.run(*creates("a", "b", "c"))
    assert [list(one) for one in server.read] == [
        ["id-a", "id-b", "id-c"],
        ["id-b", "id-c"],
        ["id-c"],
    ]
    assert [one.record for one in results] == [server.record(row) for row in server.rows]


def test_a_record_that_cannot_be_read_is_none_and_the_key_is_done() -> None:
    """Three readings, then the report goes without."""
    server = ModelServer(fates=[LOST_AFTER], readings=[0] * 9)
    assert server.run(*creates("a")) == (Done(action("a"), "id-a", None),)
    assert len(server.read) == 3


# --- What is reported ----------------------------------------------------------------------------


@BOTH
def test_a_key_that_is_certainly_refused_fails_with_the_servers_own_words(generation) -> None:
    """Its neighbours are made; nothing is looked for, nothing sent again."""
    server = ModelServer(generation=generation, fates=[REJECTED])
    first, second = server.run(*creates("a", "b"))
    assert first == Failed(action("a"), REFUSED)
    assert isinstance(second, Done)
    assert (len(server.sent), server.settled) == (2, 2)


def test_a_key_that_is_refused_twice_by_itself_fails_with_the_servers_own_words() -> None:
    """The first refusal may be its company's; then it stands alone, and looks come between."""
    server = ModelServer(fates=[REFUSED_BEFORE] * 9)
    assert server.run(*creates("a")) == (Failed(action("a"), REFUSED),)
    assert [key.tries for key, _ in server.sent] == [0, 4, 4]
    assert server.settled == 1


def test_a_refused_key_that_shows_late_is_done() -> None:
    """What a look shows is truer than what was said."""
    server = ModelServer(fates=[LATE, REJECTED])
    [result] = server.run(*creates("a"))
    assert result == Done(action("a"), "id-a", server.record(server.rows[0]))


def test_a_server_that_is_never_reached_fails_the_key_with_that() -> None:
    """Nothing was sent, so that nothing is unknown."""
    server = ModelServer(fates=[NOT_SENT] * 99)
    assert server.run(*creates("a")) == (Failed(action("a"), UNREACHABLE),)
    assert server.looks == 8


def test_what_was_unknown_stays_so_when_later_tries_do_not_reach_the_server() -> None:
    """The first create may still have been made."""
    [result] = ModelServer(fates=[LOST_BEFORE, *[NOT_SENT] * 99]).run(*creates("a"))
    assert isinstance(result, Failed)
    assert result.failure.code == "outcome_unknown"


def test_a_key_that_vanished_is_not_reported_as_done() -> None:
    """It was made, and eight looks do not show it."""
    made = ModelServer(fates=[Fate(NEVER, "created")])
    found = ModelServer(fates=[LOST_AFTER], watch=lambda: None)
    found.watch = lambda: [setattr(row, "gone_from", 2) for row in found.rows]
    for server in (made, found):
        assert server.run(*creates("a")) == (
            Failed(
                action("a"),
                Failure(
                    "outcome_unknown",
                    "'a' was made, and later looks do not show it live: someone revoked it, or "
                    "the server lost it. `provision list` shows what is there.",
                ),
            ),
        )
    assert (made.looks, found.looks) == (8, 9)


def test_a_key_whose_role_never_comes_is_not_reported_as_done() -> None:
    """The message names the key that is to be repaired."""
    server = ModelServer(fates=[Fate(0, "created", role=NEVER)])
    assert server.run(*creates("a")) == (
        Unfinished(
            action("a"),
            "id-a",
            None,
            Failure(
                "outcome_unknown",
                "'a' was made as id-a, and has no role after several looks. Assign it by hand, "
                "or revoke the key and run again.",
            ),
        ),
    )
    assert server.looks == 8
    hidden = ModelServer(fates=[Fate(0, "created", role=NEVER)], roles_hidden=True)
    assert isinstance(hidden.run(*creates("a"))[0], Done)
    assert hidden.looks == 1


def test_a_whole_key_never_gives_way_to_one_without_a_role() -> None:
    """One whose server died half-way is of no use to anyone: ours stays, and both are named."""
    server = ModelServer(rows=[Row("~a-1", "a", 1, role_from=NEVER)])
    [result] = server.run(*creates("a"))
    assert isinstance(result, Unfinished)
    assert result.failure.code == "outcome_unknown"
    [ours] = server.made("a")
    assert all(id_ in result.failure.message for id_ in ("~a-1", ours.id))
    assert server.revoked == []


@pytest.mark.parametrize("depth", DEPTHS.values())
def test_where_roles_are_hidden_a_found_key_is_done_only_if_it_reads_with_its_role(depth) -> None:
    """Its record cannot be read with the role while it has none."""
    name = next(name for name, its in DEPTHS.items() if its == depth)
    server = ModelServer(fates=[LOST_AFTER], roles_hidden=True)
    assert isinstance(server.run(*creates(name))[0], Done)
    half = ModelServer(fates=[LOST_AFTER], roles_hidden=True, readings=[0, 0, 0])
    [result] = half.run(*creates(name))
    assert isinstance(result, Unfinished)
    assert result.failure.code == "outcome_unknown"


def test_a_loser_is_revoked_as_patiently_as_looks_are_taken() -> None:
    """Eight times, with growing waits; once more is once where only the answer was lost."""
    server = ModelServer(rows=[theirs(1)], revoking=["lost", *["refused"] * 6])
    [result] = server.run(*creates("a"))
    assert isinstance(result, CreatedByAnotherRun)
    assert server.revoked == [row.id for row in server.made("a")] * 8
    waits = server.stop.seconds[2:]
    for wait, most in zip(waits, [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0], strict=True):
        assert most / 2 <= wait <= most


def test_a_loser_that_cannot_be_revoked_is_reported() -> None:
    """The message names both keys; the other actions are what they are."""
    server = ModelServer(rows=[theirs(1, "a")], revoking=["refused"] * 8)
    first, second = server.run(*creates("a", "b"))
    assert first == Unfinished(
        action("a"),
        "~a-1",
        None,
        Failure(
            "duplicate_left",
            "~a-1 stays, and id-a, which this run made for the same name, was not revoked. "
            "shop hangs. Wait.",
        ),
        made=False,
    )
    assert isinstance(second, Done)


def test_a_run_that_ends_before_its_loser_is_revoked_says_so() -> None:
    """Asked in the middle of settling, the report has the surplus key, and never `done`."""
    server = ModelServer(rows=[theirs(1)], revoking=["refused"] * 8)
    execution = server.execution(*creates("a"))
    seen: list[Result] = []
    server.watch = lambda: seen.extend(execution.result().results) if server.revoked else None
    execution.run()
    [ours] = server.made("a")
    assert seen[0] == Unfinished(
        action("a"),
        "~a-1",
        None,
        Failure(
            "duplicate_left",
            f"~a-1 stays, and {ours.id}, which this run made for the same name, was not revoked. "
            "The run had to end before it was.",
        ),
        made=False,
    )
    assert {one.failure.code for one in seen if isinstance(one, Unfinished)} == {"duplicate_left"}


def test_a_surplus_key_that_is_gone_leaves_the_shown_one_done() -> None:
    """A create that was committed late is revoked; the key that the answer showed is the key."""
    server = ModelServer(fates=[LATE, MADE])
    # The server began the first create after the second one.
    server.watch = lambda: [setattr(row, "second", 99) for row in server.made("a")[:1]]
    [result] = server.run(*creates("a"))
    late, made = server.made("a")
    assert result == Done(action("a"), made.id, server.record(made))
    assert server.revoked == [late.id]


def test_a_key_that_a_look_found_is_not_done_when_no_later_look_succeeds() -> None:
    """Its id is told, for nobody can know whether another run's key came before it."""
    server = ModelServer(fates=[LOST_AFTER], blind=frozenset(range(2, 99)))
    [result] = server.run(*creates("a"))
    [row] = server.made("a")
    assert result == Unfinished(action("a"), row.id, None, NOT_SETTLED)


@pytest.mark.parametrize("role_from", [0, NEVER])
def test_every_surplus_key_is_named(role_from) -> None:
    """Those of this run that are left, beside a whole key of another run or a half one."""
    fates = [Fate(3, "lost"), Fate(2, "lost"), MADE]
    server = ModelServer(
        fates=fates, rows=[theirs(1, role_from=role_from)], revoking=["refused"] * 99
    )
    server.rows[0].seen_from = 3
    [result] = server.run(*creates("a"))
    ids = ", ".join(row.id for row in server.made("a"))
    assert isinstance(result, Unfinished)
    assert len(server.made("a")) == 3
    assert ids in result.failure.message


# --- Stopping ------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_before_it_begins_skips_everything() -> None:
    """Nothing is sent and nothing looked at."""
    server = ModelServer()
    server.stop.ask()
    assert server.run(*creates("a", "b")) == tuple(Skipped(action(name), STOPPED) for name in "ab")
    assert (server.sent, server.looks) == ([], 0)


def test_a_stop_lets_what_is_in_flight_be_settled_and_skips_the_rest() -> None:
    """The key that was sent is looked at and reported; the others were not begun."""
    server = ModelServer(stop_at=1)
    first, *rest = server.run(*creates("a", "b", "c"))
    assert isinstance(first, Done)
    assert rest == [Skipped(action("b"), STOPPED), Skipped(action("c"), STOPPED)]
    assert (len(server.sent), server.looks) == (1, 1)


@pytest.mark.parametrize("stop_at", [3, 4])
def test_after_a_stop_nothing_is_sent_again(stop_at) -> None:
    """Whether it comes in the wait or in the look: two looks more, and the outcome is unknown."""
    server = ModelServer(fates=[LOST_BEFORE], stop_at=stop_at)
    assert server.run(*creates("a")) == (Failed(action("a"), unknown(LOST)),)
    assert len(server.sent) == 1


def test_a_key_whose_answer_was_lost_is_not_said_to_have_never_begun() -> None:
    """The stop comes before its second try: what is unknown is still the first."""
    server = ModelServer(fates=[LOST_BEFORE] * 2, stop_at=8)
    _, second = server.run(*creates("a", "b"))
    assert second == Failed(action("b"), unknown(LOST))


def test_a_result_can_be_asked_for_while_the_request_is_in_flight() -> None:
    """Before anything: skipped. With the request out: unknown, never done. Then done."""
    server = ModelServer()
    execution = server.execution(*creates("a", "b"))
    seen: list[tuple[Result, ...]] = []
    server.watch = lambda: seen.append(execution.result().results)
    skipped = tuple(Skipped(action(name), STOPPED) for name in "ab")
    flying = [Failed(action(name), unknown(IN_FLIGHT)) for name in "ab"]
    assert execution.result() == Executed(part_with(action("a"), action("b")), skipped)
    execution.run()
    done = execution.result().results
    assert seen[:4] == [
        (flying[0], skipped[1]),
        (flying[0], skipped[1]),
        (done[0], flying[1]),
        (done[0], flying[1]),
    ]
    assert seen[4:] == [done] * 2


def test_a_bug_that_ends_a_run_is_the_failure_of_what_is_still_open() -> None:
    """What is known stays known; a refusal keeps its own words."""
    bug = Failure("internal_error", "A bug.")
    server = ModelServer(fates=[MADE, REJECTED, LOST_BEFORE], blind=frozenset(range(99)))
    execution = server.execution(*creates("a", "b", "c"))
    execution.run()
    first, second, third = execution.result(bug).results
    assert isinstance(first, Unfinished)
    assert second == Failed(action("b"), REFUSED)
    assert third == Failed(action("c"), bug)
    assert server.execution(*creates("a")).result(bug).results == (Failed(action("a"), bug),)


# --- Whatever happens ----------------------------------------------------------------------------


def check_so_far(server: ModelServer, executed: Executed) -> None:
    """What a report says at any moment is true of the server, whether the run has ended or not."""
    rows = {row.id: row for row in server.rows}
    for result in executed.results:
        name = result.action.name
        match result:
            case Done(id=id_) | CreatedByAnotherRun(id=id_):
                assert rows[id_].name == name
                assert (rows[id_].owner is server) == isinstance(result, Done)
                assert rows[id_].revoked_from == NEVER
                assert result.record in (None, server.record(rows[id_]))
            case Skipped(failure=why):
                assert why == STOPPED
                assert not server.made(name)
            case Unfinished(id=id_, failure=why):
                assert rows[id_].name == name
                assert why.code in ("outcome_unknown", "duplicate_left", "not_settled")
            case Failed(failure=why) if why == REFUSED:
                refusals = [
                    key.tries >= 4
                    for key, fate in server.sent
                    if key.name == name and fate.says == "refused"
                ]
                rejected = (name, "rejected") in {(key.name, f.says) for key, f in server.sent}
                assert rejected or sum(refusals) >= 2
            case Failed(failure=why):
                assert why.code in ("outcome_unknown", "unreachable")


def check_at_the_end(server: ModelServer, executed: Executed) -> None:
    """After the run, by its last look: one live key of each name that was sent, and that is it."""
    for result in executed.results:
        name = result.action.name
        says = {fate.says for key, fate in server.sent if key.name == name}
        new = server.new(name)
        ours = [row for row in new if row.owner is server]
        code = result.failure.code if isinstance(result, Unfinished) else None
        left = code == "duplicate_left"
        whole = not new or new[0].role_from <= server.seen or server.generation == "legacy"
        sent = bool(says - {"rejected", "not sent"})
        if isinstance(result, Done | CreatedByAnotherRun):
            assert new[0].id == result.id
            assert whole
            assert result.record is not None or len(server.read) == 3
        else:
            assert left or not new or not whole or not sent or code == "not_settled"
        if left:
            assert server.revoking == REVOKING_FAILS or server.stop.asked
        elif whole and code != "not_settled":
            assert [row for row in ours if row.revoked_from == NEVER] in ([], new[:1])
        if isinstance(result, Failed) and result.failure.code == "outcome_unknown":
            assert server.looks >= 8 or server.stop.asked


OTHERS = st.lists(
    st.builds(
        Row,
        st.sampled_from(["!1", "!2", "~1", "~2"]),
        st.sampled_from(NAMES),
        st.integers(9, 14),
        seen_from=st.integers(1, 6),
        role_from=st.integers(1, 7),
        gone_from=st.integers(2, 9) | st.just(NEVER),
    ),
    max_size=3,
    unique_by=lambda row: row.id,
)
LEGACY_FATES = [MADE, LOST_BEFORE, LOST_AFTER, LATE, Fate(2, "lost"), BURIED, REJECTED, NOT_SENT]
CORE_FATES = [
    *[MADE, LOST_BEFORE, LOST_AFTER, LATE, Fate(3, "lost"), REFUSED_BEFORE, REFUSED_AFTER],
    *[REJECTED, NOT_SENT, Fate(0, "created", 2), Fate(0, "lost", 1), Fate(1, "created")],
]


REVOKING_FAILS = ["refused"] * 8


def servers(
    generation: Literal["legacy", "core"], fates: list[Fate]
) -> st.SearchStrategy[ModelServer]:
    return st.builds(
        ModelServer,
        generation=st.just(generation),
        fates=st.lists(st.sampled_from(fates), max_size=24),
        rows=OTHERS,
        blind=st.frozensets(st.integers(1, 14), max_size=10),
        stop_at=st.none() | st.integers(1, 40),
        revoking=st.lists(st.sampled_from(["done", "refused", "lost"]), max_size=2)
        | st.just(REVOKING_FAILS),
        readings=st.lists(st.integers(0, 1), max_size=3),
    )


SERVERS = servers("legacy", LEGACY_FATES) | servers("core", CORE_FATES)


@settings(max_examples=400)
@given(server=SERVERS, names=st.lists(st.sampled_from(NAMES), unique=True))
def test_whatever_happens_reports_are_true_and_nothing_is_made_twice(server, names) -> None:
    """Over random scripts; the model itself refuses what a run must never do.

    That is: to send a key again without a look that does not show it, to begin a create after the
    stop, to revoke a key of others or the one that stays.
    """
    server.rows.append(Row("old", "a", -1, revoked_from=0))
    execution = server.execution(*creates(*names))
    server.watch = lambda: check_so_far(server, execution.result())
    execution.run()
    executed = execution.result()
    check_so_far(server, executed)
    assert [one.action.name for one in executed.results] == names
    assert server.looks <= 8 * len(names) + 8
    assert len(server.calls) <= 8 * len(names) + 1
    if server.well:
        check_at_the_end(server, executed)
    assert server.settled <= len(names)


@settings(max_examples=200)
@given(server=servers("legacy", LEGACY_FATES))
def test_an_id_changes_only_when_it_was_taken_alone(server) -> None:
    """Never after a lost answer, nor after a refusal that may be the fault of the company."""
    server.run(*creates(*NAMES))
    for name in NAMES:
        sent = [(key, fate) for key, fate in server.sent if key.name == name]
        for (one, fate), (following, _) in pairwise(sent):
            if one.id != following.id:
                assert one.tries >= 4
                assert fate.says in ("created", "taken")


RACING = st.lists(
    st.sampled_from([MADE, LOST_BEFORE, LOST_AFTER, REFUSED_AFTER, NOT_SENT]), max_size=8
)


@settings(max_examples=300)
@given(
    generation=st.sampled_from(["legacy", "core"]),
    fates=st.tuples(RACING, RACING),
    moment=st.integers(1, 30),
)
def test_of_two_runs_at_once_one_key_of_each_name_stays_and_both_reports_name_it(
    generation, fates, moment
) -> None:
    """The second run takes place as a whole at any event of the first."""
    rows, clock = list[Row](), Clock()
    first = ModelServer(generation=generation, fates=fates[0], rows=rows, clock=clock)
    second = ModelServer(
        generation=generation, fates=fates[1], rows=rows, mark=RunMarker(9), clock=clock
    )
    reports: list[tuple[Result, ...]] = []

    def cut_in() -> None:
        if len(first.events) == moment:
            reports.append(second.run(*creates(*NAMES)))

    first.watch = cut_in
    reports.append(first.run(*creates(*NAMES)))
    if len(reports) == 1:
        reports.append(second.run(*creates(*NAMES)))
    live = {row.name: row.id for row in rows if row.revoked_from == NEVER}
    assert len(live) == sum(row.revoked_from == NEVER for row in rows) == len(NAMES)
    for report in reports:
        assert {one.action.name: one.id for one in report} == live
