"""What is left of a plan whose worker was lost, and what the report says about it."""

from __future__ import annotations

import pytest
from builders import (
    clean,
    create,
    deliver,
    file_sink,
    observation_with,
    observed_key,
    part_with,
    rename,
    revoke,
    rotate,
)
from builders import update as update_of

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.execution import Done, Executed, Failed, Unfinished
from provisioner.plan import Upcoming
from provisioner.reconcile.recovery import all_failed, may_replace, recovered

pytestmark = pytest.mark.fast

FAILURE = Failure(Code.SINK_UNAVAILABLE, "The sink does not answer.")


def test_the_rest_of_a_lost_plan_may_be_carried_out() -> None:
    """A key that the lost worker created may still need its token."""
    lost = part_with(
        *(create("svc-a"), create("svc-b"), update_of("svc-c"), revoke("svc-d")),
        *(rename("svc-e"), rename("svc-f"), clean("svc-d"), clean("svc-d", file_sink("2.env"))),
    )
    left = (create("svc-b"), deliver("svc-a"), revoke("svc-d"), rename("svc-f"), clean("svc-d"))
    assert may_replace(lost, part_with(*left))
    assert may_replace(lost, part_with())


@pytest.mark.parametrize(
    ("lost", "again"),
    [
        (create("svc-a"), create("svc-b")),
        (create("svc-a"), revoke("svc-a")),
        (revoke("svc-a"), revoke("svc-a", key_id="another")),
        (rename("svc-a"), rename("svc-a", key_id="another")),
        (rename("svc-a"), create("svc-a")),
        (clean("svc-a"), clean("svc-a", file_sink("another.env"))),
        (deliver("svc-a"), create("svc-a")),
        (create("svc-a", blocked=FAILURE), create("svc-a")),
    ],
)
def test_nothing_is_done_that_the_lost_plan_did_not_contain(lost, again) -> None:
    """The guards, a person or a plan file have agreed to that plan alone."""
    assert not may_replace(part_with(lost), part_with(again))


def test_a_lost_rotation_is_not_repeated() -> None:
    """A new plan may not know the successor, and would create another one."""
    assert not may_replace(part_with(rotate()), part_with())


def test_the_report_counts_what_the_lost_worker_did() -> None:
    """Whatever the new plan no longer contains was done, and the rest is as it ended."""
    lost = part_with(
        *(create("svc-a"), create("svc-b"), create("svc-c"), update_of("svc-d")),
        *(revoke("svc-e"), rename("svc-f"), clean("svc-e")),
    )
    failed = Failed(create("svc-b"), FAILURE)
    undelivered = Failed(deliver("svc-c"), FAILURE)
    later = (Upcoming("svc-f", "1", None, 48, None, "proof"),)
    actions = create("svc-b"), deliver("svc-c")
    again = Executed.of(part_with(*actions, upcoming=later), (failed, undelivered))
    observation = observation_with(observed_key("svc-a"), observed_key("svc-c"))
    assert recovered(lost, again, observation) == Executed(
        lost,
        (
            Done(create("svc-a"), "id-svc-a-1", None),
            failed,
            Unfinished(create("svc-c"), "old-svc-c", None, FAILURE),
            Done(update_of("svc-d"), "old-svc-d", None),
            Done(revoke("svc-e"), "old-svc-e", None),
            Done(rename("svc-f"), "old-svc-f", None),
            Done(clean("svc-e"), "old-svc-e", None),
        ),
        upcoming=later,
    )


def test_a_key_that_the_lost_worker_created_and_the_new_one_delivered_is_created() -> None:
    """The run as a whole did all of it."""
    lost, again = part_with(create("svc-a")), part_with(deliver("svc-a"))
    observation = observation_with(observed_key("svc-a", id="old-svc-a"))
    executed = Executed(again, (Done(deliver("svc-a"), "old-svc-a", None),))
    assert recovered(lost, executed, observation).results == (
        Done(create("svc-a"), "old-svc-a", None),
    )


def test_a_lost_plan_of_which_nothing_is_known_has_failed() -> None:
    """An action that could not have been started keeps its own failure."""
    blocked = create("svc-b", blocked=FAILURE)
    gone = Failure(Code.WORKER_LOST, "The worker was lost.")
    lost = part_with(create("svc-a"), blocked)
    assert all_failed(lost, gone).results == (
        Failed(create("svc-a"), gone),
        Failed(blocked, FAILURE),
    )
