"""The execution of a plan on a model of a server that loses, delays and refuses requests."""

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
    MARKER,
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
from provisioner.execution.pending import UNCONFIRMED
from provisioner.model.workspace import IN_FLIGHT, NewKey
from provisioner.runtime.cancellation import STOPPED

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
    """Return a key of another run; ours are created from second 10 on."""
    return Row(f"~{name}-{second}", name, second, **changes)


def unknown(cause: Failure) -> Failure:
    return Failure(
        "outcome_unknown",
        f"{cause.text} The key may or may not exist; check with `provision list`.",
    )


BOTH = pytest.mark.parametrize("generation", ["legacy", "core"])


# --- What is sent, and how often -----------------------------------------------------------------


@BOTH
def test_a_run_without_errors_creates_once_and_observes_once(generation) -> None:
    """It sends one create for all, observes once after a delay, and keeps the returned records."""
    server = ModelServer(generation=generation)
    results = server.run(*creates("a", "b", "c"))
    assert server.calls == [("a", "b", "c")]
    assert server.observations == 1
    assert server.stop.seconds == [0.3]
    assert (server.read, server.revoked) == ([], [])
    assert server.settled == 3
    rows = [server.created_rows(name)[0] for name in NAMES]
    assert results == tuple(Done(action(row.name), row.id, server.record(row)) for row in rows)


def test_a_key_is_sent_with_the_fields_of_its_action() -> None:
    """Name, depth and role of the action, its expiry with the run marker, and an id of its own."""
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


def test_blocked_actions_are_not_sent_and_keep_their_place_in_the_results() -> None:
    """If every action is blocked, the server gets no request at all."""
    server = ModelServer()
    execution = server.execution(*creates("a", "b", "c", blocked=["a", "c"]))
    execution.run()
    first, second, third = execution.context.progress.executed().results
    assert first == Failed(action("a", BLOCKED), BLOCKED)
    assert isinstance(second, Done)
    assert third == Failed(action("c", BLOCKED), BLOCKED)
    assert server.calls == [("b",)]
    assert server.settled == 1
    idle = ModelServer()
    idle.execution(*creates("a", blocked=["a"])).run()
    assert (idle.events, idle.settled) == ([], 0)


@BOTH
def test_only_keys_that_an_observation_does_not_show_are_sent_again(generation) -> None:
    """Of three creates with lost answers one succeeded: the other two are sent again."""
    server = ModelServer(generation=generation, fates=[LOST_BEFORE, LOST_AFTER, LOST_BEFORE])
    results = server.run(*creates("a", "b", "c"))
    assert server.calls == [("a", "b", "c"), ("a", "c")]
    assert [type(one) for one in results] == [Done] * 3
    assert [len(server.created_rows(name)) for name in NAMES] == [1, 1, 1]
    assert server.settled == 3


def test_the_log_says_how_many_creates_are_unknown(caplog) -> None:
    """It has one line for each round, with the environment and the number of unknown creates."""
    with caplog.at_level(logging.INFO, "provisioner"):
        ModelServer(fates=[LOST_BEFORE] * 3).run(*creates("a", "b"))
    assert [one.getMessage() for one in caplog.records] == [
        "shop: the outcome of 2 creates is unknown; listing the keys again",
        "shop: the outcome of 1 create is unknown; listing the keys again",
    ]


def test_a_failed_observation_is_no_reason_to_send_again() -> None:
    """Only a complete observation shows what is missing."""
    server = ModelServer(fates=[LOST_AFTER], blind=frozenset({1, 2, 3}))
    [result] = server.run(*creates("a"))
    assert isinstance(result, Done)
    assert len(server.sent) == 1
    assert server.observations == 5


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
def test_a_key_is_sent_in_ever_smaller_requests(fates, tries) -> None:
    """After a refusal the key is sent by itself; a request that was not sent is no try."""
    server = ModelServer(fates=fates)
    [result] = server.run(*creates("a"))
    assert [key.tries for key, _ in server.sent] == tries
    assert isinstance(result, Done)


@BOTH
def test_a_run_gives_up_after_eight_observations_without_progress(generation) -> None:
    """Each observation is followed by one more create; then the outcome is reported as unknown."""
    server = ModelServer(generation=generation, fates=[LOST_BEFORE] * 9)
    assert server.run(*creates("a")) == (Failed(action("a"), unknown(LOST)),)
    assert len(server.sent) == 9
    assert server.observations == 8 + 2
    assert server.settled == 1


def test_progress_gives_the_other_keys_eight_more_observations() -> None:
    """The run does not give up as long as it makes progress."""
    fates = [LOST_BEFORE, *[LOST_BEFORE] * 14, LOST_AFTER, *[LOST_BEFORE] * 20]
    server = ModelServer(fates=fates)
    first, second = server.run(*creates("a", "b"))
    assert isinstance(second, Done)
    assert first == Failed(action("a"), unknown(LOST))
    assert server.observations == 8 + 8 + 2


def test_a_server_that_lists_nothing_any_more_is_asked_eight_times() -> None:
    """If answers are lost and the list fails, the results say that the keys are unconfirmed."""
    server = ModelServer(fates=[LOST_AFTER, MADE], blind=frozenset(range(1, 99)))
    first, second = server.run(*creates("a", "b"))
    assert first == Failed(action("a"), unknown(LOST))
    assert isinstance(second, Unfinished)
    assert (second.failure.code, second.id) == ("not_settled", server.created_rows("b")[0].id)
    assert server.observations == 8
    assert len(server.stop.seconds) == 8


def test_an_unknown_key_does_not_keep_the_others_from_being_confirmed() -> None:
    """The list can be read: another run's earlier key is found, and ours gives way."""
    server = ModelServer(fates=[LOST_BEFORE, MADE, *[LOST_BEFORE] * 8], rows=[theirs(1, "b")])
    first, second = server.run(*creates("a", "b"))
    assert first == Failed(action("a"), unknown(LOST))
    assert second == CreatedByAnotherRun(action("b"), "~b-1", server.record(server.rows[0]))


# --- How long it waits ---------------------------------------------------------------------------


def test_waits_between_observations_grow_to_five_seconds_with_jitter() -> None:
    """They start at a quarter of a second and double; each lasts between half and all of that."""
    runs = [ModelServer(fates=[LOST_BEFORE] * 9) for _ in range(50)]
    for server in runs:
        server.run(*creates("a"))
    for number, longest in enumerate([0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]):
        waits = [server.stop.seconds[number] for server in runs]
        assert all(longest / 2 <= wait <= longest for wait in waits)
        assert max(waits) - min(waits) > longest / 4
    assert {server.stop.seconds[8] for server in runs} == {0.3}


def test_the_second_observation_comes_a_second_after_the_first_and_others_later() -> None:
    """This gives another run's create time to become visible."""
    server = ModelServer(fates=[Fate(0, "created", role=7)])
    server.run(*creates("a"))
    settle_delay, *waits = server.stop.seconds
    assert settle_delay == 0.3
    assert waits[:3] == [1.0, 1.0, 1.0]
    assert all(1.0 <= wait <= 5.0 for wait in waits)
    assert max(waits) > 2.0


# --- Ids on legacy -------------------------------------------------------------------------------


def test_a_repeated_create_has_the_same_id_on_legacy() -> None:
    """So the server itself refuses to create the key twice."""
    server = ModelServer(generation="legacy", fates=[Fate(3, "lost"), LOST_BEFORE])
    [result] = server.run(*creates("a"))
    assert len({key.id for key, _ in server.sent}) == 1
    assert [row.id for row in server.created_rows("a")] == [result.id]


def test_an_unusable_id_is_replaced_once_the_key_was_sent_by_itself_and_is_not_listed() -> None:
    """It was taken twice, the second time in a request of its own, and no observation shows it."""
    server = ModelServer(generation="legacy", fates=[BURIED])
    [result] = server.run(*creates("a"))
    ids = [key.id for key, _ in server.sent]
    assert ids[0] == ids[1] != ids[2]
    assert [key.tries for key, _ in server.sent] == [0, 4, 4]
    assert isinstance(result, Done)
    assert result.id == ids[2]


def test_the_key_of_an_id_that_was_replaced_too_early_is_revoked() -> None:
    """The row of the first id appears after the change: both keys are ours, the later one goes."""
    server = ModelServer(generation="legacy", fates=[Fate(3, "lost")])
    [result] = server.run(*creates("a"))
    early, late = server.created_rows("a")
    assert result == Done(action("a"), early.id, server.record(early))
    assert server.revoked == [late.id]


# --- Who created a key ---------------------------------------------------------------------------


def test_on_core_a_key_whose_answer_was_lost_is_recognised_by_the_run_marker() -> None:
    """The first of two is kept and the other revoked, although only one of them was answered."""
    server = ModelServer(fates=[LATE, MADE])
    [result] = server.run(*creates("a"))
    lost, answered = server.created_rows("a")
    assert result == Done(action("a"), lost.id, server.record(lost))
    assert server.revoked == [answered.id]
    assert server.read == [{lost.id: 0}]


def test_if_every_answer_arrived_the_same_marker_on_another_key_proves_nothing() -> None:
    """Another run has the same milliseconds: its later key is not ours to revoke."""
    server = ModelServer(rows=[theirs(99)])
    server.rows[0].end = MARKER.apply_to(END)
    [result] = server.run(*creates("a"))
    assert isinstance(result, Done)
    assert server.revoked == []


def test_on_legacy_the_same_marker_on_another_key_never_proves_anything() -> None:
    """Ids that nobody else chose identify our keys, whatever was lost."""
    server = ModelServer(generation="legacy", fates=[LOST_BEFORE], rows=[theirs(99, seen_from=2)])
    server.rows[0].end = MARKER.apply_to(END)
    [result] = server.run(*creates("a"))
    assert isinstance(result, Done)
    assert server.revoked == []


@BOTH
def test_an_earlier_key_of_another_run_is_kept_and_ours_is_revoked(generation) -> None:
    """It is reported as created by another run, with its record."""
    server = ModelServer(generation=generation, rows=[theirs(1)])
    [result] = server.run(*creates("a"))
    assert result == CreatedByAnotherRun(action("a"), "~a-1", server.record(server.rows[0]))
    assert server.revoked == [row.id for row in server.created_rows("a")]


@BOTH
def test_a_later_key_of_another_run_is_left_alone(generation) -> None:
    """Ours is kept, and the other run revokes its own."""
    server = ModelServer(generation=generation, rows=[theirs(99)])
    [result] = server.run(*creates("a"))
    assert isinstance(result, Done)
    assert (server.revoked, server.read) == ([], [])


@BOTH
def test_a_key_that_another_run_created_is_not_created_again(generation) -> None:
    """After a lost answer an observation shows theirs: nothing more is sent."""
    server = ModelServer(generation=generation, fates=[LOST_BEFORE], rows=[theirs(1)])
    [result] = server.run(*creates("a"))
    assert isinstance(result, CreatedByAnotherRun)
    assert len(server.sent) == 1


@pytest.mark.parametrize("names", ["a", "ab"])
def test_another_runs_key_is_observed_again_although_ours_was_never_sent(names) -> None:
    """The key of the first observation gave way to an earlier one, and that one is kept."""
    server = ModelServer(fates=[NOT_SENT], rows=[theirs(2, gone_from=2), theirs(1, seen_from=2)])
    result, *_ = server.run(*creates(*names))
    assert result == CreatedByAnotherRun(action("a"), "~a-1", server.record(server.rows[1]))


def test_the_role_of_another_runs_key_is_awaited_although_ours_was_never_sent() -> None:
    """The role comes a moment after the key, as on 2.x."""
    server = ModelServer(fates=[NOT_SENT], rows=[theirs(1, role_from=5)])
    [result] = server.run(*creates("a"))
    assert result == CreatedByAnotherRun(action("a"), "~a-1", server.record(server.rows[0]))


def test_keys_that_existed_before_are_never_taken_for_the_new_key() -> None:
    """Neither a revoked key of the name nor a live one counts."""
    before = [Row("live", "a", -1), Row("dead", "a", -2, revoked_from=0)]
    server = ModelServer(generation="legacy", fates=[LOST_BEFORE], rows=before)
    [result] = server.run(*creates("a"))
    assert isinstance(result, Done)
    assert server.observations == 2


# --- How often it observes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generation", "fates", "rows", "observations"),
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
def test_a_second_observation_follows_only_if_another_key_may_still_appear(
    generation, fates, rows, observations
) -> None:
    """The counts include the observations that resolve creates and the final ones."""
    server = ModelServer(generation=generation, fates=fates, rows=list(rows))
    server.run(*creates("a"))
    assert server.observations == observations


def test_a_final_observation_that_fails_is_repeated() -> None:
    """A list fails on 2.x while another run creates; earlier observations are not forgotten."""
    server = ModelServer(rows=[theirs(1)], blind=frozenset({1, 3, 4, 5, 6, 7, 8}))
    [result] = server.run(*creates("a"))
    assert isinstance(result, CreatedByAnotherRun)
    assert server.observations == 8


def test_the_first_observation_that_succeeds_is_the_first_of_two() -> None:
    """Another active run requires one more observation, however many failed before."""
    server = ModelServer(rows=[theirs(99)], blind=frozenset({1, 2}))
    server.run(*creates("a"))
    assert server.observations == 4


def test_final_observations_end_after_eight_attempts(caplog) -> None:
    """If none succeeds, nothing is done: another run may have created the key too."""
    server = ModelServer(blind=frozenset(range(1, 99)))
    with caplog.at_level(logging.INFO, "provisioner"):
        [result] = server.run(*creates("a"))
    [row] = server.created_rows("a")
    assert result == Unfinished(action("a"), row.id, server.record(row), UNCONFIRMED)
    assert server.observations == 8
    *attempts, end = [(one.levelno, one.getMessage()) for one in caplog.records]
    assert attempts == [(logging.INFO, "shop: shop hangs. Wait.")] * 8
    assert end == (
        logging.WARNING,
        "shop: the keys could not be listed after creating; run the command again",
    )


# --- Records -------------------------------------------------------------------------------------


def test_records_of_found_keys_are_read_at_most_three_times() -> None:
    """Each attempt asks only for the records that are still missing."""
    server = ModelServer(fates=[LOST_AFTER] * 3, readings=[1, 1])
    results = server.run(*creates("a", "b", "c"))
    assert [list(one) for one in server.read] == [
        ["id-a", "id-b", "id-c"],
        ["id-b", "id-c"],
        ["id-c"],
    ]
    assert [one.record for one in results] == [server.record(row) for row in server.rows]


def test_a_record_that_cannot_be_read_is_none_and_the_key_is_done() -> None:
    """After three attempts the result has no record."""
    server = ModelServer(fates=[LOST_AFTER], readings=[0] * 9)
    assert server.run(*creates("a")) == (Done(action("a"), "id-a", None),)
    assert len(server.read) == 3


# --- What is reported ----------------------------------------------------------------------------


@BOTH
def test_a_key_that_is_certainly_refused_fails_with_the_servers_message(generation) -> None:
    """The other keys are created, and nothing is observed or sent again for it."""
    server = ModelServer(generation=generation, fates=[REJECTED])
    first, second = server.run(*creates("a", "b"))
    assert first == Failed(action("a"), REFUSED)
    assert isinstance(second, Done)
    assert (len(server.sent), server.settled) == (2, 2)


def test_a_key_that_is_refused_twice_by_itself_fails_with_the_servers_message() -> None:
    """The first refusal may be due to another key, so the key is then sent by itself."""
    server = ModelServer(fates=[REFUSED_BEFORE] * 9)
    assert server.run(*creates("a")) == (Failed(action("a"), REFUSED),)
    assert [key.tries for key, _ in server.sent] == [0, 4, 4]
    assert server.settled == 1


def test_a_refused_key_that_appears_late_is_done() -> None:
    """An observation outweighs an answer."""
    server = ModelServer(fates=[LATE, REJECTED])
    [result] = server.run(*creates("a"))
    assert result == Done(action("a"), "id-a", server.record(server.rows[0]))


def test_a_server_that_is_never_reached_fails_the_key_as_unreachable() -> None:
    """Nothing was sent, so nothing is unknown."""
    server = ModelServer(fates=[NOT_SENT] * 99)
    assert server.run(*creates("a")) == (Failed(action("a"), UNREACHABLE),)
    assert server.observations == 8


def test_an_unknown_outcome_stays_unknown_if_later_tries_do_not_reach_the_server() -> None:
    """The first create may still have succeeded."""
    [result] = ModelServer(fates=[LOST_BEFORE, *[NOT_SENT] * 99]).run(*creates("a"))
    assert isinstance(result, Failed)
    assert result.failure.code == "outcome_unknown"


def test_a_key_that_vanished_is_not_reported_as_done() -> None:
    """It was created, and eight observations do not show it."""
    vanished = ModelServer(fates=[Fate(NEVER, "created")])
    found = ModelServer(fates=[LOST_AFTER], watch=lambda: None)
    found.watch = lambda: [setattr(row, "gone_from", 2) for row in found.rows]
    for server in (vanished, found):
        assert server.run(*creates("a")) == (
            Failed(
                action("a"),
                Failure(
                    "outcome_unknown",
                    "'a' was created but is no longer listed as live: someone revoked it, or the "
                    "server lost it. Run `provision list` to see which keys exist.",
                ),
            ),
        )
    assert (vanished.observations, found.observations) == (8, 9)


def test_a_key_whose_role_never_comes_is_not_reported_as_done() -> None:
    """The message names the key that needs a role."""
    server = ModelServer(fates=[Fate(0, "created", role=NEVER)])
    assert server.run(*creates("a")) == (
        Unfinished(
            action("a"),
            "id-a",
            None,
            Failure(
                "outcome_unknown",
                "'a' was created as id-a but still has no role. Assign the role by hand, or revoke "
                "the key and run the command again.",
            ),
        ),
    )
    assert server.observations == 8
    roles_hidden = ModelServer(fates=[Fate(0, "created", role=NEVER)], roles_hidden=True)
    assert isinstance(roles_hidden.run(*creates("a"))[0], Done)
    assert roles_hidden.observations == 1


def test_a_complete_key_never_gives_way_to_one_without_a_role() -> None:
    """Nobody can use a key whose server died half-way: ours is kept, and the message names both."""
    server = ModelServer(rows=[Row("~a-1", "a", 1, role_from=NEVER)])
    [result] = server.run(*creates("a"))
    assert isinstance(result, Unfinished)
    assert result.failure.code == "outcome_unknown"
    [ours] = server.created_rows("a")
    assert all(id_ in result.failure.text for id_ in ("~a-1", ours.id))
    assert server.revoked == []


@pytest.mark.parametrize("depth", DEPTHS.values())
def test_if_roles_are_hidden_a_found_key_is_done_only_if_its_record_shows_the_role(depth) -> None:
    """A key without a role cannot be read at a depth that includes it."""
    name = next(name for name, of_name in DEPTHS.items() if of_name == depth)
    server = ModelServer(fates=[LOST_AFTER], roles_hidden=True)
    assert isinstance(server.run(*creates(name))[0], Done)
    unreadable = ModelServer(fates=[LOST_AFTER], roles_hidden=True, readings=[0, 0, 0])
    [result] = unreadable.run(*creates(name))
    assert isinstance(result, Unfinished)
    assert result.failure.code == "outcome_unknown"


def test_a_duplicate_is_revoked_in_eight_attempts_with_growing_waits() -> None:
    """Revoking again is harmless if only the answer was lost."""
    server = ModelServer(rows=[theirs(1)], revoking=["lost", *["refused"] * 6])
    [result] = server.run(*creates("a"))
    assert isinstance(result, CreatedByAnotherRun)
    assert server.revoked == [row.id for row in server.created_rows("a")] * 8
    waits = server.stop.seconds[2:]
    for wait, longest in zip(waits, [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0], strict=True):
        assert longest / 2 <= wait <= longest


def test_a_duplicate_that_cannot_be_revoked_is_reported() -> None:
    """The message names both keys; other actions are not affected."""
    server = ModelServer(rows=[theirs(1, "a")], revoking=["refused"] * 8)
    first, second = server.run(*creates("a", "b"))
    assert first == Unfinished(
        action("a"),
        "~a-1",
        None,
        Failure(
            "duplicate_left",
            "This run created id-a as a duplicate of ~a-1 and could not revoke it. "
            "shop hangs. Wait.",
        ),
        created=False,
    )
    assert isinstance(second, Done)


def test_a_run_that_ends_before_its_duplicate_is_revoked_says_so() -> None:
    """While the duplicate is being revoked, the result names it and is never `done`."""
    server = ModelServer(rows=[theirs(1)], revoking=["refused"] * 8)
    execution = server.execution(*creates("a"))
    results_seen: list[Result] = []
    server.watch = lambda: (
        results_seen.extend(execution.context.progress.executed().results)
        if server.revoked
        else None
    )
    execution.run()
    [ours] = server.created_rows("a")
    assert results_seen[0] == Unfinished(
        action("a"),
        "~a-1",
        None,
        Failure(
            "duplicate_left",
            f"This run created {ours.id} as a duplicate of ~a-1 and could not revoke it. "
            "The run ended first.",
        ),
        created=False,
    )
    assert {one.failure.code for one in results_seen if isinstance(one, Unfinished)} == {
        "duplicate_left"
    }


def test_after_revoking_a_late_duplicate_the_returned_key_is_done() -> None:
    """A create that was committed late is revoked; the key that the server returned is kept."""
    server = ModelServer(fates=[LATE, MADE])
    # The server began the first create after the second one.
    server.watch = lambda: [setattr(row, "second", 99) for row in server.created_rows("a")[:1]]
    [result] = server.run(*creates("a"))
    late, returned = server.created_rows("a")
    assert result == Done(action("a"), returned.id, server.record(returned))
    assert server.revoked == [late.id]


def test_a_key_that_was_found_is_not_done_if_no_later_observation_succeeds() -> None:
    """Its id is reported, because another run's earlier key may exist."""
    server = ModelServer(fates=[LOST_AFTER], blind=frozenset(range(2, 99)))
    [result] = server.run(*creates("a"))
    [row] = server.created_rows("a")
    assert result == Unfinished(action("a"), row.id, None, UNCONFIRMED)


@pytest.mark.parametrize("role_from", [0, NEVER])
def test_every_duplicate_is_named(role_from) -> None:
    """The message lists all keys of this run beside another run's key, complete or not."""
    fates = [Fate(3, "lost"), Fate(2, "lost"), MADE]
    server = ModelServer(
        fates=fates, rows=[theirs(1, role_from=role_from)], revoking=["refused"] * 99
    )
    server.rows[0].seen_from = 3
    [result] = server.run(*creates("a"))
    ids = ", ".join(row.id for row in server.created_rows("a"))
    assert isinstance(result, Unfinished)
    assert len(server.created_rows("a")) == 3
    assert ids in result.failure.text


# --- Stopping ------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_before_it_starts_skips_everything() -> None:
    """It sends nothing and observes nothing."""
    server = ModelServer()
    server.stop.request()
    assert server.run(*creates("a", "b")) == tuple(Skipped(action(name), STOPPED) for name in "ab")
    assert (server.sent, server.observations) == ([], 0)


def test_a_stop_lets_requests_in_flight_be_resolved_and_skips_the_rest() -> None:
    """The key that was sent is observed and reported; the others were not started."""
    server = ModelServer(stop_at=1)
    first, *rest = server.run(*creates("a", "b", "c"))
    assert isinstance(first, Done)
    assert rest == [Skipped(action("b"), STOPPED), Skipped(action("c"), STOPPED)]
    assert (len(server.sent), server.observations) == (1, 1)


@pytest.mark.parametrize("stop_at", [3, 4])
def test_after_a_stop_nothing_is_sent_again(stop_at) -> None:
    """After a stop in a wait or an observation, two observations follow; the outcome is unknown."""
    server = ModelServer(fates=[LOST_BEFORE], stop_at=stop_at)
    assert server.run(*creates("a")) == (Failed(action("a"), unknown(LOST)),)
    assert len(server.sent) == 1


def test_a_key_whose_answer_was_lost_is_not_reported_as_never_started() -> None:
    """The stop comes before its second try: the first outcome is still unknown."""
    server = ModelServer(fates=[LOST_BEFORE] * 2, stop_at=8)
    _, second = server.run(*creates("a", "b"))
    assert second == Failed(action("b"), unknown(LOST))


def test_a_result_can_be_read_while_the_request_is_in_flight() -> None:
    """It is skipped before the request, unknown while the request is in flight, and then done."""
    server = ModelServer()
    execution = server.execution(*creates("a", "b"))
    results_seen: list[tuple[Result, ...]] = []
    server.watch = lambda: results_seen.append(execution.context.progress.executed().results)
    skipped = tuple(Skipped(action(name), STOPPED) for name in "ab")
    in_flight = [Failed(action(name), unknown(IN_FLIGHT)) for name in "ab"]
    assert execution.context.progress.executed() == Executed(
        part_with(action("a"), action("b")), skipped
    )
    execution.run()
    done = execution.context.progress.executed().results
    assert results_seen[:4] == [
        (in_flight[0], skipped[1]),
        (in_flight[0], skipped[1]),
        (done[0], in_flight[1]),
        (done[0], in_flight[1]),
    ]
    assert results_seen[4:] == [done] * 2


def test_a_bug_that_ends_a_run_is_the_failure_of_unresolved_creates() -> None:
    """Known results do not change, and a refusal keeps its own message."""
    bug = Failure("internal_error", "A bug.")
    server = ModelServer(fates=[MADE, REJECTED, LOST_BEFORE], blind=frozenset(range(99)))
    execution = server.execution(*creates("a", "b", "c"))
    execution.run()
    first, second, third = execution.context.progress.executed(bug).results
    assert isinstance(first, Unfinished)
    assert second == Failed(action("b"), REFUSED)
    assert third == Failed(action("c"), bug)
    assert server.execution(*creates("a")).context.progress.executed(bug).results == (
        Failed(action("a"), bug),
    )


# --- Whatever happens ----------------------------------------------------------------------------


def check_so_far(server: ModelServer, executed: Executed) -> None:
    """Check that the results, at any time, are true of the server."""
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
                assert not server.created_rows(name)
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
    """Check that after the run each name that was sent has one live key, the one in its result."""
    for result in executed.results:
        name = result.action.name
        says = {fate.says for key, fate in server.sent if key.name == name}
        new = server.new(name)
        ours = [row for row in new if row.owner is server]
        code = result.failure.code if isinstance(result, Unfinished) else None
        left = code == "duplicate_left"
        complete = (
            not new or new[0].role_from <= server.last_observation or server.generation == "legacy"
        )
        sent = bool(says - {"rejected", "not sent"})
        if isinstance(result, Done | CreatedByAnotherRun):
            assert new[0].id == result.id
            assert complete
            assert result.record is not None or len(server.read) == 3
        else:
            assert left or not new or not complete or not sent or code == "not_settled"
        if left:
            assert server.revoking == REVOKING_FAILS or server.stop.requested
        elif complete and code != "not_settled":
            assert [row for row in ours if row.revoked_from == NEVER] in ([], new[:1])
        if isinstance(result, Failed) and result.failure.code == "outcome_unknown":
            assert server.observations >= 8 or server.stop.requested


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
def test_results_are_true_and_nothing_is_created_twice_whatever_happens(server, names) -> None:
    """This covers random scripts, and the model itself rejects what a run must never do.

    That is: to send a key again unless an observation did not show it, to start a create after a
    stop, and to revoke a key of others or the one to keep.
    """
    server.rows.append(Row("old", "a", -1, revoked_from=0))
    execution = server.execution(*creates(*names))
    server.watch = lambda: check_so_far(server, execution.context.progress.executed())
    execution.run()
    executed = execution.context.progress.executed()
    check_so_far(server, executed)
    assert [one.action.name for one in executed.results] == names
    assert server.observations <= 8 * len(names) + 8
    assert len(server.calls) <= 8 * len(names) + 1
    if server.observed_since_last_send:
        check_at_the_end(server, executed)
    assert server.settled <= len(names)


@settings(max_examples=200)
@given(server=servers("legacy", LEGACY_FATES))
def test_an_id_changes_only_after_it_was_taken_in_a_request_of_its_own(server) -> None:
    """It does not change after a lost answer, or after a refusal that may be due to another key."""
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
    cut_at=st.integers(1, 30),
)
def test_of_two_runs_at_once_one_key_of_each_name_is_kept_and_both_report_it(
    generation, fates, cut_at
) -> None:
    """The complete second run takes place at some event of the first one."""
    rows, clock = list[Row](), Clock()
    first = ModelServer(generation=generation, fates=fates[0], rows=rows, clock=clock)
    second = ModelServer(
        generation=generation, fates=fates[1], rows=rows, run_marker=RunMarker(9), clock=clock
    )
    reports: list[tuple[Result, ...]] = []

    def cut_in() -> None:
        if len(first.events) == cut_at:
            reports.append(second.run(*creates(*NAMES)))

    first.watch = cut_in
    reports.append(first.run(*creates(*NAMES)))
    if len(reports) == 1:
        reports.append(second.run(*creates(*NAMES)))
    live = {row.name: row.id for row in rows if row.revoked_from == NEVER}
    assert len(live) == sum(row.revoked_from == NEVER for row in rows) == len(NAMES)
    for report in reports:
        assert {one.action.name: one.id for one in report} == live
