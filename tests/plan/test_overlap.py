"""A plan announces the revocations that a later run carries out by itself, and no others."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from builders import (
    DAY,
    NOW,
    SECOND,
    WORKER,
    command_sink,
    desired_key,
    environment_with,
    file_sink,
    github_sink,
    observation_with,
    observed_key,
    rotation_with,
)
from hypothesis import given
from hypothesis import strategies as st

from provisioner.audit.key_audit import AuditInput, audit
from provisioner.errors.failure import Failure
from provisioner.execution import Done, Executed, Failed, Skipped, Unfinished
from provisioner.model.observed import KnownRoles
from provisioner.model.sink_content import ApiKeyToken, NoToken, Unavailable, Unreadable
from provisioner.plan import (
    Deliver,
    Planned,
    PlanOptions,
    Revoke,
    Rotate,
    Upcoming,
    block_actions,
    plan_environment,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent

pytestmark = pytest.mark.fast

SHOP = environment_with(role="Worker", owns=("svc-*",))
FILE, GITHUB = file_sink(), github_sink()
HOUR = timedelta(hours=1)
FAILURE = Failure("sink_unavailable", "No.")
KEY = desired_key("svc-a", FILE, rotation=rotation_with())
"""Rotated ten days before its expiry, with an overlap of 48 hours."""


def key(number: int, age: timedelta, left: timedelta) -> ObservedKey:
    ends = NOW + left + timedelta(milliseconds=417)
    return observed_key("svc-a", number, created_at=NOW - age, expires_at=ends)


OLD, NEW = key(1, 81 * DAY, 9 * DAY), key(2, DAY, 89 * DAY)
"""A predecessor, and the successor that was created a day ago."""


def token(issued: timedelta = DAY) -> ApiKeyToken:
    return ApiKeyToken(NEW.id, NEW.expires_at.replace(microsecond=0), NOW - issued)


def planned(
    contents: Mapping[Address, SinkContent],
    *keys: ObservedKey,
    desired: DesiredKey = KEY,
    environment: Environment = SHOP,
    now: timedelta = timedelta(0),
    own_key: str | None = None,
    **options: Any,
) -> Planned:
    observation = observation_with(
        *(keys or (OLD, NEW)),
        roles=KnownRoles((WORKER,)),
        server_time=NOW + now,
        own_key=own_key,
    )
    choices = PlanOptions(**options)
    return plan_environment(
        environment, [desired], observation, NOW + now, choices, sink_contents=contents
    )


def announced(key_id: str = OLD.id, **changes: Any) -> Upcoming:
    return Upcoming("svc-a", key_id, None, 48)._replace(**changes)


def test_a_revocation_is_announced_until_its_overlap_is_over() -> None:
    """Its time counts from the delivery to the last sink; the hours are rounded."""
    both = KEY._replace(deliver=(FILE, GITHUB))
    contents = {FILE: token(), GITHUB: Unreadable(NOW - 16 * HOUR + 30 * SECOND)}
    plan = planned(contents, desired=both)
    at = NOW + 32 * HOUR + 30 * SECOND
    assert plan.upcoming == (announced(at=at, hours_left=32),)
    assert plan.actions == ()
    soon = planned(contents, desired=both, now=32 * HOUR)
    assert soon.upcoming == (announced(at=at, hours_left=1),)


@given(st.integers(0, 47 * 3600), st.integers(0, 200 * 3600))
def test_what_is_announced_is_done_by_the_first_run_after_that_time(issued, later) -> None:
    """Until then every plan announces the same time; from then on, the plan revokes the key."""
    contents = {FILE: token(issued * SECOND)}
    [first] = planned(contents).upcoming
    assert first.at is not None
    plan = planned(contents, now=later * SECOND)
    revoked = [one.key_id for one in plan.actions if isinstance(one, Revoke)]
    if later * SECOND < first.at - NOW:
        assert [one.at for one in plan.upcoming] == [first.at]
        assert revoked == []
    else:
        assert (plan.upcoming, revoked) == ((), [OLD.id])


@pytest.mark.parametrize(
    ("content", "waits_for"),
    [
        (NoToken(), "delivery"),
        (ApiKeyToken(OLD.id, OLD.expires_at), "delivery"),
        (Unreadable(NOW - 3 * DAY), "delivery"),
        (Unavailable(FAILURE), "proof"),
    ],
)
def test_without_a_proven_delivery_no_time_is_invented(content, waits_for) -> None:
    """The plan says what the time depends on: a delivery, or the proof of one."""
    assert planned({FILE: content}).upcoming == (announced(waits_for=waits_for),)


def test_a_time_that_a_write_in_the_same_minute_may_have_set_proves_nothing() -> None:
    """For ten minutes nothing is to be done; then the token is written again."""
    young = replace(NEW, created_at=NOW - 5 * 60 * SECOND)
    content = {FILE: Unreadable(young.created_at)}
    plan = planned(content, OLD, young)
    assert (plan.actions, plan.upcoming) == ((), (announced(waits_for="proof"),))
    [again] = planned(content, OLD, young, now=HOUR).actions
    assert isinstance(again, Deliver)
    assert planned(content, OLD, young, now=HOUR).upcoming == (announced(waits_for="delivery"),)


def test_a_redelivery_starts_the_overlap_again() -> None:
    """Even if it was over: the tokens of the plan are not delivered yet."""
    plan = planned({FILE: token()}, now=10 * HOUR, redeliver=True)
    assert [type(one) for one in plan.actions] == [Deliver]
    assert plan.upcoming == (announced(waits_for="delivery"),)


@pytest.mark.parametrize(
    ("contents", "changes"),
    [
        pytest.param({FILE: token()}, {"environment": environment_with()}, id="not owned"),
        pytest.param(
            {FILE: token()},
            {"environment": environment_with(owns=("*",), ignore=("svc-*",))},
            id="ignored",
        ),
        pytest.param({FILE: token()}, {"own_key": OLD.id}, id="the run's own key"),
        pytest.param(
            {FILE: token()},
            {"desired": KEY._replace(rotation=rotation_with(overlap=11 * DAY))},
            id="expires before",
        ),
        pytest.param({}, {"desired": KEY._replace(deliver=())}, id="no sink"),
        pytest.param({FILE: Unreadable(None)}, {}, id="a sink without a time"),
        pytest.param({FILE: Unreadable(NOW, only_writes=False)}, {}, id="a time that says nothing"),
    ],
)
def test_a_key_that_no_run_will_revoke_is_not_announced(contents, changes) -> None:
    """It is kept, or it expires first."""
    assert planned(contents, **changes).upcoming == ()


def test_a_rotation_announces_the_end_of_the_key_that_it_replaces() -> None:
    """The overlap starts when its successor is delivered; with --now there is none."""
    due = key(1, 81 * DAY, 9 * DAY)
    contents = {FILE: ApiKeyToken(due.id, due.expires_at)}
    plan = planned(contents, due)
    assert [type(one) for one in plan.actions] == [Rotate]
    assert plan.upcoming == (announced(due.id, waits_for="delivery"),)
    asked = {"rotate": frozenset({"svc-a"})}
    assert planned(contents, due, **asked).upcoming == plan.upcoming
    assert planned(contents, due, **asked, at_once=True).upcoming == ()
    unproven = KEY._replace(deliver=(FILE, command_sink()))
    assert planned(contents, due, desired=unproven).upcoming == ()
    long = KEY._replace(rotation=rotation_with(overlap=10 * DAY))
    assert planned(contents, due, desired=long, **asked).upcoming == ()
    assert block_actions(plan, {FILE: FAILURE}).upcoming == ()


def test_a_result_announces_what_its_deliveries_leave() -> None:
    """A rotation that was delivered has a time; without its successor nothing ends the old key."""
    due = key(1, 81 * DAY, 9 * DAY)
    contents = {FILE: ApiKeyToken(due.id, due.expires_at)}
    plan = planned(contents, due)
    [action] = plan.actions
    asked = planned(contents, due, rotate=frozenset({"svc-a"}))
    [requested] = asked.actions
    assert isinstance(action, Rotate)
    assert isinstance(requested, Rotate)
    done = Executed.of(plan, [Done(action, "new", None)], {"svc-a": NOW + HOUR})
    assert done.upcoming == (announced(due.id, at=NOW + 49 * HOUR, hours_left=48),)
    for result, waits_for in (
        (Done(action, "new", None), "proof"),
        (Unfinished(action, "new", None, FAILURE), "delivery"),
    ):
        assert Executed.of(plan, [result]).upcoming == (announced(due.id, waits_for=waits_for),)
    for part, lost in (
        (plan, Failed(action, FAILURE)),
        (plan, Skipped(action, FAILURE)),
        (asked, Unfinished(requested, "new", None, FAILURE)),
    ):
        assert Executed.of(part, [lost]).upcoming == ()


def test_a_result_keeps_what_was_already_announced() -> None:
    """A delivery that failed is still waited for, and one that was made has a time."""
    running = planned({FILE: token()})
    assert Executed.of(running, []).upcoming == running.upcoming
    waiting = planned({FILE: NoToken()})
    [action] = waiting.actions
    assert Executed.of(waiting, [Failed(action, FAILURE)]).upcoming == waiting.upcoming
    delivered = Executed.of(waiting, [Done(action, NEW.id, None)], {"svc-a": NOW})
    assert [one.at for one in delivered.upcoming] == [NOW + 48 * HOUR]


@pytest.mark.parametrize("content", [token(), NoToken(), Unavailable(FAILURE)])
def test_a_report_announces_what_a_plan_announces(content) -> None:
    """The two see the same keys and sinks; a report also says what the next apply revokes."""
    observation = observation_with(OLD, NEW, roles=KnownRoles((WORKER,)))
    one = AuditInput(SHOP, (KEY,), observation, {FILE: content})
    [found] = audit([one], NOW, DAY).observed
    assert found.upcoming == planned({FILE: content}).upcoming
    later = replace(observation, server_time=NOW + 2 * DAY)
    [over] = audit([replace(one, observation=later)], NOW, DAY).observed
    if isinstance(content, ApiKeyToken):
        assert over.upcoming == (announced(at=NOW + DAY, hours_left=0),)
    foreign = replace(one, environment=environment_with())
    assert audit([foreign], NOW, DAY).observed[0].upcoming == ()
