"""The current one of several live keys of a name: rule 0, case by case and over all cases."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from builders import (
    DAY,
    NOW,
    WORKER,
    desired_key,
    environment_with,
    file_sink,
    github_sink,
    observation_with,
    observed_key,
    rotation_with,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from provisioner.model.expiry import ExpiresAfter, ExpiresAt
from provisioner.model.observed import KnownRoles, ObservedKey
from provisioner.model.sink_content import ApiKeyToken, NoToken, Unreadable
from provisioner.plan import (
    Deliver,
    Duplicate,
    Revoke,
    Rotate,
    classify_live_keys,
    plan_environment,
)
from provisioner.sinks.github import GithubAddress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.model.key import DesiredKey
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan import Planned

pytestmark = pytest.mark.fast

RUN_MARKER = timedelta(milliseconds=417)
SHOP = environment_with(owns=("svc-*",))
FILE = file_sink()
OTHER = file_sink("b.env", "B")
GITHUB = github_sink()
ROTATED_BEFORE = 10 * DAY
ROTATED = desired_key("svc-a", FILE, role="Worker", rotation=rotation_with(ROTATED_BEFORE))
UNROTATED = ROTATED._replace(rotation=None)


def key(
    id_: str, created: float, expires: float, *, run_marker: timedelta = RUN_MARKER
) -> ObservedKey:
    """Return a key with its create and its expiry in days from now."""
    return observed_key(
        id=id_, expires_at=NOW + expires * DAY + run_marker, created_at=NOW + created * DAY
    )


REVIEWED = key("reviewed", -30, 60)
"""Delivered, and not due for a long time."""

DUE = key("due", -85, 5)
"""Due for rotation for five days."""

SUCCESSOR = key("successor", -4, 86)
"""Created by a run for the due key."""

MANUAL = key("by-hand", -4, 1500, run_marker=timedelta(0))
"""Created by a person four days ago."""


def classify(
    live: Sequence[ObservedKey], *sink_contents: SinkContent, desired: DesiredKey | None = ROTATED
) -> tuple[str, list[str], list[str]]:
    """Return the ids of the current key, of its predecessors and of duplicates."""
    found = classify_live_keys(
        desired, sorted(live, key=lambda one: one.creation_order), sink_contents
    )
    return (
        found.current.id,
        [one.id for one in found.predecessors],
        [one.id for one in found.duplicates],
    )


def planned(
    observed: Sequence[ObservedKey],
    *sink_contents: SinkContent,
    desired: DesiredKey = ROTATED,
    now: datetime = NOW,
) -> Planned:
    observation = observation_with(*observed, roles=KnownRoles((WORKER,)), server_time=now)
    return plan_environment(
        SHOP,
        [desired],
        observation,
        now,
        sink_contents=dict(zip(desired.deliver, sink_contents, strict=True)),
    )


@pytest.mark.parametrize("desired", [ROTATED, UNROTATED, None])
@pytest.mark.parametrize(
    "sink_contents", [ApiKeyToken("REVIEWED", None), NoToken(), Unreadable(NOW)]
)
def test_a_key_created_by_hand_replaces_no_key(desired, sink_contents) -> None:
    """The content of the sink, the rotation and the manifest make no difference."""
    live = (REVIEWED, MANUAL)
    assert classify(live, sink_contents, desired=desired) == ("reviewed", [], ["by-hand"])


def test_the_newest_key_with_a_token_in_a_sink_is_the_current_one() -> None:
    """Any sink counts; an older key is a predecessor only if it was due."""
    live = (REVIEWED, MANUAL)
    for desired in (ROTATED, UNROTATED):
        found = classify(
            live, ApiKeyToken("reviewed", None), ApiKeyToken("by-hand", None), desired=desired
        )
        assert found == ("by-hand", [], ["reviewed"])


def test_a_successor_follows_the_key_that_was_due_when_it_was_created() -> None:
    """If it is not delivered yet, the next plan delivers it."""
    for sink_contents in (
        ApiKeyToken("due", None),
        ApiKeyToken("successor", None),
        NoToken(),
        Unreadable(NOW),
    ):
        assert classify((DUE, SUCCESSOR), sink_contents) == ("successor", ["due"], [])
    assert classify((DUE, SUCCESSOR), desired=UNROTATED) == ("due", [], ["successor"])


def test_a_key_created_by_hand_while_another_is_due_is_not_its_successor() -> None:
    """It lacks the milliseconds of a run, or has an expiry that no plan since then would set."""
    irregular = key("irregular", -4, 30)
    early = key("early", -4, 84.9)
    for one in (MANUAL, irregular, early):
        assert classify((DUE, one), ApiKeyToken("due", None)) == ("due", [], [one.id])
        assert classify((DUE, one, SUCCESSOR)) == ("successor", ["due"], [one.id])


def test_a_successor_may_have_the_lifetime_of_the_manifest_before_a_change() -> None:
    """The lifetime of the older key counts as well as that of the manifest, in whole hours."""
    shorter = ROTATED._replace(expiry=ExpiresAfter(30 * DAY, "30d"))
    assert classify((DUE, SUCCESSOR), desired=shorter) == ("successor", ["due"], [])
    irregular = replace(DUE, created_at=DUE.created_at + timedelta(minutes=30))
    assert classify((irregular, SUCCESSOR), desired=shorter) == ("due", [], ["successor"])
    new = key("new", -4, 26)
    assert classify((DUE, new), desired=shorter) == ("new", ["due"], [])
    assert classify((DUE, new)) == ("due", [], ["new"])


MICROSECOND = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("moved", "is_successor"),
    [
        (-DAY - MINUTE, True),
        (-DAY - MINUTE - MICROSECOND, False),
        (MINUTE, True),
        (MINUTE + MICROSECOND, False),
    ],
    ids=["earliest", "too early", "latest", "too late"],
)
def test_the_expiry_of_a_successor_counts_from_a_plan_after_the_key_was_due(
    moved, is_successor
) -> None:
    """The plan was made from when the key became due until the create, give or take a minute."""
    created = SUCCESSOR.created_at + RUN_MARKER
    irregular = DUE.created_at + timedelta(minutes=30)
    due = replace(DUE, created_at=irregular, expires_at=created - DAY + ROTATED_BEFORE)
    one = replace(SUCCESSOR, created_at=created, expires_at=created + 90 * DAY + moved)
    assert classify((due, one)) == (
        (one.id, ["due"], []) if is_successor else ("due", [], [one.id])
    )


@pytest.mark.parametrize(
    ("lifetime", "counts"),
    [
        (90 * DAY - timedelta(minutes=10), True),
        (90 * DAY - timedelta(minutes=10) - MICROSECOND, False),
        (90 * DAY + MINUTE, True),
        (90 * DAY + MINUTE + MICROSECOND, False),
        (90 * DAY + timedelta(minutes=5), False),
    ],
)
def test_an_older_lifetime_counts_if_a_manifest_can_have_set_it(lifetime, counts) -> None:
    """It is whole hours, up to ten minutes less for the plan and up to a minute more for clocks."""
    shorter = ROTATED._replace(expiry=ExpiresAfter(30 * DAY, "30d"))
    due = replace(DUE, created_at=DUE.expires_at - lifetime)
    one = replace(SUCCESSOR, expires_at=SUCCESSOR.created_at + lifetime - MINUTE + RUN_MARKER)
    assert classify((due, one), desired=shorter) == (
        (one.id, ["due"], []) if counts else ("due", [], [one.id])
    )


@pytest.mark.parametrize(
    ("planned_before", "by_run"),
    [
        (-MINUTE, True),
        (-MINUTE - MICROSECOND, False),
        (DAY, True),
        (DAY + MICROSECOND, False),
    ],
)
def test_a_run_creates_a_key_at_most_a_day_after_its_plan(planned_before, by_run) -> None:
    """Of two older keys the one whose lifetime counts from such a plan is the predecessor."""
    brief = key("brief", -10, 1)
    expires_at = NOW + 5 * DAY + RUN_MARKER
    due = replace(DUE, expires_at=expires_at, created_at=expires_at - 90 * DAY + planned_before)
    found = classify((due, brief, SUCCESSOR), ApiKeyToken("successor", None))
    assert found == ("successor", *((["due"], ["brief"]) if by_run else (["due", "brief"], [])))


@pytest.mark.parametrize(("seconds", "is_successor"), [(0, True), (60, True), (61, False)])
def test_a_key_counts_as_due_within_the_minute_by_which_clocks_may_differ(
    seconds, is_successor
) -> None:
    """The server's clock dates the create, this machine's clock the expiry."""
    older = replace(DUE, expires_at=SUCCESSOR.created_at + timedelta(days=10, seconds=seconds))
    found = classify((older, SUCCESSOR))
    assert found == (("successor", ["due"], []) if is_successor else ("due", [], ["successor"]))


def test_a_second_successor_is_a_duplicate() -> None:
    """Of two keys created for the same one, only the first is its successor."""
    second = replace(SUCCESSOR, id="second", created_at=SUCCESSOR.created_at + timedelta(seconds=1))
    assert classify((DUE, SUCCESSOR, second), ApiKeyToken("due", None)) == (
        "successor", ["due"], ["second"],
    )  # fmt: skip
    assert classify((DUE, SUCCESSOR, second), ApiKeyToken("second", None)) == (
        "second",
        ["due"],
        ["successor"],
    )


def test_a_key_that_existed_before_the_manifest_is_adopted() -> None:
    """The only live key of a name is the current one, and a run delivers its token."""
    assert classify((MANUAL,)) == ("by-hand", [], [])
    [action] = planned([MANUAL], NoToken()).actions
    assert isinstance(action, Deliver)
    assert action.key_id == "by-hand"


def test_a_key_created_by_hand_is_kept_when_the_reviewed_one_gets_a_successor() -> None:
    """It is older than the successor but was never the current key, so it is not a predecessor."""
    live = (replace(DUE, created_at=NOW - 86 * DAY), replace(MANUAL, created_at=NOW - 20 * DAY))
    found = classify((*live, SUCCESSOR), ApiKeyToken("successor", None))
    assert found == ("successor", ["due"], ["by-hand"])
    plan = planned((*live, SUCCESSOR), ApiKeyToken("successor", None))
    assert [one.key_id for one in plan.actions if isinstance(one, Revoke)] == ["due"]
    assert [type(one) for one in plan.findings] == [Duplicate]


def test_of_several_older_keys_that_were_due_those_of_a_run_are_the_predecessors() -> None:
    """A key created by hand that expires soon is only a predecessor if there is no other one."""
    brief = key("brief", -10, 1)
    assert classify((DUE, brief, SUCCESSOR), ApiKeyToken("successor", None)) == (
        "successor", ["due"], ["brief"],
    )  # fmt: skip
    assert classify((brief, SUCCESSOR), ApiKeyToken("successor", None)) == (
        "successor",
        ["brief"],
        [],
    )
    dated = ROTATED._replace(expiry=ExpiresAt(NOW + 90 * DAY, "2027-02-21"))
    irregular = (replace(DUE, expires_at=NOW + 5 * DAY), brief, SUCCESSOR)
    for desired in (dated, ROTATED):
        found = classify(irregular, ApiKeyToken("successor", None), desired=desired)
        assert found == ("successor", ["due", "brief"], [])


def test_a_requested_rotation_is_a_finding_until_the_old_key_counts_as_due() -> None:
    """After an interruption the finding has the command; a delivery shortens the old key."""
    requested = key("requested", -3, 87)
    plan = planned((REVIEWED, requested), ApiKeyToken("reviewed", None))
    assert plan.actions == ()
    [finding] = plan.findings
    assert isinstance(finding, Duplicate)
    assert "`provision rotate svc-a`" in finding.message
    shortened = replace(REVIEWED, expires_at=NOW - 3 * DAY + 10 * DAY + RUN_MARKER)
    for sink_contents in (ApiKeyToken("requested", None), Unreadable(NOW - 2.5 * DAY)):
        plan = planned((shortened, requested), sink_contents)
        assert [one.key_id for one in plan.actions if isinstance(one, Revoke)] == ["reviewed"]


@pytest.mark.parametrize("hours", [-50, -1, 0, 1, 50])
def test_a_key_created_by_hand_is_reported_and_never_delivered(hours) -> None:
    """The plan stays the same from two days before until two days after."""
    now = NOW + timedelta(hours=hours)
    for sink_contents in (ApiKeyToken("reviewed", None), Unreadable(NOW - 20 * DAY)):
        plan = planned((REVIEWED, MANUAL), sink_contents, now=now)
        assert plan.actions == ()
        assert plan.kept == ("svc-a",)
        [finding] = plan.findings
        assert isinstance(finding, Duplicate)
        assert (finding.key_id, finding.ids) == ("reviewed", ("reviewed", "by-hand"))


@pytest.mark.parametrize(
    ("minutes", "reason"), [(0, None), (10, None), (10.1, "token_unproven"), (2950, None)]
)
def test_a_timestamp_that_proves_no_delivery_needs_another_write(minutes, reason) -> None:
    """Not right after the create, and only if an older key is kept until the delivery is proven."""
    created = NOW - timedelta(minutes=minutes)
    old = replace(DUE, created_at=created - 80 * DAY, expires_at=created + 10 * DAY)
    new = replace(SUCCESSOR, created_at=created, expires_at=created + 90 * DAY + RUN_MARKER)
    desired = ROTATED._replace(deliver=(GITHUB,))
    written = created + (timedelta(minutes=30) if minutes > 100 else timedelta(seconds=2))
    plan = planned((old, new), Unreadable(written), desired=desired)
    delivered = [one for one in plan.actions if isinstance(one, Deliver)]
    assert [(one.reason, one.key_id) for one in delivered] == [(reason, "successor")] * bool(reason)
    assert any(isinstance(one, Revoke) for one in plan.actions) is (minutes > 100)
    assert planned((new,), Unreadable(written), desired=desired).actions == ()


def test_a_timestamp_that_never_proves_a_delivery_keeps_the_old_key() -> None:
    """The finding for an organisation's secret names both keys; later runs revoke neither."""
    desired = ROTATED._replace(deliver=(GithubAddress("acme", "A"),))
    plan = planned((DUE, SUCCESSOR), Unreadable(NOW, only_writes=False), desired=desired)
    assert plan.actions == ()
    messages = [one.message for one in plan.findings]
    assert any("the older key due is kept until it expires" in one for one in messages)
    plan = planned((SUCCESSOR,), Unreadable(NOW, only_writes=False), desired=desired)
    assert plan.actions == ()
    assert [one.ids for one in plan.findings] == [("successor",)]


EXPIRIES = st.one_of(st.floats(-2, 100), st.sampled_from((86.0, 5.0, 60.0)))
KEYS = st.builds(
    lambda created, expires, run_marker: (created, expires, run_marker),
    st.floats(-100, 0),
    EXPIRIES,
    st.sampled_from((timedelta(0), RUN_MARKER)),
)


@given(
    st.lists(KEYS, min_size=1, max_size=5),
    st.lists(st.sampled_from(("k0", "k1", "k2", "gone", "")), max_size=2),
    st.sampled_from((ROTATED, UNROTATED)),
)
def test_each_live_key_is_current_a_predecessor_or_a_duplicate(drawn, token_ids, desired) -> None:
    """A newer key replaces a delivered one only if that was due when the newer key was created."""
    live = [key(f"k{number}", *one[:2], run_marker=one[2]) for number, one in enumerate(drawn)]
    live = [one for one in live if one.live(NOW)]
    assume(live)
    sink_contents = [ApiKeyToken(one, None) if one else NoToken() for one in token_ids]
    current, predecessors, duplicates = classify(live, *sink_contents, desired=desired)
    assert sorted([current, *predecessors, *duplicates]) == sorted(one.id for one in live)
    by_id = {one.id: one for one in live}
    ordered = sorted(live, key=lambda one: one.creation_order)
    delivered = [one for one in ordered if one.id in token_ids]
    start = delivered[-1] if delivered else ordered[0]
    if current != start.id:
        assert desired.rotation is not None
        assert by_id[current].creation_order > start.creation_order
        due = start.expires_at - desired.rotation.before
        assert due <= by_id[current].created_at + timedelta(minutes=1)
        assert by_id[current].expires_at.microsecond
    for one in predecessors:
        assert by_id[one].creation_order < by_id[current].creation_order
    if desired is UNROTATED:
        assert predecessors == []


def test_a_due_key_gets_a_successor_even_beside_a_key_created_by_hand() -> None:
    """The long lifetime of the other key does not postpone the rotation."""
    long = key("long", -1, 3000, run_marker=timedelta(0))
    plan = planned((DUE, long), ApiKeyToken("due", None))
    [rotate] = plan.actions
    assert isinstance(rotate, Rotate)
    assert rotate.predecessors == ("due",)
